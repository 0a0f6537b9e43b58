"""The ownership handshake with a fake clock: nothing is sent before a sink consents, and what happened meanwhile is
not lost. The receiver follows the text of the CloudEvents specification."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from relay.core.deliveries.delivery import OutboundRequest, Response
from relay.core.subscriptions.handshake import PERIOD_SECONDS
from relay.core.subscriptions.subscription import Subscription
from relay.delivery.dispatcher import Dispatcher
from relay.delivery.handshakes import MAX_ASKING, WAIVE_SECONDS, Handshakes
from relay.testing import FakeClock
from tests.support.simulation_world import World, open_world, seen
from tests.support.store_kit import callback_for

SINK = "https://sink.test/hook"
BASE = "https://relay.test"
ORIGIN = "relay.test"
Answer = Callable[[OutboundRequest], Response]


class Receivers:
    """Sinks. Each answers OPTIONS as `options` says, and accepts events."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.requests: list[OutboundRequest] = []
        self.options: Answer = self.says(405)
        self.gate: asyncio.Event | None = None
        self.asked = asyncio.Event()

    async def send(self, request: OutboundRequest, *, timeout_seconds: float) -> Response:
        assert timeout_seconds > 0
        self.requests.append(request)
        if request.method == "OPTIONS":
            self.asked.set()
            if self.gate is not None:
                await self.gate.wait()
            return self.options(request)
        return self.response(200)

    def response(self, status: int, *headers: tuple[str, str], body: bytes = b"") -> Response:
        return Response(
            started_at=self.clock(), duration_ms=1.0, status_code=status, headers=tuple(headers), excerpt=body
        )

    def says(self, status: int, *headers: tuple[str, str], body: bytes = b"") -> Answer:
        return lambda request: self.response(status, *headers, body=body)

    def consents(self, rate: str | None = None, origin: str = "*") -> None:
        rates = () if rate is None else (("WebHook-Allowed-Rate", rate),)
        self.options = self.says(200, ("Allow", "POST"), ("WebHook-Allowed-Origin", origin), *rates)

    def methods(self) -> list[str]:
        return [request.method for request in self.requests]

    @property
    def events(self) -> list[OutboundRequest]:
        return [request for request in self.requests if request.method == "POST"]


@asynccontextmanager
async def open_receivers(tmp_path: Path, **settings: Any) -> AsyncIterator[tuple[World, Receivers]]:
    async with open_world(tmp_path) as world:
        receivers = Receivers(world.clock)
        world.sink = receivers  # type: ignore[assignment]
        make = world._new_dispatcher

        def dispatcher() -> Dispatcher:
            made = make()
            made.configure(replace(made.shared.settings, base_url=BASE, **settings))
            return made

        world._new_dispatcher = dispatcher  # type: ignore[method-assign]
        await world.restart()
        yield world, receivers


async def subscribe(world: World, **settings: Any) -> Subscription:
    """As the API does."""
    pending = {"state": "pending", "handshake_at": world.clock(), "handshake": "required"}
    return await world.subscribe(**{"sink": SINK, **pending, **settings})


async def ask(world: World, node: Handshakes | None = None) -> float:
    """Handshakes until none is due. Returns the seconds until the next one."""
    node = node or world.dispatcher.handshakes
    while True:
        wait_seconds, asked = await node.run_once(), len(node.tasks)
        await node.tasks.drain()
        if not asked and wait_seconds:
            return wait_seconds


async def standing(world: World, made: Subscription) -> Subscription:
    found = await world.store.subscriptions.get(made.id)
    assert found is not None
    return found


async def event(world: World, name: str) -> None:
    await world.register(name, seen("queued"))
    await world.step()


async def test_events_wait_until_the_sink_has_consented(tmp_path):
    async with open_receivers(tmp_path) as (world, receivers):
        made = await subscribe(world)
        await event(world, "before")
        assert receivers.requests == []
        receivers.consents()
        await ask(world)
        found = await standing(world, made)
        assert (found.state, found.state_reason) == ("enabled", "the sink has consented")
        assert found.consent is not None
        assert (found.consent.origin, found.consent.at) == (ORIGIN, world.clock())
        assert receivers.methods() == ["OPTIONS"]
        await world.deliver()
        await event(world, "after")
        assert receivers.methods() == ["OPTIONS", "POST", "POST"]


