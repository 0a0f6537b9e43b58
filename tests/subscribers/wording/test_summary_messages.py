"""Messages about connect accounts, groups and incidents: what happened, whose turn it is, and whether to send again."""

from typing import Any

import orjson
import pytest

from relay.core.events.event import Event, Hint
from relay.core.subscriptions.subscription import Subscription
from subscribers import registry
from subscribers.base import RenderContext
from tests.support.job_events import account_made, group_made, incident_made

CONTEXT = RenderContext()
SLACK = Subscription(id="sub_1", sink="https://hooks.slack.com/services/T0/B0/secret", kind="slack")
HOSTILE = [
    *("<!channel>", "<@U1>", "<https://evil.example|bank>", "@here", "#general", ":tada:", "*b* _i_ ~s~ `c`"),
    "a\n> quote",
    *("&" * 4000, "<" * 4000, "\u202egnitset", "\x00\x07", "https://evil.example/x", "'; rm -rf ~ #", "$(reboot)"),
]


NOBODY = {"connect_account_id": None, "connect_account_name": None}
SINK: dict[str, Any] = {
    **NOBODY,
    "kind": "sink",
    "subscription": "sub_9",
    "sink": "https://crm.example/…",
    "hint": None,
}
SINK |= {"likely": None, "channel": None, "source": None, "account": None}


@pytest.mark.parametrize("text", HOSTILE)
def test_no_name_or_code_can_mention_link_or_break_a_message(text: str) -> None:
    hint = Hint(meaning=text, fix=text, who=text, repeat="safe")
    events = [
        account_made("needs_reconnect", name=text, channel=text, account_id=text, status=text, hint=hint),
        group_made(group=text[:200], failures={text: 3, "b": 1}),
        incident_made(connect_account_name=text, channel=text, code=text, hint=hint),
        incident_made(connect_account_name=text, channel=text, code=text, hint=None),
        incident_made(kind="creates", connect_account_name=text, channel=text, code=text, hint=hint),
        incident_made("closed", connect_account_name=text, channel=text),
        incident_made("closed", connect_account_name=None, connect_account_id=text),
        incident_made(**SINK | {"code": text}),
    ]
    for event in events:
        shown = text_of(event)
        assert "<" not in shown
        assert ">" not in shown.replace("&gt;", "")
        for mention in ("<!", "@here", "@U1", "#general", ":tada:", "*b*", "`c`", "\u202e", "\x00"):
            assert mention not in shown, mention


@pytest.mark.parametrize("channel", ["linkedin", None])
def test_incident_without_an_account_has_a_message_too(channel: str | None) -> None:
    """Failures of a channel, or of a source: an error here would end the delivery as dead."""
    for what in ("opened", "grew", "closed"):
        shown = text_of(incident_made(what, channel=channel, **NOBODY))
        assert ("Whose turn" in shown) is (what != "closed")


def text_of(event: Event) -> str:
    """Everything in the Slack message, without Slack's own bold labels."""
    payload = orjson.loads(registry.kind_named("slack").render(event, SLACK, CONTEXT).body)
    assert len(payload["text"]) <= 3000
    blocks = [block for block in payload["blocks"] if block["type"] != "header"]
    section, *footers = blocks
    fields = [part.strip("*") for field in section.get("fields", []) for part in field["text"].split("\n", 1)]
    return "\n".join(
        [
            payload["text"],
            section["text"]["text"],
            *fields,
            *(one["text"] for foot in footers for one in foot["elements"]),
        ]
    )


def test_heading_and_sentence_say_nothing_twice() -> None:
    payload = orjson.loads(registry.kind_named("slack").render(group_made(), SLACK, CONTEXT).body)
    header, section, *_ = payload["blocks"]
    assert header["text"]["text"] == "Campaign q4-launch has finished"
    assert section["text"]["text"].startswith("182 of 200 jobs were accepted. 6 failed")
    assert payload["text"].startswith("Campaign q4-launch has finished: 182 of 200 jobs were accepted")


@pytest.mark.parametrize(
    ("code", "step", "turn"),
    [
        ("http_503", "Fix the receiver, then", "whoever runs the receiver"),
        ("503 Service Unavailable", "Fix the receiver, then", "whoever runs the receiver"),
        ("http_401", "Correct the settings, then", "an administrator"),
        ("401 Unauthorized", "Correct the settings, then", "an administrator"),
        ("credential", "Correct the settings, then", "an administrator"),
    ],
)
def test_next_step_about_a_receiver_is_for_the_person_whose_turn_it_is(code: str, step: str, turn: str) -> None:
    shown = text_of(incident_made(**SINK | {"code": code}))
    assert f"Next step\n{step}" in shown
    assert f"Whose turn\n{turn}" in shown
