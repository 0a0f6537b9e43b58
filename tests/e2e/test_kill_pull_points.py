"""The relay is stopped between any two steps of a program's pull, of its acknowledgement, and of the end of its lease.

The program asks again. Each event is acknowledged once, in the order of its key. A lease that was committed is kept by
the next node until it ends.
"""

import asyncio
import time
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from tests.support.kill_points import PULL_POINTS
from tests.support.kill_world import SEED, World, in_turns, open_world

STOP_SECONDS = 120.0
DONE_SECONDS = 120.0
COUNT = 6
TYPE = "com.acme.order.paid"
BATCH = [
    {"specversion": "1.0", "id": str(n), "source": "/shop", "type": TYPE, "partitionkey": f"key {n % 2}"}
    for n in range(COUNT)
]
HEADERS = {"Content-Type": "application/cloudevents-batch+json"}
LEASE = {"lease_seconds": 1, "wait_seconds": 2}


async def post(world: World, path: str, body: Any) -> Any:
    async with world.session.post(f"{world.relay.url}{path}", json=body) as response:
        answer = await response.json()
        assert response.status in (200, 201), answer
        return answer


@pytest.mark.parametrize(("database", "point"), in_turns(PULL_POINTS))
async def test_program_that_asks_again_after_a_crash_gets_everything_once(
    tmp_path: Path, database: str, point: str
) -> None:
    acked: list[int] = []
    handed_out: list[int] = []
    crashed = False

    async def cycle(sub: str, *, acks: bool = True) -> None:
        """Pulls, and acknowledges what came."""
        items = (await post(world, f"{sub}/pull", LEASE))["items"]
        handed_out.extend(int(one["event"]["id"]) for one in items)
        if items and acks:
            names = {one["delivery_id"]: int(one["event"]["id"]) for one in items}
            try:
                results = (await post(world, f"{sub}/ack", {"ids": list(names)}))["results"]
            except aiohttp.ClientError:
                await world.relay.killed_itself(STOP_SECONDS)
                await world.relay.serve()
                await world.relay.ready(world.session)
                results = (await post(world, f"{sub}/ack", {"ids": list(names)}))["results"]
            assert {one["result"] for one in results} <= {"acked", "already"}
            acked.extend(names.values())

    async with open_world(tmp_path, f"{SEED}:{point}", database=database) as world:
        await world.relay.serve(stop=(point, 1))
        await world.relay.ready(world.session)
        made = await post(world, "/v1/subscriptions", {"protocol": "PULL", "types": [TYPE]})
        sub = f"/v1/subscriptions/{made['id']}"
        publish = {"data": orjson.dumps(BATCH), "headers": HEADERS}
        async with world.session.post(f"{world.relay.url}/v1/events", **publish) as response:
            assert response.status == 202, await response.text()
        latest = time.monotonic() + DONE_SECONDS
        lets_end = point.startswith("ended")
        while len(set(acked)) < COUNT:
            assert time.monotonic() < latest, world.relay.log_tail()
            try:
                await cycle(sub, acks=not lets_end)
                if lets_end:
                    await asyncio.sleep(1.1)
            except aiohttp.ClientError:
                await world.relay.killed_itself(STOP_SECONDS)
                crashed, lets_end = True, False
                await world.relay.serve()
                await world.relay.ready(world.session)
        found = (await world.get(f"/v1/deliveries?subscription={made['id']}"))["items"]
    assert [one["state"] for one in found] == ["delivered"] * COUNT
    for key in range(2):
        of_key = [n for n in dict.fromkeys(acked) if n % 2 == key]
        assert of_key == sorted(of_key)
        first = [n for n in dict.fromkeys(handed_out) if n % 2 == key]
        assert first == sorted(first)
    assert crashed or point.startswith("ack")
