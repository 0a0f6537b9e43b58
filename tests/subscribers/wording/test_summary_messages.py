"""Messages about connect accounts, groups and incidents: what happened, whose turn it is, and whether to send again."""

from typing import Any

import orjson
import pytest

from relay.core.events.event import Event, Hint, Origin, account_event, relay_event
from relay.core.events.summary_events import account_data, group_finished_data, incident_data
from relay.core.subscriptions.subscription import Subscription
from subscribers import registry
from subscribers.base import RenderContext

NOW = 1779271208.0
CONTEXT = RenderContext()
ORIGIN = Origin(source="https://x.example/jobs", type_prefix="ai.revor.job", dataschema="http://x/s.json")
SLACK = Subscription(id="sub_1", sink="https://hooks.slack.com/services/T0/B0/secret", kind="slack")
RECONNECT = Hint(
    meaning="The LinkedIn account needs reconnecting", fix="Reconnect it in Revor", who="account owner", repeat="safe"
)
HOSTILE = [
    *(
        "<!channel>",
        "<@U1>",
        "<https://evil.example|bank>",
        "@here",
        "#general",
        ":tada:",
        "*b* _i_ ~s~ `c`",
        "a\n> quote",
    ),
    *("&" * 4000, "<" * 4000, "\u202egnitset", "\x00\x07", "https://evil.example/x", "'; rm -rf ~ #", "$(reboot)"),
]


def of_account(kind: str, **changes: Any) -> Event:
    values: dict[str, Any] = {
        "account_id": "acc_1",
        "channel": "linkedin",
        "name": "Ada Lovelace",
        "status": "x",
        "state": "ok",
        "since": NOW,
        "open_jobs": 37,
        "source": "revor",
        "account": "default",
    }
    return account_event(
        "evt_1", kind, NOW, account_data(**{**values, **changes}), ORIGIN, dataschema="http://x/s.json"
    )


def of_group(**changes: Any) -> Event:
    values: dict[str, Any] = {
        "group": "q4-launch",
        "source": "revor",
        "account": "default",
        "round": 1,
        "counts": {"succeeded": 194, "failed": 6},
        "skipped": 12,
        "missing": 0,
        "failures": {"reconnect_required": 4, "recipient_not_found": 2},
        "first_at": NOW - 60,
        "finished_at": NOW,
    }
    data = group_finished_data(**{**values, **changes})
    return relay_event("evt_1", "relay.group.finished", NOW, data, dataschema="http://x/s.json", subject="g")


def of_incident(type: str = "opened", **changes: Any) -> Event:
    closed = type == "closed"
    values: dict[str, Any] = {
        "incident": "inc_1",
        "kind": "jobs",
        "state": "closed" if closed else "open",
        "source": "revor",
        "account": "default",
        "channel": "linkedin",
        "connect_account_id": "acc_1",
        "connect_account_name": "Ada Lovelace",
        "subscription": None,
        "sink": None,
        "code": "reconnect_required",
        "hint": RECONNECT,
        "failed": 12,
        "likely": 37,
        "first_failure_at": NOW - 2100,
        "last_failure_at": NOW,
        "opened_at": NOW - 60,
        "closed_at": NOW if closed else None,
        "closed_because": "account_recovered" if closed else None,
    }
    data = incident_data(**{**values, **changes})
    return relay_event("evt_1", f"relay.incident.{type}", NOW, data, dataschema="http://x/s.json", subject="inc_1")


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
        of_account("needs_reconnect", name=text, channel=text, account_id=text, status=text, hint=hint),
        of_group(group=text[:200], failures={text: 3, "b": 1}),
        of_incident(connect_account_name=text, channel=text, code=text, hint=hint),
        of_incident(connect_account_name=text, channel=text, code=text, hint=None),
        of_incident(kind="creates", connect_account_name=text, channel=text, code=text, hint=hint),
        of_incident("closed", connect_account_name=text, channel=text),
        of_incident("closed", connect_account_name=None, connect_account_id=text),
        of_incident(**SINK | {"code": text}),
    ]
    for event in events:
        shown = text_of(event)
        assert "<" not in shown
        assert ">" not in shown.replace("&gt;", "")
        for mention in ("<!", "@here", "@U1", "#general", ":tada:", "*b*", "`c`", "\u202e", "\x00"):
            assert mention not in shown, mention


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
