"""Pulls: programs claim, acknowledge and give back deliveries, and wait for new ones.

The rows are in `relay/store/deliveries/pulls.py`. The consequences of a nack or an expired lease are decided as for
any other attempt (`outcomes.py`), except that there is no sink to judge.
"""

import asyncio
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from relay.clock import Clock
from relay.core.deliveries.bundles import Bundle
from relay.core.deliveries.delivery import Claimed, Outcome, Response
from relay.core.deliveries.pulls import (
    ACKNOWLEDGED,
    LAG_COUNTED,
    LEASE_ENDED,
    MAX_PULLED_BYTES,
    NACKED,
    Lag,
    lease_token,
    pulled_at,
)
from relay.core.events.event import DELIVERY_EXPIRED, Event
from relay.core.records import AttemptResult, Lease
from relay.core.subscriptions.subscription import Subscription
from relay.delivery.credentials import Sent
from relay.delivery.outcomes import FinishedAttempt, NextClaim, attempt_result
from relay.delivery.shared import DeliverySettings
from relay.errors import StoreError
from relay.signals import DELIVERIES, Signals, Watch
from relay.store.deliveries.claims import ClaimRequest
from relay.store.deliveries.pulls import EndedLeases, Judge, Settled, Settlement
from relay.tasks import Tasks

if TYPE_CHECKING:
    from relay.delivery.shared import Shared
    from relay.store.deliveries.pulls import PullStore

SCAN_SECONDS = 0.05
"""Minimum pause between two checks for arrivals. A check reads all subscriptions that programs wait for."""
IDLE_SECONDS = 5.0
"""Maximum pause: signals of other nodes can get lost."""
RETRY_SECONDS = 1.0
"""Pause after a failed check."""

ENDED_AT_ONCE = 500
"""Maximum expired leases recorded in one transaction."""

log = structlog.get_logger("relay.delivery")


class Arrivals:
    """Wakes requests that wait for deliveries. One task checks for all of them, and runs only while requests wait."""

    def __init__(self, rows: "PullStore", signals: Signals, clock: Clock) -> None:
        self._rows = rows
        self._signals = signals
        self._clock = clock
        self._waiting: dict[str, set[Watch]] = {}
        self._joined = Watch()
        self._tasks = Tasks()

    @contextmanager
    def watch(self, subscription_id: str) -> Iterator[Watch]:
        """A watch, signalled when a delivery of the subscription is due or the subscription was removed. Start it
        before the claim, so that no arrival is missed."""
        watch = Watch()
        if not self._waiting:
            self._joined = Watch()
            self._tasks.start(self._watch(self._joined))
        self._waiting.setdefault(subscription_id, set()).add(watch)
        self._joined.signal()  # the task must read when this one is due
        try:
            yield watch
        finally:
            watches = self._waiting[subscription_id]
            watches.discard(watch)
            if not watches:
                del self._waiting[subscription_id]
            if not self._waiting:
                self._joined.signal()

    async def _watch(self, joined: Watch) -> None:
        with self._signals.watch(DELIVERIES, joined):
            while self._waiting and self._joined is joined:
                try:
                    wait_seconds = await self.scan()
                except StoreError as error:
                    log.error("pulls_not_looked_at", error=str(error))
                    wait_seconds = RETRY_SECONDS
                await asyncio.sleep(SCAN_SECONDS)
                await joined.wait(wait_seconds)

    async def scan(self) -> float:
        """Signals the watches of subscriptions with due deliveries. Returns the seconds until the next check."""
        ids = list(self._waiting)
        found, now = await self._rows.arrivals(ids), self._clock()
        next_at = now + IDLE_SECONDS
        for id in ids:
            arrival = found.get(id)
            if arrival is not None and arrival.state != "enabled":
                continue
            due_at = now if arrival is None else arrival.due_at
            if due_at is not None and due_at <= now:
                for watch in self._waiting.get(id, ()):
                    watch.signal()
            if due_at is not None:
                next_at = min(next_at, due_at)
        return max(next_at - now, 0.0)


