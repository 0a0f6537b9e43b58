"""What the database needs from time to time: retention in small batches, and strays brought home."""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import bindparam, delete, select, text
from sqlalchemy.engine import Connection

from relay.store.database import SqliteDatabase
from relay.store.deliveries import ATTEMPTS, promote_strays
from relay.store.idempotency import KEYS
from relay.store.jobs import JOBS
from relay.store.outbox import CALLBACKS, DELIVERIES, EVENTS
from relay.store.tables import OPEN_DELIVERY, SecretRow

SECRETS = SecretRow.__table__  # type: ignore[attr-defined]
BATCH = 200

OLD_EVENTS = (
    select(EVENTS.c.position, EVENTS.c.id, EVENTS.c.recorded_at)
    .where(EVENTS.c.recorded_at < bindparam("before"), EVENTS.c.recorded_at >= bindparam("after"))
    .order_by(EVENTS.c.recorded_at)
    .limit(BATCH)
)
STILL_PENDING = (
    select(DELIVERIES.c.event_id)
    .where(DELIVERIES.c.event_id.in_(bindparam("event_ids", expanding=True)))
    .where(text(OPEN_DELIVERY))
)
OPEN_SLICE = text(f"""
SELECT job_uid, subscription_id, sequence, state FROM deliveries
WHERE {OPEN_DELIVERY} AND priority < 2
  AND (job_uid, subscription_id, sequence) > (:job_uid, :subscription_id, :sequence)
ORDER BY job_uid, subscription_id, sequence LIMIT 1000
""")


class UpkeepStore:
    """Each call does one small batch and says how much it did; nothing of it stalls the hot paths."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def delete_events(self, before: float, after: float = 0.0) -> tuple[int, float | None]:
        """Deletes a batch of events recorded before a time, with their ended deliveries and attempts; those with a
        delivery still pending stay. Returns how many went, and from where to go on (None: nothing older is left)."""
        return await self._database.write(_each(_delete_events), (before, after))

    async def delete_attempts(self, before_id: str) -> int:
        """Deletes a batch of attempts of ended deliveries whose (time-ordered) id is before this one."""
        return await self._database.write(_each(_delete_attempts), (before_id,))

    async def delete_jobs(self, before: float) -> int:
        """Deletes a batch of jobs that closed before a time and have no pending delivery."""
        return await self._database.write(_each(_delete_jobs), (before,))

    async def delete_idempotency_keys(self, before: float) -> int:
        """Deletes answers kept since before a time."""
        return await self._database.write(_each(_delete_keys), (before,))

    async def delete_secrets(self, now: float) -> int:
        """Deletes signing secrets that were rotated away and have expired."""
        return await self._database.write(_each(_delete_secrets), (now,))

    async def promote_strays(self, now: float, after: tuple[str, str, int] = ("", "", -1)) -> tuple[int, Any]:
        """Looks at a slice of the open deliveries for followers that nothing is in front of, and promotes them.
        Returns how many, and from where to go on (None: the end)."""
        strays, next_after = await self._database.read(_strays, after)
        if not strays:
            return 0, next_after
        return await self._database.write(_each(promote_strays), (strays, now)), next_after


def _each(one: Callable[..., Any]) -> Callable[[Connection, Sequence[Any]], Sequence[Any]]:
    batch = _BATCHES.get(one)
    if batch is None:

        def batch(connection: Connection, items: Sequence[Any]) -> Sequence[Any]:
            return [one(connection, *item) for item in items]

        _BATCHES[one] = batch
    return batch


_BATCHES: dict[Any, Callable[[Connection, Sequence[Any]], Sequence[Any]]] = {}


def _delete_events(connection: Connection, before: float, after: float) -> tuple[int, float | None]:
    rows = connection.execute(OLD_EVENTS, {"before": before, "after": after}).all()
    if not rows:
        return 0, None
    pending = set(connection.execute(STILL_PENDING, {"event_ids": [row.id for row in rows]}).scalars())
    gone = [row.id for row in rows if row.id not in pending]
    if gone:
        deliveries = select(DELIVERIES.c.id).where(DELIVERIES.c.event_id.in_(gone))
        connection.execute(delete(ATTEMPTS).where(ATTEMPTS.c.delivery_id.in_(deliveries)))
        connection.execute(delete(DELIVERIES).where(DELIVERIES.c.event_id.in_(gone)))
        connection.execute(delete(EVENTS).where(EVENTS.c.id.in_(gone)))
    last = float(rows[-1].recorded_at)
    # where only events with something pending share one time, step past it rather than read them again for ever
    return len(gone), None if len(rows) < BATCH else (last if gone or last > after else last + 0.001)


def _delete_attempts(connection: Connection, before_id: str) -> int:
    ids = select(ATTEMPTS.c.id).where(ATTEMPTS.c.id < before_id).order_by(ATTEMPTS.c.id).limit(BATCH)
    return int(connection.execute(delete(ATTEMPTS).where(ATTEMPTS.c.id.in_(ids))).rowcount)


def _delete_jobs(connection: Connection, before: float) -> int:
    uids = list(
        connection.execute(
            select(JOBS.c.uid)
            .where(text("closed_at IS NOT NULL"), JOBS.c.closed_at < before)
            .order_by(JOBS.c.closed_at)
            .limit(BATCH)
        ).scalars()
    )
    if uids:
        connection.execute(delete(CALLBACKS).where(CALLBACKS.c.job_uid.in_(uids)))
        connection.execute(delete(JOBS).where(JOBS.c.uid.in_(uids)))
    return len(uids)


def _delete_keys(connection: Connection, before: float) -> int:
    ids = select(KEYS.c.id).where(KEYS.c.created_at < before).order_by(KEYS.c.created_at).limit(BATCH)
    return int(connection.execute(delete(KEYS).where(KEYS.c.id.in_(ids))).rowcount)


def _delete_secrets(connection: Connection, now: float) -> int:
    return int(connection.execute(delete(SECRETS).where(SECRETS.c.expires_at < now)).rowcount)


def _strays(
    connection: Connection, after: tuple[str, str, int]
) -> tuple[list[tuple[str, str]], tuple[str, str, int] | None]:
    job_uid, subscription_id, sequence = after
    rows = connection.execute(
        OPEN_SLICE, {"job_uid": job_uid, "subscription_id": subscription_id, "sequence": sequence}
    ).all()
    seen = {(job_uid, subscription_id)}
    strays = []
    for row in rows:
        pair = (row.job_uid, row.subscription_id)
        if pair not in seen and row.state == "blocked":
            strays.append(pair)
        seen.add(pair)
    last = rows[-1] if rows else None
    return strays, None if last is None else (last.job_uid, last.subscription_id, last.sequence)
