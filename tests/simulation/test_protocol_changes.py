"""A subscription that changes how it is reached, with deliveries open and under leases: random walks."""

import random
from dataclasses import replace
from typing import Any

import orjson
import pytest

from relay.core.deliveries.broker import Message
from relay.core.deliveries.delivery import Response
from relay.delivery.pulls import Pulls
from relay.errors import StoreError
from relay.lease_owner import LeaseOwner
from subscribers import registry
from subscribers.common import brokers
from subscribers.nats import Nats
from tests.simulation.test_broker_life import ended
from tests.support.fake_broker import LOST, STORED
from tests.support.scale import scaled
from tests.support.simulation_world import open_world
from tests.support.store_kit import rows

WAYS: dict[str, dict[str, Any]] = {
    "nats": {"kind": "nats", "sink": "nats://broker.test", "options": {brokers.SETTINGS: {"subject": "jobs"}}},
    "webhook": {"kind": "webhook", "sink": "https://sink.test/", "options": {}},
    "batches": {
        "kind": "webhook",
        "sink": "https://sink.test/",
        "options": {"content_mode": "batch", "batch": {"max_events": 5, "max_seconds": 1}},
    },
    "pull": {"kind": "pull", "sink": "", "options": {}},
}


@pytest.mark.parametrize("seed", range(7, 7 + scaled(1, 60)))
async def test_change_of_the_protocol_loses_nothing_and_keeps_the_order(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Messages and requests are refused or their answers are lost, nodes crash and leave their leases, and programs
    acknowledge late, or never."""
    monkeypatch.setattr("tests.support.simulation_world.kinds", lambda: {**registry.kinds(), "nats": Nats()})
    monkeypatch.setattr("relay.delivery.worker.DATABASE_RETRY_SECONDS", 0.0)
    rng = random.Random(seed)
    chance = 0.2
    got: list[tuple[str, int]] = []

    def take(body: bytes) -> None:
        document = orjson.loads(body)
        for one in document if isinstance(document, list) else [document]:
            place = (one["subject"], int(one["sequence"]))
            if place not in got:
                got.append(place)

    async with open_world(tmp_path) as world:
        subscription = await world.subscribe(retry_schedule_seconds=(1.0,) * 90, **WAYS["webhook"])
        pulls = Pulls(world.dispatcher.shared)

        def answer(message: Message) -> str:
            said = STORED if rng.random() > chance else rng.choice([LOST, "nack"])
            if said != "nack":
                take(message.body)
            return said

        async def send(request: Any, *, timeout_seconds: float) -> Response:
            said = 200 if rng.random() > chance else rng.choice([200, 500])
            if said == 200:
                take(request.body)
            said = said if rng.random() > chance else 500
            return Response(started_at=world.clock(), duration_ms=1.0, status_code=said)

        def failing(real: Any) -> Any:
            async def record(*results: Any) -> Any:
                if rng.random() < chance:
                    raise rng.choice([StoreError, RuntimeError])("the database is away")
                return await real(*results)

            return record

        world.broker.answer = answer
        world.sink.send = send  # type: ignore[method-assign]
        real = world.store.deliveries.record
        world.store.deliveries.record = failing(real)  # type: ignore[method-assign]
        held: list[Any] = []

        async def pull() -> None:
            nonlocal subscription
            claimed, _ = await pulls.pull(subscription, rng.choice([1, 3, 50]), rng.choice([2.0, 40.0]))
            for one in claimed:
                take(one.event.body)
            held.extend(claimed)
            rng.shuffle(held)
            for _ in range(rng.randint(0, len(held))):
                one = held.pop()
                if rng.random() < chance:
                    await pulls.nack(subscription, [one.id], rng.choice([None, 0.0]))
                else:
                    await pulls.ack(subscription, [one.id])

        async def turn() -> None:
            if subscription.kind == "pull":
                await pull()
            await world.step()
            for id in await pulls.ended():
                assert id == subscription.id
                if rng.random() < 0.3:
                    await pulls.end_leases(subscription)

        lengths = {f"job {nth}": rng.randint(2, 5) for nth in range(15)}
        for name, length in lengths.items():
            await world.register(name, ended(length))
            for _ in range(rng.randint(0, 3)):
                await turn()
            if rng.random() < 0.4:
                way = WAYS[rng.choice(list(WAYS))]
                subscription = replace(subscription, **way)
                await world.store.subscriptions.replace(subscription, world.clock())
            if rng.random() < 0.2:
                world.dispatcher.cut_off()
                world.holder = LeaseOwner()  # another node, which leaves the leases to their time
                await world.restart()
        for _ in range(20):
            await turn()
        chance = 0.0
        for _ in range(60):
            await turn()
            if subscription.kind == "pull" and held:
                await pulls.ack(subscription, [one.id for one in held])
                held.clear()
        for name, length in lengths.items():
            assert [sequence for subject, sequence in got if subject == name] == [*range(1, length + 1)], name
        found = await rows(
            world.store,
            "SELECT state, lease_token FROM deliveries WHERE state <> 'delivered' OR lease_token IS NOT NULL",
        )
        assert found == [], (subscription.kind, world.clock())
