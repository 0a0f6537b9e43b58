"""Erasure: removes the rows about a person, a group or a job, in small steps.

A step reads one slice of one table and erases the rows that it selects, a job at a time, each in its own transaction. A
run that was cut off is run again, and finds the rest. Jobs go first, so that no event of
theirs can follow.
"""

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection, Row

from relay.core.erasure import Erased, ErasureRequest, ErasureStep
from relay.core.events.event import CREATE_UNKNOWN, DELIVERY_EXPIRED, DELIVERY_UNCERTAIN
from relay.core.jobs.groups import place_of_job
from relay.core.jobs.job import Job
from relay.errors import InvalidRequest
from relay.store.databases.database import Database
from relay.store.databases.group_commit import alone, each
from relay.store.databases.locks import MATCH, locking
from relay.store.databases.notices import notify_gone
from relay.store.databases.pages import decode_cursor, encode_cursor
from relay.store.databases.statements import SQLITE, Sql, json_list, run, run_all, sql
from relay.store.deliveries.attempt_results import promote_heads
from relay.store.deliveries.memories import forget_events
from relay.store.jobs.groups import GroupLedger, delete_empty
from relay.store.jobs.intents import in_flight_since
from relay.store.jobs.job_pages import delete_search
from relay.store.jobs.registrations import BY_UID
from relay.store.outbox.recording import lock_jobs
from relay.store.rows import job_from, loads
from relay.store.schema.tables import OPEN_DELIVERY

SLICE = 1_000
"""Rows read by a step."""
AT_ONCE = 100
"""Events without a job that one transaction erases, with their deliveries and attempts."""
STAGES = ("jobs", "creates", "events", "groups")


def _slice(table: str, key: str, columns: str, selected: str) -> Sql:
    """The rows of a slice, `:after` to `:upto`, that a condition selects."""
    within = f"SELECT * FROM {table} WHERE {key} > :after AND {key} <= :upto"
    return sql(f"SELECT {columns} FROM ({within}) AS slice WHERE {selected} ORDER BY {key}")


def _end(table: str, key: str) -> str:
    """The last key of the next slice; no row if the table ends before that."""
    return f"SELECT {key} FROM {table} WHERE {key} > :after ORDER BY {key} LIMIT 1 OFFSET :count"


# The bytes are searched in the database, so only rows that may match are read.
_MAY_MATCH = "$contains(metadata) OR $contains(request) OR group_name = :group"
# Jobs whose metadata may match, or of a group.
JOBS_SLICE = _slice("jobs", "uid", "uid, source, account, metadata, request, group_name", _MAY_MATCH)
JOBS_END = _end("jobs", "uid")
_CREATE = "id, source, account, reason, metadata, request, group_name"
# Creates whose metadata may match, or for a group.
CREATES_SLICE = _slice("intents", "id", _CREATE, _MAY_MATCH)
# Creates that a person found to have made a job.
CREATES_OF_JOB = _slice("intents", "id", _CREATE, "job_id = :job")
CREATES_END = _end("intents", "id")
# Events whose metadata may match, or about a group.
EVENTS_SLICE = _slice("events", "position", "id, owner, body", "$contains(body)")
EVENTS_END = _end("events", "position")
LAST_ID = "~"
"""After every id: they have lower-case letters, digits and underscores."""
LAST_POSITION = (1 << 63) - 1

# The jobs with an id upstream, or a uid.
JOBS_NAMED = """
SELECT uid, source, account FROM jobs WHERE external_id = :job
UNION SELECT uid, source, account FROM jobs WHERE uid = :job
"""
# A job's events, also those that outlived it. The subject of an event without a job is no id of a job. Two seeks, not
# OR: PostgreSQL would read the whole table. `+ 0`: nor along its positions.
EVENTS_NAMED = """
SELECT position, id, owner FROM (
  SELECT position, id, owner FROM events WHERE subject = :job AND job_uid IS NOT NULL AND position + 0 > :after
  UNION SELECT position, id, owner FROM events WHERE job_uid = :job AND position + 0 > :after
) AS named
ORDER BY position LIMIT :count
"""
_ABOUT = """
subject IS NOT NULL AND subject <= :subject AND (subject, recorded_at, position) > (:subject, :after, :position)
"""
# Published events about a subject, by time. Bounds instead of an equality: see `newest_first`. The condition on the
# identity: see `unindexed`.
EVENTS_ABOUT = f"""
SELECT recorded_at, position, id, owner FROM events
WHERE {_ABOUT} AND CASE WHEN identity IS NOT NULL THEN 1 END = 1
ORDER BY subject, recorded_at, position LIMIT :count
"""

