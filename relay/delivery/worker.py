"""One delivery on its way out, in its slot: render, sign, send, decide, record, and what follows from the attempt.

A slot's work goes on with the deliveries that its marks take over, in the same task, for as long as there are any.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import structlog

from relay.clock import Clock
from relay.core import retry, signing
from relay.core.delivery import Claimed, OutboundRequest, Outcome, Response
from relay.core.events import Event
from relay.core.records import AttemptRecorded, AttemptResult, Lease
from relay.core.subscription import SigningSecret, Subscription
from relay.core.text import storable
from relay.delivery.attempts import Headers, bare
from relay.delivery.outcomes import Tried, attempt_result
from relay.delivery.slots import Kind, Slots, Target
from relay.errors import StoreError, ValueRefused
from relay.holder import Holder
from relay.log import shows_deliveries
from relay.metrics import Metrics
from relay.tasks import Tasks

AHEAD_MS = 1000.0
"""A sink that answers within this time has further deliveries claimed before it has slots for them: their leases do not
grow old until then."""
AGAIN_SECONDS = 1.0
"""The database refused: how long until it is asked again."""
REASON_CHARACTERS = 200
OUTAGE_SECONDS = 60.0
"""A sink that only failed for so long was down, and its waiting retries come forward with the first success. After less
than that they do not: an event that a busy sink always refuses would be sent again with each success of another."""

log = structlog.get_logger("relay.deliverer")


class ClaimedDeliveries(Protocol):
    """What becomes of a delivery that is claimed, in the store."""

    async def mark(self, mark: AttemptResult) -> AttemptRecorded: ...
    async def release(self, claimed: Sequence[Claimed], now: float) -> None: ...


class SinkHealth(Protocol):
    """What an attempt has the store's subscriptions keep of a sink."""

    async def set_sink_health(
        self,
        subscription_id: str,
        *,
        failing_since: float | None,
        paused_until: float | None,
        failing_reason: str | None = None,
    ) -> None: ...
    def changed(self) -> None: ...


class Transport(Protocol):
    """What sends a request; it never raises but when it is cancelled."""

    async def send(self, request: OutboundRequest, *, timeout_seconds: float) -> Response: ...


class Settings(Protocol):
    """What is decided by after an attempt. See docs/settings.md, `delivery`."""

    def timeout_of(self, subscription: Subscription) -> float: ...
    def schedule_of(self, subscription: Subscription) -> Sequence[float]: ...
    @property
    def jitter(self) -> float: ...
    @property
    def disable_after_seconds(self) -> float: ...
    @property
    def dataschema_base(self) -> str: ...


@dataclass(slots=True, kw_only=True, eq=False)
class InFlight:
    """What the scan and the slots' work share. Only the dispatcher sets the flags.

    wake      has the dispatcher scan at once
    holder    the names that this node's leases are taken under
    stopping  nothing more is claimed or taken over, and what was not sent yet is given back
    starved   others had all the slots when something was due: the next one that is free is for a scan to give away
    """

    slots: Slots
    tasks: Tasks
    wake: Callable[[], None]
    holder: Holder
    stopping: bool = False
    starved: bool = False

    def gives_back(self, claimed: Claimed) -> bool:
        """Whether a delivery goes back unsent: this node stops, or another one may have taken it already."""
        return self.stopping or self.holder.has_lost(claimed.lease_token)

    def vacate(self, target: Target) -> None:
        """Gives a slot back."""
        if self.slots.vacate(target) and self.starved:
            self.wake()


