"""Deliveries on their way out: claim, render, sign, send, decide, record.

What a look has just recorded comes here in memory, already leased; the scan of the table is for recovery, retries and
whatever found no free slot. Nothing is claimed without a slot, so a slow sink holds up only its own.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol
from urllib.parse import urlsplit

import structlog

from relay.clock import Clock
from relay.core import notices, retry, signing
from relay.core.delivery import Attempt, Claimed, OutboundRequest, Outcome, Response
from relay.core.events import Event, relay_event
from relay.core.filters import matches
from relay.core.records import Lease, Mark, Marked
from relay.core.subscription import SigningSecret, Subscription
from relay.ids import new_id
from relay.log import redact_text
from relay.metrics import Metrics

LEASE_MARGIN_SECONDS = 30.0
START_CONCURRENCY = 8
IDLE_SCAN_SECONDS = 30.0
RESCAN_SECONDS = 0.05
EXCERPT_CHARACTERS = 1024
SECRET_HEADERS = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "webhook-signature", "x-api-key", "x-api-token"}
)

log = structlog.get_logger("relay.dispatcher")


class Backlog(Protocol):
    """What waits for one subscription: by priority, when the first of it is due."""

    @property
    def subscription_id(self) -> str: ...
    @property
    def due_at(self) -> tuple[float | None, ...]: ...


class Deliveries(Protocol):
    """What the dispatcher needs of the store's deliveries."""

    async def backlog(self) -> Sequence[Backlog]: ...
    async def claim_due(
        self, subscription_id: str, priorities: tuple[int, ...], count: int, now: float, lease: Lease
    ) -> tuple[Claimed, ...]: ...
    async def mark(self, mark: Mark) -> Marked: ...
    async def release(self, claimed: Sequence[Claimed], now: float) -> None: ...


class Subscriptions(Protocol):
    """What it needs of the store's subscriptions. `version` rises with each change."""

    @property
    def version(self) -> int: ...
    async def all(self) -> list[Subscription]: ...
    async def set_failing_since(self, subscription_id: str, since: float | None) -> None: ...
    def changed(self) -> None: ...


class Kind(Protocol):
    """What it needs of a subscription's kind."""

    @property
    def name(self) -> str: ...
    @property
    def signed(self) -> bool: ...
    @property
    def rate_per_second(self) -> float | None: ...
    def render(self, event: Event, subscription: Subscription) -> OutboundRequest: ...
    def classify(self, response: Response, now: float) -> Outcome: ...
    def redacted_url(self, url: str) -> str: ...


class Transport(Protocol):
    """What sends a request; it never raises but when it is cancelled."""

    async def send(self, request: OutboundRequest, *, timeout_seconds: float) -> Response: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatcherSettings:
    """See docs/settings.md, `delivery`."""

    concurrency: int = 256
    per_host: int = 64
    jitter: float = 0.2
    disable_after_seconds: float = 432_000.0
    dataschema_base: str = ""


@dataclass(slots=True)
class _Target:
    """A subscription with what the node knows of its sink just now.

    in_flight  slots taken: requests that are out, or about to be
    marking    attempts that have ended and wait for their commit; their slots are free meanwhile
    queue      deliveries taken over in such a commit that wait for a slot again
    """

    subscription: Subscription
    kind: Kind
    host: str
    shown_sink: str
    in_flight: int = 0
    marking: int = 0
    queue: deque[asyncio.Future[None]] = field(default_factory=deque)
    paused_until: float = 0.0
    next_send_at: float = 0.0
    failing_since: float | None = None
    limit: int = START_CONCURRENCY
    waiting: bool = False