async def test_origin_of_the_handshake_is_in_every_request_since(tmp_path):
    async with open_receivers(tmp_path) as (world, receivers):
        await subscribe(world)
        await world.subscribe(sink="https://other.test/")
        receivers.consents(origin=ORIGIN)
        await ask(world)
        world.dispatcher.configure(replace(world.dispatcher.shared.settings, base_url="https://renamed.test"))
        await event(world, "job")
        origins = {
            request.url: dict(request.headers).get("WebHook-Request-Origin")
            for request in receivers.requests
            if request.method == "POST"
        }
        assert origins == {SINK: ORIGIN, "https://other.test/": None}


async def test_validation_request_carries_no_credential(tmp_path):
    async with open_receivers(tmp_path) as (world, receivers):
        await subscribe(world, headers=(("X-Api-Key", "a-key"),), rate_per_second=2.0)
        await ask(world)
        (options,) = receivers.requests
        assert (options.method, options.url, options.body) == ("OPTIONS", SINK, b"")
        assert dict(options.headers) == {"WebHook-Request-Origin": ORIGIN, "WebHook-Request-Rate": "120"}


async def test_sink_that_is_not_reached_is_asked_once_a_round(tmp_path):
    async with open_receivers(tmp_path) as (world, receivers):
        made = await subscribe(world)
        receivers.options = lambda request: Response(
            started_at=world.clock(), duration_ms=1.0, error="refused", detail="address 10.0.0.1 is not public"
        )
        await ask(world)
        assert receivers.methods() == ["OPTIONS"]
        assert "no answer (refused" in str((await standing(world, made)).state_reason)


async def test_sink_is_asked_at_growing_intervals_for_a_day_and_then_once_a_day(tmp_path):
    async with open_receivers(tmp_path) as (world, receivers):
        made = await subscribe(world)
        await event(world, "job")
        pauses = []
        for _ in range(40):
            asked_at = world.clock()
            await ask(world)
            next_at = (await standing(world, made)).handshake_at
            pauses.append(next_at - asked_at)
            world.clock.advance(next_at - asked_at)
        assert pauses[0] == 5
        assert set(pauses[15:25]) == {3600}
        assert sum(pauses[:-1]) > PERIOD_SECONDS
        assert pauses[-1] == PERIOD_SECONDS
        found = await standing(world, made)
        assert (found.state, receivers.events) == ("pending", [])
        assert str(found.state_reason).startswith("waits for the sink's consent: it answered 405")
        receivers.consents()
        await ask(world)
        await world.deliver()
        assert len(receivers.events) == 1


async def test_permitted_rate_is_the_rate_of_the_subscription(tmp_path):
    async with open_receivers(tmp_path) as (world, receivers):
        await subscribe(world)
        receivers.consents(rate="6")
        for nth in range(4):
            await world.register(f"job {nth}", seen("queued"))
        await world.step()
        await ask(world)
        await world.deliver()
        assert len(receivers.events) == 1
        for count in (2, 3, 4):
            await world.step(9.5)
            assert len(receivers.events) == count - 1
            await world.step(0.6)
            assert len(receivers.events) == count


# --- changes


async def test_delivery_that_was_claimed_before_its_sink_changed_is_not_sent_to_the_new_one(tmp_path):
    async with open_receivers(tmp_path) as (world, receivers):
        made = await world.subscribe(sink=SINK)
        await world.dispatcher.run_once()
        target = world.dispatcher.slots.get(made.id)
        assert target is not None
        await world.register("job", seen("queued"))
        world.clock.advance(1)
        real = world.dispatcher._worker.start

        def late(*arguments: Any, **options: Any) -> None:
            moved = replace(target.subscription, sink="https://moved.test/", state="pending")
            world.dispatcher.slots.adopt(moved, target.kind)
            real(*arguments, **options)

        world.dispatcher._worker.start = late  # type: ignore[method-assign]
        await world.poller.run_once()
        await world.poller.drain()
        await world.dispatcher.drain()
        assert receivers.requests == []


