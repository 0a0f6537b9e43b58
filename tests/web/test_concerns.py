"""What needs someone, from the API's answers: the sentence, whose turn it is, what it holds up, and how to act."""

from collections.abc import Mapping
from typing import Any

import pytest

from relay.clock import to_rfc3339
from relay.core.turns import ADMINISTRATOR, OWNER, RECEIVER, RELAY
from relay.web.concerns import Concern, Reach, Seen, concerns, first_sentence, reads, seen_in

NOW = 1_800_000_000.0
NEW, OLD = to_rfc3339(NOW - 60), to_rfc3339(NOW - 3 * 86_400)
HELD = "its filters cannot be read: filters[0].cel: expressions in CEL are gone"
OLD_TEMPLATE = "this version cannot read the template: /config/template: there is no tag 'for'"
WELL: Mapping[str, Any] = {"status": "ok", "problems": []}
REVOR = "https://revor.example"


def source(**changes: object) -> dict[str, Any]:
    found = {"source": "revor", "account": "default", "title": "Revor", "website": REVOR, "state": "ok", "since": OLD}
    return {**found, "open_jobs": 12, "credits": None, **changes}


def incident(**changes: object) -> dict[str, Any]:
    found = {"id": "inc_1", "kind": "jobs", "source": "revor", "account": "default", "channel": "linkedin"}
    found |= {"connect_account_id": None, "connect_account_name": None, "subscription": None, "code": "some_code"}
    found |= {"what": "7 jobs failed: too few credits", "who": "administrator", "fix": "Add credits in Revor"}
    return {**found, "failed": 7, "likely": None, "first_failure_at": OLD, "opened_at": NEW, **changes}


RECONNECT = {"who": "account owner", "fix": "Reconnect it in Revor", "failed": 10, "likely": 33}
OF_ACCOUNT = {"connect_account_id": "emea", "connect_account_name": "Sales EMEA", **RECONNECT}


def account(**changes: object) -> dict[str, Any]:
    found = {
        "id": "emea",
        "source": "revor",
        "account": "default",
        "name": "Sales EMEA",
        "channel": "linkedin",
        "since": NEW,
        "open_jobs": 33,
    }
    return {**found, "trouble": None, **changes}


def subscription(**changes: object) -> dict[str, Any]:
    found = {"id": "sub_1", "sink": "https://a.example/…", "description": "Data warehouse", "state": "enabled"}
    found |= {"state_reason": None, "state_since": NEW, "disabled_reason": None, "failing_since": None}
    return {**found, "failing_reason": None, "config": {"kind": changes.pop("kind", "webhook")}, **changes}


def group(**changes: object) -> dict[str, Any]:
    found = {"subscription_id": "sub_1", "sink": "https://a.example/…", "count": 58, "least": False}
    return {**found, "oldest_at": OLD, "newest_at": OLD, **changes}


def found_in(**seen: Any) -> list[Concern]:
    return concerns(Seen(**{"ready": WELL, "sources": [source()], **seen}), NOW)


FAILING = subscription(failing_since=OLD, failing_reason="http_503")
PIPEDRIVE = subscription(description="Deals in Pipedrive", sink="https://acme.pipedrive.com/…", kind="pipedrive")
GONE = subscription(state="disabled", disabled_reason="http_410")
INTENT = {"id": "int_1", "source": "revor", "account": "default", "group": "Q4", "sent_at": OLD, "channel": "email"}
INTENT |= {"metadata": {"name": "Radia Hamilton", "email": "radia@example.com"}}


