"""What has to be done from time to time: functions that scheduler.py times. Each does little and can be cut off."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import structlog

from relay.clock import Clock
from relay.core.job import Job
from relay.core.records import Pending
from relay.errors import StoreError
from relay.metrics import Metrics

DAY_SECONDS = 86_400.0
IDEMPOTENCY_SECONDS = 86_400.0
MAX_BATCHES = 100
"""Of each kind of row in one call: 20,000 events and jobs, 50,000 attempts."""
DEADLINE_COUNT = 200

Result = TypeVar("Result")
Place = tuple[str, str]
"""A source and the name of an account of it."""

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
    async def promote_heads(self, now: float, after: Any = ...) -> tuple[int, Any]: ...
    async def cancel_orphans(self, now: float, after: Any = ...) -> tuple[int, Any]: ...


class Jobs(Protocol):
    """What deadlines need of the store."""

    async def accounts_past_deadline(self, accounts: Sequence[Place], now: float) -> list[Place]: ...
    async def past_deadline(
        self, source: str, account: str, now: float, *, after: tuple[float, str] = ..., count: int = ...
    ) -> list[tuple[float, str]]: ...
    async def get(self, uid: str) -> Job | None: ...


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
    async def save_plan(self) -> None: ...
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
    where that ended, so what is owed and has to stay is not gone through again and again. A kind of row whose deletion
    fails keeps no other from being deleted."""

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
        keys = now - IDEMPOTENCY_SECONDS
        kinds: dict[str, Callable[[], Awaitable[int]]] = {
            "attempts": lambda: _batches(lambda: rows.delete_attempts(attempts)),
            "events": lambda: self._delete_events(now - self._events_seconds),
            "jobs": lambda: self._delete_jobs(jobs),
            "callbacks": lambda: self._delete_callbacks(jobs),
            "intents": lambda: _batches(lambda: rows.delete_intents(jobs)),
            "replays": lambda: _batches(lambda: rows.delete_replays(jobs)),
            "idempotency_keys": lambda: _batches(lambda: rows.delete_idempotency_keys(keys)),
            "secrets": lambda: rows.delete_secrets(now),
        }
        total = 0
        for kind, delete in kinds.items():
            count = await _attempt("retention", delete(), kind=kind) or 0
            if count:
                self._metrics.deleted.labels(kind).inc(count)
                total += count
        await _batches(rows.give_back)
        if total:
            log.info("retention", deleted=total)
        return total

    async def _delete_events(self, before: float) -> int:
        count, self._event = await _sweep(lambda *after: self._rows.delete_events(before, *after), self._event)
        return count

    async def _delete_jobs(self, before: float) -> int:
        count, self._job = await _sweep(lambda *after: self._rows.delete_jobs(before, *after), self._job)
        return count

    async def _delete_callbacks(self, before: float) -> int:
        count, self._callback = await _sweep(lambda *after: self._rows.delete_callbacks(before, *after), self._callback)
        return count


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
        promoted, self._pair = await _sweep(lambda *after: self._rows.promote_heads(now, *after), self._pair)
        if promoted:
            log.error("strays_promoted", count=promoted)
            self._wake()
        cancelled, self._subscription = await _sweep(
            lambda *after: self._rows.cancel_orphans(now, *after), self._subscription
        )
        if cancelled:
            log.error("strays_cancelled", count=cancelled)
        return promoted + cancelled


async def deadlines(jobs: Jobs, accounts: Mapping[Place, Account], clock: Clock) -> int:
    """Says of jobs whose deadline has passed that they are overdue, once each. Returns how many there were.

    A job for which that fails is logged and tried again the next time; it keeps no other from being called overdue.
    """
    now, count = clock(), 0
    for source, name in await jobs.accounts_past_deadline(list(accounts), now):
        account, after = accounts[source, name], (0.0, "")
        for _ in range(MAX_BATCHES):
            late = await jobs.past_deadline(source, name, now, after=after, count=DEADLINE_COUNT)
            for _, uid in late:
                await _attempt("overdue", _overdue(jobs, account, uid, now), job_uid=uid)
            count += len(late)
            if len(late) < DEADLINE_COUNT:
                break
            after = late[-1]
    return count


async def _overdue(jobs: Jobs, account: Account, uid: str, now: float) -> None:
    job = await jobs.get(uid)
    # A poll may have shown a later schedule since the deadlines were read.
    if job is not None and job.open and job.deadline_at is not None and job.deadline_at <= now:
        await account.overdue(job)


async def _attempt(upkeep: str, work: Awaitable[Result], **place: str) -> Result | None:
    """Does it. A failure is logged, so that it keeps nothing else from being done: None."""
    try:
        return await work
    except StoreError as error:
        log.error("upkeep_failed", upkeep=upkeep, error=str(error), **place)
    except Exception:
        log.exception("upkeep_failed", upkeep=upkeep, **place)
    return None


async def measure(database: Sized, deliveries: Deliveries, intents: Intents, metrics: Metrics, clock: Clock) -> None:
    """Sets the gauges that the database has to be asked for."""
    pending, now = await deliveries.pending(), clock()
    metrics.deliveries_pending.set(pending.count)
    for by, count in pending.held.items():
        metrics.deliveries_held.labels(by).set(count)
    metrics.oldest_pending_seconds.set(0.0 if pending.oldest_at is None else max(0.0, now - pending.oldest_at))
    metrics.intents_unknown.set(await intents.count_unknown(now))
    metrics.database_bytes.set(await database.size_bytes())


async def probes(accounts: Mapping[Place, Account]) -> None:
    """Tries refused keys again, reading them anew."""
    for (source, name), account in list(accounts.items()):
        await _attempt("probe", account.probe(), source=source, account=name)


async def learned(memories: Iterable[Memory], accounts: Iterable[Account]) -> None:
    """Writes down what was learned of the sources and what the accounts' planners keep over a restart, where it
    changed. What fails keeps nothing else from being written, and is raised then."""
    saves = [*(memory.save() for memory in memories), *(account.save_plan() for account in accounts)]
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
