"""Adaptive Cards for Teams.

Sources: Microsoft's documentation of the format of cards in Teams (Markdown in TextBlock and FactSet); the schema of
Adaptive Cards 1.4.
"""

from collections.abc import Mapping
from typing import Any

from subscribers.common.chat import Message, Tone, fitted, footnote
from subscribers.common.digest import Digest, Line
from subscribers.common.markdown import escape, linked
from subscribers.wording import Link
from subscribers.wording.text import Pairs

Block = dict[str, Any]

_APART = {"spacing": "Medium", "separator": True}
_CARD_TYPE = "application/vnd.microsoft.card.adaptive"
_SCHEMA = "http://adaptivecards.io/schemas/adaptive-card.json"
_STYLES: Mapping[Tone, str] = {"bad": "attention", "warning": "warning", "good": "good", "plain": "emphasis"}


def card_message(blocks: list[Block], link: Link | None) -> Block:
    """A message with a card, and a button for the link."""
    card: Block = {
        "$schema": _SCHEMA,
        "type": "AdaptiveCard",
        "version": "1.4",
        "msteams": {"width": "Full"},
        "body": blocks,
    }
    if link is not None:
        card["actions"] = [{"type": "Action.OpenUrl", "title": link.title, "url": link.url}]
    attachment = {"contentType": _CARD_TYPE, "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def message_blocks(message: Message, length: int) -> list[Block]:
    """The sentence in a coloured box, advice and metadata as facts, place, time and ids in small print. `length`:
    maximum characters of each text."""
    blocks = [_box(message.sentence, message.tone, length)]
    if message.pairs:
        blocks.append(_facts(message.pairs, length))
    return [*blocks, *(_small(footnote(found), length) for found in (message.place, message.ids) if found)]


def digest_blocks(found: Digest, tone: Tone, length: int) -> list[Block]:
    """A digest. `length`: maximum characters of each text and URL; a longer URL is left out."""
    blocks = [_box(found.heading, tone, length), _small(found.span, length)]
    for section in found.sections:
        blocks.append({**_line(section.line, length), **_APART, "weight": "Bolder"})
        if section.advice:
            blocks.append(_facts(section.advice, length))
    blocks += [_line(line, length, "• ") for line in found.brief]
    for cluster in found.clusters:
        blocks.append({**_text(cluster.title, length), **_APART, "weight": "Bolder"})
        blocks += [_line(line, length, "• ") for line in cluster.lines]
        if cluster.more:
            blocks.append({**_text(f"… and {cluster.more:,} more", length), "spacing": "None"})
        if cluster.advice:
            advice = " · ".join(f"{label}: {text}" for label, text in cluster.advice)
            blocks.append(_small(advice, 4 * length))
    return [*blocks, _small(f"And {found.rest}", length)] if found.rest else blocks


def _box(text: str, tone: Tone, length: int) -> Block:
    title = {**_text(text, length), "weight": "Bolder"}
    return {"type": "Container", "style": _STYLES[tone], "items": [title]}


def _facts(pairs: Pairs, length: int) -> Block:
    facts = [{"title": fitted(label, length, escape), "value": fitted(text, length, escape)} for label, text in pairs]
    return {"type": "FactSet", "facts": facts}


def _line(line: Line, length: int, mark: str = "") -> Block:
    """A sentence with its link behind it."""
    text = mark + fitted(line.sentence, length, escape)
    if link := line.short_link(length):
        text = f"{text} {linked(link)}"
    return {"type": "TextBlock", "text": text, "wrap": True, "spacing": "None"}


def _small(text: str, length: int) -> Block:
    return {**_text(text, length), "size": "Small", "isSubtle": True, "spacing": "Small"}


def _text(text: str, length: int) -> Block:
    return {"type": "TextBlock", "text": fitted(text, length, escape), "wrap": True}
