"""`relay sources test`: what is wrong in a definition or its recorded answers, and what they leave unproven."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from relay.cli import run
from relay.cli.definitions.coverage import coverage_of
from relay.cli.definitions.recorded import read_recorded

MINE = """\
version: 2
title: Mine
credential: {header: X-Key}
answer: {ok: {at: /ok, is: true}}
error: {at: /error}
probe: /v1/me
resources:
  runs:
    type_prefix: example.mine.run.job
    source_path: /v1/runs
    path: /v1/runs/{id}
    creates: [/v1/runs, {path: /v1/batch, location: Location}, {path: /v1/walk, id: /data/id, status_url: /url}]
    item: /data
    status: /state
    states:
      - {at: /state, is: waiting, state: queued}
      - {at: /state, is: done, state: succeeded}
      - {at: /state, is: broken, state: failed}
      - {http: [410], state: cancelled}
    fields: {id: /id, started_at: {at: /since, as: seconds}}
    problem: {at: /error}
    result: {at: /result, shown: [/url]}
    progress: {percent: /done}
answers:
  answer: {ok: true, data: "{job}"}
  errors:
    unauthorized: {status: 401, body: {error: {code: a, message: b}}}
    not_found: {status: 404, body: {error: {code: a}}}
    rate_limited: {status: 429, body: {error: {message: b}}}
    unavailable: {status: 200, body: {ok: false, error: {message: b}}}
  resources:
    runs:
      job: {id: "{id}", state: waiting, done: 1}
      created:
        headers: {Location: "{base}/v1/runs/{id}"}
        body: {ok: true, url: "{base}/x", data: {id: "{id}", state: waiting}}
      fates:
        done: {stages: [{seconds: 1}, {show: {state: done, since: 17, result: {url: x}}}]}
        broken: {stages: [{seconds: 1}, {show: {state: broken, error: {code: boom, message: It broke}}}]}
        gone: {stages: [{seconds: 1}, {status: 410, show: {state: null}}]}
  calls: [{call: "GET /v1/me", body: {left: 7}}]
credits: {path: "/v1/me?full=1", available: [/credits, /left]}
"""


def gaps(text: str) -> list[str]:
    """Without the file and the line of each."""
    Path("mine.yaml").write_text(text)
    found = [re.fullmatch(r"mine\.yaml:[0-9]+: (.*)", one) for one in coverage_of(read_recorded("mine.yaml")).gaps]
    return [one[1] for one in found if one is not None]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_failure_with_only_a_sentence_needs_a_code_of_its_rule() -> None:
    sentence = MINE.replace("{code: boom, message: It broke}", "It broke")
    assert gaps(sentence.replace("is: broken, state: failed", "is: broken, state: failed, code: broken")) == []


def test_whole_definition_has_no_gap() -> None:
    assert gaps(MINE) == []


RULE = "      - {at: /state, is: waiting, state: queued}\n"


@pytest.mark.parametrize(
    ("changes", "gap"),
    [
        ({"is: waiting": "is: wait"}, "runs, done: stage 1: no rule knows 'waiting'"),
        ({"is: waiting": "is: wait"}, "resources.runs.states.0: no answer proves this rule (/state is wait)"),
        ({RULE: ""}, "runs, broken: stage 1: no rule knows 'waiting'"),
        ({"{code: boom, message: It broke}": "It broke"}, "runs, broken: the job fails without a code, which hints"),
        (
            {"state: queued": "state: cancelled"},
            "runs, done: stage 1 of 2: 'waiting' already ends the job as cancelled",
        ),
        (
            {"is: done, state: succeeded": "is: done, state: running"},
            "runs, done: its last stage does not end the job: 'done' is running",
        ),
        ({"{status: 410,": "{status: 503,"}, "runs, gone: stage 2 cannot be read: no rule knows the status 503"),
        ({"{status: 410,": "{status: 503,"}, "resources.runs.states.3: no answer proves this rule (http 410)"),
        ({"problem: {at: /error}": "problem: {at: /reason}"}, "resources.runs.problem.at: /reason is in no answer"),
        ({"at: /since": "at: /began"}, "resources.runs.fields.started_at.at: /began is in no answer"),
        ({"as: seconds": "as: rfc3339"}, "resources.runs.fields.started_at: 17 is no time as rfc3339: set `as`"),
        ({"GET /v1/me": "GET /v1/you"}, "probe: GET /v1/me is not among the recorded calls"),
        ({"left: 7": "left: many"}, "credits: no recorded GET /v1/me?full=1 has a number at /credits or /left"),
        ({"me?full=1": "us"}, "credits: no recorded GET /v1/us has a number at /credits or /left"),
        ({"shown: [/url]": "shown: [/url, /x~1y]"}, "resources.runs.result.shown.1: /result/x~1y is in no answer"),
        ({"percent: /done": "percent: /percent"}, "resources.runs.progress.percent: /percent is in no answer"),
        ({"    item: /data\n": "    item: /dat\n"}, "runs, done: stage 1 cannot be read: there is no object at /dat"),
        ({"fields: {id: /id": "fields: {id: /state"}, "runs, done: stage 1 cannot be read: another id, or none, is at"),
        ({"answer: {ok: true": "answer: {ok: 1"}, "runs, done: stage 1 cannot be read: /ok is not true"),
        ({"data: {id:": "data: {other:"}, "resources.runs.creates.0: the answer to the create names no job"),
        (
            {"location: Location": "location: Operation"},
            "resources.runs.creates.1.location: the answer to the create has no header operation",
        ),
        (
            {'/v1/runs/{id}"}': '/v1/runs/x"}'},
            "resources.runs.creates.1: the answer to the create names 'x', not the job",
        ),
        ({"id: /data/id": "id: /ok"}, "resources.runs.creates.2.id: no id is at /ok of the answer to the create"),
        ({"status_url: /url": "status_url: /at"}, "resources.runs.creates.2.status_url: /at is not in the answer to"),
        (
            {'url: "{base}/x"': "url: https://other.example/x"},
            "resources.runs.creates.2: the answer to the create names 'https://other.example/x', on no host that",
        ),
        (
            {
                "    item: /data\n": "    item: /data\n    result_url: /result/url\n",
                "url: x}}": "url: 'https://o.example'}}",
            },
            "resources.runs.result_url: 'https://o.example' is on no host that the definition lists in `origins`",
        ),
        (
            {'      job: {id: "{id}"': '      id: ../accounts\n      job: {id: "{id}"'},
            "resources.runs.path: the id '../accounts' of a job has a segment . or ..",
        ),
        (
            {"path: /v1/runs/{id}\n": 'path: "/v1/runs/{+id}"\n    status_paths: ["/v1/walks/{+id}"]\n'},
            "resources.runs.path: no pattern of `status_paths` matches /v1/runs/",
        ),
        (
            {
                "      - {at: /state, is: done, state: succeeded}\n": """\
      - {at: /result, there: true, state: succeeded}
      - {at: /state, is: done, state: succeeded}
