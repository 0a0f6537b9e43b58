"""How much a template may use, and the errors that say so."""

from liquid.exceptions import (
    FilterArgumentError,
    ResourceLimitError,
)

from relay.core.jsontext import dumps

MAX_TEMPLATE_BYTES = 32_768
"""Maximum size of a template as JSON."""
MAX_TEXTS = 500
"""Maximum number of texts with Liquid in a template."""
MAX_DEPTH = 20
"""Maximum nesting of arrays and objects in a template."""
MAX_BLOCKS = 10
"""Maximum nesting of tags such as `if` and `for`."""
MAX_TAG_CHARACTERS = 1_000
"""Maximum length of one `{{ … }}` or `{% … %}`. python-liquid's expressions take the square of it."""
MAX_ITERATIONS = 5_000
"""Maximum iterations of all loops in a document, and maximum length of a range."""
MAX_VALUE = 262_144
"""Maximum size of one value: characters of its texts, and ITEM_SIZE for each item."""
MAX_LOCALS = 1_048_576
"""Maximum size of the variables that one text assigns."""
MAX_OUTPUT = 262_144
"""Maximum size of all output of a document, that of `capture` included, and maximum bytes of its JSON."""
MAX_INTEGER_BITS = 1_024
"""Larger integers exceed a double, which most receivers cannot read."""
MAX_WORK = 50_000
"""Maximum work of a document, in units of about a microsecond."""
LOOK_AFTER_WORK = 5_000
"""Documents below this work never read the clock."""
MAX_SECONDS = 1.0
"""Maximum CPU time of a document. MAX_WORK ensures it; this limit is for work that is not counted."""
MAX_ERRORS = 20
"""Maximum number of errors that are reported about one template."""
MAX_CACHED_BYTES = 1_048_576
"""Maximum size of the compiled templates that are kept, as JSON. They take up to 75 times as much memory."""

ITEM_SIZE = 16
SOURCE_PER_UNIT = 8
"""Characters of a block's source that count as one unit of work, each time it is rendered."""
SIZE_PER_UNIT = 64
"""Size of a filter's operands that counts as one unit of work."""


class TooSlow(Exception):
    """A document took more CPU time than MAX_SECONDS."""


class TooMuch(ResourceLimitError):
    """A document exceeds one of our limits."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem, token=None)


class Unsuitable(FilterArgumentError):
    """A filter cannot take a value. The message says so without the value, which may say something about a person."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem, token=None)


SCALARS = frozenset((str, int, float, bool, type(None)))


def size_of(value: object) -> int:
    """Approximate size: characters of all texts, and ITEM_SIZE for each item. What occurs twice counts twice."""
    kind = type(value)
    if kind is str:
        return len(value)  # type: ignore[arg-type]
    if kind in SCALARS:
        return ITEM_SIZE
    if kind is list or kind is tuple:
        total = 0
        for item in value:  # type: ignore[attr-defined]
            total += ITEM_SIZE + size_of(item)
            if total > MAX_LOCALS:
                break
        return total
    if isinstance(value, dict):
        return sum(ITEM_SIZE + len(name) + size_of(item) for name, item in value.items())
    return ITEM_SIZE


def as_text(value: object) -> str:
    """A value as Liquid prints it, and objects as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return "".join([as_text(item) for item in value])
    if isinstance(value, dict):
        return dumps(value).decode()
    if isinstance(value, range):
        return f"{value.start}..{value.stop - 1}"
    return str(value)
