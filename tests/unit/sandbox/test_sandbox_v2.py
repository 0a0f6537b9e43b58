"""The sandbox over HTTP: jobs of Revor's API v2, websets and credits."""

from json import JSONDecodeError
from typing import Any

import pytest

from relay.sandbox import server
from relay.sandbox.faults import ConnectionCut
from relay.sandbox.kinds import JOB_PATHS
from relay.sandbox.lifecycle import Mix
from relay.sandbox.server import Sandbox
from relay.sandbox.world import World
from tests.unit.sandbox.test_sandbox_api import KEY, NOW, Clock, Peer, refused

CREATES = [f"/api/v2/{path}" for path in JOB_PATHS]
RESEARCH, SETS = CREATES[0], "/api/v2/websets"
OTHER = {"Authorization": "Bearer sk-revor-other"}
ENDS = {"succeeded", "completed", "failed", "cancelled"}


def peer_of(*, mix: Mix | None = None, speed: float = 1.0, seed: int = 1, **more: Any) -> Peer:
    clock = Clock()
    world = World(seed=seed, speed=speed, mix=mix or Mix(succeeded=1, retried=0, failed=0, cancelled=0))
    return Peer(clock, Sandbox(**{"rate_limit": None, **more}).app(clock=clock, world=world))


@pytest.fixture
def peer() -> Peer:
    return peer_of()


def create(peer: Peer, path: str = RESEARCH, **headers: str) -> dict[str, Any]:
    """The new job, as the answer to its create shows it."""
    response = peer.create({"query": "Bakeries in Lyon"}, path, **headers)
    body = response.json()
    assert response.status_code in (200, 202), response.text
    assert body["ok"] is True
    assert body["request_id"].startswith("req_")
    item: dict[str, Any] = body["webset" if path == SETS else "item"]
    return item


def shown(peer: Peer, path: str, job_id: str) -> dict[str, Any]:
    response = peer.get(f"{SETS if path == SETS else '/api/v2/jobs'}/{job_id}", headers=KEY)
    assert response.status_code == 200, response.text
    item: dict[str, Any] = response.json()["item"]
    return item


