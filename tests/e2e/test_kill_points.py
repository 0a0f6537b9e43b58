"""The relay is stopped between any two steps of polling, recording, claiming, sending, registration, start and stop.
One subscription gets its events one by one, another one in batches.

Each point of `tests/support/kill_points.py` is reached twice: the first time, and the n-th time. Then the relay runs
without a stop, and every promise is checked. `make soak` gives each point its own world on each database. `make verify`
stops at many points of one world, at each of them on one database and at one of the two passages.
"""

import asyncio
import random
import signal
from pathlib import Path

import pytest

from tests.support.kill_points import DRAIN, ONCE, POINTS, SQLITE
from tests.support.kill_world import DATABASES, SEED, World, check_the_promise, open_world
from tests.support.scale import SOAK, scaled

BURSTS_PER_SECOND = scaled(5.0, 8.0)
LATEST_PASSAGE = scaled(6, 12)
STOP_SECONDS = 120.0
LIFE_SECONDS = 0.3
"""How long a relay works before it is ended."""
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


def groups(database: str) -> list[list[str]]:
    """The points that one world is stopped at: in `make soak` each has a world of its own."""
    if SOAK:
        return [[point] for point in POINTS if database == "sqlite" or point not in SQLITE]
    number = list(DATABASES).index(database)
    here = [*POINTS][number :: len(DATABASES)]
    points = [point for point in POINTS if (database == "sqlite" if point in SQLITE else point in here)]
    return [[point for point in points if (point in DRAIN) == drains] for drains in (False, True)]


@pytest.mark.parametrize(
    ("database", "points"),
    [
        pytest.param(name, group, id=f"{name}-{group[0]}{'...' * (len(group) > 1)}")
        for name in DATABASES
        for group in groups(name)
    ],
)
async def test_stop_at_any_point_keeps_every_promise(tmp_path: Path, database: str, points: list[str]) -> None:
    seed = f"{SEED}:{points[0]}"
    rng = random.Random(f"passages:{seed}")
    stops = 0
    async with open_world(tmp_path, seed, database=database) as world:
        if DRAIN.issuperset(points):
            world.sink.slow_share = 1.0
        await world.relay.serve()
        await world.relay.ready(world.session)
        await world.subscribe(batches=True)
        await world.relay.kill()
        done = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(world.register_until(done, BURSTS_PER_SECOND))
            for point in points:
                later = 1 if point in ONCE else rng.randint(2, 3 if point in DRAIN else LATEST_PASSAGE)
                turn = list(POINTS).index(point) // len(DATABASES) % 2
                for passage in scaled([(1, later)[turn]], [1, later]):
                    print(f"KILL_TEST_SEED={SEED} {point}: passage {passage}")
                    await stop_at(world, point, passage)
                    stops += 1
            await world.relay.serve()
            await world.relay.ready(world.session)
            done.set()
        report = await check_the_promise(world)
        print(report)
        assert report.kills == 1 + stops
