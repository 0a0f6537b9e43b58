"""The relay is stopped between any two steps of a reading of credits. Each fall below the threshold is told once."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from relay.core.events.event import CREDITS_LOW
from tests.support.kill_points import CREDITS_POINTS
from tests.support.kill_world import CONFIG, DATABASES, SEED, World, in_turns, open_world

STOP_SECONDS = 120.0
THRESHOLD = 500
INTERVAL = "connect_accounts_interval_seconds: 0.5, "


async def set_credits(world: World, available: int) -> None:
    body = {"account": "test", "available_credits": available}
    async with world.session.post(f"{world.sandbox_url}/_sandbox/credits", json=body) as response:
        assert response.status == 200, await response.text()


async def until_read(world: World, available: int) -> dict[str, Any]:
    """The credits as the relay shows them, once it has read this figure."""
    await world.relay.ready(world.session)
    async with asyncio.timeout(STOP_SECONDS):
        while True:
            (account,) = (await world.get("/v1/sources"))["items"]
            found: dict[str, Any] = account["credits"] or {}
            if found.get("available") == available:
                return found
            await asyncio.sleep(0.05)


async def told(world: World) -> list[Any]:
    events = (await world.get(f"/v1/events?type={CREDITS_LOW}"))["items"]
    return [event["data"]["available"] for event in reversed(events)]


@pytest.mark.parametrize(("database", "point"), in_turns(CREDITS_POINTS))
async def test_stop_at_any_point_of_a_reading_tells_each_fall_once(tmp_path: Path, database: str, point: str) -> None:
    async with open_world(tmp_path, f"{SEED}:{point}", database=database) as world:
        settings = CONFIG.replace("polling: {", f"credits_low: {THRESHOLD}\n    polling: {{{INTERVAL}")
        (tmp_path / "relay.yaml").write_text(settings + DATABASES[database].delivery)
        await set_credits(world, 120)
        await world.relay.serve(stop=(point, 1))  # as they fall
        await world.relay.killed_itself(STOP_SECONDS)
        await world.relay.serve()
        low = await until_read(world, 120)
        assert (low["low_since"] is not None, await told(world)) == (True, [120])
        await world.relay.kill()

        await set_credits(world, THRESHOLD)
        await world.relay.serve(stop=(point, 1))  # as they are enough again
        await world.relay.killed_itself(STOP_SECONDS)
        await world.relay.serve()
        enough = await until_read(world, THRESHOLD)
        assert (enough["low_since"], await told(world)) == (None, [120])

        await set_credits(world, 7)
        assert (await until_read(world, 7))["threshold"] == THRESHOLD
        assert await told(world) == [120, 7]
