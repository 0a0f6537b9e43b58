"""The events about connect accounts, groups and incidents, and the sentences in them."""

from typing import Any

import pytest

from relay.core.events import sentences
from relay.core.events.event import (
    ACCOUNT_EVENTS,
    MAX_EVENT_BYTES,
    Hint,
    Origin,
    account_event,
    account_event_kind,
    relay_event,
    source_event_types,
)
from relay.core.subscriptions.filters import known_types
from tests.support.schema_check import check_event
from tests.support.summaries import account_data, group_finished_data, incident_data

NOW = 1779271208.0
ORIGIN = Origin(
    source="https://api.example/jobs",
    type_prefix="ai.revor.job",
    dataschema="http://x/schemas/job-status.v1.json",
    account_source="https://api.example/accounts",
)
ACCOUNT_SCHEMA = "http://x/schemas/connect-account.v1.json"
GROUP_SCHEMA = "http://x/schemas/relay-group.v1.json"
INCIDENT_SCHEMA = "http://x/schemas/relay-incident.v1.json"
RECONNECT = Hint(
    meaning="The LinkedIn account needs reconnecting", fix="Reconnect it in Revor", who="account owner", repeat="safe"
)
HOSTILE = ["\x00\ud800\n" + "x" * 100_000, "é" * 100_000, "\U0001f469" * 100_000]


def of_account(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "account_id": "acc_1",
        "channel": "linkedin",
        "name": "Ada Lovelace",
        "status": "reconnect_required",
        "state": "needs_reconnect",
        "since": NOW,
        "open_jobs": 37,
        "source": "revor",
        "account": "default",
    }
    return account_data(**{**values, **changes})


def of_group(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "group": "q4-launch",
        "source": "revor",
        "account": "default",
        "round": 1,
        "counts": {"succeeded": 194, "failed": 6},
        "skipped": 12,
        "missing": 0,
        "failures": {"recipient_not_found": 2, "connect_account_reconnect_required": 4},
        "first_at": NOW - 60,
        "finished_at": NOW,
    }
    return group_finished_data(**{**values, **changes})


def of_incident(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "incident": "inc_1",
        "kind": "jobs",
        "state": "open",
        "source": "revor",
        "account": "default",
        "channel": "linkedin",
        "connect_account_id": "acc_1",
        "connect_account_name": "Ada Lovelace",
        "subscription": None,
        "sink": None,
        "code": "connect_account_reconnect_required",
        "hint": RECONNECT,
        "failed": 12,
        "likely": 37,
        "first_failure_at": NOW - 60,
        "last_failure_at": NOW,
        "opened_at": NOW - 60,
    }
    return incident_data(**{**values, **changes})


SINK: dict[str, Any] = {
    **dict.fromkeys(("source", "account", "channel", "connect_account_id", "connect_account_name", "likely", "hint")),
    "kind": "sink",
    "subscription": "sub_1",
    "sink": "https://crm.example/…",
}


@pytest.mark.parametrize("kind", ACCOUNT_EVENTS)
def test_an_account_event_comes_from_the_listing_and_names_its_account(kind: str) -> None:
    event = account_event("evt_1", kind, NOW, of_account(), ORIGIN, dataschema=ACCOUNT_SCHEMA)

    document = check_event(event.body)

    assert (document["source"], document["type"]) == ("https://api.example/accounts", f"ai.revor.account.{kind}")
    assert (document["subject"], document["account"], document["channel"]) == ("acc_1", "default", "linkedin")
    assert (event.owner, event.job_uid, event.sequence) == ("revor/default", None, None)
    assert account_event_kind(event.type) == kind
    assert event.type in known_types([ORIGIN])


def test_types_of_a_source_are_those_of_its_jobs_and_accounts() -> None:
    found = source_event_types(ORIGIN)
    assert "ai.revor.job.failed" in found
    assert "ai.revor.account.needs_reconnect" in found
    assert len(found) == len(set(found)) == 15


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_of_the_upstream_never_breaks_an_event(text: str) -> None:
    account = of_account(account_id=text, channel=text, name=text, status=text)
    body = account_event("evt_1", "added", NOW, account, ORIGIN, dataschema=ACCOUNT_SCHEMA).body
    assert len(body) <= MAX_EVENT_BYTES
    failures = {f"{number}{text}": 1 for number in range(100)}
    group = of_group(failures=failures)
    body = relay_event("evt_1", "relay.group.finished", NOW, group, dataschema=GROUP_SCHEMA, subject="g").body
    assert len(body) <= MAX_EVENT_BYTES
    for kind in ("jobs", "creates"):
        data = of_incident(
            kind=kind, channel=text, connect_account_id=text, connect_account_name=text, code=text, hint=None
        )
        body = relay_event("evt_1", "relay.incident.grew", NOW, data, dataschema=INCIDENT_SCHEMA, subject="inc_1").body
        assert len(body) <= MAX_EVENT_BYTES


