"""Comparisons: a place in an event, and its expected value. Filters consist of them.

A comparison never raises, whatever the event is, and searches at most MAX_SEARCHED characters of a text. An event is
parsed once, and each distinct comparison is evaluated once for it, however many subscriptions have it.
docs/reference/filters.md defines the comparison of each dialect.
"""

import operator
import re
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

from relay.core.events.event import canonical
from relay.core.jsontext import dumps, loads

NO_ATTRIBUTES = ("data", "data_base64")
"""The members of an event that are not attributes."""
MAX_SEARCHED = 4_096
"""Maximum characters that `contains` searches, from the beginning of a text."""
BOUNDS: Mapping[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
"""The bounds of a range."""
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)

Path = tuple[str, ...]
"""A place in an event: the segments of a JSON pointer. A single segment that is not in NO_ATTRIBUTES is an attribute's
name."""


class Reading:
    """The content of a place in an event, prepared for comparisons.

    value    None: nothing, or null
    text     the value if it is a text; an attribute's value always as text
    keys     of the value, if it is a scalar, and of `text`: see `key_of`
    members  the keys of the scalars in a list
    """

    __slots__ = ("_keys", "_members", "text", "value")

    def __init__(self, value: Any, keys: tuple[str, ...] | None = None, *, is_attribute: bool = False) -> None:
        self.value = value
        self.text = value if isinstance(value, str) else None
        if is_attribute and isinstance(value, bool | int | float):
            self.text = canonical(value)
        self._keys = keys
        self._members: frozenset[str] | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        if self._keys is None:
            key = key_of(self.value)
            self._keys = (key,) if self.text is None or self.text is self.value else (key, key_of(self.text))
        return self._keys

    @property
    def members(self) -> frozenset[str]:
        if self._members is None:
            self._members = frozenset(map(key_of, self.value if isinstance(self.value, list) else ()))
        return self._members


MISSING = Reading(None, ())


class Comparison(NamedTuple):
    """A comparison. `key`: equal for equal comparisons; `holds`: True if the content of the place is as expected."""

    key: str
    path: Path
    holds: Callable[[Reading], bool]


class EventView:
    """An event prepared for comparisons. `results`: of the comparisons so far, by their keys."""

    __slots__ = ("_body", "_document", "_readings", "_results")

    def __init__(self, body: bytes, results: dict[str, bool] | None = None) -> None:
        self._body = body
        self._document: Any = None
        self._readings: dict[Path, Reading] = {}
        self._results: dict[str, bool] = {} if results is None else results

    def holds(self, one: Comparison) -> bool:
        """True if the comparison holds for the event."""
        known = self._results.get(one.key)
        if known is None:
            known = self._results[one.key] = one.holds(self.reading(one.path))
        return known

    def reading(self, path: Path) -> Reading:
        """The content of a place."""
        found = self._readings.get(path)
        if found is None:
            if self._document is None:
                self._document = loads(self._body)
            found = self._readings[path] = _read(self._document, path)
        return found


def key_of(value: object) -> str:
    """A key that is equal for equal scalars: for 42 and 42.0, but not for 42 and "42", nor 1 and true. A text, because
    a sender could choose numbers with colliding hashes to slow down a dictionary. Objects and lists equal no scalar."""
    if isinstance(value, str):
        return f'"{value}'
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value) if isinstance(value, int) else ""


def comparison(dialect: str, path: Path, operand: Any) -> Comparison:
    """The comparison of a dialect, from a checked path and operand."""
    expected: Any = operand
    holds: Callable[[Reading], bool]
    match dialect:
        case "exact":
            expected = key_of(operand)
            holds = partial(_is, expected)
        case "in":
            expected = sorted({key_of(one) for one in operand})
            holds = partial(_is_one_of, frozenset(expected))
        case "prefix":
            holds = partial(_begins, operand)
        case "suffix":
            holds = partial(_ends, operand)
        case "contains":
            expected = key_of(operand)
            holds = partial(_contains, expected, searcher(operand) if isinstance(operand, str) else None)
        case "range":
            expected = [(name, key_of(operand[name])) for name in sorted(operand)]
            holds = partial(_is_within, tuple((BOUNDS[name], operand[name]) for name in operand))
        case _:
            holds = partial(_exists, operand)
    return Comparison(dumps([dialect, path, expected]).decode(), path, holds)


@lru_cache(maxsize=10_000)
def searcher(text: str) -> Callable[[str, int, int], object]:
    """Returns a function that searches another text for this one, between two indexes. A regular expression without
    operators takes time in proportion to the searched text; `in` takes the product of both lengths for some texts."""
    return re.compile(re.escape(text)).search


def _read(document: Any, path: Path) -> Reading:
    value = document
    for segment in path:
        if isinstance(value, dict) and segment in value:
            value = value[segment]
        elif isinstance(value, list) and _INDEX.fullmatch(segment) and int(segment) < len(value):
            value = value[int(segment)]
        else:
            return MISSING
    return Reading(value, is_attribute=len(path) == 1 and path[0] not in NO_ATTRIBUTES)


def _is(key: str, found: Reading) -> bool:
    return key in found.keys


def _is_one_of(keys: frozenset[str], found: Reading) -> bool:
    return not keys.isdisjoint(found.keys)


def _begins(text: str, found: Reading) -> bool:
    return found.text is not None and found.text.startswith(text)


def _ends(text: str, found: Reading) -> bool:
    return found.text is not None and found.text.endswith(text)


def _contains(key: str, search: Callable[[str, int, int], object] | None, found: Reading) -> bool:
    if found.text is None or search is None:
        return key in found.members
    return search(found.text, 0, MAX_SEARCHED) is not None


def _is_within(bounds: tuple[tuple[Callable[[Any, Any], bool], Any], ...], found: Reading) -> bool:
    value = found.value
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return all(compare(value, bound) for compare, bound in bounds)


def _exists(wanted: bool, found: Reading) -> bool:
    return (found.value is not None) is wanted
