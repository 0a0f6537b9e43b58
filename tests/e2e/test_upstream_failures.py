"""Upstream failures over real connections: the relay reports each, and no job is lost."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.clock import from_rfc3339
from relay.polling import account_health, poll_handler
from tests.support.e2e_world import KEY, World, open_e2e_world
from tests.support.schema_check import check_event

JOBS_PATH = "/api/v1/outreach/jobs/"
HOLD_SECONDS = 60.0
SHORT_SECONDS = 0.1
DOWN_NOTE = "revor/default is down since "
UNAUTHORIZED_NOTE = "revor/default is unauthorized since "
ALL_TYPES = [
    *(f"ai.revor.job.{kind}" for kind in ("queued", "scheduled", "running", "retrying", "status_unknown")),
    *(f"ai.revor.job.{kind}" for kind in ("succeeded", "failed", "cancelled", "not_found", "overdue")),
    *(f"relay.source.{kind}" for kind in ("unauthorized", "down", "recovered")),
]


@pytest.fixture(autouse=True)
async def _bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(300):
        yield


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_e2e_world(tmp_path) as world:
        await world.subscribe(types=ALL_TYPES)
        await world.until(lambda: world.poller.health.is_proven)
        yield world
        for request in world.received["/events"]:
            check_event(request.body)


def set_timeout(world: World, seconds: float) -> None:
    """Of each request to the upstream."""
    for client in world.node._accounts.clients.values():
        client._timeout_seconds = seconds


async def ended_well(world: World, *job_ids: str) -> None:
    """Each job's `succeeded` is delivered once and last, with no event missing before it."""
    await world.until(lambda: all("succeeded" in world.kinds(job_id) for job_id in job_ids))
    for job_id in job_ids:
        events = [request.event for request in world.received["/events"] if request.event["subject"] == job_id]
        assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
        assert world.kinds(job_id)[-1] == "succeeded"
        assert world.kinds(job_id).count("succeeded") == 1
        shown = await world.shown(job_id)
        assert (shown["outcome"], shown["open"]) == ("succeeded", False)


async def noted(world: World, job_id: str) -> dict[str, Any]:
    """The job once it has an error."""

    async def has_one() -> bool:
        return (await world.shown(job_id))["last_error"] is not None

    await world.until(has_one)
    return await world.shown(job_id)


TROUBLES = [
    # the fault, the result kind, the job's last_error.code, a part of its message
    ("500", {}, "unavailable", "internal_error", "internal_error"),
    ("502", {}, "unavailable", "unavailable", "answered 502"),
    ("503", {}, "unavailable", "task_unavailable", "task_unavailable"),
    ("timeout", {"hold_seconds": HOLD_SECONDS}, "unavailable", "unavailable", "no complete answer within 0.1 s"),
    ("slow_drip", {"hold_seconds": HOLD_SECONDS}, "unavailable", "unavailable", "no complete answer within 0.1 s"),
    ("truncated", {}, "unavailable", "unavailable", "the answer broke off"),
    ("malformed_json", {}, "malformed", "malformed", "200 application/json: not_json"),
    ("wrong_content_type", {}, "malformed", "malformed", "200 text/html; charset=utf-8: not_json"),
    ("oversized", {}, "oversized", "oversized", "larger than 1048576 bytes"),
]


