"""`relay accounts`: which accounts can send, as a table and as JSON."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from relay.cli import run

ACCOUNT = {
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


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The queries that were sent. The relay lists one account."""
    queries: list[Any] = []

    class Client:
        def items(self, path: str, query: Mapping[str, Any], limit: int) -> list[Any]:
            queries.append((path, dict(query), limit))
            return [] if query.get("state") == "removed" else [ACCOUNT]

    monkeypatch.setattr("relay.cli.sources.api", Client)
    return queries


def test_a_table_without_what_could_control_a_terminal(asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["accounts"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split("\t") == ["ID", "NAME", "CHANNEL", "ACCOUNT", "STATE", "SINCE", "OPEN JOBS", "TROUBLE"]
    assert row.split("\t") == [
        *("acc_1", "Ada [31m Example", "linkedin", "revor/default", "needs_reconnect"),
        *("2026-05-20T10:00:00.000Z", "12", "inc_1"),
    ]
    assert asked == [("/v1/connect-accounts", {}, 500)]


def test_json_and_filters(asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--source", "revor", "--account", "default", "--state", "needs_reconnect", "--limit", "9"]
    assert run(["accounts", *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [ACCOUNT]
    wanted = {"source": "revor", "account": "default", "state": "needs_reconnect"}
    assert asked == [("/v1/connect-accounts", wanted, 9)]


def test_none_and_an_unknown_state(asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["accounts", "--state", "removed"]) == 0
    assert "no accounts" in capsys.readouterr().err
    assert run(["accounts", "--state", "broken"]) == 2
    assert "unknown state 'broken'" in capsys.readouterr().err
