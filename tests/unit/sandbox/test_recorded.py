"""The world of recorded answers: fates, times and placeholders."""

import pytest
from pydantic import ValidationError

from relay.sandbox.recorded import Calls, RecordedWorld, Recording, pattern_of

NOW = 1_779_271_200.0
END = {"show": {"is": "done"}}
RECORDING = Recording.model_validate(
    {
        "answer": {"data": "{job}"},
        "resources": {
            "runs": {
                "id": "run_{random:6}",
                "created": {"status": 202, "headers": {"Location": "{base}/runs/{id}"}, "body": {"run": "{id}"}},
                "job": {"id": "{id}", "at": "{created}", "s": "{created:s}", "ms": "{created:ms}", "of": "{body/name}"},
                "fates": {
                    "done": {"stages": [{"seconds": 10, "show": {"is": "on", "since": "{at:s}"}}, END]},
                    "cut": {"share": 0, "stages": [{"seconds": 1}, {"status": 410, "show": {"is": "cut"}}]},
                },
            },
            "numbers": {"id": "{number:9}", "fates": {"done": {"stages": [{}]}}},
        },
    }
)


def test_job_shows_what_its_stages_say() -> None:
    world = RecordedWorld(recording=RECORDING)
    job = world.create("runs", NOW, body={"name": {"x": 1}})
    first, ended = world.reply(job, NOW, "http://x"), world.reply(job, job.begins[-1], "http://x")

    times = {"at": "2026-05-20T10:00:00.000Z", "s": 1779271200, "ms": 1779271200000}
    shown = {"id": job.id, **times, "of": {"x": 1}, "since": 1779271200}
    assert first.body == {"data": {**shown, "is": "on"}}
    assert ended.body == {"data": {**shown, "is": "done"}}
    assert str(job.id).startswith("run_")


def test_answer_to_a_create() -> None:
    world = RecordedWorld(recording=RECORDING)
    job = world.create("runs", NOW)
    created = world.created(job, "http://x")
    assert (created.status, created.body) == (202, {"run": job.id})
    assert created.headers == {"Location": f"http://x/runs/{job.id}"}


def test_number_stays_a_number() -> None:
    world = RecordedWorld(recording=RECORDING)
    job = world.create("numbers", NOW)
    assert isinstance(job.id, int)
    assert world.job("numbers", str(job.id)) is job
    assert world.created(job, "http://x").body == {"data": {}}


def test_same_seed_makes_the_same_jobs() -> None:
    jobs = [
        [world.create("runs", NOW) for _ in range(3)]
        for world in (RecordedWorld(recording=RECORDING, seed=7), RecordedWorld(recording=RECORDING, seed=7))
    ]
    assert jobs[0] == jobs[1]
    assert RecordedWorld(recording=RECORDING, seed=8).create("runs", NOW) != jobs[0][0]


def test_speed_divides_every_stage() -> None:
    slow, fast = (RecordedWorld(recording=RECORDING, speed=speed).create("runs", NOW) for speed in (1.0, 10.0))
    assert slow.begins[1] - NOW == pytest.approx(10 * (fast.begins[1] - NOW), abs=0.02)


def test_step_moves_a_job_to_its_next_stage() -> None:
    world = RecordedWorld(recording=RECORDING)
    job = world.step(world.create("runs", NOW), NOW + 0.5)
    assert job.begins == (NOW, NOW + 0.5)
    assert world.step(job, NOW + 1) == job
    assert world.reply(job, NOW + 0.5, "http://x").body["data"]["is"] == "done"


def test_call_ends_a_job_once() -> None:
    world = RecordedWorld(recording=RECORDING)
    job = world.end(world.create("runs", NOW), "cut", NOW + 0.25)
    assert (job.fate, world.reply(job, NOW + 0.25, "http://x").status) == ("cut", 410)
    assert world.end(job, "done", NOW + 9) == job


@pytest.mark.parametrize(("resource", "fate"), [("other", None), ("runs", "other")])
def test_what_is_not_recorded_is_refused(resource: str, fate: str | None) -> None:
    with pytest.raises(KeyError, match="other"):
        RecordedWorld(recording=RECORDING).create(resource, NOW, fate=fate)


def test_stage_without_seconds_is_the_last() -> None:
    fate = {"stages": [{"show": {}}, {"show": {}}]}
    with pytest.raises(ValidationError, match="every stage but the last has `seconds`"):
        Recording.model_validate({"resources": {"runs": {"fates": {"done": fate}}}})


@pytest.mark.parametrize(
    ("pattern", "path", "found"),
    [
        ("/v1/jobs/{id}", "/v1/jobs/a%2Fb", {"id": "a%2Fb"}),
        ("/v1/jobs/{id}", "/v1/jobs/a/b", None),
        ("/repos/{+id}", "/repos/o/r/actions/runs/1", {"id": "o/r/actions/runs/1"}),
        ("/v1/models/{owner}/{name}/predictions", "/v1/models/o/n/predictions", {"owner": "o", "name": "n"}),
        ("/runs/get?run_id={id}", "/runs/get?run_id=12", {"id": "12"}),
        ("/v1/a.b", "/v1/axb", None),
    ],
)
def test_patterns_of_paths(pattern: str, path: str, found: dict[str, str] | None) -> None:
    match = pattern_of(pattern).fullmatch(path)
    assert (None if match is None else match.groupdict()) == found


@pytest.mark.parametrize(
    ("credential", "headers", "query", "key"),
    [
        ({"header": "Authorization", "format": "Bearer {key}"}, {"authorization": "Bearer k"}, {}, "k"),
        ({"header": "x-api-key"}, {"x-api-key": "k"}, {}, "k"),
        ({"header": "x-api-key"}, {"authorization": "Bearer k"}, {}, "k"),
        ({"basic": "{key}:"}, {"authorization": "Basic azo="}, {}, "azo="),
        ({"query": "token"}, {}, {"token": "k"}, "k"),
        ({"query": "token"}, {"authorization": "Bearer k"}, {}, ""),
        ({"header": "x-api-key"}, {}, {}, ""),
    ],
)
def test_key_of_a_request(credential: dict[str, str], headers: dict[str, str], query: dict[str, str], key: str) -> None:
    assert Calls({"credential": credential, "resources": {}}).key_of(headers, query) == key
