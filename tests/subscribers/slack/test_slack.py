"""The kind slack: sentences, escaping, outcomes."""

from typing import Any

import orjson
import pytest

from relay.core.deliveries.delivery import Outcome, Response
from relay.core.events.event import Event
from relay.core.subscriptions.subscription import Subscription
from subscribers import registry
from subscribers.base import RenderContext
from subscribers.slack import render as slack_blocks
from subscribers.wording.jobs import job_details
from tests.support.job_events import NOW, job_event

SINK = "https://hooks.slack.com/services/T0/B0/secret"
SUBSCRIPTION = Subscription(id="sub_1", sink=SINK, kind="slack")
KIND = registry.kind_named("slack")


def message(event: Event, context: RenderContext | None = None) -> dict[str, Any]:
    payload: dict[str, Any] = orjson.loads(KIND.render(event, SUBSCRIPTION, context or RenderContext()).body)
    return payload


def text(event: Event, context: RenderContext | None = None) -> str:
    return str(message(event, context)["text"])


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
    found = job_details(job_event(channel=None, metadata=metadata), None)
    assert [f"{label} {text}" for label, text in found] == shown
