"""Limits how many deliveries are in flight: slots per subscription, per host and in all.

A slot is held from before the claim until the response. It is free again while the result is being committed;
CLAIMED_PER_SLOT bounds what is claimed but uncommitted.
"""

import asyncio
import math
from collections import deque
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from relay.core import retry
from relay.core.concurrency import PROMPT_SECONDS, Concurrency
from relay.core.delivery import OutboundRequest, Outcome, Response
from relay.core.events import Event
from relay.core.subscription import Subscription

CLAIMED_PER_SLOT = 4
"""Maximum claimed but uncommitted deliveries per slot. Bounds how many events a crash can resend."""
BATCH_SECONDS = 0.1
"""Burst allowance while draining or failing, in seconds of the allowed rate."""
FAILED = 10
"""Failures in a row after which a sink whose window has shrunk to one slot (timeouts) counts as down."""
FAILED_OFTEN = 100
"""Failures in a row after which a sink is only tried at FAILING_PER_SECOND."""
FAILING_PER_SECOND = 20.0
"""Attempt rate for a sink that keeps failing. Sending it more would only take capacity from healthy sinks."""

BACKLOGGED_SLOTS = 8
"""Slots of prompt sinks for backlogged deliveries (retries, manual retries, replays) while fresh events arrive. With
more of them fresh deliveries would wait for the event loop and for commits."""
FRESH_SECONDS = 10.0
"""Fresh events count as arriving for this time after the last one."""


class Kind(Protocol):
    """A kind of sink, with its rendering context."""

    @property
    def name(self) -> str: ...
    @property
    def signed(self) -> bool: ...
    @property
    def rate_per_second(self) -> float | None: ...
    def render(self, event: Event, subscription: Subscription) -> OutboundRequest: ...
    def classify(self, response: Response, now: float) -> Outcome: ...
    def redacted_url(self, url: str) -> str: ...


@dataclass(slots=True, eq=False)
class Target:
    """A subscription and this node's state of its sink.

    concurrency      the adaptive number of its slots
    rate             maximum sends per second, one at a time; None: as many as it has slots
    known            False once the subscription is removed; deliveries in flight outlive it
    in_flight        slots in use
    fills            how often its last free slot was taken
    marking          deliveries claimed or to be claimed by commits that are under way
    backlogged       deliveries in flight or being committed that are not first attempts
    backlogged_load  their load compared with those of a prompt sink, from 0 to 1
    queue            claimed deliveries that wait for a slot
    held_until       no new attempts before then: the subscription is being disabled
    failures         failed attempts in a row
    recovered        first success after being down: the next claim demotes the backlog
    back_since       time of the last success after an outage; 0 if there was none
    expedited        the drain start, resumption or recovery whose retries were already expedited
    """

    subscription: Subscription
    kind: Kind
    host: "_Host"
    shown_sink: str
    concurrency: Concurrency
    rate: float | None
    known: bool = True
    in_flight: int = 0
    fills: int = 0
    marking: int = 0
    backlogged: int = 0
    backlogged_load: float = 0.0
    queue: deque[asyncio.Future[bool]] = field(default_factory=deque)
    paused_until: float = 0.0
    pause_written: float = 0.0
    held_until: float = 0.0
    next_send_at: float = 0.0
    failing_since: float | None = None
    failures: int = 0
    recovered: bool = False
    probe_at: float | None = None
    back_since: float = 0.0
    expedited: float | None = None
    waiting: bool = False

    @property
    def busy(self) -> bool:
        """True if deliveries are in flight, being committed or queued: recording them claims the next ones."""
        return bool(self.in_flight or self.marking or self.queue)

    def may_send(self, now: float) -> bool:
        """True if the sink may be sent to now, slots aside."""
        return self.subscription.state == "enabled" and self.not_before <= now

    @property
    def not_before(self) -> float:
        """Earliest time of the next attempt."""
        return max(self.paused_until, self.held_until, self.next_send_at)

    @property
    def full(self) -> bool:
        """True if its own limit is reached."""
        limit = self.concurrency.limit
        return self.in_flight >= limit or self.in_flight + self.marking + len(self.queue) >= CLAIMED_PER_SLOT * limit

    def answered(self, response: Response, outcome: Outcome, *, in_flight: int, fills: int) -> None:
        """Records the outcome of an attempt. `in_flight` and `fills` are their values when it was sent."""
        self.recovered |= outcome.verdict == "delivered" and self.down
        if outcome.verdict == "delivered" and self.fails_often and self.rate is None:
            self.next_send_at = 0.0  # lift the pause of a failing sink
        self.failures = 0 if outcome.verdict == "delivered" else self.failures + 1
        if response.late:
            self.concurrency.timed_out()
        elif outcome.verdict == "delivered":
            full = self.fills > fills or self.full
            self.concurrency.succeeded(response.duration_ms / 1000, in_flight=in_flight, full=full)

    @property
    def fails_often(self) -> bool:
        """True if the sink keeps failing, so that it is only tried at FAILING_PER_SECOND."""
        return self.failures >= FAILED_OFTEN

    @property
    def down(self) -> bool:
        """True if the backlog was caused by the sink. Such deliveries rank behind new events once it recovers."""
        return self.fails_often or (self.failures >= FAILED and self.concurrency.limit == 1)

    def per_second(self, now: float) -> float | None:
        """Rate limit while draining or failing; None if it does neither, or has a rate of its own."""
        if self.rate is not None:
            return None
        since = self.subscription.drain_since
        drain = None if since is None else retry.drain_per_second(now - since)
        return min(drain or FAILING_PER_SECOND, FAILING_PER_SECOND) if self.fails_often else drain

    def paced(self, count: int, now: float) -> None:
        """Records that `count` deliveries are sent now, and delays the next ones if a rate limit applies."""
        rate = self.per_second(now)
        if rate is not None and count:
            self.next_send_at = max(self.next_send_at, now + count / rate)


