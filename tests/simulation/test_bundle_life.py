"""Bundles on a real database with a recording sink: the wait, order, retries, refusals, limits, restarts."""

import hmac
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from relay.core.deliveries.bundles import Bundle
from relay.core.deliveries.delivery import OutboundRequest, Response
from relay.delivery import shared
from subscribers.webhook import Webhook
from tests.support.simulation_world import SECRET, World, crashing, open_world, seen
from tests.support.store_kit import rows

BATCH = {"content_mode": "batch", "batch": {"max_events": 100, "max_seconds": 5.0}}
Answer = Callable[[OutboundRequest], int]


def ended(events: int = 2) -> Any:
    """A job whose first poll proves so many events: perhaps a failed attempt, then that it ran and succeeded."""
    return seen("succeeded", started_at=1.0, attempt_count=events - 1)


def batches(world: World) -> list[list[tuple[str, int]]]:
    """The subject and the sequence of each event of each request."""
    return [
        [(one["subject"], int(one["sequence"])) for one in orjson.loads(request.body)]
        for request in world.sink.requests
    ]


def ids(world: World) -> list[str]:
    return [dict(request.headers)["webhook-id"] for request in world.sink.requests]


async def states(world: World) -> list[str]:
    found = await rows(world.store, "SELECT state FROM deliveries ORDER BY id")
    return [row["state"] for row in found]


async def attempts(world: World) -> dict[tuple[str, int], list[str]]:
    """What was decided after each attempt of each delivery."""
    found = await rows(
        world.store,
        "SELECT e.subject, d.sequence, a.number, a.decision FROM attempts a JOIN deliveries d ON d.id = a.delivery_id "
        "JOIN events e ON e.id = d.event_id ORDER BY e.subject, d.sequence, a.position",
    )
    decided: dict[tuple[str, int], list[str]] = {}
    for row in found:
        made = decided.setdefault((row["subject"], row["sequence"]), [])
        made.append(row["decision"])
        assert row["number"] == len(made)
    return decided


def answering(world: World, answer: Answer) -> None:
    """Lets the sink answer by what it is sent."""
    real = world.sink.send

    async def send(request: OutboundRequest, *, timeout_seconds: float) -> Response:
        response = await real(request, timeout_seconds=timeout_seconds)
        return Response(started_at=response.started_at, duration_ms=1.0, status_code=answer(request))

    world.sink.send = send  # type: ignore[method-assign]


async def test_events_of_five_seconds_are_one_signed_request(tmp_path: Any) -> None:
    async with open_world(tmp_path) as world:
        await world.subscribe(options=BATCH)
        await world.register("a", ended(3))
        await world.register("b", ended())
        await world.run(5)
        assert world.sink.requests == []
        await world.run(1)
        (batch,) = batches(world)
        assert sorted(batch) == [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2)]
        assert [sequence for subject, sequence in batch if subject == "a"] == [1, 2, 3]
        assert await states(world) == ["delivered"] * 5
        request = world.sink.requests[0]
        headers = dict(request.headers)
        assert headers["Content-Type"] == "application/cloudevents-batch+json"
        assert headers["webhook-id"].startswith("bundle_")
        content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + request.body
        made = hmac.digest(b64decode(SECRET.removeprefix("whsec_")), content, "sha256")
        assert headers["webhook-signature"] == f"v1,{b64encode(made).decode()}"
        said = "HTTP 200: delivered (in one request with 4 other events)"
        assert await attempts(world) == {one: [said] for one in sorted(batch)}
        assert world.metrics.bundled_events.labels("webhook")._value.get() == 5


async def test_full_batch_is_sent_at_once_and_one_event_alone_is_an_array(tmp_path: Any) -> None:
    async with open_world(tmp_path) as world:
        await world.subscribe(options={"content_mode": "batch", "batch": {"max_events": 2, "max_seconds": 5.0}})
        for name in "abc":
            await world.register(name, seen("queued"))
        await world.run(1)
        assert [len(batch) for batch in batches(world)] == [2]
        await world.run(5)
        assert [len(batch) for batch in batches(world)] == [2, 1]
        assert ids(world)[1].startswith("evt_")