@pytest.mark.parametrize(("kind", "how", "result", "code", "message"), TROUBLES, ids=[each[0] for each in TROUBLES])
async def test_failed_polls(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    how: dict[str, float],
    result: str,
    code: str,
    message: str,
) -> None:
    await world.fault(kind, path_prefix=JOBS_PATH, **how)
    if how:
        set_timeout(world, SHORT_SECONDS)
    job_id = await world.job()
    await world.until(lambda: world.polls(result) >= account_health.DOWN_FAILURES)

    shown = await noted(world, job_id)
    assert shown["last_error"]["code"] == code
    assert message in shown["last_error"]["message"]
    assert (shown["open"], shown["status"]) == (True, None)
    assert (await world.api.get(f"/v1/jobs/{job_id}/explain")).json()["reason"] in ("backing_off", "due", "in_flight")
    # Failures shorter than a minute cause no event.
    assert world.metric("relay_source_up") == 1
    assert await world.notes() == []
    assert world.kinds() == []

    monkeypatch.setattr(account_health, "DOWN_SECONDS", 0.0)
    await world.until(lambda: world.kinds() == ["relay.source.down"])
    assert world.metric("relay_source_up") == 0
    (note,) = await world.notes()
    assert note.startswith(DOWN_NOTE)
    data = world.received["/events"][-1].event["data"]
    assert (data["source"], data["account"], data["code"], data["open_jobs"]) == ("revor", "default", code, 1)

    set_timeout(world, 5.0)
    await world.heal()
    await ended_well(world, job_id)
    await world.until(lambda: len(world.kinds()) == 2)
    assert world.kinds() == ["relay.source.down", "relay.source.recovered"]
    assert world.metric("relay_source_up") == 1
    assert await world.notes() == []
    assert world.polls("observed") >= 1


async def test_too_many_requests(world: World) -> None:
    await world.fault("429", count=1, path_prefix=JOBS_PATH, retry_after_seconds=1)
    first = await world.job()
    await world.until(lambda: world.polls("rate_limited") == 1)
    assert (await noted(world, first))["last_error"]["code"] == "api_rate_limit_exceeded"
    (account,) = (await world.api.get("/v1/sources")).json()["items"]
    assert account["state"] == "ok"
    stopped_until = world.poller.planner.stats(world.node._clock()).paused_until
    assert stopped_until is not None
    others = [await world.job() for _ in range(3)]
    assert world.metric("relay_source_up") == 1
    assert await world.notes() == []

    await ended_well(world, first, *others)
    assert world.kinds() == []
    assert world.polls("rate_limited") == 1
    polled_at = [(await world.shown(job_id))["last_polled_at"] for job_id in (first, *others)]
    assert min(map(from_rfc3339, polled_at)) >= stopped_until - 0.01


async def test_refused_key_is_read_again(tmp_path: Path) -> None:
    key_file = tmp_path / "revor-key"
    key_file.write_text("sk-revor-revoked-test\n")
    async with open_e2e_world(tmp_path, api_key="sk-revor-revoked-test", api_key_file=key_file) as world:
        await world.subscribe(types=ALL_TYPES, config={"start": "earliest"})
        await world.until(lambda: world.kinds() == ["relay.source.unauthorized"])  # before a job is tracked
        event = check_event(world.received["/events"][-1].body)
        assert event["data"]["code"] == "api_key_revoked"

        job_id = await world.job()
        explained = (await world.api.get(f"/v1/jobs/{job_id}/explain")).json()
        assert "refuses" in explained["sentence"], explained
        shown = (await world.api.get(f"/v1/jobs/{job_id}")).json()
        assert (shown["last_error"], shown["open"]) == (None, True)
        assert world.metric("relay_source_up") == 0
        (note,) = await world.notes()
        assert note.startswith(UNAUTHORIZED_NOTE)

        # Paused: nothing is polled, and a probe with the same key changes nothing.
        polls = world.polls("unauthorized")
        assert world.poller.next_request_at() is None
        assert (await world.api.post(f"/v1/jobs/{job_id}/refresh")).status_code == 202
        await world.probe()
        assert world.poller.next_request_at() is None
        assert world.polls("unauthorized") == polls
        assert world.kinds() == ["relay.source.unauthorized"]

        key_file.write_text(f"{KEY}\n")
        await world.probe()
        await ended_well(world, job_id)
        await world.until(lambda: len(world.kinds()) == 2)
        assert world.kinds() == ["relay.source.unauthorized", "relay.source.recovered"]
        assert world.metric("relay_source_up") == 1
        assert await world.notes() == []
        for request in world.received["/events"]:
            check_event(request.body)
            assert b"sk-revor" not in request.body


async def test_key_revoked_while_running(world: World) -> None:
    await ended_well(world, await world.job())
    await world.fault("revoked_key")
    job_id = await world.job()
    await world.until(lambda: world.kinds() == ["relay.source.unauthorized"])
    await world.probe()
    assert world.poller.paused
    await world.heal()
    await world.probe()
    await ended_well(world, job_id)
    await world.until(lambda: len(world.kinds()) == 2)
    assert world.kinds() == ["relay.source.unauthorized", "relay.source.recovered"]


