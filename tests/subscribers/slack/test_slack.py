"""The kind slack: sentences, escaping, outcomes."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from relay.core.deliveries.delivery import Outcome, Response
from relay.core.events.event import Event, Hint, Origin, from_transition, relay_event
from relay.core.jobs.job import Job, Observation, Transition
from relay.core.records import Intent
from relay.core.relay_events import create_unknown_data, delivery_expired_data, source_trouble_data, subscription_data
from relay.core.samples import sample_event
from relay.core.subscriptions.subscription import Subscription
from relay.errors import InvalidRequest
from subscribers import registry, wording
from subscribers.base import RenderContext
from subscribers.slack import render as slack_blocks

NOW = 1779271208.0
SINK = "https://hooks.slack.com/services/T0/B0/secret"
SUBSCRIPTION = Subscription(id="sub_1", sink=SINK, kind="slack")
KIND = registry.kind_named("slack")
ORIGIN = Origin(
    source="https://revor.ai/api/v1/outreach/jobs", type_prefix="ai.revor.job", dataschema="http://x/schemas/a.json"
)
RECONNECT = Hint(meaning="The account needs reconnecting", fix="Reconnect it", who="account owner", repeat="safe")


LOST = Intent(
    id="int_1",
    source="revor",
    account="eu",
    path="/api/v1/outreach/dispatches",
    body_digest="digest",
    created_at=NOW,
    reason="no_answer",
    channel="linkedin",
    connect_account_id="acc_1",
    metadata={"deal": 42, "url": "https://crm.example/deals/42"},
)


def job_event(
    kind: str = "failed",
    *,
    job_id: str = "3f2a9c1e-5b7d-4e8f-9a10-2b3c4d5e6f70",
    channel: str | None = "linkedin",
    action: str | None = "outreach.dispatch",
    status: str | None = None,
    metadata: dict[str, Any] | None = None,
    hint: Hint | None = None,
    inferred: bool = False,
    account: str = "default",
    upstream: dict[str, Any] | None = None,
    result_status: str | None = None,
) -> Event:
    job = Job(uid="job_1", external_id=job_id, source="revor", account=account, metadata=metadata or {})
    seen = Observation(
        status=status or kind,
        observed_at=NOW,
        channel=channel,
        action=action,
        upstream=upstream or {"id": job_id},
        result_status=result_status,
    )
    transition = Transition(
        kind=kind,
        status=status or kind,
        previous_status=None,
        sequence=1,
        occurred_at=NOW,
        detected_at=NOW,
        inferred=inferred,
    )
    return from_transition("evt_1", job, transition, ORIGIN, seen=seen, hint=hint)


def message(event: Event, context: RenderContext | None = None) -> dict[str, Any]:
    payload: dict[str, Any] = orjson.loads(KIND.render(event, SUBSCRIPTION, context or RenderContext()).body)
    return payload


def text(event: Event, context: RenderContext | None = None) -> str:
    return str(message(event, context)["text"])


def about_the_relay(type: str, data: dict[str, Any]) -> Event:
    return relay_event("evt_1", type, NOW, data, dataschema="http://x/schemas/a.json")


ALEX = {"recipient_name": "Alex"}


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("queued", "LinkedIn outreach to Alex is queued"),
        ("scheduled", "LinkedIn outreach to Alex is scheduled"),
        ("running", "LinkedIn outreach to Alex is running"),
        ("succeeded", "LinkedIn outreach to Alex was accepted"),
        ("failed", "LinkedIn outreach to Alex failed: the account needs reconnecting"),
        ("cancelled", "LinkedIn outreach to Alex was cancelled: the account needs reconnecting"),
        (
            "retrying",
            "LinkedIn outreach to Alex failed an attempt and will be tried again: the account needs reconnecting",
        ),
        (
            "overdue",
            "LinkedIn outreach to Alex has not ended by its deadline: the relay goes on polling, less often",
        ),
        (
            "not_found",
            "LinkedIn outreach to Alex was not found, so its end will not be seen: the account needs reconnecting",
        ),
    ],
)
def test_each_job_event_is_one_sentence(kind: str, sentence: str) -> None:
    assert text(job_event(kind, metadata=ALEX, hint=RECONNECT)) == sentence


def test_not_found_job_has_a_sentence_without_a_hint() -> None:
    sentence = "LinkedIn outreach to Alex was not found, so its end will not be seen: Revor does not know it"
    assert text(job_event("not_found", metadata=ALEX)) == sentence


def test_an_unknown_status_is_named() -> None:
    sentence = (
        "LinkedIn outreach to Alex has a status that the relay does not know: “paused”. The relay goes on polling"
    )
    assert text(job_event("status_unknown", status="paused", metadata=ALEX)) == sentence


@pytest.mark.parametrize(
    ("result_status", "action", "sentence"),
    [
        ("skipped", "outreach.linkedin.post_like", "LinkedIn post like found no fitting post, nothing was liked"),
        ("skipped", "outreach.dispatch", "LinkedIn outreach had nothing to do"),
        ("skipped", None, "LinkedIn job had nothing to do"),
        ("accepted", "outreach.linkedin.post_like", "LinkedIn post like was accepted"),
        ("else", "outreach.linkedin.post_like", "LinkedIn post like was accepted"),
        (None, "outreach.linkedin.post_like", "LinkedIn post like was accepted"),
    ],
)
def test_skipped_success_says_so(result_status: str | None, action: str | None, sentence: str) -> None:
    event = job_event("succeeded", action=action, result_status=result_status)
    assert text(event).replace(" (job 3f2a9c1e…)", "") == sentence


def test_inferred_retry_is_in_the_past_tense() -> None:
    event = job_event("retrying", inferred=True, metadata=ALEX)
    assert text(event) == "LinkedIn outreach to Alex failed an attempt and was tried again"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({}, "LinkedIn outreach (job 3f2a9c1e…)"),
        ({"channel": "email"}, "Email outreach (job 3f2a9c1e…)"),
        ({"channel": "WhatsApp"}, "WhatsApp outreach (job 3f2a9c1e…)"),
        ({"channel": "telegram"}, "Telegram outreach (job 3f2a9c1e…)"),
        ({"action": "outreach.linkedin.post_like"}, "LinkedIn post like (job 3f2a9c1e…)"),
        ({"action": "outreach.linkedin.post_like", "metadata": ALEX}, "LinkedIn post like for Alex"),
        ({"action": "dispatch"}, "LinkedIn dispatch (job 3f2a9c1e…)"),
        ({"action": "_"}, "LinkedIn job (job 3f2a9c1e…)"),
        ({"action": None}, "LinkedIn job (job 3f2a9c1e…)"),
        ({"action": None, "channel": None}, "Job (job 3f2a9c1e…)"),
        ({"action": "research.contacts", "channel": None}, "Research contacts (job 3f2a9c1e…)"),
        ({"action": "outreach.dispatch", "channel": None, "metadata": ALEX}, "Outreach to Alex"),
        ({"job_id": "42"}, "LinkedIn outreach (job 42)"),
        ({"job_id": "123456789012"}, "LinkedIn outreach (job 123456789012)"),
        ({"metadata": {"name": "Kim"}}, "LinkedIn outreach to Kim"),
        ({"metadata": {"recipient_name": "Alex", "name": "Kim"}}, "LinkedIn outreach to Alex"),
        ({"metadata": {"recipient_name": " ", "name": "Kim"}}, "LinkedIn outreach to Kim"),
        ({"metadata": {"recipient_name": 7, "name": ["Kim"]}}, "LinkedIn outreach (job 3f2a9c1e…)"),
        ({"metadata": {"name": "x" * 81}}, "LinkedIn outreach to " + "x" * 79 + "…"),
        ({"metadata": {"name": "alex@example.com"}}, "LinkedIn outreach (job 3f2a9c1e…)"),
        ({"metadata": {"name": "+1 (415) 555-2671"}}, "LinkedIn outreach (job 3f2a9c1e…)"),
        ({"metadata": {"name": "linkedin.com/in/alex"}}, "LinkedIn outreach (job 3f2a9c1e…)"),
        ({"metadata": {"name": "Ann-Marie O'Neil, M.Sc. 3rd"}}, "LinkedIn outreach to Ann-Marie O'Neil, M.Sc. 3rd"),
        ({"upstream": {"recipient": {"name": "Kim"}}}, "LinkedIn outreach (job 3f2a9c1e…)"),
    ],
)
def test_subject_of_the_sentence(changes: dict[str, Any], what: str) -> None:
    assert text(job_event("succeeded", **changes)) == f"{what} was accepted"


@pytest.mark.parametrize(
    ("meaning", "because"),
    [
        ("The account needs reconnecting.", ": the account needs reconnecting"),
        ("Insufficient credits", ": insufficient credits"),
        ("API quota used up!", ": API quota used up"),
        ("Revor refused it", ": Revor refused it"),
        ("LinkedIn refused it", ": LinkedIn refused it"),
        ("I am a teapot", ": I am a teapot"),
        ("No mailbox alex@example.com at https://mail.example/x", ": no mailbox … at …"),
        ("Wait until 2026-05-20 10:00", ": wait until 2026-05-20 10:00"),
        ("Call +1 415 555 2671", ": call …"),
        ("two\nlines", ": two lines"),
        ("...", ""),
        ("", ""),
    ],
)
def test_the_hint_ends_the_sentence(meaning: str, because: str) -> None:
    event = job_event(metadata=ALEX, hint=Hint(meaning=meaning, fix="", who="", repeat="safe"))
    assert text(event) == f"LinkedIn outreach to Alex failed{because}"


def test_without_a_hint_the_sentence_is_short() -> None:
    assert text(job_event(metadata=ALEX)) == "LinkedIn outreach to Alex failed"
    fields = message(job_event())["blocks"][0]["fields"]
    assert [field["text"] for field in fields] == ["*Channel*\nLinkedIn"]
    assert "fields" not in message(job_event(channel=None))["blocks"][0]


def test_blocks_hold_advice_and_ids() -> None:
    payload = message(job_event(hint=RECONNECT, account="emea"), RenderContext(account_names={"emea": "Sales team"}))
    section, footer, ids = payload["blocks"]
    assert (section["type"], footer["type"], ids["type"]) == ("section", "context", "context")
    assert section["text"]["text"] == payload["text"]
    assert [field["text"] for field in section["fields"]] == [
        "*How to fix it*\nReconnect it",
        "*Who can fix it*\naccount owner",
        "*Sending it again*\nis safe once this is fixed: nothing was sent",
        "*Channel*\nLinkedIn",
    ]
    assert [element["text"] for element in footer["elements"]] == [
        "Job 3f2a9c1e-5b7d-4e8f-9a10-2b3c4d5e6f70",
        "Relay account Sales team",
        "Time 2026-05-20 10:00:08 UTC",
    ]
    assert [element["text"] for element in ids["elements"]] == ["Event evt_1"]


def trouble(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"source": "revor", "account": "default", "since": NOW, "reason": "The key was revoked."}
    return source_trouble_data(**(values | changes))


@pytest.mark.parametrize(
    ("type", "data", "sentence"),
    [
        (
            "relay.source.unauthorized",
            trouble(),
            "Revor refuses the API key of account default: the key was revoked",
        ),
        ("relay.source.down", trouble(reason=""), "Revor does not answer for account default"),
        (
            "relay.source.down",
            trouble(reason="timeout", open_jobs=1, account="eu"),
            "Revor does not answer for account Europe: timeout. 1 open job waits",
        ),
        (
            "relay.source.down",
            trouble(open_jobs=2, reason=""),
            "Revor does not answer for account default. 2 open jobs wait",
        ),
        ("relay.source.recovered", trouble(), "Revor answers again for account default"),
        ("relay.source.recovered", {}, "The upstream answers again for account default"),
        (
            "relay.subscription.disabled",
            subscription_data(subscription_id="sub_2", sink=SINK, reason="http_410", since=None),
            "Subscription sub_2 to https://hooks.slack.com/… was disabled: http_410. Its events are kept until it is "
            "enabled again",
        ),
        (
            "relay.subscription.recovered",
            subscription_data(subscription_id="sub_2", sink="https://x.example/in", reason="", since=NOW),
            "Subscription sub_2 to https://x.example/in takes events again",
        ),
        (
            "relay.delivery.expired",
            delivery_expired_data(
                delivery_id="dlv_1",
                event_id="evt_0",
                event_type="ai.revor.job.failed",
                subscription_id="sub_2",
                job_id="1",
                attempts=1,
                last_error=None,
                reason="exhausted",
            ),
            "Delivery of one failed event to subscription sub_2 was given up after 1 attempt: exhausted",
        ),
        (
            "relay.delivery.expired",
            {"event_type": "a.job.failed", "subscription": "sub_2", "attempts": 10, "last_error": "http_503"},
            "Delivery of one failed event to subscription sub_2 was given up after 10 attempts: http_503",
        ),
        (
            "relay.delivery.expired",
            {"event_type": "a.job.failed", "subscription": "sub_2"},
            "Delivery of one failed event to subscription sub_2 was given up",
        ),
        (
            "relay.delivery.uncertain",
            {"event_type": "a.job.failed", "kind": "hubspot", "record": "note", "last_error": "http_503"},
            "A note in HubSpot about one failed event may or may not have been written: http_503",
        ),
        (
            "relay.delivery.uncertain",
            {"event_type": "a.account.added", "kind": "pipedrive", "record": "activity", "last_error": "a@b.example"},
            "An activity in Pipedrive about one a.account.added event may or may not have been written: …",
        ),
        ("relay.delivery.uncertain", {}, "A record in the CRM may or may not have been written"),
        (
            "relay.create.unknown",
            create_unknown_data(LOST),
            "It is unknown whether a LinkedIn message for account Europe was sent: Revor gave no answer",
        ),
        (
            "relay.create.unknown",
            create_unknown_data(replace(LOST, channel=None, account="default", reason="cut_off")),
            "It is unknown whether a request for account default was sent: the relay ended before an answer came",
        ),
        ("relay.create.unknown", {}, "It is unknown whether a request for account default was sent"),
        ("relay.test", {"message": "Hello."}, "Hello"),
        ("relay.test", {"message": None}, "This is a test of the relay"),
        ("relay.unheard", {"message": "Hello"}, "Event relay.unheard"),
    ],
)
def test_each_event_about_the_relay_is_one_sentence(type: str, data: dict[str, Any], sentence: str) -> None:
    assert text(about_the_relay(type, data), RenderContext(account_names={"eu": "Europe"})) == sentence


def test_unknown_create_says_what_it_was_and_what_to_do() -> None:
    event = about_the_relay("relay.create.unknown", create_unknown_data(LOST))
    shown = dict(wording.job_details(event, None))
    assert (shown["Deal"], shown["Channel"]) == ("42", "LinkedIn")
    assert wording.link(event, RenderContext()) == "https://crm.example/deals/42"
    (fix,) = (text for label, text in wording.advice(event) if label == "How to fix it")
    assert fix.endswith("Then run: relay intents resolve int_1 --fate sent (or not_sent)")
    keyed = about_the_relay("relay.create.unknown", create_unknown_data(replace(LOST, idempotency_key="k")))
    (fix,) = (text for label, text in wording.advice(keyed) if label == "How to fix it")
    assert "same Idempotency-Key" in fix
    assert wording.advice(about_the_relay("relay.create.unknown", {"source": "revor"}))[0][1].startswith(
        "Check in Revor"
    )


def test_foreign_event_is_named() -> None:
    body = b'{"id":"evt_1","source":"/shop","type":"shop.order.paid","data":"<xml/>"}'
    event = Event(
        id="evt_1", source="/shop", type="shop.order.paid", subject="order <7>", time=NOW, recorded_at=NOW, body=body
    )
    assert text(event) == "Event shop.order.paid about order &lt;7&gt;"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("A & <B>", "A &amp; &lt;B&gt;"),
        ("&lt;", "&amp;lt;"),
        ("<!channel>", "&lt;!channel&gt;"),
        ("<https://evil.example|bank>", None),
        ("@here", "@\u2060here"),
        ("*bold*", "\u2060*\u2060bold\u2060*\u2060"),
        ("_it_", "\u2060_\u2060it\u2060_\u2060"),
        ("a_b", "a_b"),
        ("~x~ `y`", "\u2060~\u2060x\u2060~\u2060 \u2060`\u2060y\u2060`\u2060"),
        (":tada:", ":\u2060tada:"),
        ("#general", "#\u2060general"),
        ("a\u202eb\x00c\u2028d", "a b c d"),
    ],
)
def test_user_text_is_shown_literally(name: str, shown: str | None) -> None:
    expected = f"LinkedIn outreach to {shown}" if shown else "LinkedIn outreach (job 3f2a9c1e…)"
    assert text(job_event("queued", metadata={"name": name})) == f"{expected} is queued"


def test_mention_in_a_status_is_escaped() -> None:
    assert "@\u2060here" in slack_blocks.escape("@here")
    assert slack_blocks.escape("mail me @ 10:00:08 & go") == "mail me @ 10:00:08 &amp; go"


@pytest.mark.parametrize(
    ("escaped", "limit", "clipped"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("a&amp;b", 7, "a&amp;b"),
        ("a&amp;b", 6, "a…"),
        ("a&amp;bc", 7, "a&amp;…"),
        ("&amp;&lt;", 7, "&amp;…"),
        ("&amp;&lt;", 3, "…"),
    ],
)
def test_text_is_never_truncated_inside_an_entity(escaped: str, limit: int, clipped: str) -> None:
    assert slack_blocks.clip(escaped, limit) == clipped


def test_the_longest_message_fits() -> None:
    event = job_event(
        channel="&" * 256,
        action="&" * 256,
        metadata={"name": "&" * 256},
        hint=Hint(meaning="&" * 5000, fix="&" * 5000, who="&" * 5000, repeat="safe"),
    )
    section = message(event)["blocks"][0]
    assert 2990 < len(section["text"]["text"]) <= 3000
    assert 1990 < len(section["fields"][0]["text"]) <= 2000
    for shown in (section["text"]["text"], section["fields"][0]["text"]):
        assert shown.endswith("&amp;…")


def test_long_text_is_truncated() -> None:
    assert wording.one_line("x" * 501) == "x" * 499 + "…"
    assert wording.one_line("x" * 500) == "x" * 500
    assert wording.one_line("x " * 300).endswith("x…")
    assert wording.one_line(None) == wording.one_line(3) == ""


def verdict(status: int, body: bytes = b"", **headers: str) -> Outcome:
    response = Response(started_at=NOW, duration_ms=1, status_code=status, excerpt=body, headers=tuple(headers.items()))
    return KIND.classify(response, NOW)


def test_only_the_body_ok_counts_as_delivered() -> None:
    assert verdict(200, b"ok") == Outcome(verdict="delivered", reason="ok")
    assert verdict(200, b"ok\n").verdict == "delivered"
    for status, body in ((200, b""), (200, b"<html>ok</html>"), (200, b'{"ok":true}'), (204, b"")):
        outcome = verdict(status, body)
        assert outcome.verdict == "retry"
        assert outcome.reason.startswith(f"http_{status}, ")


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (400, b"invalid_payload", Outcome(verdict="dead", reason="http_400: invalid_payload")),
        (400, b"<b>no</b>", Outcome(verdict="dead", reason="http_400")),
        (403, b"action_prohibited", Outcome(verdict="disable", reason="http_403: action_prohibited")),
        (404, b"no_service", Outcome(verdict="disable", reason="http_404: no_service")),
        (410, b"channel_is_archived", Outcome(verdict="disable", reason="http_410: channel_is_archived")),
        (500, b"rollup_error", Outcome(verdict="retry", reason="http_500")),
        (302, b"", Outcome(verdict="retry", reason="http_302")),
    ],
)
def test_outcomes_follow_slacks_rules(status: int, body: bytes, outcome: Outcome) -> None:
    assert verdict(status, body) == outcome


def test_retry_after_of_slack_is_obeyed() -> None:
    outcome = verdict(429, b"rate_limited", **{"Retry-After": "30"})
    assert (outcome.verdict, outcome.retry_after_seconds) == ("retry", 30.0)


def test_no_answer_is_tried_again() -> None:
    response = Response(started_at=NOW, duration_ms=1, error="timeout")
    assert KIND.classify(response, NOW).verdict == "retry"


def test_default_types_are_what_people_act_on_or_wait_for() -> None:
    assert KIND.default_types(["a.job", "b.job", "a.job"]) == (
        *("a.job.failed", "a.job.overdue", "a.job.not_found"),
        *("b.job.failed", "b.job.overdue", "b.job.not_found"),
        *("relay.source.unauthorized", "relay.source.down", "relay.source.recovered", "relay.create.unknown"),
        *("relay.subscription.disabled", "relay.subscription.recovered"),
        *("relay.delivery.expired", "relay.delivery.uncertain"),
        *("a.account.needs_reconnect", "a.account.cannot_send", "a.account.recovered"),
        *("b.account.needs_reconnect", "b.account.cannot_send", "b.account.recovered"),
        *("relay.group.finished", "relay.incident.opened", "relay.incident.grew", "relay.incident.closed"),
    )
    assert (KIND.signed, KIND.rate_per_second, KIND.default_incidents) == (False, 1.0, "collapse")


def test_path_of_a_slack_url_is_hidden() -> None:
    assert KIND.redacted_url(SINK) == "https://hooks.slack.com/…"
    assert KIND.redacted_url("http://127.0.0.1:9000/secret?x=1") == "http://127.0.0.1:9000/…"


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"method": "PUT"}, "/protocolsettings/method"),
        ({"headers": (("X-A", "1"),)}, "/protocolsettings/headers"),
        ({"options": {"channel": "#x"}}, "/config/channel"),
        ({"sink": "https://hooks.slack.com/triggers/T0/1/secret"}, "/sink"),
        ({"sink": "https://hooks.slack.com/workflows/T0/1/secret"}, "/sink"),
    ],
)
def test_unsupported_settings_are_refused(changes: dict[str, Any], pointer: str) -> None:
    KIND.check(SUBSCRIPTION)
    values: dict[str, Any] = {"id": "sub_1", "sink": SINK, "kind": "slack"}
    with pytest.raises(InvalidRequest) as caught:
        KIND.check(Subscription(**(values | changes)))
    assert [error.pointer for error in caught.value.errors] == [pointer]
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("metadata", "shown"),
    [
        ({"deal": 42, "stage": "won", "open": False, "score": 1.5}, ["Deal 42", "Stage won", "Open no", "Score 1.5"]),
        ({"deal_id": "12345678901", "company_name": "Acme"}, ["Deal id 12345678901", "Company name Acme"]),
        ({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6}, ["A 1", "B 2", "C 3", "D 4", "E 5"]),
        ({"none": None, "list": [1], "map": {"a": 1}, "empty": " ", "deal": 7}, ["Deal 7"]),
        ({"url": "https://crm.example/1", "deal": 7}, ["Deal 7"]),
        # what speaks of a person, of what was written, or of a credential
        ({"first_name": "Kim", "lastName": "Lee", "full name": "x", "name": "y", "recipient": "z"}, []),
        ({"recipientName": "Kim", "contact_title": "CEO", "prospect-name": "Lee", "to": "Kim"}, []),
        ({"work_email": "x", "E-Mail": "x", "mobilePhone": 14155552671, "profile": "x", "address_1": "x"}, []),
        ({"text": "Hi", "message_body": "Hi", "subject": "Hi", "note": "call Kim"}, []),
        ({"token": "x", "crm_api_key": "x", "password": "x", "client_secret": "x", "Authorization": "x"}, []),
        ({"who": "alex@example.com", "where": "www.example.com/alex", "call": "+1 415 555 2671"}, []),
        ({"alex@example.com": "x"}, []),
        ({"<!channel>": "<!here> & *now*"}, ["<!channel> <!here> & *now*"]),
    ],
)
def test_default_metadata_shows_the_deal_and_no_person(metadata: dict[str, Any], shown: list[str]) -> None:
    found = wording.job_details(job_event(channel=None, metadata=metadata), None)
    assert [f"{label} {text}" for label, text in found] == shown


def test_labels_and_values_of_metadata_are_escaped_and_bounded() -> None:
    event = job_event(channel=None, metadata={"<!channel>": "<!here> & *x*", "k" * 5000: "&" * 5000})
    first, second = (field["text"] for field in message(event)["blocks"][0]["fields"])
    assert first == f"*&lt;!channel&gt;*\n{slack_blocks.escape('<!here> & *x*')}"
    assert len(second) <= 2000


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("https://crm.example/deals/42", "<https://crm.example/deals/42|Open in crm.example>"),
        ("HTTP://crm.example:8080/a?b=1&c=2", "<HTTP://crm.example:8080/a?b=1&amp;c=2|Open in crm.example>"),
        ("https://crm.example/" + "a" * 1400, "<https://crm.example/" + "a" * 1400 + "|Open in crm.example>"),
        ("https://crm.example/" + "a" * 1600, None),
        ("javascript:alert(1)", None),
        ("ftp://crm.example/", None),
        ("crm.example/deals/42", None),
        ("https://user:secret@crm.example/", None),
        ("https://crm.example/a b", None),
        ("https://crm.example/a|b", None),
        ("https://crm.example/<!channel>", None),
        ("https://crm.example/\n<!channel>", None),
        ("https://[crm.example/", None),
        ("https:///deals", None),
        ("https://crm.exämple/", None),
        (42, None),
        (None, None),
    ],
)
def test_http_url_in_the_metadata_is_a_link(url: object, line: str | None) -> None:
    payload = message(job_event(metadata={"url": url}))
    shown = payload["blocks"][0]["text"]["text"]
    assert shown == payload["text"] + ("" if line is None else f"\n{line}")
    assert "<" not in payload["text"]


def test_metadata_of_create_and_registration_are_shown() -> None:
    data = {"metadata": {"deal": 1}, "request": {"metadata": {"deal": 2, "campaign": "spring"}}, "job": {}}
    assert wording.job_details(with_data(data), None) == (("Deal", "1"), ("Campaign", "spring"))


@pytest.mark.parametrize(
    ("data", "account"),
    [
        ({"connect_account_id": "acc_1", "job": {"result": {"account_id": "acc_2"}}}, "acc_1"),
        ({"job": {"result": {"account_id": "acc_2"}}}, "acc_2"),
        ({"connect_account_id": None, "job": {"result": None}}, None),
        ({"connect_account_id": "kim@example.com"}, None),
        ({"connect_account_id": "<!channel>"}, None),
        ({"connect_account_id": 7}, None),
        ({"job": []}, None),
    ],
)
def test_sending_account_is_shown_by_its_id(data: dict[str, Any], account: str | None) -> None:
    expected = () if account is None else (("Sending account", account),)
    assert wording.job_details(with_data(data), None) == expected


def with_data(data: dict[str, Any]) -> Event:
    """The event of a failed job with this data."""
    body = orjson.dumps({"id": "evt_1", "source": "https://revor.ai/x", "type": "ai.revor.job.failed", "data": data})
    return Event(
        id="evt_1",
        source="https://revor.ai/x",
        type="ai.revor.job.failed",
        subject="1",
        time=NOW,
        recorded_at=NOW,
        body=body,
    )


def test_sample_renders_like_a_real_event() -> None:
    event = sample_event(
        "ai.revor.job.failed", event_id="evt_1", now=NOW, origin=ORIGIN, dataschema_base="http://x", source="revor"
    )
    assert text(event) == "LinkedIn outreach to Alex failed: the account needs reconnecting"


@pytest.mark.parametrize(
    ("subject", "public_url", "linked"),
    [
        ("inc_01jvpq0000000000000000000f", "https://relay.example", True),
        ("inc_01jvpq0000000000000000000f", None, False),
        ("inc_1> <https://other.example", "https://relay.example", False),
    ],
)
def test_message_about_an_incident_links_to_it_if_the_public_url_is_known(
    subject: str, public_url: str | None, linked: bool
) -> None:
    sample = sample_event(
        "relay.incident.opened", event_id="evt_1", now=NOW, origin=ORIGIN, dataschema_base="http://x", source="revor"
    )

    heading, told, *_ = message(replace(sample, subject=subject), RenderContext(public_url=public_url))["blocks"]
    section = told["text"]["text"]
    assert heading["text"]["text"] == "Incident opened"
    link = "<https://relay.example/v1/incidents/inc_01jvpq0000000000000000000f|Open in relay.example>"
    assert section.endswith(link) is linked
    assert "other.example" not in section
