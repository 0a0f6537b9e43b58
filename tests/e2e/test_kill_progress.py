"""The relay is stopped between any two steps of a poll that tells of progress: each change is told once."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from relay.core.jsontext import dumps
from tests.support.kill_world import DATABASES, START_SECONDS, World, open_world
from tests.support.schema_check import check_event

POINTS = ("poll.answered", "record.called", "record.written", "record.committed", "note.called")
RUN_SECONDS = 1200
"""By the sandbox's clock, which is 200 times as fast."""


async def begin(world: World, count: int) -> list[str]:
    """Websets that begin now, tracked by the relay, which runs. Returns their ids."""
    body = {"resource": "websets", "account": "test", "count": count, "final": "succeeded", "run_seconds": RUN_SECONDS}
    async with world.session.post(f"{world.sandbox_url}/_sandbox/jobs", json=body) as response:
        assert response.status == 201, await response.text()
        ids = [item["id"] for item in (await response.json())["items"]]
    for id in ids:
        async with world.session.post(f"{world.relay.url}/v1/jobs", json={"id": id, "resource": "websets"}) as answer:
            assert answer.status == 201, await answer.text()
    return ids


async def events_of(world: World, id: str) -> list[dict[str, Any]]:
    """Every event of a job, once it has ended."""
    async with world.session.get(f"{world.relay.url}/v1/jobs/{id}", headers={"Prefer": "wait=9"}) as response:
        job = await response.json()
    found: list[dict[str, Any]] = (await world.get(f"/v1/jobs/{id}/events"))["items"]
    return found if not job["open"] else await events_of(world, id)


@pytest.mark.parametrize("database", DATABASES)
async def test_stop_at_any_point_tells_each_change_once(tmp_path: Path, database: str) -> None:
    ids = []
    async with open_world(tmp_path, f"progress:{database}", database=database) as world:
        world.relay.constants = {**world.relay.constants, "relay.core.jobs.job:PROGRESS_SECONDS": 0.0}
        for passage, point in enumerate(POINTS, 2):
            await world.relay.serve()
            await world.relay.ready(world.session)
            ids += await begin(world, 2)
            await world.relay.kill()
            await world.relay.serve(stop=(point, passage))
            await world.relay.killed_itself(START_SECONDS)
        await world.relay.serve()
        await world.relay.ready(world.session)
        for id in ids:
            events = await events_of(world, id)
            assert [event["sequence"] for event in events] == [f"{number:010d}" for number in range(1, len(events) + 1)]
            kinds = [event["type"].rpartition(".")[2] for event in events]
            assert (kinds[0], kinds[-1]) == ("running", "completed")
            assert set(kinds[1:-1]) == {"progress"}
            told = [check_event(dumps(event))["data"]["progress"] for event in events[1:-1]]
            assert all(before != after for before, after in pairwise(told)), told
