"""The pictures and the JSON in docs/integrations/ show what Teams, Discord, catch hooks and workflows of Slack get.

`UPDATE_MESSAGES=1 pytest tests/subscribers/test_chat_pictures.py` makes them anew; look at them before you commit them.
"""

import json
import os
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import orjson
import pytest

from relay.core.events import Event
from relay.core.subscription import Subscription
from subscribers import registry
from subscribers.base import RenderContext
from tests.subscribers.test_slack_messages import RECONNECT, job_event
from tests.subscribers.test_slack_picture import finished, of_incident
from tests.support.chat_pictures import discord_picture, teams_picture

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "integrations"
METADATA = {
    "recipient_name": "Alex",
    "deal": "Example Ltd, renewal",
    "owner": "Kim",
    "url": "https://crm.example/deals/42",
}
FAILED = job_event("failed", problem=RECONNECT, metadata=METADATA)
STORY = (("10:00", FAILED), ("10:23", of_incident("opened", "10:23:10", 1, 43)), ("11:08", finished()))


def payload(kind: str, event: Event) -> Any:
    subscription = Subscription(id="sub_1", sink="https://hooks.example/x", kind=kind)
    return orjson.loads(registry.kind_named(kind).render(event, subscription, RenderContext()).body)


def drawn(service: str) -> str:
    if service == "discord":
        return discord_picture("outreach-alerts", [(at, payload("discord", event)) for at, event in STORY])
    cards = [(at, payload("teams", event)["attachments"][0]["content"]) for at, event in STORY]
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
