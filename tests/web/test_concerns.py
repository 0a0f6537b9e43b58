"""What the overview tells a person to look at, from the API's answers."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from relay.clock import to_rfc3339
from relay.web.concerns import Concern, Seen, concerns
from relay.web.texts import english

NOW = 1_800_000_000.0
NEW, OLD = to_rfc3339(NOW - 60), to_rfc3339(NOW - 3 * 86_400)
HELD = "its filters cannot be read: filters[0].cel: expressions in CEL are gone"
WELL: Mapping[str, Any] = {"status": "ok", "problems": []}


def source(**changes: object) -> dict[str, Any]:
    return {"source": "revor", "account": "default", "state": "ok", "since": None, "problem": None, **changes}


def incident(**changes: object) -> dict[str, Any]:
    return {"id": "inc_1", "what": "8 jobs failed", "opened_at": NEW, "fix": "Reconnect it", **changes}


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


@pytest.mark.parametrize(
    ("seen", "found"),
    [
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
    ],
)
def test_what_needs_a_person(seen: dict[str, Sequence[Any]], found: list[tuple[str, str]]) -> None:
    assert keys(Seen(**{"ready": WELL, **seen})) == found  # type: ignore[arg-type]


def test_a_subscription_has_the_name_that_people_gave_it() -> None:
    named = subscription(description="CRM", failing_since=NEW, failing_reason="http_503")
    found = concerns(Seen(ready=WELL, subscriptions=[named], dead=[group()], late=[group()]), NOW)
    assert [(one.key, one.values["sink"], one.values["n"]) for one in found] == [("failing_dead", "CRM", 2)]


@pytest.mark.parametrize(
    ("reason", "fix"),
    [
        ("http_503", "HTTP 503: the sink fails. Check its log."),
        ("timeout", "no answer in time: the sink is too slow. Let it answer 2xx before it works,"),
        ("of_a_later_version", "of_a_later_version"),
    ],
)
def test_why_a_subscription_fails_is_said_in_words(reason: str, fix: str) -> None:
    (found,) = concerns(Seen(ready=WELL, subscriptions=[subscription(failing_since=NEW, failing_reason=reason)]), NOW)
    assert (found.fix or "").startswith(fix)


@pytest.mark.parametrize(
    ("stands", "found"),
    [
        ({"failing_since": NEW}, ["failing"]),
        ({"state": "disabled"}, ["disabled"]),
        ({"state": "paused", "failing_since": NEW}, ["incident"]),
        ({}, ["incident"]),
        ({"id": "sub_2", "failing_since": NEW}, ["incident", "failing"]),
    ],
)
def test_a_broken_sink_is_told_once(stands: dict[str, Any], found: list[str]) -> None:
    seen = Seen(ready=WELL, incidents=[incident(subscription="sub_1")], subscriptions=[subscription(**stands)])
    assert [key for _, key in keys(seen)] == found


@pytest.mark.parametrize("stands", [{"state": "disabled"}, {"failing_since": NEW}])
def test_all_that_is_wrong_with_one_sink_is_one_concern(stands: dict[str, Any]) -> None:
    seen = Seen(
        ready=WELL,
        incidents=[incident(subscription="sub_1")],
        subscriptions=[subscription(**stands)],
        dead=[group(newest_at=NEW)],
        late=[group()],
    )
    (found,) = concerns(seen, NOW)
    assert "2" in english()(f"overview.{found.key}", **found.values)


def test_the_worst_comes_first() -> None:
    seen = Seen(
        ready={"status": "failing", "problems": ["database: full"]},
        sources=[source(state="down")],
        dead=[group()],
        accounts=[account(state="cannot_send", open_jobs=0)],
        incidents=[incident()],
        uncertain=[group(subscription_id="sub_2")],
        intents=[{"id": "int_2", "sent_at": NEW}, {"id": "int_1", "sent_at": OLD}],
    )
    assert keys(seen) == [
        *(("bad", key) for key in ("problem", "intents", "uncertain", "source_down", "incident")),
        *(("warn", key) for key in ("account_cannot_send_idle", "dead")),
    ]
    (oldest,) = [one.since for one in concerns(seen, NOW) if one.key == "intents"]
    assert oldest == OLD


def everything() -> list[Concern]:
    return concerns(
        Seen(
            ready={"status": "failing", "problems": ["database: full"]},
            sources=[source(state="down"), source(state="unauthorized")],
            incidents=[incident()],
            accounts=[
                account(state=state, open_jobs=n) for state in ("needs_reconnect", "cannot_send") for n in (0, 1, 5)
            ],
            subscriptions=[
                subscription(state="disabled"),
                subscription(failing_since=NEW),
                subscription(state="paused", state_reason=HELD),
            ],
            dead=[group(subscription_id="sub_2", count=1), group(sink=None), group(least=True)],
            uncertain=[group()],
            late=[group(subscription_id="sub_2"), group(subscription_id="sub_3", least=True)],
            intents=[{"id": "int_1", "sent_at": OLD}],
        ),
        NOW,
    ) + concerns(
        Seen(
            ready=WELL,
            subscriptions=[
                *(subscription(state="disabled", id=id) for id in ("sub_1", "sub_2", "sub_3")),
                *(subscription(failing_since=NEW, id=id) for id in ("sub_4", "sub_5", "sub_6", "sub_8")),
            ],
            dead=[
                *(group(subscription_id=id) for id in ("sub_1", "sub_4")),
                *(group(subscription_id=id, least=True) for id in ("sub_2", "sub_5")),
                group(subscription_id="sub_7", least=True),
            ],
            uncertain=[group(least=True), group(subscription_id="sub_8")],
            intents=[{"id": "int_1", "sent_at": OLD}] * 100,
        ),
        NOW,
    )


def test_each_has_a_sentence_and_a_place_to_look() -> None:
    found = everything()
    assert {one.key for one in found} == {
        *(
            "problem",
            "source_down",
            "source_unauthorized",
            "incident",
            "uncertain",
            "intents",
            "disabled",
            "failing",
            "held",
        ),
        *("account_needs_reconnect", "account_cannot_send", "dead", "late"),
        *("dead_least", "late_least", "uncertain_least", "intents_least"),
        "failing_in_doubt",
        *(f"{stands}_dead{more}" for stands in ("disabled", "failing") for more in ("", "_least")),
        *("account_needs_reconnect_idle", "account_cannot_send_idle"),
    }
    for one in found:
        sentence = english()(f"overview.{one.key}", **one.values)
        assert "{" not in sentence
        assert one.path.startswith("/ui/")


def test_an_account_is_named_as_its_owner_writes_it() -> None:
    (one,) = concerns(Seen(ready=WELL, accounts=[account(state="needs_reconnect")]), NOW)
    sentence = english()("overview.account_needs_reconnect", **one.values)
    assert sentence == "The LinkedIn account Ada needs reconnecting. 3 open jobs need it."


def test_what_a_source_has_answered_is_told():
    problem = {"code": "unavailable", "message": "revor.ai refuses connections", "request_id": None, "at": NEW}
    (found,) = concerns(Seen(ready=WELL, sources=[source(state="down", problem=problem)]), NOW)
    assert found.fix == "revor.ai refuses connections"
