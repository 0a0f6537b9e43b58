"""Deliveries to a real NATS server: what JetStream drops as a duplicate is a delivery that it has stored, never another
subscription's, nor one that a replay or a person sends again."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nats
import pytest

from relay.core.deliveries.broker import Broker, Message
from relay.core.deliveries.delivery import Response
from tests.support.brokers.nats import nats_server
from tests.support.e2e_world import World, open_e2e_world

COUNT = 20
TYPE = "com.acme.order.paid"
PATIENCE_SECONDS = 120.0
LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Nats:
    """A node with a server that has one stream of the subjects `orders.>`."""

    world: World
    jetstream: Any
    port: int

    def body(self, subject: str) -> dict[str, Any]:
        return {
            **{"protocol": "NATS", "sink": f"nats://127.0.0.1:{self.port}", "types": [TYPE]},
            **{"protocolsettings": {"subject": subject}, "config": {"retry_schedule": ["0.05s"] * 20}},
        }

    async def subscribe(self, subject: str) -> str:
        answer = await self.world.api.post("/v1/subscriptions", json=self.body(subject))
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def publish(self, count: int = COUNT) -> None:
        events = [{"specversion": "1.0", "id": f"{n}", "source": "/shop", "type": TYPE} for n in range(count)]
        answer = await self.world.api.post(
            "/v1/events", json=events, headers={"content-type": "application/cloudevents-batch+json"}
        )
        assert answer.status_code == 202, answer.text

    async def deliveries(self, subscription: str) -> list[dict[str, Any]]:
        """Those of a subscription, once each is delivered."""
        path = f"/v1/deliveries?subscription={subscription}&limit=200"
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                found: list[dict[str, Any]] = (await self.world.api.get(path)).json()["items"]
                if found and {one["state"] for one in found} == {"delivered"}:
                    return found
                await asyncio.sleep(LOOK_SECONDS)

    async def replay(self, subscription: str, **body: Any) -> None:
        """Sends all events of a subscription again, and waits until that is done."""
        made = await self.world.api.post(
            f"/v1/subscriptions/{subscription}/replay", json={"since": "1970-01-01T00:00:00Z", **body}
        )
        assert made.status_code == 202, made.text
        async with asyncio.timeout(PATIENCE_SECONDS):
            path = f"/v1/replays/{made.json()['replay_id']}"
            while True:
                if (await self.world.api.get(path)).json()["state"] == "done":
                    return
                await asyncio.sleep(LOOK_SECONDS)

    async def move(self, subscription: str, subject: str) -> None:
        changed = await self.world.api.put(f"/v1/subscriptions/{subscription}", json=self.body(subject))
        assert changed.status_code == 200, changed.text

    async def stored(self) -> list[Any]:
        """All messages of the stream, in its order."""
        count = (await self.jetstream.stream_info("ORDERS")).state.messages
        return [await self.jetstream.get_msg("ORDERS", place) for place in range(1, count + 1)]

    async def by_subject(self) -> Counter[str]:
        return Counter(one.subject for one in await self.stored())


@asynccontextmanager
async def open_nats(folder: Path) -> AsyncIterator[Nats]:
    async with nats_server(folder) as server, open_e2e_world(folder) as world:
        client = await nats.connect(f"nats://127.0.0.1:{server.port}")
        try:
            jetstream = client.jetstream()
            await jetstream.add_stream(name="ORDERS", subjects=["orders.>"], duplicate_window=600)
            yield Nats(world, jetstream, server.port)
        finally:
            await client.close()


async def test_subscriptions_that_share_a_stream_each_get_every_event_and_so_does_a_replay(tmp_path):
    async with open_nats(tmp_path) as bus:
        first, second = [await bus.subscribe(subject) for subject in ("orders.a", "orders.b")]
        await bus.publish()
        for one in (first, second):
            assert len(await bus.deliveries(one)) == COUNT
        assert await bus.by_subject() == {"orders.a": COUNT, "orders.b": COUNT}
        await bus.move(first, "orders.c")
        await bus.replay(first, only="all")
        assert await bus.by_subject() == {"orders.a": COUNT, "orders.b": COUNT, "orders.c": COUNT}
        found = await bus.stored()
    ids = {one.headers["Nats-Msg-Id"] for one in found}
    assert len(ids) == 3 * COUNT
    assert Counter(Counter(one.headers["webhook-id"] for one in found).values()) == {3: COUNT}, (
        "of the event, each time"
    )


async def test_delivery_that_is_retried_by_hand_is_stored_again_each_time(tmp_path):
    async with open_nats(tmp_path) as bus:
        subscription = await bus.subscribe("orders.a")
        await bus.publish(1)
        (delivery,) = await bus.deliveries(subscription)
        for count in (2, 3):
            answer = await bus.world.api.post(f"/v1/deliveries/{delivery['id']}/retry")
            assert answer.status_code == 202, answer.text
            await bus.deliveries(subscription)
            assert await bus.by_subject() == {"orders.a": count}
        ids = [one.headers["Nats-Msg-Id"] for one in await bus.stored()]
    assert ids == [delivery["id"], f"{delivery['id']}.1", f"{delivery['id']}.2"]


@pytest.mark.parametrize("rounds", [1, 2])
async def test_lost_acknowledgement_stores_no_message_twice(tmp_path, monkeypatch, rounds):
    """In the first round, and after a replay."""
    async with open_nats(tmp_path) as bus:
        shared = bus.world.node.dispatcher.shared
        publish, lost = shared.publish, Counter[str]()

        async def lossy(broker: Broker, messages: Sequence[Message], seconds: float) -> Sequence[Response]:
            answers = await publish(broker, messages, seconds)
            for message in messages:
                lost[message.id] += 1
            return [
                replace(answer, error="timeout", detail="lost on its way") if lost[message.id] % 3 else answer
                for message, answer in zip(messages, answers, strict=True)
            ]

        monkeypatch.setattr(shared, "publish", lossy)
        subscription = await bus.subscribe("orders.a")
        await bus.publish()
        found = await bus.deliveries(subscription)
        if rounds > 1:
            await bus.replay(subscription, only="all")
            found = await bus.deliveries(subscription)
        assert {one["attempt_count"] for one in found} == {3 * rounds}
        assert await bus.by_subject() == {"orders.a": COUNT * rounds}
