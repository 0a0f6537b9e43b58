"""What is wrong in a definition: `relay sources test` and `relay check` name every fault with its line, all at once."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from relay.cli import run
from tests.unit.cli.test_cli_coverage import MINE

DEFINITION = """\
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
    creates: [/v1/runs, {path: /v1/batch, location: Location}]
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
"""
WHOLE = DEFINITION + MINE[MINE.index("answers:") :]
SETTINGS = "sources: {mine: {file: mine.yaml, base_url: http://127.0.0.1:9, accounts: {default: {}}}}\n"
BEFORE = "relay.yaml:1: sources.mine.file: "


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("relay.yaml").write_text(SETTINGS)


def faults(changes: Mapping[str, str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of both commands, which say the same."""
    text = WHOLE
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    Path("mine.yaml").write_text(text)
    capsys.readouterr()
    assert run(["sources", "test", "mine.yaml"]) == 2
    tested = capsys.readouterr()
    assert tested.out == ""
    assert run(["check", "--json"]) == 2
    checks = json.loads(capsys.readouterr().out)["checks"]
    checked = [one["detail"] for one in checks if (one["name"], one["state"]) == ("source mine", "problem")]
    lines = [line.removeprefix("relay: ") for line in tested.err.splitlines()]
    assert [one.removeprefix(BEFORE) for one in checked] == lines
    assert all(one.startswith(BEFORE) for one in checked)
    return lines


