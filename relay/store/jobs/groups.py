"""Groups of jobs: changed in the transaction that changes their jobs, closed, finished and read.

Rules are in `relay/core/jobs/groups.py`. A transaction collects its changes and applies them once, after its other
statements: one read and one UPDATE per group, and its row is locked after those of all jobs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import bindparam, select, text
from sqlalchemy.engine import Connection

from relay.core.events.event import GROUP_FINISHED, Event, Explain, owner_of, relay_event, unexplained
from relay.core.jobs.groups import Closing, Folded, JobChange, JobGroup, Place, fold
from relay.core.jobs.job import Job
from relay.core.records import Page
from relay.core.relay_events import dataschema_for, group_finished_data
from relay.ids import new_id
from relay.store.databases.database import Account, Database, Scoped
from relay.store.databases.group_commit import collected, each, quick
from relay.store.databases.locks import MATCH, locking
from relay.store.databases.notices import notify
from relay.store.databases.pages import decode_cursor, newest_first, read_page, unindexed
from relay.store.databases.statements import (
    INTEGER,
    REAL,
    SQLITE,
    TEXT,
    fetch,
    insert_into,
    json_list,
    run,
    run_many,
    run_rows,
    sql,
    table_of,
)
from relay.store.deliveries.memories import forget_groups
from relay.store.outbox.incident_recorder import Summary
from relay.store.outbox.recording import Outbox
from relay.store.rows import group_from, group_values
from relay.store.schema.tables import GroupRow

GROUPS = table_of(GroupRow)
SETTLE_SECONDS = 900.0
COUNTED_ENDS = 5_000
"""Maximum ends counted in one span of time: of a million jobs that ended in a day, a read takes 20 ms."""

Key = tuple[str, str, str]
"""The source, account and name of a group."""

_BY_KEYS = sql(
    "(source, account, name) IN (SELECT source, account, name FROM $json_rows(keys) AS wanted)",
    keys={"source": TEXT, "account": TEXT, "name": TEXT},
)
# Groups by key, locked in the order of their ids.
LOCK_GROUPS = {
    SQLITE: select(GROUPS).where(text(_BY_KEYS.sqlite)),
    "postgresql": select(GROUPS).where(_BY_KEYS.postgresql).order_by(GROUPS.c.id).with_for_update(),
}
_COLUMNS = ("round", "skipped", "expected", "closed_at", "first_at", "last_at", "max_gap_seconds", "finished_at")
# Makes a group, unless another transaction just has.
INSERT_GROUP = sql(
    insert_into(GroupRow, "id", "source", "account", "name", "first_at", "last_at", constants={"round": "1"})
    .replace("(id,", "(counts, failures, skipped, max_gap_seconds, id,")
    .replace("VALUES (", "VALUES ('{}', '{}', 0, 0, ")
    + " ON CONFLICT (source, account, name) DO NOTHING"
)
# Writes a group after a transaction's changes.
UPDATE_GROUP = sql(
    f"""
UPDATE groups SET {", ".join(f"{name} = :{name}" for name in (*_COLUMNS, "due_at"))},
  counts = $json(counts), failures = $json(failures)
WHERE id = :id
"""
)
# Notes which round counts a job.
SET_ROUNDS = sql(
    """
UPDATE jobs SET group_round = joined.round FROM $json_rows(rows) AS joined WHERE jobs.uid = joined.uid
""",
    rows={"uid": TEXT, "round": INTEGER},
)
# True if no job of a group is left.
NO_JOBS = """
NOT EXISTS (
  SELECT 1 FROM jobs WHERE group_name = groups.name AND source = groups.source AND account = groups.account
)
"""
# Deletes a group that has no jobs any more.
DELETE_EMPTY = f"DELETE FROM groups WHERE id = :id AND {NO_JOBS} RETURNING source, account, name"
# The next groups whose round may be over.
DUE = """
SELECT source, account, name FROM groups WHERE due_at IS NOT NULL AND due_at <= :now ORDER BY due_at, id LIMIT :count
"""
# Groups by name.
BY_NAME = select(GROUPS).where(GROUPS.c.name == bindparam("name")).order_by(GROUPS.c.id)
# Counts a group's jobs that ended in each span of time, up to a limit each.
COUNT_ENDS = sql(
    """
