"""Tables on terminals of different widths."""

import json

import orjson
import pytest

from relay.cli import run
from relay.cli.events.events import show_event
from relay.cli.events.stream import ServerEvent
from relay.cli.output import note, print_fields, print_json, print_table, say
from tests.unit.cli.test_cli_sources import Terminal

ID = "int_01m8agvk3zph7995dmd4868kza"
COLUMNS = ("id", "sent_at", "account", "path", "reason", "idempotency_key")
ROW = (ID, "2026-11-25T23:32:35.584Z", "default", "/api/v1/outreach/dispatches", "no_answer", "deal-42")


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_ids_stay_on_one_line_at_any_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    shown = Terminal()
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "dumb")
    print_table(COLUMNS, [ROW, ROW], empty="none")
    lines = shown.getvalue().splitlines()
    assert sum(ID in line for line in lines) == 2
    assert max(map(len, lines)) <= width


def test_ids_are_above_the_other_columns_if_words_would_break(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setenv("COLUMNS", "80")
    columns = ("id", "type", "about", "sink", "state", "next", "reason")
    row = (ID, "com.acme.order.paid", "A-30", "nats://broker.example.com:4222", "pending", "2025-11-26T00:13:40.000Z")
    print_table(columns, [(*row, "no_stream"), (*row, "http_401")], empty="none", now=NOW)
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[:2] == [
        "ID",
        "  TYPE                 ABOUT  SINK              STATE    NEXT    REASON",
    ]
    assert lines[2:] == [
        ID,
        "  com.acme.order.paid  A-30   broker.example.…  pending  in 5 s  no_stream",
        ID,
        "  com.acme.order.paid  A-30   broker.example.…  pending  in 5 s  http_401",
    ]


NOW = 1_764_116_015.0
TABLES = {
    "jobs": (
        ("id", "channel", "account", "status", "tracked", "next", "error"),
        (
            "3f2a9c1e-5b7d-4e8f-9a10-2b3c4d5e6f70",
            "linkedin",
            "default",
            "failed",
            "2025-11-26T00:12:30.000Z",
            None,
            "connect_account_reconnect_required",
        ),
    ),
    "deliveries": (
        ("id", "type", "about", "sink", "state", "next", "reason"),
        (
            "dlv_01m8agvk3zph7995dmd4868kza",
            "ai.revor.job.succeeded",
            "3f2a9c1e-5b7d-4e8f-9a10-2b3c4d5e6f70",
            "https://crm.example.com/hooks/relay",
            "pending",
            "2025-11-26T00:13:40.000Z",
            "http_503",
        ),
    ),
    "events": (
        ("time", "type", "subject", "sequence", "id"),
        (
            "2025-11-26T00:12:30.000Z",
            "ai.revor.job.failed",
            "3f2a9c1e-5b7d-4e8f-9a10-2b3c4d5e6f70",
            3,
            "evt_01m8agvk3zph7995dmd4868kza",
        ),
    ),
}
SHOWN = {
    "jobs": ["linkedin", "default", "failed", "65 s ago", "connect_accou"],
    "deliveries": ["succeeded", "3f2a9c1e…", "crm.example.com…", "pending", "in 5 s", "http_503"],
    "events": ["65 s ago", "failed", "3f2a9c1e-5b7d-4e8f-9a10-2b3c4d5e6f70", "3"],
}


@pytest.mark.parametrize("table", TABLES)
def test_tables_fit_a_hundred_columns_with_short_types_and_relative_times(
    monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    shown = Terminal()
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "100")
    columns, row = TABLES[table]
    print_table(columns, [row], empty="none", now=NOW)
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    head, rows = (lines[:1], lines[1:2]) if len(lines) == 2 else (lines[:2], lines[2:])
    assert [column.upper() in "\n".join(head) for column in columns] == [True] * len(columns)
    for cell in SHOWN[table]:
        assert cell in rows[-1], lines


CONTROLS = "\x00\x07\x1b\x7f\x85\x9b\u200f\u2028\u202e\u2066\ufeff"


def test_nothing_that_a_command_prints_controls_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    document = {f"k{CONTROLS}": [CONTROLS, {"é": "日本"}]}
    print_json(document)
    printed = capsys.readouterr().out
    assert json.loads(printed) == document, "a script reads what the API said"
    assert "日本" in printed
    print_table(("id",), [(CONTROLS,)], empty="none")
    print_fields(document)
    say(CONTROLS)
    note(CONTROLS)
    assert run(["jobs", "show", "--no\x1b[31m"]) == 2
    monkeypatch.setenv("RELAY_URL", f"http://127.0.0.1:1/{CONTROLS[1:]}")
    assert run(["jobs", "list"]) in (1, 2)

    def broken() -> None:
        raise KeyError(CONTROLS)

    monkeypatch.setattr("relay.cli.jobs.jobs.api", broken)
    assert run(["jobs", "list"]) == 1
    event = ServerEvent(id="1", data=orjson.dumps({"type": "a", "id": CONTROLS}))
    show_event(event, None, json=True)
    show_event(event, None, json=False)
    shown = capsys.readouterr()
    assert not set(printed + shown.out + shown.err) & set(CONTROLS)
