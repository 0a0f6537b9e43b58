"""Jobs: records of polls, and lists. Registration is in `registrations`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import structlog
from sqlalchemy import bindparam, select, text, update
from sqlalchemy.engine import Connection, Row
from sqlmodel import col

from relay.core.incidents import Trouble, trouble_of_job
from relay.core.jobs.groups import JobChange, place_of, place_of_job
from relay.core.jobs.job import OBSERVED, Job, Observation, PlannedJob, Recipient, deadline_after
from relay.core.jsontext import dumps
from relay.core.polling.tracking import Registration
from relay.core.records import Page, PollNote, PollRecord, Recorded, Registered
from relay.errors import DecryptError, NotFound, RequestError, StaleSequence
from relay.store.databases.database import Account, Cipher, Database, Scoped
from relay.store.databases.group_commit import alone, each, quick
from relay.store.databases.locks import MATCH, TransactionLock, incidents_of, locking
from relay.store.databases.lookup import Lookup
from relay.store.databases.notices import notify, notify_gone
from relay.store.databases.pages import decode_cursor
from relay.store.databases.statements import (
    TEXT,
    Sql,
    fetch,
    fetch_json,
    json_list,
    json_query,
    run,
    run_many,
    sql,
)
from relay.store.jobs.erasure import erase_job
from relay.store.jobs.groups import GroupLedger
from relay.store.jobs.job_pages import Counted, JobFilter, count_jobs, jobs_by_uid, read_jobs
from relay.store.jobs.job_search import FoundJobs, search_jobs
from relay.store.jobs.registrations import BY_UID, SET_STATUS_URL, SET_TOLD, Registrar
from relay.store.outbox.recording import (
    Outbox,
)
from relay.store.rows import JOB_COLUMNS, PROGRESS, job_from, loads, observation_values, progress_values, told_values
from relay.store.schema.tables import UNENDED_JOB, JobRow

# Jobs by the upstream's id.
BY_EXTERNAL_ID = select(*JOB_COLUMNS).where(col(JobRow.external_id) == bindparam("external_id"))
# The captured recipient of a job.
CAPTURED = "SELECT captured, source, account FROM jobs WHERE uid = :uid"
# The address at which a job is read.
STATUS_URL = "SELECT status_url FROM jobs WHERE uid = :uid"

log = structlog.get_logger("relay.store")


class _State(NamedTuple):
    """The columns read, under the row's lock, before a job is written."""

    sequence: int
    poll_count: int
    closed_at: float | None
    tracked_at: float
    scheduled_at: float | None
    deadline_at: float | None
    deadline_seconds: float | None
    source: str
    account: str
    group_name: str | None
    group_round: int | None
    phase: str | None
    channel: str | None
    connect_account_id: str | None


# Locks jobs and reads the fields that a poll record is checked against.
STATES = sql(
    f"SELECT {', '.join(('uid', *_State._fields))} FROM jobs WHERE uid IN $json_values(uids) $for_update(jobs)"
)


def _planned(where: str, order: str) -> Sql:
    """Open jobs, oldest first, with the columns a planner reads."""
    return json_query(
        f"""
SELECT {", ".join(PlannedJob._fields)} FROM jobs WHERE {where} ORDER BY {order} LIMIT :count
""",
        PlannedJob._fields,
    )


# The next open jobs of an account. Bounds instead of an equality: see `newest_first`.
OPEN_AFTER = _planned(
    "(source, account) <= (:source, :account) AND (source, account, uid) > (:source, :account, :after_uid)"
    " AND closed_at IS NULL",
    "source, account, uid",
)
# The next open jobs of all accounts. Not `closed_at IS NULL`: PostgreSQL might sort all open jobs.
OPENED_SINCE = _planned(f"uid > :after_uid AND {UNENDED_JOB} AND COALESCE(closed_at, -1) = -1", "uid")
_PAST_DEADLINE = "closed_at IS NULL AND overdue = 0 AND deadline_at <= :now"
# Accounts that have open jobs past their deadline. One seek per account. Jobs of accounts that no longer exist are not
# read.
ACCOUNTS_PAST_DEADLINE = sql(
    f"""
SELECT source, account FROM $json_rows(accounts) AS wanted
WHERE (
  SELECT 1 FROM jobs WHERE source = wanted.source AND account = wanted.account AND {_PAST_DEADLINE} LIMIT 1
) IS NOT NULL
""",
    accounts={"source": TEXT, "account": TEXT},
)
# The next open jobs of an account past their deadline.
PAST_DEADLINE = f"""
SELECT uid, deadline_at FROM jobs
WHERE source = :source AND account = :account AND {_PAST_DEADLINE} AND (deadline_at, uid) > (:after, :after_uid)
ORDER BY deadline_at, uid LIMIT :count
"""
# Counts open jobs per account.
COUNT_OPEN = text(
    "SELECT source, account, COUNT(*) AS open_count FROM jobs WHERE closed_at IS NULL GROUP BY source, account"
)


