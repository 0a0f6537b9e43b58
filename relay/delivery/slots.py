"""Limits how many deliveries are in flight: slots per subscription, per host and in all.

A slot is held from before the claim until the response. It is free again while the result is being committed;
CLAIMED_PER_SLOT bounds claimed but uncommitted deliveries. `sink_state.py` decides if a sink may be sent to at all.
"""

import asyncio
import math
from collections import deque
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from relay.core.deliveries.bundles import Bundle, FreeRequests, Room
from relay.core.deliveries.concurrency import PROMPT_SECONDS, Concurrency
from relay.core.subscriptions.subscription import Subscription
from relay.delivery.sink_state import SinkState, Turns
from relay.redaction import url_without_path

if TYPE_CHECKING:
    from subscribers.base import Kind

CLAIMED_PER_SLOT = 4
"""Maximum claimed but uncommitted deliveries per slot. Bounds how many events a crash can resend."""
BATCH_SECONDS = 0.1
"""Burst allowance while draining or failing, in seconds of the allowed rate."""
BACKLOGGED_SLOTS = 8
"""Slots of prompt sinks for backlogged deliveries (retries, manual retries, replays) while fresh events arrive. More
would delay fresh deliveries in the event loop and in commits."""
CHECK_SECONDS = 0.1
"""Minimum pause between two checks of a bundle that waits for more events. Each event that joins it triggers one."""
MAX_CHECK_SECONDS = 1.0
"""The pause for waits of 10 seconds or more: each check reads the whole digest."""
FRESH_SECONDS = 10.0
"""Time after the last fresh event in which fresh events count as arriving."""
STORED_PAUSE_SECONDS = 5.0
"""Minimum pause of a portal that is stored for its other subscriptions. A shorter one ends before other nodes read
it."""


@dataclass(slots=True, eq=False)
class Target:
    """A subscription, the state of its sink and its slots on this node.

    shown_sink     the sink in logs: without its path
    redacted_sink  the sink as its owner sees it
    in_flight      slots in use
    fills          how often its last free slot was taken
    committing     deliveries claimed, or to be claimed, by commits in progress
    queue          claimed deliveries that wait for a slot
    has_backlog    True if the last scan found pending deliveries
    backlogged     deliveries in flight or being committed that are not first attempts
    backlogged_load  their load relative to a prompt sink, from 0 to 1
    bundle         how its deliveries share requests; None: one request each
    free           its requests that count towards `bundle.free_per_minute`
    checked_at     time of the last check that found its bundle waiting for more events, until `ready_at`
    known          False once the subscription is removed; deliveries in flight outlive it
    portal         the account at a CRM whose limits it shares; None: it has limits of its own
    templates      the slots shared by its owner's subscriptions with templates, in all and of its host; empty without
                   a template
    """

    subscription: Subscription
    kind: "Kind"
    host: "_Host"
    shown_sink: str
    redacted_sink: str
    sink: SinkState
    in_flight: int = 0
    fills: int = 0
    committing: int = 0
    queue: deque[asyncio.Future[bool]] = field(default_factory=deque)
    has_backlog: bool = False
    backlogged: int = 0
    backlogged_load: float = 0.0
    bundle: Bundle | None = None
    free: FreeRequests = field(default_factory=FreeRequests)
    checked_at: float = -math.inf
    ready_at: float = 0.0
    known: bool = True
    portal: "Portal | None" = None
    templates: "tuple[_TemplateSlots, ...]" = ()

    @property
    def claimed(self) -> int:
        """Deliveries claimed and not committed."""
        return self.in_flight + self.committing + len(self.queue)

    @property
    def full(self) -> bool:
        """True if the subscription's own limit is reached."""
        limit = self.sink.concurrency.limit
        return self.in_flight >= limit or self.claimed >= CLAIMED_PER_SLOT * limit

    def room(self, now: float) -> Room:
        """Number of events that may be sent singly although it bundles."""
        if self.bundle is None or self.bundle.free_per_minute is None:
            return Room()
        return self.free.room(self.bundle.free_per_minute, now)

    def takes_fresh(self, now: float) -> bool:
        """True if an event may be sent as soon as it is recorded, without waiting for a bundle."""
        if self.bundle is None:
            return True
        return not self.bundle.always and not self.has_backlog and self.room(now).count > 0

    def count_request(self, now: float) -> None:
        """Counts a sent request."""
        if self.bundle is not None and self.bundle.free_per_minute is not None:
            self.free.count(now)

    def waits_until(self, now: float) -> float:
        """Time of the next check of its bundle, which more events may have joined; 0 for now."""
        pause = min(max(CHECK_SECONDS, (self.ready_at - self.checked_at) / 10), MAX_CHECK_SECONDS)
        if now >= self.ready_at or not 0 <= now - self.checked_at < pause:
            return 0.0
        return min(self.ready_at, self.checked_at + pause)