DONE = "      - {at: /state, is: done, state: succeeded}\n"
PATH = "path: /v1/runs/{id}\n"
LIST = "resources.runs.creates: must be a list, such as [/v1/runs]"
NEEDS_KEY = "needs {key}, where the key goes: the key itself goes into relay.yaml"
RULE, HOST, SECRET, PLACE = (
    "can never match, or not all of it",
    "is no path: requests go to `base_url`, and to `origins`",
    "has a secret: leave it out, `credential` says how the key is sent",
    "names another place: the path has",
)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        # a rule that can never match
        ({DONE: DONE * 2}, f"18: resources.runs.states.2: {RULE}: states.1 matches first"),
        (
            {"is: broken": "in: [broken, waiting]"},
            f"18: resources.runs.states.2: {RULE}: states.0 matches first",
        ),
        ({"is: done, state": "there: true, state"}, f"18: resources.runs.states.2: {RULE}: states.1 matches first"),
        # a host that is not listed
        ({"probe: /v1/me": "probe: https://other.example/v1/me"}, f"6: probe: {HOST}"),
        ({PATH: "path: https://other.example/{id}\n"}, f"11: resources.runs.path: {HOST}"),
        ({"{path: /v1/batch,": "{path: https://o.example/b,"}, f"12: resources.runs.creates.1.path: {HOST}"),
        # a secret in a path, an address or a header
        ({"probe: /v1/me": "probe: /v1/me?token=abcdef0123456789"}, f"6: probe: {SECRET}"),
        ({PATH: "path: /bot{key}/runs/{id}\n"}, f"11: resources.runs.path: {SECRET}"),
        ({PATH: "path: /v1/runs/{id}?api_key=abcdef0123456789\n"}, f"11: resources.runs.path: {SECRET}"),
        ({"{header: X-Key}": "{query: k}", "probe: /v1/me": "probe: /v1/me?k=abcdef0123456789"}, f"6: probe: {SECRET}"),
        (
            {"title: Mine": 'title: Mine\norigins: ["https://me:abcdef0123456789@files.example"]'},
            f"3: origins.0: {SECRET}",
        ),
        (
            {"title: Mine": "title: Mine\nsend_headers: {Authorization: Bearer abcdef0123456789}"},
            f"3: send_headers: Authorization {SECRET}",
        ),
        # an id that escapes its place
        (
            {PATH: "path: /v1/{+id}\n"},
            "11: resources.runs.path: with {+id} an id can name any path: list those of jobs",
        ),
        ({PATH: "path: /v1/runs/{id}/../x\n"}, f"11: resources.runs.path: {PLACE} a dot segment"),
        ({PATH: "path: /v1/%2e%2e/{id}\n"}, f"11: resources.runs.path: {PLACE} a dot segment"),
        ({PATH: "path: /v1\\{id}\n"}, f"11: resources.runs.path: {PLACE} a backslash"),
        ({PATH: "path: /v1/runs#{id}\n"}, "11: resources.runs.path: has a # or a brace too many"),
        ({PATH: "path: /v1/{org}/{id}\n"}, "11: resources.runs.path: has another placeholder than {id}"),
        ({PATH: "path: /v1/{id}/{id}\n"}, "11: resources.runs.path: has another placeholder than {id}"),
        (
            {"{path: /v1/batch,": '{path: "/v1/{Batch}",'},
            "12: resources.runs.creates.1.path: has a placeholder that is",
        ),
        (
            {"{path: /v1/batch,": '{path: "/v1/{id}/{id}",'},
            "12: resources.runs.creates.1.path: has two placeholders of",
        ),
        (
            {PATH: PATH + '    status_paths: ["/{+a}/b/{+c}"]\n'},
            "12: resources.runs.status_paths.0: has two placeholders",
        ),
        (
            {"{path: /v1/batch,": '{path: "/v1/{org}/{org}",'},
            "12: resources.runs.creates.1.path: has two placeholders of",
        ),
        (
            {"{path: /v1/batch,": '{path: "/v1/{org}-{name}",'},
            "12: resources.runs.creates.1.path: has two placeholders in one segment",
        ),
        # a line break at an end, as YAML's block texts have one: no request could be sent
        (
            {"title: Mine": "title: Mine\nsend_headers:\n  X-Team: |\n    a"},
            "4: send_headers.X-Team: does not match",
        ),
        ({"title: Mine": "title: |\n  Mine"}, "2: title: 'Mine\\n' does not match"),
        ({"title: Mine": "title: " + "x" * 101}, f"2: title: '{'x' * 100}' does not match"),
        ({"{header: X-Key}": '{header: "X-Key\\n"}'}, "3: credential.header: does not match ^[A-Za-z0-9-]+$"),
        ({"{header: X-Key}": '{header: X-Key, format: "a {key}\\n"}'}, "3: credential.format: does not match ^[ -~]*"),
        ({PATH: 'path: "/v1/runs/{id}?a=b\\n"\n'}, "11: resources.runs.path: '/v1/runs/{id}?a=b\\n' does not"),
        (
            {"example.mine.run.job": '"example.mine.job\\n"'},
            "9: resources.runs.type_prefix: 'example.mine.job\\n' does",
        ),
        # the key itself
        ({"{header: X-Key}": "{header: X-Key, format: abcdef0123456789}"}, f"3: credential.format: {NEEDS_KEY}"),
        ({"{header: X-Key}": "{basic: abcdef0123456789}"}, f"3: credential.basic: {NEEDS_KEY}"),
        ({"{header: X-Key}": '{header: "X-Key: abcdef0123456789"}'}, "3: credential.header: does not match"),
        ({"{header: X-Key}": '{query: "k=abcdef0123456789"}'}, "3: credential.query: does not match"),
        ({PATH: "path: /v1/runs\n"}, "11: resources.runs.path: '/v1/runs' needs {id}, where the id goes"),
        # a value of another type
        ({"creates: [/v1/runs, {path: /v1/batch, location: Location}]": "creates: /v1/runs"}, f"12: {LIST}"),
        ({"is: broken": "is: [broken]"}, "18: resources.runs.states.2.is: must be text"),
        ({"title: Mine": "title: yes"}, "2: title: must be text: put it in quotes"),
        ({"title: Mine": "title: {mine}"}, "2: title: must be text: put it in quotes"),
        (
            {"title: Mine": "title: Mine\nlimit: {requests: many, per_seconds: x}"},
            "3: limit.requests: must be a whole number",
        ),
        (
            {"title: Mine": "title: Mine\nlimit: {requests: 0, per_seconds: x}"},
            "3: limit.requests: must be at least 1",
        ),
        ({"problem: {at: /error}": "problem: /error"}, "21: resources.runs.problem: must be a section"),
        ({"version: 2": "version: 3"}, "1: version: must be 2"),
        ({"state: queued": "state: waiting"}, "16: resources.runs.states.0.state: must be 'queued', 'scheduled'"),
        # a number that nothing can show
        ({"is: broken": f"is: 0x{'f' * 5000}"}, "18: resources.runs.states[2].is is a number of more than 64 bits"),
        ({"probe: /v1/me": "probe: /v1/{me}"}, "6: probe: has a placeholder: this path is sent as it is"),
        # an unknown key, with the nearest one
        (
            {"    status: /state": "    statuss: /state"},
            "14: resources.runs.statuss: is not a known key: is it status?",
        ),
        (
            {"    item: /data": "    item: /data\n    etag: true"},
            "14: resources.runs.etag: an answer 304 does not tell",
        ),
    ],
)
def test_fault_is_refused_with_line_and_reason(
    changes: Mapping[str, str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = faults(changes, capsys)
    assert any(one.startswith(f"mine.yaml:{fault}") for one in found), found
    assert "abcdef0123456789" not in "".join(found)


def test_all_faults_are_named_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    found = faults(
        {
            "title: Mine": "titel: Mine",
            "probe: /v1/me": "probe: https://other.example/me?token=abcdef0123456789",
            PATH: "path: /v1/runs/{id}/..\n",
            DONE: DONE * 2 + "      - {at: /state, is: 1.5, state: succeeded}\n",
            "percent: /done": "percent: done",
            "fields: {id: /id": "fields: {it: /id",
        },
        capsys,
    )
    assert [one.partition(": ")[0] + ": " + one.split(": ")[1] for one in found] == [
        "mine.yaml:1: title",
        "mine.yaml:2: titel",
        "mine.yaml:6: probe",
        "mine.yaml:11: resources.runs.path",
        "mine.yaml:19: resources.runs.states.3.is",
        "mine.yaml:22: resources.runs.fields.it",
        "mine.yaml:25: resources.runs.progress.percent",
    ]
    assert found[0].endswith("is missing")
    assert found[1].endswith("is not a known key: is it title?")
    assert "abcdef0123456789" not in "".join(found)


def test_faults_of_recorded_answers_are_named_beside_those_of_the_definition(
    capsys: pytest.CaptureFixture[str],
) -> None:
    changes = {"credential:": "credentials:", "fates:\n": "fate:\n", "unavailable: {status": "unavailable: {statu"}
    text = WHOLE
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    Path("mine.yaml").write_text(text)
    assert run(["sources", "test", "mine.yaml"]) == 2
    said = capsys.readouterr().err
    for part in (
        "credential: is missing",
        "credentials: is not a known key: is it credential?",
        "fate: is not a known key: is it fates?",
    ):
        assert part in said
    assert said.count("\n") >= 5


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("done: {stages", "done: {share: 1.0e+308, stages", "resources.runs.fates.done.share: must be at most 1000000"),
        ("X: y", "X: y", "resources.runs.created.headers.Location: 'a\\r\\nX: y' does not match"),
        (
            "      job: {",
            '      id: "{number:19}"\n      job: {',
            "resources.runs: its `id` is a number of more than 18",
        ),
        ("      job: {", '      id: ""\n      job: {', "resources.runs.id: is too short: its length must be"),
        ("GET /v1/me", "GET /v1/{a}/{a}", "calls.0.call: has two placeholders of one kind"),
        ("GET /v1/me", "GET /{+a}/{+b}", "calls.0.call: has two placeholders of one kind"),
        (
            "waiting, done",
            '"{boddy/tags}", done',
            "job.state: has {boddy/tags}, which is no placeholder",
        ),
        ("state: done, since: 17", 'state: ["x{at:S}"]', "stages.1.show.state.0: has {at:S}, which is no placeholder"),
        ("      job: {", '      id: "{id}"\n      job: {', "resources.runs.id: has {id}, which is no placeholder"),
        ('"{base}/x"', '"{random:5}"', "resources.runs.created.body.url: has {random:5}, which is no placeholder"),
        ('data: "{job}"', 'data: "{Job}"', "answer.data: has {Job}, which is no placeholder"),
        ("      job: {", "      id: {random:24}\n      job: {", "resources.runs.id: must be text: put it in quotes"),
        ("done: 1}", f"done: {2**64}}}", "answers.resources.runs.job.done is a number of more than 64 bits"),
    ],
)
def test_answer_that_cannot_be_played_is_refused(
    old: str, new: str, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = WHOLE.replace('"{base}/v1/runs/{id}"', '"a\\r\\nX: y"') if old == "X: y" else WHOLE
    assert old in text
    Path("mine.yaml").write_text(text.replace(old, new, 1))
    assert run(["sources", "test", "mine.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert fault in line


def test_braces_of_an_answer_that_has_no_placeholders_are_kept() -> None:
    Path("mine.yaml").write_text(WHOLE.replace("{message: b}", '{message: "no {thing}"}'))
    assert run(["sources", "test", "mine.yaml"]) == 0


def test_thousands_of_rules_are_compared_in_one_pass(capsys: pytest.CaptureFixture[str]) -> None:
    """Each one with all before it takes minutes for the most that a file has room for."""
    rules = "".join(f"      - {{at: /state, is: w{number}, state: running}}\n" for number in range(12_000))
    Path("mine.yaml").write_text(WHOLE.replace(DONE, rules + DONE * 2))
    assert run(["sources", "test", "mine.yaml"]) == 2
    assert capsys.readouterr().err.endswith(f"{RULE}: states.12001 matches first\n")


def test_fate_that_no_job_can_draw_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text(WHOLE.replace("{stages:", "{share: 0, stages:"))
    assert run(["sources", "test", "mine.yaml"]) == 2
    assert "resources.runs: no fate has a `share`" in capsys.readouterr().err


def test_many_faults_are_cut_off(capsys: pytest.CaptureFixture[str]) -> None:
    unknown = "".join(f"unknown{number}: 1\n" for number in range(40))
    found = faults({"title: Mine\n": f"title: Mine\n{unknown}"}, capsys)
    assert len(found) == 21
    assert found[-1].endswith("20 more")
