"""What the database needs from time to time: retention in small batches, and strays brought home."""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy.engine import Connection

from relay.ids import least_id
from relay.store.database import Database
from relay.store.marks import promote_strays
from relay.store.statements import SQLITE, json_list, run, sql
from relay.store.tables import OPEN_DELIVERY

BATCH = 200

OLD_EVENTS = f"""
SELECT id, recorded_at FROM events
WHERE recorded_at >= :after AND recorded_at < :before AND NOT EXISTS (
  SELECT 1 FROM deliveries WHERE event_id = events.id AND {OPEN_DELIVERY}
)
ORDER BY recorded_at LIMIT {BATCH}
"""
HOLD_EVENTS = sql(lambda words: f"SELECT id FROM events e WHERE id IN {words.listed('ids')} {words.locked('e')}")
STILL_OPEN = sql(
    lambda words: f"SELECT event_id FROM deliveries WHERE event_id IN {words.listed('ids')} AND {OPEN_DELIVERY}"
)
OLD_JOBS = f"""
SELECT uid FROM jobs
WHERE closed_at IS NOT NULL AND closed_at < :before AND NOT EXISTS (
  SELECT 1 FROM deliveries WHERE job_uid = jobs.uid AND {OPEN_DELIVERY}
)
ORDER BY closed_at LIMIT {BATCH}
"""
DELETE_ATTEMPTS_OF_EVENTS = sql(
    lambda words: (
        f"""
DELETE FROM attempts WHERE delivery_id IN (SELECT id FROM deliveries WHERE event_id IN {words.listed("ids")})
"""
    )
)
DELETE_DELIVERIES_OF_EVENTS = sql(lambda words: f"DELETE FROM deliveries WHERE event_id IN {words.listed('ids')}")
DELETE_EVENTS = sql(lambda words: f"DELETE FROM events WHERE id IN {words.listed('ids')}")
# Attempts are committed in the order of time, all but a second or so: the first that is young enough ends it.
DELETE_OLD_ATTEMPTS = f"""
DELETE FROM attempts WHERE position IN (
  SELECT position FROM (SELECT position, started_at FROM attempts ORDER BY position LIMIT {BATCH}) AS oldest
  WHERE started_at < :before
)
"""
DELETE_CALLBACKS_OF_GONE_JOBS = sql(
    lambda words: (
        f"""
DELETE FROM job_callbacks WHERE job_uid IN {words.listed("uids")} AND NOT EXISTS (
  SELECT 1 FROM jobs WHERE uid = job_callbacks.job_uid
)
"""
    )
)
DELETE_JOBS = sql(
    lambda words: (
        f"""
DELETE FROM jobs WHERE uid IN {words.listed("uids")} AND closed_at < :before AND NOT EXISTS (
  SELECT 1 FROM deliveries WHERE job_uid = jobs.uid AND {OPEN_DELIVERY}
)
"""
    )
)
DELETE_OLD_KEYS = f"""
DELETE FROM idempotency_keys WHERE id IN (
  SELECT id FROM idempotency_keys WHERE created_at < :before ORDER BY created_at LIMIT {BATCH}
)
"""
DELETE_OLD_INTENTS = f"""
DELETE FROM intents WHERE id IN (
  SELECT id FROM intents WHERE id < :before ORDER BY id LIMIT {BATCH}
)
"""
DELETE_OLD_SECRETS = "DELETE FROM secrets WHERE expires_at IS NOT NULL AND expires_at < :now"
DELETE_OLD_REPLAYS = f"""
DELETE FROM replays WHERE id IN (
  SELECT id FROM replays WHERE ended_at IS NOT NULL AND ended_at < :before ORDER BY ended_at LIMIT {BATCH}
)
"""
OPEN_SLICE = f"""
SELECT job_uid, subscription_id, sequence, state, priority FROM deliveries
WHERE {OPEN_DELIVERY} AND (job_uid, subscription_id, sequence) > (:job_uid, :subscription_id, :sequence)
ORDER BY job_uid, subscription_id, sequence LIMIT 1000
"""
Pair = tuple[str, str]


