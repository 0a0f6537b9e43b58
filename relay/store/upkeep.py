"""Periodic upkeep: retention in small batches, promotion of missed heads, cancellation of orphaned deliveries."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import update_wrapper
from typing import Any

from sqlalchemy.engine import Connection, Row

from relay.core.deliveries.dialogue import SHARED
from relay.core.deliveries.ledger import EVENT_KEY
from relay.core.figures import KEPT_SECONDS, SPAN_SECONDS
from relay.ids import least_id
from relay.store.databases.database import Database
from relay.store.databases.group_commit import alone
from relay.store.databases.locks import CHANGE, Key, locking, row_of
from relay.store.databases.statements import SQLITE, Sql, fetch_json, json_list, json_query, run, run_all, sql
from relay.store.deliveries.attempt_results import promote_heads
from relay.store.deliveries.cancellation import CANCEL_CHUNK, cancel
from relay.store.deliveries.memories import forget_groups
from relay.store.jobs.erasure import DELETE_EVENTS, LOCK_EVENTS
from relay.store.jobs.groups import NO_JOBS
from relay.store.jobs.job_pages import delete_search_of_gone
from relay.store.outbox.subscription_cache import SubscriptionCache
from relay.store.schema.tables import OPEN_DELIVERY

SLICE = 200
"""Rows read at a time."""
MAX_ROWS = 500
"""Maximum rows deleted per transaction, except that the rows of one event are always deleted together."""
TRY_UPKEEP_LOCK = f"SELECT pg_try_advisory_xact_lock({Key.UPKEEP})"
GIVEN_BACK_PAGES = 200
"""Maximum pages per transaction."""
KEPT_FREE = 10
"""Divisor: a tenth of the file may stay free, for the next day's rows."""
FIRST_EVENT = (0.0, 0)
FIRST_JOB = (0.0, "")
FIRST_PAIR = ("", "", -1)
"""Start of a sweep: before the time and key of any row."""

