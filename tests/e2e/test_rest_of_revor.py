"""The rest of Revor, played by the sandbox: jobs of API v2 and websets are created through the drop-in as a client
does, tracked by themselves, and their events arrive once and in order."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from relay.clock import wall_clock
from relay.sandbox.bodies import DISPATCH_PATH
from tests.support.dispatches import campaign_body
from tests.support.e2e_world import KEY, SPEED, World, open_e2e_world

AUTH = {"Authorization": f"Bearer {KEY}"}
ATTACHED = {**AUTH, "Relay-Group": "spring", "Relay-Metadata": '{"deal": 42}'}
BY_HAND = 0.01
"""A speed at which no job ends by itself."""
RESEARCH = "/api/v2/research/public-web"
WEBSETS = "/api/v2/websets"
V2_CREATES = (RESEARCH, "/api/v2/research/contacts", "/api/v2/customs/trade-reports")
BODY = {"query": "Bakeries in Lyon"}


@pytest.fixture(autouse=True)
async def _bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(120):
        yield


async def create(world: World, path: str, body: Mapping[str, Any] = BODY, **headers: str) -> str:
    """Makes a job through the drop-in. Returns its id."""
    answer = await world.api.post(path, json=body, headers={**ATTACHED, **headers})
    assert answer.status_code in (200, 202), answer.text
    assert "relay-job-not-recorded" not in answer.headers
    return str(answer.json()["webset" if path == WEBSETS else "item"]["id"])


async def step(world: World, job_id: str) -> dict[str, Any]:
    """Moves a job on to its next status. Returns its true life."""
    job: dict[str, Any] = (await world.sandbox.post(f"/_sandbox/jobs/{job_id}/step")).json()["job"]
    return job


async def truth(world: World) -> list[dict[str, Any]]:
    """The true lives of all jobs."""
    jobs: list[dict[str, Any]] = (await world.sandbox.get("/_sandbox/jobs")).json()["jobs"]
    return jobs


def posts(world: World) -> int:
    """Creates that the upstream got."""
    counts = world.upstream.state.request_counts.shown()["by_kind"]
    return sum(count for kind, count in counts.items() if kind.startswith("POST "))


def events_of(world: World, job_id: str) -> list[dict[str, Any]]:
    """The events of a job, each of which came once and in order."""
    found = [one.event for one in world.received.get("/events", []) if one.event["subject"] == job_id]
    assert len({event["id"] for event in found}) == len(found)
    assert [int(event["sequence"]) for event in found] == list(range(1, len(found) + 1))
    return found


def kinds(world: World, job_id: str) -> list[str]:
    return [event["type"].rpartition(".")[2] for event in events_of(world, job_id)]


@pytest.mark.parametrize("path", V2_CREATES)
async def test_job_is_tracked_from_its_create_to_its_end(tmp_path: Path, path: str) -> None:
    async with open_e2e_world(tmp_path, speed=BY_HAND) as world:
        await world.subscribe()
        job_id = await create(world, path)
        await world.until(lambda: kinds(world, job_id) == ["queued"])
        (job,) = await truth(world)
        expected = ["queued"]
        for one in job["transitions"][1:]:
            await step(world, job_id)
            state = "running" if one["status"] == "settling" else one["status"]
            if state != expected[-1]:
                expected.append(state)
            await world.until(lambda: kinds(world, job_id) == expected)
        (job,) = await truth(world)
        last = events_of(world, job_id)[-1]
        assert last["type"] == f"ai.revor.job.{job['final_item']['status']}"
        assert last["source"].endswith("/api/v2/jobs")
        assert last["data"]["job"]["billing"] == job["final_item"]["billing"]
        assert (last["data"]["metadata"], last["group"]) == ({"deal": 42}, "spring")
        assert last["time"] == job["final_item"]["finished_at"]
        shown = await world.shown(job_id)
        assert (shown["resource"], shown["outcome"]) == ("jobs_v2", job["final_item"]["status"])
        read = await world.api.get(f"/api/v2/jobs/{job_id}", headers=AUTH)
        assert (read.headers["relay-cache"], read.json()["item"]) == ("hit", job["final_item"])
        assert posts(world) == 1


async def test_create_that_waits_for_the_end_needs_no_poll(tmp_path: Path) -> None:
    async with open_e2e_world(tmp_path, speed=SPEED) as world:
        await world.subscribe()
        answer = await world.api.post(RESEARCH, json=BODY, headers={**ATTACHED, "Prefer": "wait=20"})
        item = answer.json()["item"]
        (job,) = await truth(world)
        assert (answer.status_code, item) == (200, job["final_item"])
        await world.until(lambda: kinds(world, item["id"])[-1:] == [item["status"]])
        assert events_of(world, item["id"])[-1]["data"]["job"]["billing"] == item["billing"]
        assert world.upstream.state.request_counts.job_reads == 0
        assert posts(world) == 1


async def test_lost_answer_is_listed_and_its_repeat_finds_the_job(tmp_path: Path) -> None:
    async with open_e2e_world(tmp_path, speed=SPEED) as world:
        await world.subscribe()
        await world.fault("timeout", method="POST", count=1, hold_seconds=0)
        named = {"Idempotency-Key": "one"}
        lost = await world.api.post(RESEARCH, json=BODY, headers={**ATTACHED, **named})
        assert lost.status_code == 502
        assert (len(await truth(world)), posts(world)) == (1, 1)
        assert len((await world.api.get("/v1/intents")).json()["items"]) == 1
        job_id = await create(world, RESEARCH, **named)
        (job,) = await truth(world)
        assert job["id"] == job_id
        await world.until(lambda: kinds(world, job_id)[-1:] == [job["final_item"]["status"]])


@pytest.mark.parametrize(
    ("limits", "status", "code"),
    [
        ({"available_credits": 0}, 402, "insufficient_credits"),
        ({"max_open_jobs": 0}, 429, "external_api_job_concurrency_limit_exceeded"),
    ],
)
async def test_refused_create_is_answered_as_it_is_and_leaves_nothing(
    tmp_path: Path, limits: dict[str, int], status: int, code: str
) -> None:
    async with open_e2e_world(tmp_path) as world:
        await world.sandbox.post("/_sandbox/credits", json={"account": "test", **limits})
        refused = await world.api.post(RESEARCH, json=BODY, headers=ATTACHED)
        assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
        assert ("retry-after" in refused.headers) is (status == 429)
        assert (await world.api.get("/v1/intents")).json()["items"] == []
        assert (await world.api.get("/v1/jobs")).json()["items"] == []
        assert posts(world) == 1


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("429", []),
        ("503", []),
        ("malformed_json", []),
        ("truncated", []),
        ("unknown_status", ["status_unknown", "running"]),
        ("status_back", ["queued", "running"]),
    ],
)
async def test_faulty_reads_lose_no_event_and_repeat_none(tmp_path: Path, kind: str, more: list[str]) -> None:
    async with open_e2e_world(tmp_path, speed=BY_HAND) as world:
        await world.subscribe()
        job_id = await create(world, RESEARCH)
        await step(world, job_id)
        await world.until(lambda: kinds(world, job_id) == ["queued", "running"])
        await world.fault(kind, count=3, method="GET", path_prefix="/api/v2/jobs/")

        async def is_over() -> bool:
            return not (await world.sandbox.get("/_sandbox/faults")).json()["faults"][0]["active"]

        await world.until(is_over)
        seen = ["queued", "running", *more]
        await world.until(lambda: kinds(world, job_id) == seen)
        (job,) = await truth(world)
        assert not job["finished"]
        for _ in job["transitions"]:
            await step(world, job_id)
        (job,) = await truth(world)
        await world.until(lambda: kinds(world, job_id) == [*seen, job["final_item"]["status"]])


@pytest.mark.parametrize("ahead_seconds", [-3600.0, 3600.0])
async def test_wrong_clock_of_the_upstream_changes_no_event(tmp_path: Path, ahead_seconds: float) -> None:
    def clock() -> float:
        return wall_clock() + ahead_seconds

    async with open_e2e_world(tmp_path, speed=BY_HAND, upstream_clock=clock) as world:
        await world.subscribe()
        job_id = await create(world, RESEARCH)
        await world.until(lambda: kinds(world, job_id) == ["queued"])
        await step(world, job_id)
        await world.until(lambda: kinds(world, job_id) == ["queued", "running"])
        lives = [await step(world, job_id) for _ in range(2)]
        end = lives[-1]["final_item"]["status"]
        await world.until(lambda: kinds(world, job_id) == ["queued", "running", end])


# --- websets


def stages(world: World, job_id: str) -> list[str]:
    """The kinds of its events, without progress."""
    return [kind for kind in kinds(world, job_id) if kind != "progress"]


async def test_webset_is_tracked_from_its_create_to_its_end(tmp_path: Path) -> None:
    async with open_e2e_world(tmp_path, speed=BY_HAND) as world:
        await world.subscribe()
        job_id = await create(world, WEBSETS)
        await world.until(lambda: stages(world, job_id) == ["running"])
        (job,) = await truth(world)
        for _ in job["transitions"][1:]:
            job = await step(world, job_id)
        end = job["final_item"]["status"]
        await world.until(lambda: stages(world, job_id) == ["running", end])
        last = events_of(world, job_id)[-1]
        outcome = "succeeded" if end == "completed" else end
        assert (last["type"], last["data"]["status"]) == (f"ai.revor.webset.{end}", outcome)
        assert last["source"].endswith(WEBSETS)
        assert last["data"]["job"]["progress"] == job["final_item"]["progress"]
        assert (last["data"]["metadata"], last["group"]) == ({"deal": 42}, "spring")
        shown = await world.shown(job_id)
        assert (shown["resource"], shown["outcome"]) == ("websets", outcome)
        read = await world.api.get(f"{WEBSETS}/{job_id}", headers=AUTH)
        assert (read.headers["relay-cache"], read.json()["item"]) == ("hit", job["final_item"])
        assert posts(world) == 1


async def test_each_stage_of_a_webset_is_told_once(tmp_path: Path) -> None:
    async with open_e2e_world(tmp_path, speed=BY_HAND) as world:
        await world.subscribe()
        job_id = await create(world, WEBSETS)
        told: list[str] = []
        while True:
            item = (await world.sandbox.get(f"{WEBSETS}/{job_id}", headers=AUTH)).json()["item"]
            if item["status"] not in ("generating_criteria", "searching", "verifying"):
                break
            told.append(item["progress"]["stage"])
            expected = ["running", *["progress"] * len(told)]
            await world.until(lambda expected=expected: kinds(world, job_id) == expected)  # type: ignore[misc]
            await step(world, job_id)
        await world.until(lambda: kinds(world, job_id) == [*expected, item["status"]])
        events = [event for event in events_of(world, job_id) if event["type"].endswith(".progress")]
        assert [event["data"]["job"]["progress"]["stage"] for event in events] == told
        assert told == ["generating_criteria", "searching", "verifying"]


@pytest.mark.parametrize("kind", ["503", "malformed_json", "status_back"])
async def test_faulty_reads_of_a_webset_lose_no_event(tmp_path: Path, kind: str) -> None:
    async with open_e2e_world(tmp_path, speed=BY_HAND) as world:
        await world.subscribe()
        job_id = await create(world, WEBSETS)
        await step(world, job_id)
        await world.until(lambda: stages(world, job_id) == ["running"])
        await world.fault(kind, count=3, method="GET", path_prefix=WEBSETS)
        (job,) = await truth(world)
        for _ in job["transitions"]:
            job = await step(world, job_id)
        await world.until(lambda: stages(world, job_id) == ["running", job["final_item"]["status"]])


async def test_jobs_of_every_kind_end_by_themselves_in_one_group(tmp_path: Path) -> None:
    creates = {DISPATCH_PATH: campaign_body(0, {}), RESEARCH: BODY, WEBSETS: BODY}
    async with open_e2e_world(tmp_path, speed=2000) as world:
        await world.subscribe()
        ids = [await create(world, path, body) for path, body in creates.items()]
        lives = {job["id"]: job for job in await truth(world)}
        assert list(lives) == ids
        for job_id in ids:
            end = lives[job_id]["final_item"]["status"]
            await world.until(lambda job_id=job_id, end=end: kinds(world, job_id)[-1:] == [end])  # type: ignore[misc]
        group = (await world.api.get("/v1/groups/spring")).json()
        assert sum(group["counts"].values()) == posts(world) == 3
