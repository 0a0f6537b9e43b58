"""Sends the requests of a delivery that takes several: see `relay.core.deliveries.dialogue`.

The requests share the attempt's time-out. The attempt shows the last request and response, which decide, and names the
others. A delivery with a memory takes a turn first: one delivery per key at a time, across all nodes.

If an attempt ends early, a write that may have been carried out stays uncertain: see `relay.core.deliveries.ledger`.
"""

import asyncio
import math
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from relay.clock import Clock
from relay.core.deliveries import ledger
from relay.core.deliveries.delivery import EXTRA_ERROR, RENDER_ERROR, UNSENT_ERROR, Outcome, Response
from relay.core.deliveries.dialogue import MAX_STEPS, Ended, Memory, Step, Steps
from relay.core.jsontext import storable
from relay.core.subscriptions import handshake
from relay.core.subscriptions.subscription import Subscription
from relay.delivery.credentials import Credentials, Sent
from relay.errors import ExtraMissing, NotRenderable, StoreError, Unreadable

if TYPE_CHECKING:
    from relay.http.sender import Transport

log = structlog.get_logger("relay.delivery")

Send = Callable[[Step, float], Awaitable[Sent]]
"""Sends the request of a step within a time limit in seconds."""
Save = Callable[[Memory | None, Memory | None], Awaitable[bool]]
"""Stores the delivery's memory and the shared memory; None: unchanged. False: another delivery has taken the turn, or
the subscription's sink was replaced."""

Take = Callable[[Callable[[], Step | Ended]], Awaitable[Step | Ended]]
"""Computes the next step of a dialogue, at once or in a turn."""

NOT_STORED = Outcome(verdict="retry", reason="not_stored")
FAILED = Outcome(verdict="retry", reason="render")


def unrendered(error: Exception, now: float, event_id: str, *, private: bool = False) -> Sent:
    """The result of a kind of sink that failed. NotRenderable makes the delivery dead, Unreadable disables its
    subscription, other errors are retried.

    `private`: the exception's text may contain personal data, so it is not logged."""
    word = RENDER_ERROR
    if isinstance(error, ExtraMissing):
        word, detail = EXTRA_ERROR, str(error)
        log.error("extra_missing", event_id=event_id, hint=detail)
        outcome = Outcome(verdict="retry", reason=word)
    elif isinstance(error, NotRenderable | Unreadable):
        detail = storable(str(error))
        outcome = Outcome(verdict="dead" if isinstance(error, NotRenderable) else "disable", reason=detail)
    else:
        where = {"error": type(error).__name__, "at": _places(error)} if private else {"exc_info": error}
        log.error("render_failed", event_id=event_id, **where)
        detail = f"the event cannot be rendered for this sink ({type(error).__name__}): the relay's log says more"
        outcome = FAILED
    response = Response(started_at=now, duration_ms=0.0, error=word, detail=detail)
    return Sent(headers=(), response=response, outcome=outcome)


