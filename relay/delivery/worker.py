"""Attempts deliveries: render, sign, send, decide, record. One task per slot.

A request carries one delivery or, if the subscription bundles (`relay/core/deliveries/bundles.py`), several: one
slot, one response, and an attempt for each delivery. A broker (`publishing.py`) gets a message per delivery, each
with its own response and outcome. Recording a single attempt also claims the next due deliveries of its subscription,
and the task continues with those. `dispatcher.py` decides which deliveries start, `outcomes.py` the consequences of
an outcome.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import structlog

from relay.core.deliveries import ledger, retry
from relay.core.deliveries.broker import BEHIND, Broker, order_of
from relay.core.deliveries.bundles import message_id, outcome_of_bundle
from relay.core.deliveries.credentials import Header
from relay.core.deliveries.delivery import (
    DRY_RUN,
    PROXY_ERROR,
    RENDER_ERROR,
    Claimed,
    OutboundRequest,
    Outcome,
    Response,
    at_once,
)
from relay.core.deliveries.dialogue import SHARED, Ended, Memory, Step, Steps, imagined
from relay.core.events.event import Event
from relay.core.events.sentences import counted
from relay.core.jobs.job import Recipient
from relay.core.jsontext import storable
from relay.core.records import AttemptRecorded, AttemptResult, MemoryTurn
from relay.core.subscriptions import signing
from relay.core.subscriptions.handshake import REQUEST_ORIGIN
from relay.core.subscriptions.subscription import SigningSecret, Subscription
from relay.core.trace_context import TRACEPARENT, TraceContext, of_event
from relay.delivery.credentials import Credentials, Sent
from relay.delivery.dialogues import converse, unrendered
from relay.delivery.outcomes import FinishedAttempt, NextClaim, acknowledged, attempt_result, bare, is_simple
from relay.delivery.publishing import published
from relay.delivery.slots import Slots, Target
from relay.errors import DecryptError, StoreError, ValueRefused
from relay.limiter import Computations, Value
from relay.log import shows_deliveries
from relay.redaction import secrets_of, without
from relay.tasks import TURN_SECONDS, Tasks
from subscribers.base import RenderContext

if TYPE_CHECKING:
    from relay.delivery.shared import Shared
    from relay.tracing import Span
    from subscribers.base import Dialogue, Kind


class Signer:
    """Signs requests. Rotated secrets sign until they expire.

    A subscription's own secrets make `v1` signatures, the relay's key pair makes `v1a` signatures. Callbacks share the
    relay's default secret, so they get both: a holder of that secret can forge a `v1`, but never a `v1a`.
    """

    def __init__(self, shared: "Shared") -> None:
        self._shared = shared
        self._stored: tuple[SigningSecret, ...] = ()
        self._keys: tuple[SigningSecret, ...] = ()
        self._version = -1

    async def refresh(self) -> None:
        """Reloads the relay's secrets and keys if they, or a subscription, have changed."""
        version = self._shared.store.subscriptions.version
        if version != self._version:
            self._stored, self._keys = await self._shared.store.secrets.own_secrets()
            self._version = version

    @property
    def callback_secrets(self) -> tuple[SigningSecret, ...]:
        """The secrets of requests to callback URLs, the newest first."""
        return self._shared.settings.callback_secrets or self._stored

    @property
    def keys(self) -> tuple[SigningSecret, ...]:
        """The private keys `whsk_…`, the newest first. Some may have expired."""
        return self._keys

    def headers(self, subscription: Subscription, *, message_id: str, now: float, body: bytes) -> tuple[Header, ...]:
        """The signature headers of a request."""
        if subscription.callback:
            secrets = self.callback_secrets + self._keys
        elif subscription.signature == "v1":
            secrets = subscription.secrets
        elif subscription.signature == "v1a":
            secrets = self._keys
        else:
            secrets = subscription.secrets + self._keys
        return signing.signature_headers(secrets, message_id=message_id, now=now, body=body)


