"""Text for people, made from text of others: on one line, without invisible characters, addresses and markup.

Each chat kind escapes the result for its own markup.
"""

import re
from collections.abc import Mapping
from datetime import UTC, tzinfo
from functools import lru_cache
from typing import Any

from relay.clock import from_rfc3339, zone_named
from relay.core.events.sentences import titled
from subscribers.base import RenderContext

Document = Mapping[str, Any]
Pairs = tuple[tuple[str, str], ...]
"""Labels with their texts."""
NEXT_STEP, WHOSE_TURN, SENDING_AGAIN = "Next step", "Whose turn", "Sending again"
"""Labels of the remedy, of the person who can apply it, and of the effect of sending the create again."""

NAME_CHARACTERS = 80
TEXT_CHARACTERS = 500
WORD_CHARACTERS = 60
DEFAULT_ACCOUNT = "default"
_MAX_COUNT = 10**12

# Control characters, direction marks, noncharacters, spaces without a width, and characters that are drawn as nothing.
_UNSEEN = (
    "\x00-\x20\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2000-\u200b\u200e\u200f\u2028-\u202f\u205f-\u206f"
    "\u2800\u3164\ud800-\udfff\ufdd0-\ufdef\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffc\ufffe\uffff\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U0001fffe\U0001ffff\U0002fffe\U0002ffff\U0003fffe-\U0010ffff"
)
# Joiners and selectors are part of words of some scripts and of emoji: they stay between other characters beyond ASCII.
_SCRIPT = rf"[^\x00-\x7f\u200c\u200d\ufe0e\ufe0f{_UNSEEN}]"
_INVISIBLE = re.compile(
    rf"(?:[{_UNSEEN}]"
    rf"|(?<!{_SCRIPT})(?<!{_SCRIPT}[\ufe0e\ufe0f])[\u200c\u200d]|[\u200c\u200d](?!{_SCRIPT})|(?<!{_SCRIPT})[\ufe0e\ufe0f])+"
)
_MARK = (
    "[\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u0610-\u061a\u064b-\u065f\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u1ab0-\u1aff\u1dc0-\u1dff"
    "\u20d0-\u20ff\ufe20-\ufe2f]"
)
_PILE = re.compile(f"({_MARK}{{4}}){_MARK}+")
"""Marks piled up on one letter: they cover the lines above and below."""
_ADDRESS = re.compile(
    r"[^\s@]{1,100}@\S{1,200}"  # e-mail, @name
    r"|\b[a-z][a-z0-9+.-]{1,20}://\S{1,500}|\bwww\.\S{1,500}|\b[\w-]{1,60}(?:\.[\w-]{1,60}){1,4}/\S{0,500}"  # URLs
    r"|(?<![\w-])\+?(?!\d{4}-\d\d-\d\d)\(?\d[\d ().-]{6,40}\d",  # phone numbers
    re.IGNORECASE,
)


def one_line(value: object, limit_characters: int = TEXT_CHARACTERS) -> str:
    """Text on one line without invisible characters, truncated with an ellipsis; empty if it is not text."""
    if not isinstance(value, str):
        return ""
    text = value[: 4 * limit_characters]
    if not (text.isascii() and text.isprintable()) or "  " in text:
        text = _PILE.sub(r"\1", _INVISIBLE.sub(" ", text))
    text = text.strip()
    return text if len(text) <= limit_characters else text[: limit_characters - 1].rstrip() + "…"


def without_addresses(value: object) -> str:
    """One line of third-party text without e-mail addresses, phone numbers and URLs."""
    return _without(one_line(value))


@lru_cache(maxsize=512)
def _without(line: str) -> str:
    return _ADDRESS.sub("…", line)


def has_address(text: str) -> bool:
    """True if the text has an e-mail address, a phone number or a URL."""
    return _ADDRESS.search(text) is not None


def word(value: object) -> str:
    """A short text on one line, such as a code or an id; empty if it is not text."""
    return one_line(value, WORD_CHARACTERS)


def name(value: object) -> str:
    """A name on one line; empty if it is not text."""
    return one_line(value, NAME_CHARACTERS)


def count(value: object) -> int:
    """A number of things; 0 if it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_COUNT else 0


def data_of(document: Document) -> Document:
    """The event's data; empty if they are no object."""
    return mapping(document.get("data"))


def moment_of(value: object) -> float | None:
    """Epoch seconds of a time of RFC 3339; None if it is none."""
    try:
        return from_rfc3339(value) if isinstance(value, str) and len(value) <= 40 else None
    except ValueError:
        return None


def mapping(value: object) -> Document:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def upstream_of(data: Document, context: RenderContext) -> str:
    """The upstream's title, else the name of the source in the data."""
    source = word(data.get("source"))
    return name(context.titles.get(source)) or titled(source) or "The upstream"


def account_of(value: object, context: RenderContext) -> str:
    """The display name of an account of the relay, else its name."""
    known = name(value)
    return name(context.account_names.get(known)) or known


def zone_of(time_zone: object) -> tzinfo:
    """The time zone of an IANA name; UTC for None, and where this machine does not know it."""
    try:
        return zone_named(time_zone) if isinstance(time_zone, str) else UTC
    except ValueError:
        return UTC
