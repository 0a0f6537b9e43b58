"""Slack's Block Kit: plain text escaped and laid out, within Slack's limits.

Sources: Slack's documentation of message formatting (escaping) and of Block Kit (limits). The limit on all blocks of a
message is not documented: Slack answers `msg_blocks_too_long` from about 11,000 characters on.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from relay.core.jsontext import dumps
from subscribers.common.chat import Message
from subscribers.common.digest import Digest, Line
from subscribers.wording import Link, below
from subscribers.wording.text import Pairs

SECTION_CHARACTERS = 3000
FIELD_CHARACTERS = 2000
HEADER_CHARACTERS = 150
MAX_FIELDS = 10
MESSAGE_CHARACTERS = 10_000
"""Maximum characters of the blocks of a message, as JSON."""
SHORT_CHARACTERS = 500
"""Maximum characters of each text if the message would be too long otherwise."""

Block = dict[str, Any]

_JOINER = "\u2060"
"""WORD JOINER has no width. Next to a formatting mark it makes Slack read the mark as plain text."""
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# Slack reads `_` within a word as text. It stays, so that ids can be copied. `>` quotes at the beginning of a line.
_MARKS = re.compile(r"[*~`]|\A>|(?<![^\W_])_|_(?![^\W_])|[@#](?=\w)|:(?!\d\d:)(?=[\w+'-]+:)")


def escape(text: str) -> str:
    """Text that Slack shows literally: no mention, formatting, emoji name or entity."""
    return re.sub("[&<>]", lambda character: _ENTITIES[character[0]], without_marks(text))


def without_marks(text: str) -> str:
    """Text in which Slack finds no formatting, emoji name or name to mention. It looks the same."""
    return _MARKS.sub(lambda mark: f"{mark[0]}{_JOINER}" if mark[0] in "@#:" else f"{_JOINER}{mark[0]}{_JOINER}", text)


def clip(escaped: str, limit_characters: int) -> str:
    """Escaped text truncated to `limit_characters`, never inside an entity or between a mark and its joiner."""
    if len(escaped) <= limit_characters:
        return escaped
    kept = escaped[: limit_characters - 1]
    ampersand = kept.rfind("&")
    if kept.rfind(";") <= ampersand:
        kept = kept[: max(ampersand, 0)] if ampersand >= 0 else kept
    return kept.rstrip(f"*~`_{_JOINER}") + "…"


def plain(text: str) -> str:
    """The text of a message, which notifications show."""
    return clip("\n".join(escape(line) for line in text.split("\n")), SECTION_CHARACTERS)


def section(text: str, link: Link | None, pairs: Pairs, limit_characters: int = SECTION_CHARACTERS) -> Block:
    """A sentence with its link below, and fields. `limit_characters`: of each text."""
    linked = "" if link is None else f"\n{_link(link)}"
    body = clip(escape(text), min(limit_characters, SECTION_CHARACTERS - len(linked))) + linked
    block: Block = {"type": "section", "text": _mrkdwn(body)}
    if pairs:
        length = min(limit_characters, FIELD_CHARACTERS)
        fields = (f"*{escape(label)}*\n{escape(value)}" for label, value in pairs[:MAX_FIELDS])
        block["fields"] = [_mrkdwn(clip(field, length)) for field in fields]
    return block


def small_print(found: Iterable[tuple[str, str]], limit_characters: int = FIELD_CHARACTERS) -> Block:
    """Labels and texts on one line, in small grey letters."""
    texts = (clip(f"{escape(label)} {escape(value)}".strip(), limit_characters) for label, value in found)
    return {"type": "context", "elements": [_mrkdwn(text) for text in texts]}


def message_blocks(content: Message) -> list[Block]:
    """The heading of an incident or a group, a section with the sentence, link and pairs, then one line with place and
    time and one with ids. Texts are cut shorter if all of them are too long."""
    top = [_header(content.heading)] if content.heading else []
    small = [small_print(found) for found in (content.place, content.ids) if found]
    blocks = [*top, section(content.below, content.link, content.pairs), *small]
    if characters(blocks) > MESSAGE_CHARACTERS:
        blocks = [*top, section(content.below, content.link, content.pairs, SHORT_CHARACTERS), *small]
    return blocks


def digest_blocks(found: Digest, length: int) -> list[Block]:
    """A digest: its heading, incidents and groups, then the clusters with advice in small print. `length`: maximum
    characters of each text and URL; a longer URL is left out."""
    blocks = [_header(found.heading), small_print([("", found.span)])]
    for one in found.sections:
        sentence = below(one.heading, one.line.sentence)
        rendered = section(sentence, one.line.short_link(length), one.advice, length)
        title = clip(escape(one.heading), length)
        blocks.append({**rendered, "text": _mrkdwn(f"*{title}*\n{rendered['text']['text']}")})
    blocks += _sections(_line(line, length) for line in found.brief)
    if len(blocks) > 2 and found.clusters:
        blocks.append({"type": "divider"})
    for cluster in found.clusters:
        lines = [f"*{clip(escape(cluster.title), length)}*", *(_line(line, length) for line in cluster.lines)]
        if cluster.more:
            lines.append(f"… and {cluster.more:,} more")
        blocks += _sections(lines)
        if cluster.advice:
            blocks.append(small_print([(f"{label}:", text) for label, text in cluster.advice], length))
    if found.rest:
        blocks.append(small_print([("", f"And {found.rest}")]))
    return blocks


def characters(blocks: Sequence[Mapping[str, Any]]) -> int:
    """The length of a message by Slack's count, at most."""
    return len(dumps(blocks).decode())


def _header(text: str) -> Block:
    return {
        "type": "header",
        "text": {"type": "plain_text", "text": clip(escape(text), HEADER_CHARACTERS), "emoji": False},
    }


def _sections(lines: Iterable[str]) -> list[Block]:
    """Sections with these lines, each as full as Slack allows."""
    texts: list[str] = []
    for line in lines:
        if texts and len(texts[-1]) + 1 + len(line) <= SECTION_CHARACTERS:
            texts[-1] = f"{texts[-1]}\n{line}"
        else:
            texts.append(line)
    return [{"type": "section", "text": _mrkdwn(text)} for text in texts]


def _line(line: Line, length: int) -> str:
    text, link = clip(escape(line.sentence), length), line.short_link(length)
    return f"• {text}" if link is None else f"• {text} {_link(link)}"


def _link(link: Link) -> str:
    return f"<{link.url.replace('&', '&amp;')}|{escape(link.title)}>"


def _mrkdwn(text: str) -> Block:
    # verbatim: Slack does not turn URLs, channels and names into links.
    return {"type": "mrkdwn", "text": text, "verbatim": True}