def _set(*names: str) -> str:
    return ", ".join(f"{name} = :{name}" for name in names)


_ADVANCE = f"""
UPDATE jobs SET {_set(*PROGRESS, "outcome", "closed_at")},
  next_poll_at = CASE WHEN CAST(:closed_at AS double precision) IS NULL THEN next_poll_at END"""
# Writes a poll that returned the job's state. `poll_step` counts polls without news. This one had news, and the note
# that follows plans the next.
ADVANCE_SEEN = f"""{_ADVANCE}, {_set(*OBSERVED, "upstream", "deadline_at", "last_error")}, last_polled_at = :now,
  connect_account_id = COALESCE(:connect_account_id, connect_account_id),
  poll_count = poll_count + 1, failure_count = 0, missing_count = 0, missing_since = NULL, poll_step = 0
WHERE uid = :job_uid
"""
# Writes a change found without a new state: the job is overdue or no longer found.
ADVANCE_UNSEEN = f"""{_ADVANCE}, last_error = COALESCE(:last_error, last_error),
  last_polled_at = COALESCE(:polled_at, last_polled_at), poll_count = poll_count + :polls
WHERE uid = :job_uid
"""
# Writes a poll that found nothing new.
NOTE = f"""
UPDATE jobs SET {_set("next_poll_at", "poll_step", "failure_count", "missing_count", "missing_since", "last_error")},
  poll_count = poll_count + :polls, last_polled_at = COALESCE(:polled_at, last_polled_at)
WHERE uid = :job_uid AND closed_at IS NULL AND poll_count = COALESCE(:expected_poll_count, poll_count)
"""


Deadline = tuple[float, str]
"""The time at which a job becomes overdue, and its uid."""
FIRST_DEADLINE: Deadline = (0.0, "")