class Pulls:
    """The deliveries of pull subscriptions. The caller has found the subscription and checked access to it."""

    def __init__(self, shared: "Shared") -> None:
        self._shared = shared
        self._rows = shared.store.pulls
        self._clock = shared.clock
        self._signals = shared.signals
        self._metrics = shared.metrics
        self.arrivals = Arrivals(shared.store.pulls, shared.signals, shared.clock)

    async def pull(
        self, subscription: Subscription, count: int, lease_seconds: float
    ) -> tuple[tuple[Claimed, ...], float]:
        """Claims up to `count` deliveries under a lease. Returns them, and when the lease ends."""
        now, taken_at = self._clock(), self._shared.lease_clock()
        until = taken_at + lease_seconds
        token = lease_token(subscription.id, now=now, until=until, nonce=secrets.token_hex(8))
        request = ClaimRequest(
            subscription_id=subscription.id,
            bundle=Bundle(max_events=count, wait_seconds=0.0, max_bytes=MAX_PULLED_BYTES),
            now=now,
            lease=Lease(token=token, until=until, taken_at=taken_at),
        )
        pulled = await self._rows.claim(request)
        if pulled.ended and await self.end_leases(subscription) and not pulled.claimed:
            pulled = await self._rows.claim(request)
        return pulled.claimed, until

    async def ack(self, subscription: Subscription, ids: Sequence[str]) -> Settled:
        """Ends deliveries as delivered, whether or not their lease has ended."""
        judge = self._judge(subscription, ACKNOWLEDGED)
        return await self._settle(subscription, ids, judge, "delivered", fails=False)

    async def nack(self, subscription: Subscription, ids: Sequence[str], delay_seconds: float | None) -> Settled:
        """Gives leased deliveries back: they are due again by the schedule, or after `delay_seconds`."""
        judge = self._judge(subscription, NACKED, delay_seconds)
        return await self._settle(subscription, ids, judge, "retry", fails=True)

    async def give_back(self, subscription: Subscription, ids: Sequence[str]) -> Settled:
        """Gives leased deliveries back that were not tried: they are due at once, and no attempt counts."""
        return await self._settle(subscription, ids, None, None, fails=True)

    async def end_leases(self, subscription: Subscription) -> int:
        """Records the expired leases of a subscription. Returns their number."""
        total, count = 0, ENDED_AT_ONCE
        judge = self._judge(subscription, LEASE_ENDED, 0.0)
        while count == ENDED_AT_ONCE:
            ended = EndedLeases(
                subscription_id=subscription.id,
                judge=judge,
                now=self._clock(),
                taken_at=self._shared.lease_clock(),
                count=ENDED_AT_ONCE,
            )
            count, events = await self._rows.end_leases(ended)
            total += count
            self._announce(subscription, events)
        if total:
            self._metrics.count_attempts(subscription, subscription.kind, "retry", total, self._clock())
            self._signals.signal(DELIVERIES)
        return total

    async def ended(self) -> list[str]:
        """The subscriptions with expired leases that are not recorded yet."""
        return await self._rows.with_ended_leases(self._shared.lease_clock())

    async def lag(self, subscription_id: str, count: int = LAG_COUNTED) -> Lag:
        """The unacknowledged deliveries. At most `count` are counted."""
        return await self._rows.lag(subscription_id, count)

    async def _settle(
        self, subscription: Subscription, ids: Sequence[str], judge: Judge | None, verdict: str | None, *, fails: bool
    ) -> Settled:
        settlement = Settlement(
            subscription_id=subscription.id, ids=tuple(ids), judge=judge, fails=fails, now=self._clock()
        )
        settled = await self._rows.settle(settlement)
        done = sum(answer == "done" for answer in settled.answers.values())
        if done:
            if verdict is not None:
                self._metrics.count_attempts(subscription, subscription.kind, verdict, done, self._clock())
            self._signals.signal(DELIVERIES)
        self._announce(subscription, settled.events)
        return settled

    def _announce(self, subscription: Subscription, events: Sequence[Event]) -> None:
        for event in events:
            if event.type == DELIVERY_EXPIRED:
                self._metrics.count_dead(subscription, event.recorded_at)
            self._shared.recorded(event)
        if events:
            self._shared.signals.due.set()

    def _judge(self, subscription: Subscription, reason: str, delay_seconds: float | None = None) -> Judge:
        shared, now = self._shared, self._clock()

        def judge(claimed: Claimed) -> AttemptResult:
            chance = shared.random.random()
            return pull_result(claimed, subscription, shared.settings, now, reason, delay_seconds, chance=chance)

        return judge


def pull_result(
    claimed: Claimed,
    subscription: Subscription,
    settings: DeliverySettings,
    now: float,
    reason: str,
    delay_seconds: float | None = None,
    *,
    chance: float,
) -> AttemptResult:
    """The result to record for a delivery that was acknowledged, was nacked or has lost its lease. `delay_seconds`:
    until it is due again; None: by the schedule. `chance`: see `attempt_result`."""
    began = pulled_at(claimed.lease_token or "", now)
    acknowledged = reason == ACKNOWLEDGED
    if delay_seconds is not None:
        entries = len(settings.schedule_of(subscription))
        subscription = replace(subscription, retry_schedule_seconds=(delay_seconds,) * entries)
        settings = replace(settings, jitter=0.0)
    response = Response(
        started_at=began, duration_ms=round((now - began) * 1000, 3), error=None if acknowledged else reason
    )
    finished = FinishedAttempt(
        claimed=claimed,
        subscription=subscription,
        redacted_sink=subscription.sink,
        failing_since=None,
        sent=Sent(headers=(), response=response),
        outcome=Outcome(verdict="delivered" if acknowledged else "retry", reason=reason),
    )
    result, _ = attempt_result(finished, settings, now, NextClaim(), chance=chance)
    if reason == LEASE_ENDED and result.state == "pending":
        entries = len(settings.schedule_of(subscription))
        decision = f"{reason} (attempt {claimed.attempt_count + 1} of {entries + 1}): due again at once"
        result = replace(result, attempt=replace(result.attempt, decision=decision))
    return result
