"""What has to be done from time to time: functions that scheduler.py times. Each does little and can be cut off."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import structlog

from relay.clock import Clock
from relay.core.job import Job
from relay.metrics import Metrics

DAY_SECONDS = 86_400.0
IDEMPOTENCY_SECONDS = 86_400.0
MAX_BATCHES = 50
DEADLINE_COUNT = 200

log = structlog.get_logger("relay.upkeep")


class Rows(Protocol):
    """What retention needs of the store."""

    async def delete_events(self, before: float, after: float = 0.0) -> tuple[int, float | None]: ...
    async def delete_attempts(self, before: float) -> int: ...
    async def delete_jobs(self, before: float) -> int: ...
    async def delete_idempotency_keys(self, before: float) -> int: ...
    async def delete_intents(self, before: float) -> int: ...
    async def delete_replays(self, before: float) -> int: ...
    async def delete_secrets(self, now: float) -> int: ...
    async def promote_strays(self, now: float, after: Any = ("", "", -1)) -> tuple[int, Any]: ...


class Jobs(Protocol):
    """What deadlines need of the store."""

    async def past_deadline(self, now: float, count: int = 500) -> list[Job]: ...


class Deliveries(Protocol):
    """What the gauges need of the store."""

    async def pending_count(self) -> int: ...


class Account(Protocol):
    """One account's polling, as upkeep knows it."""

    async def overdue(self, job: Job) -> None: ...
    async def probe(self) -> bool: ...
    async def keep(self) -> None: ...
    def stalled(self, now: float) -> bool: ...


class Memory(Protocol):
    """What was learned of one source."""

    async def save(self) -> None: ...


async def retention(
    rows: Rows, metrics: Metrics, clock: Clock, *, events_days: int, attempts_days: int, jobs_days: int
) -> int:
    """Deletes what is older than it is to be kept, a bounded number of small batches. Returns how many rows went."""
    now = clock()
    total = 0

    def count(what: str, deleted: int) -> None:
        nonlocal total
        total += deleted
        if deleted:
            metrics.deleted.labels(what).inc(deleted)

    after: float | None = 0.0
    for _ in range(MAX_BATCHES):
        if after is None:
            break
        deleted, after = await rows.delete_events(now - events_days * DAY_SECONDS, after)
        count("events", deleted)
    count("attempts", await _batches(lambda: rows.delete_attempts(now - attempts_days * DAY_SECONDS)))
    count("jobs", await _batches(lambda: rows.delete_jobs(now - jobs_days * DAY_SECONDS)))
    count("intents", await _batches(lambda: rows.delete_intents(now - jobs_days * DAY_SECONDS)))
    count("replays", await _batches(lambda: rows.delete_replays(now - jobs_days * DAY_SECONDS)))
    count("idempotency_keys", await _batches(lambda: rows.delete_idempotency_keys(now - IDEMPOTENCY_SECONDS)))
    count("secrets", await rows.delete_secrets(now))
    if total:
        log.info("retention", deleted=total)
    return total


async def strays(rows: Rows, clock: Clock, wake: Callable[[], None]) -> int:
    """Brings home followers that nothing is in front of. There should be none: each one is logged."""
    total, after = 0, ("", "", -1)
    for _ in range(MAX_BATCHES):
        promoted, after = await rows.promote_strays(clock(), after)
        total += promoted
        if after is None:
            break
    if total:
        log.error("strays_promoted", count=total)
        wake()
    return total


async def deadlines(jobs: Jobs, account_of: Callable[[Job], Account | None], clock: Clock) -> int:
    """Says of jobs whose deadline has passed that they are overdue, once each."""
    late = await jobs.past_deadline(clock(), DEADLINE_COUNT)
    for job in late:
        account = account_of(job)
        if account is not None:
            await account.overdue(job)
    return len(late)


async def probes(accounts: Iterable[Account]) -> None:
    """Tries refused keys again, reading them anew."""
    for account in list(accounts):
        await account.probe()


async def learned(memories: Iterable[Memory], accounts: Iterable[Account]) -> None:
    """Writes down what was learned of the sources and what the accounts' planners keep over a restart, where it
    changed. What fails keeps nothing else from being written, and is raised then."""
    saves = [*(memory.save() for memory in memories), *(account.keep() for account in accounts)]
    for result in await asyncio.gather(*saves, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


async def _batches(delete: Callable[[], Any]) -> int:
    total = 0
    for _ in range(MAX_BATCHES):
        deleted: int = await delete()
        total += deleted
        if not deleted:
            break
    return total
