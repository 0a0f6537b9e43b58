"""A create that the upstream accepted is tracked, whatever cannot be written beside its job."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import text

from relay.clock import wall_clock
from relay.errors import StoreError
from relay.proxy import unrecorded
from relay.store.jobs import groups as job_groups
from tests.support.dropin_requests import DISPATCH, DISPATCHES
from tests.support.e2e_world import KEY, World, open_e2e_world
from tests.support.store_databases import emptied_postgres
from tests.support.store_kit import intent

REFUSED = text("SELECT * FROM no_table_of_this_name")


@pytest.fixture(params=["sqlite", "postgresql"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    url = None if request.param == "sqlite" else await asyncio.to_thread(emptied_postgres)
    async with asyncio.timeout(300), open_e2e_world(tmp_path, database_url=url) as world:
        yield world


async def create(world: World, key: str, **headers: str) -> httpx2.Response:
    sent = {"Authorization": f"Bearer {KEY}", "Idempotency-Key": key, "Relay-Metadata": '{"deal": 42}', **headers}
    return await world.api.post(DISPATCHES, json=DISPATCH, headers=sent)


async def intents(world: World) -> list[Any]:
    """All of them, those in flight too."""
    found = await world.node.store.database.read(
        lambda connection: connection.execute(text("SELECT id FROM intents")).all()
    )
    return list(found)


async def test_create_whose_group_cannot_be_written_is_tracked_without_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(job_groups, "LOCK_GROUPS", {"sqlite": REFUSED, "postgresql": REFUSED})
        attached = {"Relay-Group": "Q4", "Relay-Callback": f"{world.receiver_url}/events"}
        answer = await create(world, "one", **attached)
        assert answer.status_code == 202, answer.text
        assert answer.headers["relay-not-attached"].startswith('group;reason="the database refused a write')
        assert "relay-job-not-recorded" not in answer.headers
        id = answer.json()["item"]["id"]
        job = await world.shown(id)
        assert (job["metadata"], job["group"]) == ({"deal": 42}, None)
        assert await intents(world) == []
        await world.until(lambda: "succeeded" in world.kinds(id))

        alone = await world.api.post("/v1/jobs", json={"id": "another", "group": "Q4"})
        assert (alone.status_code, alone.json()["code"]) == (503, "store")

    again = await create(world, "one", **attached)  # the upstream answers with the same job
    assert again.json()["item"]["id"] == id
    assert "relay-not-attached" not in again.headers
    assert (await world.shown(id))["group"] == "Q4"


async def test_create_that_cannot_be_recorded_is_named_and_recorded_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unrecorded, "AGAIN_SECONDS", 0.01)
    register_many = world.node.store.jobs.register_many

    async def away(registrations: Any) -> Any:
        raise StoreError("the database cannot be written")

    monkeypatch.setattr(world.node.store.jobs, "register_many", away)
    answer = await create(world, "one", **{"Relay-Group": "Q4", "Relay-Callback": f"{world.receiver_url}/events"})
    id = answer.json()["item"]["id"]
    assert (answer.status_code, answer.headers["relay-job-not-recorded"]) == (202, id)
    assert "relay-not-attached" not in answer.headers
    assert len(await intents(world)) == 1
    assert (await world.api.get(f"/v1/jobs/{id}")).status_code == 404

    monkeypatch.setattr(world.node.store.jobs, "register_many", register_many)
    await world.until(lambda: "succeeded" in world.kinds(id))
    job = await world.shown(id)
    assert (job["metadata"], job["group"]) == ({"deal": 42}, "Q4")
    assert await intents(world) == []


async def test_end_of_the_relay_records_what_the_database_accepts_by_then(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_many = world.node.store.jobs.register_many
    failed = 0

    async def away_at_first(registrations: Any) -> Any:
        nonlocal failed
        failed += 1
        if not world.node.stopping:
            raise StoreError("the database cannot be written")
        return await register_many(registrations)

    monkeypatch.setattr(world.node.store.jobs, "register_many", away_at_first)
    answer = await create(world, "one")
    assert failed > 0
    await world.node.begin_stop()
    await world.node.dropin.stop(world.settings.server.shutdown_seconds)
    id = answer.json()["item"]["id"]
    assert [job.external_id for job in await world.node.store.jobs.find(id)] == [id]
    assert await intents(world) == []


async def test_create_resolved_as_sent_is_tracked_without_what_cannot_be_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = world.node.store
    one = intent(wall_clock(), group="Q4", callback_url=f"{world.receiver_url}/events", metadata={"deal": 42})
    await store.intents.begin(one)
    await store.intents.unknown(one.id, "no_answer")
    monkeypatch.setattr(job_groups, "LOCK_GROUPS", {"sqlite": REFUSED, "postgresql": REFUSED})
    body = {"fate": "sent", "job_id": "made"}
    answer = await world.api.post(f"/v1/intents/{one.id}/resolve", json=body)
    assert (answer.status_code, answer.json()["fate"], answer.json()["job_id"]) == (200, "sent", "made")
    assert answer.headers["relay-not-attached"].startswith('group;reason="')
    job = await world.shown("made")
    assert (job["metadata"], job["group"]) == ({"deal": 42}, None)
    assert (await world.api.get("/v1/intents")).json()["items"] == []
    assert (await world.api.post(f"/v1/intents/{one.id}/resolve", json=body)).status_code == 409
