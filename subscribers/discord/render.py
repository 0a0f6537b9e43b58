"""Embeds for Discord.

Sources: Discord's documentation of messages (embed limits) and of message formatting.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from subscribers.common.chat import Message, Tone, fitted, footnote
from subscribers.common.digest import Digest, Line
from subscribers.common.markdown import disarmed, escape, linked
from subscribers.wording.text import Pairs

TITLE_CHARACTERS = 256
DESCRIPTION_CHARACTERS = 4096
FIELD_NAME_CHARACTERS = 256
FIELD_VALUE_CHARACTERS = 1024
FOOTER_CHARACTERS = 2048
EMBED_CHARACTERS = 6000
"""Maximum of all texts of the embeds in a message."""
_COLOURS: Mapping[Tone, int] = {"bad": 0xD83C3E, "warning": 0xF0B232, "good": 0x23A55A, "plain": 0x5865F2}

Embed = dict[str, Any]


def message_embed(message: Message, length: int) -> Embed:
    """The sentence as the title, then the link, advice and metadata as fields, place, time and ids in the footer.
    `length`: maximum characters of each text."""
    title = fitted(message.sentence, TITLE_CHARACTERS, escape)
    embed: Embed = {"title": title, "color": _COLOURS[message.tone]}
    below = [fitted(message.sentence, length, escape)] if title != escape(message.sentence) else []
    if message.link is not None:
        below.append(linked(message.link))
    if below:
        embed["description"] = "\n".join(below)
    if message.pairs:
        embed["fields"] = [
            {
                "name": fitted(label, FIELD_NAME_CHARACTERS, escape),
                "value": fitted(text, length, escape),
                "inline": len(text) <= 40,
            }
            for label, text in message.pairs
        ]
    small = footnote((*message.place, *message.ids))
    if small:
        embed["footer"] = {"text": fitted(small, min(2 * length, FOOTER_CHARACTERS), disarmed)}
    return embed


def digest_embed(found: Digest, tone: Tone, length: int) -> Embed:
    """A digest: a field for each incident and group, and for the others by account and cause. `length`: maximum
    characters of each text and URL."""
    fields = []
    for section in found.sections:
        below = [linked(link)] if (link := section.line.short_link(length)) else []
        fields.append(_field(section.line.sentence, [*below, *_advice(section.advice, length)], length))
    for cluster in found.clusters:
        lines = [_line(line, length) for line in cluster.lines]
        more = [f"… and {cluster.more:,} more"] if cluster.more else []
        fields.append(_field(cluster.title, [*lines, *more, *_advice(cluster.advice, length)], length))
    embed: Embed = {
        "title": fitted(found.heading, TITLE_CHARACTERS, escape),
        "color": _COLOURS[tone],
        "description": "\n".join([escape(found.span), *(_line(line, length) for line in found.brief)]),
        "fields": fields,
    }
    return {**embed, "footer": {"text": fitted(f"And {found.rest}", 2 * length, disarmed)}} if found.rest else embed


def _field(name: str, lines: Sequence[str], length: int) -> Embed:
    """A field with as many of the lines as it takes."""
    value = ""
    for line in lines:
        longer = f"{value}\n{line}" if value else line
        if _units(longer) > FIELD_VALUE_CHARACTERS:
            break
        value = longer
    return {"name": fitted(name, min(length, FIELD_NAME_CHARACTERS), escape), "value": value or "-", "inline": False}


def _line(line: Line, length: int) -> str:
    """A sentence with its link behind it."""
    text, link = f"• {fitted(line.sentence, length, escape)}", line.short_link(length)
    return f"{text} {linked(link)}" if link else text


def _advice(pairs: Pairs, length: int) -> list[str]:
    return [f"**{fitted(label, length, escape)}:** {fitted(text, length, escape)}" for label, text in pairs]


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "replace")) // 2


def fits(embed: Embed) -> bool:
    """True if Discord takes an embed of this length, in UTF-16 code units."""
    texts = [embed["title"], embed.get("description", ""), embed.get("footer", {}).get("text", "")]
    texts += [text for field in embed.get("fields", ()) for text in (field["name"], field["value"])]
    return sum(map(_units, texts)) <= EMBED_CHARACTERS and _units(texts[1]) <= DESCRIPTION_CHARACTERS