@dataclass(slots=True, eq=False)
class _Host:
    name: str
    in_flight: int = 0
    targets: set[Target] = field(default_factory=set)
    templates: "dict[str | None, _TemplateSlots]" = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _TemplateSlots:
    """Slots in use by an owner's subscriptions with templates. `starved`: one of them got no slot because others had
    them all."""

    of_host: bool
    in_flight: int = 0
    starved: bool = False


@dataclass(slots=True, eq=False)
class Portal:
    """An account at a CRM, whose limits all its subscriptions share: see `Kind.portal`.

    host          host of all its subscriptions. A server on another host may claim to be the account, and must not
                  pause the subscriptions of others
    turns         spaces the attempts of all its subscriptions: its rate limit
    paused_until  end of the last pause that it asked for; applies to new subscriptions too
    """

    kind: str
    host: str
    key: str
    turns: Turns = field(default_factory=Turns)
    paused_until: float = 0.0
    targets: set[Target] = field(default_factory=set)

    @property
    def per_second(self) -> float | None:
        """Its rate: the default of its kind, or a higher rate that an owner allows one of its subscriptions. None: no
        limit."""
        rates = {rate for one in self.targets for rate in (one.kind.rate_per_second, one.sink.rate) if rate is not None}
        return max(rates, default=None)

    def take_turn(self, now: float) -> bool:
        """Takes the next turn of its rate. Returns False if it is not due yet."""
        if self.turns.opens_at(now) > now:  # checked first: cheap, and many subscriptions may ask for one event
            return False
        rate = self.per_second
        return rate is None or self.turns.take(now, rate)

    def paused_seconds(self, now: float) -> float:
        """Seconds until the earliest pause of its enabled subscriptions ends; 0 if one is not paused."""
        ends = (one.sink.paused_until for one in self.targets if one.sink.enabled)
        return max(min(ends, default=now) - now, 0.0)