# The next old events, with their number of rows and whether a delivery is open.
OLD_EVENTS = f"""
SELECT id, recorded_at, position, (
  SELECT COALESCE(SUM(1 + made_count), 0) FROM deliveries WHERE event_id = events.id
) AS row_count, (
  SELECT COALESCE(MAX(CASE WHEN {OPEN_DELIVERY} THEN 1 ELSE 0 END), 0) FROM deliveries WHERE event_id = events.id
) AS open_count
FROM events WHERE recorded_at < :before AND (recorded_at, position) > (:after, :position)
ORDER BY recorded_at, position LIMIT {SLICE}
"""
# Locks the deliveries of events before they are deleted.
LOCK_DELIVERIES = json_query(
    "SELECT id, event_id, state FROM deliveries d WHERE event_id IN $json_values(ids) $for_update(d)",
    ("id", "event_id", "state"),
)
# The next old jobs, with their number of open deliveries.
OLD_JOBS = f"""
SELECT uid, closed_at, (SELECT COUNT(*) FROM deliveries WHERE job_uid = jobs.uid AND {OPEN_DELIVERY}) AS open_count
FROM jobs WHERE closed_at IS NOT NULL AND closed_at < :before AND (closed_at, uid) > (:after, :uid)
ORDER BY closed_at, uid LIMIT {SLICE}
"""
# Deletes the attempts of deliveries.
DELETE_ATTEMPTS_OF_DELIVERIES = sql("DELETE FROM attempts WHERE delivery_id IN $json_values(ids)")
# Deletes deliveries.
DELETE_DELIVERIES = sql("DELETE FROM deliveries WHERE id IN $json_values(ids)")
# Deletes the oldest attempts by position: attempts are committed in time order, to within a second.
DELETE_OLD_ATTEMPTS = f"""
DELETE FROM attempts WHERE position IN (
  SELECT position FROM (SELECT position, started_at FROM attempts ORDER BY position LIMIT {MAX_ROWS}) AS oldest
  WHERE started_at < :before
)
"""
# Deletes the callback links of deleted jobs.
DELETE_CALLBACKS_OF_GONE_JOBS = sql(
    """
DELETE FROM job_callbacks WHERE job_uid IN $json_values(uids) AND NOT EXISTS (
  SELECT 1 FROM jobs WHERE uid = job_callbacks.job_uid
)
"""
)
# Deletes closed jobs without open deliveries. Avoids NOT EXISTS, here and below: PostgreSQL may plan it as a join of
# all rows if it expects few, or, inside another expression, as a hash of all.
DELETE_JOBS = sql(
    f"""
DELETE FROM jobs WHERE uid $among(uids) AND closed_at < :before AND (
  SELECT 1 FROM deliveries WHERE job_uid = jobs.uid AND {OPEN_DELIVERY} LIMIT 1
) IS NULL
"""
)
# The next old finished groups.
OLD_GROUPS = f"""
SELECT id, finished_at FROM groups
WHERE finished_at IS NOT NULL AND finished_at < :before AND (finished_at, id) > (:after, :id)
ORDER BY finished_at, id LIMIT {SLICE}
"""
# Deletes finished groups without jobs. Keeps a group that has started another round meanwhile.
DELETE_GROUPS = sql(
    f"DELETE FROM groups WHERE id IN $json_values(ids) AND finished_at < :before AND {NO_JOBS}"
    " RETURNING source, account, name"
)
_NEEDED = """
(SELECT 1 FROM job_callbacks WHERE subscription_id = subscriptions.id LIMIT 1) IS NOT NULL
OR (SELECT 1 FROM deliveries WHERE subscription_id = subscriptions.id AND state = 'pending' LIMIT 1) IS NOT NULL
"""
# The next old callbacks, and whether they are needed.
OLD_CALLBACKS = f"""
SELECT id, CASE WHEN {_NEEDED} THEN 1 ELSE 0 END AS needed
FROM subscriptions WHERE callback = 1 AND id > :after AND id < :before ORDER BY id LIMIT {SLICE}
"""
# Deletes callbacks that are not needed.
DELETE_CALLBACKS = sql(f"DELETE FROM subscriptions WHERE id IN $json_values(ids) AND NOT ({_NEEDED})")
# Deletes a batch of old idempotency keys with their responses.
DELETE_OLD_KEYS = f"""
DELETE FROM idempotency_keys WHERE id IN (
  SELECT id FROM idempotency_keys WHERE created_at < :before ORDER BY created_at LIMIT {MAX_ROWS}
)
"""
# Deletes a batch of callback hosts that their callers no longer use.
DELETE_OLD_HOSTS = f"""
DELETE FROM callback_hosts WHERE (caller, host) IN (
  SELECT caller, host FROM callback_hosts WHERE used_at < :before ORDER BY used_at LIMIT {MAX_ROWS}
)
"""
# Deletes a batch of old intents.
DELETE_OLD_INTENTS = f"""
DELETE FROM intents WHERE id IN (
  SELECT id FROM intents WHERE id < :before ORDER BY id LIMIT {MAX_ROWS}
)
"""
# Deletes a batch of long unused streams without open deliveries. All their events are old, so a stream that restarts
# its numbering stays in order.
DELETE_OLD_STREAMS = sql(
    f"""
DELETE FROM streams WHERE uid IN (
  SELECT uid FROM streams WHERE used_at < :before
    AND (SELECT 1 FROM deliveries WHERE job_uid = streams.uid AND {OPEN_DELIVERY} LIMIT 1) IS NULL
  ORDER BY used_at LIMIT {MAX_ROWS} $skip_locked
)
"""
)
# Deletes expired secrets.
DELETE_OLD_SECRETS = "DELETE FROM secrets WHERE expires_at IS NOT NULL AND expires_at < :before"
# Deletes a batch of expired sessions and links.
DELETE_OLD_SESSIONS = sql(
    f"""
DELETE FROM sessions WHERE digest IN (
  SELECT digest FROM sessions WHERE expires_at < :before ORDER BY expires_at LIMIT {MAX_ROWS} $skip_locked
)
"""
)
# Deletes a batch of closed incidents.
DELETE_OLD_INCIDENTS = f"""
DELETE FROM incidents WHERE id IN (
  SELECT id FROM incidents WHERE closed_at IS NOT NULL AND closed_at < :before ORDER BY closed_at, id LIMIT {MAX_ROWS}
)
"""
_FIGURES = "SELECT name, label, span, began_at FROM figures WHERE span = :span AND began_at"
# Deletes a batch of a span's figures before a time.
DELETE_OLD_FIGURES = f"""
DELETE FROM figures WHERE (name, label, span, began_at) IN ({_FIGURES} < :before ORDER BY began_at LIMIT {MAX_ROWS})
"""
# Deletes a batch of a span's figures after a time, recorded while the clock was wrong.
DELETE_FUTURE_FIGURES = f"""
DELETE FROM figures WHERE (name, label, span, began_at) IN ({_FIGURES} > :after ORDER BY began_at LIMIT {MAX_ROWS})
"""
# Deletes a batch of old memories of sinks, unless a delivery uses them. The record of a written event, whose id is in
# its key, stays as long as the event: its delivery may wait for long.
DELETE_OLD_MEMORIES = f"""
DELETE FROM sink_memories WHERE (subscription_id, key) IN (
  SELECT subscription_id, key FROM sink_memories
  WHERE updated_at < :before AND (token IS NULL OR held_until < :before)
    AND NOT EXISTS (SELECT 1 FROM events WHERE events.id = substr(sink_memories.key, {len(EVENT_KEY) + 1}))
  ORDER BY updated_at LIMIT {MAX_ROWS}
)
"""
# Deletes a batch of old memories about people that a portal's subscriptions share, unless a delivery uses them.
DELETE_OLD_SHARED = f"""
DELETE FROM sink_memories WHERE subscription_id = '{SHARED}' AND key IN (
  SELECT key FROM sink_memories
  WHERE subscription_id = '{SHARED}' AND updated_at < :before AND (token IS NULL OR held_until < :before)
  ORDER BY key LIMIT {MAX_ROWS}
)
"""
# Deletes a batch of ended replays.
DELETE_OLD_REPLAYS = f"""
DELETE FROM replays WHERE id IN (
  SELECT id FROM replays WHERE ended_at IS NOT NULL AND ended_at < :before ORDER BY ended_at LIMIT {MAX_ROWS}
)
"""
# Deletes a batch of connect accounts removed from their listing.
DELETE_REMOVED_ACCOUNTS = f"""
DELETE FROM connect_accounts WHERE (source, account, id) IN (
  SELECT source, account, id FROM connect_accounts
  WHERE state = 'removed' AND since < :before ORDER BY since LIMIT {MAX_ROWS}
) AND state = 'removed'
"""
# Deletes a batch of rows from before a time, by their kind.
OLD: Mapping[str, Sql | str] = {
    "attempts": DELETE_OLD_ATTEMPTS,
    "callback_hosts": DELETE_OLD_HOSTS,
    "intents": DELETE_OLD_INTENTS,
    "incidents": DELETE_OLD_INCIDENTS,
    "memories": DELETE_OLD_MEMORIES,
    "shared_memories": DELETE_OLD_SHARED,
    "replays": DELETE_OLD_REPLAYS,
    "idempotency_keys": DELETE_OLD_KEYS,
    "streams": DELETE_OLD_STREAMS,
    "secrets": DELETE_OLD_SECRETS,
    "sessions": DELETE_OLD_SESSIONS,
}
"""Per kind of row, the statement that deletes a batch of those before a time: of their last use, their end, or their
expiry."""
# Resets accounts that were not listed for long: their next listing is a new baseline.
END_OLD_LISTINGS = "UPDATE accounts SET listed_at = NULL WHERE listed_at < :before RETURNING source, name"
# Deletes the connect accounts of an upstream account.
DELETE_LISTED_ACCOUNTS = "DELETE FROM connect_accounts WHERE source = :source AND account = :account"
# The next open deliveries by job, subscription and sequence.
OPEN_SLICE = f"""
SELECT job_uid, subscription_id, sequence, state, priority FROM deliveries
WHERE {OPEN_DELIVERY} AND (job_uid, subscription_id, sequence) > (:job_uid, :subscription_id, :sequence)
ORDER BY job_uid, subscription_id, sequence LIMIT 1000
"""
# The next subscription ids with pending deliveries, and whether the subscription is deleted. A loose index scan, as for
# claims: one seek per subscription with pending deliveries.
PENDING_SUBSCRIPTIONS = f"""
WITH RECURSIVE found(id, nth) AS (
  SELECT MIN(subscription_id), 1 FROM deliveries WHERE state = 'pending' AND subscription_id > :after
  UNION ALL
  SELECT (
    SELECT MIN(d.subscription_id) FROM deliveries d WHERE d.state = 'pending' AND d.subscription_id > found.id
  ), nth + 1
  FROM found WHERE found.id IS NOT NULL AND nth < {SLICE}
)
SELECT id, CASE WHEN (SELECT 1 FROM subscriptions s WHERE s.id = found.id) IS NULL THEN 1 ELSE 0 END AS gone
FROM found WHERE id IS NOT NULL
"""
Pair = tuple[str, str]
Place = tuple[float, int]
"""Time and position of an event."""
JobPlace = tuple[float, str]
"""Time at which a job closed or a group finished, and its id."""
PairPlace = tuple[str, str, int]


