"""Two resources of one source, from a create through the drop-in to the event: each has its own path, rules and types,
and one budget."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from relay.cli.demo.environment import listen, served, url_of
from relay.sandbox.faults import FaultInjector
from relay.sandbox.limits import RequestCounts
from relay.sandbox.playback import Playback
from relay.sandbox.recorded import Calls, RecordedWorld, Recording
from relay.sources import definition
from tests.support.e2e_world import KEY, SPEED, World, open_e2e_world

AUTH = {"Authorization": f"Bearer {KEY}"}
FOLDER = Path(definition.__file__).parent / "replicate"
MOUNT = "/sources/replicate"
CREATES = {
    "predictions": "/v1/models/owner/name/predictions",
    "trainings": "/v1/models/owner/name/versions/v1/trainings",
}


def read(name: str) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load((FOLDER / name).read_text())
    return found


@pytest.fixture
def playback() -> Playback:
    return Playback(
        name="replicate",
        calls=Calls(read("definition.yaml")),
        world=RecordedWorld(recording=Recording.model_validate(read("answers.yaml")), speed=SPEED),
        faults=FaultInjector(),
        counts=RequestCounts(),
    )


@pytest.fixture
async def world(tmp_path: Path, playback: Playback) -> AsyncIterator[World]:
    with contextlib.closing(listen()) as at:
        async with (
            served(playback.app(), at),
            open_e2e_world(tmp_path, base_url=url_of(at), preset="replicate") as world,
        ):
            yield world


async def create(world: World, resource: str) -> str:
    """Makes a job through the drop-in. Returns its id."""
    answer = await world.api.post(f"{MOUNT}{CREATES[resource]}", json={"input": {}}, headers=AUTH)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def types_of(world: World, id: str) -> list[str]:
    events = (request.event for request in world.received.get("/events", []))
    return [event["type"] for event in events if event["subject"] == id]


async def test_a_create_is_tracked_as_a_job_of_its_resource(world: World) -> None:
    await world.subscribe()
    made = {resource: await create(world, resource) for resource in CREATES}
    for resource, id in made.items():
        noun = resource.removesuffix("s")

        async def ended(id: str = id) -> bool:
            return not (await world.shown(id))["open"]

        await world.until(ended)
        job = await world.shown(id)
        assert (job["source"], job["resource"]) == ("replicate", resource)
        assert job["outcome"] in ("succeeded", "failed", "cancelled")
        await world.until(lambda id=id, end=job["outcome"]: f"{noun}.job.{end}" in " ".join(types_of(world, id)))  # noqa: B023
        assert {type.rpartition(".")[0] for type in types_of(world, id)} == {f"com.replicate.{noun}.job"}


async def test_a_read_through_the_drop_in_is_of_the_resource_of_its_path(world: World, playback: Playback) -> None:
    id = await create(world, "trainings")

    async def ended() -> bool:
        return not (await world.shown(id))["open"]

    await world.until(ended)
    first, other = [
        await world.api.get(f"{MOUNT}/v1/{kind}/{id}", headers=AUTH) for kind in ("trainings", "predictions")
    ]
    again = await world.api.get(f"{MOUNT}/v1/trainings/{id}", headers=AUTH)
    assert [one.status_code for one in (first, other, again)] == [200, 404, 200]
    assert again.headers["relay-cache"] == "hit"
    assert again.json()["id"] == id


async def test_a_registered_job_is_polled_as_its_resource_says(world: World, playback: Playback) -> None:
    job = playback.world.create("trainings", playback.clock(), fate="succeeded")
    body = {"id": str(job.id), "source": "replicate", "resource": "trainings"}
    assert (await world.api.post("/v1/jobs", json=body)).status_code == 201

    async def succeeded() -> bool:
        return bool((await world.shown(str(job.id)))["outcome"] == "succeeded")

    await world.until(succeeded)


@pytest.mark.parametrize("resource", CREATES)
async def test_caller_waits_below_the_mount_and_streams_the_events(world: World, resource: str) -> None:
    """`Prefer: wait` holds the read of the upstream's own path until the job ends; a stream has its events in order."""
    id = await create(world, resource)
    path = f"{MOUNT}/v1/{resource}/{id}"
    events = f"/v1/jobs/{id}/events?source=replicate&resource={resource}"
    reading, streaming = (
        asyncio.create_task(world.api.get(url, headers=headers))
        for url, headers in (
            (path, {**AUTH, "Prefer": "wait=60"}),
            (events, {"Accept": "text/event-stream"}),
        )
    )
    read, streamed = await reading, await streaming
    assert read.status_code == 200
    status, outcome = read.json()["status"], (await world.shown(id))["outcome"]
    assert outcome == {"canceled": "cancelled", "aborted": "cancelled"}.get(status, status)
    assert read.json()["id"] == id
    assert streamed.headers["content-type"].startswith("text/event-stream")
    frames = [
        dict(line.split(": ", 1) for line in one.splitlines())
        for one in streamed.text.split("\n\n")
        if one and not one.startswith(":")
    ]
    found = [json.loads(frame["data"]) for frame in frames]
    prefix = f"com.replicate.{resource.removesuffix('s')}.job"
    assert [event["type"] for event in found] == [frame["event"] for frame in frames]
    assert {event["type"].rpartition(".")[0] for event in found} == {prefix}
    assert {(event["subject"], event["source"].endswith(f"/v1/{resource}")) for event in found} == {(id, True)}
    assert [event["sequence"] for event in found] == sorted(event["sequence"] for event in found)
    assert found[-1]["type"] == f"{prefix}.{outcome}"
    again = await world.api.get(path, headers={**AUTH, "Prefer": "wait=60"})
    assert (again.headers["relay-cache"], again.json()["status"]) == ("hit", status)
