"""A sink is down until its deliveries are dead; one command resends them, even if the relay is killed meanwhile.

The command is the README's, with another subscription id.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from tests.support.process_world import Process
from tests.support.relay_world import SETTINGS, RelayWorld, open_relay_world
from tests.support.typed import blocks, prompts, section, shell_path, with_places

JOBS = 30
CONCURRENCY = 8
SHORT = "  retry_schedule: [0.05s, 0.05s]"
SAID = "sub_01jvpq3m8n0000000000000002"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RelayWorld]:
    async with open_relay_world(tmp_path) as world:
        schedule = next(line for line in SETTINGS.splitlines() if "retry_schedule" in line)
        world.settings(SETTINGS.replace(schedule, SHORT))
        await world.serve()
        yield world


def typed(world: RelayWorld, subscription_id: str) -> Process:
    """The README's command for a day's undelivered events."""
    (line,) = prompts(blocks(section("README.md", "7. Send a day again"), "console")[0])
    path = shell_path(world.folder)
    line = with_places(line, {SAID: subscription_id})
    return world.start(line, program=("bash", "-c"), PATH=path, RELAY_URL=world.url)


async def outage(world: RelayWorld) -> tuple[str, dict[str, list[str]]]:
    """Every delivery of some jobs is dead. Returns the subscription, and by job the ids of their events in order."""

    async def down(_request: Request) -> Response:
        return PlainTextResponse("down", 500)

    world.answering = down
    subscription_id = str((await world.subscribe(config={"concurrency": CONCURRENCY}))["id"])
    jobs = [await world.job() for _ in range(JOBS)]
    events: dict[str, list[str]] = {}
    for job_id in jobs:

        async def closed(job_id: str = job_id) -> bool:
            return not (await world.get(f"/v1/jobs/{job_id}"))["open"]

        await world.until(closed)
        page = await world.get(f"/v1/jobs/{job_id}/events?limit=500")
        events[job_id] = [event["id"] for event in page["items"]]

    async def none_pending() -> bool:
        return not (await world.get("/v1/deliveries?state=pending"))["items"]

    await world.until(none_pending, "they do not die")
    assert world.received == []
    return subscription_id, events


def came(world: RelayWorld, events: dict[str, list[str]]) -> dict[str, list[str]]:
    """What came of these jobs, each id once, in the order in which it first came."""
    found: dict[str, list[str]] = {job_id: [] for job_id in events}
    for event in world.received:
        ids = found.get(event["subject"])
        if ids is not None and event["id"] not in ids:
            ids.append(event["id"])
    return found


async def test_one_command_replays_a_day_s_undelivered_events(world: RelayWorld) -> None:
    subscription_id, events = await outage(world)
    world.answering = _ok
    process = typed(world, subscription_id)
    assert await asyncio.to_thread(process.close) == 0, process.lines
    total = sum(map(len, events.values()))
    assert process.lines[-1].endswith(f" is done: {total:,} of {total:,} delivered")
    assert came(world, events) == events
    assert Counter(event["id"] for event in world.received).most_common(1)[0][1] == 1
    code, lines = await world.run("subscriptions", "replay", subscription_id, "--since", "1d")
    assert (code, lines) == (0, ["there is nothing to send again"])


async def _ok(_request: Request) -> Response:
    return PlainTextResponse("ok")
