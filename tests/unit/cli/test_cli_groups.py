"""The group commands against a stub server."""

import json
from typing import Any

import pytest

from relay.cli import run
from relay.cli.jobs import groups
from tests.unit.cli.test_cli_client import Stub, stub

__all__ = ["stub"]

PATH = "GET /v1/groups/Q4%20campaign"
STATES = ("queued", "scheduled", "running", "retrying", "succeeded", "failed", "cancelled", "not_found", "untracked")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "WATCH_SECONDS", 0)
    monkeypatch.setattr(groups, "TIMEOUT_MARGIN_SECONDS", 600.0)  # a slow answer is not asked for again


def group(state: str = "open", **fields: Any) -> dict[str, Any]:
    counts = {name: fields.pop(name, 0) for name in STATES}
    values = {
        "name": "Q4 campaign", "source": "revor", "account": "default", "state": state, "round": 1, "closed": False,
        "counts": counts, "skipped": 0, "missing": 0, "failures": [], "first_at": "2026-05-20T10:00:00.000Z",
        "last_at": "2026-05-20T10:00:00.000Z", "finished_at": None, "expected": None,
    }  # fmt: skip
    return {**values, **fields}


def test_groups_are_listed(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says("GET /v1/groups", {"items": [group(succeeded=3, failed=1, expected=9)], "next_cursor": None})
    assert run(["groups", "list", "--state", "open", "--account", "default"]) == 0
    row = capsys.readouterr().out.splitlines()[1].split("\t")
    assert row == ["Q4 campaign", "default", "open", "1", "4/9", "1", "0", "2026-05-20T10:00:00.000Z"]
    assert stub.seen[0][0].endswith("?state=open&account=default&limit=50")


def test_group_is_shown_with_its_failures(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    failures = [{"code": "account_disconnected", "count": 2}]
    stub.says(PATH, group(succeeded=3, failed=2, running=1, closed=True, failures=failures))
    assert run(["groups", "show", "Q4 campaign"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Q4 campaign is closed but not finished: 5 of 6 jobs have ended, 2 failed\n")
    assert "2\taccount_disconnected" in out
    assert "queued" not in out


def test_group_is_shown_with_its_sending_accounts(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    known = {"id": "acc_1", "name": "Ada Lovelace", "channel": "linkedin", "state": "needs_reconnect", "waiting": 1}
    unknown = {"id": "acc_2", "name": None, "channel": None, "state": "ok", "waiting": 0}
    stub.says(PATH, group(running=1, connect_accounts=[known, unknown]))
    assert run(["groups", "show", "Q4 campaign"]) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "OPEN JOBS\tSENDING ACCOUNT\tSTATE",
        "1\tAda Lovelace\tneeds_reconnect",
        "0\tacc_2\tok",
    ]


FINISH = {"p10": "2026-05-20T12:20:00.000Z", "p50": "2026-05-20T12:40:00.000Z", "p90": "2026-05-21T13:05:00.000Z"}


@pytest.mark.parametrize("terminal", [False, True])
def test_watch_ends_when_the_group_finishes(
    stub: Stub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    done = group("finished", succeeded=99, failed=1, missing=2, expected=102)
    for one in (
        group(running=100, expected_finish=FINISH),
        group(running=50, succeeded=49, failed=1),
        group(running=49, succeeded=51),
        done,
    ):
        stub.says(PATH, one)
    assert run(["groups", "show", "Q4 campaign", "--watch", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == done
    assert [asked for asked, _, _ in stub.seen] == [PATH] * 4
    assert ["prefer" in headers for _, headers, _ in stub.seen] == [False, True, True, True]
    if terminal:
        assert "100/102" in err
        assert "1 failed" in err
    else:  # a line for each tenth, not for each answer
        assert err.splitlines() == [
            "Q4 campaign is open: 0 of 100 jobs have ended",
            "Q4 campaign is open: 50 of 100 jobs have ended, 1 failed",
            "Q4 campaign is finished: 100 of 102 jobs have ended, 1 failed, 2 did not come",
        ]


def test_watch_survives_a_restart_of_the_relay(
    stub: Stub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from relay.cli.client import Api, Unreachable

    get, calls = Api.get, iter([False, True, True, False])

    def failing(api: Api, *values: Any, **named: Any) -> Any:
        if next(calls):
            raise Unreachable("it restarts")
        return get(api, *values, **named)

    monkeypatch.setattr(Api, "get", failing)
    stub.says(PATH, group(running=1))
    stub.says(PATH, group("finished", succeeded=1))
    assert run(["groups", "show", "Q4 campaign", "--watch"]) == 0
    monkeypatch.setattr("relay.cli.client.PATIENCE_SECONDS", -1.0)
    monkeypatch.setattr(Api, "get", lambda *_, **__: group() if next(again) else _raise(Unreachable("it is gone")))
    again = iter([True, False])
    assert run(["groups", "show", "Q4 campaign", "--watch"]) == 1
    assert "relay groups show 'Q4 campaign' --watch" in capsys.readouterr().err


def _raise(error: Exception) -> None:
    raise error


def test_group_is_closed(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says("POST /v1/groups/Q4%20campaign/close", group(closed=True, running=2, expected=5))
    assert run(["groups", "close", "Q4 campaign", "--expected", "5", "--source", "revor"]) == 0
    assert capsys.readouterr().out == "Q4 campaign is closed but not finished: 0 of 5 jobs have ended\n"
    (path, _, body) = stub.seen[0]
    assert path.endswith("/close?source=revor")
    assert json.loads(body) == {"expected": 5}
