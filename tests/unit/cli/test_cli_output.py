"""Tables on terminals of different widths."""

import json
from collections.abc import Sequence

import orjson
import pytest
from rich.cells import cell_len

from relay.cli import run
from relay.cli.columns import ORDER
from relay.cli.events.events import show_event
from relay.cli.events.stream import ServerEvent
from relay.cli.options import type_name, type_names
from relay.cli.output import note, print_fields, print_json, print_table, say
from tests.unit.cli.test_cli_sources import Terminal

ID = "int_01m8agvk3zph7995dmd4868kza"
COLUMNS = ("id", "sent_at", "account", "path", "reason", "idempotency_key")
ROW = (ID, "2026-11-25T23:32:35.584Z", "default", "/api/v1/outreach/dispatches", "no_answer", "deal-42")


@pytest.mark.parametrize("width", [30, 60, 80, 100, 200])
def test_ids_stay_on_one_line_at_any_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    lines = _printed(monkeypatch, width, COLUMNS, [ROW, ROW], "intents list")
    assert sum(ID in line for line in lines) == 2
    assert max(map(len, lines)) <= width
    missing = [name for name in COLUMNS if name.upper() not in lines[0]]
    assert missing == [name for name in COLUMNS if name in ORDER["intents list"][len(COLUMNS) - len(missing) :]]
    said = " ".join(capsys.readouterr().err.split())
    assert said == (f"not shown: {', '.join(missing)}. A wider terminal or --json has them" if missing else "")
    assert bool(missing) is (width < 200)


def _printed(
    monkeypatch: pytest.MonkeyPatch, width: int, columns: Sequence[str], rows: Sequence[Sequence[str]], table: str
) -> list[str]:
    shown = Terminal()
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "dumb")
    print_table(columns, rows, empty="none", table=table)
    monkeypatch.undo()
    return shown.getvalue().splitlines()


TIME = "2026-11-25T23:32:35.584Z"
WORDS = {
    "what": "3 LinkedIn jobs failed: the account needs reconnecting, and 33 open jobs of it will fail as well",
    "sink": "https://hooks.example.com/services/T000/B000",
    "error": "external_api_worker_unavailable",
    "reason": "incident inc_01m8t1npq4hqxf14ns4k35j0kb",
    "types": "failed, overdue, not_found and 3 more",
    "name": "Ada Lovelace",
    "id": "7d9f3c52-1f0e-4b58-9a3e-2b7f6f0a9c11",
}


@pytest.mark.parametrize("table", ORDER)
def test_every_table_fits_80_columns_without_breaking_a_word(monkeypatch: pytest.MonkeyPatch, table: str) -> None:
    columns = ORDER[table]
    times = ("at", "since", "next", "tracked", "opened", "started", "time", "last job", "sent_at")
    row = [TIME if name in times else WORDS.get(name, "word_of_13_ch") for name in columns]
    whole = {word.removeprefix("https://") for cell in row for word in cell.split()} | {"ago"}
    lines = _printed(monkeypatch, 80, columns, [row, row], table)
    assert max(map(len, lines)) <= 80
    for word in " ".join(lines[1:]).split():
        assert word in whole or word.endswith("…") or word.isdecimal() or word in ("days", "h"), lines
    assert columns[0].upper() in lines[0]
    shown = [name.upper() in lines[0] for name in columns]
    assert shown == sorted(shown, reverse=True), "what is left out is the end of the order"
    assert len(_printed(monkeypatch, 400, columns, [row, row], table)) == 3, "a wide terminal has a line for each"


def test_names_in_wide_characters_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = _printed(monkeypatch, 40, ("id", "name"), [("acc_1", "株式会社例の営業部の担当者です")], "")
    assert max(map(cell_len, lines)) <= 40
    assert "株式会社例の営業部の担当者です" in lines[1]


NOW = 1_764_116_015.0


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


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ("failed", "ai.revor.job.failed com.acme.render.job.failed ai.revor.webset.failed"),
        ("job.failed", "ai.revor.job.failed com.acme.render.job.failed"),
        ("webset.failed", "ai.revor.webset.failed"),
        ("ai.revor.job.failed", "ai.revor.job.failed"),
        ("succeeded", "ai.revor.webset.completed"),
        ("account.recovered", "ai.revor.account.recovered"),
        ("com.acme.deploy.failed", "com.acme.deploy.failed"),
    ],
)
def test_short_type_shows_the_events_of_every_resource(
    names: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = ("ai.revor.job.failed", "com.acme.render.job.failed", "ai.revor.webset.failed", "ai.revor.webset.completed")
    others = ("ai.revor.account.recovered", "com.acme.deploy.failed", "relay.source.recovered")
    for type in (*jobs, *others):
        document = {
            "type": type,
            "dataschema": "http://relay.example/schemas/job-status.v1.json" if type in jobs else "",
        }
        show_event(ServerEvent(id="1", data=orjson.dumps(document)), type_names(names), json=True)
    printed = [json.loads(line)["type"] for line in capsys.readouterr().out.splitlines()]
    assert printed == shown.split()


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("failed", "failed"),
        ("job.failed", "job.failed"),
        ("account.recovered", "ai.revor.account.recovered"),
        ("com.acme.order.paid", "com.acme.order.paid"),
        (None, None),
    ],
)
def test_relay_is_asked_for_short_types_of_job_events(given: str | None, asked: str | None) -> None:
    """It knows its sources, and the command does not."""
    assert type_name(given) == asked