def truth(peer: Peer, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = peer.get(f"/_sandbox/jobs/{job_id}").json()["job"]
    return job


def credits(peer: Peer) -> int:
    body = peer.get("/api/v2/credits", headers=KEY).json()
    assert list(body) == ["ok", "request_id", "available_credits"]
    left: int = body["available_credits"]
    return left


def statuses(job: dict[str, Any]) -> list[str]:
    return [one["status"] for one in job["transitions"]]


@pytest.mark.parametrize("path", CREATES)
def test_job_settles_before_its_end_and_is_billed_at_it(peer: Peer, path: str) -> None:
    made = create(peer, path)
    assert (made["status"], made["billing"]) == ("queued", None)
    job = truth(peer, made["id"])
    assert (job["resource"], statuses(job)) == ("jobs_v2", ["queued", "running", "settling", "succeeded"])
    assert job["action"] == path.removeprefix("/api/v2/").replace("/", ".").replace("-", "_")
    assert 2 <= job["transitions"][-1]["at_epoch_seconds"] - NOW <= 40
    for one in job["transitions"]:
        peer.clock.now = one["at_epoch_seconds"]
        item = shown(peer, path, made["id"])
        assert item["status"] == one["status"]
        assert (item["finished_at"], item["result"] is None, item["billing"] is None) == (
            (one["at"], False, False) if one["status"] == "succeeded" else (None, True, True)
        )
    assert item["billing"]["status"] == "charged"
    assert item == job["final_item"]


def test_job_has_the_fields_of_outreach_and_billing(peer: Peer) -> None:
    (outreach,) = peer.script()
    fields = list(peer.job(outreach["id"]).json()["item"])
    assert list(shown(peer, RESEARCH, create(peer)["id"])) == [*fields, "billing"]


@pytest.mark.parametrize(
    ("script", "ends", "charged"),
    [
        ({"final": "succeeded"}, ["queued", "running", "settling", "succeeded"], True),
        (
            {"final": "failed", "error_code": "insufficient_credits"},
            ["queued", "running", "settling", "failed"],
            False,
        ),
        ({"final": "failed", "error_code": "external_api_worker_unavailable"}, ["queued", "running", "failed"], False),
        ({"final": "cancelled"}, None, False),
    ],
)
def test_job_with_a_given_fate(peer: Peer, script: dict[str, Any], ends: list[str] | None, charged: bool) -> None:
    before = credits(peer)
    (made,) = peer.script(resource="jobs_v2", run_seconds=10, **script)
    job = truth(peer, made["id"])
    assert ends is None or statuses(job) == ends
    assert job["final_item"]["status"] == script["final"]
    assert (job["final_item"]["error"] or {}).get("code") == script.get("error_code")
    billing = job["final_item"]["billing"]
    assert (billing["status"], billing["credits"] > 0) == (("charged", True) if charged else ("not_charged", False))
    peer.clock.now += 10
    assert shown(peer, RESEARCH, made["id"]) == job["final_item"]
    assert credits(peer) == before - billing["credits"]


@pytest.mark.parametrize("resource", ["jobs_v2", "websets"])
def test_job_is_stuck_where_it_was_moved_by_hand(peer: Peer, resource: str) -> None:
    (made,) = peer.script(resource=resource, run_seconds=86_400)
    moved = [peer.post(f"/_sandbox/jobs/{made['id']}/step").json()["job"] for _ in range(2)]
    assert [one["finished"] for one in moved] == [False, False]
    last = {"jobs_v2": "settling", "websets": "verifying"}[resource]
    path = RESEARCH if resource == "jobs_v2" else SETS
    assert shown(peer, path, made["id"])["status"] == last
    peer.clock.now += 3600
    assert shown(peer, path, made["id"])["status"] == last
    assert peer.post(f"/_sandbox/jobs/{made['id']}/step").json()["job"]["finished"] is True
    ended = shown(peer, path, made["id"])
    assert ended["status"] in ENDS
    assert peer.post(f"/_sandbox/jobs/{made['id']}/step").json()["job"]["final_item"] == ended
    assert peer.post("/_sandbox/jobs/none/step").status_code == 404


def test_outreach_moves_on_by_hand_too(peer: Peer) -> None:
    (made,) = peer.script(final="succeeded", attempt_failures=1, run_seconds=7, retry_pause_seconds=30)
    for at, status in enumerate(("running", "queued", "running", "succeeded"), start=1):
        peer.clock.now = NOW + at
        peer.post(f"/_sandbox/jobs/{made['id']}/step")
        item = peer.job(made["id"]).json()["item"]
        assert item["status"].replace("scheduled", "queued") == status
    assert (item["started_at"], item["finished_at"]) == ("2026-05-20T10:00:03.000Z", "2026-05-20T10:00:04.000Z")


# --- waits


def test_create_that_prefers_to_wait_answers_with_the_finished_job() -> None:
    peer = peer_of(speed=1000)
    item = create(peer, prefer="respond-async, wait=20")
    assert (item["status"], item["billing"]["status"]) == ("succeeded", "charged")
    peer.clock.now = NOW + 1
    assert shown(peer, RESEARCH, item["id"]) == item


def test_wait_is_bounded(monkeypatch: pytest.MonkeyPatch, peer: Peer) -> None:
    monkeypatch.setattr(server, "MAX_WAIT_SECONDS", 0.01)
    assert create(peer, prefer="wait=999999")["status"] == "queued"
    assert "status" in create(peer, prefer="wait=soon")


def test_the_same_key_gets_the_same_answer_after_a_wait() -> None:
    peer = peer_of(speed=1000)
    first, again = [create(peer, idempotency_key="one", prefer="wait=20") for _ in range(2)]
    assert first == again
    assert first["status"] == "succeeded"
    refused(peer.create({"query": "other"}, RESEARCH, idempotency_key="one"), 409, "idempotency_conflict")
    assert len(peer.get("/_sandbox/jobs").json()["jobs"]) == 1


# --- websets


@pytest.mark.parametrize("seed", range(6))
def test_progress_of_a_webset_grows_and_never_goes_back(seed: int) -> None:
    peer = peer_of(seed=seed, mix=Mix(succeeded=1, retried=0, failed=1, cancelled=1))
    made = create(peer, SETS)
    assert made == {"id": made["id"], "status": "generating_criteria"}
    job = truth(peer, made["id"])
    begins = [one["at_epoch_seconds"] for one in job["transitions"]]
    stages = ["generating_criteria", "searching", "verifying"]
    assert statuses(job)[:-1] == stages[: len(begins) - 1]
    assert statuses(job)[-1] in {"completed", "failed", "cancelled"}
    if statuses(job)[-1] == "completed":
        assert 120 <= begins[-1] - begins[0] <= 3600
    seen: list[dict[str, Any]] = []
    length = begins[-1] - begins[0]
    for at in sorted({*begins, *(begins[0] + length * part / 40 for part in range(42))}):
        peer.clock.now = at
        item = shown(peer, SETS, made["id"])
        progress = item["progress"]
        assert progress["qualified"] <= min(progress["goal"], progress["verified"])
        assert progress["full"] is (progress["qualified"] == progress["goal"])
        assert (item["criteria"] != []) is (progress["stage"] != "generating_criteria")
        assert item["status"] in {progress["stage"], *ENDS}
        seen.append(progress)
    for name in ("verified", "qualified"):
        assert [one[name] for one in seen] == sorted(one[name] for one in seen)
    places = [stages.index(one["stage"]) for one in seen]
    assert places == sorted(places)
    assert {one["stop_reason"] for one in seen[:-2]} == {None}
    reason = ("goal_reached" if progress["full"] else "exhausted") if item["status"] == "completed" else None
    assert progress["stop_reason"] == reason
    assert (item["failure"] is not None) is (item["status"] == "failed")
    assert item == job["final_item"]


def test_webset_is_of_its_order(peer: Peer) -> None:
    body = {"query": "Bakeries in Lyon", "name": "Lyon", "goal": 7}
    made = peer.create(body, SETS).json()["webset"]
    item = shown(peer, SETS, made["id"])
    assert (item["query"], item["name"], item["progress"]["goal"]) == (*list(body.values())[:2], 7)


def test_failed_webset_says_why(peer: Peer) -> None:
    (made,) = peer.script(resource="websets", final="failed", error_code="insufficient_credits", run_seconds=300)
    peer.clock.now += 300
    item = shown(peer, SETS, made["id"])
    assert (item["status"], item["failure"]) == ("failed", {"code": "insufficient_credits"})


# --- refusals


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/v2/jobs/none", "external_api_job_not_found"),
        ("/api/v2/websets/none", "external_api_webset_not_found"),
        ("/api/v2/customs/none", "not_found"),
        ("/api/v2/jobs/", "not_found"),
    ],
)
def test_unknown_names(peer: Peer, path: str, code: str) -> None:
    refused(peer.get(path, headers=KEY), 404, code)


