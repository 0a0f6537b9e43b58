"""Publishes events to a broker, one message and one result each. The counterpart of an HTTP request.

A message that cannot be rendered does not affect others. A message to retry holds back later ones of its order: they
are not published, or are published again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from relay.clock import Clock
from relay.core.deliveries.broker import BEHIND, Broker, Message, order_of
from relay.core.deliveries.delivery import Outcome, Response
from relay.core.events.event import Event
from relay.core.jsontext import storable
from relay.core.subscriptions.subscription import Subscription
from relay.delivery.credentials import Sent
from relay.delivery.dialogues import unrendered

if TYPE_CHECKING:
    from subscribers.base import Kind, RenderContext

Publish = Callable[[Broker, Sequence[Message], float], Awaitable[Sequence[Response]]]
"""Publishes messages in order within a time limit in seconds. One response each: without an `error` the broker has
stored it. Never raises, except when cancelled."""

Make = Callable[[Callable[[], Message]], Awaitable[Message]]

SHOWN_CHARACTERS = 1000
RENDER_SECONDS = 10.0
"""Time limit for rendering the messages of a bundle. The rest is retried: the lease must not end before the bundle is
published."""


async def no_brokers(broker: Broker, messages: Sequence[Message], _seconds: float) -> Sequence[Response]:
    """The `Publish` of a node without brokers: each message fails."""
    detail = f"this node has no connections to brokers, so none to {broker.shown}"
    return [Response(started_at=0.0, duration_ms=0.0, error="connect", detail=detail) for _ in messages]


async def published(
    publish: Publish,
    kind: "Kind",
    subscription: Subscription,
    broker: Broker,
    events: Sequence[Event],
    deliveries: Sequence[str | None],
    context: "RenderContext",
    seconds: float,
    clock: Clock,
    make: Make,
) -> list[Sent]:
    """Publishes events, oldest first and in order within each order key. Returns a result for each. `deliveries`: the
    `Message.delivery` of each event. `make`: computes a message in its turn."""
    results: list[Sent | None] = [None] * len(events)
    messages: list[tuple[int, Message]] = []
    held: set[str] = set()
    now = asyncio.get_running_loop().time
    ends_at = now() + RENDER_SECONDS
    for place, (event, delivery) in enumerate(zip(events, deliveries, strict=True)):
        order = order_of(event, subscription)
        if order is not None and order in held:
            results[place] = _behind(clock(), "an earlier event of its order cannot be rendered yet")
            continue
        if now() > ends_at:
            results[place] = _behind(clock(), f"those before it took {RENDER_SECONDS:g} s: simplify the template")
            continue
        try:
            message = await make(partial(kind.message, event, subscription, context))
            messages.append((place, replace(message, delivery=delivery)))
        except Exception as error:
            failed = results[place] = unrendered(error, clock(), event.id)
            if order is not None and failed.outcome is not None and failed.outcome.verdict == "retry":
                held.add(order)
    if messages:
        responses = await publish(broker, [message for _, message in messages], seconds)
        for (place, message), response in zip(messages, responses, strict=True):
            results[place] = Sent(headers=_shown(message), response=response)
    return [one for one in results if one is not None]


def _behind(now: float, detail: str) -> Sent:
    response = Response(started_at=now, duration_ms=0.0, error=BEHIND, detail=detail)
    return Sent(headers=(), response=response, outcome=Outcome(verdict="retry", reason=BEHIND))


def _shown(message: Message) -> tuple[tuple[str, str], ...]:
    """The headers that an attempt shows for a message."""
    place = f"{message.exchange}/{message.destination}" if message.exchange else message.destination
    key = () if message.key is None else (("partitioned-by", storable(message.key[:SHOWN_CHARACTERS])),)
    return (("destination", storable(place[:SHOWN_CHARACTERS])), *key, ("message-id", message.id))