class JobStore(Scoped):
    """Reads and writes of jobs. Every write is durable when its call returns."""

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        groups: GroupLedger,
        cipher: Cipher,
        search_keys: Sequence[str] = (),
    ) -> None:
        self._database = database
        self._cipher = cipher
        self._outbox = outbox
        self._groups = groups
        self._registrar = Registrar(outbox, groups, cipher, search_keys)
        self._untrack, self._purge = each(self._untracked), each(self._purged)
        self._by_uid = Lookup(database, _by_uids)

    # --- writes

    async def register(self, registration: Registration) -> Registered:
        """Tracks a job, or returns the one that is tracked already. Raises InvalidRequest for a callback too many."""
        result = (await self.register_many((registration,)))[0]
        if isinstance(result, RequestError):
            raise result
        return result

    async def register_many(self, registrations: Sequence[Registration]) -> Sequence[Registered | RequestError]:
        """Tracks jobs in one transaction. Returns one result each, in order: an error for a callback too many."""
        return await self._database.write(self._registrar.register, tuple(registrations))

    async def record(self, record: PollRecord) -> Recorded:
        """Writes the changes that a poll found, with its events. Returns the recorded ones.

        Raises StaleSequence if the job advanced, closed or was polled meanwhile: load it again.
        """
        return await self._database.write(self._record, record)

    async def note(self, note: PollNote) -> None:
        """Writes a poll that found nothing new."""
        await self._database.write(_note, note)

    async def ask_for_poll(self, job: Job) -> None:
        """Asks the node that polls the job's account, if it is another one, to poll the job soon."""
        await self._database.write(_ask_for_poll, job)

    async def untrack(self, uid: str, now: float) -> Job:
        """Closes an open job without an event; a closed one is unchanged. Raises NotFound."""
        await self._refuse_hidden(uid)
        return await self._database.write(self._untrack, (uid, now))

    async def purge(self, uid: str, now: float) -> Job:
        """Deletes a job, its events, their deliveries and attempts. Raises NotFound."""
        await self._refuse_hidden(uid)
        return await self._database.write(self._purge, (uid, now))

    async def _refuse_hidden(self, uid: str) -> None:
        if self._account is not None and await self.get(uid) is None:
            raise NotFound(f"there is no job {uid}")

    # --- reads

    async def get(self, uid: str) -> Job | None:
        """A job by the relay's id."""
        # PostgreSQL refuses NUL, which would fail the whole group.
        job = None if "\0" in uid else await self._by_uid.get(uid)
        return job if job is None or self._account in (None, (job.source, job.account)) else None

    async def recipient(self, uid: str) -> Recipient | None:
        """The captured recipient of the job's create; None if it is damaged. Raises DecryptError if its
        encryption key is missing, which can be added."""
        row = None if "\0" in uid else await self._database.read(_captured, uid)
        if row is None or row.captured is None or self._account not in (None, (row.source, row.account)):
            return None
        try:
            return Recipient.of(loads(self._cipher.decrypt(bytes(row.captured), context=uid)))
        except DecryptError as error:  # names the job and the key, never the value
            if error.key is not None:
                raise
            log.warning("recipient_unreadable", job_uid=uid, error=str(error))
            return None

    async def status_url(self, uid: str) -> str | None:
        """The address at which a job is read; None: it is read by its id. Raises DecryptError."""
        sealed = await self._database.read(_status_url, uid)
        return None if sealed is None else self._cipher.decrypt(sealed, context=uid).decode()

    async def set_status_url(self, uid: str, url: str) -> None:
        """Changes the address at which a job is read."""
        await self._database.write(_set_status_url, (uid, self._cipher.encrypt(url.encode(), context=uid)))

    async def find(
        self, external_id: str, source: str | None = None, account: str | None = None, resource: str | None = None
    ) -> list[Job]:
        """Jobs by the upstream's id. Several accounts, and several resources, may have the same id. `resource`: as
        in `Job`."""
        found = await self._database.read(_find, external_id)
        found = [job for job in found if self._account in (None, (job.source, job.account))]
        found = [job for job in found if source in (None, job.source) and account in (None, job.account)]
        return [job for job in found if resource in (None, job.resource)]

    async def open_jobs(
        self, source: str, account: str, *, after_uid: str = "", count: int = 5_000
    ) -> list[PlannedJob]:
        """An account's open jobs, oldest first, with the fields a planner reads."""
        parameters = {"source": source, "account": account, "after_uid": after_uid, "count": count}
        return await self._database.read(_open_jobs, OPEN_AFTER, parameters)

    async def opened_since(self, after_uid: str, count: int = 5_000) -> list[PlannedJob]:
        """Open jobs of all accounts registered after another one, with the fields a planner reads."""
        return await self._database.read(_open_jobs, OPENED_SINCE, {"after_uid": after_uid, "count": count})

    async def accounts_past_deadline(self, accounts: Sequence[Account], now: float) -> list[Account]:
        """The accounts of these that have open jobs past their deadline that are not marked overdue."""
        return await self._database.read(_accounts_past_deadline, accounts, now)

    async def past_deadline(
        self, source: str, account: str, now: float, *, after: Deadline = FIRST_DEADLINE, count: int = 200
    ) -> list[Deadline]:
        """An account's next open jobs past their deadline that are not marked overdue."""
        return await self._database.read(_past_deadline, source, account, now, after, count)

    async def open_counts(self) -> dict[tuple[str, str], int]:
        """Number of open jobs by (source, account)."""
        return await self._database.read(_open_counts)

    async def page(self, *, limit: int, cursor: str | None = None, **filters: Any) -> Page[Job]:
        """Newest first; `filters`: the fields of `JobFilter`. With any a page may be short, or empty, although
        there is a next one. Raises InvalidRequest for an invalid cursor."""
        wanted, before = self._filter(filters), decode_cursor(cursor, prefix="job_")
        if wanted is None:
            return Page(items=(), next_cursor=None)
        return await self._database.read(read_jobs, wanted, limit, before, self._account is not None)

    async def count(self, most: int, **filters: Any) -> Counted:
        """The number of jobs that `page` finds, up to `most`, at the cost of a page."""
        if (wanted := self._filter(filters)) is None:
            return Counted(0, more=False)
        return await self._database.read(count_jobs, wanted, most, self._account is not None)

    async def search(
        self, text: str, keys: Sequence[str], *, limit: int, cursor: str | None = None, **filters: Any
    ) -> FoundJobs:
        """Like `page`, of the jobs that a text finds, as `relay.store.jobs.job_search` says. `keys`: the keys of the
        metadata whose values are searched."""
        wanted, before = self._filter(filters), decode_cursor(cursor, prefix="job_")
        if wanted is None:
            return FoundJobs()
        return await self._database.read(search_jobs, text, keys, wanted, limit, before, self._account is not None)

    def _filter(self, filters: Mapping[str, Any]) -> JobFilter | None:
        """The filter of a page as this store's account sees it; None: it has no such jobs."""
        wanted = JobFilter(**filters)
        return wanted if self._account is None else wanted.within(self._account)

    # --- batches

    @quick
    @locking(lambda item: _locks_of(item))
    def _record(self, connection: Connection, items: Sequence[PollRecord]) -> Sequence[Recorded | Exception]:
        uids = json_list([item.job_uid for item in items])
        states = {uid: _State(*state) for uid, *state in fetch(connection, STATES, uids=uids)}
        results: list[Recorded | Exception] = []
        kept: list[PollRecord] = []
        troubles: list[Trouble] = []
        seen: list[dict[str, Any]] = []
        for item in items:
            state = states.pop(item.job_uid, None)  # popped: a second record of this job in the same group is stale
            if state is None or not _is_current(item, state):
                results.append(StaleSequence(f"job {item.job_uid} is no longer at sequence {item.expected_sequence}"))
            else:
                kept.append(item)
                if item.seen is not None:
                    seen.append(_seen_values(item, item.seen, state))
                    if item.outcome == "failed":
                        troubles.append(_trouble(item, item.seen, state))
                if state.group_name is not None:
                    self._count(connection, item, state, state.group_name)
                results.append(Recorded())
        run_many(connection, ADVANCE_SEEN, seen)
        told = [told_values(item.job_uid, told) for item in kept if (told := item.progress.told) is not None]
        run_many(connection, SET_TOLD, told)
        run_many(connection, ADVANCE_UNSEEN, [_unseen_values(item) for item in kept if item.seen is None])
        events = [(event, item.lease) for item in kept for event in item.events]
        failed_at = max((trouble.at for trouble in troubles), default=0.0)
        summary = self._outbox.incidents.observe(connection, troubles, failed_at)
        made = self._outbox.insert(connection, events, summary)
        return [
            result if isinstance(result, Exception) else _in_all([made[e.id] for e in item.events if e.id in made])
            for item, result in zip(items, results, strict=True)
        ]

    def _count(self, connection: Connection, item: PollRecord, state: _State, group: str) -> None:
        """Notes the change of the job's group. The job was open."""
        before = place_of(None, state.phase, None, None)
        ended = (None, None) if item.seen is None else (item.seen.result_status, item.seen.error_code)
        after = place_of(item.outcome, item.progress.phase, *ended)
        if after != before:
            change = JobChange(item.job_uid, item.now, before, after, state.group_round)
            self._groups.note(connection, (state.source, state.account, group), change)

    @alone()
    @locking(lambda _: [MATCH])
    def _untracked(self, connection: Connection, item: tuple[str, float]) -> Job | Exception:
        uid, now = item
        changed = connection.execute(
            update(JobRow)
            .where(col(JobRow.uid) == uid, col(JobRow.closed_at).is_(None))
            .values(closed_at=now, outcome="untracked", next_poll_at=None)
        )
        row = connection.execute(BY_UID, {"uid": uid}).one_or_none()
        if row is None:
            return NotFound(f"there is no job {uid}")
        job = job_from(row)
        if changed.rowcount:
            notify_gone(connection, row)
            self._groups.note_job(connection, job, now, place_of(None, row.phase, None, None), place_of_job(job))
        return job

    @alone()
    @locking(lambda _: [MATCH])
    def _purged(self, connection: Connection, item: tuple[str, float]) -> Job | Exception:
        uid, now = item
        _, job = erase_job(connection, self._groups, uid, now)
        return NotFound(f"there is no job {uid}") if job is None else job


