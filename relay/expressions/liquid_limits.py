"""The limits of templates, their errors, and values shared by filters and expressions."""

from collections.abc import Callable
from typing import NamedTuple

from relay.core.jsontext import dumps

MAX_TEMPLATE_BYTES = 32_768
"""Maximum size of a template as JSON."""
MAX_TAGS = 200
"""Maximum number of `{{ … }}` and `{% … %}` in a template."""
MAX_WORDS = 1_000
"""Maximum number of names, values and signs in all of these. Compiling that many takes python-liquid 7 ms."""
MAX_DEPTH = 20
"""Maximum nesting of arrays and objects in a template."""
MAX_BLOCKS = 10
"""Maximum nesting of tags such as `if`."""
MAX_TAG_CHARACTERS = 1_000
"""Maximum length of one `{{ … }}` or `{% … %}`. python-liquid's expressions take time in proportion to its square."""
MAX_OUTPUT = 262_144
"""Maximum length of a text, of all output of a document, and of its JSON in bytes."""
MAX_INTEGER_BITS = 1_024
"""Larger integers exceed a double, which most receivers cannot read."""
MAX_WORK = 2_000_000
"""Maximum work of a document. A unit takes about a nanosecond."""
MAX_ERRORS = 20
"""Maximum number of errors that are reported about one template."""
MAX_CACHED_BYTES = 64 * 1024 * 1024
"""Maximum memory of all compiled templates that are kept. A usual one takes 20 KB, the worst legal one 2 MB."""
SOURCE_BYTES = 30
"""Memory of a compiled template for each byte of its JSON."""
PART_BYTES = 1_000
"""Additional memory for each tag, name, value and sign."""

PART_WORK = 500
"""Work of a name, an operator or a tag, without that of its values."""
ITEM_WORK = 200
"""Work of an item of an array or an object that is read or created."""
CHARACTER_WORK = 4
"""Work of a character that is read, created or printed."""
NUMBER_WORK = 2_500
"""Additional work of an item that is a number for which `is_long` is true."""


class Absent(NamedTuple):
    """The value of an absent name. It can be tested, compared and given a default.

    name  shown in the error where using it is one; "": it is empty text
    """

    name: str


class Escape(NamedTuple):
    """Changes each value that a document reads, at a cost for each character and item."""

    change: Callable[[object], object]
    character_work: int
    item_work: int = 1_000


class Unrenderable(Exception):
    """A text cannot be rendered. The message contains no value, because a value may be personal data."""


class MissingName(Unrenderable):
    """A name is absent where that is an error."""


def is_long(number: float) -> bool:
    """True if a number is slow to print in Python: an integer of more than 64 bits, or a fraction written with an
    exponent."""
    if type(number) is int:
        return number.bit_length() > 64
    return number != 0 and not 1e-4 <= abs(number) < 1e16


def search_work(text: str, wanted: str) -> int:
    """Maximum work of searching one text for another."""
    return len(text) * min(len(wanted), 100)


def as_text(value: object) -> str:
    """A value as Liquid prints it, and objects as JSON."""
    kind = type(value)
    if kind is str:
        return value  # type: ignore[return-value]
    if value is None:
        return ""
    if kind is bool:
        return "true" if value else "false"
    if kind is list:
        return "".join([as_text(item) for item in value])  # type: ignore[attr-defined]
    return dumps(value).decode() if kind is dict else str(value)
