"""Filters that a node cannot read, found in the database at its start or written by another node while it runs: their
subscription is paused, and none of its events is lost."""

from dataclasses import replace
from pathlib import Path

import pytest

from relay.config.keyring import new_key
from relay.core.subscriptions.filters import UNREADABLE
from tests.support.e2e_world import World, open_e2e_world

OLD = ({"cel": "data.metadata.deal > 40"},)
CORRECTED = [{"range": {"/data/metadata/deal": {"gt": 40}}}]


async def write_old_filters(world: World) -> None:
    """Stores them as an older version does."""
    store = world.node.store
    (found,) = await store.subscriptions.all()
    await store.subscriptions.replace(replace(found, filters=OLD), 0.0)


async def paused(world: World, id: str) -> bool:
    shown = (await world.api.get(f"/v1/subscriptions/{id}")).json()
    return shown["state"] == "paused" and shown["state_reason"].startswith(UNREADABLE)


@pytest.mark.parametrize("found", ["at the start", "while it runs"])
async def test_old_filters_pause_their_subscription_and_no_event_is_lost(tmp_path: Path, found: str) -> None:
    key = new_key()
    async with open_e2e_world(tmp_path, encryption_key=key) as world:
        await world.subscribe()
        if found == "at the start":
            await write_old_filters(world)
    async with open_e2e_world(tmp_path, encryption_key=key) as world:
        store = world.node.store
        (made,) = await store.subscriptions.all()
        path = f"/v1/subscriptions/{made.id}"
        if found == "while it runs":
            await write_old_filters(world)
            world.node.signals.deliveries_due()
            assert (await world.api.post(f"{path}/resume")).status_code == 409
        large, small = await world.job(metadata={"deal": 50}), await world.job(metadata={"deal": 7})
        for job in (large, small):
            await world.until(lambda job=job: ended(world, job))
        await world.until(lambda: paused(world, made.id))
        assert world.received == {}

        # The receiver has moved: each world has its own.
        body = {"sink": f"{world.receiver_url}/events", "filters": CORRECTED}
        assert (await world.api.put(path, json=body)).json()["state"] == "paused"
        assert (await world.api.post(f"{path}/resume")).json()["state"] == "enabled"
        await world.until(lambda: "succeeded" in world.kinds(large))
        assert world.kinds(small) == []
        answer = await world.api.get("/v1/deliveries", params={"state": "cancelled", "reason": "filtered"})
        assert {one["subscription_id"] for one in answer.json()["items"]} == {made.id}


async def ended(world: World, job: str) -> bool:
    return bool((await world.shown(job))["status"] == "succeeded")
