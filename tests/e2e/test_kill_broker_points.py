"""The relay is stopped between any two steps of a bundle that it publishes to a real broker.

What the broker has acknowledged, but the relay has not recorded, is published again with the same id: JetStream knows
it, and keeps it once. No event is lost, and those of a key are in their order.
"""

import asyncio
import time
from pathlib import Path

import nats
import orjson
import pytest

from tests.support.brokers.nats import nats_server
from tests.support.kill_points import BROKER_POINTS
from tests.support.kill_world import DATABASES, SEED, World, open_world
from tests.support.scale import SOAK

STOP_SECONDS = 120.0
OWED_SECONDS = 120.0
COUNT = 60
KEYS = 4
TYPE = "com.acme.order.paid"
HEADERS = {"Content-Type": "application/cloudevents-batch+json"}


async def publish(world: World) -> None:
    """Publishes all events in one request: the relay finds a backlog, and publishes it as a bundle."""
    batch = [
        {"specversion": "1.0", "id": str(n), "source": "/shop", "type": TYPE, "partitionkey": f"key {n % KEYS}"}
        for n in range(COUNT)
    ]
    url = f"{world.relay.url}/v1/events"
    async with world.session.post(url, data=orjson.dumps(batch), headers=HEADERS) as response:
        assert response.status == 202, await response.text()


async def subscribe(world: World, url: str) -> None:
    """A subscription of the broker's subject."""
    body = {"sink": url, "protocol": "NATS", "protocolsettings": {"subject": "orders"}, "types": [TYPE]}
    async with world.session.post(f"{world.relay.url}/v1/subscriptions", json=body) as response:
        assert response.status == 201, await response.text()


@pytest.mark.parametrize("database", DATABASES if SOAK else ["sqlite"])
async def test_bundle_survives_a_crash_at_any_point(tmp_path: Path, database: str) -> None:
    async with (
        nats_server(tmp_path) as server,
        open_world(tmp_path, f"{SEED}:broker", database=database) as world,
    ):
        url = f"nats://127.0.0.1:{server.port}"
        client = await nats.connect(url)
        stream = client.jetstream()
        await stream.add_stream(name="ORDERS", subjects=["orders"])
        for nth, point in enumerate(BROKER_POINTS):  # what one life leaves is due at once in the next one
            await world.relay.serve(stop=(point, 1))
            if nth == 0:
                await world.relay.ready(world.session)
                await subscribe(world, url)
                await publish(world)
            await world.relay.killed_itself(STOP_SECONDS)
        await world.relay.serve()
        await world.relay.ready(world.session)
        latest = time.monotonic() + OWED_SECONDS
        while (await world.get("/v1/deliveries?state=pending"))["items"]:
            assert time.monotonic() < latest, world.relay.log_tail()
            await asyncio.sleep(0.1)
        attempts = [one["attempt_count"] for one in (await world.get("/v1/deliveries?limit=200"))["items"]]
        reader = await stream.subscribe("orders", ordered_consumer=True)
        found = [await reader.next_msg(timeout=120) for _ in range(COUNT)]
        info = await stream.stream_info("ORDERS")
        await client.close()
    assert info.state.messages == COUNT
    ids = [int(orjson.loads(message.data)["id"]) for message in found]
    assert sorted(ids) == list(range(COUNT))
    for key in range(KEYS):
        of_key = [id for id in ids if id % KEYS == key]
        assert of_key == sorted(of_key)
    assert attempts == [1] * COUNT  # nothing was recorded twice
