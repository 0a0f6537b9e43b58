"""`relay incidents` against a stub server."""

import json
import shlex
from typing import Any

import pytest

from relay.cli import run
from tests.unit.cli.test_cli_client import Stub, stub

__all__ = ["stub"]

INCIDENT: dict[str, Any] = {
    "id": "inc_1",
    "kind": "jobs",
    "state": "open",
    "what": "12 LinkedIn jobs of Ada failed: the account needs reconnecting",
    "who": "account owner",
    "code": "connect_account_reconnect_required",
    "fix": "Reconnect it in Revor",
    "failed": 12,
    "likely": 40,
    "opened_at": "2026-05-20T10:00:00.000Z",
    "closed_at": None,
}
JOB = {
    "id": "job-1",
    "closed_at": "2026-05-20T10:00:01.000Z",
    "repeat": "safe",
    "problem": {"code": "reconnect"},
    "upstream": {"error": "The account is not connected"},
}


def test_list_is_a_table_with_what_happened_and_whose_turn_it_is(
    stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.says("GET /v1/incidents", {"items": [INCIDENT], "next_cursor": None})
    assert run(["incidents", "list", "--state", "open", "--account", "a"]) == 0
    assert stub.seen[0][0] == "GET /v1/incidents?state=open&account=a&limit=50"
    assert capsys.readouterr().out.splitlines() == [
        "ID\tSTATE\tWHAT\tWHO\tLIKELY\tOPENED",
        "inc_1\topen\t12 LinkedIn jobs of Ada failed: the account needs reconnecting\taccount owner\t40\t"
        "2026-05-20T10:00:00.000Z",
    ]


def test_show_says_what_to_do_and_lists_the_failed_jobs(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says("GET /v1/incidents/inc_1", INCIDENT)
    stub.says("GET /v1/incidents/inc_1/jobs", {"items": [JOB], "next_cursor": None})
    assert run(["incidents", "show", "inc_1", "--repeat", "safe"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == (
        "12 LinkedIn jobs of Ada failed: the account needs reconnecting. 40 more are likely to fail. "
        "To fix it (the owner of the sending account): Reconnect it in Revor."
    )
    assert not [line for line in out if line.endswith(" -")], "fields without a value are left out"
    assert out[-2:] == ["ID\tFAILED\tREPEAT\tERROR", "job-1\t2026-05-20T10:00:01.000Z\tsafe\treconnect"]
    assert stub.seen[1][0] == "GET /v1/incidents/inc_1/jobs?repeat=safe&limit=50"
    assert run(["incidents", "show", "inc_1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {**INCIDENT, "jobs": [JOB]}


def test_the_commands_that_an_incident_of_a_sink_advises_can_be_run(
    stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.says("GET /v1/incidents/inc_1", {**INCIDENT, "kind": "sink", "subscription": "sub_1"})
    stub.says("GET /v1/incidents/inc_1/jobs", {"items": [], "next_cursor": None})
    assert run(["incidents", "show", "inc_1"]) == 0
    commands = [line for line in capsys.readouterr().out.splitlines() if line.startswith("relay ")]
    stub.says("POST /v1/subscriptions/sub_1/resume", {"id": "sub_1", "state": "enabled"})
    stub.says("POST /v1/deliveries/retry", {"replay_id": "rpl_1", "matched": 3}, status=202)
    assert [run(shlex.split(command.removeprefix("relay "))) for command in commands] == [0, 0]
    assert stub.seen[2][0] == "POST /v1/subscriptions/sub_1/resume"
    assert json.loads(stub.seen[3][2]) == {"filter": {"state": "dead", "subscription": "sub_1"}}
