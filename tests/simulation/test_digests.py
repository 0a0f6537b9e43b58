"""Messages of a Slack channel with the dispatcher on a real database: digests, the cap, and what is told at once."""

import re
from typing import Any

import orjson

from relay.core.deliveries.delivery import Response
from relay.core.events.event import relay_event
from relay.node import upkeep
from tests.simulation.test_replay_life import replay
from tests.support.simulation_world import World, open_world, seen
from tests.support.slack_check import check_message
from tests.support.store_kit import rows

TYPES = ("test.job.cancelled", "relay.source.down", "relay.incident.opened", "relay.group.finished")


def answer(world: World, status_code: int = 200, body: bytes = b"ok") -> Response:
    return Response(started_at=world.clock(), duration_ms=1.0, status_code=status_code, excerpt=body)


async def channel(world: World, **options: Any) -> str:
    world.sink.answers[0] = answer(world)
    sink = "https://hooks.slack.com/services/T0/B0/one"
    made = await world.subscribe(sink=sink, kind="slack", types=TYPES, options=options)
    return made.id


async def cancel(world: World, count: int, name: str = "job") -> None:
    """So many jobs are cancelled within a few seconds, before anything is delivered."""
    for number in range(count):
        await world.register(f"{name} {number}", seen("cancelled"))
    for _ in range(3):
        world.clock.advance(1.0)
        await world.poller.run_once()
        await world.poller.drain()


async def tell(world: World, type: str, subject: str = "inc_01jvpq0000000000000000000f") -> None:
    data = {"what": "12 jobs failed"} if "incident" in type else {"group": "q4"}
    event = relay_event(
        f"evt_{type}_{subject}", type, world.clock(), data, dataschema="http://x/s.json", subject=subject
    )
    await world.store.events.record(event)
    world.signals.deliveries_due()


async def pass_time(world: World, seconds: int) -> None:
    for _ in range(seconds):
        world.clock.advance(1.0)
        await world.deliver()


def messages(world: World) -> list[str]:
    """The first line of each message, without the time span."""
    lines = [check_message(request.body)["text"].split("\n")[0] for request in world.sink.requests]
    return [re.sub(r" in \d+ \w+:", ":", line) for line in lines]


async def test_replay_of_83_events_is_one_message(tmp_path):
    async with open_world(tmp_path) as world:
        await cancel(world, 83)
        subscription_id = await channel(world)
        made = await replay(world, subscription_id)
        for _ in range(20):
            world.clock.advance(1.0)
            await upkeep.replays(world.dispatcher.shared)
            await world.deliver()
        assert messages(world) == ["83 events: 83 cancelled"]
        found = await world.store.replays.get(made.id)
        assert (found.state, found.delivered) == ("done", 83)


async def test_digest_is_one_message_for_what_came_within_its_time(tmp_path):
    async with open_world(tmp_path) as world:
        await channel(world, digest_seconds=300)
        await cancel(world, 2, "early")
        await pass_time(world, 100)
        await cancel(world, 1, "later")
        await pass_time(world, 190)
        assert messages(world) == []
        await world.restart()  # what waits is in the database
        await pass_time(world, 9)
        assert messages(world) == ["3 events: 3 cancelled"]
        await cancel(world, 1, "next")
        await pass_time(world, 294)
        assert len(messages(world)) == 1
        await pass_time(world, 9)
        assert "cancelled" in messages(world)[1]
        assert "event" not in messages(world)[1], "a single event is a message about it"
        assert {row["state"] for row in await rows(world.store, "SELECT state FROM deliveries")} == {"delivered"}


async def test_incident_and_finished_group_are_messages_of_their_own_at_once(tmp_path):
    async with open_world(tmp_path) as world:
        await channel(world, digest_seconds=300)
        await cancel(world, 3)
        await pass_time(world, 10)
        await tell(world, "relay.incident.opened")
        await tell(world, "relay.group.finished", "q4")
        await pass_time(world, 3)
        assert sorted(messages(world)) == ["12 jobs failed", "Campaign q4 has finished: 0 of 0 jobs were accepted"]
        await pass_time(world, 300)
        assert messages(world)[2:] == ["3 events: 3 cancelled"]


async def test_events_beyond_the_cap_are_one_digest(tmp_path):
    async with open_world(tmp_path) as world:
        await channel(world)
        await cancel(world, 15, "few")
        await pass_time(world, 20)
        assert len(messages(world)) == 15
        await cancel(world, 40, "many")
        await pass_time(world, 3)
        first, *others = messages(world)[15:]
        assert first.startswith("Job (job many"), "what is recorded while there is room goes out as it comes"
        assert others == ["39 events: 39 cancelled"]


async def test_digest_that_slack_refuses_is_sent_again_event_by_event(tmp_path):
    async with open_world(tmp_path) as world:
        await channel(world, digest_seconds=30)
        await cancel(world, 3)
        world.sink.answers.clear()
        world.sink.answers.extend(
            [answer(world, 400, b"invalid_blocks"), answer(world, 400, b"no_text"), answer(world)]
        )
        await pass_time(world, 40)
        bodies = [orjson.loads(request.body)["text"] for request in world.sink.requests]
        assert [body.startswith("3 events") for body in bodies] == [True, False, False, False]
        states = sorted(row["state"] for row in await rows(world.store, "SELECT state FROM deliveries"))
        assert states == ["dead", "delivered", "delivered"], "one event poisons no other"
