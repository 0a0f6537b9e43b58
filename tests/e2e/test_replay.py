"""A sink is down until its deliveries are dead; one command resends them, even if the relay is killed meanwhile.

The command is the README's, with another subscription id.
"""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from tests.support.process_world import Process
from tests.support.relay_world import SETTINGS, RelayWorld, open_relay_world
from tests.support.typed import blocks, prompts, section, shell_path, with_places

JOBS = 30
HELD = 4
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


async def test_killed_replay_continues_while_new_events_arrive(world: RelayWorld) -> None:
    subscription_id, events = await outage(world)
    old = {event_id for ids in events.values() for event_id in ids}
    let_go, held = asyncio.Event(), set[str]()

    async def holding(request: Request) -> Response:
        """Does not answer to some of what is sent again, until the relay is gone."""
        event: dict[str, Any] = await request.json()
        if event["id"] in old and not let_go.is_set() and (len(held) < HELD or event["id"] in held):
            held.add(event["id"])
            await let_go.wait()
            return PlainTextResponse("nobody listens", 500)
        return PlainTextResponse("ok")

    world.answering = holding
    process = typed(world, subscription_id)
    await world.until(lambda: len(held) == HELD and len(world.received) >= HELD, "nothing is sent again")
    fresh = await world.job()
    await world.until_delivered([fresh])
    status = (await world.get(f"/v1/deliveries?subscription={subscription_id}&state=pending"))["items"]
    assert status, "all was sent before it could be killed"

    port = world.url.rpartition(":")[2]
    await world.end(signal.SIGKILL)
    let_go.set()
    await world.serve("--port", port)  # the command asks again where it asked before
    later = await world.job()
    assert await asyncio.to_thread(process.close) == 0, process.lines
    await world.until_delivered([later])
    assert came(world, events) == events
    counts = Counter(event["id"] for event in world.received)
    # in flight when it was killed: accepted by the sink, and not yet recorded
    assert sum(count - 1 for count in counts.values()) <= 2 * CONCURRENCY
    assert max(counts.values()) <= 2


async def test_dead_deliveries_are_retried_by_a_filter(world: RelayWorld) -> None:
    subscription_id, events = await outage(world)
    world.answering = _ok
    code, lines = await world.run("deliveries", "retry", "--reason", "http_404", "--wait")
    assert (code, lines[-1].endswith("0 of 0 delivered")) == (0, True)
    code, lines = await world.run("deliveries", "retry", "--reason", "http_500", "--type", "succeeded", "--wait")
    assert code == 0
    assert came(world, events) == {job_id: ids[-1:] for job_id, ids in events.items()}
    code, _ = await world.run("deliveries", "retry", "--state", "dead", "--subscription", subscription_id, "--wait")
    assert code == 0
    rest = {job_id: [ids[-1], *ids[:-1]] for job_id, ids in events.items()}
    assert came(world, events) == rest


async def test_replay_of_all_resends_delivered_events(world: RelayWorld) -> None:
    subscription_id = str((await world.subscribe())["id"])
    job_id = await world.job()
    await world.until_delivered([job_id])
    first = [event["id"] for event in world.received]
    for wanted, again in ((["--types", "succeeded"], first[-1:]), ([], first)):
        world.received.clear()
        options = ["--since", "1h", "--only", "all", "--wait", *wanted]
        code, _ = await world.run("subscriptions", "replay", subscription_id, *options)
        assert code == 0
        assert [event["id"] for event in world.received] == again


async def _ok(_request: Request) -> Response:
    return PlainTextResponse("ok")