SELECT wanted.began_at, (
  SELECT COUNT(*) FROM (
    SELECT 1 FROM jobs
    WHERE source = :source AND account = :account AND group_name = :name
      AND closed_at >= wanted.began_at AND closed_at < wanted.ended_at
    LIMIT :most
  ) AS counted
) AS ended_count
FROM $json_rows(spans) AS wanted
""",
    spans={"began_at": REAL, "ended_at": REAL},
)


class Review(NamedTuple):
    """A group to be judged at a time, without a change."""

    at: float


Note = JobChange | Closing | Review


class GroupLedger:
    """The changes that transactions make to groups. Shared by all stores that write jobs; used by the writer only."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._settle_seconds = SETTLE_SECONDS
        self._base_url = "http://127.0.0.1:8080"
        self._explain: Explain = unexplained
        self._finished: Callable[[Sequence[str]], object] = lambda ids: None
        self._ids: list[str] = []
        """Groups that the open transaction finishes."""

    def configure(
        self,
        *,
        settle_seconds: float,
        base_url: str,
        explain: Explain = unexplained,
        finished: Callable[[Sequence[str]], object],
    ) -> None:
        """Sets the node's values, before anything is written.

        base_url  the relay's public URL
        explain   for the sentences about a finished group
        finished  called after the commit, perhaps in another thread, with the ids of groups that finished
        """
        self._settle_seconds = settle_seconds
        self._base_url = base_url
        self._explain = explain
        self._finished = finished

    def note(self, connection: Connection, key: Key, note: Note) -> None:
        """The open transaction changes a job of this group, closes it, or judges it."""
        collected(connection, self._apply).append((key, note))

    def note_job(self, connection: Connection, job: Job, at: float, before: Place | None, after: Place | None) -> None:
        """The open transaction changes the place of a job. Nothing if the job is in no group."""
        if job.group is not None and before != after:
            round = None if before is None else job.group_round
            change = JobChange(job.uid, at, before, after, round)
            self.note(connection, (job.source, job.account, job.group), change)

    def committed(self) -> None:
        """The open transaction was committed."""
        if self._ids:
            ids, self._ids = self._ids, []
            self._finished(ids)

    def rolled_back(self) -> None:
        """The open transaction was undone."""
        self._ids = []

    def _apply(self, connection: Connection, notes: Sequence[tuple[Key, Note]]) -> None:
        by_key: dict[Key, list[Note]] = {}
        for key, note in notes:
            by_key.setdefault(key, []).append(note)
        groups = self._locked(connection, by_key)
        found = [(notes, self._folded(groups[key], notes)) for key, notes in by_key.items() if key in groups]
        run_many(connection, UPDATE_GROUP, [group_values(folded.group) for _, folded in found])
        run_rows(connection, SET_ROUNDS, [row for notes, folded in found for row in _rounds(notes, folded)])
        finished = [folded.group for _, folded in found if folded.finished]
        for group in finished:
            self._ids.append(group.id)
            notify(connection, f"group {group.id}")
        # All jobs of a round may be erased: then there is nothing to tell.
        events = tuple(finished_event(group, self._base_url, self._explain) for group in finished if group.arrived)
        self._outbox.insert(connection, (), Summary(events=events))
        for made, folded in found:
            erases = any(isinstance(note, JobChange) and note.after is None for note in made)
            if erases and not folded.group.arrived:
                delete_empty(connection, folded.group.id)

    def _folded(self, group: JobGroup, notes: Sequence[Note]) -> Folded:
        return fold(
            group,
            [note for note in notes if isinstance(note, JobChange)],
            [note for note in notes if isinstance(note, Closing)],
            now=max(note.at for note in notes),
            settle_seconds=self._settle_seconds,
        )

    def _locked(self, connection: Connection, by_key: Mapping[Key, Sequence[Note]]) -> dict[Key, JobGroup]:
        """The groups, locked. Those that do not exist yet are made if a job arrives."""
        groups = _lock(connection, by_key)
        new = {
            key: min(note.at for note in notes)
            for key, notes in sorted(by_key.items())
            if key not in groups and any(isinstance(note, JobChange) and note.arrives for note in notes)
        }
        if new:
            rows = [
                dict(zip(("source", "account", "name"), key, strict=True))
                | {"id": new_id("grp", at), "first_at": at, "last_at": at}
                for key, at in new.items()
            ]
            run_many(connection, INSERT_GROUP, rows)
            groups |= _lock(connection, new)
        return groups


def delete_empty(connection: Connection, id: str) -> None:
    """Deletes a group without jobs, and the memories of sinks about it."""
    forget_groups(connection, run(connection, DELETE_EMPTY, id=id).all())


def _lock(connection: Connection, keys: Iterable[Key]) -> dict[Key, JobGroup]:
    rows = connection.execute(LOCK_GROUPS[connection.dialect.name], {"keys": json_list(list(keys))})
    return {(row.source, row.account, row.name): group_from(row) for row in rows}


def _rounds(notes: Sequence[Note], folded: Folded) -> list[tuple[str, int]]:
    """The jobs whose row names another round than the one that counts them. A new job's row names the first."""
    stored = {note.job_uid: note.round or 1 for note in reversed(notes) if isinstance(note, JobChange)}
    return [(uid, round) for uid, round in folded.joined.items() if stored[uid] != round]