PROMPT_MS = 1000.0
"""Response time up to which deliveries are claimed before slots are free: they get one long before the lease ends."""
DATABASE_RETRY_SECONDS = 1.0
"""Pause before a retry after a database error."""
RENDER_SECONDS = 0.003
"""Templates are rendered one after the other for this time, then other tasks run. Most take 0.1 ms: one at a time their
deliveries would also be sent and committed one at a time."""
REASON_CHARACTERS = 300
PLAIN_CHARACTERS = len("http_200")
"""Maximum length of a reason that is too short to hold a credential."""
TURN_PAUSE_SECONDS = 1.0
"""Pause of a delivery that waits for another delivery with the same key."""

Exchange = tuple[Sent, Outcome]
_TELLING = {"delivered": 0, "retry": 1}

log = structlog.get_logger("relay.delivery")


class Worker:
    """Attempts claimed deliveries. `start()` returns at once; the attempt runs in its own task."""

    def __init__(self, shared: "Shared", slots: Slots, tasks: Tasks, signer: Signer) -> None:
        self.answered = 0
        """Number of completed exchanges with sinks."""
        self.undecryptable: dict[str, DecryptError] = {}
        """See `Dispatcher.undecryptable`."""
        given = shared.settings
        self.context = RenderContext(
            public_url=given.public_url, titles=given.titles, search_keys=given.search_keys, explain=given.explain
        )
        self.credentials = Credentials(
            transport=shared.transport, store=shared.store.credentials, clock=shared.clock, tasks=tasks
        )
        self._shared = shared
        self._slots = slots
        self._tasks = tasks
        self._signer = signer
        self._deliveries = shared.store.deliveries
        self._memories = shared.store.memories
        self._clock = shared.clock
        self._metrics = shared.metrics
        self._messages = Computations(TURN_SECONDS)
        """Renders messages without templates."""
        self._renders = Computations(RENDER_SECONDS, in_turn=True)
        """Renders templates."""

    def start(self, target: Target, *claimed: Claimed, has_slot: bool = True) -> None:
        """Starts a task that attempts the deliveries of a request, in its slot or as soon as a slot is free."""
        self._tasks.start(self._work(target, claimed, has_slot=has_slot))

    async def exchange(
        self,
        subscription: Subscription,
        kind: "Kind",
        *events: Event,
        deliveries: Sequence[str | None] = (None,),
        turn: MemoryTurn | None = None,
    ) -> Sequence[Exchange]:
        """Renders, signs and sends an event, or several in one request, and classifies the response. An exception in
        the kind of sink counts as a failed attempt; with NotRenderable the delivery is dead. Without a `turn` no memory
        is stored. A dry run sends nothing. `deliveries`: the `Claimed.round_id` of each event; None for a sample.
        Returns an exchange per event: the same object for all events that shared a response."""
        if self._shared.tracing is None or subscription.is_dry:
            # Of several events in one request, each has its own context.
            trace = of_event(events[0].body) if len(events) == 1 else None
            return await self._exchange(subscription, kind, events, deliveries, turn, trace)
        span = self._shared.tracing.sending(subscription, kind.name, events, deliveries)
        try:
            exchanges = await self._exchange(subscription, kind, events, deliveries, turn, span.context)
            _show(span, exchanges)
            return exchanges
        except BaseException as error:
            span.failed(type(error).__name__)
            raise
        finally:
            span.end()

    async def _exchange(
        self,
        subscription: Subscription,
        kind: "Kind",
        events: Sequence[Event],
        deliveries: Sequence[str | None],
        turn: MemoryTurn | None,
        trace: TraceContext | None,
    ) -> Sequence[Exchange]:
        if len(events) > 1:
            self._metrics.bundled_events.labels(kind.name).inc(len(events))
        try:
            broker = kind.broker(subscription)
        except Exception as error:
            found = [unrendered(error, self._clock(), events[0].id)] * len(events)
        else:
            if broker is not None:
                found = await self._published(subscription, kind, broker, events, deliveries)
            else:
                memory: Memory = {} if turn is None else turn.memory
                found = [await self._sent(subscription, kind, events, memory, turn, trace)]
        self.answered += 1
        now = self._clock()
        self._metrics.observe_attempt(subscription, kind.name, found[0].response.duration_ms / 1000, now)
        exchanges = [(sent, self._outcome_of(subscription, kind, sent)) for sent in found]
        if len(events) > len(exchanges):
            sent, outcome = exchanges[0]
            exchanges = [(sent, outcome_of_bundle(outcome, sent.response))]
        verdicts = [outcome.verdict for _, outcome in exchanges]
        for verdict in set(verdicts):
            self._metrics.count_attempts(subscription, kind.name, verdict, verdicts.count(verdict), now)
        return exchanges if len(exchanges) == len(events) else exchanges * len(events)

    async def _published(
        self,
        subscription: Subscription,
        kind: "Kind",
        broker: Broker,
        events: Sequence[Event],
        deliveries: Sequence[str | None],
    ) -> list[Sent]:
        limiter = self._renders if subscription.has_template else self._messages
        make = partial(limiter.step, subscription.owner)
        if subscription.is_dry:
            return [await make(partial(self._dry, subscription, kind, event)) for event in events]
        seconds = self._shared.settings.timeout_of(subscription)
        return await published(
            self._shared.publish,
            kind,
            subscription,
            broker,
            events,
            deliveries,
            self.context,
            seconds,
            self._clock,
            make,
        )

    def _dry(self, subscription: Subscription, kind: "Kind", event: Event) -> Sent:
        """The message of a dry run."""
        try:
            return self._made_up(subscription, kind, None, [event], None)
        except Exception as error:
            return unrendered(error, self._clock(), event.id)

    async def _sent(
        self,
        subscription: Subscription,
        kind: "Kind",
        events: Sequence[Event],
        memory: Memory,
        turn: MemoryTurn | None,
        trace: TraceContext | None,
    ) -> Sent:
        dialogue = kind.dialogue(subscription) if len(events) == 1 else None
        recipient: Recipient | None = None
        try:
            if kind.wants_recipient(subscription):
                recipient = await self._recipient(events[0])
            if subscription.is_dry:
                shown = partial(self._made_up, subscription, kind, dialogue, events, recipient)
                return await self._in_turn(subscription, shown)
            if dialogue is None and not subscription.has_template:
                request = self.signed(subscription, kind, *events)
            elif dialogue is None:
                request = await self._in_turn(subscription, partial(self.signed, subscription, kind, *events))
        except StoreError:
            raise
        except Exception as error:
            failed = unrendered(error, self._clock(), events[0].id, private=recipient is not None)
            if failed.outcome is not None and ledger.is_open(memory):
                return replace(failed, outcome=ledger.still_in_doubt(failed.outcome))
            return failed
        if dialogue is not None:
            return await self._converse(subscription, dialogue, events[0], memory, turn, recipient, trace)
        return await self._send(subscription, request, self._shared.settings.timeout_of(subscription), trace)

    async def _in_turn(self, subscription: Subscription, compute: Callable[[], Value]) -> Value:
        """The result of `compute`: at once, or in its owner's turn for a template."""
        return await self._renders.step(subscription.owner, compute) if subscription.has_template else compute()

    async def _recipient(self, event: Event) -> Recipient | None:
        """The recipient in the create of the event's job, if it was captured."""
        return None if event.job_uid is None else await self._shared.store.jobs.recipient(event.job_uid)

    def _made_up(
        self,
        subscription: Subscription,
        kind: "Kind",
        dialogue: "Dialogue | None",
        events: Sequence[Event],
        recipient: Recipient | None,
    ) -> Sent:
        """The requests of a dry run, with placeholders for the sink's answers and the recipient."""
        now = self._clock()
        response = Response(started_at=now, duration_ms=0.0)
        if dialogue is None:
            request = self.signed(subscription, kind, *events)
            requests, names = [request], [request.method]
        else:
            context = self._context(None if recipient is None else recipient.shown())
            steps, ended = imagined(dialogue.steps(events[0], subscription, context, ledger.CLEARED, now))
            if not steps and ended is not None:
                return Sent(headers=(), response=response, outcome=ended.outcome)
            requests, names = [step.request for step in steps], [step.name for step in steps]
        what = "request" if kind.broker(subscription) is None else "message"
        response = replace(response, detail=f"it would be {counted(len(requests), what)}: {', '.join(names)}")
        outcome = Outcome(verdict="delivered", reason=DRY_RUN)
        return Sent(headers=(), response=response, outcome=outcome, made_up=tuple(requests))

    def _context(self, recipient: Recipient | None) -> "RenderContext":
        return self.context if recipient is None else replace(self.context, recipient=recipient)

    async def _converse(
        self,
        subscription: Subscription,
        dialogue: "Dialogue",
        event: Event,
        memory: Memory,
        turn: MemoryTurn | None,
        recipient: Recipient | None,
        trace: TraceContext | None,
    ) -> Sent:
        known = () if turn is None else turn.known

        def steps() -> Steps:
            if ledger.is_settled(memory):
                return _written()
            context = replace(self._context(recipient), known=known) if known else self._context(recipient)
            return dialogue.steps(event, subscription, context, memory, self._clock())

        async def save(remember: Memory | None, share: Memory | None) -> bool:
            if turn is None:
                return True
            if share is not None and not turn.shared:  # the holder of that turn may be writing the same record
                return False
            kept = [] if remember is None else [(turn, remember)]
            kept += [] if share is None else [(one, share) for one in turn.shared]
            return all([await self._memories.keep(one, what, self._clock()) for one, what in kept])

        async def send(step: Step, seconds: float) -> Sent:
            return await self._send(subscription, step.request, seconds, trace)

        seconds, private = self._shared.settings.timeout_of(subscription), recipient is not None
        take = partial(self._in_turn, subscription)
        return await converse(
            steps, send, save, seconds, self._clock, event.id, memory, known, private=private, take=take
        )

    async def _send(
        self, subscription: Subscription, request: OutboundRequest, seconds: float, trace: TraceContext | None
    ) -> Sent:
        if trace is not None and not any(name.lower() == TRACEPARENT for name, _ in request.headers):
            request = replace(request, headers=(*request.headers, *trace.fields()))
        if subscription.credential is not None:
            return await self.credentials.send(subscription, request, seconds)
        return Sent(
            headers=request.headers, response=await self._shared.transport.send(request, timeout_seconds=seconds)
        )

    def signed(self, subscription: Subscription, kind: "Kind", *events: Event) -> OutboundRequest:
        """The request as it would be sent now."""
        if len(events) == 1:
            request = kind.render(events[0], subscription, self.context)
        else:
            request = kind.render_bundle(events, subscription, self.context)
        headers = request.headers
        if subscription.consent is not None:
            headers += ((REQUEST_ORIGIN, subscription.consent.origin),)
        if kind.signed:
            id = message_id([event.id for event in events])
            headers += self._signer.headers(subscription, message_id=id, now=self._clock(), body=request.body)
        return OutboundRequest(url=request.url, method=request.method, headers=headers, body=request.body)

    def _outcome_of(self, subscription: Subscription, kind: "Kind", sent: Sent) -> Outcome:
        """The outcome with a reason that can be stored and shown: a reason may contain text from the response."""
        outcome = sent.outcome
        if outcome is None:
            try:
                outcome = kind.classify(sent.response, self._clock())
            except Exception:
                log.exception("classify_failed", subscription=subscription.id)
                outcome = retry.http_outcome(sent.response, self._clock())
        reason = storable(outcome.reason)
        if len(reason) > PLAIN_CHARACTERS:
            shown_sink = kind.redacted_url(subscription.sink)
            reason = without(reason, secrets_of(subscription.sink, shown_sink, subscription.headers, sent.secrets))
        reason = reason[:REASON_CHARACTERS]
        return outcome if reason == outcome.reason else replace(outcome, reason=reason)

    # --- one slot's task

    async def _work(self, target: Target, claimed: Sequence[Claimed], *, has_slot: bool) -> None:
        """Attempts the deliveries of a request, then those claimed by recording them, until none are claimed."""
        try:
            while following := await self._one(target, claimed, has_slot=has_slot):
                claimed, has_slot = following[:1], False
                for other in following[1:]:
                    self._tasks.start(self._work(target, (other,), has_slot=False))
        except StoreError as error:
            if isinstance(error, DecryptError):
                self.undecryptable[target.subscription.id] = error
            log.error("delivery_failed", subscription=target.subscription.id, error=str(error))
            self._shared.signals.due.set()
        except Exception:
            log.exception("delivery_failed", subscription=target.subscription.id)
            self._shared.signals.due.set()

    async def _one(self, target: Target, claimed: Sequence[Claimed], *, has_slot: bool) -> tuple[Claimed, ...]:
        """Attempts the deliveries of a request, or releases them unsent. Returns the deliveries to continue with."""
        backlogged = claimed[0].priority > 0
        if backlogged:
            self._slots.count_backlogged(target, 1)
        else:
            self._slots.fresh_at = self._clock()
        try:
            unsent = self._must_release(claimed[0])
            if not (has_slot or unsent):
                has_slot = await self._slots.wait_for_slot(target)
                # the sink may have asked for a pause, or the subscription may be gone
                unsent = not (target.known and target.sink.may_send(self._clock())) or self._must_release(claimed[0])
            if has_slot and unsent:
                self._slots.vacate(target)
            if unsent or not has_slot:
                return await self._release(claimed, at_once(self._clock()))
            return await self._deliver(target, claimed)
        finally:
            if backlogged:
                self._slots.count_backlogged(target, -1)

    async def _deliver(self, target: Target, claimed: Sequence[Claimed]) -> tuple[Claimed, ...]:
        """One attempt in its slot, which is freed with the response. Returns the deliveries to continue with."""
        subscription, kind, first = target.subscription, target.kind, claimed[0]
        try:
            now = self._clock()
            if first.lease_until - self._shared.lease_clock() < self._shared.settings.timeout_of(subscription):
                log.warning("lease_too_old", delivery=first.id)
                return await self._release(claimed, at_once(now))
            # changed since the claim: its sink has not consented, or no longer bundles
            if subscription.state == "pending" or (len(claimed) > 1 and target.bundle is None):
                return await self._release(claimed, at_once(now))
            if not (subscription.is_dry or target.sink.take_turn(now)):
                return await self._release(claimed, target.sink.turns.next_at)
            turn, held = None, False
            dialogue = kind.dialogue(subscription) if len(claimed) == 1 and not subscription.is_dry else None
            if dialogue is not None:
                turn, held = await self._turn(target, dialogue, first)
            if held:
                return await self._release(claimed, now + TURN_PAUSE_SECONDS)
            in_flight, fills = target.in_flight, target.fills - target.full
            events, deliveries = [one.event for one in claimed], [one.round_id for one in claimed]
            exchanges = await self.exchange(subscription, kind, *events, deliveries=deliveries, turn=turn)
            sent, outcome = _telling(exchanges)
            full = target.fills > fills or target.full
            target.sink.answered(sent.response, outcome, in_flight=in_flight, full=full)
        finally:
            self._slots.vacate(target)
        try:
            results = self._results(target, claimed, exchanges, turn)
        except Exception:
            log.exception("attempt_not_shown", delivery=first.id)
            results = self._results(target, claimed, [(_plain(one), came) for one, came in exchanges], turn)
        next_count = results[0].next_count
        target.committing += next_count
        try:
            results, recorded = await self._record(results)
            result = next((one for one in results if one.state != "delivered"), results[0])
            changed = result.state != "delivered" or target.sink.fails or target.sink.paused_until > result.now
            if changed or result.events or shows_deliveries():
                by_proxy = sent.response.error == PROXY_ERROR
                await self._after(target, result, results, recorded, outcome, by_proxy=by_proxy)
        finally:
            target.committing -= next_count
        if not recorded[0].next and (target.has_backlog or result.next_lease is None):
            self._shared.signals.due.set()  # nothing claimed: the scan finds when the next one is due
        return recorded[0].next

    async def _turn(self, target: Target, dialogue: "Dialogue", claimed: Claimed) -> tuple[MemoryTurn | None, bool]:
        """The turn for a delivery, None if it needs none; True if another delivery holds it or a shared turn."""
        try:
            key = dialogue.key(claimed.event, target.subscription)
        except Exception:  # the attempt fails with the same error, and is recorded
            log.exception("key_failed", delivery=claimed.id)
            key = None
        if key is None:
            return None, False
        shared: list[MemoryTurn] = []
        for shared_key in await self._shared_keys(target, dialogue, claimed):
            one = await self._memories.take(claimed, shared_key, self._shared.lease_clock(), self._clock(), SHARED)
            if one is None:
                await self._memories.free(shared, self._clock())
                return None, True
            shared.append(one)
        turn = await self._memories.take(claimed, key, self._shared.lease_clock(), self._clock())
        if turn is None:
            await self._memories.free(shared, self._clock())
            return None, True
        return replace(turn, shared=tuple(shared)) if shared else turn, False

    async def _shared_keys(self, target: Target, dialogue: "Dialogue", claimed: Claimed) -> Sequence[str]:
        """The keys of turns shared with deliveries of other subscriptions. After an error there are none, and no write
        that needs them is made."""
        if dialogue.shared is None:
            return ()
        try:
            wanted = target.kind.wants_recipient(target.subscription)
            recipient = await self._recipient(claimed.event) if wanted else None
            return dialogue.shared(claimed.event, target.subscription, self._context(recipient))
        except StoreError:
            raise
        except Exception as error:  # its text may name a person
            log.error("key_failed", delivery=claimed.id, error=type(error).__name__)
            return ()

    def _must_release(self, claimed: Claimed) -> bool:
        """True if a delivery must not be sent: this node is stopping, or another one may have taken it over."""
        return self._slots.closed or self._shared.holder.has_lost(claimed.lease_token)

    async def _release(self, claimed: Sequence[Claimed], due_at: float) -> tuple[Claimed, ...]:
        """Gives deliveries back unsent. Returns no delivery to continue with."""
        await self._deliveries.release(claimed, due_at)
        self._shared.signals.due.set()
        return ()

    async def _record(
        self, results: Sequence[AttemptResult]
    ) -> tuple[Sequence[AttemptResult], Sequence[AttemptRecorded]]:
        """Records the results of a request, and retries while the database fails: an unrecorded attempt is sent again.

        If the database rejects a value, the details of the attempts are left out, then the events. Returns the results
        as recorded; after a database error they claim no further deliveries.
        """
        while True:
            try:
                return results, await self._deliveries.record(*results)
            except Exception as error:
                if not isinstance(error, StoreError) or isinstance(error, ValueRefused):
                    log.exception("mark_impossible", delivery=results[0].claimed.id)
                    reduced = [_reduced(result) for result in results]
                    if reduced == list(results):
                        raise
                    results = reduced
                    continue
                if self._slots.closed:
                    raise
                log.error("mark_failed", delivery=results[0].claimed.id, error=str(error))
            results = [replace(result, next_lease=None) for result in results]  # the lease would be old
            await asyncio.sleep(DATABASE_RETRY_SECONDS)

    # --- consequences of an attempt

    def _results(
        self,
        target: Target,
        claimed: Sequence[Claimed],
        exchanges: Sequence[Exchange],
        turn: MemoryTurn | None,
    ) -> Sequence[AttemptResult]:
        """Decides the result of a request for each of its deliveries, and pauses the sink, if needed, before the
        commit."""
        now, settings = self._clock(), self._shared.settings
        sent, outcome = _telling(exchanges)
        if outcome.judges_sink:
            target.sink.reached(now, by_proxy=sent.response.error == PROXY_ERROR)
        prompt = outcome.verdict == "delivered" and sent.response.duration_ms <= PROMPT_MS
        next_claim = self._next_claim(target, claimed[0], now, prompt=prompt) if len(claimed) == 1 else NextClaim()
        chance = self._shared.random.random()  # one value, so that they are due together
        results: list[AttemptResult] = []
        subscription = target.subscription
        each_its_own = exchanges[0] is not exchanges[-1]
        reached = each_its_own and outcome.verdict == "delivered"
        failing_since = None if reached else target.sink.failing_since
        again: dict[str, float | None] = {}  # due time of the first failed event, by order
        for one, (sent, outcome) in zip(claimed, exchanges, strict=True):
            if turn is None and (each_its_own or len(claimed) == 1) and is_simple(one, outcome):
                secrets = secrets_of(subscription.sink, target.redacted_sink, subscription.headers, sent.secrets)
                results.append(acknowledged(one, sent, outcome, now, next_claim, secrets))
                continue
            order = order_of(one.event, subscription) if each_its_own else None
            behind = None if order is None else again.get(order)
            if behind is None and sent.response.error == BEHIND:  # the earlier event is given up
                behind = at_once(now)
            finished = FinishedAttempt(
                claimed=one,
                subscription=subscription,
                redacted_sink=target.redacted_sink,
                failing_since=failing_since,
                sent=sent,
                outcome=outcome,
                turn=turn,
                others=0 if each_its_own else len(claimed) - 1,
                behind=behind,
            )
            shown = results[0].attempt if results and not each_its_own else None
            result, pause_until = attempt_result(finished, settings, now, next_claim, chance=chance, shown=shown)
            if pause_until:  # without a response (no token): pauses only this subscription
                self._slots.pause(target, pause_until, shared=sent.response.status_code is not None)
            results.append(result)
            if order is not None and result.state == "pending":
                again.setdefault(order, result.due_at)
        if any(result.disable is not None for result in results):
            target.sink.held_until = now + DATABASE_RETRY_SECONDS
        return results

    def _next_claim(self, target: Target, claimed: Claimed, now: float, *, prompt: bool) -> NextClaim:
        """The deliveries to claim with the result. After a recovery the scan claims instead, and demotes the backlog.

        prompt  the sink responds quickly: also claims for slots that are not free yet
        """
        limit = self._slots.backlogged_limit(target, now)
        backlogged = limit == math.inf or (claimed.priority > 0 and target.backlogged <= limit)
        sink = target.sink
        by_scan = (
            sink.recovered or sink.rate is not None or target.bundle is not None or sink.per_second(now) is not None
        )
        if by_scan or self._slots.closed or not target.known or not sink.may_send(now):
            return NextClaim(backlogged=backlogged)
        free = self._slots.free(target, ahead=prompt)
        return NextClaim(
            lease=self._shared.lease(self._shared.settings.timeout_of(target.subscription)) if free > 0 else None,
            count=2 if free > 1 and (limit == math.inf or not backlogged) else 1,
            backlogged=backlogged,
        )

    async def _after(
        self,
        target: Target,
        result: AttemptResult,
        results: Sequence[AttemptResult],
        recorded: Sequence[AttemptRecorded],
        outcome: Outcome,
        *,
        by_proxy: bool,
    ) -> None:
        """Publishes the committed results of a request: events, subscription changes, sink health, one log line."""
        kept = True
        for made, one in zip(results, recorded, strict=True):
            kept = one.kept if made is result else kept
            for event in made.events if one.kept else ():
                self._shared.recorded(event)
            if made.state == "dead" and one.kept:
                self._metrics.count_dead(target.subscription, made.now)
            if made.state == "cancelled" and one.kept:
                self._metrics.deliveries_skipped.labels(target.kind.name).inc()
        if result.claimed.probe and kept:
            target.sink.probe_at = result.probe_at
        if result.disable is not None or result.recovers:
            self._shared.store.subscriptions.changed()
        await self._store_health(target, outcome, result.now, by_proxy=by_proxy)
        attempt = result.attempt
        (log.info if result.state != "delivered" or shows_deliveries() else log.debug)(
            "attempt",
            delivery=result.claimed.id,
            event_id=result.claimed.event.id,
            type=result.claimed.event.type,
            job=None if result.claimed.event.published else result.claimed.event.subject,  # may name a person
            subscription=target.subscription.id,
            job_uid=result.claimed.event.job_uid,
            number=attempt.number,
            sink=target.shown_sink,
            status_code=attempt.status_code,
            error=attempt.error,
            duration_ms=round(attempt.duration_ms, 1),
            state=result.state,
            decision=attempt.decision,
            kept=kept,
            **_trace_of(result.claimed.event),
        )
        if result.state == "pending" or result.disable is not None or result.events:
            self._shared.signals.due.set()

    async def _store_health(self, target: Target, outcome: Outcome, now: float, *, by_proxy: bool) -> None:
        """Stores the start of a sink's failures and the pause it asked for, for restarts and other nodes. Writes only
        on change, not at each attempt."""
        change = target.sink.health_change(outcome, now, by_proxy=by_proxy)
        if change is None:
            return
        if change.ends_outage:
            self._shared.signals.due.set()
        reason = outcome.reason if outcome.judges_sink else target.subscription.failing_reason
        others = self._slots.pause_to_store(target, now)
        for other in others:  # before the commit: others of the portal get the same answer meanwhile
            other.sink.pause_stored(change.paused_until)
        try:
            await self._shared.store.subscriptions.set_sink_health(
                target.subscription.id,
                failing_since=change.failing_since,
                failing_reason=None if change.failing_since is None and not by_proxy else reason,
                paused_until=change.paused_until or None,
                paused_with_it=[other.subscription.id for other in others],
            )
        except StoreError as error:
            target.sink.health_not_stored(change)
            for other in others:
                other.sink.pause_stored(0.0)
            log.error("sink_health_failed", subscription=target.subscription.id, error=str(error))


