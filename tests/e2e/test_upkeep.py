"""Upkeep of a whole node: retention with the settings' days, and the database gauges."""

import asyncio
import time
from pathlib import Path

import pytest

from relay.api.jobs import waiting as api_waiting
from relay.node.upkeep import DAY_SECONDS
from tests.support.e2e_world import World, open_e2e_world


async def upkeep(world: World, name: str) -> None:
    (work,) = (work for work in world.node._upkeep() if work.name == name)
    await work.run()


async def test_retention_deletes_delivered_events_after_a_month(tmp_path: Path) -> None:
    passed = [0.0]
    async with open_e2e_world(tmp_path, clock=lambda: time.time() + passed[0]) as world:
        await world.subscribe()
        job = await world.job()
        await world.until(lambda: "succeeded" in world.kinds(job))
        await world.node.stop()
        await upkeep(world, "measure")
        assert world.metric("relay_deliveries_pending") == 0.0
        assert world.metric("relay_database_bytes") == await world.node.store.database.size_bytes() > 0

        passed[0] = 29 * DAY_SECONDS
        await upkeep(world, "retention")
        assert world.metric("relay_retention_deleted_total", what="events") == 0.0
        assert world.metric("relay_retention_deleted_total", what="attempts") > 0.0
        assert (await world.api.get("/v1/events")).json()["items"] != []

        passed[0] = 31 * DAY_SECONDS
        await upkeep(world, "orphans")
        await upkeep(world, "retention")
        assert world.metric("relay_retention_deleted_total", what="jobs") == 1.0
        assert (await world.api.get("/v1/events")).json()["items"] == []
        assert (await world.api.get(f"/v1/jobs/{job}")).status_code == 404


async def test_group_that_has_settled_is_told_and_wakes_who_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_waiting, "GROUP_SLICE_SECONDS", 600.0)  # only a signal ends the wait
    passed = [0.0]
    async with open_e2e_world(tmp_path, clock=lambda: time.time() + passed[0]) as world:
        await world.subscribe(types=["relay.group.finished"])
        job = await world.job()
        await world.api.post("/v1/jobs", json={"id": job, "group": "q4"})
        assert (await world.api.get(f"/v1/jobs/{job}", headers={"Prefer": "wait=60"})).json()["outcome"] == "succeeded"
        await upkeep(world, "groups")
        assert (await world.api.get("/v1/groups/q4")).json()["state"] == "open"

        passed[0] = world.node.settings.groups.settle_seconds
        waiting = asyncio.ensure_future(world.api.get("/v1/groups/q4", headers={"Prefer": "wait=60"}))
        (group,) = await world.node.store.groups.find("q4")
        while group.id not in world.node.signals._watches:  # noqa: ASYNC110 (nothing signals that)
            await asyncio.sleep(0)
        await upkeep(world, "groups")
        assert (await waiting).json()["state"] == "finished", "it was not signalled"
        await world.until(lambda: world.kinds() == ["relay.group.finished"])
        assert world.metric("relay_events_total", type="relay.group.finished") == 1.0
