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


def test_json_is_the_only_output(accounts: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sources", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == accounts


def test_account_name_cannot_control_the_terminal(
    accounts: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    accounts[0]["account"] = "\x1b[2Jx"
    assert run(["sources"]) == 0
    assert "\x1b" not in capsys.readouterr().out