@pytest.mark.parametrize(
    ("seen", "headline", "turn", "acts", "command"),
    [
        pytest.param(
            {"needing": [account(trouble="inc_1")], "incidents": [incident(**OF_ACCOUNT)]},
            "Reconnect the LinkedIn account Sales EMEA in Revor: 10 jobs failed, 33 wait.",
            OWNER,
            ["reconnect https://revor.example", "failed_jobs /ui/incidents/inc_1"],
            "relay incidents show inc_1",
            id="account-needs-reconnecting",
        ),
        pytest.param(
            {"incidents": [incident(**OF_ACCOUNT)]},
            "Reconnect the LinkedIn account Sales EMEA in Revor: 10 jobs failed, 33 wait.",
            OWNER,
            ["reconnect https://revor.example", "failed_jobs /ui/incidents/inc_1"],
            "relay incidents show inc_1",
            id="account-that-no-listing-has-shown-yet",
        ),
        pytest.param(
            {"sources": [source(state="unauthorized", account="emea")]},
            "Revor refuses the API key of emea: 12 jobs are not followed.",
            ADMINISTRATOR,
            ["make_key https://revor.example", "put_key /ui/sources"],
            "relay sources list",
            id="key-refused",
        ),
        pytest.param(
            {"subscriptions": [FAILING], "dead": [group()], "pending": [group(count=3)]},
            "The Data warehouse receiver has errors (503): 58 events were not delivered, 3 wait.",
            RECEIVER,
            [
                "subscription /ui/subscriptions/sub_1",
                "POST pause /ui/subscriptions/sub_1/pause",
                "after: send_again /ui/deliveries/retry?state=dead&subscription=sub_1",
            ],
            "relay deliveries retry --state dead --subscription sub_1",
            id="sink-fails-and-58-are-given-up",
        ),
        pytest.param(
            {"subscriptions": [GONE], "pending": [group(count=3)]},
            "The Data warehouse receiver is gone (410), so the relay switched it off: 3 events wait.",
            RECEIVER,
            ["subscription /ui/subscriptions/sub_1", "after: POST resume /ui/subscriptions/sub_1/resume"],
            "relay subscriptions resume sub_1",
            id="disabled-by-410",
        ),
        pytest.param(
            {"subscriptions": [subscription(state="paused", state_reason=HELD)], "pending": [group(count=3)]},
            "The filters of Data warehouse cannot be read: 3 events wait.",
            ADMINISTRATOR,
            ["edit /ui/subscriptions/sub_1/edit", "subscription /ui/subscriptions/sub_1"],
            "relay subscriptions edit sub_1 --filters FILE",
            id="filters-of-an-older-version",
        ),
        pytest.param(
            {
                "subscriptions": [
                    subscription(state="disabled", state_reason=OLD_TEMPLATE, disabled_reason=OLD_TEMPLATE)
                ],
                "pending": [group(count=3)],
            },
            "The template of Data warehouse cannot be read: 3 events wait.",
            ADMINISTRATOR,
            ["correct /ui/subscriptions/sub_1/edit", "subscription /ui/subscriptions/sub_1"],
            "relay subscriptions edit sub_1 --template FILE",
            id="template-of-an-older-version",
        ),
        pytest.param(
            {"intents": [INTENT]},
            "Did the email to Radia Hamilton go out? Look in Revor.",
            ADMINISTRATOR,
            ["look_up https://revor.example", "settle /ui/intents"],
            "relay intents list",
            id="unknown-send",
        ),
        pytest.param(
            {"subscriptions": [PIPEDRIVE], "uncertain": [group(count=2)]},
            "Were 2 records written to Deals in Pipedrive? Look there.",
            ADMINISTRATOR,
            [
                "upstream https://acme.pipedrive.com",
                "settle /ui/deliveries?view=list&state=uncertain&subscription=sub_1",
            ],
            "relay deliveries list --state uncertain",
            id="delivery-in-doubt",
        ),
        pytest.param(
            {"sources": [source(state="down"), source(state="down", account="emea", open_jobs=3)]},
            "Revor does not answer: 15 jobs are not followed.",
            "Revor",
            ["source /ui/sources", "upstream https://revor.example"],
            "relay sources list",
            id="upstream-down",
        ),
        pytest.param(
            {"subscriptions": [subscription()], "late": [group(count=3)]},
            "Data warehouse gets its events late: 3 events wait.",
            RELAY,
            ["deliveries /ui/deliveries?state=pending&subscription=sub_1"],
            "relay deliveries list --state pending --subscription sub_1",
            id="events-late",
        ),
        pytest.param(
            {"incidents": [incident()]},
            "Add credits in Revor: 7 jobs failed.",
            ADMINISTRATOR,
            ["upstream https://revor.example", "failed_jobs /ui/incidents/inc_1"],
            "relay incidents show inc_1",
            id="out-of-credits",
        ),
    ],
)
def test_a_trouble_says_what_to_do_whose_turn_it_is_and_how(
    seen: dict[str, Any], headline: str, turn: str, acts: list[str], command: str
) -> None:
    (one,) = found_in(**seen)
    assert (one.headline, one.turn) == (headline, turn)
    assert [f"{'after: ' * act.after}{'POST ' * act.posts}{act.key} {act.path}" for act in one.acts] == acts
    assert one.command == command


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        ({}, []),
        ({"subscriptions": [subscription()]}, []),
        ({"ready": {"status": "failing", "problems": ["database: full"]}}, ["bad node"]),
        ({"sources": [source(state="no_key")]}, ["bad no_key"]),
        ({"sources": [source(state="elsewhere")]}, []),
        ({"sources": [source(credits={"low_since": NEW, "available": 20, "threshold": 500})]}, ["warn credits"]),
        ({"sources": [source(credits={"low_since": NEW, "available": 0, "threshold": 500})]}, ["bad credits"]),
        ({"sources": [source(credits={"low_since": None, "available": 900, "threshold": 500})]}, []),
        ({"needing": [account()]}, ["bad reconnect"]),
        ({"silent": [account(open_jobs=0)]}, ["warn silent"]),
        ({"needing": [account()], "incidents": [incident()]}, ["bad reconnect", "bad incident"]),
        ({"uncertain": [group(), group(subscription_id="sub_2"), group(subscription_id="sub_3")]}, ["bad uncertain"]),
        ({"intents": [INTENT] * 100}, ["bad intents_least"]),
        ({"intents": [INTENT], "incidents": [incident(kind="creates")]}, ["bad intents"]),
        ({"incidents": [incident(kind="creates")]}, ["bad incident"]),
        ({"incidents": [incident(kind="sink", subscription="sub_1")], "dead": [group()]}, ["bad send_again"]),
        ({"subscriptions": [subscription(state="disabled", disabled_reason="http_401")]}, ["bad switched_off"]),
        ({"subscriptions": [subscription(state="paused", state_reason="paused by ops")]}, []),
        ({"subscriptions": [subscription(state="paused", state_reason=HELD)]}, ["bad filters"]),
        (
            {"subscriptions": [subscription(state="paused", state_reason=HELD)], "dead": [group()]},
            ["bad filters", "warn send_again"],
        ),
        ({"subscriptions": [subscription(failing_since=NEW, failing_reason="credential")]}, ["bad failing"]),
        ({"subscriptions": [FAILING], "uncertain": [group()]}, ["bad uncertain"]),
        ({"subscriptions": [FAILING], "uncertain": [group()], "pending": [group()]}, ["bad uncertain", "bad failing"]),
        ({"subscriptions": [subscription(state="paused", failing_since=NEW)]}, []),
        ({"subscriptions": [FAILING], "late": [group()], "dead": [group()]}, ["bad failing"]),
        ({"dead": [group(newest_at=NEW)]}, ["bad send_again"]),
        ({"dead": [group()]}, ["warn send_again"]),
        ({"dead": [group(least=True)]}, ["warn send_again_least"]),
        ({"late": [group()], "subscriptions": [subscription(state="paused")]}, []),
    ],
)
def test_one_cause_is_one_concern_and_the_worst_is_first(seen: dict[str, Any], found: list[str]) -> None:
    assert [f"{one.level} {one.key}" for one in found_in(**seen)] == found


