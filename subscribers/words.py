"""Text for people, made from text of others: on one line, without invisible characters, addresses and markup.

Each chat kind escapes the result for its own markup.
"""

import re
from collections.abc import Mapping
from typing import Any

from relay.core.sentences import titled
from subscribers.base import RenderContext

Document = Mapping[str, Any]
Pairs = tuple[tuple[str, str], ...]
"""Labels with their texts."""

NAME_CHARACTERS = 80
TEXT_CHARACTERS = 500
WORD_CHARACTERS = 60
DEFAULT_ACCOUNT = "default"
_MAX_COUNT = 10**12

# Control characters, direction marks and invisible characters.
_INVISIBLE = re.compile(
    "[\x00-\x20\x7f-\xa0\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff\ud800-\udfff"
    "\U000e0000-\U000e0fff]+"
)
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
    text = _INVISIBLE.sub(" ", value[: 4 * limit_characters]).strip()
    return text if len(text) <= limit_characters else text[: limit_characters - 1].rstrip() + "…"


def without_addresses(value: object) -> str:
    """One line of third-party text without e-mail addresses, phone numbers and URLs."""
    return _ADDRESS.sub("…", one_line(value))


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


def mapping(value: object) -> Document:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def upstream_of(data: Document) -> str:
    """The upstream's name, from the source in the data."""
    return titled(word(data.get("source"))) or "The upstream"


def account_of(value: object, context: RenderContext) -> str:
    """The display name of an account of the relay, else its name."""
    known = name(value)
    return name(context.account_names.get(known)) or known


def command(text: str, id: object) -> str:
    """A command with an id; empty without one."""
    shown = word(id)
    return f"{text} {shown}" if shown else ""
