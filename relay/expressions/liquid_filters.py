"""The filters of templates. Each declares its maximum work, so that it can be counted before the filter runs.

Array filters pass over an array once: there is no sorting, and none compares items with each other.
"""

import base64
import difflib
import functools
import html
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import quote_plus, unquote_plus
from zoneinfo import ZoneInfo

from liquid.builtin.filters import math, string

from relay.core.jsontext import dumps, well_formed
from relay.expressions.liquid_limits import MAX_OUTPUT, Absent, Unrenderable, as_text

_MAX_FORMAT_CHARACTERS = 100
_FIRST_YEAR = 1970
_NEAR = 0.6


def _list(value: object) -> list[Any]:
    """An array as filters see it: any other value is an array of one."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _json(value: object) -> str:
    try:
        return dumps(value).decode()
    except TypeError:
        raise Unrenderable("json: this value is not JSON, or is nested too deeply") from None


def _join(value: object, separator: object = " ") -> str:
    texts, between = [as_text(item) for item in _list(value)], as_text(separator)
    _refuse_longer(sum(map(len, texts)) + len(between) * len(texts))
    return between.join(texts)


def _replace(value: str, old: object, new: object = "") -> str:
    found, by = as_text(old), as_text(new)
    _refuse_longer(len(value) + value.count(found) * len(by))
    return value.replace(found, by)


def _refuse_longer(characters: int) -> None:
    if characters > MAX_OUTPUT:
        raise Unrenderable(f"a text is longer than {MAX_OUTPUT:,} characters")


def _split(value: str, separator: object) -> list[str]:
    between = as_text(separator)
    if not between or not value:
        return list(value)
    return [] if value == between else value.split(None if between == " " else between)


def _truncate(value: str, length: object = 50, end: object = "...") -> str:
    limit = max(int(length), 0) if isinstance(length, int | float | str) else 50
    if len(value) <= limit:
        return value
    ending = as_text(end)[:limit]
    return value[: limit - len(ending)] + ending


def _slice(value: object, start: object, length: object = 1) -> object:
    if isinstance(value, list):
        raise Unrenderable("slice takes text: an array has first, last and join")
    return string.slice_(as_text(value), start, length)


def _url_encode(value: str) -> str:
    return quote_plus(well_formed(value))


def _map(value: object, name: object) -> list[object]:
    return [one.get(as_text(name)) if isinstance(one, dict) else None for one in _list(value)]


def _first(value: object) -> object:
    items = _list(value)
    return items[0] if items else None


def _last(value: object) -> object:
    items = _list(value)
    return items[-1] if items else None


def _size(value: object) -> int:
    return len(value) if isinstance(value, str | list | dict) else 0


def _default(value: object, other: object = "", *, allow_false: bool = False) -> object:
    is_empty = value is None or isinstance(value, Absent) or value in ("", [], {})
    return other if is_empty or (value is False and not allow_false) else value


_STATUSES: Mapping[str, str] = MappingProxyType(
    {
        "succeeded": "accepted",
        "skipped": "nothing to do",
        "retrying": "will be tried again",
        "not_found": "not found",
        "status_unknown": "unknown",
    }
)


def _human_status(value: str) -> str:
    """The last word of a status or an event type, in the words of messages, which never say “delivered”."""
    status = value.rpartition(".")[2]
    return _STATUSES.get(status, status.replace("_", " "))


_DIRECTIVE = re.compile(r"%-?.?", re.DOTALL)
DIRECTIVES = (
    *("%Y", "%y", "%m", "%-m", "%B", "%b", "%d", "%-d", "%j", "%A", "%a", "%H", "%-H", "%I", "%-I", "%M", "%S", "%f"),
    *("%p", "%Z", "%z", "%%"),
)
"""The directives that a format of `date` can use."""


def _date(value: object, format: object = "%Y-%m-%d %H:%M", zone: object = "UTC") -> str:
    """Formats a time of an event, given as RFC 3339 text or epoch seconds, with a strftime format and a time zone.
    Other text is returned unchanged."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return as_text(value)
    where = UTC if zone == "UTC" else _zone(as_text(zone))
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else datetime.fromtimestamp(value, UTC)
        moment = moment if moment.tzinfo is None else moment.astimezone(where)
    except (ValueError, OverflowError, OSError):
        return as_text(value)
    if moment.tzinfo is None or moment.year < _FIRST_YEAR:
        return as_text(value)
    return moment.strftime(_checked_format(as_text(format)))


