"""The drop-in for the rest of Revor: v2 jobs and websets, with all that v1 jobs have."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from relay.config.settings import PollingSettings
from relay.testing import FakeClock
from tests.support.e2e_world import KEY, POLLING, World, open_e2e_world
from tests.support.mount_world import json_answer
from tests.support.wire import Call, Stub, open_stub

AUTH = {"Authorization": f"Bearer {KEY}"}
ATTACHED = {**AUTH, "Relay-Group": "spring", "Relay-Metadata": '{"deal": 42}'}
STILL: dict[str, Any] = {"roles": ("api", "dispatcher"), "polling": PollingSettings()}
"""A node that polls when a test says so."""
RESEARCH = "/api/v2/research/public-web"
V2 = "/api/v2/jobs"
WEBSETS = "/api/v2/websets"
ACCOUNTS = "/api/v1/connect/accounts"

Says = Callable[[str, str], Any]


@pytest.fixture(autouse=True)
async def _bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(120):
        yield


@asynccontextmanager
async def open_revor(folder: Path, says: Says, **options: Any) -> AsyncIterator[tuple[World, Stub]]:
    """`says`: the job that the upstream answers with, to a method and a path."""

    async def say(call: Call) -> None:
        await call.body()
        method, path = call.request.method, call.request.target.decode()
        if path == ACCOUNTS:
            found: dict[str, Any] = {"items": []}
        else:
            found = {"webset" if (method, path) == ("POST", WEBSETS) else "item": says(method, path)}
        await call.send(json_answer({"ok": True, "request_id": "req_1", **found}))

    async with open_stub(say) as stub, open_e2e_world(folder, base_url=stub.url, **options) as world:
        yield world, stub


def events_of(world: World, id: str) -> list[dict[str, Any]]:
    """The events that the receiver got of a job."""
    found = [one.event for one in world.received.get("/events", [])]
    return [event for event in found if event["subject"] == id]


def sent(stub: Stub) -> list[tuple[str, str]]:
    """The requests of jobs."""
    found = [(call.method, call.target.decode()) for call in stub.received]
    return [one for one in found if one[1] != ACCOUNTS]


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


def webset(status: str, stage: str | None = None, **progress: Any) -> dict[str, Any]:
    shown = {"stage": stage, "goal": 50, "verified": 0, "qualified": 0, "full": False, "stop_reason": None, **progress}
    return {"id": "ws-1", "status": status, "name": "Rail", "progress": shown, "failure": None}


def played(*items: dict[str, Any]) -> Says:
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
        webset("verifying", "verify", verified=14),
        webset("completed", "done", verified=50),
    )
    async with open_revor(tmp_path, says, polling=POLLING) as (world, stub):
        await world.subscribe()
        callback = {"Relay-Callback": f"{world.receiver_url}/mine", "Relay-Callback-Types": "completed,failed"}
        made = await world.api.post(WEBSETS, json={"query": "rail"}, headers={**ATTACHED, **callback})
        assert made.json()["webset"] == {"id": "ws-1", "status": "generating_criteria"}
        read = await world.api.get(f"{WEBSETS}/ws-1", headers={**AUTH, "Prefer": "wait=60"})
        assert read.json()["item"] == webset("completed", "done", verified=50)
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
