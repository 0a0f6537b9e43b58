"""The replay commands against a stub server."""

import json
from typing import Any

import pytest

from relay.cli import run
from relay.cli.client import Unreachable
from relay.cli.deliveries import replays
from tests.unit.cli.test_cli_client import Stub, stub

__all__ = ["stub"]

STARTED = {"replay_id": "rpl_1", "matched": 1200}
PATH = "POST /v1/subscriptions/sub_1/replay"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "POLL_SECONDS", 0.001)


def shown(state: str = "running", delivered: int = 0, dead: int = 0, left: int | None = None) -> dict[str, Any]:
    left = 1200 - delivered - dead if left is None else left
    return {"id": "rpl_1", "state": state, "matched": 1200, "delivered": delivered, "dead": dead, "left": left}


def sent(stub: Stub) -> Any:
    return json.loads(stub.seen[0][2])


def test_replay_is_requested(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says(PATH, STARTED, status=202)
    since = "2026-05-20T00:00:00Z"
    options = ["--since", since, "--until", "2026-05-21T00:00:00Z", "--types", "failed,relay.test", "--only", "all"]
    assert run(["subscriptions", "replay", "sub_1", *options]) == 0
    assert sent(stub) == {
        "since": since,
        "until": "2026-05-21T00:00:00Z",
        "types": ["failed", "relay.test"],
        "only": "all",
    }
    assert "1,200 events to send again" in capsys.readouterr().out
    assert run(["subscriptions", "replay", "sub_1", "--since", since, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == STARTED


@pytest.mark.parametrize("terminal", [False, True])
def test_wait_returns_at_the_end_of_a_replay(
    stub: Stub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    stub.says(PATH, STARTED, status=202)
    for one in (shown(), shown(delivered=600), shown(delivered=610), shown("done", delivered=1200)):
        stub.says("GET /v1/replays/rpl_1", one)
    assert run(["subscriptions", "replay", "sub_1", "--since", "1d", "--wait"]) == 0
    out, err = capsys.readouterr()
    assert out == "rpl_1 is done: 1,200 of 1,200 delivered\n"
    if terminal:
        assert "1200/1200" in err
    else:  # a line for each tenth, not for each poll
        assert [line.partition(": ")[2] for line in err.splitlines()] == [
            "0 of 1,200 delivered, 1,200 left",
            "600 of 1,200 delivered, 600 left",
            "1,200 of 1,200 delivered",
        ]


def test_wait_survives_a_restart_of_the_relay(
    stub: Stub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.says("GET /v1/replays/rpl_1", shown())
    calls = iter([False, True, True, False])
    get = replays._get

    def away(id: str) -> Any:
        if next(calls, False):
            raise Unreachable("no relay at …")
        return get(id)

    monkeypatch.setattr(replays, "_get", away)
    stub.says("GET /v1/replays/rpl_1", shown("done", delivered=1200))
    assert run(["replays", "show", "rpl_1", "--wait"]) == 0
    monkeypatch.setattr("relay.cli.client.PATIENCE_SECONDS", -1.0)
    stub.answers.clear()
    stub.says("GET /v1/replays/rpl_1", shown())
    calls = iter([False, True])
    assert run(["replays", "show", "rpl_1", "--wait"]) == 1
    assert "Continue with `relay replays show rpl_1 --wait`" in capsys.readouterr().err


def test_deliveries_are_retried_by_filter(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says("POST /v1/deliveries/retry", STARTED, status=202)
    options = ["--state", "dead", "--subscription", "sub_1", "--type", "failed", "--reason", "http_500"]
    assert run(["deliveries", "retry", *options, "--since", "2026-05-20T00:00:00Z"]) == 0
    assert sent(stub)["filter"] == {
        "state": "dead",
        "subscription": "sub_1",
        "type": "failed",
        "since": "2026-05-20T00:00:00Z",
        "reason": "http_500",
    }
    assert "rpl_1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("complete", "said"), [(True, "1,200 events would"), (False, "at least 1,200 events would be sent again")]
)
def test_dry_run_says_how_many_events_would_be_sent(
    stub: Stub, capsys: pytest.CaptureFixture[str], complete: bool, said: str
) -> None:
    for path, command in (
        (PATH, ["subscriptions", "replay", "sub_1", "--since", "1d"]),
        ("POST /v1/deliveries/retry", ["deliveries", "retry", "--state", "dead"]),
    ):
        stub.says(path, {"matched": 1200, "complete": complete})
        assert run([*command, "--dry-run"]) == 0
        assert stub.seen[-1][0].endswith("?dry_run=true")
        assert said in capsys.readouterr().out
    assert run(["deliveries", "retry", "dlv_1", "--dry-run"]) == 2
    assert "give no id" in capsys.readouterr().err