@functools.lru_cache(maxsize=64)
def _checked_format(pattern: str) -> str:
    """The format, if all its directives exist on every platform. `strftime` of the C library also takes widths."""
    if len(pattern) > _MAX_FORMAT_CHARACTERS or "\0" in pattern:
        raise Unrenderable(f"date: a format has at most {_MAX_FORMAT_CHARACTERS} characters")
    for directive in _DIRECTIVE.findall(pattern):
        if directive not in DIRECTIVES:
            raise Unrenderable(f"date: {directive} is not one of {' '.join(DIRECTIVES)}")
    return well_formed(pattern)


@functools.lru_cache(maxsize=1024)
def _zone(name: str) -> tzinfo:
    try:
        return UTC if name in ("", "UTC") else ZoneInfo(name[:100])
    except (ValueError, LookupError, OSError):
        raise Unrenderable("date: the time zone is unknown. Use one like Europe/Berlin") from None


class LiquidFilter(NamedTuple):
    """A filter.

    function       takes the value and the arguments
    takes_text     the value is given as text
    takes_absent   it handles absent names: they are no error
    searches       searches the value for its first argument
    work           its fixed work
    work_per_item  additional work for each item or character of the value
    """

    function: Callable[..., Any]
    takes_text: bool = False
    takes_absent: bool = False
    searches: bool = False
    work: int = 1_000
    work_per_item: int = 100


def _of_text(function: Callable[..., str | list[str]], work: int = 20, *, searches: bool = False) -> LiquidFilter:
    return LiquidFilter(function, takes_text=True, searches=searches, work_per_item=work)


def _of_number(function: Callable[..., object]) -> LiquidFilter:
    return LiquidFilter(function, work=5_000)


FILTERS: Mapping[str, LiquidFilter] = MappingProxyType(
    {
        "append": _of_text(lambda value, other: value + as_text(other)),
        "base64_encode": _of_text(lambda value: base64.b64encode(value.encode()).decode()),
        "capitalize": _of_text(str.capitalize),
        "downcase": _of_text(str.lower),
        "escape": _of_text(lambda value: html.escape(value)),
        "human_status": _of_text(_human_status),
        "lstrip": _of_text(lambda value: value.lstrip()),
        "prepend": _of_text(lambda value, other: as_text(other) + value),
        "remove": _of_text(lambda value, other: value.replace(as_text(other), ""), searches=True),
        "remove_first": _of_text(lambda value, other: value.replace(as_text(other), "", 1), searches=True),
        "replace": _of_text(_replace, searches=True),
        "replace_first": _of_text(
            lambda value, old, new="": value.replace(as_text(old), as_text(new), 1), searches=True
        ),
        "rstrip": _of_text(lambda value: value.rstrip()),
        "split": _of_text(_split, 50, searches=True),
        "squish": _of_text(lambda value: " ".join(value.split())),
        "string": _of_text(lambda value: value),
        "strip": _of_text(lambda value: value.strip()),
        "strip_html": _of_text(lambda value: re.sub(r"<[^<>]*>", "", value), 40),
        "truncate": _of_text(_truncate),
        "upcase": _of_text(str.upper, 50),
        "url_decode": _of_text(lambda value: unquote_plus(value), 400),
        "url_encode": _of_text(_url_encode, 170),
        "abs": _of_number(math.abs_),
        "at_least": _of_number(math.at_least),
        "at_most": _of_number(math.at_most),
        "ceil": _of_number(math.ceil),
        "divided_by": _of_number(math.divided_by),
        "floor": _of_number(math.floor),
        "minus": _of_number(math.minus),
        "modulo": _of_number(math.modulo),
        "plus": _of_number(math.plus),
        "round": _of_number(math.round_),
        "times": _of_number(math.times),
        "date": LiquidFilter(_date, work=40_000),
        "default": LiquidFilter(_default, takes_absent=True, work_per_item=0),
        "first": LiquidFilter(_first, work_per_item=0),
        "join": LiquidFilter(_join),
        "json": LiquidFilter(_json, work_per_item=20),
        "last": LiquidFilter(_last, work_per_item=0),
        "map": LiquidFilter(_map),
        "size": LiquidFilter(_size, work_per_item=0),
        "slice": LiquidFilter(_slice, work_per_item=4),
    }
)
"""Filters that templates can use, by name."""


def suggestion(name: str, known: Sequence[str]) -> str:
    """`: did you mean x?` with the nearest known name, else the list of names."""
    near = difflib.get_close_matches(name[:100], known, n=1, cutoff=_NEAR)
    return f": did you mean {near[0]}?" if near else f": there are {', '.join(known)}"
