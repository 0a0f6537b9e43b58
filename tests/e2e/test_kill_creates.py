"""SIGKILL at random moments during creates that callers send through the relay.

The upstream survives. A caller without an answer repeats only with an Idempotency-Key. Then the upstream's record is
compared with the callers': no create more than they sent, every job they learned of is tracked, and every other one has
an intent. KILL_TEST_COUNT and KILL_TEST_SEED choose how often and when.
"""

import asyncio
import random
import time
from pathlib import Path

import pytest

from tests.support.create_world import CreateReport, check_the_ledgers, open_create_world, total
from tests.support.kill_world import DATABASES, KILL_COUNT, SEED
from tests.support.scale import scaled

KILLS = max(scaled(4, 6), KILL_COUNT // 5)
"""A database: a world with creates costs more than a kill, and needs fewer of them."""
WORLDS = 2
"""That are killed side by side, each with a relay, a database and an upstream of its own."""
CALLERS = 6
ANSWERED = 3
"""So many creates a relay answers, at least, before it is killed."""
LATEST_SECONDS = 0.15
"""After these it may be any moment until then: at each of them some creates are on their way."""


async def one_world(folder: Path, database: str, seed: str, count: int) -> CreateReport:
    folder.mkdir()
    moments = random.Random(f"kills:{seed}")
    async with open_create_world(folder, seed, database) as callers:
        relay = callers.world.relay
        await relay.serve()
        done = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(callers.place_until(done))
            for _ in range(count):
                await callers.until_answered(callers.answered + ANSWERED)
                await asyncio.sleep(moments.uniform(0.0, LATEST_SECONDS))
                await relay.kill()
                await relay.serve()
            done.set()
        return await check_the_ledgers(callers)


@pytest.mark.parametrize("database", DATABASES)
async def test_kills_during_creates_lose_and_repeat_none(tmp_path: Path, database: str) -> None:
    print(f"KILL_TEST_SEED={SEED}")
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        worlds = [
            group.create_task(one_world(tmp_path / str(n), database, f"{SEED}:creates:{n}", (KILLS + n) // WORLDS))
            for n in range(WORLDS)
        ]
    report = total([world.result() for world in worlds])
    print(f"{database}: {report}; {time.monotonic() - began:.1f} s")
    assert report.kills == KILLS
    assert report.repeated > 0, "no kill fell into a create with a key"
    assert report.unanswered > 0, "no kill fell into a create without one"
