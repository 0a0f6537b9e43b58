"""Incidents through a whole node: jobs of a broken account, a channel of people, and a program."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.cli.demo.environment import listen, served, url_of
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


async def test_alert_resolves_although_its_service_failed_when_the_incident_opened(world: World) -> None:
    """As with PagerDuty: a trigger and a resolve with one key, of which the last one counts."""
    asked: list[tuple[str, str]] = []
    alerts: dict[str, str] = {}

    async def take(request: Request) -> Response:
        if request.url.path == "/gone":  # until a person resumes it
            return Response(status_code=202 if asked else 410)
        alert = await request.json()
        asked.append((alert["dedup_key"], alert["event_action"]))
        world.node.signals.event_recorded()
        if len(asked) == 1:
            return Response(status_code=503)
        alerts[alert["dedup_key"]] = alert["event_action"]
        return Response(status_code=202)

    service = Starlette(routes=[Route("/{path:path}", take, methods=["POST"])])
    with contextlib.closing(listen()) as socket:
        async with served(service, socket):
            url = url_of(socket)
            await subscribe(
                world,
                sink=f"{url}/alerts",
                types=["relay.incident.opened", "relay.incident.closed"],
                config={"template": ALERT, "retry_schedule": ["2s"]},
            )
            gone = await subscribe(world, sink=f"{url}/gone", types=["succeeded"])
            await world.job()
            await world.until(lambda: len(asked) == 1)
            answer = await world.api.post(f"/v1/subscriptions/{gone}/resume")
            assert answer.status_code == 200, answer.text
            await world.until(lambda: len(asked) == 3)
    (incident,) = {key for key, _ in asked}
    assert [action for _, action in asked] == ["trigger", "trigger", "resolve"]
    assert alerts == {incident: "resolve"}


ALERT = {
    "event_action": "{% if event.type == 'relay.incident.closed' %}resolve{% else %}trigger{% endif %}",
    "dedup_key": "{{ event.subject }}",
}


async def subscribe(world: World, **body: object) -> str:
    answer = await world.api.post("/v1/subscriptions", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])