class UpkeepStore:
    """Each call does one small batch and says how much it did; nothing of it stalls the hot paths."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def delete_events(self, before: float, after: float = 0.0) -> tuple[int, float | None]:
        """Deletes a batch of events recorded before a time, with their ended deliveries and attempts; those with a
        delivery still pending stay. Returns how many went, and from where to go on (None: nothing older is left)."""
        rows = await self._database.read(_old_events, before, after)
        if not rows:
            return 0, None
        count = await self._database.write(_each(_delete_events), ([row_id for row_id, _ in rows],))
        return count, rows[-1][1] if len(rows) == BATCH else None

    async def delete_attempts(self, before: float) -> int:
        """Deletes a batch of attempts that were made before a time."""
        return await self._database.write(_each(_delete_attempts), (before,))

    async def delete_jobs(self, before: float) -> int:
        """Deletes a batch of jobs that closed before a time and have no pending delivery."""
        uids = await self._database.read(_old_jobs, before)
        if not uids:
            return 0
        return await self._database.write(_each(_delete_jobs), (uids, before))

    async def delete_idempotency_keys(self, before: float) -> int:
        """Deletes a batch of answers kept since before a time."""
        return await self._database.write(_each(_delete_keys), (before,))

    async def delete_intents(self, before: float) -> int:
        """Deletes a batch of creates from before a time whose fate nobody ever knew."""
        return await self._database.write(_each(_delete_intents), (before,))

    async def delete_replays(self, before: float) -> int:
        """Deletes a batch of replays that ended before a time."""
        return await self._database.write(_each(_delete_replays), (before,))

    async def delete_secrets(self, now: float) -> int:
        """Deletes signing secrets that were rotated away and have expired."""
        return await self._database.write(_each(_delete_secrets), (now,))

    async def promote_strays(self, now: float, after: tuple[str, str, int] = ("", "", -1)) -> tuple[int, Any]:
        """Looks at a slice of the open deliveries for followers that nothing is in front of, and promotes them.
        Returns how many, and from where to go on (None: the end)."""
        strays, by_hand, next_after = await self._database.read(_strays, after)
        if not strays and not by_hand:
            return 0, next_after
        return await self._database.write(_each(promote_strays), (strays, by_hand, now)), next_after


def _each(one: Callable[..., Any]) -> Callable[[Connection, Sequence[Any]], Sequence[Any]]:
    batch = _BATCHES.get(one)
    if batch is None:

        def batch(connection: Connection, items: Sequence[Any]) -> Sequence[Any]:
            return [one(connection, *item) for item in items]

        _BATCHES[one] = batch
    return batch


_BATCHES: dict[Any, Callable[[Connection, Sequence[Any]], Sequence[Any]]] = {}


def _old_events(connection: Connection, before: float, after: float) -> list[tuple[str, float]]:
    return [(row.id, row.recorded_at) for row in run(connection, OLD_EVENTS, before=before, after=after)]


def _delete_events(connection: Connection, ids: Sequence[str]) -> int:
    if connection.dialect.name != SQLITE:
        run(connection, HOLD_EVENTS, ids=json_list(ids))  # or a replay could send one again meanwhile
    open_again = set(run(connection, STILL_OPEN, ids=json_list(ids)).scalars())
    gone = {"ids": json_list([event_id for event_id in ids if event_id not in open_again])}
    run(connection, DELETE_ATTEMPTS_OF_EVENTS, **gone)
    run(connection, DELETE_DELIVERIES_OF_EVENTS, **gone)
    return run(connection, DELETE_EVENTS, **gone).rowcount


def _delete_attempts(connection: Connection, before: float) -> int:
    return run(connection, DELETE_OLD_ATTEMPTS, before=before).rowcount


def _old_jobs(connection: Connection, before: float) -> list[str]:
    return list(run(connection, OLD_JOBS, before=before).scalars())


def _delete_jobs(connection: Connection, uids: Sequence[str], before: float) -> int:
    count = run(connection, DELETE_JOBS, uids=json_list(uids), before=before).rowcount
    run(connection, DELETE_CALLBACKS_OF_GONE_JOBS, uids=json_list(uids))
    return count


def _delete_keys(connection: Connection, before: float) -> int:
    return run(connection, DELETE_OLD_KEYS, before=before).rowcount


def _delete_intents(connection: Connection, before: float) -> int:
    return run(connection, DELETE_OLD_INTENTS, before=least_id("int", before)).rowcount


def _delete_replays(connection: Connection, before: float) -> int:
    return run(connection, DELETE_OLD_REPLAYS, before=before).rowcount


def _delete_secrets(connection: Connection, now: float) -> int:
    return run(connection, DELETE_OLD_SECRETS, now=now).rowcount


def _strays(
    connection: Connection, after: tuple[str, str, int]
) -> tuple[list[Pair], list[Pair], tuple[str, str, int] | None]:
    """The pairs whose first delivery is blocked, those of which all that were asked for by hand are, and the end of
    the slice. Of a pair that began before it, nothing is said."""
    job_uid, subscription_id, sequence = after
    rows = run(connection, OPEN_SLICE, job_uid=job_uid, subscription_id=subscription_id, sequence=sequence).all()
    begun = (job_uid, subscription_id)
    first: dict[Pair, str] = {}
    pending_by_hand: dict[Pair, bool] = {}
    for row in rows:
        pair = (row.job_uid, row.subscription_id)
        if pair == begun:
            continue
        if row.priority < 2:
            first.setdefault(pair, row.state)
        else:
            pending_by_hand[pair] = pending_by_hand.get(pair, False) or row.state == "pending"
    strays = [pair for pair, state in first.items() if state == "blocked"]
    by_hand = [pair for pair, pending in pending_by_hand.items() if not pending]
    last = rows[-1] if rows else None
    return strays, by_hand, None if last is None else (last.job_uid, last.subscription_id, last.sequence)
