"""Pages of deliveries, newest first, by any combination of filters. Like `job_pages`: of several filters the rarest is
walked along its index, SCANNED rows a page at most, so a page may be short although there is a next one.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, literal_column, select
from sqlalchemy.engine import Connection

from relay.core.deliveries.delivery import Delivery
from relay.core.records import Page
from relay.ids import least_id
from relay.store.databases.pages import narrowest, newest_first, page_to, rarest, unindexed
from relay.store.databases.statements import table_of
from relay.store.rows import delivery_from
from relay.store.schema.tables import LISTED_DELIVERY, DeliveryRow, EventRow

DELIVERIES, EVENTS = table_of(DeliveryRow), table_of(EventRow)
SCANNED = 5_000
"""Rows that one page reads at most, where several filters are given."""
SHOWN: Select[Any] = select(DELIVERIES, EVENTS.c.type, EVENTS.c.subject).join(
    EVENTS, EVENTS.c.id == DELIVERIES.c.event_id
)
"""The columns that `delivery_from` reads."""


class DeliveryFilter(NamedTuple):
    """The conditions of a page of deliveries. None: any.

    owner         the account of a bound token
    since, until  made at or after, and before, a time; to the millisecond, which ids have
    """

    state: str | None = None
    subscription_id: str | None = None
    event_id: str | None = None
    owner: str | None = None
    reason: str | None = None
    since: float | None = None
    until: float | None = None


OF_STATE: Mapping[str, str] = {
    "pending": LISTED_DELIVERY,
    **{state: f"state = '{state}'" for state in ("delivered", "dead", "cancelled", "uncertain")},
}
_COLUMNS: Mapping[str, ColumnElement[Any]] = {
    "event_id": DELIVERIES.c.event_id,
    "subscription_id": DELIVERIES.c.subscription_id,
    "owner": DELIVERIES.c.owner,
    "reason": DELIVERIES.c.reason,
}


def drivers_of(wanted: DeliveryFilter) -> list[str]:
    """The filters that the page may be walked along; "" is the table's own order. A bound token's page walks along its
    own rows: how short a page is must not tell how many there are of others."""
    if wanted.event_id is not None:  # few rows
        return ["event_id"]
    if wanted.owner is not None:
        return ["owner"]
    rare = ["state"] if wanted.state in ("pending", "dead", "cancelled", "uncertain") else []
    return [*rare, *(["subscription_id"] if wanted.subscription_id is not None else [])] or [""]


def _walked(
    statement: Select[Any], wanted: DeliveryFilter, driver: str, before: str | None, end: str | None = None
) -> Select[Any]:
    """The rows of a walk, newest first: from `end` on, of `before`, and of the filter's times."""
    given = []
    if driver == "state":
        statement = statement.where(literal_column(f"deliveries.{OF_STATE[wanted.state or '']}"))
    elif driver == "event_id":  # few rows, sorted
        statement = statement.where(DELIVERIES.c.event_id == wanted.event_id)
    elif driver:
        given = [(_COLUMNS[driver], getattr(wanted, driver))]
    since = [end, None if wanted.since is None else least_id("dlv", wanted.since)]
    until = [before, None if wanted.until is None else least_id("dlv", wanted.until)]
    return newest_first(statement, given, [DELIVERIES.c.id], since=narrowest(max, since), before=narrowest(min, until))


def _checked(wanted: DeliveryFilter, name: str) -> ColumnElement[Any]:
    """A filter's condition, for rows that are found by another index."""
    if name == "state":
        state = unindexed(DELIVERIES.c.state)
        return state.in_(("pending", "blocked")) if wanted.state == "pending" else state == wanted.state
    condition: ColumnElement[Any] = unindexed(_COLUMNS[name]) == getattr(wanted, name)
    return condition


def end_statement(wanted: DeliveryFilter, driver: str, before: str | None) -> Select[Any]:
    """The last id of the next SCANNED rows of a walk; no row if there are fewer."""
    return _walked(select(DELIVERIES.c.id), wanted, driver, before).limit(1).offset(SCANNED - 1)


def page_statement(
    limit: int, before: str | None, wanted: DeliveryFilter, driver: str = "", end: str | None = None
) -> Select[Any]:
    """One page, newest first: found by the filter `driver`, down to `end`."""
    statement = _walked(SHOWN, wanted, driver, before, end)
    others = [name for name in ("state", *_COLUMNS) if name != driver and getattr(wanted, name) is not None]
    return statement.where(*(_checked(wanted, name) for name in others)).limit(limit + 1)


def read_deliveries(connection: Connection, wanted: DeliveryFilter, limit: int, before: str | None) -> Page[Delivery]:
    """A page of deliveries, without attempts."""
    drivers = drivers_of(wanted)
    others = {name for name in ("state", *_COLUMNS) if getattr(wanted, name) is not None} - {drivers[0]}
    if drivers == ["event_id"] or not others:
        driver, end = drivers[0], None
    else:
        driver, end = rarest(connection, {one: end_statement(wanted, one, before) for one in drivers}, "dlv")
    rows = connection.execute(page_statement(limit, before, wanted, driver, end)).all()
    return page_to(rows, limit, delivery_from, lambda row: row.id, end)
