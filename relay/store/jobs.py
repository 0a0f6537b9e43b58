"""Jobs: registration, what looks change, and lists."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, delete, insert, select, text, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Connection

from relay.core.delivery import Claimed
from relay.core.events import Event
from relay.core.job import Job
from relay.core.records import Lease, LookNote, LookRecord, Page, Registered, Registration
from relay.core.subscription import Subscription
from relay.errors import Conflict, NotFound, StaleSequence
from relay.store.database import SqliteDatabase
from relay.store.outbox import CALLBACKS, DELIVERIES, EVENTS, Outbox, chunks, delivery_values, open_pairs
from relay.store.pages import decode_cursor, page_of
from relay.store.rows import (
    dumps,
    event_from,
    job_from,
    mapping_or_none,
    observation_values,
    progress_values,
)
from relay.store.tables import AttemptRow, JobRow

JOBS = JobRow.__table__  # type: ignore[attr-defined]
ATTEMPTS = AttemptRow.__table__  # type: ignore[attr-defined]

BY_EXTERNAL_IDS = select(JOBS).where(JOBS.c.external_id.in_(bindparam("external_ids", expanding=True)))
BY_UID = select(JOBS).where(JOBS.c.uid == bindparam("uid"))
BY_EXTERNAL_ID = select(JOBS).where(JOBS.c.external_id == bindparam("external_id"))
STATES = select(JOBS.c.uid, JOBS.c.sequence, JOBS.c.closed_at).where(JOBS.c.uid.in_(bindparam("uids", expanding=True)))
OPEN_AFTER = (
    select(JOBS)
    .where(JOBS.c.source == bindparam("source"), JOBS.c.account == bindparam("account"))
    .where(JOBS.c.uid > bindparam("after_uid"))
    .where(text("closed_at IS NULL"))
    .order_by(JOBS.c.uid)
    .limit(bindparam("count"))
)
PAST_DEADLINE = (
    select(JOBS)
    .where(text("closed_at IS NULL AND overdue = 0"))
    .where(JOBS.c.deadline_at <= bindparam("now"))
    .order_by(JOBS.c.deadline_at)
    .limit(bindparam("count"))
)
COUNT_OPEN = text(
    "SELECT source, account, COUNT(*) AS open_count FROM jobs WHERE closed_at IS NULL GROUP BY source, account"
)
INSERT_JOB = insert(JOBS)
INSERT_CALLBACK = sqlite.insert(CALLBACKS).on_conflict_do_nothing()

_PROGRESS = ("status", "phase", "sequence", "retry_count", "running_sent", "running_started_at", "overdue")
_OBSERVED = ("action", "channel", "scheduled_at", "started_at", "next_attempt_at", "attempt_count", "upstream")


def _set(*names: str) -> dict[str, Any]:
    return {name: bindparam(f"new_{name}") for name in names}


ADVANCE = (
    update(JOBS)
    .where(JOBS.c.uid == bindparam("job_uid"))
    .values(
        **_set(*_PROGRESS, "outcome", "closed_at", "deadline_at", "last_error"),
        failure_count=0,
        missing_count=0,
        missing_since=None,
        poll_count=JOBS.c.poll_count + bindparam("looks"),
    )
)
OBSERVE = update(JOBS).where(JOBS.c.uid == bindparam("job_uid")).values(**_set(*_OBSERVED, "last_polled_at"))
NOTE = (
    update(JOBS)
    .where(JOBS.c.uid == bindparam("job_uid"))
    .values(
        **_set("next_poll_at", "failure_count", "missing_count", "missing_since", "last_error"),
        poll_count=JOBS.c.poll_count + bindparam("looks"),
        last_polled_at=text("COALESCE(:polled_at, last_polled_at)").bindparams(bindparam("polled_at", None)),
    )
)


class JobStore:
    """Reads and writes of jobs. Every write is durable when its call returns."""

    def __init__(self, database: SqliteDatabase, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox

    # --- writes

    async def register(self, registration: Registration) -> Registered:
        """Tracks a job, or finds it tracked already."""
        return (await self._database.write(self._register, (registration,)))[0]

    async def register_many(self, registrations: Sequence[Registration]) -> Sequence[Registered]:
        """Tracks many in one transaction; one result for each, in order."""
        return await self._database.write(self._register, tuple(registrations))

    async def record(self, record: LookRecord) -> tuple[Claimed, ...]:
        """Writes what a look proved. Returns the deliveries that the record's lease took.

        Raises StaleSequence when the job moved on or closed meanwhile: load it again and detect again.
        """
        return await self._database.write(self._record, record)

    async def note(self, note: LookNote) -> None:
        """Writes what a look that proved nothing leaves behind."""
        await self._database.write(_note, note)

    async def untrack(self, uid: str, now: float) -> Job:
        """Closes an open job without an event; a closed one is left as it is. Raises NotFound."""
        return await self._database.write(_untrack, (uid, now))

    async def purge(self, uid: str) -> Job:
        """Erases a job, its events, their deliveries and attempts. Raises NotFound."""
        return await self._database.write(_purge, uid)

    # --- reads

    async def get(self, uid: str) -> Job | None:
        """By the relay's own id."""
        return await self._database.read(_one, BY_UID, {"uid": uid})

    async def find(self, external_id: str, source: str | None = None, account: str | None = None) -> list[Job]:
        """By the upstream's id: more than one when several accounts have it."""
        return await self._database.read(_find, external_id, source, account)

    async def open_jobs(self, source: str, account: str, *, after_uid: str = "", count: int = 5_000) -> list[Job]:
        """The open jobs of an account, oldest first, without their metadata and items."""
        parameters = {"source": source, "account": account, "after_uid": after_uid, "count": count}
        return await self._database.read(_many, OPEN_AFTER, parameters, False)

    async def past_deadline(self, now: float, count: int = 500) -> list[Job]:
        """Open jobs whose deadline has passed and that were not called overdue yet."""
        return await self._database.read(_many, PAST_DEADLINE, {"now": now, "count": count}, True)

    async def open_counts(self) -> dict[tuple[str, str], int]:
        """Number of open jobs by (source, account)."""
        return await self._database.read(_open_counts)

    async def page(
        self,
        *,
        limit: int,
        cursor: str | None = None,
        status: str | None = None,
        open: bool | None = None,
        source: str | None = None,
        account: str | None = None,
    ) -> Page[Job]:
        """Newest first. Raises InvalidRequest for a cursor that is not ours."""
        before = decode_cursor(cursor)
        return await self._database.read(_page, limit, before, status, open, source, account)

    # --- batches

    def _register(
        self, connection: Connection, items: Sequence[Sequence[Registration]]
    ) -> Sequence[Sequence[Registered]]:
        registrations = [registration for item in items for registration in item]
        existing = _existing(connection, registrations)
        results: dict[int, Registered] = {}
        new: list[tuple[int, Registration]] = []
        old: list[tuple[int, Registration, Job]] = []
        fresh: dict[tuple[str, str, str], Job] = {}
        for index, registration in enumerate(registrations):
            key = (registration.external_id, registration.source, registration.account)
            job = existing.get(key) or fresh.get(key)
            if job is None:
                fresh[key] = job_of(registration)
                new.append((index, registration))
            else:
                old.append((index, registration, job))
        if new:
            connection.execute(INSERT_JOB, [_job_values(registration) for _, registration in new])
            links = [
                {"job_uid": registration.uid, "subscription_id": registration.callback_subscription_id}
                for _, registration in new
                if registration.callback_subscription_id is not None
            ]
            if links:
                connection.execute(INSERT_CALLBACK, links)
            entries: list[tuple[Event, Lease | None]] = [
                (event, registration.lease) for _, registration in new for event in registration.events
            ]
            claimed = self._outbox.insert(connection, entries)
            for index, registration in new:
                taken = tuple(c for event in registration.events for c in claimed.get(event.id, ()))
                results[index] = Registered(job=job_of(registration), created=True, claimed=taken)
        for index, registration, job in old:
            results[index] = self._register_again(connection, registration, job)
        ordered = iter(range(len(registrations)))
        return [[results[next(ordered)] for _ in item] for item in items]

    def _register_again(self, connection: Connection, registration: Registration, job: Job) -> Registered:
        resumed = job.outcome in ("untracked", "not_found")
        changes: dict[str, Any] = {}
        if registration.metadata is not None:
            changes["metadata"] = dumps(registration.metadata)
        if registration.deadline_given:
            changes["deadline_at"] = registration.deadline_at
        if resumed:
            changes |= {
                **{"closed_at": None, "outcome": None, "missing_count": 0, "missing_since": None, "next_poll_at": None},
                **{"deadline_at": registration.deadline_at, "overdue": 0, "failure_count": 0},
            }
        if changes:
            connection.execute(update(JOBS).where(JOBS.c.uid == job.uid).values(**changes))
        if registration.callback_subscription_id is not None:
            self._add_callback(connection, job.uid, registration.callback_subscription_id)
        row = connection.execute(BY_UID, {"uid": job.uid}).one()
        return Registered(job=job_from(row), created=False, resumed=resumed)

    def _add_callback(self, connection: Connection, job_uid: str, subscription_id: str) -> None:
        """A new callback gets the job's events in order from the first."""
        link = {"job_uid": job_uid, "subscription_id": subscription_id}
        if connection.execute(INSERT_CALLBACK, link).rowcount == 0:
            return
        subscription = self._outbox.book.get(connection, subscription_id) or Subscription(id=subscription_id, sink="")
        events = select(EVENTS).where(EVENTS.c.job_uid == job_uid).order_by(EVENTS.c.sequence)
        busy = open_pairs(connection, [job_uid])
        rows = [delivery_values(event_from(row), subscription, busy, None) for row in connection.execute(events).all()]
        if rows:
            connection.execute(sqlite.insert(DELIVERIES).on_conflict_do_nothing(), rows)

    def _record(self, connection: Connection, items: Sequence[LookRecord]) -> Sequence[tuple[Claimed, ...] | Exception]:
        states = {row.uid: row for row in connection.execute(STATES, {"uids": [item.job_uid for item in items]})}
        results: list[tuple[Claimed, ...] | Exception] = []
        kept: list[LookRecord] = []
        for item in items:
            row = states.pop(item.job_uid, None)  # popped: a second record of this job in one group is stale
            if row is None or row.closed_at is not None or row.sequence != item.expected_sequence:
                results.append(StaleSequence(f"job {item.job_uid} is no longer at sequence {item.expected_sequence}"))
            else:
                kept.append(item)
                results.append(())
        if kept:
            connection.execute(ADVANCE, [_advance_values(item) for item in kept])
            observed = [_observed_values(item) for item in kept if item.seen is not None]
            if observed:
                connection.execute(OBSERVE, observed)
            claimed = self._outbox.insert(connection, [(event, item.lease) for item in kept for event in item.events])
            taken = {item.job_uid: tuple(c for e in item.events for c in claimed.get(e.id, ())) for item in kept}
            results = [
                result if isinstance(result, Exception) else taken[item.job_uid]
                for item, result in zip(items, results, strict=True)
            ]
        return results


