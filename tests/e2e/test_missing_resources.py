"""Jobs of a resource or a source that the settings no longer have: they are shown, not polled, and said once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from relay.config.keyring import new_key
from relay.core.jobs.job import detect
from relay.core.jsontext import dumps
from relay.testing import FakeClock
from tests.e2e.test_dropin_sources import STILL
from tests.support.e2e_world import ROLES, World, open_e2e_world
from tests.support.mount_world import DEFINITION, open_mine

FIRST = DEFINITION["resources"]["jobs"]
OTHER = {
    **FIRST,
    "type_prefix": "com.mine.run.job",
    "path": "/v1/runs/{id}",
    "creates": [],
    "problem": {"at": "/error"},
}
ONE: dict[str, Any] = {"problem": {"at": "/error"}}
BOTH: dict[str, Any] = {**ONE, "resources": {"runs": OTHER}}


async def register(world: World, *resources: str) -> None:
    for resource in resources:
        body = {"id": resource, "source": "mine", "resource": resource, "deadline_seconds": 60}
        assert (await world.api.post("/v1/jobs", json=body)).status_code == 201


async def check(world: World, id: str, reason: str, code: str) -> None:
    """The job in every place that shows one."""
    listed = (await world.api.get("/v1/jobs?source=mine")).json()["items"]
    job = next(one for one in listed if one["id"] == id)
    assert (job["open"], job["poll_count"]) == (True, 0)
    explained = await world.api.get(f"/v1/jobs/{job['uid']}/explain")
    assert (explained.status_code, explained.json()["reason"], explained.json()["next_poll_at"]) == (200, reason, None)
    assert explained.json()["sentence"].endswith("it is not polled.")
    for path in (f"/v1/jobs/{id}?source=mine", f"/v1/jobs/{job['uid']}/events", f"/ui/jobs/{job['uid']}", "/ui/jobs"):
        assert (await world.api.get(path)).status_code == 200, path
    waited = await world.api.get(f"/v1/jobs/{job['uid']}", headers={"Prefer": "wait=0"})
    assert waited.status_code == 200
    refreshed = await world.api.post(f"/v1/jobs/{job['uid']}/refresh")
    assert (refreshed.status_code, refreshed.json()["code"]) == (409, code)
    assert explained.json()["sentence"] in (await world.api.get(f"/ui/jobs/{job['uid']}")).text


async def upkeep(world: World, *names: str) -> None:
    for work in world.node._upkeep():
        if work.name in names:
            await work.run()


@pytest.fixture
def options() -> Mapping[str, Any]:
    return {**STILL, "clock": FakeClock(), "encryption_key": new_key()}


async def test_job_of_a_missing_resource(
    tmp_path: Path, options: Mapping[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_mine(tmp_path, BOTH, **options) as (world, _):
        await register(world, "jobs", "runs")
    capsys.readouterr()
    async with open_mine(tmp_path, ONE, **options) as (world, stub):
        await check(world, "runs", "resource_missing", "resource_missing")
        options["clock"].advance(3_600)
        poller = world.node.pollers["mine", "default"]
        for _ in range(3):
            await poller.load()
            await poller.run_once()
            await poller.drain()
        assert {one.target.partition(b"?")[0] for one in stub.received} == {b"/v1/jobs/jobs"}
        assert poller.state.state == "ok", "nothing is wrong with the upstream"
        assert len(poller.agenda.unplanned) == 1
        await upkeep(world, "deadlines")
        events = (await world.node.store.events.tail(0)).events
        assert {event.subject for _, event in events} == {"jobs"}, "an event would have the types of another resource"
        said = capsys.readouterr().out
        assert said.count("resource_missing") == 1
        assert "Traceback" not in said
        again = await world.api.post("/v1/jobs", json={"id": "runs", "source": "mine", "resource": "runs"})
        assert (again.status_code, again.json()["errors"][0]["code"]) == (422, "unknown_resource")
        ended = await world.api.delete("/v1/jobs/runs?source=mine&resource=runs")
        assert (ended.status_code, ended.json()["outcome"]) == (200, "untracked")
        assert not poller.agenda.unplanned
    async with open_mine(tmp_path, BOTH, **options) as (world, stub):
        await world.api.post("/v1/jobs", json={"id": "runs", "source": "mine", "resource": "runs"})
        options["clock"].advance(60)
        poller = world.node.pollers["mine", "default"]
        await poller.run_once()
        await poller.drain()
        assert b"/v1/runs/runs" in {one.target for one in stub.received}, "it is polled again"


async def test_ended_job_of_a_missing_resource_is_read_by_no_rule_of_another(
    tmp_path: Path, options: Mapping[str, Any]
) -> None:
    async with open_mine(tmp_path, BOTH, **options) as (world, _):
        await register(world, "runs")
        (job,) = await world.node.store.jobs.find("runs")
        item = {"id": "runs", "state": "lost", "error": {"code": "boom", "message": "It broke"}}
        client = world.node._accounts.clients["mine"]
        seen = client.read(
            "runs", "runs", status_code=200, headers={}, body=dumps(item), api_key="k", sent_at=options["clock"]()
        ).observation
        assert seen is not None
        transitions, progress = detect(job.progress, seen)
        await world.node.pollers["mine", "default"].poll_handler.record(
            job, transitions, progress, seen=seen, poll_count=0, outcome="failed"
        )
        shown = (await world.api.get("/v1/jobs/runs?source=mine")).json()
        assert shown["problem"]["code"] == "boom"
    async with open_mine(tmp_path, ONE, **options) as (world, _):
        shown = (await world.api.get("/v1/jobs/runs?source=mine")).json()
        assert (shown["outcome"], shown["resource"], shown["problem"]) == ("failed", "runs", None)
        assert shown["upstream"] == item
        for path in (f"/v1/jobs/{shown['uid']}/explain", f"/ui/jobs/{shown['uid']}"):
            assert (await world.api.get(path)).status_code == 200, path


async def test_job_of_a_missing_source(
    tmp_path: Path, options: Mapping[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_mine(tmp_path, **options) as (world, _):
        await register(world, "jobs")
    async with open_e2e_world(tmp_path, **{**options, "roles": ROLES}) as world:
        assert capsys.readouterr().out.count("account_missing") == 1
        await check(world, "jobs", "account_missing", "account_missing")
        options["clock"].advance(3_600)
        await upkeep(world, "deadlines")
        assert (await world.node.store.events.tail(0)).events == []
        ended = await world.api.delete("/v1/jobs/jobs?source=mine")
        assert (ended.status_code, ended.json()["outcome"]) == (200, "untracked")
