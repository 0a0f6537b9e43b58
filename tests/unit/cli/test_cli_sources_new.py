"""`relay sources new`: six questions and a sample become a definition that `relay check` accepts."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer

from relay.cli import run
from relay.cli.definitions.coverage import coverage_of
from relay.cli.definitions.recorded import read_recorded
from relay.config.settings import load_settings
from relay.node.definitions import definitions_of

URL = "https://api.acme.example/v1/jobs/job_17?token=s3cr3t"
SAMPLE: Mapping[str, Any] = {
    "data": {"id": "job_17", "kind": "x", "status": "running", "error": None, "owner": {"name": "Ada"}},
    "ok": True,
}
ANSWERS = [
    *("Acme", "/data/id", "/data/status", "queued", "running", "done", "failed", "canceled", "/data/error", "/v1/jobs"),
]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("relay.cli.sources.is_terminal", lambda: True)
    Path("sample.json").write_text(json.dumps(SAMPLE))


WORDS = ["-", "running", "-", "-", "-"]
TYPED: list[str] = []
"""What a person types next; Enter alone after that."""


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The proposals that were made."""
    proposals: list[str] = []

    def prompt(question: str, default: str) -> str:
        proposals.append(default)
        return TYPED.pop(0) if TYPED else default

    monkeypatch.setattr(typer, "prompt", prompt)
    return proposals


def draft(answers: list[str], *arguments: str) -> int:
    TYPED[:] = answers
    return run(["sources", "new", *arguments])


