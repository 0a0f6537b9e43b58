"""Events: recorded through the outbox, read in commit order."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Select, bindparam, func, literal_column, select, text, union_all
from sqlalchemy.engine import Connection
from sqlmodel import col

from relay.core.events.event import Event
from relay.core.records import Page, Tail
from relay.store.databases.database import Database, Scoped
from relay.store.databases.group_commit import each
from relay.store.databases.locks import ADOPTION, MATCH, locking
from relay.store.databases.pages import (
    decode_moment,
    fitting,
    furthest,
    moment_key,
    newest_first,
    page_to,
    size_of,
    unindexed,
)
from relay.store.databases.statements import SQLITE, run, table_of
from relay.store.outbox.recording import Outbox
from relay.store.rows import event_from
from relay.store.schema.tables import EventRow

EVENTS = table_of(EventRow)
# A page of the stream on SQLite.
AFTER = (
    select(EVENTS)
    .where(EVENTS.c.position > bindparam("position"))
    .order_by(EVENTS.c.position)
    .limit(bindparam("count"))
)
# A page of a job's events.
OF_JOB_AFTER = (
    select(EventRow)
    .where(col(EventRow.job_uid) == bindparam("job_uid"), col(EventRow.sequence) > bindparam("sequence"))
    .order_by(col(EventRow.sequence))
    .limit(bindparam("count"))
)
# One event.
BY_ID = select(EventRow).where(col(EventRow.id) == bindparam("id"))
# The newest position on SQLite.
NEWEST = select(col(EventRow.position)).order_by(col(EventRow.position).desc()).limit(1)
# A page of the stream on PostgreSQL. On PostgreSQL a position is the transaction's id and the row's position, see
# `tables.EVENT_TRANSACTIONS`.
AFTER_XID = (
    select(EVENTS, literal_column("CAST(events.xid AS text)").label("xid"))
    .where(text("(xid, position) > (CAST(CAST(:xid AS text) AS xid8), CAST(:position AS bigint))"))
    .where(text("xid < pg_snapshot_xmin(pg_current_snapshot())"))
    .order_by(text("events.xid"), EVENTS.c.position)
    .limit(bindparam("count"))
)
# Events hidden by an older transaction that is still open, whether it writes events or not.
HIDDEN_AFTER_XID = """
SELECT EXISTS (
  SELECT 1 FROM events WHERE (xid, position) > (CAST(CAST(:xid AS text) AS xid8), CAST(:position AS bigint))
    AND xid >= pg_snapshot_xmin(pg_current_snapshot())
)
"""
# The stream position of an event on PostgreSQL.
XID_OF = "SELECT CAST(xid AS text), position, recorded_at FROM events WHERE id = :id"
# The begin of a resumed stream among restored events. They are ordered by position now, but before the restore an event
# with a lower position may have been committed, and sent, shortly after one with a higher position. `+ 0` keeps the
# server from walking the positions from the first one on.
FIRST_RESTORED_SINCE = """
SELECT MIN(position + 0) FROM events WHERE recorded_at >= :since AND recorded_at <= :until AND position < :position
"""
LONGEST_TRANSACTION_SECONDS = 60.0
# Ids that this server cannot have issued. All events up to the last such one were restored with it.
_FROM_ELSEWHERE = "xid >= pg_snapshot_xmax(pg_current_snapshot())"
# True if there are restored events to adopt.
ANY_FROM_ELSEWHERE = f"SELECT position FROM events WHERE {_FROM_ELSEWHERE} ORDER BY xid DESC, position DESC LIMIT 1"
# The last restored event.
LAST_FROM_ELSEWHERE = f"SELECT MAX(position) FROM events WHERE {_FROM_ELSEWHERE}"
# The last position of the next slice to adopt.
END_OF_SLICE = """
SELECT MAX(position) FROM (
  SELECT position FROM events WHERE position > :after AND position <= :last ORDER BY position LIMIT :count
) AS slice
"""
# Adopts a slice of restored events.
RESET_XIDS = "UPDATE events SET xid = '0' WHERE position > :after AND position <= :upto AND xid <> '0'"
RESET_AT_ONCE = 5_000
# The oldest transaction that is still open: the stream ends below it.
NEWEST_XID = "SELECT CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text)"
# The bytes of an event's rendering.
BODY_BYTES = size_of(EVENTS.c.body)
SCANNED = 5_000
"""Rows that one page reads at most, where several filters are given."""
POSITION_BITS = 64
LAST_POSITION = (1 << 63) - 1

log = structlog.get_logger("relay.store")


class EventFilter(NamedTuple):
    """The conditions of a page of events. None: any.

    owner         the account of a bound token
    types         one of these; empty: any
    since, until  recorded at or after, and before, a time
    """

    subject: str | None = None
    owner: str | None = None
    types: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None


_KEY = [EVENTS.c.recorded_at, EVENTS.c.position]
_COLUMNS = {"subject": EVENTS.c.subject, "owner": EVENTS.c.owner, "types": EVENTS.c.type}


class EventStore(Scoped):
    """Reads of events, and recording of events that belong to no job."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox

    async def record(self, event: Event) -> None:
        """Records an event that belongs to no job, with its deliveries."""
        await self._database.write(self._record, event)

    async def adopt_restored(self) -> None:
        """Makes events visible that were restored from another PostgreSQL server's dump. Call at a node's start.

        Their transaction ids are that server's. Those ahead of this server's would look uncommitted to streams. Adopted
        events come before all later ones, ordered by position.
        """
        last = await self._database.read(_last_from_elsewhere)
        if last is None:
            return
        log.warning("restored_events", hint="from another PostgreSQL server; the node starts once they are adopted")
        after: int | None = 0
        while after is not None:
            after = await self._database.write(_reset_xids, (after, last))

    async def get(self, event_id: str) -> Event | None:
        """One event by id."""
        event = await self._database.read(_get, event_id)
        return event if event is not None and self._sees(event.owner) else None

    async def position_of(self, event_id: str) -> int | None:
        """The position after which a stream continues from this event."""
        if self._account is not None and await self.get(event_id) is None:
            return None
        return await self._database.read(_position_of, event_id)

    async def newest_position(self) -> int:
        """The newest event's position; 0 if there is none."""
        return await self._database.read(_newest)

    async def tail(self, position: int, count: int = 500, max_bytes: int | None = None) -> Tail:
        """The events committed after a position, in order: up to `count`, and up to `max_bytes` or a single one."""
        tail = await self._database.read(_tail, position, count, max_bytes)
        if self._account is None:
            return tail
        return replace(tail, events=[pair for pair in tail.events if self._sees(pair[1].owner)])

    async def tail_of_job(self, job_uid: str, after_sequence: int, count: int, max_bytes: int | None = None) -> Tail:
        """The same of a job's events, by sequence. A caller who sees the job sees them all."""
        return await self._database.read(_tail_of_job, job_uid, after_sequence, count, max_bytes)

    async def of_job(self, job_uid: str, *, after_sequence: int = 0, count: int = 500) -> list[Event]:
        """A job's events, in order. A caller who sees the job sees them all."""
        return await self._database.read(_of_job, job_uid, after_sequence, count)

    async def page(
        self,
        *,
        limit: int,
        cursor: str | None = None,
        types: tuple[str, ...] = (),
        subject: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Page[Event]:
        """Newest first. `since` (inclusive) and `until` (exclusive) refer to the time of recording. With several
        filters a page may be short although there is a next one."""
        wanted = EventFilter(subject=subject, owner=self._owner, types=types, since=since, until=until)
        return await self._database.read(_page, wanted, limit, decode_moment(cursor, prefix="evt_"))

    @locking(lambda _: [MATCH])
    def _record(self, connection: Connection, items: Sequence[Event]) -> Sequence[None]:
        self._outbox.insert(connection, [(event, None) for event in items])
        return [None] * len(items)


def _last_from_elsewhere(connection: Connection) -> int | None:
    if connection.dialect.name == SQLITE or run(connection, ANY_FROM_ELSEWHERE).one_or_none() is None:
        return None
    last: int | None = run(connection, LAST_FROM_ELSEWHERE).scalar_one()
    return last


@each
@locking(lambda _: [ADOPTION])
def _reset_xids(connection: Connection, item: tuple[int, int]) -> int | None:
    """Adopts one slice. Returns where the next begins; None at the end."""
    after, last = item
    upto: int | None = run(connection, END_OF_SLICE, after=after, last=last, count=RESET_AT_ONCE).scalar_one()
    if upto is not None:
        run(connection, RESET_XIDS, after=after, upto=upto)
    return upto


def _get(connection: Connection, event_id: str) -> Event | None:
    row = connection.execute(BY_ID, {"id": event_id}).one_or_none()
    return None if row is None else event_from(row)


def _position_of(connection: Connection, event_id: str) -> int | None:
    if connection.dialect.name != SQLITE:
        found: Any = run(connection, XID_OF, id=event_id).one_or_none()
        if found is None:
            return None
        xid, position, recorded_at = int(found[0]), found[1], found[2]
        if xid == 0:
            since, until = recorded_at - LONGEST_TRANSACTION_SECONDS, recorded_at + LONGEST_TRANSACTION_SECONDS
            values = {"since": since, "until": until, "position": position}
            first = run(connection, FIRST_RESTORED_SINCE, **values).scalar_one()
            return int(position if first is None else first - 1)
        return xid << POSITION_BITS | int(position)
    row = connection.execute(BY_ID, {"id": event_id}).one_or_none()
    return None if row is None else int(row.position)


def _newest(connection: Connection) -> int:
    if connection.dialect.name != SQLITE:
        return int(run(connection, NEWEST_XID).scalar_one()) - 1 << POSITION_BITS | LAST_POSITION
    return int(connection.execute(NEWEST).scalar_one_or_none() or 0)


def _tail(connection: Connection, position: int, count: int, max_bytes: int | None) -> Tail:
    if connection.dialect.name != SQLITE:
        xid, place = position >> POSITION_BITS, position & LAST_POSITION
        values: dict[str, Any] = {"xid": str(xid), "position": place, "count": count}
        values["count"] = fits = fitting(connection, AFTER_XID, BODY_BYTES, count, values, max_bytes)
        found = connection.execute(AFTER_XID, values)
        events = [(int(row.xid) << POSITION_BITS | row.position, event_from(row)) for row in found]
        more = len(events) == fits
        hidden = not more and run(connection, HIDDEN_AFTER_XID, xid=str(xid), position=place).scalar_one()
        return _tail_from(position, events, more=more, hidden=bool(hidden))
    values = {"position": position, "count": count}
    values["count"] = fits = fitting(connection, AFTER, BODY_BYTES, count, values, max_bytes)
    events = [(row.position, event_from(row)) for row in connection.execute(AFTER, values)]
    return _tail_from(position, events, more=len(events) == fits)


def _tail_of_job(connection: Connection, job_uid: str, sequence: int, count: int, max_bytes: int | None) -> Tail:
    values = {"job_uid": job_uid, "sequence": sequence, "count": count}
    values["count"] = fits = fitting(connection, OF_JOB_AFTER, BODY_BYTES, count, values, max_bytes)
    events = [(row.sequence, event_from(row)) for row in connection.execute(OF_JOB_AFTER, values)]
    return _tail_from(sequence, events, more=len(events) == fits)


def _tail_from(position: int, events: Sequence[tuple[int, Event]], *, more: bool, hidden: bool = False) -> Tail:
    return Tail(events=events, last=events[-1][0] if events else position, more=more, hidden=hidden)


def _of_job(connection: Connection, job_uid: str, sequence: int, count: int) -> list[Event]:
    rows = connection.execute(OF_JOB_AFTER, {"job_uid": job_uid, "sequence": sequence, "count": count})
    return [event_from(row) for row in rows]


def drivers_of(wanted: EventFilter) -> list[str]:
    """The filters that the page may be walked along; "" is the table's own order. A bound token's page walks along its
    own rows, but for a subject, which few events have: how short a page is must not tell how many others have."""
    if wanted.owner is not None:
        return ["owner" if wanted.subject is None else "subject"]
    if wanted.subject is not None and len(wanted.types) > 1:
        return ["subject"]
    return [name for name in ("subject", "types") if _values(wanted, name)] or [""]


def _values(wanted: EventFilter, name: str) -> tuple[str, ...]:
    """The values that a filter lets through; empty: any."""
    if name == "types":
        return wanted.types
    value = getattr(wanted, name)
    return () if value is None else (value,)


def _walked(
    wanted: EventFilter, driver: str, before: tuple[float, str] | None, end: float | None, value: str | None = None
) -> Select[Any]:
    """The rows of a walk along a filter's `value`, its only one by default, newest first: from the time `end` on, of
    `before`, and of the filter's times."""
    since = [time for time in (wanted.since, end) if time is not None]
    last: Sequence[Any] = () if wanted.until is None else (wanted.until,)
    if before is not None and (wanted.until is None or before[0] < wanted.until):
        moment, event_id = before
        position = select(EVENTS.c.position).where(EVENTS.c.id == event_id).scalar_subquery()
        last = (moment, func.coalesce(position, 0))  # erased meanwhile: on with what was recorded earlier
    given = [(_COLUMNS[driver], value or _values(wanted, driver)[0])] if driver else []
    return newest_first(select(EVENTS), given, _KEY, since=[max(since)] if since else (), before=last)


def end_statement(wanted: EventFilter, driver: str, before: tuple[float, str] | None) -> Select[Any]:
    """The time of the last of the next SCANNED rows of a walk; no row if there are fewer."""
    walked = _walked(wanted, driver, before, None)
    return walked.with_only_columns(EVENTS.c.recorded_at).limit(1).offset(SCANNED - 1)


def page_statement(
    limit: int, before: tuple[float, str] | None, wanted: EventFilter, driver: str, end: float | None = None
) -> Select[Any]:
    """One page, newest first by time of recording, which every filter's index ends with: found by the filter `driver`,
    down to the time `end`."""
    if driver == "types" and len(wanted.types) > 1:
        return _merged(limit, before, wanted)
    others = [name for name in _COLUMNS if name != driver and _values(wanted, name)]
    checks = [unindexed(_COLUMNS[name]).in_(_values(wanted, name)) for name in others]
    return _walked(wanted, driver, before, end).where(*checks).limit(limit + 1)


def _merged(limit: int, before: tuple[float, str] | None, wanted: EventFilter) -> Select[Any]:
    """A page of several types, without another filter: the keys of each type's page, of which the newest are read."""
    walks = [
        _walked(wanted, "types", before, None, one).with_only_columns(*_KEY).limit(limit + 1) for one in wanted.types
    ]
    keys = union_all(*(select(walk.subquery(f"walk_{nth}")) for nth, walk in enumerate(walks))).subquery()
    newest = [keys.c.recorded_at.desc(), keys.c.position.desc()]
    found = select(keys).order_by(*newest).limit(limit + 1).subquery("found")
    order = found.c.recorded_at.desc(), found.c.position.desc()
    return select(EVENTS).join(found, found.c.position == EVENTS.c.position).order_by(*order).limit(limit + 1)


def _page(connection: Connection, wanted: EventFilter, limit: int, before: tuple[float, str] | None) -> Page[Event]:
    drivers = drivers_of(wanted)
    several = sum(bool(_values(wanted, name)) for name in _COLUMNS) > 1
    driver, end = drivers[0], None
    if several and not (wanted.owner and wanted.subject):
        driver, end = furthest(connection, {one: end_statement(wanted, one, before) for one in drivers})
    statement = page_statement(limit, before, wanted, driver, end)
    limit = fitting(connection, statement, BODY_BYTES, limit)
    rows = connection.execute(statement.limit(limit + 1)).all()
    # There is no event of that id: the next page begins with what was recorded earlier than `end`.
    after = None if end is None else moment_key(end, "evt_")
    return page_to(rows, limit, event_from, lambda row: moment_key(row.recorded_at, row.id), after)
