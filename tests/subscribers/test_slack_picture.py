"""The picture in docs/campaigns.md shows what the Slack kind renders.

`UPDATE_MESSAGES=1 pytest tests/subscribers/test_slack_picture.py` draws it anew; look at it before you commit it.
"""

import os
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import orjson

from relay.cli.demo.slack_channel import Message, read_message
from relay.core.events import Event
from relay.core.subscription import Subscription
from subscribers import registry
from subscribers.base import RenderContext
from tests.support.slack_picture import picture
from tests.support.story_events import account_needs_reconnect, finished, of_incident

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "campaigns.svg"
SLACK = Subscription(id="sub_1", sink="https://hooks.slack.com/services/T0/B0/secret", kind="slack")


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


def test_the_picture_shows_what_slack_gets() -> None:
    svg = drawn()
    if os.environ.get("UPDATE_MESSAGES"):
        PICTURE.write_text(svg, encoding="utf-8")
    assert svg == PICTURE.read_text(encoding="utf-8")
    ElementTree.fromstring(svg)