def test_draft_is_accepted_and_covers_its_own_answers(answering: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [URL, "--sample", "sample.json", "--header", "X-Key: s3cr3t", "--header", "Accept-Version: 2"]
    assert draft(list(ANSWERS), *arguments) == 0
    assert "wrote acme.yaml" in capsys.readouterr().out
    assert answering == ["Acme", "/data/id", "/data/status", *WORDS, "/data/error", "/v1/jobs"]
    text = Path("acme.yaml").read_text()
    assert "s3cr3t" not in text
    Path("relay.yaml").write_text("sources: {acme: {file: acme.yaml}}")
    definition = definitions_of(load_settings(Path("relay.yaml"), {}))["acme"]
    assert (definition.title, definition.base_url) == ("Acme", "https://api.acme.example")
    assert definition.credential.header == "X-Key"
    assert definition.send_headers == {"Accept-Version": "2"}
    resource = definition.resources["jobs"]
    assert (resource.path, resource.item, resource.type_prefix) == ("/v1/jobs/{id}", ("data",), "example.acme.job")
    assert [(rule.is_, rule.state) for rule in resource.states] == [
        *(("queued", "queued"), ("running", "running"), ("done", "succeeded")),
        *(("failed", "failed"), ("canceled", "cancelled")),
    ]
    found = coverage_of(read_recorded("acme.yaml"))
    assert found.gaps == []
    assert {one.fate for one in found.fates} == {"done", "failed", "canceled"}


@pytest.mark.parametrize(
    ("url", "sample", "answers", "path"),
    [
        (
            "https://x.example/run?run_id=5&key=k",
            {"run_id": 5, "state": 1},
            ["", "/run_id", "/state", "-", "1", "2", "3", "-"],
            "/run?run_id={id}",
        ),
        (
            "http://127.0.0.1:9/{id}",
            {"id": "a", "state": {"life": "ON"}},
            ["X", "/id", "/state/life", "", "ON", "OFF", "", ""],
            "/{id}",
        ),
        (
            "https://h.example/a/b%2Fc/",
            {"id": "b/c", "status": "s"},
            ["X", "/id", "/status", "-", "s", "t", "", "-"],
            "/a/{id}/",
        ),
        (
            "https://h.example/a",
            {"uuid": "u", "phase": "s"},
            ["X", "/uuid", "/phase", "-", "s", "t", "u", "-"],
            "/a/{id}",
        ),
        (
            "https://h.example/a/u",
            {"a": [{"id": "u", "s": "s"}]},
            ["X", "/a/0/id", "/a/0/s", "-", "s", "t", "u", "-"],
            "/a/{id}",
        ),
    ],
)
def test_shapes_of_answers(url: str, sample: Any, answers: list[str], path: str, answering: list[str]) -> None:
    Path("sample.json").write_text(json.dumps(sample))
    assert draft([answers[0] or "X", *answers[1:], "-", "-"], url, "--sample", "sample.json") == 0
    recorded = read_recorded("x.yaml")
    assert recorded.definition.resource.path == path
    assert coverage_of(recorded).gaps == []


@pytest.mark.parametrize(
    ("answers", "arguments", "message"),
    [
        ({0: ""}, [], "title"),
        ({1: "/data/no"}, [], "no id is at /data/no of the sample"),
        ({1: "id"}, [], "the id: 'id' is no JSON pointer"),
        ({2: "/data/owner"}, [], "no status is at /data/owner of the sample"),
        ({5: "-", 6: "-", 7: "-"}, [], "no word ends a job"),
        ({5: "running"}, [], "'running' stands for two states: the second rule can never match"),
        ({8: "/ok"}, [], "the error must be below /data, where the job is"),
        ({9: "v1"}, [], "creates: a path begins with /"),
        ({}, ["--header", "nonsense"], "a --header is not of the form 'NAME: VALUE'"),
        ({}, ["--header", "A: s3cr3t", "--header", "X-Api-Key: s3cr3t"], "only the first one may hold a key"),
        ({}, ["--sample", "none.json"], "cannot read none.json"),
        ({}, ["--output", "relay.yaml"], "exists already"),
    ],
)
def test_what_does_not_fit_is_one_line_and_writes_nothing(
    answers: Mapping[int, str],
    arguments: list[str],
    message: str,
    answering: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("relay.yaml").write_text("")
    before = sorted(Path().iterdir())
    given = [answers.get(number, answer) for number, answer in enumerate(ANSWERS)]
    for number in sorted(answers, reverse=True):  # each question is asked three times; the words are one
        asked = slice(3, 8) if 3 <= number < 8 else slice(number, number + 1)
        given[asked] = given[asked] * 3
        if 3 <= number < 8:
            break
    assert draft(given, URL, "--sample", "sample.json", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert "s3cr3t" not in line
    assert sorted(Path().iterdir()) == before


def test_wrong_answer_is_asked_for_again_at_once(answering: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    given = [ANSWERS[0], "id", ANSWERS[1], "/no", *ANSWERS[2:3], *["-"] * 5, *ANSWERS[3:]]
    assert draft(given, URL, "--sample", "sample.json") == 0
    shown = capsys.readouterr().out
    assert "the id: 'id' is no JSON pointer" in shown
    assert "no status is at /no of the sample. Try again" in shown
    assert "no word ends a job" in shown
    assert read_recorded("acme.yaml").definition.resource.item == ("data",)


def test_error_may_be_named_as_the_file_names_it(answering: list[str]) -> None:
    assert draft([*ANSWERS[:8], "/reason/text", ANSWERS[9]], URL, "--sample", "sample.json") == 0
    problem = read_recorded("acme.yaml").definition.resource.problem
    assert problem is not None
    assert problem.at == ("reason", "text")


def test_draft_keeps_neither_the_id_nor_the_address(answering: list[str]) -> None:
    links = {"self": "https://api.acme.example/v1/jobs/job_17", "note": "job_17b and {name}"}
    Path("sample.json").write_text(json.dumps({"data": {**SAMPLE["data"], "links": links}, "ok": True}))
    assert draft(list(ANSWERS), URL, "--sample", "sample.json") == 0
    recorded = read_recorded("acme.yaml")
    job = recorded.recording.resources["jobs"].job
    assert job["links"] == {"self": "{base}/v1/jobs/{id}", "note": "job_17b and (name)"}
    assert coverage_of(recorded).gaps == []


def test_words_without_failed_are_remarked_upon(answering: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    answers = ["-" if number == 6 else answer for number, answer in enumerate(ANSWERS)]
    draft(answers, "http://127.0.0.1:9/v1/jobs/job_17", "--sample", "sample.json")
    assert answering[0] == "My API"
    assert "no word means failed: a job with another word stays open" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sample", "place"),
    [
        ([{"id": "a", "status": "on"}, {"id": "b", "status": "on"}], "the sample"),
        ({"page": {"limit": 1}, "jobs": [{"id": "a", "status": "on"}, {"id": "b", "status": "on"}]}, "/jobs"),
    ],
)
def test_list_of_jobs_is_no_sample(
    sample: Any, place: str, answering: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("sample.json").write_text(json.dumps(sample))
    at = "" if place == "the sample" else place
    given = ["X", f"{at}/0/id", f"{at}/0/id", f"{at}/0/id"]
    assert draft(given, "https://api.acme.example/v1/jobs?limit=1", "--sample", "sample.json") == 2
    assert f"the id: {place} is a list. Use the URL of one job" in capsys.readouterr().err


def test_without_a_terminal_it_asks_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("relay.cli.sources.is_terminal", lambda: False)
    assert run(["sources", "new", URL]) == 2
    assert "Run it on a terminal" in capsys.readouterr().err


@pytest.fixture
def upstream() -> Iterator[tuple[str, list[str]]]:
    """A URL, and the keys that it got."""
    keys: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(self.headers.get("Authorization", ""))
            status = {"/moved": 302, "/no": 404}.get(self.path, 200)
            body = b"<html>" if self.path == "/page" else json.dumps(SAMPLE).encode()
            self.send_response(status)
            self.send_header("Location", f"http://localhost:{server.server_port}/v1/jobs/job_17")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing is printed."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    yield f"http://127.0.0.1:{server.server_port}", keys
    server.shutdown()
    serving.join()
    server.server_close()


def test_sample_is_asked_once_with_the_key(answering: list[str], upstream: tuple[str, list[str]]) -> None:
    url, keys = upstream
    assert draft(list(ANSWERS), f"{url}/v1/jobs/job_17", "--header", "Authorization: Bearer s3cr3t") == 0
    assert keys == ["Bearer s3cr3t"]
    recorded = read_recorded("acme.yaml")
    assert recorded.definition.credential.format == "Bearer {key}"
    assert recorded.definition.base_url == url
    assert "s3cr3t" not in Path("acme.yaml").read_text()


@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        ("/moved", 1, "the URL answers 302"),
        ("/no", 1, "the URL answers 404"),
        ("/page", 2, "the answer is not JSON"),
    ],
)
def test_answers_that_are_no_sample(
    path: str,
    code: int,
    message: str,
    answering: list[str],
    upstream: tuple[str, list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, keys = upstream
    assert draft(list(ANSWERS), f"{url}{path}", "--header", "Authorization: Bearer s3cr3t") == code
    assert message in capsys.readouterr().err
    assert len(keys) == 1, "no redirect is followed"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://api.acme.example/v1/jobs/1", "plain http, which would send the key unencrypted"),
        ("https://u:s3cr3t@api.acme.example/", "the URL must not have a user name or password in it"),
        ("ftp://api.acme.example/", "the URL must be an absolute URL"),
    ],
)
def test_urls_that_are_not_asked(url: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sources", "new", url, "--header", "X-Key: s3cr3t"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert "s3cr3t" not in line


def test_proposal_that_would_control_the_terminal_is_not_made(answering: list[str]) -> None:
    sample = {"\x1b]0;x\x07": {"id": "job_17"}, "status": "waiting \x1b[2J"}
    Path("sample.json").write_text(json.dumps(sample))
    assert draft([], URL, "--sample", "sample.json") == 2
    assert answering
    assert all(one.isprintable() for one in answering), answering


def test_sample_that_is_nested_too_deeply_is_refused(answering: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    sample = '{"id": "job_17", "status": "done", "x": ' + "[" * 900 + "]" * 900 + "}"
    Path("sample.json").write_text(sample)
    assert draft([], URL, "--sample", "sample.json") == 2
    assert "the sample is nested too deeply" in capsys.readouterr().err
    assert list(Path().glob("*.yaml")) == []


def test_answer_that_does_not_end_is_not_waited_for(
    answering: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("relay.cli.definitions.sample.TIMEOUT_SECONDS", 0.5)
    over = threading.Event()

    class Drip(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                while not over.wait(0.05):
                    self.wfile.write(b" ")

        def log_message(self, *_: Any) -> None:
            """Nothing is printed."""

    server = HTTPServer(("127.0.0.1", 0), Drip)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    try:
        assert draft([], f"http://127.0.0.1:{server.server_port}/v1/jobs/1") == 1
    finally:
        over.set()
        server.shutdown()
        serving.join()
        server.server_close()
    assert "no whole answer within 0.5 s" in capsys.readouterr().err
