"""The relay is stopped between any two steps of the recovery of a disabled subscription.

Every promise holds, and there is one recovery.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support.kill_points import PROBE_POINTS, RECOVERED
from tests.support.kill_world import CONFIG, SEED, World, check_the_promise, in_turns, open_world
from tests.support.scale import scaled

JOBS = 12
STOP_SECONDS = 120.0
DELIVERY = "  timeout_seconds: 2\n  disable_after_seconds: 1\n"
CONSTANTS = {"relay.delivery.shared:LEASE_MARGIN_SECONDS": 0.7}


async def until_state(world: World, state: str) -> dict[str, Any]:
    async with asyncio.timeout(STOP_SECONDS):
        while True:
            (subscription,) = (await world.get("/v1/subscriptions"))["items"]
            if subscription["state"] == state:
                found: dict[str, Any] = subscription
                return found
            await asyncio.sleep(0.05)


async def count(world: World, type: str) -> int:
    return len((await world.get(f"/v1/events?type=relay.subscription.{type}"))["items"])


POINTS = [one for place, one in enumerate(in_turns(PROBE_POINTS)) if scaled(place // 2 % 2 == 0, True)]
"""In `make verify` six of them, on both databases."""


@pytest.mark.parametrize(("database", "point"), POINTS)
async def test_stop_at_any_point_of_a_recovery_keeps_every_promise(tmp_path: Path, database: str, point: str) -> None:
    async with open_world(tmp_path, f"{SEED}:{point}", database=database) as world:
        (tmp_path / "relay.yaml").write_text(CONFIG + DELIVERY)
        world.relay.constants |= CONSTANTS
        world.sink.refused_share = 1.0
        await world.relay.serve()
        await world.relay.ready(world.session)
        await world.subscribe()
        jobs = [await world.new_job() for _ in range(JOBS)]
        await asyncio.gather(*(world.register(job) for job in jobs))
        disabled = await until_state(world, "disabled")
        assert disabled["next_probe_at"] is not None
        async with asyncio.timeout(STOP_SECONDS):
            while (await world.get("/v1/jobs?open=true"))["items"]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await world.relay.kill()

        world.sink.refused_share = 0.0
        stops = 1 if point in RECOVERED else scaled(1, 2)
        for _ in range(stops):
            await world.relay.serve(stop=(point, 1))
            await world.relay.killed_itself(STOP_SECONDS)

        await world.relay.serve()
        report = await check_the_promise(world)
        print(report)
        assert report.kills == 1 + stops
        assert report.jobs == JOBS
        enabled = await until_state(world, "enabled")
        assert enabled["state_reason"] == "recovered"
        assert (await count(world, "disabled"), await count(world, "recovered")) == (1, 1)
