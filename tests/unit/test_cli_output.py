"""Tables on a terminal, and what of them a person copies."""

import pytest

from relay.cli.output import print_table
from tests.unit.test_cli_sources import Terminal

ID = "int_01m8agvk3zph7995dmd4868kza"
COLUMNS = ("id", "sent_at", "account", "path", "reason", "idempotency_key")
ROW = (ID, "2026-11-25T23:32:35.584Z", "default", "/api/v1/outreach/dispatches", "no_answer", "deal-42")


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_an_id_stays_on_one_line_whatever_the_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    shown = Terminal()
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "dumb")
    print_table(COLUMNS, [ROW, ROW], empty="none")
    lines = shown.getvalue().splitlines()
    assert sum(ID in line for line in lines) == 2
    assert max(map(len, lines)) <= width


def test_a_very_long_id_leaves_room_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    print_table(("id", "status"), [("x" * 200, "succeeded")], empty="none")
    assert "succeeded" in shown.getvalue()
    assert shown.getvalue().count("x") == 200


def test_no_column_vanishes_and_a_time_breaks_between_day_and_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    columns = ("id", "state", "since", "why", "kind", "sink", "types")
    why = "only failures for 432000 s; tried again at 2026-11-26T04:04:16.768Z"
    row = (ID, "disabled", "2026-11-26T04:04:01.106Z", why, "webhook", "https://crm.example.com/hooks/relay", "failed")
    print_table(columns, [row], empty="none")
    text = shown.getvalue()
    assert "TYPE" in text.splitlines()[0]
    assert "2026-11-26T" not in text


def test_elsewhere_times_are_as_the_api_has_them(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, [ROW], empty="none")
    assert "2026-11-25T23:32:35.584Z" in capsys.readouterr().out