class UpkeepStore:
    """Each call does one batch, in transactions of at most MAX_ROWS rows, and returns its size, so that hot paths are
    never delayed. If several nodes share the database, one works at a time and the others do nothing."""

    def __init__(self, database: Database, cache: SubscriptionCache) -> None:
        self._database = database
        self._subscriptions = cache

    async def delete_old(self, kind: str, before: float) -> int:
        """Deletes a batch of rows of a kind, one of OLD, from before a time."""
        return await self._database.write(_delete_old, (kind, before))

    async def delete_events(self, before: float, after: Place = FIRST_EVENT) -> tuple[int, Place | None]:
        """Reads the next SLICE events recorded before a time and deletes them with their deliveries and attempts,
        except those with an open delivery. Returns the number deleted, and where to continue (None: at the end)."""
        rows = await self._read(OLD_EVENTS, before=before, after=after[0], position=after[1])
        count = 0
        for ids in _in_transactions((row.id, 1 + int(row.row_count)) for row in rows if not row.open_count):
            count += await self._database.write(_delete_events, (ids,))
        return count, (rows[-1].recorded_at, rows[-1].position) if len(rows) == SLICE else None

    async def delete_jobs(self, before: float, after: JobPlace = FIRST_JOB) -> tuple[int, JobPlace | None]:
        """Reads the next SLICE jobs closed before a time and deletes those without open deliveries. Returns the
        number deleted, and where to continue (None: at the end)."""
        rows = await self._read(OLD_JOBS, before=before, after=after[0], uid=after[1])
        uids = [row.uid for row in rows if not row.open_count]
        count = await self._database.write(_delete_jobs, (uids, before)) if uids else 0
        return count, (rows[-1].closed_at, rows[-1].uid) if len(rows) == SLICE else None

    async def delete_groups(self, before: float, after: JobPlace = FIRST_JOB) -> tuple[int, JobPlace | None]:
        """Reads the next SLICE groups that finished before a time and deletes those without jobs. Returns the number
        deleted, and where to continue (None: at the end)."""
        rows = await self._read(OLD_GROUPS, before=before, after=after[0], id=after[1])
        count = await self._database.write(_delete_groups, ([row.id for row in rows], before)) if rows else 0
        return count, (rows[-1].finished_at, rows[-1].id) if len(rows) == SLICE else None

    async def delete_callbacks(self, before: float, after: str = "") -> tuple[int, str | None]:
        """Reads the next SLICE callback subscriptions created before a time and deletes those without jobs or pending
        deliveries. Returns the number deleted, and where to continue (None: at the end)."""
        rows = await self._read(OLD_CALLBACKS, before=least_id("sub", before), after=after)
        ids = [row.id for row in rows if not row.needed]
        count = await self._database.write(_delete_callbacks, (self._subscriptions, ids)) if ids else 0
        return count, rows[-1].id if len(rows) == SLICE else None

    async def delete_figures(self, now: float) -> int:
        """Deletes a batch of the figures of a span that are past their retention, or over a day in the future."""
        return await self._database.write(_delete_figures, (now,))

    async def delete_connect_accounts(self, before: float) -> int:
        """Deletes a batch of connect accounts removed before a time, and all those of upstream accounts not listed
        since, for example because they left the settings."""
        return await self._database.write(_delete_connect_accounts, (before,))

    async def give_back(self) -> int:
        """SQLite: returns up to GIVEN_BACK_PAGES free pages to the disk while more than 1/KEPT_FREE of the file is
        free. Returns the number of pages. On PostgreSQL autovacuum does this."""
        if self._database.shared or not await self._database.read(_pages_to_give_back):
            return 0
        return await self._database.write(_give_back, ())

    async def promote_heads(self, now: float, after: PairPlace = FIRST_PAIR) -> tuple[int, PairPlace | None]:
        """Reads a slice of the open deliveries and promotes blocked heads, which have no delivery before them. Returns
        the number promoted, and where to continue (None: at the end)."""
        heads, manual, next_after = await self._database.read(_unpromoted, after)
        if not heads and not manual:
            return 0, next_after
        return await self._database.write(_promote, (heads, manual, now)), next_after

    async def cancel_orphans(self, now: float, after: str = "") -> tuple[int, str | None]:
        """Reads the next SLICE subscription ids with pending deliveries and cancels a chunk for each deleted one.
        Returns the number of heads cancelled, and where to continue (None: at the end)."""
        rows = await self._read(PENDING_SUBSCRIPTIONS, after=after)
        count, more = 0, False
        for row in rows:
            if row.gone:
                heads = await self._database.write(_cancel, (row.id, now))
                count, more = count + heads, more or heads == CANCEL_CHUNK
        if more:
            return count, after
        return count, max(row.id for row in rows) if len(rows) == SLICE else None

    async def _read(self, statement: str, **values: Any) -> Sequence[Row[Any]]:
        return await self._database.read(run_all, statement, values)


