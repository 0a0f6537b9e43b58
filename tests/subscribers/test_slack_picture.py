"""The pictures in docs/campaigns.md and docs/integrations/slack.md show what the Slack kind renders.

`UPDATE_MESSAGES=1 pytest tests/subscribers/test_slack_picture.py` draws it anew; look at it before you commit it.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import orjson
import pytest

from relay.cli.demo.slack_channel import Message, read_message
from relay.core.events import Event
from relay.core.subscription import Subscription
from subscribers import registry
from subscribers.base import RenderContext
from tests.subscribers.test_slack_bot import NOW, Channel, delivered, incident, job
from tests.support.slack_picture import picture
from tests.support.story_events import account_needs_reconnect, finished, of_incident

DOCS = Path(__file__).resolve().parents[2] / "docs"
SLACK = Subscription(id="sub_1", sink="https://hooks.slack.com/services/T0/B0/secret", kind="slack")


INCIDENT = (("opened", 3), ("grew", 10), ("closed", 12))


def shown(event: Event) -> Message:
    message = read_message(orjson.loads(registry.kind_named("slack").render(event, SLACK, RenderContext()).body))
    return replace(message, footer="")


def drawn() -> str:
    story = [
        ("10:23", of_incident("opened", "10:23:10", 1, 43)),
        ("10:24", account_needs_reconnect("10:23:40", 43)),
        ("10:37", of_incident("closed", "10:37:02", 13, 0)),
        ("11:08", finished()),
    ]
    return picture("outreach-alerts", [(clock, shown(event)) for clock, event in story])


def drawn_by_a_bot() -> str:
    """Two messages with their threads: an incident that is over, and a group that is under way."""
    channel = Channel()
    delivered(channel, *(incident(kind, nth, failed) for nth, (kind, failed) in enumerate(INCIDENT)))
    delivered(channel, *(job(kind, nth, at=NOW + 600) for nth, kind in enumerate(("succeeded",) * 9 + ("failed",) * 2)))
    told: list[tuple[str, Message]] = []
    for clock, post in zip(("10:00", "10:10"), channel.posts(), strict=True):
        told.append((f"{clock} (edited)", replace(read_message({"blocks": post.blocks}), footer="")))
        for reply in post.replies:
            read = read_message({"blocks": reply.blocks})
            told.append(("in the thread", replace(read, title=f"↳ {read.title}", footer="")))
    return picture("campaigns", told)


@pytest.mark.parametrize(
    ("path", "draw"), [("campaigns.svg", drawn), ("integrations/slack-bot.svg", drawn_by_a_bot)], ids=["webhook", "bot"]
)
def test_the_picture_shows_what_slack_gets(path: str, draw: Callable[[], str]) -> None:
    svg = draw()
    if os.environ.get("UPDATE_MESSAGES"):
        (DOCS / path).write_text(svg, encoding="utf-8")
    assert svg == (DOCS / path).read_text(encoding="utf-8")
    ElementTree.fromstring(svg)
