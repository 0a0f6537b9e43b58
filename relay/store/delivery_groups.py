"""Deliveries counted in groups: the newest SCANNED, so the cost does not depend on the size of the table."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection

from relay.core.delivery import DeliveryGroup
from relay.core.records import Groups
from relay.store.statements import Sql, run, sql
from relay.store.tables import LISTED_DELIVERY

SCANNED = 50_000
DAY_SECONDS = 86_400

# One index each, newest first; further filters are applied row by row.
_OF_STATE: Mapping[str, str] = {
    "pending": LISTED_DELIVERY,
    **{state: f"state = '{state}'" for state in ("delivered", "dead", "cancelled", "uncertain")},
}
_OF_SUBSCRIPTION = "subscription_id = :subscription_id"
_OF_OWNER = "owner = :owner"
_COLUMNS = ("reason", "subscription_id", "day")


def _conditions(
    state: str | None, subscription_id: str | None, event_id: str | None, owner: str | None = None
) -> tuple[str, list[str]]:
    """The clause that selects the newest rows, and the conditions that they must meet to be counted."""
    if owner is not None:  # before the limit: the number of rows scanned must not depend on those of others
        newest, wanted = _conditions(state, subscription_id, event_id)
        return f"WHERE {_OF_OWNER} {newest.replace('WHERE', 'AND')}", wanted
    of_state = [] if state is None else [_OF_STATE[state]]
    of_subscription = [] if subscription_id is None else [_OF_SUBSCRIPTION]
    if event_id is not None:
        return "WHERE event_id = :event_id", of_subscription + of_state
    if state in ("dead", "cancelled", "uncertain"):  # rare, and perhaps old
        return f"WHERE {_OF_STATE[state]} ORDER BY id DESC", of_subscription
    if subscription_id is not None:
        return f"WHERE {_OF_SUBSCRIPTION} ORDER BY id DESC", of_state
    if state == "pending":
        return f"WHERE {LISTED_DELIVERY} ORDER BY id DESC", []
    return "ORDER BY id DESC", of_state


def groups_statement(
    columns: Sequence[str],
    state: str | None,
    subscription_id: str | None,
    event_id: str | None,
    owner: str | None = None,
) -> Sql:
    """The groups by these of `_COLUMNS`, largest first."""
    newest, wanted = _conditions(state, subscription_id, event_id, owner)
    shown = ", ".join(columns)
    return sql(
        f"""
SELECT {shown}, COUNT(*) AS number, MIN(created_at) AS oldest_at, MAX(created_at) AS newest_at, MAX(id) AS example_id
FROM (
  SELECT id, state, subscription_id, reason, created_at, $epoch_days(created_at) AS day FROM deliveries
  {newest} LIMIT {SCANNED}
) AS found
WHERE {" AND ".join(wanted) or "1 = 1"}
GROUP BY {shown} ORDER BY COUNT(*) DESC, {shown} LIMIT :count
"""
    )


def scanned_statement(
    state: str | None, subscription_id: str | None, event_id: str | None, owner: str | None = None
) -> str:
    """The number of rows scanned; SCANNED + 1 if there are more."""
    newest, _ = _conditions(state, subscription_id, event_id, owner)
    return f"SELECT COUNT(*) FROM (SELECT id FROM deliveries {newest} LIMIT {SCANNED + 1}) AS found"


def grouped(
    connection: Connection,
    columns: Sequence[str],
    limit: int,
    state: str | None,
    subscription_id: str | None,
    event_id: str | None,
    owner: str | None = None,
) -> Groups:
    """The largest `limit` groups."""
    chosen = [name for name in _COLUMNS if name in columns]
    given = {"subscription_id": subscription_id, "event_id": event_id, "owner": owner}
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    statement = groups_statement(chosen, state, subscription_id, event_id, owner)
    found = run(connection, statement, count=limit + 1, **values).all()
    counting = scanned_statement(state, subscription_id, event_id, owner)
    named = {name: value for name, value in values.items() if f":{name}" in counting}
    scanned = run(connection, counting, **named).scalar_one()
    items = tuple(
        DeliveryGroup(
            reason=row.reason if "reason" in chosen else None,
            subscription_id=row.subscription_id if "subscription_id" in chosen else None,
            day=row.day * DAY_SECONDS if "day" in chosen else None,
            count=row.number,
            oldest_at=row.oldest_at,
            newest_at=row.newest_at,
            example_id=row.example_id,
        )
        for row in found[:limit]
    )
    return Groups(items=items, scanned=min(scanned, SCANNED), truncated=scanned > SCANNED, more=len(found) > limit)
