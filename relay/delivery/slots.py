"""Which deliveries may be out at once: slots by subscription, by host and in all.

A slot is taken from before a delivery is claimed until its answer is there. While the answer is being committed the
slot is free for another delivery: what is claimed and not committed is bounded by CLAIMED_PER_SLOT.
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
"""So many deliveries may be claimed and not committed, for each slot: a crash repeats no more than that."""
BATCH_SECONDS = 0.1
"""What a drain, or one whose sink fails again and again, sends at once is what it may send in this time."""
FAILED = 10
"""A sink that has failed so often in a row, the last times by time-outs, is down."""
FAILED_OFTEN = 100
FAILING_PER_SECOND = 20.0
"""A sink that has failed so often in a row is tried so often a second until it takes something: what else is meant for
it would fail too, and cost those whose sinks are well."""


BACKLOGGED_SLOTS = 8
"""What is late, retries and what was asked for by hand, has so many slots of prompt sinks while fresh events come: with
more of it the turns of the event loop and the commits would be what a fresh one waits for."""
FRESH_SECONDS = 10.0
"""So long after the last one they count as coming."""


class Kind(Protocol):
    """What is needed of a subscription's kind."""

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
    """A subscription with what the node knows of its sink just now.

    in_flight  slots taken: requests that are out, or about to be
    fills      how often a slot was taken that was the last one
    late       deliveries on their way out, or being committed, that are not first attempts
    late_load  how busy these keep us, beside those of a prompt sink: 0 to 1
    marking    what waits for a commit: attempts that have ended, or the deliveries to be taken over in their place
    queue      deliveries taken over in such a commit that wait for one of its slots
    concurrency  how many slots it has use for, by what became of its attempts
    rate       sends a second at most, one at a time; None: as many as there are slots
    held_until  it is being disabled: nothing of it begins until everybody knows
    known      whether its subscription is still there; what is in flight outlives one that was removed
    failures   attempts in a row that did not arrive
    recovered  it has just taken something after it had been down: what waits is put behind by the next claim
    back_since  when it last took something after an outage; 0 where it did not
    forwarded  when the drain, resumption or recovery came whose waiting retries this node has made due
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
        """Whether something of it is out or on its way back: what is due is taken over when that ends."""
        return bool(self.in_flight or self.marking or self.queue)

    def may_send(self, now: float) -> bool:
        """Whether the sink is to be sent anything now, slots apart."""
        return self.subscription.state == "enabled" and self.not_before <= now

    @property
    def not_before(self) -> float:
        """When it may be sent anything again, as far as that is known."""
        return max(self.paused_until, self.held_until, self.next_send_at)

    @property
    def full(self) -> bool:
        """Whether its own limit is what keeps more of it from going out."""
        limit = self.concurrency.limit
        return self.in_flight >= limit or self.in_flight + self.marking + len(self.queue) >= CLAIMED_PER_SLOT * limit

    def answered(self, response: Response, outcome: Outcome, *, in_flight: int, fills: int) -> None:
        """What became of an attempt that went out as one of `in_flight`, when its slots had been all in use `fills`
        times."""
        self.recovered |= outcome.verdict == "delivered" and self.down
        if outcome.verdict == "delivered" and self.fails_often and self.rate is None:
            self.next_send_at = 0.0  # until when it was not to be tried
        self.failures = 0 if outcome.verdict == "delivered" else self.failures + 1
        if response.late:
            self.concurrency.timed_out()
        elif outcome.verdict == "delivered":
            full = self.fills > fills or self.full
            self.concurrency.succeeded(response.duration_ms / 1000, in_flight=in_flight, full=full)

    @property
    def fails_often(self) -> bool:
        """Whether its sink has failed so often in a row that it is only tried now and then."""
        return self.failures >= FAILED_OFTEN

    @property
    def down(self) -> bool:
        """Whether what waits for it waits because of the sink: that is not fresh any more when the sink is back."""
        return self.fails_often or (self.failures >= FAILED and self.concurrency.limit == 1)

    def per_second(self, now: float) -> float | None:
        """How much may go out while it drains, or fails again and again; None where it does neither, or one at a time
        goes out already."""
        if self.rate is not None:
            return None
        since = self.subscription.drain_since
        drain = None if since is None else retry.drain_per_second(now - since)
        return min(drain or FAILING_PER_SECOND, FAILING_PER_SECOND) if self.fails_often else drain

    def paced(self, count: int, now: float) -> None:
        """So many go out now: the next ones have their time, where not all may go at once."""
        rate = self.per_second(now)
        if rate is not None and count:
            self.next_send_at = max(self.next_send_at, now + count / rate)


@dataclass(slots=True, eq=False)
class _Host:
    name: str
    in_flight: int = 0
    targets: set[Target] = field(default_factory=set)


class Slots:
    """The targets of all subscriptions and who holds how many slots.

    concurrency  in all
    per_host     to one host (scheme, name and port); one subscription takes at most half while another one waits
    """

    def __init__(self, *, concurrency: int, per_host: int) -> None:
        self.concurrency = concurrency
        self.per_host = per_host
        self.in_flight = 0
        self.fresh_at = -math.inf
        """When a fresh event came last."""
        self._backlogged_load = 0.0
        self._targets: dict[str, Target] = {}
        self._hosts: dict[str, _Host] = {}

    def limit(self, *, concurrency: int, per_host: int) -> None:
        """Other limits from now on; what is out already stays out."""
        self.concurrency, self.per_host = concurrency, per_host
        for target in self:
            target.concurrency.ceiling = target.subscription.concurrency or per_host

    def __iter__(self) -> Iterator[Target]:
        return iter(self._targets.values())

    def get(self, subscription_id: str) -> Target | None:
        """The target of a subscription that is there."""
        return self._targets.get(subscription_id)

    def adopt(self, subscriptions: dict[str, tuple[Subscription, Kind]]) -> None:
        """Takes these as all subscriptions that there are."""
        for gone in self._targets.keys() - subscriptions.keys():
            self._targets.pop(gone).known = False
        self._hosts = {}
        for subscription, kind in subscriptions.values():
            self._adopt(subscription, kind)

    def join(self, subscription: Subscription, kind: Kind) -> None:
        """One more: a callback that has something to send."""
        if subscription.id not in self._targets:
            self._adopt(subscription, kind)

    def note_waiting(self, ids: Set[str]) -> None:
        """These have something pending. A callback that has not, and nothing out, is let go of: there may be as many
        as jobs."""
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
        elif subscription.paused_until is not None:  # another node was told
            target.paused_until = max(target.paused_until, subscription.paused_until)
        if subscription.state_since != target.subscription.state_since:
            target.held_until = 0.0
        if subscription.state == "disabled":  # perhaps by another node, which saw it fail
            target.failing_since = subscription.failing_since
        target.probe_at = subscription.probe_at
        target.subscription, target.kind, target.host, target.shown_sink = subscription, kind, host, shown_sink
        target.concurrency.ceiling, target.rate = ceiling, rate
        host.targets.add(target)
        host.in_flight += target.in_flight

    def free(self, target: Target, now: float | None = None, *, ahead: bool = False) -> int:
        """How many more of its deliveries may be claimed; `now`: so many at once as a drain, or its failures, allow;
        `ahead`: where nobody else of its host wants slots, also those that will wait for one of its own."""
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
        """How many of its deliveries that are not first attempts may be on their way: while fresh ones come a share of
        LATE_SLOTS, the more of them the longer its sink takes by itself."""
        if not 0 <= now - self.fresh_at <= FRESH_SECONDS:  # the clock may have been set back
            return math.inf
        others = max(self._backlogged_load - target.backlogged_load, 0.0)
        return max(1.0, BACKLOGGED_SLOTS * (1 + target.concurrency.alone_seconds / PROMPT_SECONDS) / (1 + others))

    def backlogged_began(self, target: Target) -> None:
        """One that is not a first attempt is on its way."""
        target.backlogged += 1
        self._weigh_backlogged(target)

    def backlogged_ended(self, target: Target) -> None:
        """It is committed, or was given back."""
        target.backlogged -= 1
        self._weigh_backlogged(target)

    def _weigh_backlogged(self, target: Target) -> None:
        """A sink that fails, or takes long by itself, hardly keeps us busy: it takes no share of the others."""
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
        """Gives a slot back. False when a delivery that waited for it has it now."""
        while target.queue:
            waiting = target.queue.popleft()
            if not waiting.done():
                waiting.set_result(True)
                return False
        target.in_flight -= 1
        target.host.in_flight -= 1
        self.in_flight -= 1
        return True

    async def occupy_again(self, target: Target) -> bool:
        """A slot for a delivery that is claimed already. False when none will come by itself, or `send_back` was
        called."""
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

    def send_back(self) -> None:
        """What waits for a slot gets none."""
        for target in self:
            while target.queue:
                waiting = target.queue.popleft()
                if not waiting.done():
                    waiting.set_result(False)


def _host_of(sink: str) -> str:
    """A host is scheme, name and port."""
    parts = urlsplit(sink)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}"