@pytest.mark.parametrize("path", [RESEARCH, SETS])
def test_job_is_of_its_kind_and_of_its_account(peer: Peer, path: str) -> None:
    job_id = create(peer, path)["id"]
    (outreach,) = peer.script()
    for place in ("/api/v1/outreach/jobs", "/api/v2/jobs", SETS):
        own = place == (SETS if path == SETS else "/api/v2/jobs")
        assert peer.get(f"{place}/{job_id}", headers=KEY).status_code == (200 if own else 404)
        assert peer.get(f"{place}/{job_id}", headers=OTHER).status_code == 404
        assert peer.get(f"{place}/{outreach['id']}", headers=KEY).status_code == (200 if "v1" in place else 404)


@pytest.mark.parametrize("path", [RESEARCH, SETS])
def test_create_that_is_no_object_or_not_allowed_is_refused(peer: Peer, path: str) -> None:
    refused(peer.create([], path), 400, "invalid_request")
    refused(peer.get(path, headers=KEY), 405, "method_not_allowed")
    readonly = {"Authorization": "Bearer sk-revor-readonly-acme"}
    refused(peer.post(path, json={}, headers=readonly), 403, "permission_denied")
    assert peer.get("/_sandbox/jobs").json()["jobs"] == []


@pytest.mark.parametrize("path", [RESEARCH, SETS])
def test_account_without_credits_creates_nothing_until_it_has_some(peer: Peer, path: str) -> None:
    told = peer.post("/_sandbox/credits", json={"account": "acme", "available_credits": 0}).json()
    assert (told["available_credits"], credits(peer)) == (0, 0)
    refused(peer.create({}, path), 402, "insufficient_credits")
    assert peer.post(path, json={}, headers=OTHER).status_code == 202
    peer.post("/_sandbox/credits", json={"account": "acme", "available_credits": 1})
    create(peer, path)
    peer.clock.now += 3600
    assert credits(peer) == 0  # never below
    assert peer.get("/_sandbox/credits?account=acme").json()["open_jobs"] == 0