async def test_one_forbidden_job_does_not_pause_the_key(world: World) -> None:
    job_id = await world.job(run_seconds=60)
    await world.fault("403", path_prefix=JOBS_PATH + job_id)
    await world.until(lambda: world.polls("forbidden") >= 5)
    await ended_well(world, await world.job())  # the others continue
    shown = await noted(world, job_id)
    assert shown["last_error"]["code"] == "permission_denied"
    assert shown["open"]
    assert world.kinds() == []
    assert world.metric("relay_source_up") == 1
    assert await world.notes() == []
    await world.heal()
    await ended_well(world, job_id)


async def test_five_forbidden_jobs_pause_the_key(world: World) -> None:
    await world.fault("403", path_prefix=JOBS_PATH)
    job_ids = [await world.job() for _ in range(account_health.FORBIDDEN_JOBS)]
    await world.until(lambda: world.kinds() == ["relay.source.unauthorized"])
    assert world.metric("relay_source_up") == 0
    (note,) = await world.notes()
    assert note.startswith(UNAUTHORIZED_NOTE)
    await world.heal()
    await world.probe()
    await ended_well(world, *job_ids)
    await world.until(lambda: len(world.kinds()) == 2)
    assert world.kinds() == ["relay.source.unauthorized", "relay.source.recovered"]


async def test_job_missing_for_a_while(world: World) -> None:
    await world.fault("404", path_prefix=JOBS_PATH)
    job_id = await world.job()
    await world.until(lambda: world.polls("not_found") > poll_handler.NOT_FOUND_POLLS)
    shown = await noted(world, job_id)
    assert shown["last_error"]["code"] == "external_api_job_not_found"
    assert shown["open"]
    assert world.kinds(job_id) == []
    assert world.metric("relay_source_up") == 1
    assert await world.notes() == []
    await world.heal()
    await ended_well(world, job_id)
    assert world.kinds() == []


async def test_job_that_stays_missing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poll_handler, "NOT_FOUND_SECONDS", 0.0)
    await world.fault("404", path_prefix=JOBS_PATH)
    job_id = await world.job()
    await world.until(lambda: world.kinds(job_id) == ["not_found"])
    assert world.polls("not_found") == poll_handler.NOT_FOUND_POLLS
    shown = await world.shown(job_id)
    assert (shown["outcome"], shown["open"]) == ("not_found", False)
    assert shown["last_error"]["code"] == "external_api_job_not_found"
    assert world.kinds() == []
    assert world.metric("relay_source_up") == 1
    await world.heal()
    await ended_well(world, await world.job())
    assert world.kinds(job_id) == ["not_found"]


async def test_unknown_status_is_reported_once(world: World) -> None:
    await world.fault("unknown_status", path_prefix=JOBS_PATH)
    job_id = await world.job()
    await world.until(lambda: "status_unknown" in world.kinds(job_id) and world.polls("observed") >= 4)
    shown = await world.shown(job_id)
    assert (shown["status"], shown["open"], shown["last_error"]) == ("awaiting_approval", True, None)
    await world.heal()
    await ended_well(world, job_id)
    assert world.kinds(job_id).count("status_unknown") == 1
    (event,) = (each.event for each in world.received["/events"] if each.event["type"].endswith(".status_unknown"))
    assert event["data"]["status"] == "awaiting_approval"
    assert world.kinds() == []


async def test_without_a_key(tmp_path: Path) -> None:
    async with open_e2e_world(tmp_path, api_key=None) as world:
        answer = await world.api.get("/readyz")
        assert answer.status_code == 503
        assert "revor/default has no API key: set REVOR_API_KEY" in answer.text
        assert (await world.api.get("/livez")).status_code == 200
        job_id = await world.job()  # jobs are still accepted
        assert (await world.shown(job_id))["open"]
        assert world.poller.next_request_at() is None
        assert world.metric("relay_source_up") == 0
        assert world.metric("relay_polls_total") == 0
