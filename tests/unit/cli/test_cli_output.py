"""Tables on terminals of different widths."""

import json

import orjson
import pytest

from relay.cli import run
from relay.cli.events.events import show_event
from relay.cli.events.stream import ServerEvent
from relay.cli.output import _shortened, note, print_fields, print_json, print_table, say
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


def test_very_long_id_leaves_room_for_other_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    print_table(("id", "status"), [("x" * 200, "succeeded")], empty="none")
    assert "succeeded" in shown.getvalue()
    assert shown.getvalue().count("x") == 200


def test_narrow_table_keeps_every_column_and_wraps_times_after_the_date(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    columns = ("id", "state", "since", "why", "kind", "sink", "types")
    why = "only failures for 432000 s; tried again at 2026-11-26T04:04:16.768Z"
    row = (ID, "disabled", "2026-11-26T04:04:01.106Z", why, "webhook", "https://crm.example.com/hooks/relay", "failed")
    print_table(columns, [row], empty="none")
    text = shown.getvalue()
    assert "TYPES" in text.splitlines()[1]
    assert "2026-11-26T" not in text


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


def test_columns_wrap_between_words_if_there_is_room_for_each_word(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "dumb")
    columns = ("id", "name", "channel", "account", "state", "since", "open jobs")
    row = ("account_signed_out_12345678", "Signed-out LinkedIn Account", "linkedin", "revor/default")
    print_table(columns, [(*row, "needs_reconnect", "2 hours ago", "0")], empty="none")
    head, first, *more = shown.getvalue().splitlines()
    assert [word in first for word in ("Signed-out", "linkedin", "revor/default", "needs_reconnect")] == [True] * 4
    assert "OPEN JOBS" in head
    assert "LinkedIn" in more[0]


def test_table_that_does_not_fit_a_very_narrow_terminal_is_a_block_for_each_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = Terminal()
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setenv("COLUMNS", "40")
    print_table(
        ("id", "what", "likely"), [(ID, "12 jobs of Ada failed: the account needs reconnecting", None)] * 2, empty=""
    )
    block = [
        f"ID      {ID}",
        "WHAT    12 jobs of Ada failed: the",
        "        account needs reconnecting",
        "LIKELY  -",
    ]
    assert shown.getvalue().splitlines() == [*block, "", *block]


def test_times_are_rfc_3339_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, [ROW], empty="none")
    assert "2026-11-25T23:32:35.584Z" in capsys.readouterr().out


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


def test_long_values_are_not_cut_on_a_wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "200")
    columns, row = TABLES["deliveries"]
    print_table(columns, [row], empty="none", now=NOW)
    assert "crm.example.com/hooks/relay" in shown.getvalue()
    assert str(row[2]) in shown.getvalue()


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


def test_a_shortened_sink_keeps_its_port() -> None:
    assert _shortened("http://127.0.0.1:18092", 16) == "127.0.0.1:18092"
    assert _shortened("http://127.0.0.1:18092", None) == "http://127.0.0.1:18092"
