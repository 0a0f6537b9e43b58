"""The sandbox over HTTP: Revor's API v1 as documented, and the sandbox's own calls."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from relay.clock import from_rfc3339
from relay.sandbox.fate import Mix
from relay.sandbox.faults import KINDS
from relay.sandbox.idempotency import IdempotencyStore
from relay.sandbox.lifecycle import Behaviour
from relay.sandbox.server import MAX_BODY_BYTES, Sandbox
from relay.sandbox.wire import Answer, ConnectionCut
from relay.sandbox.world import World

SAMPLES = json.loads((Path(__file__).parents[2] / "fixtures" / "revor-samples.json").read_text())
NOW = 1_779_271_200.0  # 2026-05-20T10:00:00Z

ACCOUNTS = "/api/v1/connect/accounts"
DISPATCHES = "/api/v1/outreach/dispatches"
LIKES = "/api/v1/outreach/linkedin/post-likes"
JOBS = "/api/v1/outreach/jobs/"
EMAIL = SAMPLES["create_dispatch_request_email"]["body"]
LIKE = SAMPLES["post_like_request"]["body"]
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


# Keys


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "api_key_missing"),
        ({"Authorization": "Bearer "}, "api_key_missing"),
        ({"Authorization": "Basic c2stcmV2b3ItYWNtZQ=="}, "api_key_missing"),
        ({"Authorization": "Bearer nonsense"}, "api_key_invalid"),
        ({"x-api-key": "sk-revor-"}, "api_key_invalid"),
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


def test_the_error_envelope_is_the_documented_one(peer: Peer) -> None:
    sample = SAMPLES["error_envelope"]
    response = peer.get(ACCOUNTS, headers={"x-api-key": "wrong"})
    body = response.json()
    body["error"]["request_id"] = "req_xxx"
    assert (response.status_code, body) == (sample["http"], sample["body"])


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer sk-revor-acme"},
        {"authorization": "bearer sk-revor-acme-second"},
        {"x-api-key": "sk-revor-acme"},
        {"Authorization": "Basic eA==", "x-api-key": "sk-revor-acme"},
    ],
)
def test_both_headers_and_every_key_of_the_account_see_its_jobs(peer: Peer, headers: dict[str, str]) -> None:
    job_id = peer.create().json()["item"]["id"]
    assert peer.job(job_id, headers=headers).status_code == 200


def test_with_both_headers_bearer_wins(peer: Peer) -> None:
    job_id = peer.create().json()["item"]["id"]
    both = {"Authorization": "Bearer sk-revor-acme", "x-api-key": "sk-revor-other"}
    assert peer.job(job_id, headers=both).status_code == 200
    both = {"Authorization": "Bearer sk-revor-other", "x-api-key": "sk-revor-acme"}
    refused(peer.job(job_id, headers=both), 404, "external_api_job_not_found")


def test_read_only_key_cannot_create(peer: Peer) -> None:
    job_id = peer.create().json()["item"]["id"]
    key = {"Authorization": "Bearer sk-revor-readonly-acme"}
    assert peer.job(job_id, headers=key).status_code == 200
    refused(peer.post(DISPATCHES, json=EMAIL, headers=key), 403, "permission_denied")
    refused(peer.post(DISPATCHES, json=EMAIL, headers={"x-api-key": "sk-revor-readonly"}), 403, "permission_denied")


# Connect accounts


def test_accounts_as_documented(peer: Peer) -> None:
    body = peer.get(f"{ACCOUNTS}?channel=linkedin&can_send=true", headers=KEY).json()
    body["request_id"] = "req_xxx"
    assert body == SAMPLES["accounts"]["body"]
    assert list(body) == list(SAMPLES["accounts"]["body"])


@pytest.mark.parametrize(
    ("query", "channels"),
    [
        ("", ["linkedin", "email", "whatsapp", "linkedin"]),
        ("?channel=email", ["email"]),
        ("?can_send=false", ["linkedin"]),
        ("?channel=whatsapp&can_send=false", []),
    ],
)
def test_account_filters(peer: Peer, query: str, channels: list[str]) -> None:
    items = peer.get(ACCOUNTS + query, headers=KEY).json()["items"]
    assert [item["channel"] for item in items] == channels


def test_invalid_account_filters_are_refused(peer: Peer) -> None:
    refused(peer.get(f"{ACCOUNTS}?channel=fax", headers=KEY), 400, "invalid_channel")
    refused(peer.get(f"{ACCOUNTS}?can_send=maybe", headers=KEY), 400, "invalid_can_send")


# Creating


@pytest.mark.parametrize("channel", ["email", "linkedin", "whatsapp"])
def test_documented_dispatches_work_unchanged(peer: Peer, channel: str) -> None:
    response = peer.create(SAMPLES[f"create_dispatch_request_{channel}"]["body"])
    sample = SAMPLES["create_response"]
    assert response.status_code == sample["http"]
    body = response.json()
    assert body["request_id"].startswith("req_")
    body["request_id"], body["item"]["id"] = "req_xxx", "job_uuid"
    assert body == {**sample["body"], "item": {**sample["body"]["item"], "channel": channel}}
    assert list(body["item"]) == list(sample["body"]["item"])


def test_documented_post_like_works_unchanged(peer: Peer) -> None:
    response = peer.create(LIKE, LIKES)
    assert response.status_code == 202
    item = response.json()["item"]
    assert (item["status"], item["action"], item["channel"]) == ("queued", "outreach.linkedin.post_like", "linkedin")


def test_jobs_of_a_channel_share_a_lane(peer: Peer) -> None:
    peer.create(LIKE, LIKES)
    linkedin = SAMPLES["create_dispatch_request_linkedin"]["body"]
    item = peer.create({**linkedin, "min_channel_task_interval_seconds": 200}).json()["item"]
    assert item["scheduled_at"] == "2026-05-20T10:03:20.000Z"
    assert peer.create().json()["item"]["scheduled_at"] == "2026-05-20T10:00:00.000Z"


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
        without(EMAIL, "channel"),
        without(EMAIL, "action"),
        without(EMAIL, "recipient"),
        without(EMAIL, "content"),
        {**EMAIL, "account_id": " "},
        {**EMAIL, "channel": "fax"},
        {**EMAIL, "action": "dispatch"},
        {**EMAIL, "channel": "linkedin"},  # its recipient has an address, no profile_url
        {**EMAIL, "recipient": "alex@example.com"},
        {**EMAIL, "recipient": {"address": 3}},
        {**EMAIL, "recipient": {"address": "a@example.com", "name": 3}},
        {**EMAIL, "content": {"subject": "No text"}},
        {**EMAIL, "content": {"text": ""}},
        {**EMAIL, "content": {"text": "x", "attachments": "file"}},
        {**EMAIL, "metadata": [1]},
        {**EMAIL, "min_channel_task_interval_seconds": 86_401},
        {**EMAIL, "min_channel_task_interval_seconds": 60.5},
        {**EMAIL, "min_channel_task_interval_seconds": True},
    ],
)
def test_invalid_dispatch_is_refused(peer: Peer, body: Any) -> None:
    refused(peer.create(body), 400, "invalid_request")
    assert peer.get("/_sandbox/jobs").json()["jobs"] == []


@pytest.mark.parametrize(
    "body",
    [
        without(LIKE, "profile_url"),
        without(LIKE, "content"),
        {**LIKE, "topic": "sales"},
        {**LIKE, "post_limit": 51},
        {**LIKE, "post_limit": 0},
        {**LIKE, "locale": "de"},
        {**LIKE, "account_id": 3},
    ],
)
def test_invalid_post_like_is_refused(peer: Peer, body: Any) -> None:
    refused(peer.create(body, LIKES), 400, "invalid_request")


@pytest.mark.parametrize("subject", ["content", "topic", "intent"])
def test_minimal_post_like_is_accepted(peer: Peer, subject: str) -> None:
    body = {"profile_url": LIKE["profile_url"], subject: "x", "unknown": 1}
    assert peer.create(body, LIKES).status_code == 202


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_body_that_is_not_json_is_refused(peer: Peer, content: bytes) -> None:
    refused(peer.post(DISPATCHES, content=content, headers=KEY), 400, "invalid_request")


def test_oversized_body_is_refused(peer: Peer) -> None:
    response = peer.post(DISPATCHES, content=b" " * (MAX_BODY_BYTES + 1), headers=KEY)
    refused(response, 400, "invalid_request")
    assert "X-RateLimit-Limit" in response.headers


def test_unusable_senders_are_refused(peer: Peer) -> None:
    refused(peer.create({**EMAIL, "account_id": "connect_account_nobody"}), 404, "account_not_found")
    refused(peer.create({**EMAIL, "account_id": "connect_account_whatsapp"}), 409, "account_channel_conflict")
    refused(peer.create({**LIKE, "account_id": "connect_account_email"}, LIKES), 409, "account_channel_conflict")
    refused(peer.create({**LIKE, "account_id": "connect_account_signed_out"}, LIKES), 409, "account_cannot_send")
    assert peer.create({**EMAIL, "account_id": "connect_account_email"}).status_code == 202


def listed(peer: Peer) -> dict[str, dict[str, Any]]:
    items: list[dict[str, Any]] = peer.get(ACCOUNTS, headers=KEY).json()["items"]
    assert peer.get("/_sandbox/accounts").json()["accounts"] == items
    return {item["account_id"]: item for item in items}


@pytest.mark.parametrize(
    ("change", "status", "can_send"),
    [
        ({"status": "credentials"}, "credentials", False),
        ({"status": "error"}, "error", False),
        ({"can_send": False}, "ok", False),
        ({"status": "error", "can_send": True}, "error", True),
        ({"status": "ok"}, "ok", True),
    ],
)
def test_an_account_is_broken_and_repaired(peer: Peer, change: Any, status: str, can_send: bool) -> None:
    answer = peer.post("/_sandbox/accounts", json={"id": "connect_account_email", **change})
    shown = listed(peer)["connect_account_email"]
    assert (answer.status_code, answer.json()["account"]) == (200, shown)
    assert (shown["status"], shown["can_send"]) == (status, can_send)
    created = peer.create({**EMAIL, "account_id": "connect_account_email"})
    assert created.status_code == (202 if can_send else 409)
    peer.post("/_sandbox/accounts", json={"id": "connect_account_email", "status": "ok"})
    assert peer.create({**EMAIL, "account_id": "connect_account_email"}).status_code == 202


def test_an_account_is_added_and_removed(peer: Peer) -> None:
    added = {"id": "new", "channel": "email", "name": "Ada"}
    assert peer.post("/_sandbox/accounts", json=added).status_code == 200
    assert (listed(peer)["new"]["name"], listed(peer)["new"]["can_send"]) == ("Ada", True)
    assert peer.create({**EMAIL, "account_id": "new"}).status_code == 202
    assert peer.delete("/_sandbox/accounts/new").status_code == 200
    assert "new" not in listed(peer)
    refused_account = peer.create({**EMAIL, "account_id": "new"})
    refused(refused_account, 404, "account_not_found")
    assert peer.delete("/_sandbox/accounts/new").json()["error"]["code"] == "account_not_found"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"id": ""},
        {"id": 3, "status": "ok"},
        {"id": "x" * 201, "channel": "email"},
        {"id": "connect_account_email", "status": "broken"},
        {"id": "connect_account_email", "can_send": "no"},
        {"id": "connect_account_email", "channel": "fax"},
        {"id": "connect_account_email", "since": 1},
        {"id": "nobody", "status": "ok"},
    ],
)
def test_an_unclear_change_of_an_account_is_refused(peer: Peer, body: Any) -> None:
    before = listed(peer)
    answer = peer.post("/_sandbox/accounts", json=body)
    assert (answer.status_code, answer.json()["ok"]) in ((400, False), (404, False))
    assert listed(peer) == before


@pytest.mark.parametrize("removed", [False, True])
def test_jobs_of_a_broken_account_fail_as_the_upstream_s_do(peer: Peer, removed: bool) -> None:
    """Attempts that started before go on; jobs of other accounts are not affected; a repair holds for what is left."""
    fate = {"final": "succeeded", "start_delay_seconds": 10, "run_seconds": 5, "attempt_failures": 0}
    mine = {**fate, "connect_account_id": "connect_account_email"}
    (running,) = peer.script(**{**mine, "start_delay_seconds": 0}, in_lane=False)
    jobs = peer.script(**mine, count=3)
    (other,) = peer.script(**fate, connect_account_id="connect_account_whatsapp", in_lane=False)

    peer.clock.now += 1
    if removed:
        assert peer.delete("/_sandbox/accounts/connect_account_email").status_code == 200
    else:
        peer.post("/_sandbox/accounts", json={"id": "connect_account_email", "status": "credentials"})
    peer.clock.now += 40
    peer.post("/_sandbox/accounts", json={"id": "connect_account_email", "status": "ok", "channel": "email"})
    peer.clock.now += 600

    items = [peer.job(job["id"]).json()["item"] for job in (running, *jobs, other)]
    assert [item["status"] for item in items] == ["succeeded", "failed", "succeeded", "succeeded", "succeeded"]
    failed = SAMPLES["job_failed"]["body"]["item"]["error"]
    assert (items[1]["error"], items[1]["result"], items[1]["attempt_count"]) == (failed, None, 1)
    truth = peer.get(f"/_sandbox/jobs/{jobs[0]['id']}").json()["job"]
    assert truth["final_item"] == items[1]
    assert [step["status"] for step in truth["transitions"]] == ["queued", "running", "failed"]


def test_a_retry_on_a_broken_account_is_the_last_attempt(peer: Peer) -> None:
    fate = {"final": "succeeded", "attempt_failures": 2, "start_delay_seconds": 0, "run_seconds": 5}
    (job,) = peer.script(**fate, retry_pause_seconds=30)
    peer.clock.now += 2
    peer.post("/_sandbox/accounts", json={"id": "connect_account_xxx", "can_send": False})
    truth = peer.get(f"/_sandbox/jobs/{job['id']}").json()["job"]
    statuses = [step["status"] for step in truth["transitions"]]
    assert (statuses[1], statuses[3:], truth["failed_attempts"]) == ("running", ["running", "failed"], 1)
    assert truth["final_item"]["error"]["code"] == "connect_account_reconnect_required"
    peer.clock.now += 600
    peer.post("/_sandbox/accounts", json={"id": "connect_account_xxx", "can_send": True})
    assert peer.job(job["id"]).json()["item"] == truth["final_item"]


def test_a_script_names_an_account_that_exists(peer: Peer) -> None:
    answer = peer.post("/_sandbox/jobs", json={"connect_account_id": "nobody"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "account_not_found")


def test_full_world_answers_503() -> None:
    peer = Peer(Clock(), Sandbox(rate_limit=None).app(clock=Clock(), world=World(max_jobs=1)))
    assert peer.create().status_code == 202
    refused(peer.create(), 503, "task_unavailable")


# Idempotency


def test_the_same_key_and_body_get_the_original_answer(peer: Peer) -> None:
    first = peer.create(idempotency_key="one")
    again = peer.create(dict(reversed(EMAIL.items())), idempotency_key="one")
    assert (again.status_code, again.content) == (202, first.content)
    assert len(peer.get("/_sandbox/jobs").json()["jobs"]) == 1
    assert peer.create(idempotency_key="two").json()["item"]["id"] != first.json()["item"]["id"]


def test_another_body_is_a_conflict(peer: Peer) -> None:
    peer.create(idempotency_key="one")
    refused(peer.create({**EMAIL, "metadata": {"a": 1}}, idempotency_key="one"), 409, "idempotency_conflict")


def test_a_key_belongs_to_a_path_and_an_api_key(peer: Peer) -> None:
    first = peer.create(idempotency_key="one").json()["item"]["id"]
    assert peer.create(LIKE, LIKES, idempotency_key="one").status_code == 202
    other = peer.post(DISPATCHES, json=EMAIL, headers={"x-api-key": "sk-revor-acme-2", "Idempotency-Key": "one"})
    assert other.json()["item"]["id"] != first


def test_refusal_is_not_stored_for_the_key(peer: Peer) -> None:
    peer.fault(kind="503", method="POST")
    refused(peer.create(idempotency_key="one"), 503, "task_unavailable")
    refused(peer.create({}, idempotency_key="one"), 400, "invalid_request")
    assert peer.create(idempotency_key="one").status_code == 202


def test_overlong_idempotency_key_is_refused(peer: Peer) -> None:
    refused(peer.create(idempotency_key="k" * 256), 400, "invalid_request")


def test_stored_answers_are_bounded() -> None:
    idempotency_store = IdempotencyStore(max_answers=1)
    first = {"api_key": "k", "path": "/", "name": "one", "body": {}}
    second = {**first, "name": "two"}
    for place in (first, second):
        idempotency_store.keep(Answer(status=202, body=b""), **place)
    assert idempotency_store.find(**first) is None
    assert idempotency_store.find(**second) is not None


# Reading


def test_a_job_as_documented(peer: Peer) -> None:
    (made,) = peer.script(channel="email", final="succeeded", attempt_failures=0, run_seconds=7, start_delay_seconds=1)
    peer.clock.now += 8
    body = peer.job(made["id"]).json()
    expected = SAMPLES["job_succeeded"]["body"]
    body["request_id"], body["item"]["id"] = "req_xxx", "job_uuid"
    body["item"]["result"]["message_id"] = "message_xxx"
    assert body == expected
    assert list(body["item"]) == list(expected["item"])


def test_jobs_of_other_accounts_are_not_found(peer: Peer) -> None:
    job_id = peer.create().json()["item"]["id"]
    refused(peer.job(job_id, headers={"x-api-key": "sk-revor-other"}), 404, "external_api_job_not_found")
    refused(peer.job("00000000-0000-4000-8000-000000000000"), 404, "external_api_job_not_found")


@pytest.mark.parametrize(
    "path", ["/api/v1/nothing", "/api/v1/outreach/jobs/", "/api/v1/outreach/jobs/a/b", "/api/v2/x"]
)
def test_unknown_paths_are_not_found(peer: Peer, path: str) -> None:
    refused(peer.get(path, headers=KEY), 404, "not_found")


def test_paths_outside_the_api_need_no_key(peer: Peer) -> None:
    refused(peer.get("/"), 404, "not_found")
    refused(peer.get("/_sandbox/nothing"), 404, "not_found")


@pytest.mark.parametrize(("method", "path"), [("GET", DISPATCHES), ("POST", ACCOUNTS), ("DELETE", JOBS + "x")])
def test_wrong_methods_are_refused(peer: Peer, method: str, path: str) -> None:
    refused(peer.request(method, path, headers=KEY), 405, "method_not_allowed")


def test_request_ids_are_unique_and_follow_the_seed(make_peer: MakePeer) -> None:
    def ids() -> list[str]:
        peer = make_peer()
        return [peer.get(ACCOUNTS, headers=KEY).json()["request_id"] for _ in range(5)]

    assert ids() == ids()
    assert len(set(ids())) == 5


# Limits


def test_the_rate_limit_over_http(make_peer: MakePeer) -> None:
    peer = make_peer(rate_limit=(2, 60.0), account_rate_limit=3)
    first = peer.get(ACCOUNTS, headers=KEY)
    assert {name: value for name, value in first.headers.items() if "ratelimit" in name} == {
        "x-ratelimit-limit": "2",
        "x-ratelimit-remaining": "1",
        "x-ratelimit-window-ms": "60000",
        "x-user-ratelimit-limit": "3",
        "x-user-ratelimit-remaining": "2",
    }
    assert "retry-after" not in first.headers
    refused(peer.job("x"), 404, "external_api_job_not_found")
    peer.clock.now += 12.5
    third = peer.create()
    refused(third, 429, "api_rate_limit_exceeded")
    assert third.headers["retry-after"] == "48"
    second_key = {"x-api-key": "sk-revor-acme-2"}
    assert peer.get(ACCOUNTS, headers=second_key).status_code == 200
    refused(peer.get(ACCOUNTS, headers=second_key), 429, "api_rate_limit_exceeded")  # the account's
    peer.clock.now += 48
    assert peer.create().status_code == 202


def test_speed_divides_the_window_and_retry_after(make_peer: MakePeer) -> None:
    peer = make_peer(rate_limit=(1, 60.0), speed=60.0)
    assert peer.get(ACCOUNTS, headers=KEY).headers["x-ratelimit-window-ms"] == "1000"
    peer.clock.now += 0.25
    response = peer.get(ACCOUNTS, headers=KEY)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "0.750"


def test_limit_can_count_only_reads_of_jobs(make_peer: MakePeer) -> None:
    peer = make_peer(rate_limit=(1, 60.0), limit_reads_only=True)
    for _ in range(3):
        response = peer.create()
        assert response.status_code == 202
        assert response.headers["x-ratelimit-remaining"] == "1"
    assert peer.job(response.json()["item"]["id"]).status_code == 200
    refused(peer.job("x"), 429, "api_rate_limit_exceeded")
    assert peer.create().headers["x-ratelimit-remaining"] == "0"


def test_without_a_limit_there_are_no_headers(make_peer: MakePeer) -> None:
    response = make_peer(rate_limit=None).get(ACCOUNTS, headers=KEY)
    assert not [name for name in response.headers if "ratelimit" in name]


# Faults


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("429", 429, "api_rate_limit_exceeded"),
        ("500", 500, "internal_error"),
        ("503", 503, "task_unavailable"),
        ("403", 403, "permission_denied"),
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


def test_429_fault_has_the_headers_of_a_429(peer: Peer) -> None:
    peer.fault(kind=429)
    peer.fault(kind=429, retry_after_seconds=0.5)
    peer.fault(kind=503, retry_after_seconds=7)
    first, second, third = (peer.get(ACCOUNTS, headers=KEY) for _ in range(3))
    assert (first.headers["retry-after"], first.headers["x-ratelimit-remaining"]) == ("1", "0")
    assert second.headers["retry-after"] == "0.500"
    assert (third.status_code, third.headers["retry-after"]) == (503, "7")


def test_502_fault_is_a_page_and_can_come_after_the_effect(peer: Peer) -> None:
    peer.fault(kind="502", after_effect=True)
    response = peer.create(idempotency_key="one")
    assert response.status_code == 502
    assert response.headers["content-type"] == "text/html"
    (job,) = peer.get("/_sandbox/jobs").json()["jobs"]
    assert peer.create(idempotency_key="one").json()["item"]["id"] == job["id"]


def test_corrupted_bodies(peer: Peer) -> None:
    job_id = peer.create().json()["item"]["id"]
    peer.fault(kind="malformed_json")
    with pytest.raises(json.JSONDecodeError):
        peer.job(job_id).json()
    peer.fault(kind="wrong_content_type")
    page = peer.job(job_id)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    peer.fault(kind="oversized", size_bytes=300_000)
    large = peer.job(job_id)
    assert len(large.content) == 300_000
    assert large.json()["item"]["id"] == job_id


def test_unknown_status_fault(peer: Peer) -> None:
    job_id = peer.create().json()["item"]["id"]
    peer.fault(kind="unknown_status")
    peer.fault(kind="unknown_status", status_value="dreaming")
    assert peer.get(ACCOUNTS, headers=KEY).status_code == 200  # loses no count
    assert [peer.job(job_id).json()["item"]["status"] for _ in range(3)] == ["awaiting_approval", "dreaming", "queued"]


def test_status_back_fault(peer: Peer) -> None:
    (made,) = peer.script(final="succeeded", attempt_failures=0, start_delay_seconds=1, run_seconds=7)
    peer.fault(kind="status_back")
    assert peer.job(made["id"]).json()["item"]["status"] == "queued"  # nothing to go back to: loses no count
    peer.clock.now += 2
    assert [peer.job(made["id"]).json()["item"]["status"] for _ in range(2)] == ["queued", "running"]
    peer.fault(kind="status_back")
    peer.clock.now += 6
    items = [peer.job(made["id"]).json()["item"] for _ in range(2)]
    assert [item["status"] for item in items] == ["running", "succeeded"]
    assert items[0]["finished_at"] is None


@pytest.mark.parametrize(("after_effect", "jobs"), [(True, 1), (False, 0)])
def test_timeout_fault_before_or_after_the_effect(peer: Peer, after_effect: bool, jobs: int) -> None:
    peer.fault(kind="timeout", hold_seconds=0, after_effect=after_effect)
    with pytest.raises(ConnectionCut):
        peer.create()
    assert len(peer.get("/_sandbox/jobs").json()["jobs"]) == jobs
    assert peer.get("/_sandbox/requests").json()["by_status"] == {"0": 1}


def test_fault_endpoints(peer: Peer) -> None:
    made = peer.fault(kind="500", share=0.5, path_prefix="/api/v1/outreach", method="get")
    assert (made["id"], made["share"], made["count"], made["method"]) == (1, 0.5, None, "GET")
    peer.fault(kind="timeout")
    assert [f["kind"] for f in peer.get("/_sandbox/faults").json()["faults"]] == ["500", "timeout"]
    assert peer.delete("/_sandbox/faults/1").json()["cleared"] == 1
    assert peer.delete("/_sandbox/faults").json()["cleared"] == 1
    assert peer.get("/_sandbox/faults").json() == {"ok": True, "faults": [], "kinds": list(KINDS)}
    wrong = peer.post("/_sandbox/faults", json={"kind": "fire"})
    assert wrong.status_code == 400
    assert "slow_drip" in wrong.json()["error"]["message"]
    assert peer.post("/_sandbox/faults", content=b"{").status_code == 400
    assert peer.post("/_sandbox/faults", content=b" " * 70_000).status_code == 400


# The sandbox's own calls


def test_overview_endpoint(peer: Peer) -> None:
    peer.create()
    overview = peer.get("/_sandbox").json()
    assert (overview["seed"], overview["speed"], overview["jobs"], overview["now"]) == (
        1,
        1.0,
        1,
        "2026-05-20T10:00:00.000Z",
    )


def test_true_times_agree_with_every_read() -> None:
    clock = Clock()
    mix = Mix(succeeded=1, retried=1, failed=1, cancelled=1)
    world = World(seed=4, behaviour=Behaviour(speed=60), mix=mix)
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


def test_true_lifecycle_has_the_digest_of_the_creating_body(peer: Peer) -> None:
    body = orjson.dumps({**EMAIL, "content": {"text": "one of a kind"}})
    headers = {**KEY, "Content-Type": "application/json", "Idempotency-Key": "one"}
    for _ in range(2):
        assert peer.post(DISPATCHES, content=body, headers=headers).status_code == 202
    peer.script()
    digests = [job["body_digest"] for job in peer.get("/_sandbox/jobs").json()["jobs"]]
    assert digests == [f"sha256:{sha256(body).hexdigest()}", None]


def test_true_lifecycles_are_paged(peer: Peer) -> None:
    peer.script(count=5)
    first = peer.get("/_sandbox/jobs?limit=3").json()
    second = peer.get(f"/_sandbox/jobs?limit=3&after={first['next_after']}").json()
    assert [job["index"] for job in first["jobs"] + second["jobs"]] == [0, 1, 2, 3, 4]
    assert (first["next_after"], second["next_after"]) == (2, None)
    assert peer.get("/_sandbox/jobs?limit=x").status_code == 400


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


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"count": 0},
        {"count": 10_001},
        {"count": True},
        {"account": "a-b"},
        {"account": 3},
        {"channel": "fax"},
        {"channel": []},
        {"action": "other"},
        {"final": "lost"},
        {"final": "cancelled", "attempt_failures": 1},
        {"error_code": "other"},
        {"run_seconds": -1},
        {"run_seconds": "1"},
        {"run_seconds": 1e9},
        {"skipped": 1},
        {"in_lane": "no"},
        {"runs_seconds": 1},
    ],
)
def test_invalid_scripts_are_refused(peer: Peer, body: Any) -> None:
    assert peer.post("/_sandbox/jobs", json=body).status_code == 400


def test_full_world_refuses_scripted_jobs() -> None:
    peer = Peer(Clock(), Sandbox(rate_limit=None).app(clock=Clock(), world=World(max_jobs=1)))
    assert peer.post("/_sandbox/jobs", json={"count": 2}).status_code == 503


def test_requests_are_counted(make_peer: MakePeer) -> None:
    peer = make_peer(rate_limit=(2, 60.0))
    job_id = peer.create().json()["item"]["id"]
    peer.job(job_id)
    peer.job(job_id)
    peer.get(ACCOUNTS)
    peer.get("/_sandbox/jobs")
    assert peer.get("/_sandbox/requests").json() == {
        "ok": True,
        "total": 4,
        "job_reads": 2,
        "by_kind": {"GET accounts": 1, "GET job": 2, "POST dispatch": 1},
        "by_status": {"200": 1, "202": 1, "401": 1, "429": 1},
        "counts": [
            {"method": "GET", "kind": "accounts", "status": 401, "count": 1},
            {"method": "GET", "kind": "job", "status": 200, "count": 1},
            {"method": "GET", "kind": "job", "status": 429, "count": 1},
            {"method": "POST", "kind": "dispatch", "status": 202, "count": 1},
        ],
    }
    assert peer.delete("/_sandbox/requests").json()["total"] == 0


@pytest.mark.parametrize("mode", ["start", "end"])
def test_counting_of_attempts_is_configurable(make_peer: MakePeer, mode: str) -> None:
    peer = make_peer(count_attempts=mode)
    (made,) = peer.script(final="succeeded", start_delay_seconds=1, run_seconds=7)
    peer.clock.now += 2
    assert peer.job(made["id"]).json()["item"]["attempt_count"] == (1 if mode == "start" else 0)


def test_websocket_is_closed(peer: Peer) -> None:
    with pytest.raises(WebSocketDisconnect) as error, peer.websocket_connect("/api/v1/x"):
        pass
    assert error.value.code == 1000