@dataclass(slots=True, eq=False)
class _Host:
    name: str
    in_flight: int = 0
    targets: set[Target] = field(default_factory=set)


class Slots:
    """All targets and their slots.

    concurrency  maximum slots in all
    per_host     maximum per host (scheme, name and port); one subscription gets at most half while another one waits
    """

    def __init__(self, *, concurrency: int, per_host: int) -> None:
        self.concurrency = concurrency
        self.per_host = per_host
        self.in_flight = 0
        self.fresh_at = -math.inf
        """Time of the last fresh event."""
        self._backlogged_load = 0.0
        self._targets: dict[str, Target] = {}
        self._hosts: dict[str, _Host] = {}

    def limit(self, *, concurrency: int, per_host: int) -> None:
        """Sets new limits; deliveries in flight are not affected."""
        self.concurrency, self.per_host = concurrency, per_host
        for target in self:
            target.concurrency.ceiling = target.subscription.concurrency or per_host

    def __iter__(self) -> Iterator[Target]:
        return iter(self._targets.values())

    def get(self, subscription_id: str) -> Target | None:
        """The target of a subscription, if it is loaded."""
        return self._targets.get(subscription_id)

    def adopt(self, subscriptions: dict[str, tuple[Subscription, Kind]]) -> None:
        """Replaces the targets by those of these subscriptions; existing ones keep their state."""
        for gone in self._targets.keys() - subscriptions.keys():
            self._targets.pop(gone).known = False
        self._hosts = {}
        for subscription, kind in subscriptions.values():
            self._adopt(subscription, kind)

    def join(self, subscription: Subscription, kind: Kind) -> None:
        """Adds a callback subscription that has pending deliveries."""
        if subscription.id not in self._targets:
            self._adopt(subscription, kind)

    def note_backlog(self, ids: Set[str]) -> None:
        """Records which subscriptions have a backlog. Idle callbacks are dropped: there can be as many as jobs."""
        for subscription_id, target in list(self._targets.items()):
            target.waiting = subscription_id in ids
            target.recovered &= target.waiting
            if target.subscription.callback and not target.waiting and not target.busy:
                del self._targets[subscription_id]
                target.known = False
                target.host.targets.discard(target)
                if not target.host.targets and not target.host.in_flight:
                    self._hosts.pop(target.host.name, None)

    def _adopt(self, subscription: Subscription, kind: Kind) -> None:
        name = _host_of(subscription.sink)
        host = self._hosts.setdefault(name, _Host(name))
        shown_sink = kind.redacted_url(subscription.sink)
        ceiling = subscription.concurrency or self.per_host
        rate = subscription.rate_per_second or kind.rate_per_second
        target = self._targets.get(subscription.id)
        if target is None:
            target = Target(subscription, kind, host, shown_sink, Concurrency(ceiling=ceiling), rate)
            target.failing_since = subscription.failing_since
            target.paused_until = target.pause_written = subscription.paused_until or 0.0
            self._targets[subscription.id] = target
        elif (
            subscription.enabled_since != target.subscription.enabled_since
            or subscription.reached_by != target.subscription.reached_by
        ):
            target.failures = 0
            target.failing_since = subscription.failing_since
            target.paused_until = target.pause_written = subscription.paused_until or 0.0
        elif subscription.paused_until is not None:  # learned by another node
            target.paused_until = max(target.paused_until, subscription.paused_until)
        if subscription.state_since != target.subscription.state_since:
            target.held_until = 0.0
        if subscription.state == "disabled":  # possibly by another node
            target.failing_since = subscription.failing_since
        target.probe_at = subscription.probe_at
        target.subscription, target.kind, target.host, target.shown_sink = subscription, kind, host, shown_sink
        target.concurrency.ceiling, target.rate = ceiling, rate
        host.targets.add(target)
        host.in_flight += target.in_flight

    def free(self, target: Target, now: float | None = None, *, ahead: bool = False) -> int:
        """How many more of its deliveries may be claimed.

        now    also limits them to the burst that a drain or failures allow at this time
        ahead  includes deliveries that will wait for one of its slots, unless others of its host want slots
        """
        host = target.host
        limit = min(target.concurrency.limit, self.per_host) if target.rate is None else 1
        if len(host.targets) > 1 and any(
            (other.waiting or other.in_flight) and other is not target for other in host.targets
        ):
            limit, ahead = min(limit, max(1, self.per_host // 2)), False
        rate = None if now is None else target.per_second(now)
        return min(
            self.concurrency if rate is None else max(1, int(rate * BATCH_SECONDS)),
            limit if ahead else min(limit - target.in_flight, self.per_host - host.in_flight),
            CLAIMED_PER_SLOT * limit - target.in_flight - target.marking - len(target.queue),
            self.concurrency - self.in_flight,
        )

    def backlogged_limit(self, target: Target, now: float) -> float:
        """How many backlogged deliveries it may have in flight: while fresh ones arrive, a share of BACKLOGGED_SLOTS
        that grows with the sink's own response time."""
        if not 0 <= now - self.fresh_at <= FRESH_SECONDS:  # negative if the clock was set back
            return math.inf
        others = max(self._backlogged_load - target.backlogged_load, 0.0)
        return max(1.0, BACKLOGGED_SLOTS * (1 + target.concurrency.alone_seconds / PROMPT_SECONDS) / (1 + others))

    def backlogged_began(self, target: Target) -> None:
        """Records the start of a backlogged delivery."""
        target.backlogged += 1
        self._weigh_backlogged(target)

    def backlogged_ended(self, target: Target) -> None:
        """Records that it is committed or released."""
        target.backlogged -= 1
        self._weigh_backlogged(target)

    def _weigh_backlogged(self, target: Target) -> None:
        """Failing and slow sinks cause little load, so they take no share from the others."""
        before = target.backlogged_load
        busy = target.backlogged > 0 and not target.failures
        target.backlogged_load = 1 / (1 + target.concurrency.alone_seconds / PROMPT_SECONDS) if busy else 0.0
        self._backlogged_load += target.backlogged_load - before

    def occupy(self, target: Target) -> None:
        """Takes a slot."""
        target.in_flight += 1
        target.fills += target.full
        target.host.in_flight += 1
        self.in_flight += 1

    def vacate(self, target: Target) -> bool:
        """Frees a slot. Returns False if a waiting delivery got it."""
        while target.queue:
            waiting = target.queue.popleft()
            if not waiting.done():
                waiting.set_result(True)
                return False
        target.in_flight -= 1
        target.host.in_flight -= 1
        self.in_flight -= 1
        return True

    async def wait_for_slot(self, target: Target) -> bool:
        """Waits for a slot for a claimed delivery. Returns False if none will be freed, or after `release_waiting`."""
        if not target.known:
            return False
        if self.free(target) > 0:
            self.occupy(target)
            return True
        if target.in_flight == 0:
            return False
        waiting: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        target.queue.append(waiting)
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and waiting.result():
                self.vacate(target)
            raise

    def release_waiting(self) -> None:
        """Ends all waits for slots without one."""
        for target in self:
            while target.queue:
                waiting = target.queue.popleft()
                if not waiting.done():
                    waiting.set_result(False)


def _host_of(sink: str) -> str:
    """Scheme, name and port."""
    parts = urlsplit(sink)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}"