def _on_one_node(one: Callable[..., Any]) -> Callable[[Connection, Sequence[Any]], Sequence[Any]]:
    """A batch function that calls `one` with each item's values, unless another node does upkeep."""

    def batch(connection: Connection, items: Sequence[Any]) -> Sequence[Any]:
        if connection.dialect.name != SQLITE and not connection.exec_driver_sql(TRY_UPKEEP_LOCK).scalar_one():
            return [0] * len(items)
        return [one(connection, *item) for item in items]

    return alone()(update_wrapper(batch, one))


_promote, _cancel = _on_one_node(promote_heads), _on_one_node(cancel)


def _in_transactions(sizes: Iterable[tuple[str, int]]) -> Iterator[list[str]]:
    """Groups ids by their numbers of rows, into groups of at most MAX_ROWS rows or one id."""
    group: list[str] = []
    total = 0
    for row_id, size in sizes:
        if group and total + size > MAX_ROWS:
            yield group
            group, total = [], 0
        group.append(row_id)
        total += size
    if group:
        yield group


@_on_one_node
def _delete_old(connection: Connection, kind: str, before: float) -> int:
    value = least_id("int", before) if kind == "intents" else before
    return run(connection, OLD[kind], before=value).rowcount


@_on_one_node
def _delete_events(connection: Connection, ids: Sequence[str]) -> int:
    if connection.dialect.name != SQLITE:
        run(connection, LOCK_EVENTS, ids=json_list(ids))  # else a replay could send one again meanwhile
    found = fetch_json(connection, LOCK_DELIVERIES, ids=json_list(ids))  # else a manual retry could
    open_again = {event_id for _, event_id, state in found if state in ("pending", "blocked")}
    deliveries = json_list([row_id for row_id, event_id, _ in found if event_id not in open_again])
    run(connection, DELETE_ATTEMPTS_OF_DELIVERIES, ids=deliveries)
    run(connection, DELETE_DELIVERIES, ids=deliveries)
    gone = json_list([event_id for event_id in ids if event_id not in open_again])
    return run(connection, DELETE_EVENTS, ids=gone).rowcount