@dataclass(slots=True)
class _Host:
    in_flight: int = 0
    targets: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Slots kept for deliveries that are about to be written. Give it back with `settle`."""

    lease: Lease
    targets: tuple[str, ...]


class Dispatcher:
    """Sends what is due. `run_once()` is one scan; what it starts goes on in tasks of its own."""

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
        token: str,
        callback_secret: Callable[[], str],
        recorded: Callable[[Event], None] = lambda event: None,
        seed: int | None = None,
    ) -> None:
        self._deliveries = deliveries
        self._subscriptions = subscriptions
        self._kinds = kinds
        self._transport = transport
        self._clock = clock
        self.settings = settings
        self._metrics = metrics
        self._token = token
        self._callback_secret = callback_secret
        self._recorded = recorded
        self._random = random.Random(seed)  # noqa: S311 - jitter, not secrets
        self._targets: dict[str, _Target] = {}
        self._hosts: dict[str, _Host] = {}
        self._version = -1
        self._in_flight = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._stopping = False
        self._leases = 0
        self._starved = False

    # --- what others call

    def wake(self) -> None:
        """Something is due, or a subscription changed."""
        self._wake.set()

    def reserve(self, events: Sequence[Event]) -> Reservation | None:
        """Slots for the first deliveries of these events of one job: None when nothing matches or no slot is free.

        Subscriptions made by a callback URL are not known here; theirs are claimed by the scan.
        """
        if self._stopping or not events or self._version != self._subscriptions.version:
            return None
        now = self._clock()
        taken: list[str] = []
        for subscription_id, target in self._targets.items():
            wanted = any(
                matches(target.subscription, event.type, event.source, job_event=event.job_uid is not None)
                for event in events
            )
            if wanted and self._may_start(target, now):
                self._occupy(target)
                taken.append(subscription_id)
        if not taken:
            return None
        longest = max(self._targets[one].subscription.timeout_seconds for one in taken)
        return Reservation(lease=self._lease(now, longest, frozenset(taken)), targets=tuple(taken))

    def settle(self, reservation: Reservation | None, claimed: Sequence[Claimed]) -> None:
        """Starts what was leased with a reservation and frees the slots that were not used. Call it in any case."""
        used = {one.subscription_id: one for one in claimed}
        for subscription_id in reservation.targets if reservation is not None else ():
            target = self._targets.get(subscription_id)
            one = used.pop(subscription_id, None)
            if target is None:
                self._in_flight -= 1  # the subscription was removed meanwhile, and its deliveries with it
            elif one is None:
                self._vacate(target)
            else:
                self._start(target, one)
        self._wake.set()

    async def test(self, subscription: Subscription, event: Event) -> tuple[Attempt, Outcome]:
        """Sends one event now; nothing is stored and no limit applies."""
        kind = self._kinds(subscription.kind)
        return await self._attempt(subscription, kind, event, number=1)

    # --- the loop

    async def run(self) -> None:
        """Repeats `run_once()` until `stop()`."""
        while not self._stopping:
            self._wake.clear()
            try:
                wait_seconds = await self.run_once()
            except Exception:
                log.exception("dispatch_failed")
                wait_seconds = 1.0
            if wait_seconds > 0:
                try:
                    async with asyncio.timeout(wait_seconds):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    async def run_once(self) -> float:
        """Claims and starts whatever is due and has a free slot. Returns how long nothing more is due, in seconds."""
        await self._refresh()
        now = self._clock()
        next_due = now + IDLE_SCAN_SECONDS
        backlog = await self._deliveries.backlog()
        waiting = {entry.subscription_id for entry in backlog}
        for subscription_id, target in self._targets.items():
            target.waiting = subscription_id in waiting
        claims = []
        self._starved = False
        for entry in backlog:
            found = self._targets.get(entry.subscription_id)
            if found is None or found.subscription.state != "enabled":
                continue
            due = [at for at in entry.due_at if at is not None]
            earliest = max(min(due), found.paused_until, found.next_send_at)
            if earliest > now:
                next_due = min(next_due, earliest)
                continue
            free = self._free_slots(found)
            if free > 0:
                priorities = tuple(p for p, at in enumerate(entry.due_at) if at is not None and at <= now)
                claims.append(self._claim(found, priorities, free, now))
            else:
                self._starved = True
        if claims:
            # behind what was due may be what is due soon, which this look at the backlog has not seen: look again
            started = sum(await asyncio.gather(*claims))
            next_due = min(next_due, self._clock() + (0.0 if started else RESCAN_SECONDS))
        return max(0.0, next_due - self._clock())

    async def drain(self) -> None:
        """Waits until nothing is in flight: for tests and for a clean end."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    async def stop(self, timeout_seconds: float) -> None:
        """Claims nothing more and finishes what is in flight within the time; what remains keeps its lease until that
        runs out, since nobody knows whether it arrived."""
        self._stopping = True
        self._wake.set()
        if self._tasks:
            _, late = await asyncio.wait(list(self._tasks), timeout=timeout_seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    # --- claiming

    async def _refresh(self) -> None:
        version = self._subscriptions.version
        if version == self._version:
            return
        found = {subscription.id: subscription for subscription in await self._subscriptions.all()}
        for gone in self._targets.keys() - found.keys():
            del self._targets[gone]
        self._hosts = {}
        for subscription in found.values():
            self._adopt(subscription)
        self._version = version

    def _adopt(self, subscription: Subscription) -> None:
        kind = self._kinds(subscription.kind)
        target = self._targets.get(subscription.id)
        host = _host_of(subscription.sink)
        if target is None:
            target = _Target(subscription=subscription, kind=kind, host=host, shown_sink="")
            target.failing_since = subscription.failing_since
            self._targets[subscription.id] = target
        elif subscription.state == "enabled" and target.subscription.state != "enabled":
            target.failing_since = subscription.failing_since
            target.paused_until = 0.0
        target.subscription, target.kind, target.host = subscription, kind, host
        target.shown_sink = kind.redacted_url(subscription.sink)
        target.limit = subscription.concurrency or START_CONCURRENCY
        known = self._hosts.setdefault(host, _Host())
        known.targets.add(subscription.id)
        known.in_flight += target.in_flight

    async def _claim(self, target: _Target, priorities: tuple[int, ...], count: int, now: float) -> int:
        for _ in range(count):
            self._occupy(target)
        started = 0
        try:
            lease = self._lease(now, target.subscription.timeout_seconds, frozenset({target.subscription.id}))
            claimed = await self._deliveries.claim_due(target.subscription.id, priorities, count, now, lease)
            for one in claimed:
                self._start(target, one)
                started += 1
        finally:
            for _ in range(count - started):
                self._vacate(target)
        if started == count:
            self._starved = True  # there may be more than there were slots
        return started

    def _lease(self, now: float, timeout_seconds: float, subscription_ids: frozenset[str] = frozenset()) -> Lease:
        self._leases += 1
        until = now + timeout_seconds + LEASE_MARGIN_SECONDS
        return Lease(token=f"{self._token}.{self._leases}", until=until, subscription_ids=subscription_ids)

    def _may_start(self, target: _Target, now: float) -> bool:
        return (
            target.subscription.state == "enabled"
            and target.paused_until <= now
            and target.next_send_at <= now
            and self._free_slots(target) > 0
        )

    def _free_slots(self, target: _Target) -> int:
        host = self._hosts[target.host]
        limit = target.limit
        rate = target.subscription.rate_per_second or target.kind.rate_per_second
        if rate is not None:
            limit = 1
        others_wait = any(
            other != target.subscription.id and (self._targets[other].waiting or self._targets[other].in_flight)
            for other in host.targets
            if other in self._targets
        )
        own = max(1, self.settings.per_host // 2) if others_wait else self.settings.per_host
        limit = min(limit, own)
        return min(
            limit - target.in_flight,
            # what is claimed but not committed is bounded: a crash repeats no more than that
            2 * limit - target.in_flight - target.marking - len(target.queue),
            self.settings.per_host - host.in_flight,
            self.settings.concurrency - self._in_flight,
        )

    def _occupy(self, target: _Target) -> None:
        target.in_flight += 1
        self._hosts[target.host].in_flight += 1
        self._in_flight += 1

    def _vacate(self, target: _Target) -> None:
        while target.queue:
            waiting = target.queue.popleft()
            if not waiting.done():
                waiting.set_result(None)  # the slot changes hands
                return
        target.in_flight -= 1
        self._in_flight -= 1
        if self._knows(target):
            self._hosts[target.host].in_flight -= 1
        if self._starved:
            self._wake.set()

    def _knows(self, target: _Target) -> bool:
        """Whether its subscription is still there; what is in flight outlives one that was removed."""
        return self._targets.get(target.subscription.id) is target

    async def _occupy_again(self, target: _Target) -> bool:
        """A slot for a delivery that is claimed already. False when none will come by itself."""
        if not self._knows(target):
            return False
        if self._free_slots(target) > 0:
            self._occupy(target)
            return True
        if target.in_flight == 0:
            return False
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        target.queue.append(waiting)
        try:
            await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled():
                self._vacate(target)
            raise
        return True

    def _start(self, target: _Target, claimed: Claimed) -> None:
        task = asyncio.get_running_loop().create_task(self._work(target, claimed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- one slot's work

    async def _work(self, target: _Target, first: Claimed) -> None:
        """Delivers one, and goes on with what the mark handed over, until there is nothing or the slot is wanted."""
        self._metrics.deliveries_in_flight.inc()
        claimed: Claimed | None = first
        try:
            while claimed is not None:
                claimed = await self._deliver(target, claimed)
                if claimed is not None and not await self._occupy_again(target):
                    await self._deliveries.release([claimed], self._clock())
                    self._wake.set()
                    break
        except Exception:
            log.exception("delivery_failed", subscription=target.subscription.id)
        finally:
            self._metrics.deliveries_in_flight.dec()

    async def _deliver(self, target: _Target, claimed: Claimed) -> Claimed | None:
        """One attempt in a slot that is ours; the slot is free again when the answer is there."""
        subscription = target.subscription
        try:
            now = self._clock()
            if claimed.lease_until - now < subscription.timeout_seconds:
                log.warning("lease_too_old", delivery=claimed.id)
                return None
            rate = subscription.rate_per_second or target.kind.rate_per_second
            if rate is not None:
                if target.next_send_at > now:
                    await self._deliveries.release([claimed], target.next_send_at)
                    return None
                target.next_send_at = now + 1.0 / rate
            number = claimed.made_count + 1
            attempt, outcome = await self._attempt(subscription, target.kind, claimed.event, number)
        finally:
            self._vacate(target)
        return await self._record(target, claimed, attempt, outcome)

    async def _record(self, target: _Target, claimed: Claimed, attempt: Attempt, outcome: Outcome) -> Claimed | None:
        now = self._clock()
        decision = retry.decide(
            outcome,
            attempt_count=claimed.attempt_count + 1,
            schedule_seconds=target.subscription.retry_schedule_seconds,
            jitter=self.settings.jitter,
            random_value=self._random.random(),
            now=now,
        )
        mark = self._mark(target, claimed, attempt, decision, now)
        target.marking += 1
        try:
            marked = await self._deliveries.mark(mark)
        finally:
            target.marking -= 1
        for event in mark.events if marked.kept else ():
            self._recorded(event)
        if mark.disable is not None:
            self._subscriptions.changed()
        await self._remember(target, outcome, now)
        log.info(
            "attempt",
            delivery=claimed.id,
            event_id=claimed.event.id,
            subscription=target.subscription.id,
            job_uid=claimed.job_uid,
            number=attempt.number,
            sink=target.shown_sink,
            status_code=attempt.status_code,
            error=attempt.error,
            duration_ms=round(attempt.duration_ms, 1),
            state=mark.state,
            decision=mark.attempt.decision,
            kept=marked.kept,
        )
        if mark.state == "pending" or mark.disable is not None or (marked.next is None and self._starved):
            self._wake.set()
        return marked.next

    def _mark(self, target: _Target, claimed: Claimed, attempt: Attempt, decision: retry.Decision, now: float) -> Mark:
        state, due_at, disable = "pending", None, None
        events: tuple[Event, ...] = ()
        match decision:
            case retry.Done():
                state, said = "delivered", "delivered"
            case retry.Retry():
                due_at, said = decision.at, f"again in {decision.at - now:.1f} s"
                target.paused_until = max(target.paused_until, decision.pause_until or 0.0)
            case retry.Dead():
                state, said = "dead", "given up: " + ("schedule exhausted" if decision.exhausted else "sink refused it")
                target.paused_until = max(target.paused_until, decision.pause_until or 0.0)
                events = self._expired(target, claimed, attempt, decision, now)
            case retry.Disable():
                disable, said = decision.reason, "subscription disabled"
        since = target.failing_since
        if (
            state != "delivered"
            and disable is None
            and since is not None
            and now - since >= self.settings.disable_after_seconds
        ):
            disable, said = f"only failures for {int(now - since)} s", said + "; subscription disabled"
        if disable is not None and target.subscription.state == "enabled":
            events = (*events, self._disabled(target, disable, now))
        goes_on = disable is None and target.paused_until <= now and not self._stopping and self._within_limits(target)
        return Mark(
            claimed=claimed,
            state=state,
            now=now,
            attempt_id=new_id("att", now),
            attempt=replace(attempt, decision=said),
            due_at=due_at,
            reason=decision.reason,
            disable=disable,
            events=events,
            next_lease=self._lease(now, target.subscription.timeout_seconds) if goes_on else None,
            take_due=goes_on,
        )

    def _within_limits(self, target: _Target) -> bool:
        if not self._knows(target) or target.subscription.state != "enabled":
            return False
        rate = target.subscription.rate_per_second or target.kind.rate_per_second
        return rate is None and self._free_slots(target) > 0

    async def _attempt(
        self, subscription: Subscription, kind: Kind, event: Event, number: int
    ) -> tuple[Attempt, Outcome]:
        now = self._clock()
        request = kind.render(event, subscription)
        headers = request.headers
        if kind.signed:
            headers += signing.signature_headers(
                self._secrets(subscription), message_id=event.id, now=now, body=request.body
            )
        sent = OutboundRequest(url=request.url, method=request.method, headers=headers, body=request.body)
        response = await self._transport.send(sent, timeout_seconds=subscription.timeout_seconds)
        outcome = kind.classify(response, self._clock())
        self._metrics.attempts.labels(kind.name, outcome.verdict).inc()
        self._metrics.attempt_seconds.labels(kind.name).observe(response.duration_ms / 1000)
        attempt = Attempt(
            number=number,
            started_at=response.started_at,
            duration_ms=response.duration_ms,
            status_code=response.status_code,
            error=_error_text(response),
            request_headers=_redacted(headers),
            response_headers=_redacted(response.headers),
            response_excerpt=_excerpt(response.excerpt),
            remote_ip=response.remote_ip,
        )
        return attempt, outcome

    def _secrets(self, subscription: Subscription) -> Sequence[SigningSecret]:
        if subscription.callback:
            return (SigningSecret(value=self._callback_secret()),)
        return subscription.secrets

    async def _remember(self, target: _Target, outcome: Outcome, now: float) -> None:
        """Since when a sink has only failed: written when that begins and when it ends, not at each attempt."""
        if outcome.verdict == "delivered":
            if target.failing_since is not None:
                target.failing_since = None
                await self._subscriptions.set_failing_since(target.subscription.id, None)
        elif target.failing_since is None:
            target.failing_since = now
            await self._subscriptions.set_failing_since(target.subscription.id, now)

    def _expired(
        self, target: _Target, claimed: Claimed, attempt: Attempt, decision: retry.Dead, now: float
    ) -> tuple[Event, ...]:
        event = claimed.event
        if event.job_uid is None:
            return ()  # a dead sink that asked for these would feed itself without end
        data = notices.delivery_expired_data(
            delivery_id=claimed.id,
            event_id=event.id,
            event_type=event.type,
            subscription_id=target.subscription.id,
            job_id=event.subject,
            attempts=attempt.number,
            last_error=attempt.error or decision.reason,
            reason="exhausted" if decision.exhausted else "refused",
        )
        return (self._notice("relay.delivery.expired", data, now, target.subscription.id),)

    def _disabled(self, target: _Target, reason: str, now: float) -> Event:
        data = notices.subscription_data(
            subscription_id=target.subscription.id,
            sink=target.shown_sink,
            reason=reason,
            since=target.failing_since,
        )
        return self._notice("relay.subscription.disabled", data, now, target.subscription.id)

    def _notice(self, type: str, data: Mapping[str, object], now: float, subject: str) -> Event:
        dataschema = notices.dataschema_for(type, self.settings.dataschema_base)
        return relay_event(new_id("evt", now), type, now, data, dataschema=dataschema, subject=subject)


def _redacted(headers: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, "[redacted]" if name.lower() in SECRET_HEADERS else value) for name, value in headers)


def _excerpt(body: bytes) -> str | None:
    if not body:
        return None
    return redact_text(body[: EXCERPT_CHARACTERS * 4].decode("utf-8", "replace"))[:EXCERPT_CHARACTERS].replace(
        "\0", "�"
    )


def _error_text(response: Response) -> str | None:
    if response.error is None:
        return None
    return f"{response.error}: {response.detail}" if response.detail else response.error


def _host_of(sink: str) -> str:
    """A host is scheme, name and port."""
    parts = urlsplit(sink)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}"