def _locks_of(item: PollRecord) -> Sequence[TransactionLock]:
    """Events are matched, and those that finish a group; a failure changes the account's incidents."""
    return [MATCH, *(incidents_of(event.owner) for event in item.events[-1:] if item.outcome == "failed")]


def _trouble(item: PollRecord, seen: Observation, state: _State) -> Trouble:
    return trouble_of_job(
        seen,
        source=state.source,
        account=state.account,
        connect_account_id=seen.connect_account_id or state.connect_account_id,
        channel=seen.channel or state.channel,
        hint=item.hint,
        at=item.now,
        event_id=item.events[-1].id if item.events else None,
    )


def _is_current(item: PollRecord, state: _State) -> bool:
    polled_since = item.expected_poll_count not in (None, state.poll_count)
    return state.sequence == item.expected_sequence and state.closed_at is None and not polled_since


def _in_all(recorded: Sequence[Recorded]) -> Recorded:
    return Recorded(
        claimed=tuple(one for event in recorded for one in event.claimed), due=any(event.due for event in recorded)
    )


def _advance_values(item: PollRecord) -> dict[str, Any]:
    return {
        "job_uid": item.job_uid,
        **progress_values(item.progress),
        "outcome": item.outcome,
        "closed_at": item.now if item.outcome is not None else None,
        "last_error": _json_text(item.last_error),
    }


