"""Incidents through a whole node: jobs of a broken account, a channel of people, and a program."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.e2e_world import World, open_e2e_world

CODE = "connect_account_reconnect_required"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_e2e_world(tmp_path) as world:
        yield world


async def test_people_get_one_message_and_programs_every_failure(world: World) -> None:
    await world.subscribe("/slack", config={"kind": "slack"})
    await world.subscribe("/events", types=["failed"])

    ids = [await world.job(final="failed", error_code=CODE, channel="linkedin")]
    await world.until(lambda: len(world.received.get("/slack", [])) == 1)
    ids += [await world.job(final="failed", error_code=CODE, channel="linkedin") for _ in range(4)]
    await world.until(lambda: len(world.received.get("/events", [])) == len(ids))

    (message,) = world.received["/slack"]
    assert message.event["text"].startswith("1 LinkedIn job failed: the account needs reconnecting")
    (incident,) = (await world.api.get("/v1/incidents")).json()["items"]
    assert (incident["failed"], incident["code"], incident["who"]) == (5, CODE, "account owner")
    jobs = (await world.api.get(f"/v1/incidents/{incident['id']}/jobs?repeat=safe")).json()["items"]
    assert {job["id"] for job in jobs} == set(ids)
    collapsed = (await world.api.get("/v1/deliveries?state=cancelled")).json()["items"]
    assert {one["reason"] for one in collapsed} == {f"incident {incident['id']}"}
    assert len(collapsed) == len(ids)
    assert world.metric("relay_events_total", type="relay.incident.opened") == 1
    assert world.node.dispatcher.slots.in_flight == 0, "no slot is held for a delivery that was collapsed"


async def test_slots_reserved_for_a_collapsed_delivery_are_free_again(world: World) -> None:
    await world.subscribe("/slack", config={"kind": "slack", "rate_per_second": 100})
    for _ in range(12):
        await world.job(final="failed", error_code=CODE)
    await world.until(lambda: len(world.received.get("/slack", [])) == 2)  # opened, and grown to ten

    await world.job(final="failed", error_code="insufficient_credits")

    await world.until(lambda: len(world.received["/slack"]) == 3)
    assert "too few credits" in world.received["/slack"][-1].event["text"]
