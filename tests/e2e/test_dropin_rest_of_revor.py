"""The drop-in for the rest of Revor: v2 jobs and websets, with all that v1 jobs have."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from relay.config.keyring import new_key
from relay.config.settings import PollingSettings
from relay.core.jobs.job import Observation
from relay.core.jsontext import dumps
from relay.sources.client import PollResult
from relay.sources.definition import load_definition
from relay.sources.mapping import observe
from relay.testing import FakeClock
from tests.support.e2e_world import KEY, POLLING, World, open_e2e_world
from tests.support.schema_check import check_event
from tests.support.wire import Call, Stub, answer, open_stub

REVOR = load_definition("revor")
AUTH = {"Authorization": f"Bearer {KEY}"}
ATTACHED = {**AUTH, "Relay-Group": "spring", "Relay-Metadata": '{"deal": 42}'}
STILL: dict[str, Any] = {"roles": ("api", "dispatcher"), "polling": PollingSettings()}
"""A node that polls when a test says so."""
RESEARCH = "/api/v2/research/public-web"
V2 = "/api/v2/jobs"
WEBSETS = "/api/v2/websets"
JOBS = ("/api/v1/outreach/jobs/", f"{V2}/", f"{WEBSETS}/")

Says = Callable[[str, str], Any]


@pytest.fixture(autouse=True)
async def _bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(120):
        yield


@asynccontextmanager
async def open_revor(folder: Path, says: Says, **options: Any) -> AsyncIterator[tuple[World, Stub]]:
    """`says`: the job that the upstream answers with, to a method and a path; a text is JSON."""

    async def say(call: Call) -> None:
        await call.body()
        method, path = call.request.method, call.request.target.decode()
        item, name = b"[]", "items"
        if path.startswith(JOBS) or method == "POST":
            found, name = says(method, path), "webset" if (method, path) == ("POST", WEBSETS) else "item"
            item = found.encode() if isinstance(found, str) else dumps(found)
        body = b'{"ok": true, "request_id": "req_1", "%s": %s}' % (name.encode(), item)
        await call.send(answer(200, [("Content-Type", "application/json")], body))

    async with open_stub(say) as stub, open_e2e_world(folder, base_url=stub.url, **options) as world:
        yield world, stub


def events_of(world: World, id: str) -> list[dict[str, Any]]:
    """The events that the receiver got of a job."""
    found = [one.event for one in world.received.get("/events", [])]
    return [event for event in found if event["subject"] == id]


def sent(stub: Stub) -> list[tuple[str, str]]:
    """The requests of jobs."""
    found = [(call.method, call.target.decode()) for call in stub.received]
    return [(method, path) for method, path in found if path.startswith(JOBS) or method == "POST"]


# --- v2 jobs


def v2_item(status: str, **more: Any) -> dict[str, Any]:
    return {"id": "v2-1", "status": status, "action": "research.public_web", **more}


DONE = v2_item(
    "succeeded",
    started_at="2026-05-20T09:00:01.000Z",
    finished_at="2026-05-20T09:00:08.000Z",
    attempt_count=1,
    result={"status": "accepted"},
    billing={"credits": 3, "status": "charged"},
)


async def test_create_that_answers_a_finished_job_needs_no_poll(tmp_path: Path) -> None:
    async with open_revor(tmp_path, lambda *_: DONE, clock=FakeClock()) as (world, stub):
        await world.subscribe()
        made = await world.api.post(RESEARCH, json={}, headers={**ATTACHED, "Prefer": "wait=20"})
        assert made.json()["item"] == DONE
        await world.until(lambda: len(events_of(world, "v2-1")) == 2)
        events = events_of(world, "v2-1")
        assert [(event["type"], event["sequence"]) for event in events] == [
            ("ai.revor.job.running", "0000000001"),
            ("ai.revor.job.succeeded", "0000000002"),
        ]
        assert {event["source"] for event in events} == {stub.url + V2}
        assert events[1]["data"]["job"]["billing"] == {"credits": 3, "status": "charged"}
        assert events[1]["data"]["metadata"] == {"deal": 42}
        assert events[1]["group"] == "spring"
        job = await world.shown("v2-1")
        assert (job["outcome"], job["resource"], job["poll_count"]) == ("succeeded", "jobs_v2", 1)
        read = await world.api.get(f"{V2}/v2-1", headers=AUTH)
        assert (read.headers["relay-cache"], read.json()["item"]) == ("hit", DONE)
        assert sent(stub) == [("POST", RESEARCH)]
        assert [call.all("prefer") for call in stub.received if call.method == "POST"] == [[b"wait=20"]]


async def test_failure_that_a_create_answers_counts_as_one_of_a_poll(tmp_path: Path) -> None:
    failed = v2_item("failed", error={"code": "insufficient_credits", "message": "none left", "retryable": False})

    async with open_revor(tmp_path, lambda *_: failed, **STILL, clock=FakeClock()) as (world, _):
        await world.api.post("/api/v2/customs/trends", json={}, headers=AUTH)
        await world.poller.drain()
        job = await world.shown("v2-1")
        assert (job["outcome"], job["problem"]["code"]) == ("failed", "insufficient_credits")


async def test_finished_answer_that_was_registered_by_hand_is_polled(tmp_path: Path) -> None:
    """It may be an old one, or a part."""
    clock = FakeClock()
    async with open_revor(tmp_path, lambda *_: DONE, **STILL, clock=clock) as (world, _):
        answer = {"ok": True, "item": DONE, "resource": "jobs_v2"}
        job = (await world.api.post("/v1/jobs", json=answer)).json()
        assert (job["status"], job["open"]) == (None, True)
        clock.advance(1.0)
        assert await world.poller.run_once()
        await world.poller.drain()
        assert (await world.shown("v2-1"))["outcome"] == "succeeded"


async def test_charging_is_a_part_of_running(tmp_path: Path) -> None:
    stages = ["queued", "running", "settling"]
    shown = [v2_item(status) for status in stages] + [DONE]

    def says(method: str, path: str) -> Any:
        return shown.pop(0) if len(shown) > 1 else DONE

    async with open_revor(tmp_path, says, polling=POLLING) as (world, _):
        await world.subscribe()
        await world.api.post("/api/v2/research/contacts", json={}, headers=AUTH)
        await world.until(lambda: "succeeded" in world.kinds("v2-1"))
        assert world.kinds("v2-1") == ["queued", "running", "succeeded"]


async def test_event_that_is_cut_keeps_what_was_charged(tmp_path: Path) -> None:
    large = {**DONE, "result": {"status": "accepted", "pages": "x" * 70_000}}

    async with open_revor(tmp_path, lambda *_: large, clock=FakeClock()) as (world, _):
        await world.subscribe(types=["succeeded"])
        await world.api.post(RESEARCH, json={}, headers=AUTH)
        await world.until(lambda: bool(events_of(world, "v2-1")))
        data = events_of(world, "v2-1")[0]["data"]
        assert data["truncated"]
        assert data["job"]["billing"] == {"credits": 3, "status": "charged"}
        assert data["job"]["result"] == {"status": "accepted"}


# --- two resources with one prefix of their types


PATHS = ("/both", "/v2", "/by-filter")


async def test_jobs_of_both_versions_are_told_apart_by_source(tmp_path: Path) -> None:
    def says(method: str, path: str) -> Any:
        return {**v2_item("succeeded"), "id": path.rpartition("/")[2]}

    clock = FakeClock()
    async with open_revor(tmp_path, says, **STILL, clock=clock) as (world, stub):
        v1, v2 = f"{stub.url}/api/v1/outreach/jobs", stub.url + V2
        await world.subscribe("/both", types=["succeeded"])
        await world.subscribe("/v2", source=v2)
        await world.subscribe("/by-filter", filters=[{"exact": {"source": v2}}])
        for resource in ("jobs", "jobs_v2"):
            made = await world.api.post("/v1/jobs", json={"id": "same", "resource": resource})
            assert made.status_code == 201
        clock.advance(2.0)
        while await world.poller.run_once():
            await world.poller.drain()
        found = (await world.api.get("/v1/events?type=succeeded")).json()["items"]
        assert {event["source"] for event in found} == {v1, v2}
        assert {event["type"] for event in found} == {"ai.revor.job.succeeded"}
        await world.until(lambda: [len(world.received.get(path, ())) for path in PATHS] == [2, 1, 1])
        assert {one.event["source"] for one in world.received["/both"]} == {v1, v2}
        for path in PATHS[1:]:
            assert [one.event["source"] for one in world.received[path]] == [v2]
        assert (await world.api.get("/v1/jobs/same")).json()["code"] == "ambiguous_job"
        shown = [(await world.api.get(f"/v1/jobs/same?resource={name}")).json() for name in ("jobs", "jobs_v2")]
        assert [job["resource"] for job in shown] == ["jobs", "jobs_v2"]
        erased = await world.api.delete("/v1/jobs/same?resource=jobs_v2&purge=true")
        assert erased.status_code == 200
        left = (await world.api.get("/v1/events")).json()["items"]
        assert {event["source"] for event in left if event["subject"] == "same"} == {v1}


@pytest.mark.parametrize(
    ("resource", "said"),
    [("jobsv2", "did you mean jobs_v2?"), ("job_v2", "did you mean jobs_v2?"), ("", "known are jobs, jobs_v2")],
)
async def test_resource_that_is_named_wrongly_is_refused_with_the_known_ones(
    tmp_path: Path, resource: str, said: str
) -> None:
    async with open_revor(tmp_path, lambda *_: None, **STILL, clock=FakeClock()) as (world, _):
        refused = await world.api.post("/v1/jobs", json={"id": "a", "resource": resource})
        assert refused.status_code == 422
        assert said in refused.json()["errors"][0]["detail"]


# --- websets


def webset(status: str, stage: str | None = None, qualified: int = 0) -> dict[str, Any]:
    """A webset of which a third of what is verified qualifies, as `goal` counts."""
    counts = {"goal": 50, "verified": 3 * qualified, "qualified": qualified, "full": qualified == 50}
    shown = {"stage": stage, **counts, "stop_reason": None}
    return {"id": "ws-1", "status": status, "name": "Rail", "progress": shown, "failure": None}


def played(*items: Any) -> Says:
    """Each read shows the next of these; the last one again and again."""
    left = list(items)

    def says(method: str, path: str) -> Any:
        if method == "POST":
            return {"id": "ws-1", "status": "generating_criteria"}
        return left.pop(0) if len(left) > 1 else left[0]

    return says


async def test_webset_has_all_that_a_v1_job_has(tmp_path: Path) -> None:
    says = played(
        webset("generating_criteria", "criteria"),
        webset("searching", "search"),
        webset("verifying", "verify", qualified=14),
        webset("completed", "done", qualified=50),
    )
    async with open_revor(tmp_path, says, polling=POLLING) as (world, stub):
        await world.subscribe()
        callback = {"Relay-Callback": f"{world.receiver_url}/mine", "Relay-Callback-Types": "completed,failed"}
        made = await world.api.post(WEBSETS, json={"query": "rail"}, headers={**ATTACHED, **callback})
        assert made.json()["webset"] == {"id": "ws-1", "status": "generating_criteria"}
        read = await world.api.get(f"{WEBSETS}/ws-1", headers={**AUTH, "Prefer": "wait=60"})
        assert read.json()["item"] == webset("completed", "done", qualified=50)
        await world.until(lambda: "completed" in world.kinds("ws-1") and "/mine" in world.received)
        events = events_of(world, "ws-1")
        assert (events[0]["type"], events[-1]["type"]) == ("ai.revor.webset.running", "ai.revor.webset.completed")
        assert [event["sequence"] for event in events] == [f"{number:010d}" for number in range(1, len(events) + 1)]
        for event in events:
            assert (event["source"], event["group"]) == (stub.url + WEBSETS, "spring")
            assert event["data"]["metadata"] == {"deal": 42}
        assert (events[-1]["status"], events[-1]["data"]["status"]) == ("succeeded", "succeeded")
        assert [one.event["type"] for one in world.received["/mine"]] == ["ai.revor.webset.completed"]
        streamed = await world.api.get("/v1/jobs/ws-1/events", headers={"Accept": "text/event-stream"})
        assert streamed.text.count("\ndata: ") == len(events)
        job = await world.shown("ws-1")
        assert (job["resource"], job["outcome"], job["status"]) == ("websets", "succeeded", "succeeded")
        (listed,) = (await world.api.get("/v1/jobs?resource=websets&status=succeeded")).json()["items"]
        assert listed["uid"] == job["uid"]
        group = (await world.api.get("/v1/groups/spring")).json()
        assert group["counts"]["succeeded"] == 1


async def test_failed_webset_has_the_code_of_its_failure(tmp_path: Path) -> None:
    failed = {**webset("failed", "search"), "failure": {"code": "insufficient_credits"}}
    async with open_revor(tmp_path, played(failed), polling=POLLING) as (world, _):
        await world.subscribe(types=["failed"])
        await world.api.post(WEBSETS, json={}, headers=AUTH)
        await world.until(lambda: world.kinds("ws-1") == ["failed"])
        (event,) = events_of(world, "ws-1")
        assert event["type"] == "ai.revor.webset.failed"
        assert event["data"]["hint"]["meaning"] == "The Revor account has too few credits"


async def test_status_never_seen_before_is_open_and_said_once(tmp_path: Path) -> None:
    says = played(webset("searching"), webset("ranking"), webset("ranking"), webset("cancelled"))
    async with open_revor(tmp_path, says, polling=POLLING) as (world, _):
        await world.subscribe()
        await world.api.post(WEBSETS, json={}, headers=AUTH)
        await world.until(lambda: "cancelled" in world.kinds("ws-1"))
        assert [kind for kind in world.kinds("ws-1") if kind != "progress"] == [
            "running",
            "status_unknown",
            "cancelled",
        ]


# --- progress

AT_WILL: dict[str, Any] = {**STILL, "polling": POLLING}
"""As STILL, with requests enough for every poll that a test asks for."""


async def polled(world: World, clock: FakeClock, seconds: float = 1.0) -> None:
    """The relay polls the webset after so many seconds."""
    clock.advance(seconds)
    assert (await world.api.post("/v1/jobs/ws-1/refresh")).status_code == 202
    while not await world.poller.run_once():  # the budget fills
        clock.advance(0.01)
    await world.poller.drain()


async def told(world: World) -> list[tuple[str, Any]]:
    """The kinds of the recorded events, the first one first, with their progress."""
    found = (await world.api.get("/v1/jobs/ws-1/events")).json()["items"]
    assert [event["sequence"] for event in found] == [f"{number:010d}" for number in range(1, len(found) + 1)]
    return [(check_event(dumps(one))["type"].rpartition(".")[2], one["data"].get("progress")) for one in found]


def progress(percent: float | None, done: float | None, stage: str | None) -> tuple[str, Any]:
    return "progress", {"percent": percent, "done": done, "total": 50, "stage": stage}


async def test_another_stage_is_told_at_once_and_any_other_change_once_a_minute(tmp_path: Path) -> None:
    steps = [
        (1, webset("searching", "search")),
        (5, webset("verifying", "verify", qualified=1)),
        (5, webset("verifying", "verify", qualified=2)),
        (50, webset("verifying", "verify", qualified=14)),
        (6, webset("verifying", "verify", qualified=14)),
        (90, webset("verifying", "verify", qualified=14)),
        (1, webset("verifying", "verify", qualified=9)),
        (60, webset("completed", "done", qualified=50)),
    ]
    clock = FakeClock()
    async with open_revor(tmp_path, played(*(item for _, item in steps)), **AT_WILL, clock=clock) as (world, _):
        await world.subscribe(types=["webset.progress"])
        await world.api.post(WEBSETS, json={}, headers=ATTACHED)
        for seconds, _ in steps:
            await polled(world, clock, seconds)
        assert await told(world) == [
            ("running", None),
            progress(0, 0, "search"),
            progress(2, 1, "verify"),
            progress(28, 14, "verify"),
            progress(18, 9, "verify"),
            ("completed", None),
        ]
        await world.until(lambda: world.kinds("ws-1") == ["progress"] * 4)
        for event in events_of(world, "ws-1"):
            assert (event["status"], event["group"], event["data"]["metadata"]) == ("running", "spring", {"deal": 42})


async def test_restart_tells_nothing_twice(tmp_path: Path) -> None:
    shown = [webset("verifying", "verify", qualified=14)]
    clock, key = FakeClock(), new_key()

    def says(method: str, path: str) -> Any:
        return {"id": "ws-1", "status": "searching"} if method == "POST" else shown[0]

    async with open_revor(tmp_path, says, **AT_WILL, clock=clock, encryption_key=key) as (world, _):
        await world.api.post(WEBSETS, json={}, headers=AUTH)
        await polled(world, clock)
        before = await told(world)
    assert before == [("running", None), progress(28, 14, "verify")]
    async with open_revor(tmp_path, says, **AT_WILL, clock=clock, encryption_key=key) as (world, _):
        await polled(world, clock, 300)
        assert await told(world) == before
        shown[0] = webset("verifying", "rank", qualified=14)
        await polled(world, clock, 1)
        assert await told(world) == [*before, progress(28, 14, "rank")]


async def test_stage_that_changes_with_every_poll_is_told_as_often(tmp_path: Path) -> None:
    stages = ["search", "verify"] * 3
    clock = FakeClock()
    says = played(*(webset("searching", stage) for stage in stages))
    async with open_revor(tmp_path, says, **AT_WILL, clock=clock) as (world, _):
        await world.api.post(WEBSETS, json={}, headers=AUTH)
        for _ in stages:
            await polled(world, clock, 1)
        assert await told(world) == [("running", None), *(progress(0, 0, stage) for stage in stages)]


async def test_webset_that_ends_before_a_poll_has_its_end_alone(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_revor(tmp_path, played(webset("completed", "done")), **AT_WILL, clock=clock) as (world, _):
        await world.api.post(WEBSETS, json={}, headers=AUTH)
        await polled(world, clock)
        assert await told(world) == [("completed", None)]


HOSTILE = (
    ('{"stage": "", "goal": -1, "qualified": -14}', None),
    ('{"stage": 7, "goal": "50", "qualified": true}', None),
    ('{"stage": ["x"], "goal": {}, "qualified": []}', None),
    (f'{{"goal": 1{"0" * 400}, "qualified": 1e999}}', None),
    ('"28 %"', None),
    ("null", None),
    ('{"goal": 0, "qualified": 3}', {"percent": None, "done": 3, "total": 0, "stage": None}),
    ('{"goal": 2, "qualified": 900000}', {"percent": 100, "done": 900_000, "total": 2, "stage": None}),
    ('{"goal": 1e-320, "qualified": 1e15}', {"percent": 100, "done": 10**15, "total": 1e-320, "stage": None}),
    (f'{{"stage": "{"s" * 70_000}"}}', {"percent": None, "done": None, "total": None, "stage": "s" * 128}),
    (r'{"stage": "\ud800\u0000<b>\n"}', {"percent": None, "done": None, "total": None, "stage": "\ufffd<b>"}),
)


@pytest.mark.parametrize(("raw", "read"), HOSTILE)
async def test_progress_that_is_none_is_not_told(tmp_path: Path, raw: str, read: Any) -> None:
    """Such values never stop the job, nor make an event that breaks its schema."""
    clock = FakeClock()
    item = '{"id": "ws-1", "status": "%s", "progress": %s}'
    says = played(*(item % (status, raw) for status in ("searching", "searching", "completed")))
    async with open_revor(tmp_path, says, **AT_WILL, clock=clock) as (world, _):
        await world.api.post("/v1/jobs", json={"id": "ws-1", "resource": "websets"})
        await polled(world, clock)
        await polled(world, clock, 300)
        await polled(world, clock, 300)
        middle = [] if read is None else [("progress", read)]
        assert await told(world) == [("running", None), *middle, ("completed", None)]


async def test_erased_webset_tells_no_more(tmp_path: Path) -> None:
    clock = FakeClock()
    async with open_revor(tmp_path, played(webset("searching", "search")), **AT_WILL, clock=clock) as (world, _):
        await world.api.post(WEBSETS, json={}, headers=AUTH)
        await polled(world, clock)
        sending = await world.poller.borrow((await world.shown("ws-1"))["uid"])
        assert sending is not None
        assert (await world.api.delete("/v1/jobs/ws-1?purge=true")).status_code == 200
        shown, now = dumps({"ok": True, "item": webset("searching", "rank")}), clock()
        seen = observe(REVOR, shown, now=now, resource="websets")
        assert isinstance(seen, Observation)
        result = PollResult(kind="observed", observation=seen, sent_at=now, received_at=now, duration_ms=0.0)
        await world.poller.settle(sending, result)
        assert (await world.api.get("/v1/events?subject=ws-1")).json()["items"] == []
