"""Deliveries counted, in groups or all together: the newest SCANNED at most, whatever the size of the table."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection

from relay.core.delivery import DeliveryGroup
from relay.core.records import Groups
from relay.core.replay import ReplayCount, ReplayRequest
from relay.store.statements import Sql, json_list, run, sql
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
  {newest} LIMIT :newest
) AS found
WHERE {" AND ".join(wanted) or "1 = 1"}
GROUP BY {shown} ORDER BY COUNT(*) DESC, {shown} LIMIT :count
"""
    )


def scanned_statement(
    state: str | None, subscription_id: str | None, event_id: str | None, owner: str | None = None
) -> str:
    """The number of rows scanned; `newest` + 1 if there are more."""
    newest, _ = _conditions(state, subscription_id, event_id, owner)
    return f"SELECT COUNT(*) FROM (SELECT id FROM deliveries {newest} LIMIT :newest + 1) AS found"


def retried_statement(state: str, subscription_id: str | None, owner: str | None = None) -> Sql:
    """The number of deliveries in a state that a replay would send, of the newest ones."""
    newest, wanted = _conditions(state, subscription_id, None, owner)
    return sql(
        f"""
SELECT COUNT(*) FROM (
  SELECT id, event_id, subscription_id, state, reason, created_at FROM deliveries {newest} LIMIT :newest
) AS found JOIN events e ON e.id = found.event_id
WHERE {" AND ".join(wanted) or "1 = 1"} AND e.recorded_at >= :since AND e.recorded_at < :until
  AND (:every_type = 1 OR e.type IN $json_values(types)) AND (:reason = '' OR found.reason = :reason)
"""
    )


def retried(connection: Connection, request: ReplayRequest) -> ReplayCount:
    """How many deliveries in the state of `request.only` a replay would send."""
    values = _given(subscription_id=request.subscription_id, owner=request.owner)
    statement = retried_statement(request.only, request.subscription_id, request.owner)
    of_replay = {
        "since": request.since,
        "until": request.until,
        "every_type": int(request.types is None),
        "types": json_list(request.types or ()),
        "reason": request.reason or "",
    }
    matched = run(connection, statement, newest=SCANNED, **values, **of_replay).scalar_one()
    counting = scanned_statement(request.only, request.subscription_id, None, request.owner)
    return ReplayCount(matched=int(matched), complete=_scanned(connection, counting, SCANNED, values) <= SCANNED)


def grouped(
    connection: Connection,
    columns: Sequence[str],
    limit: int,
    newest: int,
    state: str | None,
    subscription_id: str | None,
    event_id: str | None,
    owner: str | None = None,
) -> Groups:
    """The largest `limit` groups of the `newest` deliveries."""
    chosen = [name for name in _COLUMNS if name in columns]
    values = _given(subscription_id=subscription_id, event_id=event_id, owner=owner)
    statement = groups_statement(chosen, state, subscription_id, event_id, owner)
    found = run(connection, statement, count=limit + 1, newest=newest, **values).all()
    counting = scanned_statement(state, subscription_id, event_id, owner)
    scanned = _scanned(connection, counting, newest, values)
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
    return Groups(items=items, scanned=min(scanned, newest), truncated=scanned > newest, more=len(found) > limit)


def _given(**values: str | None) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _scanned(connection: Connection, counting: str, newest: int, values: Mapping[str, Any]) -> int:
    named = {name: value for name, value in values.items() if f":{name}" in counting}
    return int(run(connection, counting, newest=newest, **named).scalar_one())
