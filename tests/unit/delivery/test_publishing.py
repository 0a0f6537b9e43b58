"""Bundles to a broker whose templates take long."""

import asyncio
from functools import partial
from typing import Any, cast

import pytest

from relay.core.deliveries.broker import BEHIND, Broker, Message
from relay.core.deliveries.delivery import Response
from relay.core.events.event import Event
from relay.core.subscriptions.subscription import Subscription
from relay.delivery import publishing
from relay.delivery.credentials import Sent
from relay.limiter import Computations
from relay.tasks import TURN_SECONDS
from tests.support.store_kit import NOW, job_event, subscription

BROKER = Broker(protocol="NATS", addresses=(("a.example", 4222),), secure=True)
EVENTS = [job_event("job_1", number) for number in range(1, 11)]
DELIVERIES = [f"dlv_{number}" for number in range(1, 11)]


async def publish(monkeypatch: pytest.MonkeyPatch, step_seconds: float) -> tuple[list[Sent], list[str], int]:
    """What came of the events if each takes so long to render, the ids that were published, and how often other work
    had its turn meanwhile."""
    now, turns, sent = 0.0, 0, list[str]()
    monkeypatch.setattr("relay.limiter.time.perf_counter", lambda: now)
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)

    class Slow:
        def message(self, event: Event, *_: object) -> Message:
            nonlocal now
            now += step_seconds
            return Message(destination="a", body=b"", id=event.id, order=event.order_key)

    async def take(broker: Broker, messages: Any, seconds: float) -> list[Response]:
        watching.cancel()
        sent.extend(message.id for message in messages)
        assert [message.delivery for message in messages] == DELIVERIES[: len(messages)]
        return [Response(started_at=NOW, duration_ms=1.0) for _ in messages]

    async def others() -> None:
        nonlocal now, turns
        while True:
            turns += 1
            now += 0.001
            await asyncio.sleep(0)

    watching = asyncio.create_task(others())
    await asyncio.sleep(0)
    made: Subscription = subscription("sub_1", kind="nats")
    make = partial(Computations(TURN_SECONDS).step, None)
    found = await publishing.published(
        take, cast("Any", Slow()), made, BROKER, EVENTS, DELIVERIES, cast("Any", None), 15.0, lambda: NOW, make
    )
    return found, sent, turns


async def test_others_have_their_turn_while_a_bundle_is_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    found, sent, turns = await publish(monkeypatch, 2 * TURN_SECONDS)
    assert sent == [event.id for event in EVENTS]
    assert [one.response.error for one in found] == [None] * len(EVENTS)
    assert turns >= len(EVENTS)


async def test_bundle_that_takes_long_to_render_is_published_before_its_lease_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, sent, _ = await publish(monkeypatch, 0.4 * publishing.RENDER_SECONDS)
    assert sent == [event.id for event in EVENTS[:3]]
    assert [one.response.error for one in found] == [None] * 3 + [BEHIND] * 7
    assert "those before it took 10 s: simplify the template" in str(found[3].response.detail)
    assert all(one.outcome is not None and one.outcome.verdict == "retry" for one in found[3:])
