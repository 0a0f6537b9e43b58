"""Recurring work, timed by `Node._upkeep`: retention, repair of deliveries, deadlines, probes, gauges, statistics.

Each function does a bounded amount and can be cancelled. A failure is logged and never stops the rest.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog

from relay.clock import Clock
from relay.config.settings import RetentionSettings
from relay.core.incidents import INCIDENT_KINDS
from relay.core.subscriptions.signing import TOLERANCE_SECONDS
from relay.delivery.pulls import Pulls
from relay.delivery.shared import Shared
from relay.errors import StoreError
from relay.metrics import Metrics
from relay.polling.poller import Poller
from relay.polling.statistics import SourceStatistics
from relay.signals import Signals
from relay.store.incidents import REVIEWED_AT_ONCE, IncidentStore
from relay.store.jobs.groups import GroupStore
from relay.store.jobs.jobs import JobStore
from relay.store.store import Store
from relay.store.subscriptions.subscriptions import SubscriptionStore
from relay.store.upkeep import UpkeepStore

DAY_SECONDS = 86_400.0
IDEMPOTENCY_SECONDS = 86_400.0
SHARED_SECONDS = 3600.0
"""Lifetime of shared digests of addresses: after it, the search of every CRM finds the person."""
MAX_BATCHES = 100
"""Per kind of row and call: 20,000 events and jobs, 50,000 attempts."""
DEADLINE_COUNT = 200
GROUP_COUNT = 200
REPLAY_STEPS = 50
"""Maximum steps of one replay before the next replay continues."""
MEASURED_PULLS = 100
"""Maximum subscriptions whose lag is measured, the oldest first: each is a time series."""

Result = TypeVar("Result")
Pollers = Mapping[tuple[str, str], Poller]
"""By source and account."""
Step = Callable[..., Awaitable[tuple[int, Any]]]
"""Handles the rows after a place, its last argument (without one: from the start). Returns how many, and where to
continue."""
Work = Callable[..., Awaitable[int]]
"""Repeats a deletion with its arguments, under a name. Returns how many rows were deleted."""

log = structlog.get_logger("relay.node")


class Sweeps:
    """Sweeps over tables in bounded parts: each call continues where the last one of that name ended."""

    def __init__(self) -> None:
        self._places: dict[str, Any] = {}

    async def advance(self, name: str, step: Step, *arguments: Any) -> int:
        """Handles the next part, at most MAX_BATCHES batches. Returns how many rows it handled."""
        total, after = 0, self._places.get(name)
        for _ in range(MAX_BATCHES):
            count, after = await (step(*arguments) if after is None else step(*arguments, after))
            total += count
            if after is None:
                break
        self._places[name] = after
        return total


@dataclass(eq=False, repr=False)
class Retention:
    """Deletes rows older than the settings keep them. Rows that must stay are not read again in every call."""

    rows: UpkeepStore
    metrics: Metrics
    clock: Clock
    kept: RetentionSettings
    _sweeps: Sweeps = field(default_factory=Sweeps, init=False)

    async def run_once(self) -> int:
        """Deletes a bounded number of rows, in small batches. Returns how many."""
        now, rows, sweep = self.clock(), self.rows, self._sweeps.advance
        events, attempts, jobs = (
            now - days * DAY_SECONDS for days in (self.kept.events_days, self.kept.attempts_days, self.kept.jobs_days)
        )
        old = {
            "callback_hosts": jobs,
            "intents": jobs,
            "incidents": jobs,
            "memories": min(events, jobs),
            "shared_memories": now - SHARED_SECONDS,
            "replays": jobs,
            "idempotency_keys": now - IDEMPOTENCY_SECONDS,
            # A day later, so that a replay of its last events finds the row that it locks.
            "streams": events - DAY_SECONDS,
            # A receiver may still need the public key of a request on its way.
            "secrets": now - TOLERANCE_SECONDS,
            "sessions": now,
        }
        works: tuple[tuple[str, Work, *tuple[Any, ...]], ...] = (
            # First: with its event an attempt is not counted.
            ("attempts", _batches, rows.delete_old, "attempts", attempts),
            ("events", sweep, rows.delete_events, events),
            ("jobs", sweep, rows.delete_jobs, jobs),
            ("groups", sweep, rows.delete_groups, jobs),
            ("callbacks", sweep, rows.delete_callbacks, jobs),
            ("connect_accounts", _batches, rows.delete_connect_accounts, jobs),
            ("figures", _batches, rows.delete_figures, now),
            *((kind, _batches, rows.delete_old, kind, before) for kind, before in old.items()),
        )
        total = 0
        for kind, work, delete, *arguments in works:
            count = await _attempt("retention", work(kind, delete, *arguments), kind=kind) or 0
            if count:
                self.metrics.deleted.labels(kind).inc(count)
                total += count
        await _batches("give back", rows.give_back)
        if total:
            log.info("retention", deleted=total)
        return total


@dataclass(eq=False, repr=False)
class Orphans:
    """Repairs stuck deliveries: promotes followers without a head, and cancels pending deliveries of removed
    subscriptions. There should be none, so each is logged as an error."""

    rows: UpkeepStore
    clock: Clock
    signals: Signals
    _sweeps: Sweeps = field(default_factory=Sweeps, init=False)

    async def run_once(self) -> int:
        """Searches the next part of the pending deliveries. Returns how many were promoted or cancelled."""
        now, rows, sweep = self.clock(), self.rows, self._sweeps.advance
        promoted = await sweep("heads", rows.promote_heads, now)
        if promoted:
            log.error("orphans_promoted", count=promoted)
            self.signals.deliveries_due()
        cancelled = await sweep("orphans", rows.cancel_orphans, now)
        if cancelled:
            log.error("orphans_cancelled", count=cancelled)
        return promoted + cancelled


async def deadlines(jobs: JobStore, pollers: Pollers, clock: Clock) -> int:
    """Reports jobs past their deadline as overdue, once each. Returns how many were past it.

    A job for which this fails is logged and tried again next time.
    """
    now, count = clock(), 0
    for source, account in await jobs.accounts_past_deadline(list(pollers), now):
        after = (0.0, "")
        for _ in range(MAX_BATCHES):
            late = await jobs.past_deadline(source, account, now, after=after, count=DEADLINE_COUNT)
            for _, uid in late:
                await _attempt("overdue", _report_overdue(jobs, pollers[source, account], uid, now), job_uid=uid)
            count += len(late)
            if len(late) < DEADLINE_COUNT:
                break
            after = late[-1]
    return count


async def _report_overdue(jobs: JobStore, poller: Poller, uid: str, now: float) -> None:
    job = await jobs.get(uid)
    # A poll may have found a later schedule since the deadlines were read.
    if job is not None and job.open and job.deadline_at is not None and job.deadline_at <= now:
        await poller.poll_handler.overdue(job)


async def finish_groups(groups: GroupStore, clock: Clock) -> None:
    """Finishes the rounds of groups without new jobs for the settle time."""
    for _ in range(MAX_BATCHES):
        if await groups.finish_due(clock(), GROUP_COUNT) < GROUP_COUNT:
            break


async def measure(store: Store, metrics: Metrics, clock: Clock) -> None:
    """Sets the gauges that need a database query."""
    pending, now = await store.deliveries.pending(), clock()
    metrics.deliveries_pending.set(pending.count)
    metrics.figures.add("deliveries_undelivered", "", now, pending.count)
    metrics.deliveries_uncertain.set(await store.deliveries.uncertain())
    for by, count in pending.held.items():
        metrics.deliveries_held.labels(by).set(count)
    metrics.oldest_pending_seconds.set(0.0 if pending.oldest_at is None else max(0.0, now - pending.oldest_at))
    metrics.pull_lag.clear()
    metrics.pull_oldest_seconds.clear()
    for id in await store.pulls.subscriptions(MEASURED_PULLS):
        lag = await store.pulls.lag(id)
        metrics.pull_lag.labels(id).set(lag.count)
        metrics.pull_oldest_seconds.labels(id).set(lag.oldest_seconds(now) or 0.0)
    metrics.intents_unknown.set(await store.intents.count_unknown(now))
    open_incidents = await store.incidents.open_counts()
    for kind in INCIDENT_KINDS:
        metrics.incidents_open.labels(kind).set(open_incidents.get(kind, 0))
    metrics.database_bytes.set(await store.database.size_bytes())


async def incidents(store: IncidentStore, clock: Clock) -> None:
    """Closes incidents that are over, and drops watched failures that became none."""
    for _ in range(MAX_BATCHES):
        if await store.review(clock()) < REVIEWED_AT_ONCE:
            break


async def end_leases(pulls: Pulls, subscriptions: SubscriptionStore) -> None:
    """Records the leases of pulls that have ended, so that lists show it although no program pulls."""
    for id in await pulls.ended():
        subscription = await subscriptions.get(id)
        if subscription is not None:
            await pulls.end_leases(subscription)


async def replays(delivery: Shared) -> bool:
    """Advances the replays that no other node holds: queues their deliveries behind fresh ones, in bounded batches.
    Returns True if there was one.

    Each step is one transaction, so a replay can stop between any two and resume on any node.
    """
    rows, holder, clock = delivery.store.replays, delivery.holder, delivery.clock
    due = await rows.due(holder.name, clock())
    for replay_id in due:
        try:
            for _ in range(REPLAY_STEPS):
                step = await rows.advance(replay_id, holder.name, clock())  # the name can be lost at any time
                if step.queued:
                    delivery.signals.deliveries_due()
                if step.ended:
                    log.info("replay_ended", replay=replay_id)
                if not step.more:
                    break
        except Exception as error:  # does not stop other replays; tried again in the next run
            log.error("replay_failed", replay=replay_id, error=str(error) or type(error).__name__)
    return bool(due)


async def past_events(subscriptions: SubscriptionStore, signals: Signals) -> None:
    """Queues the past events of new subscriptions whose creation was cut off."""
    count = await subscriptions.continue_filling()
    if count:
        log.info("past_events_queued", subscriptions=count)
        signals.deliveries_due()


async def probes(pollers: Pollers) -> None:
    """Tests refused keys again, after reading them again."""
    for (source, account), poller in list(pollers.items()):
        await _attempt("probe", poller.probe(), source=source, account=account)


async def log_stalls(pollers: Pollers, clock: Clock) -> None:
    """Logs each account whose polls are due but do not complete."""
    now = clock()
    for (source, account), poller in pollers.items():
        if poller.stalled(now):
            log.error("polling_stalled", source=source, account=account)


async def save_statistics(statistics: Iterable[SourceStatistics], pollers: Pollers) -> None:
    """Saves each source's statistics and each account's plan, if they changed. Saves all before raising an error."""
    saves = [*(one.save() for one in statistics), *(poller.save_plan() for poller in pollers.values())]
    for result in await asyncio.gather(*saves, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


async def _attempt(upkeep: str, work: Awaitable[Result], **place: str) -> Result | None:
    """Awaits the work. Logs a failure and returns None."""
    try:
        return await work
    except StoreError as error:
        log.error("upkeep_failed", upkeep=upkeep, error=str(error), **place)
    except Exception:
        log.exception("upkeep_failed", upkeep=upkeep, **place)
    return None


async def _batches(_name: str, delete: Callable[..., Awaitable[int]], *arguments: Any) -> int:
    total = 0
    for _ in range(MAX_BATCHES):
        deleted = await delete(*arguments)
        total += deleted
        if not deleted:
            break
    return total
