"""The sandbox over HTTP: Revor's API v1 as documented, and the sandbox's own calls."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from relay.clock import from_rfc3339
from relay.sandbox.faults import ConnectionCut
from relay.sandbox.lifecycle import Mix
from relay.sandbox.server import Sandbox
from relay.sandbox.world import World

SAMPLES = json.loads((Path(__file__).parents[2] / "fixtures" / "revor-samples.json").read_text())
NOW = 1_779_271_200.0  # 2026-05-20T10:00:00Z

ACCOUNTS = "/api/v1/connect/accounts"
DISPATCHES = "/api/v1/outreach/dispatches"
JOBS = "/api/v1/outreach/jobs/"
EMAIL = SAMPLES["create_dispatch_request_email"]["body"]
KEY = {"Authorization": "Bearer sk-revor-acme"}


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Peer(TestClient):
    """A client of a sandbox whose clock only the test advances."""

    def __init__(self, clock: Clock, app: Any) -> None:
        super().__init__(app)
        self.clock = clock

    def create(self, body: Any = EMAIL, path: str = DISPATCHES, **headers: str) -> Any:
        return self.post(path, json=body, headers={**KEY, **{k.replace("_", "-"): v for k, v in headers.items()}})

    def job(self, job_id: str, **more: Any) -> Any:
        return self.get(JOBS + job_id, headers=more.get("headers", KEY))

    def fault(self, **body: Any) -> Any:
        response = self.post("/_sandbox/faults", json=body)
        assert response.status_code == 201, response.text
        return response.json()["fault"]

    def script(self, **body: Any) -> list[dict[str, Any]]:
        response = self.post("/_sandbox/jobs", json={"account": "acme", **body})
        assert response.status_code == 201, response.text
        items: list[dict[str, Any]] = response.json()["items"]
        return items


MakePeer = Callable[..., Peer]


@pytest.fixture
def make_peer() -> MakePeer:
    def make(**more: Any) -> Peer:
        clock = Clock()
        return Peer(clock, Sandbox(**{"seed": 1, "rate_limit": (1000, 60.0), **more}).app(clock=clock))

    return make


@pytest.fixture
def peer(make_peer: MakePeer) -> Peer:
    return make_peer()


def refused(response: Any, status: int, code: str) -> None:
    body = response.json()
    assert (response.status_code, body["error"]["code"]) == (status, code)
    assert list(body) == ["ok", "error"]
    assert body["ok"] is False
    assert list(body["error"]) == ["code", "message", "request_id"]
    assert body["error"]["request_id"].startswith("req_")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "api_key_missing"),
        ({"Authorization": "Bearer "}, "api_key_missing"),
        ({"Authorization": "Bearer nonsense"}, "api_key_invalid"),
        ({"x-api-key": "sk-revor-" + "x" * 300}, "api_key_invalid"),
        ({"x-api-key": "sk-revor-expired-acme"}, "api_key_expired"),
        ({"Authorization": "Bearer sk-revor-revoked"}, "api_key_revoked"),
        ({"Authorization": "Bearer nonsense", "x-api-key": "sk-revor-acme"}, "api_key_invalid"),
    ],
)
def test_missing_and_invalid_keys_are_refused(peer: Peer, headers: dict[str, str], code: str) -> None:
    response = peer.get(ACCOUNTS, headers=headers)
    refused(response, 401, code)
    assert response.headers["X-RateLimit-Remaining"] == "1000"


def without(body: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != name}


@pytest.mark.parametrize(
    "body",
    [
        [],
        None,
        "text",
        {},
        without(EMAIL, "account_id"),
        {**EMAIL, "account_id": " "},
        {**EMAIL, "channel": "fax"},
        {**EMAIL, "action": "dispatch"},
        {**EMAIL, "channel": "linkedin"},  # its recipient has an address, no profile_url
        {**EMAIL, "recipient": {"address": 3}},
        {**EMAIL, "content": {"subject": "No text"}},
        {**EMAIL, "content": {"text": "x", "attachments": "file"}},
        {**EMAIL, "metadata": [1]},
        {**EMAIL, "min_channel_task_interval_seconds": 86_401},
        {**EMAIL, "min_channel_task_interval_seconds": 60.5},
    ],
)
def test_invalid_dispatch_is_refused(peer: Peer, body: Any) -> None:
    refused(peer.create(body), 400, "invalid_request")
    assert peer.get("/_sandbox/jobs").json()["jobs"] == []


def test_null_is_a_field_that_is_left_out(peer: Peer) -> None:
    nulls = dict.fromkeys(("count", "connect_account_id", "action", "min_channel_task_interval_seconds", "in_lane"))
    assert peer.post("/_sandbox/jobs", json={"account": "acme", **nulls}).status_code == 201


def test_the_same_key_and_body_get_the_original_answer(peer: Peer) -> None:
    first = peer.create(idempotency_key="one")
    again = peer.create(dict(reversed(EMAIL.items())), idempotency_key="one")
    assert (again.status_code, again.content) == (202, first.content)
    assert len(peer.get("/_sandbox/jobs").json()["jobs"]) == 1
    assert peer.create(idempotency_key="two").json()["item"]["id"] != first.json()["item"]["id"]


def test_a_job_as_documented(peer: Peer) -> None:
    (made,) = peer.script(channel="email", final="succeeded", attempt_failures=0, run_seconds=7, start_delay_seconds=1)
    peer.clock.now += 8
    body = peer.job(made["id"]).json()
    expected = SAMPLES["job_succeeded"]["body"]
    body["request_id"], body["item"]["id"] = "req_xxx", "job_uuid"
    body["item"]["result"]["message_id"] = "message_xxx"
    assert body == expected
    assert list(body["item"]) == list(expected["item"])


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("429", 429, "api_rate_limit_exceeded"),
        ("500", 500, "internal_error"),
        ("404", 404, "external_api_job_not_found"),
        ("revoked_key", 401, "api_key_revoked"),
    ],
)
def test_error_faults(peer: Peer, kind: str, status: int, code: str) -> None:
    job_id = peer.create().json()["item"]["id"]
    peer.fault(kind=kind, count=2)
    refused(peer.job(job_id), status, code)
    refused(peer.create(), status, code)
    assert peer.job(job_id).status_code == 200
    assert len(peer.get("/_sandbox/jobs").json()["jobs"]) == 1  # the refused creation made nothing


@pytest.mark.parametrize(("after_effect", "jobs"), [(True, 1), (False, 0)])
def test_timeout_fault_before_or_after_the_effect(peer: Peer, after_effect: bool, jobs: int) -> None:
    peer.fault(kind="timeout", hold_seconds=0, after_effect=after_effect)
    with pytest.raises(ConnectionCut):
        peer.create()
    assert len(peer.get("/_sandbox/jobs").json()["jobs"]) == jobs
    assert peer.get("/_sandbox/requests").json()["by_status"] == {"0": 1}


def test_true_times_agree_with_every_read() -> None:
    clock = Clock()
    mix = Mix(succeeded=1, retried=1, failed=1, cancelled=1)
    world = World(seed=4, speed=60, mix=mix)
    peer = Peer(clock, Sandbox(rate_limit=None).app(clock=clock, world=world))
    for _ in range(25):
        peer.create()
    jobs = peer.get("/_sandbox/jobs").json()["jobs"]
    assert len(jobs) == 25
    for job in jobs:
        assert job["finished"] is False
        for transition in job["transitions"]:
            clock.now = transition["at_epoch_seconds"]
            assert from_rfc3339(transition["at"]) == pytest.approx(clock.now)
            assert peer.job(job["id"]).json()["item"]["status"] == transition["status"]
        assert peer.job(job["id"]).json()["item"] == job["final_item"]
        assert peer.get(f"/_sandbox/jobs/{job['id']}").json()["job"]["finished"] is True
    assert peer.get("/_sandbox/jobs/none").status_code == 404


def test_scripted_jobs(peer: Peer) -> None:
    made = peer.script(
        count=2,
        channel="whatsapp",
        final="failed",
        attempt_failures=1,
        error_code="insufficient_credits",
        run_seconds=2,
        start_delay_seconds=1,
        retry_pause_seconds=3,
        waiting_status="scheduled",
        in_lane=False,
    )
    for item in made:
        job = peer.get(f"/_sandbox/jobs/{item['id']}").json()["job"]
        assert [(t["status"], round(t["at_epoch_seconds"] - NOW, 3)) for t in job["transitions"]] == [
            ("queued", 0),
            ("running", 1),
            ("scheduled", 3),
            ("running", 7),
            ("failed", 9),
        ]
        assert job["final_item"]["error"]["code"] == "insufficient_credits"
        assert job["failed_attempts"] == 1