def job_of(registration: Registration) -> Job:
    """The job that a registration makes."""
    seen = registration.seen
    return Job(
        uid=registration.uid,
        external_id=registration.external_id,
        source=registration.source,
        account=registration.account,
        progress=registration.progress,
        metadata=registration.metadata or {},
        action=seen.action if seen else None,
        channel=seen.channel if seen else None,
        scheduled_at=seen.scheduled_at if seen else None,
        started_at=seen.started_at if seen else None,
        next_attempt_at=seen.next_attempt_at if seen else None,
        attempt_count=seen.attempt_count if seen else 0,
        tracked_at=registration.tracked_at,
        deadline_at=registration.deadline_at,
        upstream=seen.upstream if seen else None,
    )


def _job_values(registration: Registration) -> dict[str, Any]:
    return {
        "uid": registration.uid,
        "external_id": registration.external_id,
        "source": registration.source,
        "account": registration.account,
        "tracked_at": registration.tracked_at,
        "deadline_at": registration.deadline_at,
        "metadata": dumps(registration.metadata or {}),
        **progress_values(registration.progress),
        **observation_values(registration.seen),
    }


def _advance_values(item: LookRecord) -> dict[str, Any]:
    values = {
        **progress_values(item.progress),
        "outcome": item.outcome,
        "closed_at": item.now if item.outcome is not None else None,
        "deadline_at": item.deadline_at,
        "last_error": mapping_or_none(item.last_error),
    }
    return {"job_uid": item.job_uid, "looks": int(item.seen is not None), **_new(values)}


