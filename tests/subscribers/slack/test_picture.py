"""The pictures of Slack in docs/ show what the Slack kind renders.

`UPDATE_MESSAGES=1 pytest tests/subscribers/slack/test_picture.py` draws them anew.
Look at them before you commit them.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import orjson
import pytest

from relay.core.events.event import Event
from relay.core.subscriptions.subscription import Subscription
from subscribers import registry
from subscribers.base import RenderContext
from tests.subscribers.slack.test_dialogue import Channel, delivered
from tests.support.slack_picture import picture, without_small_print
from tests.support.story_events import (
    CODE,
    CREDITS,
    OVERDUE,
    RECONNECT,
    account_needs_reconnect,
    finished,
    of_incident,
    of_job,
)

DOCS = Path(__file__).resolve().parents[3] / "docs"
KIND = registry.kind_named("slack")
SLACK = Subscription(
    id="sub_1",
    sink="https://hooks.slack.com/services/T0/B0/secret",
    kind="slack",
    options={"time_zone": "Europe/Paris"},
)
CRM = "https://crm.example/deals"


def message(event: Event) -> Any:
    return orjson.loads(KIND.render(event, SLACK, RenderContext()).body)


def campaign() -> str:
    story = [
        ("10:23", of_incident("opened", "10:23:10", 1, 43)),
        ("10:24", account_needs_reconnect("10:23:40", 43)),
        ("10:37", of_incident("closed", "10:37:02", 13, 0)),
        ("11:08", finished()),
    ]
    return picture("outreach-alerts", [(clock, without_small_print(message(event))) for clock, event in story])


def posted_by_a_bot() -> str:
    """Two messages with their threads: an incident that is over, and a group that is under way."""
    channel = Channel()
    for nth, told in enumerate(
        (("opened", "10:23:10", 3, 40), ("grew", "10:24:30", 10, 33), ("closed", "10:37:02", 13, 0))
    ):
        delivered(channel, replace(of_incident(*told, id="inc_01jvq4"), id=f"evt_01jvpq00000000000000{nth:06}"))
    accepted = ("Alex", "Kim", "Robin", "Sam", "Toni", "Chris", "Jo", "Pat", "Ali")
    delivered(channel, *(of_job("succeeded", "10:40:00", name, group="spring") for name in accepted))
    refused = {"hint": CREDITS, "code": "insufficient_credits", "group": "spring"}
    delivered(channel, *(of_job("failed", "10:40:30", name, **refused) for name in ("Lee", "Mika")))
    told: list[tuple[str, Any]] = []
    for clock, post in zip(("10:23", "10:40"), channel.posts(), strict=True):
        told.append((f"{clock} (edited)", {"blocks": post.blocks}))
        for reply in post.replies:
            first, *others = reply.blocks
            text = {**first["text"], "text": f"↳ {first['text']['text']}"}
            told.append(("in the thread", {"blocks": [{**first, "text": text}, *others]}))
    return picture("campaigns", [(at, without_small_print(payload)) for at, payload in told])


def one_event() -> str:
    event = of_job(
        "failed", "08:12:40", "Alex", hint=RECONNECT, code=CODE, sender="acc_17", url=f"{CRM}/42", deal="Example Ltd"
    )
    return picture("outreach-alerts", [("10:12", message(event)), ("13:08", message(finished()))])


def digest() -> str:
    names = ("Alex", "Kim", "Robin", "Sam", "Toni", "Chris", "Jo", "Pat")
    failed = [
        of_job("failed", "08:20:10", name, hint=RECONNECT, code=CODE, sender="acc_17", url=f"{CRM}/{number}")
        for number, name in enumerate(names, 42)
    ]
    events = [
        *failed,
        of_incident("grew", "08:24:10", 10, 33),
        of_job("failed", "08:23:00", "Mika", hint=CREDITS, code="insufficient_credits", channel="email"),
        *(of_job("overdue", "08:25:00", name, hint=OVERDUE, channel="email") for name in ("Lee", "Ali")),
    ]
    body = KIND.render_bundle(events, SLACK, RenderContext()).body
    return picture("outreach-alerts", [("10:25", orjson.loads(body))])


@pytest.mark.parametrize(
    ("path", "drawn"),
    [
        ("campaigns.svg", campaign),
        ("integrations/slack-message.svg", one_event),
        ("integrations/slack-digest.svg", digest),
        ("integrations/slack-bot.svg", posted_by_a_bot),
    ],
    ids=["campaign", "message", "digest", "bot"],
)
def test_the_picture_shows_what_slack_gets(path: str, drawn: Callable[[], str]) -> None:
    svg = drawn()
    if os.environ.get("UPDATE_MESSAGES"):
        (DOCS / path).write_text(svg, encoding="utf-8")
    assert svg == (DOCS / path).read_text(encoding="utf-8")
    ElementTree.fromstring(svg)