def _unseen_values(item: PollRecord) -> dict[str, Any]:
    polled = item.outcome == "not_found"  # found by a poll; overdue is found without one
    return {**_advance_values(item), "polled_at": item.now if polled else None, "polls": int(polled)}


def _seen_values(item: PollRecord, seen: Observation, state: _State) -> dict[str, Any]:
    deadline_at = state.deadline_at
    if deadline_at is not None and state.deadline_seconds is not None:
        deadline_at = deadline_after(
            deadline_at=deadline_at,
            seconds=state.deadline_seconds,
            tracked_at=state.tracked_at,
            before=state.scheduled_at,
            scheduled_at=seen.scheduled_at,
        )
    return {**_advance_values(item), **observation_values(seen), "deadline_at": deadline_at, "now": item.now}


def _json_text(value: Any) -> str | None:
    return None if value is None else dumps(value).decode()


@quick
def _note(connection: Connection, items: Sequence[PollNote]) -> Sequence[None]:
    run_many(
        connection,
        NOTE,
        [
            {
                "job_uid": note.job_uid,
                "expected_poll_count": note.expected_poll_count,
                "polled_at": note.polled_at,
                "polls": int(note.polled_at is not None),
                "next_poll_at": note.next_poll_at,
                "poll_step": note.poll_step,
                "failure_count": note.failure_count,
                "missing_count": note.missing_count,
                "missing_since": note.missing_since,
                "last_error": _json_text(note.last_error),
            }
            for note in sorted(items, key=lambda note: note.job_uid)
        ],
    )
    return [None] * len(items)


@each
def _ask_for_poll(connection: Connection, job: Job) -> None:
    notify(connection, f"look {job.source}/{job.account} {job.uid}")


def _by_uids(connection: Connection, uids: Sequence[str]) -> dict[str, Job]:
    return {job.uid: job for job in jobs_by_uid(connection, uids)}


def _status_url(connection: Connection, uid: str) -> bytes | None:
    sealed = run(connection, STATUS_URL, uid=uid).scalar_one_or_none()
    return None if sealed is None else bytes(sealed)


@each
def _set_status_url(connection: Connection, item: tuple[str, bytes]) -> None:
    uid, sealed = item
    run(connection, SET_STATUS_URL, uid=uid, status_url=sealed)


def _captured(connection: Connection, uid: str) -> Row[Any] | None:
    return run(connection, CAPTURED, uid=uid).one_or_none()


def _accounts_past_deadline(connection: Connection, accounts: Sequence[Account], now: float) -> list[Account]:
    found = fetch(connection, ACCOUNTS_PAST_DEADLINE, accounts=json_list(accounts), now=now)
    return [(source, account) for source, account in found]


def _past_deadline(
    connection: Connection, source: str, account: str, now: float, after: Deadline, count: int
) -> list[Deadline]:
    values = {"source": source, "account": account, "now": now, "after": after[0], "after_uid": after[1]}
    return [(row.deadline_at, row.uid) for row in run(connection, PAST_DEADLINE, **values, count=count)]


def _open_jobs(connection: Connection, statement: Sql, parameters: dict[str, Any]) -> list[PlannedJob]:
    return [PlannedJob._make(row) for row in fetch_json(connection, statement, **parameters)]


def _find(connection: Connection, external_id: str) -> list[Job]:
    return [job_from(row) for row in connection.execute(BY_EXTERNAL_ID, {"external_id": external_id})]


def _open_counts(connection: Connection) -> dict[tuple[str, str], int]:
    return {(row.source, row.account): row.open_count for row in connection.execute(COUNT_OPEN)}