async def test_failed_batch_is_retried_together_and_new_events_are_a_batch_of_their_own(tmp_path: Any) -> None:
    async with open_world(tmp_path, 500, 200) as world:
        await world.subscribe(options=BATCH, retry_schedule_seconds=(7.0,))
        await world.register("a", ended())
        await world.register("b", seen("queued"))
        await world.run(6)
        await world.register("c", seen("queued"))
        await world.run(15)
        first, *others = batches(world)
        assert sorted(first) == [("a", 1), ("a", 2), ("b", 1)]
        assert first in others
        assert sorted(others) == sorted([first, [("c", 1)]])
        assert ids(world)[0] == ids(world)[1 + others.index(first)]
        assert (await attempts(world))["a", 2] == [
            "HTTP 500 (attempt 1 of 2): tried again in 7 s (in one request with 2 other events)",
            "HTTP 200: delivered (in one request with 2 other events)",
        ]


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_refused_batch_is_sent_one_by_one_and_only_the_refused_event_is_given_up(
    tmp_path: Any, status: int
) -> None:
    async with open_world(tmp_path) as world:
        answering(world, lambda request: status if b'"subject":"bad"' in request.body else 200)
        await world.subscribe(options=BATCH, retry_schedule_seconds=())
        await world.register("a", ended())
        await world.register("bad", seen("queued"))
        await world.register("c", seen("queued"))
        await world.run(6)
        await world.restart()  # what is sent by itself is remembered
        await world.run(6)
        sent = batches(world)
        assert len(sent[0]) == 4
        assert sorted(sent[1:]) == [[("a", 1)], [("a", 2)], [("bad", 1)], [("c", 1)]]
        assert sent.index([("a", 1)]) < sent.index([("a", 2)])
        decided = await attempts(world)
        assert decided["a", 2] == [
            f"HTTP {status} (attempt 1 of 1): not given up, but sent by itself (in one request with 3 other events)",
            "HTTP 200: delivered",
        ]
        assert decided["bad", 1][1] == f"HTTP {status} (attempt 1 of 1): given up, no attempt is left"
        assert sorted(set(await states(world))) == ["dead", "delivered"]
        assert (await world.types()).count("relay.delivery.expired") == 1


async def test_event_that_fails_every_batch_takes_no_other_with_it(tmp_path: Any) -> None:
    async with open_world(tmp_path) as world:
        answering(world, lambda request: 500 if b'"subject":"bad"' in request.body else 200)
        await world.subscribe(options=BATCH, retry_schedule_seconds=(1.0, 1.0))
        await world.register("bad", seen("queued"))
        await world.register("b", ended())
        await world.run(20)
        sent = batches(world)
        assert [len(batch) for batch in sent] == [3, 3, 3, 1, 1, 1]
        assert len(await attempts(world)) == 3
        found = await rows(
            world.store, "SELECT e.subject, d.state FROM deliveries d JOIN events e ON e.id = d.event_id ORDER BY 1"
        )
        assert [(row["subject"], row["state"]) for row in found] == [
            ("b", "delivered"),
            ("b", "delivered"),
            ("bad", "dead"),
        ]