def finished_event(group: JobGroup, base_url: str, explain: Explain = unexplained) -> Event:
    """The event of a round that has finished."""
    finished_at = group.finished_at or group.last_at
    return relay_event(
        new_id("evt", finished_at),
        GROUP_FINISHED,
        finished_at,
        group_finished_data(group, explain),
        dataschema=dataschema_for(GROUP_FINISHED, base_url),
        subject=group.name,
        owner=owner_of(group.source, group.account),
    )


class GroupStore(Scoped):
    """Reads groups, closes them, and finishes those that are due."""

    def __init__(self, database: Database, ledger: GroupLedger) -> None:
        self._database = database
        self._ledger = ledger
        self._note = quick(each(self._noted))

    async def get(self, id: str) -> JobGroup | None:
        """A group by the relay's id."""
        group = await self._database.read(_get, id)
        return group if group is None or self._account in (None, (group.source, group.account)) else None

    async def find(self, name: str, source: str | None = None, account: str | None = None) -> list[JobGroup]:
        """Groups by name. Several accounts may have one of the same name."""
        if "\0" in name:
            return []
        return [
            group
            for group in await self._database.read(_by_name, name)
            if self._account in (None, (group.source, group.account))
            and source in (None, group.source)
            and account in (None, group.account)
        ]

    async def page(
        self,
        *,
        limit: int,
        cursor: str | None = None,
        state: str | None = None,
        source: str | None = None,
        account: str | None = None,
    ) -> Page[JobGroup]:
        """Newest first. Raises InvalidRequest for an invalid cursor."""
        before = decode_cursor(cursor, prefix="grp_")
        statement = page_statement(limit, before, state, source, account, self._account)
        return await self._database.read(read_page, statement, limit, group_from, "id")

    async def ends(self, group: JobGroup, spans: Sequence[tuple[float, float]]) -> list[int]:
        """How many jobs of a group that the caller has read ended in each span of time, COUNTED_ENDS at most. A span
        has its beginning and not its end, in epoch seconds."""
        return await self._database.read(_ends, group, spans)

    async def close(self, group: JobGroup, expected: int | None, now: float) -> JobGroup | None:
        """States that no more jobs come. A round that has finished is unchanged. None if the group is gone."""
        key = group.source, group.account, group.name
        await self._database.write(self._note, (key, Closing(now, expected)))
        return await self.get(group.id)

    async def finish_due(self, now: float, count: int = 200) -> int:
        """Finishes rounds for which nothing came for long enough. Returns how many were reviewed."""
        keys = await self._database.read(_due, now, count)
        for key in keys:
            await self._database.write(self._note, (key, Review(now)))
        return len(keys)

    @locking(lambda _: [MATCH])
    def _noted(self, connection: Connection, item: tuple[Key, Note]) -> None:
        self._ledger.note(connection, *item)


def _get(connection: Connection, id: str) -> JobGroup | None:
    row = connection.execute(select(GROUPS).where(GROUPS.c.id == id)).one_or_none()
    return None if row is None else group_from(row)


def _by_name(connection: Connection, name: str) -> list[JobGroup]:
    return [group_from(row) for row in connection.execute(BY_NAME, {"name": name})]


def _ends(connection: Connection, group: JobGroup, spans: Sequence[tuple[float, float]]) -> list[int]:
    key = {"source": group.source, "account": group.account, "name": group.name}
    rows = fetch(connection, COUNT_ENDS, **key, spans=json_list(spans), most=COUNTED_ENDS)
    return [int(count) for _, count in sorted((row[0], row[1]) for row in rows)]


def _due(connection: Connection, now: float, count: int) -> list[Key]:
    return [(row.source, row.account, row.name) for row in run(connection, DUE, now=now, count=count)]


def page_statement(
    limit: int,
    before: str | None,
    state: str | None,
    source: str | None,
    account: str | None,
    within: Account | None = None,
) -> Any:
    """One page of groups, newest first. `within`: only those of this account."""
    wanted = [("account", account), ("source", source)]
    if within is not None:
        wanted = [("account", within[1]), ("source", within[0]), *wanted]
    given = [(GROUPS.c[name], value) for name, value in wanted if value is not None]
    along = [] if state == "open" else given[:1]  # few are open; an account has fewer than a source
    statement = newest_first(select(GROUPS), along, [GROUPS.c.id], before=[] if before is None else [before])
    statement = statement.where(*(unindexed(column) == value for column, value in given[len(along) :]))
    if state is not None:
        statement = statement.where(text(f"finished_at IS {'NULL' if state == 'open' else 'NOT NULL'}"))
    return statement.limit(limit + 1)
