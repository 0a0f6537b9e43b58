"""The filters of templates: those of python-liquid that are safe, safe versions of others, and our own."""

import functools
import html
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, tzinfo
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import quote_plus
from zoneinfo import ZoneInfo

from liquid import Undefined
from liquid.builtin.filters import array, math, misc, string

from relay.core.jsontext import dumps, well_formed
from relay.expressions.liquid_limits import (
    MAX_VALUE,
    TooMuch,
    Unsuitable,
    as_text,
)

_MAX_FORMAT_CHARACTERS = 100
_FIRST_YEAR = 1970


def _list(value: object) -> list[Any]:
    """An array as filters see it: python-liquid flattens it; anything else is an array of one."""
    if isinstance(value, list | tuple | range):
        return list(value)
    return [] if value is None or isinstance(value, Undefined) else [value]


def _string(value: str) -> str:
    return value


def _json(value: object) -> str:
    try:
        return dumps(None if isinstance(value, Undefined) else value).decode()
    except TypeError:
        raise Unsuitable("json: this value is not JSON, or is nested too deeply") from None


def _join(value: object, separator: object = " ") -> str:
    texts, between = [as_text(item) for item in _list(value)], as_text(separator)
    _refuse_longer(sum(map(len, texts)) + len(between) * len(texts))
    return between.join(texts)


def _replace(value: str, old: object, new: object = "") -> str:
    found, by = as_text(old), as_text(new)
    _refuse_longer(len(value) + value.count(found) * len(by))
    return value.replace(found, by)


def _refuse_longer(characters: int) -> None:
    if characters > MAX_VALUE:
        raise TooMuch(f"a value is larger than {MAX_VALUE:,} characters")


def _truncate(value: str, length: object = 50, end: object = "...") -> str:
    limit = max(int(length), 0) if isinstance(length, int | float | str) else 50
    if len(value) <= limit:
        return value
    ending = as_text(end)[:limit]
    return value[: limit - len(ending)] + ending


def _truncatewords(value: str, count: object = 15, end: object = "...") -> str:
    limit = max(int(count), 1) if isinstance(count, int | float | str) else 15
    words = value.split()
    return " ".join(words) if len(words) <= limit else " ".join(words[:limit]) + as_text(end)


def _strip_html(value: str) -> str:
    return re.sub(r"<[^<>]*>", "", value)


def _escape(value: str) -> str:
    return html.escape(value)


def _escape_once(value: str) -> str:
    return html.escape(html.unescape(value))


def _newline_to_br(value: str) -> str:
    return re.sub(r"\r?\n", "<br />\n", value)


def _strip_newlines(value: str) -> str:
    return re.sub(r"\r?\n", "", value)


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


def _concat(value: object, other: object) -> list[object]:
    return [*_list(value), *_list(other)]


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
    """The last word of a status or an event type in the words of messages, which never say “delivered”."""
    status = value.rpartition(".")[2]
    return _STATUSES.get(status, status.replace("_", " "))


_DIRECTIVE = re.compile(r"%-?.?", re.DOTALL)
DIRECTIVES = (
    *("%Y", "%y", "%m", "%-m", "%B", "%b", "%d", "%-d", "%j", "%A", "%a", "%H", "%-H", "%I", "%-I", "%M", "%S", "%f"),
    *("%p", "%Z", "%z", "%%"),
)
"""The directives that a format of `date` can use."""


def _date(value: object, format: object = "%Y-%m-%d %H:%M", zone: object = "UTC") -> str:
    """A time of an event, as RFC 3339 text or epoch seconds, in a format of strftime and a time zone. Other text stays
    as it is."""
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
    """The format, if it has only what every platform knows. `strftime` of the C library also takes widths."""
    if len(pattern) > _MAX_FORMAT_CHARACTERS or "\0" in pattern:
        raise Unsuitable(f"date: a format has at most {_MAX_FORMAT_CHARACTERS} characters")
    for directive in _DIRECTIVE.findall(pattern):
        if directive not in DIRECTIVES:
            raise Unsuitable(f"date: {directive} is not one of {' '.join(DIRECTIVES)}")
    return well_formed(pattern)


def _zone(name: str) -> tzinfo:
    try:
        return UTC if name in ("", "UTC") else ZoneInfo(name[:100])
    except (ValueError, LookupError, OSError):
        raise Unsuitable("date: the time zone is unknown. Use one like Europe/Berlin") from None


class LiquidFilter(NamedTuple):
    """A filter: its function, whether its value is taken as text, and whether its work is the square of the value."""

    function: Callable[..., object]
    text: bool = False
    squared: bool = False


_TEXT_FILTERS: Mapping[str, Callable[..., object]] = {
    "append": string.append, "base64_decode": string.base64_decode, "base64_encode": string.base64_encode,
    "base64_url_safe_decode": string.base64_url_safe_decode, "base64_url_safe_encode": string.base64_url_safe_encode,
    "capitalize": string.capitalize, "downcase": string.downcase, "escape": _escape, "escape_once": _escape_once,
    "human_status": _human_status, "lstrip": string.lstrip, "newline_to_br": _newline_to_br,
    "prepend": string.prepend, "remove": string.remove, "remove_first": string.remove_first,
    "remove_last": string.remove_last, "replace": _replace, "replace_first": string.replace_first,
    "replace_last": string.replace_last, "rstrip": string.rstrip, "split": string.split, "squish": string.squish,
    "string": _string, "strip": string.strip, "strip_html": _strip_html, "strip_newlines": _strip_newlines,
    "truncate": _truncate, "truncatewords": _truncatewords, "upcase": string.upcase, "url_decode": string.url_decode,
    "url_encode": _url_encode,
}  # fmt: skip
_VALUE_FILTERS: Mapping[str, Callable[..., object]] = {
    "abs": math.abs_, "at_least": math.at_least, "at_most": math.at_most, "ceil": math.ceil, "compact": array.compact,
    "concat": _concat, "date": _date, "default": misc.default, "divided_by": math.divided_by, "find": array.find,
    "find_index": array.find_index, "first": _first, "floor": math.floor, "has": array.has, "join": _join,
    "json": _json, "last": _last, "map": _map, "minus": math.minus, "modulo": math.modulo, "plus": math.plus,
    "reject": array.reject, "reverse": array.reverse, "round": math.round_, "size": misc.size, "slice": string.slice_,
    "sort": array.sort, "sort_natural": array.sort_natural, "sum": array.sum_, "times": math.times, "uniq": array.uniq,
    "where": array.where,
}  # fmt: skip
FILTERS: Mapping[str, LiquidFilter] = MappingProxyType(
    {name: LiquidFilter(function, text=True) for name, function in _TEXT_FILTERS.items()}
    | {name: LiquidFilter(function, squared=name == "uniq") for name, function in _VALUE_FILTERS.items()}
)
"""Filters that templates can use, by name."""
DEFAULT = FILTERS["default"]