def test_the_first_sentence_is_calm_if_nothing_is_urgent() -> None:
    idle = account(open_jobs=0)
    assert first_sentence(found_in(), 7) == "All is well. 7 jobs are open, nothing is late, and every event arrived."
    assert first_sentence(found_in(needing=[idle]), 7) == (
        "Nothing is urgent. Reconnect the LinkedIn account Sales EMEA in Revor."
    )
    assert first_sentence(found_in(needing=[idle], intents=[INTENT]), 7).startswith(
        "Did the email to Radia Hamilton go out?"
    )


def test_the_cause_of_an_incident_does_not_repeat_its_numbers() -> None:
    (one,) = found_in(incidents=[incident(what="7 Email jobs failed: the Revor account has too few credits")])
    assert one.why == "The Revor account has too few credits."
    (one,) = found_in(incidents=[incident(what="7 Email jobs failed")])
    assert one.why == "7 Email jobs failed."


def test_credits_that_are_low_and_spent_are_one_concern() -> None:
    low = source(credits={"low_since": NEW, "available": 0, "threshold": 500})
    (one,) = found_in(sources=[low], incidents=[incident(code="insufficient_credits")])
    assert one.headline == "Add credits in Revor: 7 jobs failed."


def test_a_missing_key_is_one_concern_that_names_the_setting() -> None:
    problem = "revor/default has no API key: set sources.revor.api_key"
    (one,) = found_in(ready={"status": "unavailable", "problems": [problem]}, sources=[source(state="no_key")])
    assert (one.key, one.why) == ("no_key", problem)