class Deliverer:
    """Does one slot's work. `start()` returns at once; what it starts goes on in a task of its own.

    settings  what it works by just now
    lease     by how long an answer may take: for what a mark takes over
    chance    a number from 0 to 1 at each call
    recorded  told of each event that an attempt's end has caused, once it is committed
    """

    def __init__(
        self,
        in_flight: InFlight,
        *,
        deliveries: ClaimedDeliveries,
        subscriptions: SinkHealth,
        transport: Transport,
        clock: Clock,
        lease_clock: Clock,
        settings: Callable[[], Settings],
        metrics: Metrics,
        lease: Callable[[float], Lease],
        callback_secret: Callable[[], str],
        recorded: Callable[[Event], None],
        chance: Callable[[], float],
    ) -> None:
        self._in_flight = in_flight
        self._slots = in_flight.slots
        self._tasks = in_flight.tasks
        self._wake = in_flight.wake
        self._deliveries = deliveries
        self._subscriptions = subscriptions
        self._transport = transport
        self._clock = clock
        self._lease_clock = lease_clock
        self._settings = settings
        self._metrics = metrics
        self._attempts_of = lru_cache(maxsize=64)(metrics.attempts.labels)
        self._seconds_of = lru_cache(maxsize=64)(metrics.attempt_seconds.labels)
        self._lease = lease
        self._callback_secret = callback_secret
        self._recorded = recorded
        self._chance = chance

    def start(self, target: Target, claimed: Claimed, *, has_slot: bool = True) -> None:
        """Delivers one in a slot that was taken for it, or else when there is one."""
        self._tasks.start(self._work(target, claimed, has_slot=has_slot))

    async def exchange(self, subscription: Subscription, kind: Kind, event: Event) -> tuple[Headers, Response, Outcome]:
        """Renders, signs, sends and judges the answer. Returns the headers that were sent, too. What fails in a kind of
        sink is a failed attempt."""
        try:
            request = self.signed(subscription, kind, event)
        except Exception as error:
            log.exception("render_failed", subscription=subscription.id, event_id=event.id)
            headers: Headers = ()
            detail = f"the event can not be rendered for this sink ({type(error).__name__}): the relay's log says more"
            response = Response(started_at=self._clock(), duration_ms=0.0, error="render", detail=detail)
        else:
            headers = request.headers
            response = await self._transport.send(request, timeout_seconds=self._settings().timeout_of(subscription))
        outcome = self._judged(subscription, kind, response)
        self._attempts_of(kind.name, outcome.verdict).inc()
        self._seconds_of(kind.name).observe(response.duration_ms / 1000)
        return headers, response, outcome

    def signed(self, subscription: Subscription, kind: Kind, event: Event) -> OutboundRequest:
        """The request that would go out now."""
        request = kind.render(event, subscription)
        if not kind.signed:
            return request
        secrets = subscription.secrets
        if subscription.callback:
            secrets = (SigningSecret(value=self._callback_secret()),)
        signature = signing.signature_headers(secrets, message_id=event.id, now=self._clock(), body=request.body)
        return OutboundRequest(
            url=request.url, method=request.method, headers=request.headers + signature, body=request.body
        )

    def _judged(self, subscription: Subscription, kind: Kind, response: Response) -> Outcome:
        try:
            outcome = kind.classify(response, self._clock())
            reason = storable(outcome.reason)[:REASON_CHARACTERS]  # it may hold some of the answer
            return outcome if reason == outcome.reason else replace(outcome, reason=reason)
        except Exception:
            log.exception("classify_failed", subscription=subscription.id)
            return retry.http_outcome(response, self._clock())

    # --- one slot's work

    async def _work(self, target: Target, claimed: Claimed, *, has_slot: bool) -> None:
        """Delivers one, and goes on with what its mark took over, until there is nothing or the slot is wanted."""
        self._metrics.deliveries_in_flight.inc()
        try:
            while following := await self._one(target, claimed, has_slot=has_slot):
                claimed, has_slot = following[0], False
                for other in following[1:]:
                    self._tasks.start(self._work(target, other, has_slot=False))
        except StoreError as error:
            log.error("delivery_failed", subscription=target.subscription.id, error=str(error))
            self._wake()
        except Exception:
            log.exception("delivery_failed", subscription=target.subscription.id)
            self._wake()
        finally:
            self._metrics.deliveries_in_flight.dec()

    async def _one(self, target: Target, claimed: Claimed, *, has_slot: bool) -> tuple[Claimed, ...]:
        """Delivers one, or gives it back unsent. Returns the deliveries to go on with."""
        backlogged = claimed.priority > 0
        if backlogged:
            self._slots.backlogged_began(target)
        else:
            self._slots.fresh_at = self._clock()
        try:
            unsent = self._in_flight.gives_back(claimed)
            if not (has_slot or unsent):
                has_slot = await self._slots.occupy_again(target)
                # meanwhile the sink asked for a pause, or its subscription was removed
                unsent = not (target.known and target.may_send(self._clock())) or self._in_flight.gives_back(claimed)
            if has_slot and unsent:
                self._in_flight.vacate(target)
            if unsent or not has_slot:
                await self._deliveries.release([claimed], self._clock())
                self._wake()
                return ()
            return await self._deliver(target, claimed)
        finally:
            if backlogged:
                self._slots.backlogged_ended(target)

    async def _deliver(self, target: Target, claimed: Claimed) -> tuple[Claimed, ...]:
        """One attempt in a slot that is ours; the slot is free again when the answer is there. Returns the deliveries
        to go on with."""
        subscription = target.subscription
        try:
            now = self._clock()
            if claimed.lease_until - self._lease_clock() < self._settings().timeout_of(subscription):
                log.warning("lease_too_old", delivery=claimed.id)
                await self._deliveries.release([claimed], now)
                self._wake()
                return ()
            if target.rate is not None:
                if target.next_send_at > now:
                    await self._deliveries.release([claimed], target.next_send_at)
                    self._wake()
                    return ()
                target.next_send_at = now + 1.0 / target.rate
            in_flight, fills = target.in_flight, target.fills - target.full
            headers, response, outcome = await self.exchange(subscription, target.kind, claimed.event)
            target.answered(response, outcome, in_flight=in_flight, fills=fills)
        finally:
            self._in_flight.vacate(target)
        try:
            mark = self._mark(target, claimed, headers, response, outcome)
        except Exception:
            log.exception("attempt_not_shown", delivery=claimed.id)
            plain = replace(response, headers=(), excerpt=b"", detail=None, remote_ip=None)
            mark = self._mark(target, claimed, (), plain, outcome)
        next_count = mark.next_count
        target.marking += next_count
        try:
            mark, marked = await self._write_down(mark)
            if mark.state != "delivered" or target.failing_since is not None or mark.events or shows_deliveries():
                await self._after(target, mark, marked, outcome)
        finally:
            target.marking -= next_count  # what it took over is counted until it waits for a slot
        if not marked.next and (target.waiting or mark.next_lease is None):
            self._wake()  # nothing is due, or it may not go on: when is the next?
        return marked.next

    async def _write_down(self, mark: AttemptResult) -> tuple[AttemptResult, AttemptRecorded]:
        """Again and again while the database refuses: the sink has answered, and what is not written is sent twice.
        Where it is a value that can not be written, the bare attempt is, at last without the events that say what
        followed. Returns the mark as it was written: after a refusal it goes on with nothing."""
        while True:
            try:
                return mark, await self._deliveries.mark(mark)
            except Exception as error:
                if not isinstance(error, StoreError) or isinstance(error, ValueRefused):
                    log.exception("mark_impossible", delivery=mark.claimed.id)
                    barer = _barer(mark)
                    if barer == mark:
                        raise
                    mark = barer
                    continue
                if self._in_flight.stopping:
                    raise
                log.error("mark_failed", delivery=mark.claimed.id, error=str(error))
            mark = replace(mark, next_lease=None)  # it would have grown old
            await asyncio.sleep(AGAIN_SECONDS)

    # --- what follows from an attempt

    def _mark(
        self, target: Target, claimed: Claimed, headers: Headers, response: Response, outcome: Outcome
    ) -> AttemptResult:
        now, settings = self._clock(), self._settings()
        prompt = outcome.verdict == "delivered" and response.duration_ms <= AHEAD_MS
        free = self._slots.free(target, ahead=prompt) if self._may_go_on(target, now) else 0
        limit = self._slots.backlogged_limit(target, now)
        backlogged = limit == math.inf or (claimed.priority > 0 and target.backlogged <= limit)
        mark, pause_until = attempt_result(
            Tried(
                claimed=claimed,
                subscription=target.subscription,
                shown_sink=target.shown_sink,
                failing_since=target.failing_since,
                headers=headers,
                response=response,
                outcome=outcome,
            ),
            now,
            schedule_seconds=settings.schedule_of(target.subscription),
            jitter=settings.jitter,
            chance=self._chance,
            disable_after_seconds=settings.disable_after_seconds,
            dataschema_base=settings.dataschema_base,
            next_lease=self._lease(settings.timeout_of(target.subscription)) if free > 0 else None,
            next_count=2 if free > 1 and (limit == math.inf or not backlogged) else 1,
            next_backlogged=backlogged,
        )
        target.paused_until = max(target.paused_until, pause_until)
        if mark.disable is not None:
            target.held_until = now + AGAIN_SECONDS
        return mark

    def _may_go_on(self, target: Target, now: float) -> bool:
        # A sink that is back: the scan puts behind what had waited for it.
        by_scan = target.recovered or target.rate is not None or target.per_second(now) is not None
        return target.known and not by_scan and not self._in_flight.stopping and target.may_send(now)

    async def _after(self, target: Target, mark: AttemptResult, marked: AttemptRecorded, outcome: Outcome) -> None:
        """What others have to know of an attempt, once it is committed."""
        for event in mark.events if marked.kept else ():
            self._recorded(event)
        if mark.claimed.probe and marked.kept:
            target.probe_at = mark.probe_at
        if mark.disable is not None or (mark.claimed.probe and mark.state == "delivered"):
            self._subscriptions.changed()
        await self._remember(target, outcome, mark.now)
        attempt = mark.attempt
        (log.info if mark.state != "delivered" or shows_deliveries() else log.debug)(
            "attempt",
            delivery=mark.claimed.id,
            event_id=mark.claimed.event.id,
            type=mark.claimed.event.type,
            job=mark.claimed.event.subject,
            subscription=target.subscription.id,
            job_uid=mark.claimed.job_uid,
            number=attempt.number,
            sink=target.shown_sink,
            status_code=attempt.status_code,
            error=attempt.error,
            duration_ms=round(attempt.duration_ms, 1),
            state=mark.state,
            decision=attempt.decision,
            kept=marked.kept,
        )
        if mark.state == "pending" or mark.disable is not None or mark.events:
            self._wake()

    async def _remember(self, target: Target, outcome: Outcome, now: float) -> None:
        """Since when a sink has only failed, and the pause it asked for: written when they change, not at each
        attempt, so that they outlive this process and reach the other nodes."""
        since = None if outcome.verdict == "delivered" else now
        pause = target.paused_until if target.paused_until > now else 0.0
        turned = (target.failing_since is None) is not (since is None)
        if not turned and pause in (0.0, target.pause_written):
            return
        before, written = target.failing_since, target.pause_written
        if turned:
            target.failing_since = since
            if before is not None and now - before >= OUTAGE_SECONDS:
                target.back_since = now
                self._wake()
        target.pause_written = pause
        try:
            await self._subscriptions.set_sink_health(
                target.subscription.id,
                failing_since=target.failing_since,
                failing_reason=None if since is None else outcome.reason,
                paused_until=pause or None,
            )
        except StoreError as error:
            target.failing_since, target.pause_written = before, written  # the next attempt writes it
            log.error("sink_health_failed", subscription=target.subscription.id, error=str(error))


def _barer(mark: AttemptResult) -> AttemptResult:
    """The mark with fewer values that can not be written: without the details of its attempt, then without words."""
    barer = replace(mark, attempt=bare(mark.attempt))
    if barer == mark:
        barer = replace(mark, reason=None, disable=mark.disable and "the sink wants no more", events=())
    return barer