def _written() -> Steps:
    """The steps of a delivery whose record is already written: none."""
    yield from ()
    return Ended(outcome=ledger.WRITTEN)


def _trace_of(event: Event) -> dict[str, str]:
    """The trace of an event, for the log."""
    trace = of_event(event.body)
    return {} if trace is None else {"trace_id": trace.trace_id}


def _show(span: "Span", exchanges: Sequence[Exchange]) -> None:
    """Sets the outcome of an attempt in its span."""
    sent, outcome = _telling(exchanges)
    if sent.response.status_code is not None:
        span.set("http.response.status_code", sent.response.status_code)
    if outcome.verdict not in ("delivered", "skip"):
        span.failed(sent.response.error or str(sent.response.status_code or outcome.verdict))


def _telling(exchanges: Sequence[Exchange]) -> Exchange:
    """The exchange that shows the sink's health: a delivered one, if there is one."""
    if exchanges[0] is exchanges[-1]:
        return exchanges[0]
    return min(exchanges, key=lambda one: (_TELLING.get(one[1].verdict, 2), one[0].response.error == RENDER_ERROR))


def _plain(sent: Sent) -> Sent:
    """The result without headers, excerpt, detail and address, which could not be shown."""
    plain = replace(sent.response, headers=(), excerpt=b"", detail=None, remote_ip=None)
    return replace(sent, headers=(), response=plain)


def _reduced(result: AttemptResult) -> AttemptResult:
    """The result without values that the database may reject: first the attempt's details, then texts and events."""
    reduced = replace(result, attempt=bare(result.attempt))
    if reduced == result:
        reduced = replace(result, reason=None, disable=result.disable and "the sink accepts no more events", events=())
    return reduced
