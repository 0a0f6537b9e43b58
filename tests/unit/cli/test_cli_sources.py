"""`relay sources`: a table that fits a narrow terminal, and advice on each account."""

import io
import json
from collections.abc import Mapping
from typing import Any

import pytest

from relay.cli import run
from relay.cli.sources import _per_minute, judgement

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


def test_long_names_and_large_numbers_are_wrapped(
    accounts: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "an-account-with-a-name-as-long-as-a-team-can-make-it"
    accounts[0] |= {"account": name, "limit": 1_000_000, "own_requests_per_second": 99_999.0, "open_jobs": 1_000_000}
    lines = on_terminal(monkeypatch)
    assert max(len(line) for line in lines) <= 80
    table = lines[: lines.index("")]
    assert "".join(line.split(" ")[0] for line in table[1:]) == f"revor/{name}"
    assert "…" not in "".join(lines)


def test_without_a_terminal_rows_are_tab_separated(
    accounts: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    accounts[0] |= {"limit": 10, "window_seconds": 3600.0, "own_requests_per_second": 0.002}
    assert run(["sources"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split("\t") == ["revor/default", "ok", "12345", "0.12/0.17", "6", "1.2 s", "5 min", "0.6 s"]
    assert lines[-1].startswith("revor/default: a job's end is known")
    assert len(lines) == 6


def test_json_is_the_only_output(accounts: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sources", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == accounts


def test_missing_accounts_are_reported(accounts: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    accounts.clear()
    assert run(["sources"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("", "no accounts. Add one to the settings\n")


def test_account_name_cannot_control_the_terminal(
    accounts: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    accounts[0]["account"] = "\x1b[2Jx"
    assert run(["sources"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_missing_relay_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RELAY_URL", "http://127.0.0.1:9")
    assert run(["sources"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "`relay serve`" in err


def delays(now: float, double: float | None, half: float | None) -> dict[str, Any]:
    return {
        "expected_detection_delay_seconds": now,
        "expected_detection_delay_at_double_budget_seconds": double,
        "expected_detection_delay_at_half_budget_seconds": half,
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"state": "no_key"}, "no API key"),
        ({"state": "down"}, "the upstream is failing"),
        ({"state": "elsewhere"}, "another node polls this account"),
        ({"open_jobs": 0}, "no open jobs"),
        (UNKNOWN, "not enough data yet"),
        (delays(1.2, None, None), "a job's end is known about 1.2 s after it happens."),
        (delays(1.2, 0.6, 2.9), "With double the budget: 0.6 s, with half of it: 2.9 s."),
        (delays(0.3, 0.25, 0.9), "A larger budget would hardly change that. With half of it: 0.9 s."),
        (delays(100.0, 95.0, 105.0), "Neither a larger nor a smaller budget would change much."),
    ],
)
def test_judgement_of_an_account(changes: dict[str, Any], expected: str) -> None:
    assert expected in judgement({**ACCOUNT, **changes})


@pytest.mark.parametrize(("per_second", "shown"), [(None, "-"), (6e-36, "0"), (0.0, "0"), (0.1, "6"), (2.0, "120")])
def test_rates_are_short(per_second: float | None, shown: str) -> None:
    assert _per_minute(per_second) == shown
