"""SIGKILL at random moments, while jobs are registered, polled and delivered to a sink that sometimes answers 500.

Nothing is lost, no transition gets a second event, the order holds, and only a delivery whose answer was not recorded
in time may be repeated. KILL_TEST_COUNT and KILL_TEST_SEED choose how often and when.
"""

import asyncio
import random
import time
from pathlib import Path

import pytest

from tests.support.kill_world import (
    DATABASES,
    DUPLICATE_SHARE,
    KILL_COUNT,
    SEED,
    Report,
    World,
    check_the_promise,
    open_world,
    total,
)
from tests.support.scale import SOAK, scaled

KILLS_A_TEST = 50
WORLDS = min(12, max(1, KILL_COUNT // 2))
"""That are killed side by side in one test, each with a relay, a database, an upstream and a sink of its own."""
TESTS = [min(KILLS_A_TEST, KILL_COUNT - first) for first in range(0, KILL_COUNT, KILLS_A_TEST)]
SECONDS = {"sqlite": scaled(5.0, 24.0), "postgresql": scaled(8.0, 48.0)}
"""In which all the kills of a test fall, at the first try: a commit takes longer where it goes through a server."""
BURSTS_PER_SECOND = 0.7
IN_A_CROWD = {
    # On a busy machine a commit takes seconds, and must not outlast it.
    "relay.delivery.shared:LEASE_MARGIN_SECONDS": 8.0,
    # Twelve nodes that tell each other that they live five times a second leave no time for what is measured.
    "relay.node.cluster:LEASE_SECONDS": 2.0,
    "relay.node.cluster:RENEW_SECONDS": 0.6,
    "relay.node.cluster:SCAN_SECONDS": 0.6,
}
TRIES = 3
"""How often the share of duplicates is measured before it is too large, each time with twice the time between kills: it
is the time from a request to the commit of its mark in relation to the time between two kills, so on a machine that has
other work it is larger. Nothing else that is checked has a second try."""


async def kill_and_start(world: World, rng: random.Random, count: int, seconds: float) -> None:
    """At any moment, also while it starts."""
    began = time.monotonic()
    for moment in sorted(rng.uniform(0.0, seconds) for _ in range(count)):
        await asyncio.sleep(max(0.0, began + moment - time.monotonic()))
        await world.relay.kill()
        await world.relay.serve()


async def one_world(folder: Path, database: str, seed: str, count: int, seconds: float) -> Report:
    folder.mkdir()
    async with open_world(folder, seed, database=database) as world:
        if database == "postgresql":
            world.relay.constants |= IN_A_CROWD
        await world.relay.serve()
        await world.relay.ready(world.session)
        await world.subscribe()
        done = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(world.register_until(done, BURSTS_PER_SECOND))
            await kill_and_start(world, random.Random(f"kills:{seed}"), count, seconds)
            done.set()
        return await check_the_promise(world)


async def kills(folder: Path, database: str, seed: str, count: int, seconds: float) -> Report:
    """So many kills, spread over the worlds."""
    began = time.monotonic()
    folder.mkdir()
    async with asyncio.TaskGroup() as group:
        worlds = [
            group.create_task(one_world(folder / str(n), database, f"{seed}:{n}", (count + n) // WORLDS, seconds))
            for n in range(WORLDS)
        ]
    report = total([world.result() for world in worlds])
    print(f"{report}; {time.monotonic() - began:.1f} s")
    assert report.kills == count
    assert report.refused > 0
    return report


@pytest.mark.parametrize("number", range(len(TESTS)))
@pytest.mark.parametrize("database", [*DATABASES] if SOAK else ["sqlite"])
async def test_kills_at_random_moments_lose_and_invent_nothing(tmp_path: Path, database: str, number: int) -> None:
    print(f"KILL_TEST_SEED={SEED} test {number}")
    shares: list[float] = []
    while not shares or (shares[-1] > DUPLICATE_SHARE and len(shares) < TRIES):
        seed, seconds = f"{SEED}:{number}:{len(shares)}", SECONDS[database] * 2 ** len(shares)
        report = await kills(tmp_path / str(len(shares)), database, seed, TESTS[number], seconds)
        shares.append(report.duplicates / report.events)
    assert shares[-1] <= DUPLICATE_SHARE, shares
