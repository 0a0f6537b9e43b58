"""A node's connections to brokers: opened when an event is due, closed when they are idle and when the node stops."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from relay.bus import publishers
from relay.core.deliveries.broker import Broker, Message, Published
from tests.support.e2e_world import World, open_e2e_world

TYPE = "com.acme.order.paid"


class Connection:
    """Takes everything."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.broken = self.closed = False

    async def publish(self, messages: Sequence[Message], results: list[Published | None]) -> None:
        self.taken += [message.id for message in messages]
        results[:] = [Published(detail="stream ORDERS, sequence 1") for _ in messages]

    async def missing(self, place: Message) -> Published | None:
        return None

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Connection]:
    """Those that were opened."""
    opened: list[Connection] = []

    async def connect(broker: Broker, tls: object) -> Connection:
        opened.append(Connection())
        return opened[-1]

    monkeypatch.setattr("relay.bus.nats.connect", connect)
    return opened


async def subscribe(world: World) -> str:
    body = {"sink": "nats://127.0.0.1", "protocolsettings": {"subject": "orders"}, "types": [TYPE]}
    answer = await world.api.post("/v1/subscriptions", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def publish(world: World, id: str) -> str:
    body = {"specversion": "1.0", "id": id, "source": "/shop", "type": TYPE}
    headers = {"Content-Type": "application/cloudevents+json"}
    answer = await world.api.post("/v1/events", json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["items"][0]["id"])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20.0):
        while not condition():  # noqa: ASYNC110 - the node's own work sets it
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("roles", [("api", "dispatcher"), ("api", "scheduler", "dispatcher")])
async def test_connection_serves_deliveries_and_samples_and_ends_with_the_node(
    tmp_path: Path, connections: list[Connection], monkeypatch: pytest.MonkeyPatch, roles: Any
) -> None:
    async with open_e2e_world(tmp_path, roles=roles) as world:
        id = await subscribe(world)
        event = await publish(world, "1")
        await until(lambda: any(event in one.taken for one in connections))
        tested = (await world.api.post(f"/v1/subscriptions/{id}/test", json={})).json()
        assert (tested["delivered"], tested["attempt"]["decision"]) == (True, "stream ORDERS, sequence 1")
        looked, connection = connections  # the first one was made to look whether it can be reached
        assert looked.closed
        assert connection.taken[0] == event
        assert len(connection.taken) == 2
        monkeypatch.setattr(publishers, "IDLE_SECONDS", 0.0)
        world.node.scheduler.upkeep_now("brokers")
        await until(lambda: connection.closed)
        later = await publish(world, "2")
        await until(lambda: later in connections[-1].taken)
        assert [one.closed for one in connections] == [True, True, False]
    assert connections[-1].closed