"""
            },
            "resources.runs.states.2: no answer proves this rule (/state is done): states.1, line 17, matches first",
        ),
        ({"is: waiting": "is: yes"}, "resources.runs.states.0: no answer proves this rule (/state is true, no text"),
        ({"error: {at: /error}": "error: {at: /err}"}, "errors.unauthorized: neither code nor message is found at"),
        ({"    not_found": "    unknown_call"}, "errors.not_found: is not recorded"),
        ({"{ok: false, error": "{ok: true, error"}, "errors.unavailable: its status is 200, and `answer.ok` does not"),
        (
            {
                "answers:\n": """\
  walks:
    type_prefix: example.mine.walk.job
    source_path: /v1/walks
    path: /v1/runs/{+id}
    status_paths: ["/v1/runs/{walk}"]
    status: /state
    states: [{at: /data/state, is: done, state: succeeded}]
    fields: {}
answers:
""",
                "    runs:\n      job": """\
    walks:
      job: {state: done}
      fates: {done: {stages: [{}]}}
    runs:
      job""",
            },
            "resources.walks.path: resources.runs.path matches /v1/runs/",
        ),
    ],
)
def test_each_gap_is_one_line(changes: Mapping[str, str], gap: str) -> None:
    text = MINE
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    assert any(one.startswith(gap) for one in gaps(text)), gaps(text)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("is: waiting", "is: wait", 16),
        ("percent: /done", "percent: /percent", 23),
        ("show: {state: done", "show: {state: odd", 38),
        ("left: 7", "left: many", 42),
        ("    not_found", "    unknown_call", 26),
        ("location: Location", "location: Operation", 12),
    ],
)
def test_each_gap_has_its_line(old: str, new: str, line: int) -> None:
    assert old in MINE
    Path("mine.yaml").write_text(MINE.replace(old, new))
    found = coverage_of(read_recorded("mine.yaml")).gaps
    assert f"mine.yaml:{line}" in {one.split(": ")[0] for one in found}, found


def test_gaps_of_presets_name_their_files() -> None:
    recorded = read_recorded("replicate")
    assert recorded.where("resources", "predictions", "states", 1).startswith("replicate/definition.yaml:")
    assert recorded.where("answers", "resources", "predictions", "fates").startswith("replicate/answers.yaml:")
    assert recorded.where("errors", "unknown").startswith("replicate/answers.yaml:")


def test_command_shows_what_each_stage_proves(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text(MINE)
    assert run(["sources", "test", "mine.yaml"]) == 0
    shown = capsys.readouterr().out
    assert "waiting: queued > broken: failed" in shown
    assert "every rule and place is covered" in shown
    assert "not proven: base_url, paths, creates, headers, limits and how the key is sent" in shown
    Path("mine.yaml").write_text(MINE.replace("is: broken", "is: brok"))
    assert run(["sources", "test", "mine.yaml"]) == 1
    shown = capsys.readouterr().out
    assert "waiting: queued > broken: ?" in shown
    assert "gap: mine.yaml:18: resources.runs.states.2: no answer proves this rule (/state is brok)" in shown
    assert run(["sources", "test", "mine.yaml", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["fates"][1]["stages"] == [
        {"word": "waiting", "state": "queued"},
        {"word": "broken", "state": ""},
    ]
    assert not document["ok"]


def test_probe_is_not_needed() -> None:
    Path("mine.yaml").write_text(MINE.replace("probe: /v1/me\n", ""))
    assert run(["sources", "test", "mine.yaml"]) == 0


def test_definition_that_is_wrong_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text(MINE.replace("credential:", "credentials:"))
    assert run(["sources", "test", "mine.yaml"]) == 2
    assert "mine.yaml:1: credential: is missing" in capsys.readouterr().err
