"""The relay is stopped between any two steps of a replay, early and late, while the sink refuses some events.

Then every promise is checked.
"""

import asyncio
import contextlib
from pathlib import Path

import aiohttp
import pytest

from tests.support.kill_points import REPLAY_POINTS
from tests.support.kill_world import SEED, World, check_the_promise, in_turns, open_world

JOBS = 16
SLICE = 5
LATER = 3
STOP_SECONDS = 120.0
CONSTANTS = {
    "relay.store.deliveries.replays:SLICE": SLICE,
    "relay.store.deliveries.replays:MAX_UNTRIED": SLICE,
    "relay.store.deliveries.replays:LEASE_SECONDS": 0.5,
    "relay.node.node:REPLAY_SECONDS": 0.05,
}


async def recorded(world: World) -> None:
    """Jobs whose events were not delivered."""
    jobs = [await world.new_job() for _ in range(JOBS)]
    await asyncio.gather(*(world.register(job) for job in jobs))
    async with asyncio.timeout(STOP_SECONDS):
        while (await world.get("/v1/jobs?open=true"))["items"]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(("database", "point"), in_turns(REPLAY_POINTS))
async def test_stop_at_any_point_of_a_replay_keeps_every_promise(tmp_path: Path, database: str, point: str) -> None:
    async with open_world(tmp_path, f"{SEED}:{point}", database=database) as world:
        world.relay.constants |= CONSTANTS
        await world.relay.serve()
        await world.relay.ready(world.session)
        await recorded(world)
        await world.subscribe()
        (subscription,) = (await world.get("/v1/subscriptions"))["items"]
        assert world.sink.arrivals == []
        await world.relay.kill()

        await world.relay.serve(stop=(point, 1))
        await world.relay.ready(world.session)
        path = f"{world.relay.url}/v1/subscriptions/{subscription['id']}/replay"
        with contextlib.suppress(aiohttp.ClientError):  # committed before the first step, answered or not
            async with world.session.post(path, json={"since": "2020-01-01T00:00:00Z"}) as response:
                assert response.status == 202
                assert (await response.json())["matched"] > JOBS
        await world.relay.killed_itself(STOP_SECONDS)
        await world.relay.serve(stop=(point, LATER))
        await world.relay.killed_itself(STOP_SECONDS)

        await world.relay.serve()
        report = await check_the_promise(world)
        print(report)
        assert report.kills == 3
        assert report.jobs == JOBS
