"""The machine's clock is set forward and back while a real node runs; nothing is lost."""

import asyncio
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
import time_machine

from relay.config.keyring import new_key
from tests.support.e2e_world import World, open_e2e_world

HOUR_SECONDS = 3_600.0


@pytest.mark.parametrize("seconds", [HOUR_SECONDS, -HOUR_SECONDS], ids=["forward", "back"])
async def test_setting_the_clock_does_not_stop_the_node(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seconds: float
) -> None:
    ahead = time.time() - time.monotonic()
    async with asyncio.timeout(300), open_e2e_world(tmp_path, upstream_clock=lambda: ahead + time.monotonic()) as world:
        await world.subscribe()
        before = [await world.job(run_seconds=400) for _ in range(2)]  # two seconds
        await world.until(lambda: all("running" in world.kinds(job_id) for job_id in before))
        polls = world.polls("observed")
        with time_machine.travel(time.time() + seconds, tick=True):
            await until_it_polls_again(world, polls)
            after = [await world.job(run_seconds=100) for _ in range(2)]
            await world.until(lambda: all("succeeded" in world.kinds(job_id) for job_id in (*before, *after)))
            ended = [await world.shown(job_id) for job_id in (*before, *after)]
        assert [job["outcome"] for job in ended] == ["succeeded"] * 4
        for job_id in (*before, *after):
            events = [request.event for request in world.received["/events"] if request.event["subject"] == job_id]
            assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
            assert len({event["id"] for event in events}) == len(events)
        assert "polling_stalled" not in capsys.readouterr().out


@pytest.mark.parametrize("seconds", [60.0, -60.0], ids=["forward", "back"])
async def test_delivery_in_flight_is_not_repeated_when_the_clock_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    ahead = time.time() - time.monotonic()
    async with asyncio.timeout(300), open_e2e_world(tmp_path, upstream_clock=lambda: ahead + time.monotonic()) as world:
        dispatcher = world.node.dispatcher
        transport = dispatcher.shared.transport
        really_send, sent, answer = transport.send, asyncio.Event(), asyncio.Event()

        async def send(request: Any, *, timeout_seconds: float) -> Any:
            sent.set()
            await answer.wait()
            return await really_send(request, timeout_seconds=timeout_seconds)

        monkeypatch.setattr(transport, "send", send)
        await world.subscribe()
        job_id = await world.job()
        await sent.wait()
        with time_machine.travel(time.time() + seconds, tick=True):
            for _ in range(5):
                await dispatcher.run_once()
            answer.set()
            await world.until(lambda: "succeeded" in world.kinds(job_id))
        ids = [request.event["id"] for request in world.received["/events"]]
        assert len(ids) == len(set(ids))


async def test_what_waits_in_a_batch_or_to_be_pulled_is_had_after_the_clock_was_set_back(tmp_path: Path) -> None:
    """It was recorded an hour ahead of the new clock."""
    types = ["com.acme.order.paid"]
    async with asyncio.timeout(300), open_e2e_world(tmp_path) as world:
        await world.subscribe(
            "/batch", types=types, config={"content_mode": "batch", "batch": {"max_events": 100, "max_seconds": 2}}
        )
        made = await world.api.post("/v1/subscriptions", json={"protocol": "PULL", "types": types})
        assert made.status_code == 201, made.text
        pull = f"/v1/subscriptions/{made.json()['id']}/pull"
        await publish(world, "before")
        with time_machine.travel(time.time() - HOUR_SECONDS, tick=True):
            pulled = (await world.api.post(pull, json={"lease_seconds": 30})).json()
            assert [item["event"]["id"] for item in pulled["items"]] == ["before"]
            assert pulled["lag"]["oldest_seconds"] == 0.0
            await world.until(lambda: "/batch" in world.received)
            await publish(world, "after")
            await world.until(lambda: len(world.received["/batch"]) == 2)
        ids = [event["id"] for request in world.received["/batch"] for event in orjson.loads(request.body)]
        assert ids == ["before", "after"]


async def publish(world: World, id: str) -> None:
    event = {"specversion": "1.0", "id": id, "source": "/shop", "type": "com.acme.order.paid"}
    answer = await world.api.post("/v1/events", json=event, headers={"content-type": "application/cloudevents+json"})
    assert answer.status_code == 202, answer.text


async def until_it_polls_again(world: World, polls: float) -> None:
    """No request reaches the node meanwhile: it has to notice by itself."""
    latest = time.monotonic() + 60
    while world.polls("observed") <= polls:
        assert time.monotonic() < latest, "it no longer polls"
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("seconds", [HOUR_SECONDS, -HOUR_SECONDS], ids=["forward", "back"])
async def test_clock_set_while_the_node_was_down(tmp_path: Path, seconds: float) -> None:
    key = new_key()
    async with open_e2e_world(tmp_path, encryption_key=key) as world:
        await world.subscribe()
        job_id = await world.job()
        await world.until(lambda: "succeeded" in world.kinds(job_id))
    with time_machine.travel(time.time() + seconds, tick=True):
        async with open_e2e_world(tmp_path, encryption_key=key) as world:
            await world.subscribe("/again")
            await world.sandbox.post("/_sandbox/jobs", json={"account": "test"})  # has the first one's id
            job_id = await world.job()
            await world.until(lambda: len(world.received.get("/again", [])) == 2)
            assert (await world.shown(job_id))["outcome"] == "succeeded"
