"""Decides which deliveries are sent when: scans for due ones, claims them by lease and gives them slots.

Deliveries of a poll that was just recorded arrive in memory, already leased; the scan finds retries, recoveries and
those that got no slot. A delivery is claimed only for a slot that is free, or soon will be, so a slow sink delays only
its own.
Slots are counted in `slots.py`; attempts run in `worker.py`.
"""

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from relay.clock import Clock
from relay.core.delivery import Attempt, Claimed, OutboundRequest, Outcome
from relay.core.events import Event
from relay.core.filters import matches
from relay.core.records import Lease, Probe, Recorded
from relay.core.subscription import DEFAULT_RETRY_SCHEDULE_SECONDS, Subscription
from relay.core.values import value_class
from relay.delivery.attempts import attempt_of
from relay.delivery.slots import Kind, Slots, Target
from relay.delivery.worker import (
    DATABASE_RETRY_SECONDS,
    ClaimedDeliveries,
    DispatchState,
    SinkHealth,
    Transport,
    Worker,
)
from relay.errors import StoreError
from relay.holder import Holder
from relay.metrics import Metrics
from relay.redaction import secrets_of
from relay.tasks import Tasks

LEASE_MARGIN_SECONDS = 30.0
IDLE_SCAN_SECONDS = 30.0
RESCAN_SECONDS = 0.05
MOST_RESCAN_SECONDS = 1.0
"""Maximum pause after scans that found due deliveries and could claim none: for example when the clock was set forward
and all deliveries in flight seem due."""
SYNC_SECONDS = 60.0
"""Interval at which a node learns of failures and successes of sinks at other nodes."""
EXPEDITE_SECONDS = 3600.0
"""A node that starts within this time after a subscription was enabled again expedites its retries."""
MOST_FREE_ATTEMPTS = 20
"""Maximum extra attempts of one delivery due to recoveries. At a sink with few events each success is a recovery, and
an event that it always rejects would be sent again after each of them for days."""
FRESH_WAIT_SECONDS = 1.0
"""Deliveries to a failing sink that have waited this long are demoted behind later ones."""
DEMOTE_CHUNKS = 5
"""Maximum batches that one claim demotes."""
CALLBACKS_PER_SCAN = 1_000
"""Maximum callback subscriptions that one scan loads."""

log = structlog.get_logger("relay.dispatcher")


class Backlog(Protocol):
    """The due time of the first pending delivery of a subscription, by priority."""

    @property
    def subscription_id(self) -> str: ...
    @property
    def due_at(self) -> tuple[float | None, ...]: ...


class Deliveries(ClaimedDeliveries, Protocol):
    """The dispatcher's view of the store's deliveries."""

    async def backlog(self) -> Sequence[Backlog]: ...
    async def claim_due(
        self, subscription_id: str, priorities: tuple[int, ...], count: int, now: float, lease: Lease
    ) -> tuple[Claimed, ...]: ...
    async def claim_probe(self, subscription_id: str, now: float, lease: Lease) -> Probe: ...
    async def expedite(
        self, subscription_id: str, now: float, made_since: float = ..., free_count: int = ...
    ) -> bool: ...
    async def demote(self, subscription_id: str, now: float) -> bool: ...


class Subscriptions(SinkHealth, Protocol):
    """The dispatcher's view of the store's subscriptions. `version` rises with each change."""

    @property
    def version(self) -> int: ...
    async def all(self) -> list[Subscription]: ...
    async def some(self, ids: Sequence[str]) -> list[Subscription]: ...
    async def failing(self) -> dict[str, float]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatcherSettings:
    """See docs/settings.md, `delivery`."""

    concurrency: int = 256
    per_host: int = 64
    timeout_seconds: float = 15.0
    retry_schedule_seconds: tuple[float, ...] = DEFAULT_RETRY_SCHEDULE_SECONDS
    jitter: float = 0.2
    disable_after_seconds: float = 432_000.0
    dataschema_base: str = ""

    def timeout_of(self, subscription: Subscription) -> float:
        """The timeout of one attempt, in seconds."""
        return self.timeout_seconds if subscription.timeout_seconds is None else subscription.timeout_seconds

    def schedule_of(self, subscription: Subscription) -> tuple[float, ...]:
        """The pauses between attempts, in seconds."""
        own = subscription.retry_schedule_seconds
        return self.retry_schedule_seconds if own is None else own


