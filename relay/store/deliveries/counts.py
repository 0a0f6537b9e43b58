"""Deliveries counted, in groups or all together: the newest SCANNED at most, whatever the size of the table."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection

from relay.core.deliveries.delivery import DeliveryGroup
from relay.core.deliveries.replay import ReplayCount, ReplayRequest
from relay.core.records import Groups
from relay.ids import least_id
from relay.store.databases.statements import Sql, json_list, run, sql
from relay.store.deliveries.delivery_pages import OF_STATE, DeliveryFilter

SCANNED = 50_000
DAY_SECONDS = 86_400

_COLUMNS = ("reason", "subscription_id", "day")
_GIVEN = ("subscription_id", "event_id", "owner", "reason")


def _conditions(wanted: DeliveryFilter) -> tuple[str, dict[str, str]]:
    """The clause that selects the newest rows, by one index, and by column the conditions that they must meet to be
    counted."""
    rest = {name: f"{name} = :{name}" for name in _GIVEN if getattr(wanted, name) is not None}
    if wanted.state is not None:
        rest["state"] = OF_STATE[wanted.state]
    rare = [] if wanted.state in (None, "delivered") else ["state"]  # rare, and perhaps old
    drivers = [next((name for name in ("event_id", *rare, "subscription_id") if name in rest), None)]
    if wanted.owner is not None:  # before the limit: the number of rows scanned must not depend on those of others
        drivers.append("owner")
    newest = {name: rest.pop(name) for name in drivers if name is not None}
    since, until = (_time(wanted, name) is not None for name in ("since", "until"))
    along = next(iter(newest), None)
    if along not in ("subscription_id", "owner"):
        times = [text for text, given in (("id >= :since", since), ("id < :until", until)) if given]
        order = "" if along == "event_id" else " ORDER BY id DESC"
        selected = " AND ".join([*newest.values(), *times])
        return (f"WHERE {selected}{order}" if selected else order.strip()), rest
    # bounds instead of an equality: see `newest_first`
    lower = f"({along}, id) >= (:{along}, :since)" if since else f"{along} >= :{along}"
    upper = f"({along}, id) < (:{along}, :until)" if until else f"{along} <= :{along}"
    checked = [f"CASE WHEN {name} IS NOT NULL THEN {name} END = :{name}" for name in newest if name != along]
    selected = " AND ".join([f"{along} IS NOT NULL", lower, upper, *checked])
    return f"WHERE {selected} ORDER BY {along} DESC, id DESC", rest


def _all(conditions: Mapping[str, str]) -> str:
    return " AND ".join(conditions.values()) or "1 = 1"


def _time(wanted: DeliveryFilter, name: str) -> str | None:
    at: float | None = getattr(wanted, name)
    return None if at is None else least_id("dlv", at)


def groups_statement(columns: Sequence[str], wanted: DeliveryFilter) -> Sql:
    """The groups by these of `_COLUMNS`, largest first."""
    newest, conditions = _conditions(wanted)
    shown = ", ".join(columns)
    return sql(
        f"""
SELECT {shown}, COUNT(*) AS number, MIN(created_at) AS oldest_at, MAX(created_at) AS newest_at, MAX(id) AS example_id
FROM (
  SELECT id, state, subscription_id, reason, created_at, $epoch_days(created_at) AS day FROM deliveries
  {newest} LIMIT :newest
) AS found
WHERE {_all(conditions)}
GROUP BY {shown} ORDER BY COUNT(*) DESC, {shown} LIMIT :count
"""
    )


def scanned_statement(wanted: DeliveryFilter) -> str:
    """The number of rows scanned; `newest` + 1 if there are more."""
    newest, _ = _conditions(wanted)
    return f"SELECT COUNT(*) FROM (SELECT id FROM deliveries {newest} LIMIT :newest + 1) AS found"


_OF_EVENTS = """
  JOIN events e ON e.id = found.event_id AND e.recorded_at >= :since AND e.recorded_at < :until
    AND (:every_type = 1 OR e.type IN $json_values(types))"""


def retried_statement(wanted: DeliveryFilter, *, of_events: bool) -> Sql:
    """The number of deliveries in a state that a replay would send, of the newest ones. `of_events`: only those with
    events of a time and of types, which costs a look at each event.
    Only the needed columns are read: without conditions an index has them all."""
    newest, conditions = _conditions(wanted)
    read = ", ".join({"id": None, **conditions, **({"event_id": None} if of_events else {})})
    return sql(
        f"""
SELECT COUNT(*) FROM (
  SELECT {read} FROM deliveries {newest} LIMIT :newest
) AS found {_OF_EVENTS if of_events else ""}
WHERE {_all(conditions)}
"""
    )


def retried(connection: Connection, request: ReplayRequest) -> ReplayCount:
    """Number of deliveries in the state of `request.only` that a replay would send."""
    wanted = DeliveryFilter(request.only, request.subscription_id, owner=request.owner, reason=request.reason)
    values = _given(wanted)
    of_replay: dict[str, Any] = {}
    of_events = request.since > 0 or request.until < request.now or request.types is not None
    if of_events:
        of_replay |= {"since": request.since, "until": request.until, "every_type": int(request.types is None)}
        of_replay["types"] = json_list(request.types or ())
    statement = retried_statement(wanted, of_events=of_events)
    matched = run(connection, statement, newest=SCANNED, **values, **of_replay).scalar_one()
    complete = _scanned(connection, scanned_statement(wanted), SCANNED, values) <= SCANNED
    return ReplayCount(matched=int(matched), complete=complete)


def grouped(connection: Connection, columns: Sequence[str], limit: int, newest: int, wanted: DeliveryFilter) -> Groups:
    """The largest `limit` groups of the `newest` deliveries."""
    chosen = [name for name in _COLUMNS if name in columns]
    values = _given(wanted)
    found = run(connection, groups_statement(chosen, wanted), count=limit + 1, newest=newest, **values).all()
    scanned = _scanned(connection, scanned_statement(wanted), newest, values)
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


def _given(wanted: DeliveryFilter) -> dict[str, Any]:
    values = {name: getattr(wanted, name) for name in _GIVEN} | {
        name: _time(wanted, name) for name in ("since", "until")
    }
    return {name: value for name, value in values.items() if value is not None}


def _scanned(connection: Connection, counting: str, newest: int, values: Mapping[str, Any]) -> int:
    named = {name: value for name, value in values.items() if f":{name}" in counting}
    return int(run(connection, counting, newest=newest, **named).scalar_one())
