"""Upkeep of a whole node: retention with the settings' days, and the database gauges."""

import time
from pathlib import Path

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