# The events of a job.
EVENTS_OF_JOB = "SELECT id, recorded_at FROM events WHERE job_uid = :uid ORDER BY sequence"
# The subscriptions that some events went to.
SUBSCRIPTIONS_OF = sql("SELECT DISTINCT subscription_id FROM deliveries WHERE event_id IN $json_values(ids)")
# The next events about a subscription, by time, with the bodies of those that may report a delivery that ended badly.
REPORTS_SLICE = sql(
    f"""
SELECT id, recorded_at, position, CASE WHEN $contains(body) THEN body END AS body FROM (
  SELECT id, recorded_at, position, body FROM events WHERE {_ABOUT}
  ORDER BY subject, recorded_at, position LIMIT :count
) AS slice
ORDER BY recorded_at, position
"""
)
REPORTS_EVENT = b'"event":"evt_'
"""In every report of a delivery that ended badly."""
# The reports that a create's fate is unknown.
REPORTS_OF_CREATE = "SELECT id FROM events WHERE subject = :id AND type || '' = :type"

# Locks events: a new subscription's backfill of them, whose deliveries are deleted too, is waited for.
LOCK_EVENTS = sql("SELECT id FROM events e WHERE id IN $json_values(ids) $for_update(e)")
# The jobs and subscriptions whose open deliveries of some events go, automatic or manual ones.
OPEN_PAIRS = sql(
    f"""
SELECT DISTINCT job_uid, subscription_id, CASE WHEN priority = 2 THEN 1 ELSE 0 END AS manual FROM deliveries
WHERE event_id $among(ids) AND job_uid IS NOT NULL AND {OPEN_DELIVERY}
ORDER BY job_uid, subscription_id
"""
)
# Deletes the attempts at deliveries of some events.
DELETE_ATTEMPTS = sql(
    "DELETE FROM attempts WHERE delivery_id IN (SELECT id FROM deliveries WHERE event_id IN $json_values(ids))"
)
# Deletes the deliveries of some events.
DELETE_DELIVERIES = sql("DELETE FROM deliveries WHERE event_id IN $json_values(ids)")
# Deletes events.
DELETE_EVENTS = sql("DELETE FROM events WHERE id IN $json_values(ids)")
# Deletes a job and its links to callbacks.
DELETE_CALLBACKS = "DELETE FROM job_callbacks WHERE job_uid = :uid"
DELETE_JOB = "DELETE FROM jobs WHERE uid = :uid"
# Deletes a create.
DELETE_CREATE = "DELETE FROM intents WHERE id = :id"
# The groups of a name.
GROUPS_NAMED = "SELECT id, source, account FROM groups WHERE name = :name"

Found = tuple[Erased, Sequence[Job], str | None]
"""The rows that a step erased, the jobs among it, and the last key of its slice; None at the end of the table."""