async def test_subscription_that_is_paused_meanwhile_stays_paused_and_is_asked_again(tmp_path):
    async with open_receivers(tmp_path) as (world, receivers):
        made = await subscribe(world)
        receivers.consents()
        receivers.gate = asyncio.Event()
        await world.dispatcher.handshakes.run_once()
        await receivers.asked.wait()
        await world.store.subscriptions.set_state(made.id, "paused", world.clock(), "paused by hand")
        receivers.gate.set()
        await world.dispatcher.handshakes.tasks.drain()
        found = await standing(world, made)
        assert (found.state, found.state_reason, found.consent) == ("paused", "paused by hand", None)


async def test_minimum_of_the_settings_holds_for_subscriptions_that_were_enabled_before(tmp_path):
    async with open_receivers(tmp_path) as (world, receivers):
        made = await world.subscribe(sink=SINK)
        failing = await world.subscribe(sink="https://failing.test/", state="disabled", probe_at=world.clock())
        gone = await world.subscribe(sink="https://gone.test/", state="disabled")
        world.dispatcher.configure(replace(world.dispatcher.shared.settings, handshake="required"))
        await event(world, "job")
        assert receivers.events == []
        assert [(await standing(world, one)).state for one in (made, failing, gone)] == [
            "pending",
            "pending",
            "disabled",
        ]
        receivers.consents()
        await ask(world)
        await world.deliver()
        assert {request.url for request in receivers.events} == {SINK, "https://failing.test/"}


async def test_callback_is_asked_once_before_its_first_event(tmp_path):
    async with open_receivers(tmp_path, handshake="required") as (world, receivers):
        now = world.clock()
        callback = await callback_for(world.store, "https://callback.test/", "sub_callback", now)
        await world.register("a job", seen("queued"), callback=callback)
        await world.register("another", seen("queued"), callback=callback)
        await world.step()
        assert receivers.requests == []
        receivers.consents()
        await ask(world)
        await world.deliver()
        assert receivers.methods() == ["OPTIONS", "POST", "POST"]


# --- several nodes, crashes


async def test_nodes_with_different_minimums_do_not_change_a_state_back_and_forth(tmp_path):
    async with open_receivers(tmp_path) as (world, _):
        made, lax = await world.subscribe(sink=SINK), world._new_dispatcher().handshakes
        world.dispatcher.configure(replace(world.dispatcher.shared.settings, handshake="required"))
        for _ in range(3):
            await world.dispatcher.run_once()
            assert (await standing(world, made)).state == "pending"
            assert 0 < await ask(world, lax) <= 30
            assert (await standing(world, made)).state == "pending"
        world.clock.advance(WAIVE_SECONDS)
        await ask(world, lax)
        assert (await standing(world, made)).state == "enabled"


async def test_node_that_dies_between_consent_and_state_loses_nothing(tmp_path, monkeypatch):
    async with open_receivers(tmp_path) as (world, receivers):
        made = await subscribe(world)
        await event(world, "job")
        receivers.consents()

        async def dies(*arguments: Any) -> bool:
            raise RuntimeError("killed")

        with monkeypatch.context() as patch:
            patch.setattr(world.store.handshakes, "end_turn", dies)
            patch.setattr("relay.delivery.handshakes.RETRY_SECONDS", 0.0)
            await ask(world)
        assert (await standing(world, made)).state == "pending"
        await world.restart()
        await ask(world)
        assert receivers.methods() == ["OPTIONS"], "the turn of the dead node has not ended"
        world.clock.advance(61)
        await ask(world)
        await world.deliver()
        assert receivers.methods() == ["OPTIONS", "OPTIONS", "POST"]
        assert (await standing(world, made)).state == "enabled"


async def test_many_urls_of_one_host_do_not_keep_others_waiting(tmp_path):
    async with open_receivers(tmp_path) as (world, receivers):
        for nth in range(250):
            await subscribe(world, sink=f"https://flooded.test/{nth}")
        await subscribe(world, sink="https://other.test/")
        node = world.dispatcher.handshakes
        receivers.gate = asyncio.Event()  # none answers yet
        assert await node.run_once() == 0, "there is a second page"
        await node.run_once()
        assert len(node.tasks) == 2, "one of each host"
        for nth in range(2 * MAX_ASKING):
            await subscribe(world, sink=f"https://host-{nth}.test/")
        for _ in range(4):
            await node.run_once()
        assert len(node.tasks) == MAX_ASKING
        receivers.gate.set()
        await node.tasks.drain()
        hosts = [request.url.split("/")[2] for request in receivers.requests]
        assert len(hosts) == len(set(hosts)) == MAX_ASKING
