"""`relay status`: whether the relay is well, and what a person may have to look at. `relay settings`."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from relay.cli import run
from relay.cli.node.status import MAX_FAILING
from tests.unit.cli.test_cli_client import Stub, stub

__all__ = ["stub"]

OK = {"status": "ok", "problems": [], "notes": [], "checks": {}}


def groups(*found: tuple[str, int, str], truncated: bool = False) -> dict[str, Any]:
    items = [{"reason": reason, "count": count, "oldest_at": oldest} for reason, count, oldest in found]
    return {"items": items, "truncated": truncated}


def answers(stub: Stub, ready: Any, *found: Any, status: int = 200, pulled: Sequence[Any] = ()) -> None:
    stub.says("GET /readyz", ready, status=status)
    for one in found:
        stub.says("GET /v1/deliveries", one)
    stub.says("GET /v1/subscriptions", {"items": list(pulled), "next_cursor": None})


def test_status_of_a_relay_without_trouble_is_one_line(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    answers(stub, OK, groups(), groups(), groups(("incident inc_1", 3, "2026-05-20T08:00:00.000Z")))
    assert run(["status"]) == 0
    assert capsys.readouterr().out.split() == ["the", "relay", "is", "ready"]
    asked = [seen[0] for seen in stub.seen[1:4]]
    assert [place.partition("state=")[2].partition("&")[0] for place in asked] == ["uncertain", "dead", "cancelled"]


def test_uncertain_dead_and_skipped_deliveries_are_counted(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    uncertain = groups(
        ("not_found_in_time", 1, "2026-05-20T09:00:00.000Z"), ("http_503", 1, "2026-05-20T08:00:00.000Z")
    )
    cancelled = groups(
        ("unmatched", 1200, "2026-05-19T08:00:00.000Z"),
        ("incident inc_1", 7, "2026-05-01T08:00:00.000Z"),
        ("ambiguous", 3, "2026-05-18T08:00:00.000Z"),
        truncated=True,
    )
    answers(stub, {**OK, "notes": ["revor/default is down"]}, uncertain, groups(), cancelled)
    assert run(["status"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[:2] == ["the relay is ready", "note: revor/default is down"]
    assert lines[-2:] == [
        "uncertain 2 2026-05-20T08:00:00.000Z relay deliveries list --state uncertain",
        "skipped 1,203 or more 2026-05-18T08:00:00.000Z relay deliveries list --state cancelled --group-by reason,sink",
    ]


def test_relay_that_is_not_ready_has_exit_code_1(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    problem = "database: the disk is full"
    answers(stub, {**OK, "status": "unavailable", "problems": [problem]}, groups(), groups(), groups(), status=503)
    assert run(["status"]) == 1
    assert f"the relay is not ready\nproblem: {problem}\n" in capsys.readouterr().out


def test_failing_subscriptions_are_named(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    one = {"id": "sub_1", "state": "enabled", "sink": "nats://broker.example:4222", "failing_reason": "connect"}
    one["failing_since"] = "2026-05-20T08:00:00.000Z"
    answers(stub, OK, *[groups()] * 3, pulled=[one, {**one, "failing_since": None}, {**one, "state": "paused"}])
    assert run(["status"]) == 0
    _, line = capsys.readouterr().out.splitlines()
    assert line.startswith("failing: nats://broker.example:4222, for ")
    assert line.endswith(" (first: connect): relay deliveries list --state pending --subscription sub_1")
    answers(stub, OK, *[groups()] * 3, pulled=[one] * (MAX_FAILING + 2))
    assert run(["status", "--json"]) == 0
    failing = json.loads(capsys.readouterr().out)["failing"]
    assert failing[0] == {
        "subscription": "sub_1",
        "sink": "nats://broker.example:4222",
        "since": "2026-05-20T08:00:00.000Z",
        "reason": "connect",
    }
    answers(stub, OK, *[groups()] * 3, pulled=[one] * (MAX_FAILING + 2))
    run(["status"])
    assert capsys.readouterr().out.splitlines()[-1] == "failing: 2 more, see `relay subscriptions list`"


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