def test_numbers_that_are_cut_off_are_a_minimum() -> None:
    (failing,) = found_in(subscriptions=[FAILING], dead=[group(least=True, count=500)])
    assert failing.held == "at least 500 events were not delivered"
    assert failing.acts[-1].key == "send_again_least"
    (sends,) = found_in(intents=[INTENT] * 100)
    assert sends.sentence == "Did these messages go out, at least 100? Look in Revor"
    assert sends.since is None


def test_a_source_that_cannot_be_read_has_a_title_and_no_link() -> None:
    (one,) = found_in(sources=[], needing=[account()])
    assert one.headline == "Reconnect the LinkedIn account Sales EMEA in Revor: 33 jobs wait."
    assert [(act.key, act.path) for act in one.acts] == [("account", "/ui/accounts#account-emea")]


def test_lists_that_the_caller_may_not_read_are_empty() -> None:
    answers: dict[str, Any] = dict.fromkeys(reads(NOW))
    answers["dead"] = {"items": [{"count": 1}], "truncated": True}
    seen = seen_in(WELL, answers)
    assert (seen.sources, seen.dead) == ((), [{"count": 1, "least": True}])


@pytest.mark.parametrize(
    ("reason", "sentence", "why"),
    [
        ("http_500", "The Data warehouse receiver has errors (500)", "Fix it: its log says what is wrong."),
        (
            "http_403",
            "The Data warehouse receiver rejects the relay's signature or credential (403)",
            "Check the secret",
        ),
        ("http_301", "The Data warehouse receiver has moved (301)", "Set its new URL in the subscription."),
        ("http_422", "The Data warehouse receiver refuses events (422)", "Check its answer and its log."),
        ("timeout", "The Data warehouse receiver does not answer in time", "Let it answer 2xx"),
        ("tls: expired", "The Data warehouse receiver has a certificate that is not valid", "Renew it"),
        ("extra_missing", "The Data warehouse receiver gets no events: the relay's node lacks an extra", "Its log"),
        ("a reason of tomorrow", "The Data warehouse receiver does not take its events", ""),
    ],
)
def test_the_trouble_of_a_receiver_is_said_once(reason: str, sentence: str, why: str) -> None:
    (one,) = found_in(subscriptions=[subscription(failing_since=OLD, failing_reason=reason)])
    assert one.sentence == sentence
    assert (one.why or "").startswith(why)


@pytest.mark.parametrize(
    "seen",
    [
        {"subscriptions": [subscription(failing_since=OLD, failing_reason="render")], "dead": [group(count=1)]},
        {
            "subscriptions": [subscription()],
            "dead": [group(count=1)],
            "incidents": [incident(kind="sink", subscription="sub_1", code="render")],
        },
    ],
)
def test_a_message_that_cannot_be_made_is_a_fault_of_the_relay(seen: dict[str, Any]) -> None:
    (one,) = found_in(**seen)
    assert one.sentence == (
        "A fault in revor-relay: one event cannot be made into a message for Data warehouse. Please report it"
    )
    assert (one.turn, [act.key for act in one.acts]) == (ADMINISTRATOR, ["report", "deliveries"])


@pytest.mark.parametrize("reason", [HELD, OLD_TEMPLATE])
def test_what_an_older_version_has_stored_is_to_be_corrected_and_then_resumed(reason: str) -> None:
    state = "paused" if reason == HELD else "disabled"
    (one,) = found_in(subscriptions=[subscription(state=state, state_reason=reason, disabled_reason=reason)])
    assert one.why == f"{reason.partition(': ')[2]}. Correct it, then resume the subscription."


def test_what_is_asked_of_others_has_no_first_button() -> None:
    asked = found_in(intents=[INTENT], subscriptions=[FAILING], sources=[source(state="down")])
    assert [(one.key, one.asks) for one in asked] == [("intents", True), ("down", False), ("failing", False)]


def test_a_subscription_that_is_off_says_whether_the_relay_tries_again() -> None:
    (gone,), (probed,) = (found_in(subscriptions=[{**GONE, "next_probe_at": at}]) for at in (None, NEW))
    assert (gone.why or "").endswith("The relay does not try again by itself. Its events are kept.")
    assert (probed.why or "").endswith("The relay tries it again by itself.")


def test_a_relay_of_another_version_may_give_no_title() -> None:
    old = {key: value for key, value in source(state="down").items() if key != "title"}
    (one,) = found_in(sources=[old])
    assert one.sentence == "Revor does not answer"


EMEA = ("revor", "emea")
DEFAULT = ("revor", "default")


