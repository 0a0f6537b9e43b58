"""`relay status`: the overview in a terminal. `relay settings`."""

import json
from typing import Any

import pytest

from relay.cli import run
from relay.cli.node import status as module
from relay.cli.node.status import command_lines, fitted, overview_lines
from relay.clock import to_rfc3339
from relay.core.turns import OWNER
from relay.web.concerns import Act, Concern
from tests.unit.cli.test_cli_client import Stub, stub

__all__ = ["stub"]

NOW = 1_800_000_000.0
OK = {"status": "ok", "problems": [], "notes": [], "checks": {}}
NONE: dict[str, Any] = {"items": [], "next_cursor": None}
LISTS = ("sources", "incidents", "connect-accounts", "subscriptions", "intents")


def groups(*found: tuple[str, int, str], truncated: bool = False) -> dict[str, Any]:
    items = [{"reason": reason, "count": count, "oldest_at": oldest} for reason, count, oldest in found]
    return {"items": items, "truncated": truncated}


def answers(stub: Stub, ready: Any = OK, *, status: int = 200, skipped: Any = None, **lists: Any) -> None:
    """What a relay answers: nothing is there, but for these lists. Of deliveries only the skipped ones, read last."""
    stub.says("GET /readyz", ready, status=status)
    for name in LISTS:
        items = lists.get(name.replace("-", "_"), [])
        stub.says(f"GET /v1/{name}", {"items": items, "next_cursor": None})
    for _ in range(4):
        stub.says("GET /v1/deliveries", groups())
    stub.says("GET /v1/deliveries", skipped or groups())
    stub.says("GET /v1/figures", {"items": []})


def concern(**changes: Any) -> Concern:
    given: dict[str, Any] = {
        "level": "bad",
        "key": "reconnect",
        "values": {"account": "LinkedIn account Sales EMEA", "title": "Revor"},
        "turn": OWNER,
        "holds": (("jobs_failed", 10, False), ("others_wait", 33, False)),
        "since": to_rfc3339(NOW - 300),
        "command": "relay incidents show inc_01jvpq3m8n0000000000000009",
    }
    return Concern(**{**given, **changes})


def lines_of(*found: Concern, width: int | None = 80) -> list[str]:
    return overview_lines(found, None, (), open_jobs=7, waiting=3, now=NOW, width=width)


def test_the_worst_is_the_first_sentence_and_each_has_a_turn_and_a_command() -> None:
    late = concern(level="warn", key="late", values={"sink": "Data warehouse"}, turn="none", holds=(), since=None)
    assert lines_of(concern(), late) == [
        "Reconnect the LinkedIn account Sales EMEA in Revor: 10 jobs failed, 33 wait.",
        "One other thing needs someone.",
        "",
        "! Reconnect the LinkedIn account Sales EMEA in Revor",
        "  10 jobs failed, 33 wait",
        "  whose turn: the owner of the sending account, for 5 min",
        "  $ relay incidents show inc_01jvpq3m8n0000000000000009",
        "",
        "- Data warehouse gets its events late",
        "  whose turn: none",
        "  $ relay incidents show inc_01jvpq3m8n0000000000000009",
    ]


def test_a_relay_that_is_well_says_so() -> None:
    assert lines_of() == ["All is well. 7 jobs are open, nothing is late, and every event arrived."]


def test_after_ten_cards_the_others_are_counted() -> None:
    lines = lines_of(*[concern()] * 12)
    assert len([line for line in lines if line.startswith("!")]) == 10
    assert lines[-1] == "and 2 more: relay incidents list --state open"


@pytest.mark.parametrize("width", [80, 60, 40])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    long = concern(why="HTTP 503: the sink fails. " * 7, command=f"relay deliveries retry {'x' * 30} " * 3)
    assert max(map(len, lines_of(long, width=width))) <= width


def test_a_long_command_can_still_be_copied() -> None:
    command = "relay deliveries retry --state dead --subscription sub_01jvpq3m8n0000000000000009"
    assert command_lines(command, 80) == [
        "  $ relay deliveries retry --state dead --subscription \\",
        "      sub_01jvpq3m8n0000000000000009",
    ]
    assert command_lines(command, None) == [f"  $ {command}"]


@pytest.mark.parametrize(
    ("height", "shown"),
    [(5, ["a", "b", "c", "d"]), (4, ["a", "b", "c", "d"]), (3, ["a", "…", "d"]), (1, ["a", "…", "d"])],
)
def test_a_small_terminal_keeps_the_first_and_the_last_line(height: int, shown: list[str]) -> None:
    assert fitted(["a", "b", "c", "d"], height) == shown