@_on_one_node
def _delete_jobs(connection: Connection, uids: Sequence[str], before: float) -> int:
    count = run(connection, DELETE_JOBS, uids=json_list(uids), before=before).rowcount
    run(connection, DELETE_CALLBACKS_OF_GONE_JOBS, uids=json_list(uids))
    delete_search_of_gone(connection, uids)
    return count


@_on_one_node
def _delete_groups(connection: Connection, ids: Sequence[str], before: float) -> int:
    gone = run(connection, DELETE_GROUPS, ids=json_list(ids), before=before).all()
    forget_groups(connection, gone)
    return len(gone)


# The locks keep registrations and retries from using one of them after the check that they are unneeded.
@_on_one_node
@locking(lambda item: [CHANGE, *map(row_of, item[1])])
def _delete_callbacks(connection: Connection, cache: SubscriptionCache, ids: Sequence[str]) -> int:
    cache.changed(connection)
    return run(connection, DELETE_CALLBACKS, ids=json_list(ids)).rowcount


@_on_one_node
def _delete_figures(connection: Connection, now: float) -> int:
    for span, kept_seconds in KEPT_SECONDS.items():
        count = (
            run(connection, DELETE_OLD_FIGURES, span=span, before=now - kept_seconds).rowcount
            or run(connection, DELETE_FUTURE_FIGURES, span=span, after=now + SPAN_SECONDS["day"]).rowcount
        )
        if count:
            return count
    return 0


