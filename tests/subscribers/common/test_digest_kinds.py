"""Digests in Teams and Discord: what they tell, their limits, and that texts of jobs stay plain text."""

import re
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from relay.core.events.event import Event
from relay.core.subscriptions.subscription import Subscription
from relay.errors import InvalidRequest
from subscribers import registry
from subscribers.base import Bundle, RenderContext
from tests.support.chat_texts import shown_by_discord, shown_by_markdown
from tests.support.hostile_texts import TEXTS, events_with, unseen
from tests.support.scale import scaled
from tests.support.story_events import CODE, RECONNECT, at, finished, of_incident, of_job
from tests.vendors.endpoint import Endpoint, Sent
from tests.vendors.stand_ins import VENDORS

CONTEXT = RenderContext(public_url="https://relay.example")
KINDS = ("teams", "discord")
LINK = re.compile(r" ?\[Open in [a-z0-9.\\_:%-]+\]\(https?://[^()\s]+\)$")
URL = "https://crm.example/deals/42"


def story() -> list[Event]:
    failed = [
        of_job("failed", "10:23:10", f"P{number}", hint=RECONNECT, code=CODE, sender="acc_17", url=URL)
        for number in range(8)
    ]
    return [*failed, of_incident("opened", "10:23:30", 1, 43), finished()]


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


def lines_of_card(card: Any) -> list[str]:
    lines = []
    for block in card["body"]:
        lines += [item["text"] for item in block.get("items", ())]
        lines += [f"{fact['title']}: {fact['value']}" for fact in block.get("facts", ())]
        lines += [block["text"]] if "text" in block else []
    return lines


def test_card_of_a_digest() -> None:
    card = rendered("teams", story())
    assert card["body"][0]["style"] == "attention"
    lines = lines_of_card(card)
    assert lines[0].startswith("10 events in 45 minutes: 1 incident opened, 8 failed, 1 group finished")
    assert lines[1] == "2026-05-20 10:23:10 to 11:08:40 UTC"
    assert "How to fix it: Reconnect it in Revor" in lines
    told = [line for line in lines if line.startswith("• ")]
    assert len(told) == 5
    assert all(line.endswith(f" [Open in crm.example]({URL})") for line in told)
    assert "… and 3 more" in lines


def test_embed_of_a_digest() -> None:
    embed = rendered("discord", story(), time_zone="Europe/Paris")
    assert embed["title"].startswith("10 events in 45 minutes")
    assert embed["description"] == "2026-05-20 12:23:10 to 13:08:40 CEST"
    incident, group, failed = embed["fields"]
    assert incident["name"].startswith("1 LinkedIn job of Ada Lovelace failed")
    assert "**How to fix it:** Reconnect it in Revor" in incident["value"]
    assert group["name"].startswith("Group q4-launch finished")
    assert failed["value"].count("• ") == 5
    assert "… and 3 more" in failed["value"]


def test_many_groups_are_told_in_a_line_each() -> None:
    kind, when = finished().type, at("10:00:00")
    groups = []
    for number in range(60):
        name = f"group-{number:03d}-of-a-customer"
        body = finished().body.replace(b"q4-launch", name.encode())
        groups.append(Event(id=name, source="/relay", type=kind, subject=name, time=when, recorded_at=when, body=body))
    assert len([line for line in lines_of_card(rendered("teams", groups)) if line.startswith("• ")]) >= 12
    embed = rendered("discord", groups)
    assert embed["description"].count("\n• ") >= 4
    assert embed["footer"]["text"].startswith("And ")


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


@pytest.mark.parametrize("kind", KINDS)
def test_options_of_digests_are_those_of_slack(kind: str) -> None:
    known = registry.kind_named(kind)
    subscription = Subscription(id="sub_1", sink="https://hooks.example/x", kind=kind, options={"digest_seconds": 300})
    known.check(subscription)
    assert known.bundle(subscription) == registry.kind_named("slack").bundle(subscription)
    assert isinstance(known.bundle(subscription), Bundle)
    known.check(Subscription(id="sub_1", sink="https://hooks.example/x", kind=kind, options={"messages_per_minute": 5}))


@pytest.mark.parametrize("kind", ["slack_workflow", "flat"])
def test_other_kinds_have_no_digest(kind: str) -> None:
    options = {"digest_seconds": 300}
    subscription = Subscription(id="sub_1", sink="https://hooks.example/x", kind=kind, options=options)
    assert registry.kind_named(kind).bundle(subscription) is None
    with pytest.raises(InvalidRequest, match="digest_seconds"):
        registry.kind_named(kind).check(subscription)
