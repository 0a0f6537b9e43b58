"""`relay jobs list`, `refresh` and `untrack`, and `relay erase`, against a stub server."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from relay.cli import run
from tests.unit.cli.test_cli_client import Stub, stub

__all__ = ["stub"]


def item(id: str, error: str | None = None) -> dict[str, Any]:
    return {"id": id, "status": 202 if error is None else 404, "code": error and "job_not_found", "error": error}


def test_list_sends_every_filter(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says("GET /v1/jobs", {"items": [], "next_cursor": None})
    filters = [
        "--channel",
        "email",
        "--connect-account",
        "acc_1",
        "--metadata",
        "deal:42",
        "--closed",
        "--search",
        "ada",
    ]
    times = ["--since", "2026-05-20T10:00:00Z", "--until", "2026-05-21T10:00:00Z"]
    assert run(["jobs", "list", *filters, *times]) == 0
    assert parse_qs(urlsplit(stub.seen[0][0].split()[1]).query) == {
        "channel": ["email"],
        "search": ["ada"],
        "connect_account": ["acc_1"],
        "metadata": ["deal:42"],
        "open": ["false"],
        "since": ["2026-05-20T10:00:00Z"],
        "until": ["2026-05-21T10:00:00Z"],
        "limit": ["50"],
    }
    assert run(["jobs", "list", "--since", "yesterday"]) == 2


@pytest.mark.parametrize("upstream", [{"error": "No speech was found", "channel": 7}, {"error": ["a"]}, [], None])
@pytest.mark.parametrize(
    ("problem", "last_error", "shown"),
    [
        ({"code": "no_speech"}, {"code": "unavailable"}, "no_speech"),
        (None, {"code": "unavailable"}, "unavailable"),
        (None, None, "-"),
    ],
)
def test_list_shows_what_a_job_failed_with_whatever_its_upstream_answers(
    stub: Stub, capsys: pytest.CaptureFixture[str], upstream: Any, problem: Any, last_error: Any, shown: str
) -> None:
    job = {"id": "1", "channel": "email", "account": "default", "status": "error", "outcome": "failed"}
    times = {"tracked_at": "2026-05-20T10:00:00.000Z", "next_poll_at": None}
    found = {**job, **times, "upstream": upstream, "problem": problem, "last_error": last_error}
    stub.says("GET /v1/jobs", {"items": [found], "next_cursor": None})
    assert run(["jobs", "list"]) == 0
    row = capsys.readouterr().out.splitlines()[-1].split("\t")
    assert (row[1], row[-1]) == ("email", shown)


@pytest.mark.parametrize("action", ["refresh", "untrack"])
def test_several_jobs_are_one_request(stub: Stub, action: str, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says("POST /v1/jobs/bulk", {"items": [item("a"), item("b", "no job 'b' is tracked here")]})
    assert run(["jobs", action, "a", "b"]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("a is ")
    assert second == "b: no job 'b' is tracked here"
    assert json.loads(stub.seen[0][2]) == {"action": action, "ids": ["a", "b"]}


def test_more_than_a_hundred_jobs_are_several_requests(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    ids = [str(number) for number in range(101)]
    stub.says("POST /v1/jobs/bulk", {"items": [item(id) for id in ids[:100]]})
    stub.says("POST /v1/jobs/bulk", {"items": [item("100")]})
    assert run(["jobs", "refresh", "--json", *ids]) == 0
    assert [one["id"] for one in json.loads(capsys.readouterr().out)] == ids


def test_explanation_has_the_message_of_the_last_poll(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    message = "200 application/json: no_item: there is no object at /data/job"
    error = {"code": "malformed", "message": message, "at": None, "meaning": "M", "fix": "F", "who": "W"}
    stub.says("GET /v1/jobs/1/explain", {"sentence": "It waits.", "last_error": error, "reason": "due"})
    assert run(["jobs", "explain", "1"]) == 0
    assert f"Last error: malformed ({message}). M. To fix it (W): F." in capsys.readouterr().out


@pytest.mark.parametrize(("seconds", "words"), [(0.8, "0.8 s"), (0.003, "less than 0.1 s"), (300, "5 min")])
def test_explanation_has_the_price_of_a_poll(
    stub: Stub, capsys: pytest.CaptureFixture[str], seconds: float, words: str
) -> None:
    outlook = {"change": "end", "price_seconds": seconds, "points": [{"hazard_per_second": 0.123}]}
    stub.says("GET /v1/jobs/1/explain", {"sentence": "It waits.", "outlook": outlook, "reason": "before_anchor"})
    assert run(["jobs", "explain", "1"]) == 0
    out = capsys.readouterr().out
    assert f"Price of a poll: {words}. The job is polled once that is expected to save so much delay." in out
    assert "0.123" not in out, "the points of the drawing"


URL = "https://api.example/subscriptions/7/operations/1?v=2"


def test_job_is_added_with_its_address(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says("POST /v1/jobs", {"id": "1", "uid": "job_1", "status": None}, 201)
    assert run(["jobs", "add", "1", "--source", "azure", "--status-url", URL]) == 0
    assert json.loads(stub.seen[0][2]) == {"id": "1", "source": "azure", "status_url": URL}
    assert run(["jobs", "add", "1", "2", "--status-url", URL]) == 2
    assert "--status-url is the address of one job" in capsys.readouterr().err
    assert len(stub.seen) == 1


def test_column_of_a_csv_has_addresses(stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text(f"id,status_url\n1,{URL}\n2,\n")
    stub.says("POST /v1/jobs/batch", {"accepted": 2, "rejected": [], "created": 2})
    run(["jobs", "import", str(tmp_path / "jobs.csv")])
    assert json.loads(stub.seen[0][2])["jobs"] == [{"id": "1", "status_url": URL}, {"id": "2"}]


@pytest.mark.parametrize(
    ("id", "segment"),
    [("../accounts", "..%2Faccounts"), ("a/../../b", "a%2F..%2F..%2Fb"), ("%2e%2e", "%252e%252e")],
)
def test_id_stays_one_segment_of_the_path(
    stub: Stub, capsys: pytest.CaptureFixture[str], id: str, segment: str
) -> None:
    for command in ("show", "explain"):
        run(["jobs", command, id])
    detail = "/id: the id has a segment . or .., so a poll could reach another path of the upstream"
    stub.says("POST /v1/jobs", {"status": 422, "code": "invalid_request", "title": "Invalid", "detail": detail}, 422)
    assert run(["jobs", "add", id]) != 0
    assert [seen[0] for seen in stub.seen] == [
        f"GET /v1/jobs/{segment}",
        f"GET /v1/jobs/{segment}/explain",
        "POST /v1/jobs",
    ]
    assert json.loads(stub.seen[-1][2]) == {"id": id}
    said = capsys.readouterr().err
    assert detail.partition(": ")[2] in said
    assert "Traceback" not in said


PATH = "POST /v1/erasures"


def answer(**fields: Any) -> dict[str, Any]:
    counts = dict.fromkeys(("jobs", "events", "deliveries", "attempts", "intents", "in_flight"), 0)
    return {**counts, "next_cursor": None, **fields}


def test_all_parts_of_an_erasure_are_counted_together(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says(PATH, answer(jobs=1_200, events=5, next_cursor="more"))
    stub.says(PATH, answer(jobs=34, attempts=7, intents=1))
    assert run(["erase", "--metadata", "email=kim=@example.com"]) == 0
    assert [json.loads(seen[2]) for seen in stub.seen] == [
        {"metadata": {"email": "kim=@example.com"}},
        {"metadata": {"email": "kim=@example.com"}, "cursor": "more"},
    ]
    assert capsys.readouterr().out == ("erased 1,234 jobs, 5 events, 0 deliveries, 7 attempts, 1 intents\n")


def test_creates_in_flight_are_a_failure_to_repeat(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says(PATH, answer(in_flight=2))
    assert run(["erase", "--group", "spring"]) == 1
    assert "2 creates that match are in flight: run this again" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        *([], ["--job", "a", "--group", "b"], ["--job", "a", "--subject", "b"]),
        *(["--metadata", "email"], ["--metadata", "=x"], ["--metadata", "a="]),
    ],
)
def test_anything_but_one_selection_is_misuse(
    stub: Stub, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    assert run(["erase", *options]) == 2
    assert stub.seen == []
    assert capsys.readouterr().err.startswith("relay: ")


def test_warnings_of_a_registration_are_shown(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    job = {"uid": "job_1", "id": "a", "status": None, "warnings": ["the host x of callback_url does not resolve"]}
    stub.says("POST /v1/jobs", job, status=201)
    assert run(["jobs", "add", "a", "--callback", "https://x/hook"]) == 0
    assert capsys.readouterr().err == "relay: the host x of callback_url does not resolve\n"