@pytest.mark.parametrize(
    ("seen", "reach", "word"),
    [
        ({"sources": [source(state="unauthorized", account="emea")]}, Reach(accounts=frozenset({EMEA})), "key refused"),
        ({"sources": [source(state="no_key")]}, Reach(accounts=frozenset({DEFAULT})), "no key"),
        (
            {"sources": [source(state="down"), source(state="down", account="emea")]},
            Reach(accounts=frozenset({DEFAULT, EMEA})),
            "no answer",
        ),
        (
            {"sources": [source(credits={"low_since": NEW, "available": 0, "threshold": 500})]},
            Reach(accounts=frozenset({DEFAULT})),
            "no credits",
        ),
        ({"sources": [source(credits={"low_since": NEW, "available": 20, "threshold": 500})]}, Reach(), None),
        ({"incidents": [incident(code="insufficient_credits")]}, Reach(accounts=frozenset({DEFAULT})), "no credits"),
        (
            {"incidents": [incident(**OF_ACCOUNT)]},
            Reach(accounts=frozenset({DEFAULT}), sender="emea", code="some_code"),
            "account needs reconnecting",
        ),
        ({"incidents": [incident()]}, Reach(accounts=frozenset({DEFAULT}), code="some_code"), None),
        (
            {"needing": [account(trouble="inc_1")], "incidents": [incident(**OF_ACCOUNT)]},
            Reach(accounts=frozenset({DEFAULT}), sender="emea", code="some_code"),
            "account needs reconnecting",
        ),
        (
            {"silent": [account()]},
            Reach(accounts=frozenset({DEFAULT}), sender="emea"),
            "account cannot send",
        ),
        ({"removed": [account()]}, Reach(accounts=frozenset({DEFAULT}), sender="emea"), "account removed"),
        (
            {"intents": [INTENT, {**INTENT, "group": None}]},
            Reach(accounts=frozenset({DEFAULT}), groups=frozenset({"Q4"})),
            None,
        ),
        ({"subscriptions": [FAILING]}, Reach(), None),
    ],
)
def test_a_concern_says_which_jobs_it_holds_up_and_why(seen: dict[str, Any], reach: Reach, word: str | None) -> None:
    (one,) = found_in(**seen)
    assert (one.reach, one.word) == (reach, word)


def test_a_removed_account_is_a_concern_while_jobs_wait_for_it() -> None:
    (one,) = found_in(removed=[account(), account(id="idle", open_jobs=0)])
    assert one.headline == "Connect the LinkedIn account Sales EMEA again in Revor: 33 jobs wait."
    assert (one.level, one.turn) == ("bad", OWNER)
    assert found_in(removed=[account(trouble="inc_1")], incidents=[incident(**OF_ACCOUNT)])[1:] == []


@pytest.mark.parametrize(
    ("subscriptions", "every"),
    [([FAILING], True), ([GONE], True), ([{**FAILING, "filters": [{"exact": {"channel": "linkedin"}}]}], False)],
)
def test_a_sink_without_filters_misses_events_of_all_jobs(subscriptions: list[Any], every: bool) -> None:
    (one,) = found_in(subscriptions=subscriptions)
    assert one.every == every


@pytest.mark.parametrize(
    ("message", "said"), [("task_unavailable", ""), ("The service is down.", " It last said: The service is down.")]
)
def test_a_source_that_is_down_asks_for_nothing_and_says_no_code(message: str, said: str) -> None:
    (one,) = found_in(sources=[source(state="down", problem={"message": message})])
    assert one.why == f"Nothing for you to do. The relay catches up by itself.{said}"


LOOK = "They are not written again until someone has looked."


@pytest.mark.parametrize(
    ("count", "doubted", "why"),
    [
        (2, (), LOOK),
        (2, ("Tim Wilson", "Radia Hamilton"), f"{LOOK} They are about Tim Wilson and Radia Hamilton."),
        (3, ("Tim Wilson", "Radia Hamilton"), f"{LOOK} They are about Tim Wilson, Radia Hamilton and others."),
        (1, ("Tim Wilson",), "It is not written again until someone has looked. It is about Tim Wilson."),
    ],
)
def test_records_in_doubt_are_named_where_they_are_known(count: int, doubted: tuple[str, ...], why: str) -> None:
    (one,) = found_in(subscriptions=[PIPEDRIVE], uncertain=[group(count=count)], doubted=doubted)
    assert one.why == f"No clear answer came. {why}"
