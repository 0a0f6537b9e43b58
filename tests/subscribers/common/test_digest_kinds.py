"""Digests in Teams and Discord: what they tell, their limits, and that texts of jobs stay plain text."""

import re
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from relay.core.events.event import Event
from relay.core.subscriptions.subscription import Subscription
from subscribers import registry
from subscribers.base import RenderContext
from tests.support.chat_texts import shown_by_discord, shown_by_markdown
from tests.support.hostile_texts import TEXTS, events_with, unseen
from tests.support.scale import scaled
from tests.vendors.endpoint import Endpoint, Sent
from tests.vendors.stand_ins import VENDORS

CONTEXT = RenderContext(public_url="https://relay.example")
KINDS = ("teams", "discord")
LINK = re.compile(r" ?\[(?:Open in [a-z0-9.\\_:%-]+|Open [a-z ]+)\]\(https?://[^()\s]+\)$")


def rendered(kind: str, events: Sequence[Event], context: RenderContext = CONTEXT, **options: Any) -> Any:
    """The message that a stand-in of the service accepts."""
    subscription = Subscription(id="sub_1", sink="https://hooks.example/x", kind=kind, options=options)
    request = registry.kind_named(kind).render_bundle(events, subscription, context)
    assert request == registry.kind_named(kind).render_bundle(events, subscription, context)
    endpoint = Endpoint(VENDORS[kind])
    headers = {name.lower(): value for name, value in request.headers}
    endpoint.answer(Sent(request.method, request.url.partition("?")[2], headers, request.body))
    assert [answer.body for answer in endpoint.refused] == []
    assert endpoint.mentioned == []
    payload = orjson.loads(request.body)
    return payload["embeds"][0] if kind == "discord" else payload["attachments"][0]["content"]


@pytest.mark.parametrize("filler", ["😀", "*", "\\", "&amp;", "x", "_ "])
@pytest.mark.parametrize("kind", KINDS)
def test_digest_keeps_the_limits_whatever_the_texts_are(kind: str, filler: str) -> None:
    text = filler * 600
    context = RenderContext(account_names={"emea": text, text: text}, public_url=f"https://{'a' * 60}.example")
    events = [event for _ in range(scaled(1, 6)) for event in events_with(text)]
    rendered(kind, events, context)


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_texts_stay_plain_text_in_a_digest(kind: str) -> None:
    for turn, text in enumerate(TEXTS[:: scaled(7, 1)]):
        context = RenderContext(account_names={"emea": text, text: text}, public_url="https://relay.example")
        message = rendered(kind, list(events_with(text, part=turn, parts=scaled(7, 1))), context)
        if kind == "teams":
            for block in message["body"]:
                facts = [part for fact in block.get("facts", ()) for part in (fact["title"], fact["value"])]
                texts = [item["text"] for item in block.get("items", ())] + facts
                for said in [*texts, LINK.sub("", block.get("text", ""))]:
                    if said:
                        shown_by_markdown(said)
                        assert not unseen(said, allowed="\u2060")
        else:
            lines = [message["title"], *message["description"].split("\n")]
            for field in message["fields"]:
                lines += [field["name"], *field["value"].split("\n")]
            for line in lines:
                bare = re.sub(r"^\*\*(.*?):\*\* ", r"\1 ", LINK.sub("", line)).removeprefix("• ")
                if bare and bare != "-":
                    shown_by_discord(bare)
                    assert not unseen(bare, allowed="\u2060")