async def test_event_that_cannot_be_rendered_takes_no_other_with_it(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def render_bundle(kind: Webhook, events: Any, subscription: Any, context: Any) -> OutboundRequest:
        if any(event.subject == "bad" for event in events):
            raise ValueError("no wording")
        return OutboundRequest(url=subscription.sink, body=b"[" + b",".join(event.body for event in events) + b"]")

    monkeypatch.setattr(Webhook, "render_bundle", render_bundle)
    async with open_world(tmp_path) as world:
        await world.subscribe(options=BATCH, retry_schedule_seconds=())
        await world.register("bad", seen("queued"))
        await world.register("b", seen("queued"))
        await world.run(8)
        assert batches(world) == [[("b", 1)]]
        assert sorted(await states(world)) == ["dead", "delivered"]


async def test_410_holds_the_batch_and_a_probe_is_one_event(tmp_path: Any) -> None:
    async with open_world(tmp_path, 410, 200) as world:
        subscription = await world.subscribe(options=BATCH)
        await world.register("a", ended())
        await world.register("b", seen("queued"))
        await world.run(10)
        assert [len(batch) for batch in batches(world)] == [3]
        assert (await world.types()).count("relay.subscription.disabled") == 1
        assert sorted(await states(world)) == ["blocked", "pending", "pending"]
        await world.store.subscriptions.set_state(subscription.id, "enabled", world.clock())
        await world.run(2)
        assert [len(batch) for batch in batches(world)] == [3, 3]
        assert await states(world) == ["delivered"] * 3


@pytest.mark.parametrize("ends", ["killed", "stopped"])
async def test_wait_survives_the_end_of_the_node(tmp_path: Any, ends: str) -> None:
    async with open_world(tmp_path) as world:
        await world.subscribe(options=BATCH)
        await world.register("a", ended())
        await world.run(3)
        if ends == "stopped":
            await world.dispatcher.stop(5.0)
            assert await rows(world.store, "SELECT id FROM deliveries WHERE lease_token IS NOT NULL") == []
        else:
            await world.store.recover_from_crash(world.clock())
        await world.restart()
        await world.run(2)
        assert world.sink.requests == []
        await world.run(1)
        assert batches(world) == [[("a", 1), ("a", 2)]]


@pytest.mark.parametrize("crash", ["before_send", "after_send", "after_mark"])
async def test_crash_at_any_step_loses_no_event_and_doubles_no_attempt(tmp_path: Any, crash: str) -> None:
    async with open_world(tmp_path) as world:
        await world.subscribe(options=BATCH)
        with crashing(world, crash):
            await world.register("a", ended(3))
            await world.register("b", seen("queued"))
            await world.run(30)
        await world.store.recover_from_crash(world.clock())
        await world.run(3)
        assert await states(world) == ["delivered"] * 4
        firsts = list(dict.fromkeys(one for batch in batches(world) for one in batch if one[0] == "a"))
        assert firsts == [("a", 1), ("a", 2), ("a", 3)]
        assert {len(made) for made in (await attempts(world)).values()} == {1}


async def test_batch_whose_lease_is_too_old_is_sent_by_its_next_claim(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(tmp_path) as world:
        await world.subscribe(options=BATCH)
        await world.register("a", ended())
        await world.run(4)
        monkeypatch.setattr(shared, "LEASE_MARGIN_SECONDS", -1.0)
        world.clock.advance(2)
        await world.dispatcher.run_once()
        await world.dispatcher.drain()
        assert world.sink.requests == []
        assert await rows(world.store, "SELECT id FROM deliveries WHERE lease_token IS NOT NULL") == []
        monkeypatch.undo()
        await world.deliver()
        assert batches(world) == [[("a", 1), ("a", 2)]]


async def test_batch_switched_off_before_it_is_sent_is_no_batch(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_world(tmp_path) as world:
        made = await world.subscribe(options=BATCH)
        claim = world.store.deliveries.claim

        async def then_switched_off(*arguments: Any) -> Any:
            found = await claim(*arguments)
            if found.requests:
                await world.store.subscriptions.replace(replace(made, options={}), world.clock())
                await world.dispatcher._refresh()
            return found

        monkeypatch.setattr(world.store.deliveries, "claim", then_switched_off)
        await world.register("a", ended(3))
        await world.run(7)
        assert [int(orjson.loads(request.body)["sequence"]) for request in world.sink.requests] == [1, 2, 3]
        assert set(await states(world)) == {"delivered"}


def capped(monkeypatch: pytest.MonkeyPatch, per_minute: int) -> None:
    """Single events as far as they are free, then a bundle after half a minute."""
    bundle = Bundle(max_events=1_000, wait_seconds=30.0, max_bytes=10_000_000, free_per_minute=per_minute)
    monkeypatch.setattr(Webhook, "bundle", lambda kind, subscription: bundle)


async def test_free_event_is_leased_as_it_is_recorded(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    capped(monkeypatch, 1)
    async with open_world(tmp_path) as world:
        await world.subscribe(options=BATCH)
        await world.dispatcher.run_once()
        for name in "ab":
            await world.register(name, seen("queued"))
        world.clock.advance(1.0)
        await world.poller.run_once()
        await world.poller.drain()
        await world.dispatcher.drain()
        assert len(world.sink.requests) == 1
        assert sorted(await states(world)) == ["delivered", "pending"]


async def test_batch_switched_off_while_it_is_sent_leaves_no_delivery_leased(tmp_path: Any) -> None:
    async with open_world(tmp_path) as world:
        made = await world.subscribe(options={"content_mode": "batch", "batch": {"max_events": 10, "max_seconds": 1.0}})
        send = world.sink.send

        async def switched_off(request: OutboundRequest, *, timeout_seconds: float) -> Response:
            answer = await send(request, timeout_seconds=timeout_seconds)
            if len(world.sink.requests) == 1:
                await world.store.subscriptions.replace(replace(made, options={}), world.clock())
                await world.dispatcher._refresh()
            return answer

        world.sink.send = switched_off  # type: ignore[method-assign]
        for number in range(60):
            await world.register(f"job {number}", seen("queued"))
        await world.run(5)
        assert set(await states(world)) == {"delivered"}


async def test_follower_that_was_tried_in_a_batch_is_sent_once_its_subscription_is_resumed(tmp_path: Any) -> None:
    async with open_world(tmp_path) as world:
        answering(world, lambda _: 503)
        batch = {"content_mode": "batch", "batch": {"max_events": 2, "max_seconds": 1.0}}
        made = await world.subscribe(options=batch, retry_schedule_seconds=(36_000.0,))
        await world.register("z", seen("queued"))
        await world.run(5)
        await world.register("a", ended(2))
        await world.run(40)
        assert batches(world) == [[("z", 1)], [("a", 1), ("a", 2)]]
        answering(world, lambda _: 204)
        for state in ("paused", "enabled"):
            await world.store.subscriptions.set_state(made.id, state, world.clock())
            await world.run(30)
        assert set(await states(world)) == {"delivered"}
