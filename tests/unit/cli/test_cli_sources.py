"""`relay sources list` and `relay accounts list`: their tables and JSON."""

import io
import json

import pytest

from relay.cli import run
from tests.unit.cli.test_cli_client import Stub, stub

__all__ = ["stub"]

ACCOUNT = {
    "source": "revor",
    "account": "default",
    "state": "ok",
    "since": None,
    "problem": None,
    "open_jobs": 12_345,
    "due_jobs": 1,
    "limit": 120,
    "remaining": 97,
    "window_seconds": 60.0,
    "own_requests_per_second": 1.6,
    "others_requests_per_second": 0.1,
    "price_seconds": 0.8,
    "expected_detection_delay_seconds": 1.2,
    "expected_detection_delay_at_double_budget_seconds": 0.6,
    "expected_detection_delay_at_half_budget_seconds": 290.0,
    "paused_until": None,
    "last_completed_at": None,
}


class Terminal(io.StringIO):
    """A stdout that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_sources_are_json_or_a_table_with_advice(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    listed = [{**ACCOUNT, "account": "\x1b[2Jx"}]
    stub.says("GET /v1/sources", {"items": listed, "next_cursor": None})
    assert run(["sources", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == listed
    assert run(["sources"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "a job's end is known about 1.2 s after it happens" in out


def test_trouble_is_shown_with_what_the_upstream_said(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    problem = {"code": "bad_key", "message": "answered 401 No such key", "request_id": None, "at": None}
    listed = [{**ACCOUNT, "state": "unauthorized", "problem": problem}]
    stub.says("GET /v1/sources", {"items": listed, "next_cursor": None})
    assert run(["sources"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Nothing is polled until the key works again. It said: answered 401 No such key" in shown


SENDER = {
    "id": "acc_1",
    "source": "revor",
    "account": "default",
    "channel": "linkedin",
    "name": "Ada\x1b[31m Example",
    "status": "credentials",
    "can_send": False,
    "state": "needs_reconnect",
    "since": "2026-05-20T10:00:00.000Z",
    "open_jobs": 12,
    "listed_at": "2026-05-20T10:05:00.000Z",
    "trouble": "inc_1",
}


PAGE = {"items": [SENDER], "next_cursor": None}


def test_a_table_without_what_could_control_a_terminal(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says("GET /v1/connect-accounts", PAGE)
    assert run(["accounts"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split("\t") == ["ID", "NAME", "CHANNEL", "ACCOUNT", "STATE", "SINCE", "OPEN JOBS", "TROUBLE"]
    assert row.split("\t") == [
        *("acc_1", "Ada [31m Example", "linkedin", "revor/default", "needs_reconnect"),
        *("2026-05-20T10:00:00.000Z", "12", "inc_1"),
    ]
    assert stub.seen[0][0] == "GET /v1/connect-accounts?limit=500"


def test_json_and_filters(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--source", "revor", "--account", "default", "--state", "needs_reconnect", "--limit", "9"]
    stub.says("GET /v1/connect-accounts", PAGE)
    assert run(["accounts", *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [SENDER]
    assert stub.seen[0][0].endswith("?source=revor&account=default&state=needs_reconnect&limit=9")


def test_none_and_an_unknown_state(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says("GET /v1/connect-accounts", {"items": [], "next_cursor": None})
    assert run(["accounts", "--state", "removed"]) == 0
    assert "no accounts" in capsys.readouterr().err
    assert run(["accounts", "--state", "broken"]) == 2
    assert "unknown state 'broken'" in capsys.readouterr().err