class Slots:
    """All targets and their slots.

    concurrency  maximum slots in all
    per_host     maximum per host (scheme, name and port); one subscription gets at most half while another one waits.
                 An owner's subscriptions with templates together get at most half of either: they render in turns
    due          makes the dispatcher scan; set when a slot is freed while `starved`
    """

    def __init__(self, *, concurrency: int, per_host: int, due: asyncio.Event | None = None) -> None:
        self.concurrency = concurrency
        self.per_host = per_host
        self.in_flight = 0
        self.fresh_at = -math.inf
        """Time of the last fresh event."""
        self.starved = False
        """True if a due subscription got no slot because others had them all. Written by the scan."""
        self.closed = False
        """True once claiming has ended; unsent deliveries are then released."""
        self._due = due or asyncio.Event()
        self._backlogged_load = 0.0
        self._targets: dict[str, Target] = {}
        self.listed: dict[str, Target] = {}
        """The targets of all subscriptions except callbacks, which do not match events."""
        self._hosts: dict[str, _Host] = {}
        self._portals: dict[tuple[str, str, str], Portal] = {}
        self._templates: dict[str | None, _TemplateSlots] = {}

    def limit(self, *, concurrency: int, per_host: int) -> None:
        """Sets new limits; deliveries in flight are not affected."""
        self.concurrency, self.per_host = concurrency, per_host
        for target in self:
            target.sink.concurrency.ceiling = target.subscription.concurrency or per_host

    # --- targets

    def __iter__(self) -> Iterator[Target]:
        return iter(self._targets.values())

    def get(self, subscription_id: str) -> Target | None:
        """The target of a subscription, if it is loaded."""
        return self._targets.get(subscription_id)

    def keep(self, ids: Set[str]) -> None:
        """Drops the targets of all other subscriptions."""
        for gone in self._targets.keys() - ids:
            self._drop(self._targets[gone])

    def note_backlog(self, ids: Set[str]) -> None:
        """Records which subscriptions have a backlog. Idle callbacks are dropped: there can be as many as jobs."""
        for subscription_id, target in list(self._targets.items()):
            target.has_backlog = subscription_id in ids
            if target.has_backlog:
                continue
            target.sink.recovered = False
            if target.subscription.callback and not target.claimed:
                self._drop(target)

    def _drop(self, target: Target) -> None:
        id = target.subscription.id
        del self._targets[id]
        self.listed.pop(id, None)
        target.known = False
        self._leave(target)
        self._leave_portal(target)

    def _leave(self, target: Target) -> None:
        """Removes a target from its host, and the host once it has no targets and nothing in flight."""
        host = target.host
        host.targets.discard(target)
        if not host.targets and not host.in_flight:
            self._hosts.pop(host.name, None)

    def adopt(self, subscription: Subscription, kind: "Kind") -> None:
        """Adds the target of a subscription; an existing one keeps its state. See `keep`."""
        name = _host_of(subscription.sink)
        host = self._hosts.setdefault(name, _Host(name))
        shown_sink, redacted_sink = url_without_path(subscription.sink), kind.redacted_url(subscription.sink)
        ceiling = subscription.concurrency or self.per_host
        target = self._targets.get(subscription.id)
        before = None if target is None else target.subscription
        if target is None:
            sink = SinkState(Concurrency(ceiling=ceiling))
            target = Target(subscription, kind, host, shown_sink, redacted_sink, sink)
            self._targets[subscription.id] = target
            if not subscription.callback:
                self.listed[subscription.id] = target
        elif target.host is not host:
            target.host.in_flight -= target.in_flight
            self._leave(target)
            host.in_flight += target.in_flight
        target.subscription, target.kind, target.host = subscription, kind, host
        target.shown_sink, target.redacted_sink = shown_sink, redacted_sink
        for one in target.templates:
            one.in_flight -= target.in_flight
        target.templates = ()
        if subscription.has_template:
            in_all = self._templates.setdefault(subscription.owner, _TemplateSlots(of_host=False))
            of_host = host.templates.setdefault(subscription.owner, _TemplateSlots(of_host=True))
            target.templates = in_all, of_host
        for one in target.templates:
            one.in_flight += target.in_flight
        target.bundle = kind.bundle(subscription)
        rate = subscription.allowed_per_second or kind.rate_per_second
        target.sink.adopt(subscription, before, ceiling=ceiling, rate=rate)
        host.targets.add(target)
        key = None if subscription.is_dry else kind.portal(subscription)  # a dry run sends nothing to its portal
        if key is not None or target.portal is not None:
            self._adopt_portal(target, key)

    # --- portals

    def _adopt_portal(self, target: Target, key: str | None) -> None:
        name, host, portal = target.kind.name, target.host.name, target.portal
        if portal is not None and (portal.kind, portal.host, portal.key) == (name, host, key):
            return
        self._leave_portal(target)
        if key is not None:
            target.portal = portal = self._portals.setdefault((name, host, key), Portal(name, host, key))
            portal.targets.add(target)
            target.sink.pause(portal.paused_until)

    def _leave_portal(self, target: Target) -> None:
        portal, target.portal = target.portal, None
        if portal is not None:
            portal.targets.discard(target)
            if not portal.targets:
                del self._portals[portal.kind, portal.host, portal.key]

    def pause(self, target: Target, until: float, *, shared: bool) -> None:
        """Pauses a sink as it asked. `shared`: its portal asked, so all the portal's subscriptions pause."""
        target.sink.pause(until)
        portal = target.portal
        if shared and portal is not None and until > portal.paused_until:
            portal.paused_until = until
            for other in portal.targets:
                other.sink.pause(until)

    def pause_to_store(self, target: Target, now: float) -> tuple[Target, ...]:
        """The other subscriptions of its portal for which the current pause must be stored."""
        portal = target.portal
        if portal is None or portal.paused_until < now + STORED_PAUSE_SECONDS:
            return ()
        return tuple(one for one in portal.targets if one is not target and one.sink.pause_to_store(now))

    def paused_portals(self, now: float) -> dict[str, float]:
        """The longest remaining pause of a portal, in seconds, by kind."""
        longest: dict[str, float] = {}
        for portal in self._portals.values():
            longest[portal.kind] = max(portal.paused_seconds(now), longest.get(portal.kind, 0.0))
        return longest

    # --- limits

    def free(self, target: Target, now: float | None = None, *, ahead: bool = False) -> int:
        """Number of further deliveries that may be claimed.

        now    also limits them to the burst allowed while draining or failing
        ahead  includes deliveries that will wait for one of its slots, unless others of its host want slots
        """
        host, sink = target.host, target.sink
        if host.in_flight >= self.per_host and not ahead:
            return 0
        limit = min(sink.concurrency.limit, self.per_host) if sink.rate is None else 1
        if len(host.targets) > 1 and any(
            (other.has_backlog or other.in_flight) and other is not target for other in host.targets
        ):
            limit, ahead = min(limit, max(1, self.per_host // 2)), False
        rate = None if now is None else sink.per_second(now)
        room = min(
            self.concurrency if rate is None else max(1, int(rate * BATCH_SECONDS)),
            limit if ahead else min(limit - target.in_flight, self.per_host - host.in_flight),
            CLAIMED_PER_SLOT * limit - target.claimed,
            self.concurrency - self.in_flight,
        )
        if target.templates:
            room = min(room, *[self._most_of(one) - one.in_flight for one in target.templates])
        return room

    def starve(self, target: Target) -> None:
        """Records that a due subscription gets no slot. A scan follows once slots are free."""
        full = [one for one in target.templates if one.in_flight >= self._most_of(one)]
        for one in full:
            one.starved = True
        if not full and not target.claimed:  # other subscriptions hold all the slots
            self.starved = True

    def _most_of(self, templates: _TemplateSlots) -> int:
        return max(1, (self.per_host if templates.of_host else self.concurrency) // 2)

    def backlogged_limit(self, target: Target, now: float) -> float:
        """Maximum backlogged deliveries in flight: while fresh ones arrive, a share of BACKLOGGED_SLOTS that grows with
        the sink's own response time."""
        if not 0 <= now - self.fresh_at <= FRESH_SECONDS:  # negative if the clock was set back
            return math.inf
        others = max(self._backlogged_load - target.backlogged_load, 0.0)
        slowness = target.sink.concurrency.alone_seconds / PROMPT_SECONDS
        return max(1.0, BACKLOGGED_SLOTS * (1 + slowness) / (1 + others))

    # --- counting

    def count_backlogged(self, target: Target, change: int) -> None:
        """Counts a backlogged delivery that has started (1), or is committed or released (-1).

        Failing and slow sinks cause little load, so they take no backlog slots from the others.
        """
        before = target.backlogged_load
        target.backlogged += change
        busy = target.backlogged > 0 and not target.sink.failures
        target.backlogged_load = 1 / (1 + target.sink.concurrency.alone_seconds / PROMPT_SECONDS) if busy else 0.0
        self._backlogged_load += target.backlogged_load - before

    def occupy(self, target: Target) -> None:
        """Takes a slot."""
        target.in_flight += 1
        target.fills += target.full
        target.host.in_flight += 1
        self.in_flight += 1
        for one in target.templates:
            one.in_flight += 1

    def vacate(self, target: Target) -> None:
        """Frees a slot, or passes it on to a waiting delivery."""
        queue = target.queue
        while queue:
            waiting = queue.popleft()
            if not waiting.done():
                waiting.set_result(True)
                return
        target.in_flight -= 1
        target.host.in_flight -= 1
        self.in_flight -= 1
        for one in target.templates:
            self._vacate_template(one)
        if not target.known:
            self._leave(target)
        if self.starved:
            self._due.set()

    def _vacate_template(self, templates: _TemplateSlots) -> None:
        """Frees a slot of an owner's templates. Starts a scan only once half of them are free: a scan reads everything
        due, and deliveries in flight continue with the next of their subscription without one."""
        templates.in_flight -= 1
        if templates.starved and templates.in_flight <= self._most_of(templates) // 2:
            templates.starved = False
            self._due.set()

    async def wait_for_slot(self, target: Target) -> bool:
        """Waits for a slot for a claimed delivery. Returns False if none will be freed, or after `close`."""
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

    def close(self) -> None:
        """Ends claiming, and all waits for slots."""
        self.closed = True
        for target in self:
            while target.queue:
                waiting = target.queue.popleft()
                if not waiting.done():
                    waiting.set_result(False)


def _host_of(sink: str) -> str:
    """Scheme, name and port."""
    parts = urlsplit(sink)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}"
