"""The drop-in for any source: what its definition says of creates, keys, addresses and waits."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.config.settings import PollingSettings
from relay.testing import FakeClock
from tests.support.e2e_world import World
from tests.support.mount_world import KEY, MOUNT, json_answer, open_mine
from tests.support.wire import Call, answer

AUTH = {"Authorization": f"Bearer {KEY}"}
STILL: dict[str, Any] = {"roles": ("api", "dispatcher"), "polling": PollingSettings()}
"""A node that polls when a test says so."""


@pytest.fixture(autouse=True)
async def _bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(120):
        yield


async def job_of(world: World, id: str, **headers: str) -> dict[str, Any]:
    found = await world.api.get(f"/v1/jobs/{id}?source=mine", headers=headers)
    assert found.status_code == 200, found.text
    job: dict[str, Any] = found.json()
    return job


async def polled(world: World) -> None:
    """The relay polls the job that is due."""
    assert await world.node.pollers["mine", "default"].run_once()


# --- creates


@pytest.mark.parametrize(
    ("path", "said", "id"),
    [
        ("/v1/batch/start", json_answer({"op": {"id": "a"}, "count": 1}), "a"),
        ("/v1/batch/start", json_answer({"op": {"id": 12}, "state": "on"}, status=202), "12"),
        ("/v1/located", answer(202, [("Operation-Location", "https://mine.example/v1/jobs/b%2Fc?v=1")]), "b/c"),
        ("/v1/located", json_answer([], Operation_Location="/v1/jobs/d"), "d"),
        ("/v1/jobs", json_answer({"id": "e", "state": "done"}), "e"),
    ],
)
async def test_create_whose_answer_is_no_open_job_is_tracked_and_polled_at_once(
    tmp_path: Path, path: str, said: bytes, id: str
) -> None:
    def says(call: Call) -> bytes:
        return said if call.request.method == "POST" else json_answer({"id": id, "state": "done"})

    async with open_mine(tmp_path, says=says, clock=FakeClock(), **STILL) as (world, stub):
        made = await world.api.post(MOUNT + path, json={"labels": {"deal": "42"}}, headers=AUTH)
        assert made.content == said.partition(b"\r\n\r\n")[2]
        assert "relay-job-not-recorded" not in made.headers
        (job,) = (await world.api.get("/v1/jobs?source=mine")).json()["items"]
        assert (job["id"], job["status"], job["sequence"]) == (id, None, 0)
        assert job["request"]["metadata"] == {"deal": "42"}
        assert (await world.api.get("/v1/intents")).json()["items"] == []
        await polled(world)
        (job,) = (await world.api.get("/v1/jobs?source=mine")).json()["items"]
        assert (job["status"], job["outcome"], job["poll_count"]) == ("succeeded", "succeeded", 1)
        assert [one.method for one in stub.received] == ["POST", "GET"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/batch/start", json_answer({"op": {}})),
        ("/v1/batch/start", json_answer([])),
        ("/v1/located", answer(202)),
        ("/v1/located", json_answer({"state": "on"}, Operation_Location="https://mine.example")),
        ("/v1/located", answer(202, [("Operation-Location", "https://mine.example/v1/jobs/%2e%2e")])),
        ("/v1/jobs", answer(500)),
        ("/v1/jobs", b""),
    ],
)
async def test_create_that_names_no_job_is_sent_once_and_listed(tmp_path: Path, path: str, said: bytes) -> None:
    async with open_mine(tmp_path, says=lambda call: said, clock=FakeClock(), **STILL) as (world, stub):
        sending = asyncio.create_task(world.api.post(MOUNT + path, json={}, headers=AUTH))
        await stub.until(lambda: bool(stub.received))
        if not said:
            for writer in stub._writers:
                writer.close()
        answered = await sending
        assert answered.status_code == (int(said.split(b" ")[1]) if said else 502)
        assert len(stub.received) == 1
        (listed,) = (await world.api.get("/v1/intents")).json()["items"]
        assert (listed["source"], listed["path"]) == ("mine", path)
        assert (await world.api.get("/v1/jobs?source=mine")).json()["items"] == []