async def converse(
    begin: Callable[[], Steps],
    send: Send,
    save: Save,
    timeout_seconds: float,
    clock: Clock,
    event_id: str,
    memory: Memory = ledger.CLEARED,
    known: Sequence[Memory] = (),
    *,
    private: bool = False,
    take: Take | None = None,
) -> Sent:
    """Sends the steps one after the other, until the kind of sink returns an outcome or fails.

    memory   the delivery's memory so far
    known    the shared memories so far, one per key
    take     computes each step; None: at once
    private  as in `unrendered`
    """
    loop = asyncio.get_running_loop()
    started_at, ends_at = clock(), loop.time() + timeout_seconds
    sent = Sent(headers=(), response=Response(started_at=started_at, duration_ms=0.0))
    results: list[str] = []
    by_kind = False
    secrets: dict[str, None] = {}
    duration_ms = 0.0
    remember: Memory | None = None
    share: Memory | None = None
    shared = next(filter(ledger.is_open, known), ledger.CLEARED)
    try:
        steps = begin()
        step = await _taken(take, steps)
        while isinstance(step, Step):
            before, shared_before = remember, share
            remember = remember if step.remember is None else step.remember
            share = share if step.share is None else step.share
            if not await _saved(save, step.remember, step.share):
                remember = _unless_intended(remember, before, memory)
                share = _unless_intended(share, shared_before, shared)
                ended = Ended(outcome=NOT_STORED)
                break
            left = ends_at - loop.time()  # computed after storing, which may be slow
            if left > 0:
                sent = await send(step, math.ceil(left * 10) / 10)  # the sender keeps a timer per length
            else:
                late = Response(started_at=clock(), duration_ms=0.0, error=UNSENT_ERROR, late=bool(results))
                sent = Sent(headers=step.request.headers, response=late)
            response = sent.response
            if step.private:
                sent = replace(sent, headers=(), response=replace(response, headers=(), excerpt=b""))
            duration_ms += response.duration_ms
            secrets |= dict.fromkeys(sent.secrets)
            results.append(f"{step.name}: {response.error or f'HTTP {response.status_code}'}")
            if sent.outcome is not None or len(results) == MAX_STEPS:
                if ledger.never_sent(response):
                    remember = _unless_intended(remember, before, memory)
                    share = _unless_intended(share, shared_before, shared)
                ended = Ended(outcome=sent.outcome or FAILED)
                break
            step = await _taken(take, steps, response)
        else:
            ended, by_kind = step, True
        steps.close()
    except Exception as error:
        failed = unrendered(error, started_at, event_id, private=private)
        ended = Ended(outcome=failed.outcome or FAILED)
        sent = sent if results else failed
    remember = remember if ended.remember is None else ended.remember
    share = share if ended.share is None else ended.share
    outcome = ended.outcome
    if not by_kind and ledger.is_open(memory if remember is None else remember):
        outcome = ledger.still_in_doubt(outcome)
    response = replace(sent.response, started_at=started_at, duration_ms=duration_ms)
    if len(results) > 1:
        notes = (response.detail, f"request {len(results)}, after {', '.join(results[:-1])}")
        response = replace(response, detail="; ".join(note for note in notes if note))
    return replace(
        sent,
        response=response,
        outcome=outcome,
        secrets=tuple(secrets),
        remember=remember,
        share=share,
    )


async def _taken(take: Take | None, steps: Steps, response: Response | None = None) -> Step | Ended:
    """The next step, or the end."""

    def compute() -> Step | Ended:
        try:
            return next(steps) if response is None else steps.send(response)
        except StopIteration as end:
            ended: Ended = end.value
            return ended

    return compute() if take is None else await take(compute)


def _unless_intended(remember: Memory | None, before: Memory | None, memory: Memory) -> Memory | None:
    """The memory after a request that was not sent. Drops the intent unless a write is in doubt."""
    if remember is None:
        return None
    known = memory if before is None else before
    return known if ledger.is_open(remember) and not ledger.is_open(known) else remember


def _places(error: Exception) -> list[str]:
    """The last frames of an exception's traceback, without its text."""
    return [f"{place.name}:{place.lineno}" for place in traceback.extract_tb(error.__traceback__)[-5:]]


async def _saved(save: Save, remember: Memory | None, share: Memory | None) -> bool:
    if remember is None and share is None:
        return True
    try:
        return await save(remember, share)
    except StoreError as error:
        log.error("memory_not_stored", error=str(error))
        return False


STEP_SECONDS = 15.0
"""Time limit of one request, including its token."""
ALL_SECONDS = 60.0
"""Time limit of all requests: HubSpot needs up to 17."""


async def greet(
    subscription: Subscription, steps: Steps, *, credentials: Credentials, transport: "Transport", clock: Clock
) -> Mapping[str, str]:
    """Facts read from the sink; none without a token to test. Stores nothing. Raises CheckFailed.

    credentials  separate for this trial: its token must not replace that of a stored credential
    """
    tried = subscription
    if subscription.credential is not None:
        credential = handshake.trial(subscription.credential, clock())
        if credential is None:
            steps.close()
            return {}
        tried = replace(subscription, credential=credential)

    async def send(step: Step, seconds: float) -> Sent:
        limit = min(seconds, STEP_SECONDS)
        if tried.credential is not None:
            return await credentials.send(tried, step.request, limit)
        return Sent(headers=(), response=await transport.send(step.request, timeout_seconds=limit))

    async def save(remember: Memory | None, share: Memory | None) -> bool:
        return True

    sent = await converse(lambda: steps, send, save, ALL_SECONDS, clock, "greeting")
    refused = handshake.refusal(sent.outcome or FAILED, sent.response)
    if refused is not None:
        raise refused
    return handshake.facts_of(sent.remember)