def test_a_finished_group_is_told_with_its_counts() -> None:
    data = of_group()
    assert data["counts"]["succeeded"] == 194
    assert data["counts"]["running"] == 0
    assert data["failures"][0] == {"code": "connect_account_reconnect_required", "count": 4}
    assert data["duration_seconds"] == 60.0
    assert of_group(finished_at=NOW - 61)["duration_seconds"] == 0.0
    event = relay_event("evt_1", "relay.group.finished", NOW, data, dataschema=GROUP_SCHEMA, subject="q4-launch")
    document = check_event(event.body)
    assert (document["group"], document["account"]) == ("q4-launch", "default")
    assert "channel" not in document


def test_summary_of_a_group_tells_its_failures_in_words() -> None:
    failures = {"connect_account_reconnect_required": 4, "mailbox_full": 2, "unknown": 1}
    changes = {"counts": {"succeeded": 0, "failed": 7}, "failures": failures, "skipped": 0}

    def explain(source: str, code: str) -> Hint | None:
        return RECONNECT if (source, code) == ("revor", "connect_account_reconnect_required") else None

    summary = of_group(explain=explain, **changes)["summary"]
    because = "4 because the LinkedIn account needs reconnecting, 2 because of “mailbox full”, 1 without a reason"
    assert summary == f"Campaign q4-launch has finished: 0 of 7 jobs were accepted. 7 failed: {because}"
    assert "because of “connect account reconnect required”" in of_group(**changes)["summary"]


@pytest.mark.parametrize("kind", ["jobs", "creates", "sink"])
def test_fix_of_an_incident_has_no_command(kind: str) -> None:
    fix = of_incident(**{**(SINK if kind == "sink" else {}), "kind": kind, "hint": None})["fix"]
    assert fix
    assert "relay " not in fix
    assert "sub_1" not in fix


@pytest.mark.parametrize(
    ("code", "meaning", "told"),
    [
        ("other", "", "for other reasons"),
        ("unknown", "", "without a reason"),
        ("", "", "without a reason"),
        ("x", "The account is full.", "because the account is full"),
        ("x", "Revor is full", "because Revor is full"),
        ("mailbox_full", " . ", "because of “mailbox full”"),
        ("__", "", "because of “__”"),
    ],
)
def test_cause_of_failures_is_told_in_words(code: str, meaning: str, told: str) -> None:
    assert sentences.why_failed(code, meaning, "revor") == told


def test_an_incident_event_has_the_attributes_that_filters_of_its_failures_use() -> None:
    event = relay_event(
        "evt_1", "relay.incident.opened", NOW, of_incident(), dataschema=INCIDENT_SCHEMA, subject="inc_1"
    )
    document = check_event(event.body)
    assert (document["account"], document["channel"]) == ("default", "linkedin")
    sink = of_incident(**SINK)
    event = relay_event("evt_1", "relay.incident.opened", NOW, sink, dataschema=INCIDENT_SCHEMA, subject="inc_1")
    assert not {"account", "channel"} & check_event(event.body).keys()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({}, "12 LinkedIn jobs of Ada Lovelace failed: the account needs reconnecting"),
        ({"failed": 1}, "1 LinkedIn job of Ada Lovelace failed: the account needs reconnecting"),
        ({"connect_account_name": None}, "12 LinkedIn jobs of account acc_1 failed: the account needs reconnecting"),
        (
            {"connect_account_name": None, "connect_account_id": None, "hint": None},
            "12 LinkedIn jobs failed: connect_account_reconnect_required",
        ),
        ({"channel": None, "code": None, "hint": None}, "12 jobs of Ada Lovelace failed"),
        (
            {"kind": "creates", "code": "no_answer", "hint": None, "failed": 3},
            "It is unknown whether 3 LinkedIn messages of Ada Lovelace were sent: Revor gave no answer",
        ),
        (
            {
                **dict.fromkeys(("source", "channel", "connect_account_id", "connect_account_name", "hint")),
                "kind": "creates",
            }
            | {"failed": 1, "code": "server_error"},
            "It is unknown whether 1 create was sent: the upstream answered with an error of its own",
        ),
        (
            {"kind": "creates", "code": "x", "failed": 1},
            "It is unknown whether 1 LinkedIn message of Ada Lovelace was sent",
        ),
        (
            SINK | {"code": "http_503"},
            "The subscription to crm.example does not take its events: the receiver had an error of its own (503)",
        ),
        (SINK | {"code": None, "sink": None}, "Subscription sub_1 does not take its events"),
    ],
)
def test_an_incident_in_a_sentence(changes: dict[str, Any], what: str) -> None:
    data = of_incident(**changes)
    assert data["what"] == what
    assert data["who"]
    assert data["fix"]
    event = relay_event("evt_1", "relay.incident.opened", NOW, data, dataschema=INCIDENT_SCHEMA, subject="inc_1")
    check_event(event.body)


