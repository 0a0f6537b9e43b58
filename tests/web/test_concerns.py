"""What the overview tells a person to look at, from the API's answers."""

from collections.abc import Mapping
from typing import Any

from relay.clock import to_rfc3339
from relay.web.concerns import Seen, concerns

NOW = 1_800_000_000.0
NEW, OLD = to_rfc3339(NOW - 60), to_rfc3339(NOW - 3 * 86_400)
HELD = "its filters cannot be read: filters[0].cel: expressions in CEL are gone"
WELL: Mapping[str, Any] = {"status": "ok", "problems": []}

CAUSE: Mapping[str, Any] = {"kind": "jobs", "who": "account owner", "connect_account_id": None, "code": None}


def source(**changes: object) -> dict[str, Any]:
    return {"source": "revor", "account": "default", "state": "ok", "since": None, "problem": None, **changes}


def incident(**changes: object) -> dict[str, Any]:
    return {"id": "inc_1", "what": "8 jobs failed", "opened_at": NEW, "fix": "Reconnect it", **CAUSE, **changes}


def account(**changes: object) -> dict[str, Any]:
    found = {"id": "acc", "name": "Ada", "channel": "linkedin", "state": "ok", "since": NEW, "open_jobs": 3}
    return {**found, **changes}


def subscription(**changes: object) -> dict[str, Any]:
    return {"id": "sub_1", "sink": "https://a.example/…", "state": "enabled", **changes}


def group(**changes: object) -> dict[str, Any]:
    found = {"subscription_id": "sub_1", "sink": "https://a.example/…", "count": 2, "least": False}
    return {**found, "oldest_at": OLD, "newest_at": OLD, **changes}


def keys(seen: Seen) -> list[tuple[str, str]]:
    return [(one.level, one.key) for one in concerns(seen, NOW)]


def test_what_needs_a_person() -> None:
    for seen, found in [
        ({}, []),
        ({"sources": [source()], "accounts": [account()], "subscriptions": [subscription()]}, []),
        ({"ready": {"status": "failing", "problems": ["database: full"]}}, [("bad", "problem")]),
        ({"sources": [source(state="down")]}, [("bad", "source_down")]),
        ({"sources": [source(state="unauthorized")]}, [("bad", "source_unauthorized")]),
        ({"sources": [source(state="elsewhere")]}, []),
        ({"incidents": [incident()]}, [("bad", "incident")]),
        ({"accounts": [account(state="needs_reconnect")]}, [("bad", "account_needs_reconnect")]),
        ({"accounts": [account(state="cannot_send", open_jobs=0)]}, [("warn", "account_cannot_send_idle")]),
        (
            {"incidents": [incident(connect_account_id="acc")], "accounts": [account(state="needs_reconnect")]},
            [("bad", "incident")],
        ),
        ({"uncertain": [group(), group(subscription_id="sub_2")]}, [("bad", "uncertain")]),
        ({"intents": [{"id": "int_1", "sent_at": OLD}]}, [("bad", "intents")]),
        ({"intents": [{"id": "int_1", "sent_at": OLD}] * 100}, [("bad", "intents_least")]),
        (
            {"intents": [{"id": "int_1", "sent_at": OLD}], "incidents": [incident(kind="creates")]},
            [("bad", "intents")],
        ),
        ({"incidents": [incident(kind="creates")]}, [("bad", "incident")]),
        ({"incidents": [incident(subscription="sub_1")], "dead": [group()]}, [("bad", "dead")]),
        ({"subscriptions": [subscription(state="disabled", disabled_reason="410")]}, [("bad", "disabled")]),
        ({"subscriptions": [subscription(state="paused", state_reason="paused by ops")]}, []),
        ({"subscriptions": [subscription(state="paused", state_reason=HELD)]}, [("bad", "held")]),
        (
            {"subscriptions": [subscription(state="paused", state_reason=HELD)], "dead": [group()]},
            [("bad", "held"), ("warn", "dead")],
        ),
        ({"subscriptions": [subscription(state="paused")]}, []),
        ({"subscriptions": [subscription(failing_since=NEW, failing_reason="500")]}, [("bad", "failing")]),
        (
            {"subscriptions": [subscription(failing_since=NEW)], "uncertain": [group()]},
            [("bad", "uncertain"), ("bad", "failing_in_doubt")],
        ),
        (
            {"subscriptions": [subscription(failing_since=NEW)], "uncertain": [group(subscription_id="sub_2")]},
            [("bad", "uncertain"), ("bad", "failing")],
        ),
        ({"subscriptions": [subscription(state="paused", failing_since=NEW)]}, []),
        ({"dead": [group(newest_at=NEW)]}, [("bad", "dead")]),
        ({"dead": [group()]}, [("warn", "dead")]),
        ({"late": [group()]}, [("warn", "late")]),
        ({"late": [group(least=True)]}, [("warn", "late_least")]),
        ({"dead": [group(least=True)]}, [("warn", "dead_least")]),
        ({"uncertain": [group(), group(least=True)]}, [("bad", "uncertain_least")]),
        ({"late": [group()], "subscriptions": [subscription(state="paused")]}, []),
    ]:
        assert keys(Seen(**{"ready": WELL, **seen})) == found  # type: ignore[arg-type]