def _observed_values(item: LookRecord) -> dict[str, Any]:
    return {"job_uid": item.job_uid, **_new({**observation_values(item.seen), "last_polled_at": item.now})}


def _new(values: dict[str, Any]) -> dict[str, Any]:
    return {f"new_{name}": value for name, value in values.items()}


def _existing(connection: Connection, registrations: Sequence[Registration]) -> dict[tuple[str, str, str], Job]:
    found: dict[tuple[str, str, str], Job] = {}
    for chunk in chunks(sorted({registration.external_id for registration in registrations})):
        for row in connection.execute(BY_EXTERNAL_IDS, {"external_ids": chunk}):
            found[(row.external_id, row.source, row.account)] = job_from(row, whole=False)
    return found


def _note(connection: Connection, items: Sequence[LookNote]) -> Sequence[None]:
    connection.execute(
        NOTE,
        [
            {
                "job_uid": note.job_uid,
                "polled_at": note.polled_at,
                "looks": int(note.polled_at is not None),
                **_new(
                    {
                        "next_poll_at": note.next_poll_at,
                        "failure_count": note.failure_count,
                        "missing_count": note.missing_count,
                        "missing_since": note.missing_since,
                        "last_error": mapping_or_none(note.last_error),
                    }
                ),
            }
            for note in items
        ],
    )
    return [None] * len(items)


