"""`relay sources`: a table that fits a narrow terminal, and advice on each account."""

import io
import json
from collections.abc import Mapping
from typing import Any

import pytest

from relay.cli import run

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
UNKNOWN = {
    name: None
    for name in ACCOUNT
    if name.startswith(("expected", "price", "limit", "remaining", "window")) or name.endswith("per_second")
}


class Terminal(io.StringIO):
    """A stdout that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def accounts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Sets the accounts that the relay lists."""
    listed: list[dict[str, Any]] = [dict(ACCOUNT)]

    class Client:
        def items(self, path: str, query: Mapping[str, Any], limit: int) -> list[Any]:
            assert path == "/v1/sources"
            return listed[:limit]

    monkeypatch.setattr("relay.cli.sources.api", Client)
    return listed


def on_terminal(monkeypatch: pytest.MonkeyPatch, *arguments: str, columns: int = 80) -> list[str]:
    shown = Terminal()
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "dumb")
    assert run(["sources", *arguments]) == 0
    return shown.getvalue().splitlines()


def test_table_fits_a_narrow_terminal(accounts: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    accounts.append({**ACCOUNT, **UNKNOWN, "account": "second", "state": "unauthorized", "open_jobs": 0})
    lines = on_terminal(monkeypatch)
    assert [line.split() for line in lines[:3]] == [
        ["ACCOUNT", "STATE", "OPEN", "OURS/LIMIT", "OTHERS", "DELAY", "HALF", "DOUBLE"],
        ["revor/default", "ok", "12345", "96/120", "6", "1.2", "s", "5", "min", "0.6", "s"],
        ["revor/second", "unauthorized", "0", "-/-", "-", "-", "-", "-"],
    ]
    assert max(len(line) for line in lines) <= 80
    text = " ".join(lines)
    assert "OURS is what the relay may send of the upstream's LIMIT" in text
    assert "revor/default: a job's end is known about 1.2 s after it happens. With double the budget" in text
    assert "revor/second: the upstream refuses the API key" in text


def test_json_is_the_only_output(accounts: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sources", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == accounts


def test_account_name_cannot_control_the_terminal(
    accounts: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    accounts[0]["account"] = "\x1b[2Jx"
    assert run(["sources"]) == 0
    assert "\x1b" not in capsys.readouterr().out