def test_status_reads_the_lists_of_the_overview(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    told = ["2 creates: see GET /v1/intents", "revor/default has 12 credits left, below 500 since t"]
    answers(stub, {**OK, "notes": ["revor/default: credits are not read", *told]})
    assert run(["status"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "All is well. 0 jobs are open, nothing is late, and every event arrived.",
        "",
        "note: revor/default: credits are not read",
    ]


def test_status_counts_skipped_and_unacknowledged_events(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    skipped = groups(("unmatched", 1200, "t"), ("incident inc_1", 7, "t"), ("ambiguous", 3, "t"), truncated=True)
    pulled = {"id": "sub_1", "description": "Warehouse", "state": "enabled", "failing_since": None}
    answers(stub, skipped=skipped, subscriptions=[{**pulled, "lag": {"count": 5, "oldest_seconds": 90}}])
    assert run(["status"]) == 0
    assert capsys.readouterr().out.splitlines()[2::2] == [
        "Warehouse has not acknowledged 5 events, the oldest for 90 s: relay subscriptions show sub_1",
        "at least 1,203 events skipped, because the CRM has no person for them, or several: "
        "relay deliveries list --state cancelled --group-by reason,sink",
    ]


def test_relay_that_is_not_ready_has_exit_code_1(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    answers(stub, {**OK, "status": "unavailable", "problems": ["database: the disk is full"]}, status=503)
    assert run(["status"]) == 1
    assert capsys.readouterr().out.startswith("Fix the relay: database: the disk is full.\n")


def test_a_token_that_may_read_little_sees_what_it_may(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says("GET /readyz", OK)
    for name in (*LISTS, "deliveries", "figures"):
        stub.says(f"GET /v1/{name}", {"code": "forbidden", "detail": "no"}, status=403)
    assert run(["status"]) == 0
    assert capsys.readouterr().out.startswith("All is well.")


def test_json_has_what_scripts_read(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    one = {"id": "sub_1", "state": "enabled", "sink": "nats://broker.example:4222", "failing_reason": "connect"}
    one["failing_since"] = "2026-05-20T08:00:00.000Z"
    stub.says("GET /readyz", OK)
    stub.says("GET /v1/deliveries", groups(("http_503", 2, "2026-05-20T09:00:00.000Z")))
    stub.says("GET /v1/deliveries", groups(truncated=True))
    stub.says("GET /v1/deliveries", groups(("unmatched", 1, "2026-05-20T08:00:00.000Z"), ("incident inc_1", 3, "t")))
    stub.says("GET /v1/subscriptions", {"items": [one, {**one, "state": "paused"}], "next_cursor": None})
    assert run(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        **OK,
        "deliveries": [
            {"deliveries": "uncertain", "count": 2, "oldest_at": "2026-05-20T09:00:00.000Z", "truncated": False},
            {"deliveries": "dead", "count": 0, "oldest_at": None, "truncated": True},
            {"deliveries": "skipped", "count": 1, "oldest_at": "2026-05-20T08:00:00.000Z", "truncated": False},
        ],
        "lags": [],
        "failing": [
            {
                "subscription": "sub_1",
                "sink": "nats://broker.example:4222",
                "since": "2026-05-20T08:00:00.000Z",
                "reason": "connect",
            }
        ],
    }


def test_a_relay_of_another_version_is_said_in_one_line(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    answers(stub, sources=[{"source": "revor"}])
    assert run(["status"]) == 1
    assert "has no 'state': it is of another version than this command" in capsys.readouterr().err


def test_a_command_for_after_the_fix_says_so() -> None:
    resume = Act(key="resume", path="/ui/subscriptions/sub_1/resume", posts=True, after=True)
    assert lines_of(concern(acts=(resume,)))[-2:] == [
        "  after the fix:",
        "  $ relay incidents show inc_01jvpq3m8n0000000000000009",
    ]


class Pauses:
    """Counts the pauses of `--watch`, and ends it by Ctrl-C in the last one."""

    def __init__(self, stub: Stub, *changes: Any) -> None:
        self.stub, self.changes = stub, list(changes)

    def __call__(self, seconds: float) -> None:
        if not self.changes:
            raise KeyboardInterrupt
        self.changes.pop(0)()


def test_watch_goes_on_while_no_relay_answers(
    stub: Stub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(stub)

    def lose() -> None:
        monkeypatch.setattr(Stub, "process_request", lambda server, request, address: server.shutdown_request(request))

    def return_() -> None:
        monkeypatch.undo()
        monkeypatch.setattr(module.time, "sleep", pauses)
        monkeypatch.setenv("RELAY_URL", stub.url)

    pauses = Pauses(stub, lose, return_)
    monkeypatch.setattr(module.time, "sleep", pauses)
    assert run(["status", "--watch"]) == 130
    shown = capsys.readouterr().out
    well, lost = "All is well. 0 jobs are open", "No answer for "
    first, second = shown.index(lost), shown.rindex(well)
    assert shown.index(well) < first < second
    assert shown.count(well) == 3  # what was shown last stays above the lost relay


def test_watch_ends_with_a_token_that_is_refused(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says("GET /readyz", {"code": "unauthorized", "detail": "no such token"}, status=401)
    assert run(["status", "--watch"]) == 2
    assert "RELAY_TOKEN" in capsys.readouterr().err


def test_watch_draws_each_block_over_the_one_before(
    stub: Stub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(stub)
    monkeypatch.setattr(module, "terminal_width", lambda: 80)
    monkeypatch.setattr(module.time, "sleep", Pauses(stub, lambda: None))
    assert run(["status", "--watch"]) == 130
    first, _, second = capsys.readouterr().out.partition("\x1b[")
    assert second.startswith("3A\r\x1b[J")
    assert len(first.splitlines()) == 3


def setting(key: str, value: object, *, place: str = "default", secret: bool = False, **more: Any) -> dict[str, Any]:
    return {"key": key, "value": value, "place": place, "secret": secret, "set": True, "reloaded": False, **more}


ITEMS = [
    setting("server.port", 9090, place="relay.yaml:3"),
    setting("server.host", "127.0.0.1"),
    setting("auth.tokens[0].token", None, place="relay.yaml:6 (${OPS})", secret=True, reloaded=True),
    setting("heartbeat.url", None, secret=True, set=False),
    setting("security.allow_ports", [443]),
]


def test_settings_are_a_table(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says("GET /v1/settings", {"node_id": "n", "items": ITEMS})
    assert run(["settings"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "KEY\tVALUE\tPLACE\tCHANGE",
        "server.port\t9090\trelay.yaml:3\trestart",
        "server.host\t127.0.0.1\tdefault\trestart",
        "auth.tokens[0].token\tset\trelay.yaml:6 (${OPS})\tSIGHUP",
        "heartbeat.url\tnot set\tdefault\trestart",
        "security.allow_ports\t[443]\tdefault\trestart",
    ]