@value_class(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Slots for deliveries that are about to be recorded. Return it with `settle`."""

    lease: Lease
    targets: tuple[Target, ...]


class Dispatcher:
    """Sends due deliveries. `run_once()` is one scan; attempts run in their own tasks."""

    def __init__(
        self,
        *,
        deliveries: Deliveries,
        subscriptions: Subscriptions,
        kinds: Callable[[str], Kind],
        transport: Transport,
        clock: Clock,
        settings: DispatcherSettings,
        metrics: Metrics,
        holder: Holder,
        lease_clock: Clock | None = None,
        callback_secret: Callable[[], str],
        recorded: Callable[[Event], None] = lambda event: None,
        seed: int | None = None,
    ) -> None:
        self._deliveries = deliveries
        self._subscriptions = subscriptions
        self._kinds = kinds
        self._clock = clock
        self._settings = settings
        self._holder = holder
        self._lease_clock = lease_clock or clock
        self.slots = Slots(concurrency=settings.concurrency, per_host=settings.per_host)
        self._version = -1
        self._gone: set[str] = set()
        self._sync_at = 0.0
        self._rescan_seconds = RESCAN_SECONDS
        self._tasks = Tasks()
        self._wake = asyncio.Event()
        self._leases = 0
        self._state = DispatchState(slots=self.slots, tasks=self._tasks, wake=self._wake.set, holder=holder)
        self._worker = Worker(
            self._state,
            deliveries=deliveries,
            subscriptions=subscriptions,
            transport=transport,
            clock=clock,
            lease_clock=self._lease_clock,
            settings=lambda: self._settings,
            metrics=metrics,
            lease=self._lease,
            callback_secret=callback_secret,
            recorded=recorded,
            chance=random.Random(seed).random,  # noqa: S311 - jitter, not secrets
        )

    @property
    def settings(self) -> DispatcherSettings:
        """The current settings; may be replaced at any time."""
        return self._settings

    @settings.setter
    def settings(self, settings: DispatcherSettings) -> None:
        self._settings = settings
        self.slots.limit(concurrency=settings.concurrency, per_host=settings.per_host)

    # --- called by other components

    def wake(self) -> None:
        """Scans soon: something is due, or a subscription changed."""
        self._wake.set()

    def reserve(self, events: Sequence[Event]) -> Reservation | None:
        """Reserves slots for the first deliveries of a job's events. None if nothing matches or no slot is free.

        Callback subscriptions that are not loaded are left to the scan.
        """
        if self._state.stopping or not events or self._version != self._subscriptions.version:
            return None
        now = self._clock()
        taken: list[Target] = []
        for target in self.slots:
            wanted = any(
                matches(target.subscription, event.type, event.source, job_event=event.job_uid is not None)
                for event in events
            )
            if wanted:
                self.slots.fresh_at = now
            if wanted and target.may_send(now) and self.slots.free(target) > 0:
                self.slots.occupy(target)
                target.paced(1, now)
                taken.append(target)
        if not taken:
            return None
        longest = max(self._settings.timeout_of(target.subscription) for target in taken)
        ids = frozenset(target.subscription.id for target in taken)
        return Reservation(lease=self._lease(longest, ids), targets=tuple(taken))

    def settle(self, reservation: Reservation | None, recorded: Recorded) -> None:
        """Starts the deliveries leased with a reservation and frees unused slots. Always call it after `reserve`."""
        due = recorded.due
        for target in reservation.targets if reservation is not None else ():
            leased = [one for one in recorded.claimed if one.subscription_id == target.subscription.id]
            if not leased or not target.known:  # removed meanwhile, with its deliveries
                self._state.vacate(target)
                due |= target.waiting  # a scan may have skipped it for lack of slots
                continue
            for nth, one in enumerate(leased):  # several only without ordering
                self._worker.start(target, one, has_slot=nth == 0)
        if due:
            self._wake.set()

    async def test(self, subscription: Subscription, event: Event) -> tuple[Attempt, Outcome]:
        """Sends one event now, without limits. Nothing is stored."""
        kind = self._kinds(subscription.kind)
        headers, response, outcome = await self._worker.exchange(subscription, kind, event)
        secrets = secrets_of(subscription.sink, kind.redacted_url(subscription.sink), subscription.headers)
        return attempt_of(1, headers, response, secrets=secrets), outcome

    def request_of(self, subscription: Subscription, event: Event) -> OutboundRequest:
        """The request as it would be sent now. Raises what the kind of sink raises."""
        return self._worker.signed(subscription, self._kinds(subscription.kind), event)

    # --- the loop

    async def run(self) -> None:
        """Repeats `run_once()` until `stop()`."""
        while not self._state.stopping:
            self._wake.clear()
            try:
                wait_seconds = await self.run_once()
            except StoreError as error:
                log.error("dispatch_failed", error=str(error))
                wait_seconds = DATABASE_RETRY_SECONDS
            except Exception:
                log.exception("dispatch_failed")
                wait_seconds = DATABASE_RETRY_SECONDS
            if wait_seconds > 0:
                try:
                    async with asyncio.timeout(wait_seconds):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    async def run_once(self) -> float:
        """Claims and starts the due deliveries that have a free slot. Returns the seconds until the next scan."""
        await self._refresh()
        now = self._clock()
        if now >= self._sync_at:
            self._sync_at = now + SYNC_SECONDS
            await self._sync_failing()
        next_due = now + IDLE_SCAN_SECONDS
        backlog = await self._deliveries.backlog()
        self._state.starved = False
        if not await self._load_callbacks(backlog, now):
            next_due = now
        self.slots.note_backlog({entry.subscription_id for entry in backlog})
        due: list[tuple[Target, Backlog]] = []
        for entry in backlog:
            found = self.slots.get(entry.subscription_id)
            if found is None:
                if _due_at(entry) > now:
                    next_due = min(next_due, _due_at(entry))
                continue
            if found.subscription.state not in ("enabled", "disabled"):
                continue
            probing = found.subscription.state == "disabled"
            if probing:
                if found.probe_at is None or found.busy:
                    continue
                earliest = found.probe_at
            else:
                self._expedite_once(found, now)
                earliest = max(_due_at(entry), found.not_before)
            if earliest > now:
                next_due = min(next_due, earliest)
            else:
                due.append((found, entry))
        claims = []
        share = max(1, (self.slots.concurrency - self.slots.in_flight) // max(1, len(due)))
        for found, entry in due:
            free = min(share, self.slots.free(found, now))
            if free > 0 and found.subscription.state == "disabled":
                self.slots.occupy(found)
                claims.append(self._probe(found, now))
            elif free > 0:
                priorities = tuple(p for p, at in enumerate(entry.due_at) if at is not None and at <= now)
                limit = self.slots.backlogged_limit(found, now)
                if limit < math.inf:  # fresh deliveries first, and a bounded backlog
                    if 0 in priorities:
                        priorities = (0,)
                    else:
                        free = min(free, int(limit) - found.backlogged)
                for _ in range(free):  # before the next subscription: it gets the rest
                    self.slots.occupy(found)
                if free > 0:
                    claims.append(self._claim(found, priorities, free, now))
            elif not found.busy:
                # other subscriptions have all the slots
                self._state.starved = True
        if claims:
            # deliveries behind the claimed ones may be due soon: scan again
            started = sum(await asyncio.gather(*claims))
            next_due = min(next_due, self._clock() + (0.0 if started else self._rescan_seconds))
            self._rescan_seconds = RESCAN_SECONDS if started else min(2 * self._rescan_seconds, MOST_RESCAN_SECONDS)
        return max(0.0, next_due - self._clock())

    async def drain(self) -> None:
        """Waits until nothing is in flight (tests, shutdown)."""
        await self._tasks.drain()

    def cut_off(self) -> None:
        """Cancels what is in flight."""
        self._tasks.cancel()

    async def stop(self, timeout_seconds: float) -> None:
        """Stops claiming, releases unsent deliveries at once, and finishes those in flight within `timeout_seconds`.
        The rest keep their leases: they may have arrived."""
        self._state.stopping = True
        self.slots.release_waiting()
        self._wake.set()
        await self._tasks.finish(timeout_seconds)

    # --- claiming

    async def _refresh(self) -> None:
        version = self._subscriptions.version
        if version == self._version:
            return
        callbacks = [target.subscription.id for target in self.slots if target.subscription.callback]
        found = [*await self._subscriptions.all(), *(await self._subscriptions.some(callbacks) if callbacks else ())]
        self.slots.adopt({one.id: (one, kind) for one in found if (kind := self._kind_of(one)) is not None})
        self._gone.clear()
        self._version = version

    def _kind_of(self, subscription: Subscription) -> Kind | None:
        """None for an unknown kind, for example after a downgrade: its deliveries wait."""
        try:
            return self._kinds(subscription.kind)
        except KeyError:
            log.error("unknown_kind", subscription=subscription.id, kind=subscription.kind)
            return None

    async def _load_callbacks(self, backlog: Sequence[Backlog], now: float) -> bool:
        """Loads callbacks with due deliveries, in pages. Returns True once all are loaded."""
        due = [entry.subscription_id for entry in backlog if _due_at(entry) <= now]
        missing = [one for one in due if self.slots.get(one) is None and one not in self._gone]
        page = missing[:CALLBACKS_PER_SCAN]
        for one in await self._subscriptions.some(page) if page else ():
            if (kind := self._kind_of(one)) is not None:
                self.slots.join(one, kind)
        self._gone.update(one for one in page if self.slots.get(one) is None)
        return len(page) == len(missing)

    async def _sync_failing(self) -> None:
        """Takes over what other nodes saw: a sink is failing only if all nodes saw only failures."""
        failing = await self._subscriptions.failing()
        for target in self.slots:
            since = failing.get(target.subscription.id)
            if (since is None) is not (target.failing_since is None):
                target.failing_since = since

    async def _claim(self, target: Target, priorities: tuple[int, ...], count: int, now: float) -> int:
        """Claims and starts due deliveries in the slots taken for them, and frees the rest. Returns how many."""
        started = 0
        try:
            if 0 in priorities and (target.down or target.recovered):
                # the backlog of a sink that was down ranks behind new events
                for _ in range(DEMOTE_CHUNKS):
                    if not await self._deliveries.demote(target.subscription.id, now - FRESH_WAIT_SECONDS):
                        break
            target.recovered = False
            lease = self._lease(self._settings.timeout_of(target.subscription))
            claimed = await self._deliveries.claim_due(target.subscription.id, priorities, count, now, lease)
            target.paced(len(claimed), now)
            for one in claimed:
                self._worker.start(target, one)
                started += 1
        finally:
            for _ in range(count - started):
                self._state.vacate(target)
        return started

    async def _probe(self, target: Target, now: float) -> int:
        """Probes a disabled subscription with its oldest delivery, if it is this node's turn. Returns 1 if sent."""
        claimed = None
        try:
            lease = self._lease(self._settings.timeout_of(target.subscription))
            probe = await self._deliveries.claim_probe(target.subscription.id, now, lease)
            target.probe_at, claimed = probe.next_at, probe.claimed
            if claimed is not None:
                self._worker.start(target, claimed)
        finally:
            if claimed is None:
                self._state.vacate(target)
        return 0 if claimed is None else 1

    def _expedite_once(self, target: Target, now: float) -> None:
        """Makes waiting retries due, once after each resumption, drain start or recovery."""
        by_hand = max(target.subscription.drain_since or 0.0, target.subscription.enabled_since or 0.0)
        since = max(by_hand, target.back_since)
        if since and since != target.expedited:
            target.expedited = since
            if now - since < EXPEDITE_SECONDS:
                # Recoveries can repeat: without limits an event that always fails would never be dead.
                schedule_seconds = sum(self._settings.schedule_of(target.subscription))
                limits = () if since == by_hand else (now - schedule_seconds, MOST_FREE_ATTEMPTS)
                self._tasks.start(self._expedite(target, *limits))

    async def _expedite(self, target: Target, *limits: Any) -> None:
        subscription_id, expedite = target.subscription.id, self._deliveries.expedite
        try:
            while await expedite(subscription_id, self._clock(), *limits) and not self._state.stopping:
                pass
        except StoreError as error:
            target.expedited = None
            log.error("forward_failed", subscription=subscription_id, error=str(error))
        self._wake.set()

    def _lease(self, timeout_seconds: float, subscription_ids: frozenset[str] = frozenset()) -> Lease:
        self._leases += 1
        taken_at = self._lease_clock()
        until = taken_at + timeout_seconds + LEASE_MARGIN_SECONDS
        return Lease(
            token=self._holder.token(self._leases), until=until, taken_at=taken_at, subscription_ids=subscription_ids
        )


def _due_at(entry: Backlog) -> float:
    return min(at for at in entry.due_at if at is not None)
