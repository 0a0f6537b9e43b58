"""Random operations from outside while nodes are killed, restarted and reloaded; every promise is checked afterwards.

One node on SQLite, two on PostgreSQL. OPERATIONS_TEST_SECONDS sets the duration, OPERATIONS_TEST_SEED the operations.
"""

import os
from pathlib import Path

import pytest

from tests.support.kill_world import DATABASES
from tests.support.operations_judge import findings
from tests.support.operations_world import open_world, run_operations
from tests.support.scale import SOAK

SECONDS = float(os.environ.get("OPERATIONS_TEST_SECONDS", "4"))
SEED = os.environ.get("OPERATIONS_TEST_SEED", "20260520")
PAUSE_SECONDS = (1.0, 4.0)
SHOWN = 20


@pytest.mark.parametrize("database", [*DATABASES] if SOAK else ["postgresql"])
async def test_random_operations_keep_every_promise(tmp_path: Path, database: str) -> None:
    print(f"OPERATIONS_TEST_SEED={SEED}")
    async with open_world(tmp_path, database, f"{SEED}:{database}") as world:
        await run_operations(world, SECONDS, PAUSE_SECONDS)
        found = await findings(world)
        jobs, arrivals = len(world.jobs), len(world.sinks.arrivals)
        print(f"{jobs} jobs, {arrivals} requests at the sinks, {len(world.streamed)} streamed, {world.done_counts}")
        assert not found, f"{len(found)} findings, the first:\n" + "\n".join(found[:SHOWN])
        assert jobs >= 5
        assert world.done_counts.get("kill", 0) > 0