@_on_one_node
def _delete_connect_accounts(connection: Connection, before: float) -> int:
    count = run(connection, DELETE_REMOVED_ACCOUNTS, before=before).rowcount
    for row in run(connection, END_OLD_LISTINGS, before=before).all():
        count += run(connection, DELETE_LISTED_ACCOUNTS, source=row.source, account=row.name).rowcount
    return count


def _pages_to_give_back(connection: Connection) -> int:
    free, total = (connection.exec_driver_sql(f"PRAGMA {name}_count").scalar_one() for name in ("freelist", "page"))
    return min(GIVEN_BACK_PAGES, max(0, int(free) - int(total) // KEPT_FREE))


@_on_one_node
def _give_back(connection: Connection) -> int:
    before = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    cursor = connection.connection.cursor()
    for _ in range(_pages_to_give_back(connection)):
        # Python's driver stops after the statement's first step, whatever the argument
        cursor.execute("PRAGMA incremental_vacuum(1)")
    cursor.close()
    return int(before) - int(connection.exec_driver_sql("PRAGMA page_count").scalar_one())


def _unpromoted(
    connection: Connection, after: tuple[str, str, int]
) -> tuple[list[Pair], list[Pair], tuple[str, str, int] | None]:
    """The pairs whose first delivery is blocked, the pairs whose manual deliveries are all blocked, and the end of
    the slice. Skips a pair that began before the slice."""
    job_uid, subscription_id, sequence = after
    rows = run(connection, OPEN_SLICE, job_uid=job_uid, subscription_id=subscription_id, sequence=sequence).all()
    begun = (job_uid, subscription_id)
    first: dict[Pair, str] = {}
    manual_pending: dict[Pair, bool] = {}
    for row in rows:
        pair = (row.job_uid, row.subscription_id)
        if pair == begun:
            continue
        if row.priority < 2:
            first.setdefault(pair, row.state)
        else:
            manual_pending[pair] = manual_pending.get(pair, False) or row.state == "pending"
    heads = [pair for pair, state in first.items() if state == "blocked"]
    manual = [pair for pair, pending in manual_pending.items() if not pending]
    last = rows[-1] if rows else None
    return heads, manual, None if last is None else (last.job_uid, last.subscription_id, last.sequence)