def test_too_many_open_jobs_are_refused_until_one_ends(peer: Peer) -> None:
    peer.post("/_sandbox/credits", json={"account": "acme", "max_open_jobs": 2})
    for path in (RESEARCH, SETS):
        create(peer, path)
    answer = peer.create({}, RESEARCH)
    refused(answer, 429, "external_api_job_concurrency_limit_exceeded")
    assert answer.headers["Retry-After"] == "5"
    assert len(peer.get("/_sandbox/jobs").json()["jobs"]) == 2
    peer.clock.now += 40
    create(peer)


@pytest.mark.parametrize(
    "body", [{"available_credits": -1}, {"available_credits": "1"}, {"account": "a-b"}, {"credits": 3}, []]
)
def test_wrong_credits_are_refused(peer: Peer, body: Any) -> None:
    assert peer.post("/_sandbox/credits", json=body).status_code == 400


@pytest.mark.parametrize("field", [{"channel": "email"}, {"attempt_failures": 1}, {"in_lane": False}])
def test_scripts_of_outreach_are_refused_for_other_jobs(peer: Peer, field: dict[str, Any]) -> None:
    answer = peer.post("/_sandbox/jobs", json={"resource": "websets", **field})
    assert answer.status_code == 400
    assert next(iter(field)) in answer.json()["error"]["message"]


# --- faults


@pytest.mark.parametrize("path", [RESEARCH, SETS])
@pytest.mark.parametrize(("kind", "status"), [("429", 429), ("503", 503)])
def test_error_faults(peer: Peer, path: str, kind: str, status: int) -> None:
    job_id = create(peer, path)["id"]
    peer.fault(kind=kind, count=3, path_prefix="/api/v2/")
    assert peer.get("/api/v2/credits", headers=KEY).status_code == status
    assert peer.create({}, path).status_code == status
    read = f"{SETS if path == SETS else '/api/v2/jobs'}/{job_id}"
    assert [peer.get(read, headers=KEY).status_code for _ in range(2)] == [status, 200]
    assert len(peer.get("/_sandbox/jobs").json()["jobs"]) == 1


@pytest.mark.parametrize("path", [RESEARCH, SETS])
def test_lost_answer_of_a_create_leaves_a_job(peer: Peer, path: str) -> None:
    peer.fault(kind="timeout", hold_seconds=0)
    with pytest.raises(ConnectionCut):
        peer.create({}, path)
    assert len(peer.get("/_sandbox/jobs").json()["jobs"]) == 1


@pytest.mark.parametrize(("path", "first"), [(RESEARCH, "queued"), (SETS, "generating_criteria")])
def test_faults_of_reads(peer: Peer, path: str, first: str) -> None:
    job_id = create(peer, path)["id"]
    peer.fault(kind="status_back")  # waits for a job that has an earlier status
    assert shown(peer, path, job_id)["status"] == first
    peer.clock.now = truth(peer, job_id)["transitions"][1]["at_epoch_seconds"]
    assert [shown(peer, path, job_id)["status"] == first for _ in range(2)] == [True, False]
    peer.fault(kind="unknown_status", status_value="resting")
    assert shown(peer, path, job_id)["status"] == "resting"
    peer.fault(kind="malformed_json")
    with pytest.raises(JSONDecodeError):
        shown(peer, path, job_id)
