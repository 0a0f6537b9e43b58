"""The pictures and the JSON in docs/integrations/ show what Teams, Discord, catch hooks and workflows of Slack get.

`UPDATE_MESSAGES=1 pytest tests/subscribers/common/test_chat_pictures.py` makes them anew.
Look at them before you commit them.
"""

import json
import os
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import orjson
import pytest

from relay.core.events.event import Event
from relay.core.subscriptions.subscription import Subscription
from subscribers import registry
from subscribers.base import RenderContext
from tests.subscribers.slack.test_messages import RECONNECT, job_event
from tests.subscribers.slack.test_picture import finished, of_incident
from tests.support.chat_pictures import discord_picture, teams_picture
from tests.support.story_events import CODE, OVERDUE, of_job
from tests.support.story_events import RECONNECT as BROKEN

FOLDER = Path(__file__).resolve().parents[3] / "docs" / "integrations"
METADATA = {
    "recipient_name": "Alex",
    "deal": "Example Ltd, renewal",
    "owner": "Kim",
    "url": "https://crm.example/deals/42",
}
FAILED = job_event("failed", problem=RECONNECT, metadata=METADATA)
DEAL = "https://crm.example/deals/42"
BURST = (
    *(of_job("failed", "12:00:10", name, hint=BROKEN, code=CODE, sender="acc_17") for name in ("Ben", "Cleo")),
    *(
        of_job("failed", "12:01:20", name, hint=BROKEN, code=CODE, sender="acc_17", url=DEAL)
        for name in ("Dana", "Eli")
    ),
    *(of_job("overdue", "12:03:40", name, hint=OVERDUE, channel="email") for name in ("Fay", "Gus")),
)
STORY: tuple[tuple[str, tuple[Event, ...]], ...] = (
    ("10:00", (FAILED,)),
    ("10:23", (of_incident("opened", "10:23:10", 1, 43),)),
    ("11:08", (finished(),)),
    ("12:05", BURST),
)


def payload(kind: str, *events: Event) -> Any:
    subscription = Subscription(id="sub_1", sink="https://hooks.example/x", kind=kind)
    known, context = registry.kind_named(kind), RenderContext()
    if len(events) > 1:
        return orjson.loads(known.render_bundle(events, subscription, context).body)
    return orjson.loads(known.render(events[0], subscription, context).body)


def drawn(service: str) -> str:
    if service == "discord":
        return discord_picture("outreach-alerts", [(at, payload("discord", *events)) for at, events in STORY])
    cards = [(at, payload("teams", *events)["attachments"][0]["content"]) for at, events in STORY]
    return teams_picture("Outreach alerts", cards)


@pytest.mark.parametrize("service", ["teams", "discord"])
def test_picture_shows_what_arrives(service: str) -> None:
    svg, file = drawn(service), FOLDER / f"{service}.svg"
    if os.environ.get("UPDATE_MESSAGES"):
        file.write_text(svg, encoding="utf-8")
    assert svg == file.read_text(encoding="utf-8")
    ElementTree.fromstring(svg)


@pytest.mark.parametrize(("kind", "page"), [("flat", "zapier-make-n8n.md"), ("slack_workflow", "slack-workflow.md")])
def test_json_in_the_documentation_is_what_arrives(kind: str, page: str) -> None:
    shown = json.dumps(payload(kind, FAILED), indent=1, ensure_ascii=False)
    file = FOLDER / page
    text = file.read_text(encoding="utf-8")
    block = re.compile(rf"(<!-- what kind {kind} sends -->\n```json\n).*?(\n```)", re.DOTALL)
    assert block.search(text), f"{page} has no block for {kind}"
    if os.environ.get("UPDATE_MESSAGES"):
        text = block.sub(lambda found: found[1] + shown + found[2], text)
        file.write_text(text, encoding="utf-8")
    assert shown in text