def _untrack(connection: Connection, items: Sequence[tuple[str, float]]) -> Sequence[Job | Exception]:
    results: list[Job | Exception] = []
    for uid, now in items:
        connection.execute(
            update(JOBS)
            .where(JOBS.c.uid == uid, JOBS.c.closed_at.is_(None))
            .values(closed_at=now, outcome="untracked", next_poll_at=None)
        )
        row = connection.execute(BY_UID, {"uid": uid}).one_or_none()
        results.append(NotFound(f"there is no job {uid}") if row is None else job_from(row))
    return results


def _purge(connection: Connection, items: Sequence[str]) -> Sequence[Job | Exception]:
    results: list[Job | Exception] = []
    for uid in items:
        row = connection.execute(BY_UID, {"uid": uid}).one_or_none()
        if row is None:
            results.append(NotFound(f"there is no job {uid}"))
            continue
        events = select(EVENTS.c.id).where(EVENTS.c.job_uid == uid)
        deliveries = select(DELIVERIES.c.id).where(DELIVERIES.c.event_id.in_(events))
        connection.execute(delete(ATTEMPTS).where(ATTEMPTS.c.delivery_id.in_(deliveries)))
        connection.execute(delete(DELIVERIES).where(DELIVERIES.c.event_id.in_(events)))
        connection.execute(delete(EVENTS).where(EVENTS.c.job_uid == uid))
        connection.execute(delete(CALLBACKS).where(CALLBACKS.c.job_uid == uid))
        connection.execute(delete(JOBS).where(JOBS.c.uid == uid))
        results.append(job_from(row))
    return results


def _one(connection: Connection, statement: Any, parameters: dict[str, Any]) -> Job | None:
    row = connection.execute(statement, parameters).one_or_none()
    return None if row is None else job_from(row)


def _many(connection: Connection, statement: Any, parameters: dict[str, Any], whole: bool) -> list[Job]:
    return [job_from(row, whole=whole) for row in connection.execute(statement, parameters)]


def _find(connection: Connection, external_id: str, source: str | None, account: str | None) -> list[Job]:
    rows = connection.execute(BY_EXTERNAL_ID, {"external_id": external_id})
    found = [job_from(row) for row in rows]
    return [
        job for job in found if (source is None or job.source == source) and (account is None or job.account == account)
    ]


def _open_counts(connection: Connection) -> dict[tuple[str, str], int]:
    return {(row.source, row.account): row.open_count for row in connection.execute(COUNT_OPEN)}


def page_statement(
    limit: int, before: str | None, status: str | None, open: bool | None, source: str | None, account: str | None
) -> Any:
    """One page of jobs, newest first."""
    statement = select(JOBS).order_by(JOBS.c.uid.desc()).limit(limit + 1)
    if before is not None:
        statement = statement.where(JOBS.c.uid < before)
    if status is not None:
        statement = statement.where(JOBS.c.status == status)
    if open is not None:
        statement = statement.where(text("closed_at IS NULL" if open else "closed_at IS NOT NULL"))
    if source is not None:
        statement = statement.where(JOBS.c.source == source)
    if account is not None:
        statement = statement.where(JOBS.c.account == account)
    return statement


def _page(
    connection: Connection,
    limit: int,
    before: str | None,
    status: str | None,
    open: bool | None,
    source: str | None,
    account: str | None,
) -> Page[Job]:
    rows = connection.execute(page_statement(limit, before, status, open, source, account)).all()
    return page_of(rows, limit, job_from, lambda row: row.uid)


def require_one(jobs: Sequence[Job], external_id: str) -> Job:
    """The only job of that id. Raises NotFound, or Conflict `ambiguous_job`."""
    if not jobs:
        raise NotFound(f"no job {external_id} is tracked here", code="job_not_found")
    if len(jobs) > 1:
        where = ", ".join(f"?source={job.source}&account={job.account}" for job in jobs[:5])
        raise Conflict(f"{len(jobs)} accounts have a job {external_id}: choose one by {where}", code="ambiguous_job")
    return jobs[0]
