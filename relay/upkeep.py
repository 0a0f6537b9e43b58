"""What has to be done from time to time: functions that scheduler.py times. Each does little and can be cut off."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

import structlog

from relay.clock import Clock
from relay.core.job import Job
from relay.core.records import Pending
from relay.metrics import Metrics

DAY_SECONDS = 86_400.0
IDEMPOTENCY_SECONDS = 86_400.0
MAX_BATCHES = 100
"""Of each kind of row in one call: 20,000 events and jobs, 50,000 attempts."""
DEADLINE_COUNT = 200

log = structlog.get_logger("relay.upkeep")


class Rows(Protocol):
    """What retention needs of the store."""

    async def delete_events(self, before: float, after: Any = ...) -> tuple[int, Any]: ...
    async def delete_attempts(self, before: float) -> int: ...
    async def delete_jobs(self, before: float, after: Any = ...) -> tuple[int, Any]: ...
    async def delete_callbacks(self, before: float, after: Any = ...) -> tuple[int, Any]: ...
    async def delete_idempotency_keys(self, before: float) -> int: ...
    async def delete_intents(self, before: float) -> int: ...
    async def delete_replays(self, before: float) -> int: ...
    async def delete_secrets(self, now: float) -> int: ...
    async def give_back(self) -> int: ...
    async def promote_strays(self, now: float, after: Any = ...) -> tuple[int, Any]: ...
    async def cancel_strays(self, now: float, after: Any = ...) -> tuple[int, Any]: ...


class Jobs(Protocol):
    """What deadlines need of the store."""

    async def past_deadline(self, now: float, count: int = 500) -> list[Job]: ...


class Deliveries(Protocol):
    """What the gauges need of the store."""

    async def pending(self) -> Pending: ...


class Intents(Protocol):
    """The same, of creates."""

    async def count_unknown(self, now: float) -> int: ...


class Sized(Protocol):
    """The same, of the database itself."""

    async def size_bytes(self) -> int: ...


class Account(Protocol):
    """One account's polling, as upkeep knows it."""

    async def overdue(self, job: Job) -> None: ...
    async def probe(self) -> bool: ...
    async def keep(self) -> None: ...
    def stalled(self, now: float) -> bool: ...


class Memory(Protocol):
    """What was learned of one source."""

    async def save(self) -> None: ...


class Kept(Protocol):
    """How long rows are kept: docs/settings.md, `retention`."""

    @property
    def events_days(self) -> int: ...
    @property
    def attempts_days(self) -> int: ...
    @property
    def jobs_days(self) -> int: ...


class Retention:
    """Deletes what is older than it is to be kept. A call does a bounded number of small batches; the next goes on
    where that ended, so what is owed and has to stay is not gone through again and again."""

    def __init__(self, rows: Rows, metrics: Metrics, clock: Clock, kept: Kept) -> None:
        self._rows = rows
        self._metrics = metrics
        self._clock = clock
        self._events_seconds = kept.events_days * DAY_SECONDS
        self._attempts_seconds = kept.attempts_days * DAY_SECONDS
        self._jobs_seconds = kept.jobs_days * DAY_SECONDS
        self._event: Any = None
        self._job: Any = None
        self._callback: Any = None

    async def run_once(self) -> int:
        """Returns how many rows went."""
        now, rows = self._clock(), self._rows
        attempts, jobs = now - self._attempts_seconds, now - self._jobs_seconds
        deleted = {"attempts": await _batches(lambda: rows.delete_attempts(attempts))}
        deleted["events"], self._event = await _sweep(
            lambda *after: rows.delete_events(now - self._events_seconds, *after), self._event
        )
        deleted["jobs"], self._job = await _sweep(lambda *after: rows.delete_jobs(jobs, *after), self._job)
        deleted["callbacks"], self._callback = await _sweep(
            lambda *after: rows.delete_callbacks(jobs, *after), self._callback
        )
        deleted["intents"] = await _batches(lambda: rows.delete_intents(jobs))
        deleted["replays"] = await _batches(lambda: rows.delete_replays(jobs))
        deleted["idempotency_keys"] = await _batches(lambda: rows.delete_idempotency_keys(now - IDEMPOTENCY_SECONDS))
        deleted["secrets"] = await rows.delete_secrets(now)
        for what, count in deleted.items():
            if count:
                self._metrics.deleted.labels(what).inc(count)
        await _batches(rows.give_back)
        total = sum(deleted.values())
        if total:
            log.info("retention", deleted=total)
        return total


class Strays:
    """Brings home deliveries that nothing else ends: followers that nothing is in front of are promoted, and what is
    for a subscription that is gone is cancelled. There should be none: they are logged."""

    def __init__(self, rows: Rows, clock: Clock, wake: Callable[[], None]) -> None:
        self._rows = rows
        self._clock = clock
        self._wake = wake
        self._pair: Any = None
        self._subscription: Any = None

    async def run_once(self) -> int:
        """Goes over a bounded part of what is pending; the next call goes on there. Returns how many there were."""
        now = self._clock()
        promoted, self._pair = await _sweep(lambda *after: self._rows.promote_strays(now, *after), self._pair)
        if promoted:
            log.error("strays_promoted", count=promoted)
            self._wake()
        cancelled, self._subscription = await _sweep(
            lambda *after: self._rows.cancel_strays(now, *after), self._subscription
        )
        if cancelled:
            log.error("strays_cancelled", count=cancelled)
        return promoted + cancelled


async def deadlines(jobs: Jobs, account_of: Callable[[Job], Account | None], clock: Clock) -> int:
    """Says of jobs whose deadline has passed that they are overdue, once each."""
    late = await jobs.past_deadline(clock(), DEADLINE_COUNT)
    for job in late:
        account = account_of(job)
        if account is not None:
            await account.overdue(job)
    return len(late)


async def measure(database: Sized, deliveries: Deliveries, intents: Intents, metrics: Metrics, clock: Clock) -> None:
    """Sets the gauges that the database has to be asked for."""
    pending, now = await deliveries.pending(), clock()
    metrics.deliveries_pending.set(pending.count)
    for by, count in pending.held.items():
        metrics.deliveries_held.labels(by).set(count)
    metrics.oldest_pending_seconds.set(0.0 if pending.oldest_at is None else max(0.0, now - pending.oldest_at))
    metrics.intents_unknown.set(await intents.count_unknown(now))
    metrics.database_bytes.set(await database.size_bytes())


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


async def _batches(delete: Callable[[], Awaitable[int]]) -> int:
    total = 0
    for _ in range(MAX_BATCHES):
        deleted = await delete()
        total += deleted
        if not deleted:
            break
    return total


async def _sweep(step: Callable[..., Awaitable[tuple[int, Any]]], after: Any) -> tuple[int, Any]:
    """Goes on from a place (None: the beginning). Returns how much was done, and from where to go on next time."""
    total = 0
    for _ in range(MAX_BATCHES):
        done, after = await (step() if after is None else step(after))
        total += done
        if after is None:
            break
    return total, after
