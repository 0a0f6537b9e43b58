"""After a node is killed, the next or another node polls and delivers at once.

The leases here outlast the test: only the end of the dead node's database connection can release them.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from tests.support.kill_world import CONCURRENCY, DATABASES, Relay, World, check_the_promise, judged, open_world

LONG_LEASES = {
    "relay.delivery.shared:LEASE_MARGIN_SECONDS": 600.0,
    "relay.node.cluster:LEASE_SECONDS": 600.0,
    "relay.node.cluster:RENEW_SECONDS": 3.0,
    "relay.node.cluster:SCAN_SECONDS": 1.0,
}
MAX_SECONDS = 120.0
"""From being ready to the first delivery: a second, on a machine with nothing else to do."""
KILLS = 3


@asynccontextmanager
async def busy(folder: Path, seed: str) -> AsyncIterator[World]:
    async with open_world(folder, seed, database="postgresql") as world:
        world.relay.constants |= LONG_LEASES
        await world.relay.serve()
        await world.relay.ready(world.session)
        await world.subscribe()
        yield world


async def delivered_after(world: World, seconds: float) -> float:
    """How long after `seconds` of the monotonic clock the sink had something."""
    latest = time.monotonic() + MAX_SECONDS
    while not (found := [one.came_at for one in world.sink.arrivals if one.came_at > seconds]):
        assert time.monotonic() < latest, f"nothing is delivered:\n{world.relay.log_tail()}"
        await asyncio.sleep(0.01)
    return found[0] - seconds


async def test_only_node_continues_as_soon_as_it_is_restarted(tmp_path: Path) -> None:
    async with busy(tmp_path, "alone") as world:
        done = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(world.register_until(done, 4.0))
            for _ in range(KILLS):
                await delivered_after(world, time.monotonic())
                await world.relay.kill()
                await world.relay.serve()
                await world.relay.ready(world.session)
                print(f"first delivery after {await delivered_after(world, time.monotonic()):.2f} s")
            done.set()
        print(await check_the_promise(world))


async def test_other_node_continues_when_one_is_killed(tmp_path: Path) -> None:
    async with busy(tmp_path, "one of two") as world:
        folder = tmp_path / "other"
        folder.mkdir()
        database = DATABASES["postgresql"]
        other = Relay(
            folder,
            database_url=world.relay.environ["DATABASE_URL"],
            sandbox_url=world.sandbox_url,
            database=replace(database, constants=LONG_LEASES),
        )
        try:
            await other.serve()
            await other.ready(world.session)
            done = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                group.create_task(world.register_until(done, 4.0))
                await delivered_after(world, time.monotonic())
                await world.relay.kill()  # the one that polls: it was the first
                killed_at = time.monotonic()
                world.relay, dead = other, world.relay
                print(f"first delivery after {await delivered_after(world, killed_at):.2f} s")
                done.set()
            world.relay.kills += dead.kills
            truths = await world.everything_owed()
            report = judged(world, truths)
            print(report)
            assert (report.lost, report.out_of_order) == (0, 0)
            assert report.most_duplicates_a_kill <= 4 * CONCURRENCY
        finally:
            other.close()
