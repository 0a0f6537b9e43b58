import asyncio

import orjson
import pytest

from relay.api.app import create_api
from relay.api.http import stream
from tests.support.api_world import scope_of

SSE = {"Accept": "text/event-stream"}


def frames(text):
    """The events of a stream, as (id, type, data)."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            found.append((lines["id"], lines["event"], orjson.loads(lines["data"])))
    return found


async def test_a_stream_sends_events_recorded_while_it_is_open(client, world):
    job = await world.job("a")
    await world.poll(job, "queued")
    made = []

    async def running():
        made.extend(await world.poll(job, "running"))
        return True

    async def silence():
        return False

    async def failed():
        made.extend(await world.poll(job, "failed"))
        return True

    world.signals.steps = [running, silence, failed]
    answer = await client.get("/v1/events/stream")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert frames(answer.text) == [(event.id, event.type, orjson.loads(event.body)) for event in made]
    assert answer.text.startswith(": connected\n\n")
    assert world.signals.open_watches == 0


async def test_a_stream_resumes_after_last_event_id_without_a_gap(client, world, monkeypatch):
    monkeypatch.setattr(stream, "PAGE_COUNT", 2)
    events = []
    for number in range(7):
        events += await world.poll(await world.job(f"job-{number}"), "queued")

    async def late():
        events.extend(await world.poll(await world.job("late"), "queued"))
        return True

    world.signals.steps = [late]
    answer = await client.get("/v1/events/stream", headers={"Last-Event-ID": events[1].id})
    assert [id for id, _, _ in frames(answer.text)] == [event.id for event in events[2:]]


async def test_an_event_recorded_before_the_watch_starts_is_sent(client, world):
    job = await world.job("a")
    newest = world.store.events.newest_position

    async def and_then_something_happens():
        position = await newest()
        await world.poll(job, "queued")
        return position

    world.store.events.newest_position = and_then_something_happens
    answer = await client.get("/v1/events/stream")
    assert [kind for _, kind, _ in frames(answer.text)] == ["ai.revor.job.queued"]


async def test_a_stream_resumes_from_the_oldest_event_if_the_last_one_is_deleted(client, world):
    event = (await world.poll(await world.job("a"), "queued"))[0]
    answer = await client.get("/v1/events/stream", headers={"Last-Event-ID": "evt_01jvpq3m8n0000000000000003"})
    assert [id for id, _, _ in frames(answer.text)] == [event.id]


async def test_a_jobs_stream_ends_after_the_last_event_of_a_closed_job(client, world):
    job = await world.job("a")
    await world.poll(job, "queued")
    await world.poll(await world.job("other"), "queued")

    async def ends():
        await world.poll(job, "failed")
        return True

    async def never():
        raise AssertionError("the stream should have ended")

    world.signals.steps = [ends, never]
    answer = await client.get("/v1/jobs/a/events", headers=SSE)
    assert [kind for _, kind, _ in frames(answer.text)] == ["ai.revor.job.queued", "ai.revor.job.failed"]
    assert world.signals.watched == [job.uid]


async def test_a_closed_jobs_stream_resumes_and_then_answers_204(client, world):
    job = await world.job("a")
    first, last = [*await world.poll(job, "queued"), *await world.poll(job, "failed")]
    answer = await client.get("/v1/jobs/a/events", headers={**SSE, "Last-Event-ID": first.id})
    assert [id for id, _, _ in frames(answer.text)] == [last.id]
    done = await client.get("/v1/jobs/a/events", headers={**SSE, "Last-Event-ID": last.id})
    assert (done.status_code, done.content) == (204, b"")
    foreign = (await world.poll(await world.job("other"), "queued"))[0]
    answer = await client.get("/v1/jobs/a/events", headers={**SSE, "Last-Event-ID": foreign.id})
    assert len(frames(answer.text)) == 2


async def test_a_silent_stream_is_kept_open_by_comments(client, world):
    async def silence():
        return False

    world.signals.steps = [silence] * 31
    answer = await client.get("/v1/events/stream")
    assert answer.text.count(": still here\n\n") == 2
    assert sum(world.signals.waits[:15]) == stream.HEARTBEAT_SECONDS


@pytest.mark.parametrize("leaves", ["its task is cancelled", "sending fails", "it disconnects"])
async def test_a_client_that_leaves_before_its_answer_starts_frees_its_slot(client, world, leaves):
    api = create_api(world.dependencies(), world.proxy)
    starts = asyncio.Event()

    async def receive():
        if leaves != "it disconnects":
            await asyncio.Event().wait()
        await starts.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        starts.set()
        if leaves == "sending fails":
            raise OSError("gone")
        await asyncio.Event().wait()

    answering = asyncio.create_task(api(scope_of("/v1/events/stream"), receive, send))
    await starts.wait()
    if leaves == "its task is cancelled":
        answering.cancel()
    await asyncio.gather(answering, return_exceptions=True)
    assert (api.context.dependencies.admission.streams.taken, world.signals.open_watches) == (0, 0)


async def test_streams_are_limited_and_a_client_that_leaves_frees_its_slot(client, world):
    api = create_api(world.dependencies(), world.proxy)
    slots = api.context.dependencies.admission.streams
    slots.limit = 1
    waiting, gone = asyncio.Event(), asyncio.Event()

    async def for_ever():
        waiting.set()
        await asyncio.Event().wait()

    world.signals.steps = [for_ever]
    statuses = []

    async def receive():
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        if message["type"] == "http.response.start":
            statuses.append((message["status"], dict(message["headers"])))

    first = asyncio.create_task(api(scope_of("/v1/events/stream"), receive, send))
    await waiting.wait()
    await api(scope_of("/v1/events/stream"), receive, send)
    assert [status for status, _ in statuses] == [200, 429]
    assert statuses[1][1][b"retry-after"] == b"5"
    assert slots.taken == 1
    gone.set()
    await first
    assert (slots.taken, world.signals.open_watches) == (0, 0)