@pytest.mark.parametrize(
    ("kind", "because", "failed", "ended"),
    [
        ("jobs", "account_recovered", 40, "LinkedIn jobs of Ada work again: 40 failed in 35 minutes"),
        ("jobs", "quiet", 1, "LinkedIn jobs of Ada have not failed for a day: 1 failed"),
        ("creates", "succeeded", 2, "… creates of Ada have a known outcome again: that of 2 is unknown in 35 minutes"),
        ("creates", "quiet", 1, "LinkedIn creates of Ada have had a known outcome for a day: that of 1 is unknown"),
        ("sink", "subscription_recovered", 3, "sub_1 takes events again"),
        ("sink", "subscription_removed", 3, "sub_1 was removed"),
        ("sink", "quiet", 3, "sub_1 has had no failure for a day"),
    ],
)
def test_the_end_of_an_incident_in_a_sentence(kind: str, because: str, failed: int, ended: str) -> None:
    said = sentences.incident_end(
        kind, because=because, failed=failed, seconds=2100, channel="linkedin", account="Ada", sink="sub_1"
    )
    assert said.endswith(ended.removeprefix("…"))


@pytest.mark.parametrize(
    ("kind", "open_jobs", "said"),
    [
        ("needs_reconnect", 37, "LinkedIn account Ada needs reconnecting: 37 open jobs use it"),
        ("cannot_send", 1, "LinkedIn account Ada cannot send: 1 open job uses it"),
        ("recovered", 0, "LinkedIn account Ada is connected and can send again"),
        ("added", 0, "LinkedIn account Ada was added"),
        ("removed", 1200, "LinkedIn account Ada was removed: 1,200 open jobs use it"),
    ],
)
def test_an_account_in_a_sentence(kind: str, open_jobs: int, said: str) -> None:
    assert sentences.account_sentence(kind, channel="linkedin", name="Ada", open_jobs=open_jobs) == said


@pytest.mark.parametrize(("words", "said"), [(["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")])
def test_words_in_a_list(words: list[str], said: str) -> None:
    assert sentences.enumerated(words) == said


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "182 of 200 jobs were accepted. 6 failed: 4 because of A, 2 because of B. 12 had nothing to do"),
        (
            {"failures": (("because of A", 6),)},
            "182 of 200 jobs were accepted. 6 failed because of A. 12 had nothing to do",
        ),
        ({"failures": (), "skipped": 0}, "194 of 200 jobs were accepted. 6 failed"),
        ({"failed": 0, "skipped": 0}, "all 194 jobs were accepted"),
        ({"failed": 0, "skipped": 0, "succeeded": 1}, "1 of 1 job was accepted"),
        (
            {"failed": 0, "skipped": 0, "cancelled": 1, "not_found": 2, "untracked": 3, "missing": 4},
            "194 of 204 jobs were accepted. 1 was cancelled, 2 were not found, 3 were given up by the relay and 4 were "
            "never created",
        ),
    ],
)
def test_finish_of_a_group_in_sentences(changes: dict[str, Any], told: str) -> None:
    counts: dict[str, Any] = dict.fromkeys(("cancelled", "not_found", "untracked", "missing"), 0)
    counts |= {"succeeded": 194, "failed": 6, "skipped": 12, "failures": (("because of A", 4), ("because of B", 2))}
    assert sentences.group_sentence("q4", round=1, **counts | changes) == f"Campaign q4 has finished: {told}"
    assert sentences.group_sentence("q4", round=2, **counts).startswith("Campaign q4 has finished round 2: ")


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("http_503", "the receiver had an error of its own (503)"),
        ("410 Gone", "the receiver says that it is gone (410)"),
        ("http_403: no_service", "the receiver refused the credentials (403)"),
        ("http_418", "the receiver refused it (418)"),
        ("http_200: not ok", "the receiver answered (200)"),
        ("timeout: after 15 s", "the receiver did not answer in time"),
        ("4031 jobs", "4031 jobs"),
        ("a person removed it", "a person removed it"),
    ],
)
def test_failure_of_a_delivery_in_words(reason: str, told: str) -> None:
    assert sentences.failure(reason) == told
