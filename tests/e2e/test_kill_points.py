"""The relay stopped between each two steps of look, record, claim, send and mark, of registration, start and end.

Each point of `tests/support/kill_points.py` is passed twice: the first time that a relay comes there, and the n-th.
Then the relay is started without a stop, and all is held to the promise.
"""

import asyncio
import random
import signal
from pathlib import Path

import pytest

from tests.support.kill_points import DRAIN, ONCE, POINTS, SQLITE
from tests.support.kill_world import DATABASES, SEED, World, check_the_promise, open_world

BURSTS_PER_SECOND = 8.0
LATEST_PASSAGE = 12
STOP_SECONDS = 25.0
LIFE_SECONDS = 0.3
"""How long a relay works before it is told to end."""
DRAIN_TRIES = 10


async def stop_at(world: World, point: str, passage: int) -> None:
    """Starts the relay, and returns when it has stopped itself there."""
    if point not in DRAIN:
        await world.relay.serve(stop=(point, passage))
        await world.relay.killed_itself(STOP_SECONDS)
        return
    for _ in range(DRAIN_TRIES):
        await world.relay.serve(stop=(point, passage))
        await world.relay.ready(world.session)
        await asyncio.sleep(LIFE_SECONDS)
        await world.relay.signal(signal.SIGTERM)
        if await world.relay.stopped(STOP_SECONDS):
            return
    raise AssertionError(f"{point} was not passed in {DRAIN_TRIES} lives")


@pytest.mark.parametrize(
    ("database", "point"),
    [(name, point) for name in DATABASES for point in POINTS if name == "sqlite" or point not in SQLITE],
)
async def test_a_stop_at_any_point_breaks_nothing(tmp_path: Path, database: str, point: str) -> None:
    seed = f"{SEED}:{point}"
    rng = random.Random(f"passages:{seed}")
    later = 1 if point in ONCE else rng.randint(2, 3 if point in DRAIN else LATEST_PASSAGE)
    print(f"KILL_TEST_SEED={SEED} {point}: passages 1 and {later}")
    async with open_world(tmp_path, seed, database=database) as world:
        if point in DRAIN:
            world.sink.slow_share = 1.0
        await world.relay.serve()
        await world.relay.ready(world.session)
        await world.subscribe()
        await world.relay.kill()
        done = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(world.register_until(done, BURSTS_PER_SECOND))
            await stop_at(world, point, 1)
            await stop_at(world, point, later)
            await world.relay.serve()
            await world.relay.ready(world.session)
            done.set()
        report = await check_the_promise(world)
        print(report)
        assert report.kills == 3