class ErasureStore:
    """Erases, step by step."""

    def __init__(self, database: Database, groups: GroupLedger) -> None:
        self._database = database
        self._groups = groups
        self._erase_job = each(self._job_erased)
        self._steps: Mapping[str, Callable[[ErasureRequest, str, float], Awaitable[Found]]] = {
            "jobs": self._jobs,
            "creates": self._creates,
            "events": self._events,
            "groups": self._groups_named,
        }

    async def step(self, request: ErasureRequest, cursor: str | None, now: float) -> ErasureStep:
        """The next step after the one that gave the cursor; None: the first. Raises InvalidRequest for a cursor that
        is none of an erasure."""
        stage, after = _place_of(cursor)
        erased, jobs, last = await self._steps[stage](request, after, now)
        if last is None:
            following = STAGES[STAGES.index(stage) + 1 :]
            if not following:
                await self._database.compact()
                return ErasureStep(erased=erased, jobs=jobs, next_cursor=None)
            stage, last = following[0], ""
        return ErasureStep(erased=erased, jobs=jobs, next_cursor=encode_cursor(f"{stage} {last}"))

    async def _jobs(self, request: ErasureRequest, after: str, now: float) -> Found:
        last = None
        if request.subject is not None:
            rows: Sequence[Row[Any]] = []
        elif request.job is not None:
            rows = await self._read(JOBS_NAMED, job=request.job)
        else:
            rows, last = await self._slice(JOBS_SLICE, JOBS_END, after, LAST_ID, **_sought(request))
            rows = [row for row in rows if _selects(request, row)]
        erased, jobs = Erased(), []
        for row in rows:
            if request.covers(row.source, row.account):
                removed, job = await self._database.write(self._erase_job, (row.uid, now, await self._reports(row.uid)))
                erased += removed
                jobs += [] if job is None else [job]
        return erased, jobs, last

    async def _reports(self, uid: str) -> list[str]:
        """The reports of a job's expired deliveries, which name the job."""
        events = {row.id: row.recorded_at for row in await self._read(EVENTS_OF_JOB, uid=uid)}
        found: list[str] = []
        for subscription in await self._read(SUBSCRIPTIONS_OF, ids=json_list(list(events))):
            after, position = min(events.values()), 0
            while True:
                place = {"subject": subscription.subscription_id, "after": after, "position": position}
                rows = await self._read(REPORTS_SLICE, **place, needle=REPORTS_EVENT, count=SLICE)
                found += [row.id for row in rows if row.body is not None and _reported(row.body) in events]
                if len(rows) < SLICE:
                    break
                after, position = rows[-1].recorded_at, rows[-1].position
        return found

    async def _creates(self, request: ErasureRequest, after: str, now: float) -> Found:
        if request.subject is not None:
            return Erased(), (), None
        if request.job is not None:
            rows, last = await self._slice(CREATES_OF_JOB, CREATES_END, after, LAST_ID, job=request.job)
        else:
            rows, last = await self._slice(CREATES_SLICE, CREATES_END, after, LAST_ID, **_sought(request))
            rows = [row for row in rows if _selects(request, row)]
        erased, least = Erased(), in_flight_since(now)
        for row in rows:
            if not request.covers(row.source, row.account):
                continue
            if row.reason is None and row.id >= least:  # its row is what tells, should no answer come
                erased += Erased(in_flight=1)
            else:
                erased += await self._database.write(_erase_create, row.id)
        return erased, (), last

    async def _events(self, request: ErasureRequest, after: str, now: float) -> Found:
        time, position = _event_place(after)
        if request.job is not None:
            rows = await self._read(EVENTS_NAMED, job=request.job, after=position, count=SLICE)
            last = str(rows[-1].position) if len(rows) == SLICE else None
        elif request.subject is not None:
            rows = await self._read(EVENTS_ABOUT, subject=request.subject, after=time, position=position, count=SLICE)
            last = f"{rows[-1].position} {rows[-1].recorded_at.hex()}" if len(rows) == SLICE else None
        else:
            rows, last = await self._slice(EVENTS_SLICE, EVENTS_END, position, LAST_POSITION, needle=request.needle)
            rows = [row for row in rows if request.selects_event(loads(row.body))]
        ids = [row.id for row in rows if request.covers(*_account_of(row.owner))]
        erased = Erased()
        for first in range(0, len(ids), AT_ONCE):
            erased += await self._database.write(_erase_events, (ids[first : first + AT_ONCE], now))
        return erased, (), last

    async def _groups_named(self, request: ErasureRequest, _after: str, _now: float) -> Found:
        """The group itself, if retention has removed its jobs: with its last job it is erased already."""
        if request.group is not None:
            for row in await self._read(GROUPS_NAMED, name=request.group):
                if request.covers(row.source, row.account):
                    await self._database.write(_delete_group, row.id)
        return Erased(), (), None

    @alone()
    @locking(lambda _: [MATCH])
    def _job_erased(self, connection: Connection, item: tuple[str, float, Sequence[str]]) -> tuple[Erased, Job | None]:
        return erase_job(connection, self._groups, *item)

    async def _slice(
        self, rows: Sql, end: str, after: str | int, greatest: str | int, **values: Any
    ) -> tuple[Sequence[Row[Any]], str | None]:
        """The selected rows of the next slice, and its last key; None at the end of the table."""
        ended = await self._read(end, after=after, count=SLICE - 1)
        upto = ended[0][0] if ended else greatest
        return await self._read(rows, after=after, upto=upto, **values), str(upto) if ended else None

    async def _read(self, statement: Sql | str, **values: Any) -> Sequence[Row[Any]]:
        return await self._database.read(run_all, statement, values)


