"""An upgrade of several nodes (`make soak`: five) that share a PostgreSQL database: one after the other, in use."""

import asyncio
import contextlib
import json
import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from relay.config.keyring import new_key
from tests.support.postgres_server import shared_server
from tests.support.process_world import API_TOKEN, Process
from tests.support.relay_world import API_KEY, RelayWorld, open_relay_world
from tests.support.scale import scaled
from tests.support.socket_holder import SocketHolder, socket_holder
from tests.support.steady_load import SteadyLoad
from tests.support.wire import Answer, request

NODES = scaled(2, 5)
RATE_OF_EACH = 10
BEARER = ("Authorization", f"Bearer {API_TOKEN}")
JSON = ("Content-Type", "application/json")
SCRIPT = {"attempt_failures": 0, "start_delay_seconds": 2, "run_seconds": 2, "in_lane": False}


@pytest.fixture
def database_url() -> Iterator[str]:
    name = f"rolling_{secrets.token_hex(6)}"
    shared_server().create_database(name)
    yield shared_server().url(name)
    shared_server().drop_database(name)


class Cluster:
    """Five nodes, each with a socket of its own."""

    def __init__(self, world: RelayWorld, holders: list[SocketHolder], database_url: str) -> None:
        self.holders = holders
        self.nodes: list[Process] = []
        (world.folder / "relay.token").write_text(API_TOKEN)
        self._variables = {
            "DATABASE_URL": database_url,
            "RELAY_ENCRYPTION_KEY": new_key(),
            "RELAY_TOKEN_FILE": "relay.token",
            "REVOR_API_KEY": API_KEY,
            "REVOR_BASE_URL": world.sandbox_url,
        }

    async def serve(self, number: int) -> Process:
        """Starts a node as the unit does, and waits until it is ready."""
        return await self.holders[number].served("--auto-migrate", **self._variables)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RelayWorld]:
    async with asyncio.timeout(500), open_relay_world(tmp_path) as world:
        yield world


async def test_nodes_are_restarted_in_turn_without_losing_a_request_or_an_event(
    world: RelayWorld, database_url: str
) -> None:
    with contextlib.ExitStack() as sockets:
        holders = [sockets.enter_context(socket_holder(world.start)) for _ in range(NODES)]
        cluster = Cluster(world, holders, database_url)
        cluster.nodes = [await cluster.serve(number) for number in range(NODES)]  # at once takes too long
        world.url = holders[0].url
        await world.subscribe()
        job_ids = [await world.upstream_job(**SCRIPT) for _ in range(NODES * 20)]
        refused: list[bytes] = []

        def load_of(node: int) -> SteadyLoad:
            own = iter(job_ids[node::NODES])

            def next_request(_number: int) -> bytes:
                job_id = next(own, None)
                if job_id is None:
                    return request("GET", "/v1/jobs?limit=5", [BEARER])
                return request("POST", "/v1/jobs", [BEARER, JSON], json.dumps({"id": job_id}).encode())

            def answered(_number: int, answer: Answer) -> None:
                if answer.status not in (200, 201):
                    refused.append(answer.body)

            return SteadyLoad(holders[node].url, RATE_OF_EACH, next_request, answered)

        loads = [load_of(number) for number in range(NODES)]
        sending = [asyncio.create_task(load.run()) for load in loads]
        for number in range(NODES):
            cluster.nodes[number].popen.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(cluster.nodes[number].close) == 0
            cluster.nodes[number] = await cluster.serve(number)
            await loads[number].caught_up()
        for load in loads:
            load.stop()
        await asyncio.gather(*sending)
        assert [load.summary for load in loads] == [{}] * NODES
        assert refused == []
        await world.until_delivered(job_ids)
        ids = [event["id"] for event in world.received]
        assert len(ids) == len(set(ids)), "nodes that stop in order repeat nothing"
        for node in cluster.nodes:
            assert await asyncio.to_thread(node.end) == 0
