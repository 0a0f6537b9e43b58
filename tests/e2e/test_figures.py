"""Figures over time of a relay process: counted at the same places as its metrics, and written when it stops."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from tests.support.relay_world import RelayWorld, open_relay_world

TYPES = ("ai.revor.job.running", "ai.revor.job.succeeded")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RelayWorld]:
    async with open_relay_world(tmp_path) as world:
        yield world


async def test_figures_of_jobs_and_deliveries_survive_a_stop(world: RelayWorld) -> None:
    refused: list[str] = []

    async def once(_request: Request) -> Response:
        refused.append("")
        return PlainTextResponse("later", 503 if len(refused) == 1 else 200)

    world.answering = once
    await world.serve()
    subscription = await world.subscribe(*TYPES)
    await world.until_delivered([await world.job() for _ in range(3)])
    await world.end()
    await world.serve()

    async def totals(label: str = "") -> dict[str, float]:
        items = (await world.get(f"/v1/figures?span=day{label and f'&label={label}'}"))["items"]
        return {one["name"]: sum(point["count"] for point in one["points"]) for one in items if one["points"]}

    whole, account, sink = await totals(), await totals("revor/default"), await totals(subscription["id"])
    assert (whole["jobs_ended"], account["jobs_ended"]) == (3, 3)
    assert whole["detection_delay_seconds"] == account["detection_delay_seconds"] == 3
    assert whole["attempts"] == sink["attempts"] == whole["attempt_seconds"] == len(refused)
    assert whole["attempts_failed"] == sink["attempts_failed"] == 1
    assert whole["events"] == account["events"] >= 3 * len(TYPES)
    assert "jobs_failed" not in whole
    assert whole["jobs_open"] >= 1
    assert account["requests_own"] >= 1
    (points,) = [one["points"] for one in (await world.get("/v1/figures?name=jobs_open&span=minute"))["items"]]
    assert points[-1]["total"] == 0