def _sought(request: ErasureRequest) -> dict[str, Any]:
    return {"needle": request.needle, "group": request.group}


def _selects(request: ErasureRequest, row: Row[Any]) -> bool:
    of_group = request.group is not None and row.group_name == request.group
    return of_group or request.selects(loads(row.metadata), loads(row.request))


def _place_of(cursor: str | None) -> tuple[str, str]:
    """The stage and the last key."""
    if cursor is None:
        return STAGES[0], ""
    stage, _, after = (decode_cursor(cursor) or "").partition(" ")
    try:
        if stage not in STAGES:
            raise ValueError(stage)
        if stage == "events":
            _event_place(after)
    except (ValueError, OverflowError) as error:
        detail = "cursor: not a cursor of an erasure; use next_cursor unchanged"
        raise InvalidRequest(detail, code="invalid_cursor") from error
    return stage, after


def _event_place(after: str) -> tuple[float, int]:
    """The time, of events about a subject, and the position after which to continue. Raises ValueError or
    OverflowError if it is no such place."""
    position, _, time = after.partition(" ")
    if not (position or "0").isdecimal() or not math.isfinite(at := float.fromhex(time or "0")):
        raise ValueError(after)
    return at, int(position or 0)


def _account_of(owner: str | None) -> tuple[str, str]:
    source, _, account = (owner or "").partition("/")
    return source, account


def _reported(body: bytes) -> str | None:
    """The event whose delivery expired or is uncertain; None for another event."""
    document = loads(body)
    return document["data"]["event"] if document["type"] in (DELIVERY_EXPIRED, DELIVERY_UNCERTAIN) else None


def erase_job(
    connection: Connection, groups: GroupLedger, uid: str, now: float, reports: Iterable[str] = ()
) -> tuple[Erased, Job | None]:
    """Deletes a job, its events, these reports about its deliveries, and all their deliveries and attempts. Its group
    no longer counts it."""
    lock_jobs(connection, [uid])  # or another node could record an event that is left behind
    row = connection.execute(BY_UID, {"uid": uid}).one_or_none()
    if row is None:
        return Erased(), None
    events = [event.id for event in run(connection, EVENTS_OF_JOB, uid=uid)]
    erased = _delete_events(connection, [*events, *reports])
    run(connection, DELETE_CALLBACKS, uid=uid)
    run(connection, DELETE_JOB, uid=uid)
    delete_search(connection, uid)
    notify_gone(connection, row)
    job = job_from(row)
    groups.note_job(connection, job, now, place_of_job(job), None)
    forget_events(connection, events)
    return erased + Erased(jobs=1), job


def _delete_events(connection: Connection, ids: Sequence[str]) -> Erased:
    """Deletes events with their deliveries, pending ones included, and attempts."""
    values = {"ids": json_list(ids)}
    if connection.dialect.name != SQLITE:
        run(connection, LOCK_EVENTS, **values)
    return Erased(
        attempts=run(connection, DELETE_ATTEMPTS, **values).rowcount,
        deliveries=run(connection, DELETE_DELIVERIES, **values).rowcount,
        events=run(connection, DELETE_EVENTS, **values).rowcount,
    )


@alone()
@each
def _erase_create(connection: Connection, id: str) -> Erased:
    reports = [row.id for row in run(connection, REPORTS_OF_CREATE, id=id, type=CREATE_UNKNOWN)]
    return _delete_events(connection, reports) + Erased(creates=run(connection, DELETE_CREATE, id=id).rowcount)


@alone()
@each
def _erase_events(connection: Connection, item: tuple[Sequence[str], float]) -> Erased:
    """Their job may stay, if its metadata was another one by then: later events of it wait for these."""
    ids, now = item
    pairs = run(connection, OPEN_PAIRS, ids=json_list(ids)).all()
    erased = _delete_events(connection, ids)
    if pairs:
        automatic, manual = (
            [(row.job_uid, row.subscription_id) for row in pairs if row.manual == one] for one in (0, 1)
        )
        promote_heads(connection, automatic, manual, now)
    forget_events(connection, ids)
    return erased


@each
def _delete_group(connection: Connection, id: str) -> None:
    delete_empty(connection, id)
