"""SIGKILL at random moments with spans on, beside a collector that hangs: nothing is lost or invented."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from tests.support.kill_world import SEED, check_the_promise, open_world
from tests.support.scale import scaled
from tests.support.trace_collector import open_collector

KILLS = scaled(2, 20)
SECONDS_BETWEEN = 2.0


async def test_kills_with_spans_on_lose_and_invent_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_collector() as collector:
        collector.behaviour = "hangs"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        async with open_world(tmp_path, SEED, database="sqlite") as world:
            with (tmp_path / "relay.yaml").open("a") as settings:
                settings.write("tracing: {enabled: true}\n")
            await world.relay.serve()
            await world.relay.ready(world.session)
            await world.subscribe()
            done, rng = asyncio.Event(), random.Random(f"kills:{SEED}")
            async with asyncio.TaskGroup() as group:
                registering: Any = group.create_task(world.register_until(done, 0.7))
                for _ in range(KILLS):
                    await asyncio.sleep(rng.uniform(0.0, SECONDS_BETWEEN))
                    await world.relay.kill()
                    await world.relay.serve()
                done.set()
            assert registering.done()
            report = await check_the_promise(world)
        assert report.kills == KILLS
        assert report.events > 0
        assert collector.requests > 0
