"""The sandbox of any source over HTTP: the source's own calls, and the sandbox's."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from starlette.testclient import TestClient

from relay.sandbox.faults import ConnectionCut, FaultInjector
from relay.sandbox.limits import RequestCounts
from relay.sandbox.playback import Playback
from relay.sandbox.recorded import Calls, RecordedWorld, Recording

NOW = 1_779_271_200.0
KEY = {"Authorization": "Bearer k"}
DEFINITION: Mapping[str, Any] = {
    "credential": {"header": "Authorization", "format": "Bearer {key}"},
    "resources": {
        "runs": {"path": "/v1/runs/{id}", "creates": ["/v1/runs", {"path": "/v1/models/{owner}/runs", "id": "/run"}]},
        "tasks": {"path": "/v1/tasks/get?task={id}", "creates": ["/v1/tasks"]},
        "builds": {"path": "/repos/{+id}", "method": "POST"},
        "things": {"path": "/all/{+id}", "creates": [{"path": "/all/{+thing}", "methods": ["PUT", "DELETE"]}]},
    },
}
RECORDING: Mapping[str, Any] = {
    "headers": {"X-Request-Id": "req_1"},
    "errors": {
        "unauthorized": {"status": 401, "body": {"error": "no key"}},
        "rate_limited": {"status": 429, "headers": {"Retry-After": "9"}, "body": {"error": "slow down"}},
        "unavailable": {"status": 500, "body": {"error": "oops"}},
    },
    "resources": {
        "runs": {
            "id": "run_{random:6}",
            "created": {"status": 202, "headers": {"Location": "{base}/v1/runs/{id}"}, "body": {"run": "{id}"}},
            "job": {"id": "{id}", "state": "waiting", "name": "{body/name}"},
            "fates": {
                "done": {
                    "stages": [
                        {"seconds": 10},
                        {"seconds": 10, "show": {"state": "on"}, "headers": {"Retry-After": "3"}},
                        {"show": {"state": "done"}},
                    ]
                },
                "stopped": {"share": 0, "stages": [{"seconds": 10}, {"show": {"state": "stopped"}}]},
                "gone": {"share": 0, "stages": [{"status": 410, "show": {"state": None}}]},
            },
        },
        "tasks": {"id": "{number:9}", "job": {"task": "{id}"}, "fates": {"done": {"stages": [{}]}}},
        "builds": {"id": "o/r/{number:3}", "job": {"name": "{id}"}, "fates": {"done": {"stages": [{}]}}},
        "things": {
            "id": "a/b/{number:3}",
            "job": {"number": "{id:n}", "until": "{created+60:s}", "at": "{created+60}"},
            "created": {"status": 202, "headers": {"Location": "{base}/all/{id}"}},
            "fates": {"done": {"stages": [{"headers": {"Retry-After": "2"}}]}},
        },
    },
    "calls": [
        {"call": "GET /v1/me", "body": {"id": "me"}},
        {"call": "GET /all/me", "body": {"id": "me"}},
        {"call": "POST /v1/runs/{id}/stop", "fate": "stopped"},
        {"call": "DELETE /v1/any/{id}", "fate": "stopped"},
    ],
}


class Peer(TestClient):
    """A client of a sandbox whose clock only the test advances."""

    now = NOW

    def create(self, path: str = "/v1/runs", **body: Any) -> Any:
        return self.post(path, json=body, headers=KEY)

    def scripted(self, **body: Any) -> Any:
        response = self.post("/_sandbox/jobs", json=body)
        assert response.status_code == 201, response.text
        return response.json()["job"]

    def fault(self, **body: Any) -> None:
        assert self.post("/_sandbox/faults", json=body).status_code == 201

    def read(self, path: str, method: str = "GET") -> Any:
        return self.request(method, path, headers=KEY)


@pytest.fixture
def peer() -> Peer:
    world = RecordedWorld(recording=Recording.model_validate(RECORDING))
    made = Playback(
        name="mine",
        calls=Calls(DEFINITION),
        world=world,
        faults=FaultInjector(),
        counts=RequestCounts(),
        clock=lambda: client.now,
    )
    client = Peer(made.app())
    return client


def test_create_makes_a_job_that_is_read_as_it_goes_on(peer: Peer) -> None:
    made = peer.create(name="Ada")
    id = made.json()["run"]
    assert (made.status_code, made.headers["location"]) == (202, f"http://testserver/v1/runs/{id}")
    assert made.headers["x-request-id"] == "req_1"
    assert peer.read(f"/v1/runs/{id}").json() == {"id": id, "state": "waiting", "name": "Ada"}
    begins = [one["at_epoch_seconds"] for one in peer.get("/_sandbox/jobs").json()["jobs"][0]["stages"]]
    peer.now = begins[1]
    answer = peer.read(f"/v1/runs/{id}?any=1")
    assert (answer.json()["state"], answer.headers["retry-after"]) == ("on", "3")
    peer.now = begins[2]
    assert peer.read(f"/v1/runs/{id}").json()["state"] == "done"


@pytest.mark.parametrize(
    ("create", "id_at", "path", "method"),
    [
        ("/v1/models/ada/runs", "run", "/v1/runs/{}", "GET"),
        ("/v1/tasks", "task", "/v1/tasks/get?task={}", "GET"),
    ],
)
def test_creates_and_reads_have_the_source_s_paths(peer: Peer, create: str, id_at: str, path: str, method: str) -> None:
    id = peer.create(create).json()[id_at]
    assert peer.read(path.format(id), method).status_code == 200


def test_id_with_slashes_and_another_method(peer: Peer) -> None:
    id = peer.scripted(resource="builds")["id"]
    assert peer.read(f"/repos/{id}", "POST").json() == {"name": id}
    assert peer.read(f"/repos/{id}").status_code == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_create_with_other_methods_and_a_path_of_several_segments(peer: Peer, method: str) -> None:
    assert peer.read("/all/x/y").status_code == 404
    made = peer.read("/all/x/y?v=1", method)
    number = made.json()["number"]
    assert (made.status_code, made.headers["location"]) == (202, f"http://testserver/all/a/b/{number}")
    assert made.headers["retry-after"] == "2"
    assert made.json() == {"number": number, "until": int(NOW) + 60, "at": "2026-05-20T10:01:00.000Z"}
    assert peer.read(f"/all/a/b/{number}?v=1").status_code == 200


def test_answer_may_have_a_status_of_its_own(peer: Peer) -> None:
    assert peer.read(f"/v1/runs/{peer.scripted(fate='gone')['id']}").status_code == 410


def test_step_moves_a_job_on(peer: Peer) -> None:
    id = peer.scripted(resource="runs", fate="done")["id"]
    seen = []
    for _ in range(4):
        seen.append(peer.read(f"/v1/runs/{id}").json()["state"])
        assert peer.post(f"/_sandbox/jobs/{id}/step").status_code == 200
    assert seen == ["waiting", "on", "done", "done"]
    assert peer.post("/_sandbox/jobs/other/step").status_code == 404


def test_call_ends_a_job(peer: Peer) -> None:
    id = peer.create().json()["run"]
    assert peer.read(f"/v1/runs/{id}/stop", "POST").json()["state"] == "stopped"
    assert peer.read(f"/v1/runs/{id}").json()["state"] == "stopped"
    assert peer.read("/v1/runs/other/stop", "POST").status_code == 404
    task = peer.create("/v1/tasks").json()["task"]
    assert peer.read(f"/v1/any/{task}", "DELETE").status_code == 404, "its resource has no such fate"


def test_other_calls_and_unknown_ones(peer: Peer) -> None:
    assert peer.read("/v1/me").json() == peer.read("/all/me").json() == {"id": "me"}
    assert peer.read("/v1/other").status_code == 404
    assert peer.read("/v1/runs/run_other").json() == {"error": "not_found"}


def test_every_call_needs_a_key(peer: Peer) -> None:
    answer = peer.get("/v1/me")
    assert (answer.status_code, answer.json(), answer.headers["x-request-id"]) == (401, {"error": "no key"}, "req_1")
    assert peer.post("/v1/runs", json={}).status_code == 401
    assert peer.get("/_sandbox/jobs").json()["jobs"] == []


@pytest.mark.parametrize(
    ("fault", "status", "body", "retry_after"),
    [
        ({"kind": "429"}, 429, {"error": "slow down"}, "1"),
        ({"kind": "429", "retry_after_seconds": 4}, 429, {"error": "slow down"}, "4"),
        ({"kind": "503"}, 500, {"error": "oops"}, None),
        ({"kind": "404"}, 404, {"error": "not_found"}, None),
        ({"kind": "revoked_key"}, 401, {"error": "no key"}, None),
    ],
)
def test_faults_answer_as_the_source_does(
    peer: Peer, fault: Mapping[str, Any], status: int, body: Any, retry_after: str | None
) -> None:
    peer.fault(**fault)
    answer = peer.create()
    assert (answer.status_code, answer.json(), answer.headers.get("retry-after")) == (status, body, retry_after)
    assert peer.get("/_sandbox/jobs").json()["jobs"] == []
    assert peer.create().status_code == 202


def test_fault_after_the_effect_leaves_a_job(peer: Peer) -> None:
    peer.fault(kind="503", after_effect=True)
    assert peer.create().status_code == 500
    assert len(peer.get("/_sandbox/jobs").json()["jobs"]) == 1


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        ("malformed_json", lambda answer: answer.text.endswith(",,")),
        ("wrong_content_type", lambda answer: answer.headers["content-type"].startswith("text/html")),
        ("oversized", lambda answer: len(answer.content) > 2**20),
    ],
)
def test_answers_are_corrupted_on_their_way(peer: Peer, kind: str, broken: Callable[[Any], bool]) -> None:
    id = peer.create().json()["run"]
    peer.fault(kind=kind)
    assert broken(peer.read(f"/v1/runs/{id}"))
    assert peer.read(f"/v1/runs/{id}").json()["id"] == id


def test_silence_is_counted_as_no_answer(peer: Peer) -> None:
    peer.fault(kind="timeout", hold_seconds=0)
    with pytest.raises(ConnectionCut):
        peer.create()
    assert peer.get("/_sandbox/requests").json()["by_status"] == {"0": 1}


@pytest.mark.parametrize("kind", ["unknown_status", "status_back", "boom"])
def test_faults_that_it_cannot_make_are_refused(peer: Peer, kind: str) -> None:
    answer = peer.post("/_sandbox/faults", json={"kind": kind})
    assert answer.status_code == 400
    assert "503" in answer.json()["error"]["message"], "the known ones are named"
    assert kind not in peer.get("/_sandbox/faults").json()["kinds"]


def test_faults_are_listed_and_removed(peer: Peer) -> None:
    peer.fault(kind="500", count=5)
    assert [one["kind"] for one in peer.get("/_sandbox/faults").json()["faults"]] == ["500"]
    assert peer.delete("/_sandbox/faults").json()["cleared"] == 1
    assert peer.create().status_code == 202


def test_requests_are_counted_by_kind_and_status(peer: Peer) -> None:
    id = peer.create().json()["run"]
    peer.read(f"/v1/runs/{id}")
    peer.read("/v1/me")
    peer.read("/v1/other")
    peer.get("/v1/me")
    shown = peer.get("/_sandbox/requests").json()
    assert (shown["total"], shown["job_reads"]) == (5, 1)
    assert shown["by_kind"] == {"GET job": 1, "GET other": 1, "GET unknown": 2, "POST create": 1}
    assert shown["by_status"] == {"200": 2, "202": 1, "401": 1, "404": 1}
    peer.delete("/_sandbox/requests")
    assert peer.get("/_sandbox/requests").json()["total"] == 0


def test_unknown_resource_or_fate_is_answered_with_the_known_ones(peer: Peer) -> None:
    answers = [peer.post("/_sandbox/jobs", json=body).json() for body in ({"resource": "fate"}, {"fate": "runs"})]
    assert [one["error"]["message"] for one in answers] == [
        "resource: 'fate' is not recorded: known are runs, tasks, builds, things",
        "fate: 'runs' is not recorded: known are done, stopped, gone",
    ]


@pytest.mark.parametrize(
    "body", [{"resource": "other"}, {"fate": "other"}, {"resource": 5}, {"more": 1}, [1], "x"], ids=str
)
def test_jobs_that_are_not_recorded_are_refused(peer: Peer, body: Any) -> None:
    answer = peer.post("/_sandbox/jobs", json=body)
    assert (answer.status_code, answer.json()["ok"]) == (400, False)


def test_overview_names_source_and_resources(peer: Peer) -> None:
    peer.create()
    shown = peer.get("/_sandbox").json()
    assert (shown["source"], shown["jobs"], shown["resources"]) == ("mine", 1, ["runs", "tasks", "builds", "things"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"call": "POST /v1/runs/{id}/stop", "fate": "halted"}, "calls.0: no resource has the fate 'halted'"),
        ({"call": "POST /v1/stop", "fate": "stopped"}, "calls.0: a call that ends a job names it by {id}"),
    ],
)
def test_call_that_could_end_no_job_is_refused(call: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="calls") as caught:
        Recording.model_validate({**RECORDING, "calls": [call]})
    assert message in str(caught.value)
