"""JSON that keeps large integers exact and tolerates lone surrogates.

orjson rejects an escaped lone surrogate (Node writes one for text cut inside an emoji), reads integers over 64 bits as
floats, and cannot write them. This module handles these cases and uses orjson alone for everything else.

It also counts and cuts the text of JSON before it is parsed, so that one large body cannot hold up the process. Strings
and structure are distinguished exactly: up to the first byte that is not JSON, the counts are those of a parser. Each
step runs at memory speed on one slice, whatever it contains.
"""

import json
import math
import re
from collections.abc import Iterator
from json import JSONDecodeError
from typing import Any, NamedTuple

import orjson

MAX_INTEGER_DIGITS = 308
"""A longer integer exceeds a double, which most receivers cannot read. It is read as text, like 1e400."""

_LONG_RUN = b"0" * 19
"""Integers over 64 bits have at least 19 digits."""
_TOO_LONG_RUN = b"0" * (MAX_INTEGER_DIGITS + 1)
"""Some integers are read as text, and some fractions are infinite."""
_SHAPE = bytes.maketrans(b"123456789[,- \t\r\nE", b"000000000:::::::e")
"""Maps digits to 0 and anything that may precede a number to a colon, to find long numbers at memory speed."""
_LONE_HIGH = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})")
_LONE_LOW = re.compile(rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u....)")
"""Lone halves of a surrogate pair, provided that no `\\u` follows an escaped backslash."""
_ESCAPED_BACKSLASH = rb"\\"
_PLACEHOLDER = b"\0\0"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()

__all__ = ["MAX_INTEGER_DIGITS", "JSONDecodeError", "dumps", "loads", "well_formed"]


def loads(body: bytes, *, repair: bool = False) -> Any:
    """Parses a JSON document. Raises JSONDecodeError.

    A lone surrogate becomes U+FFFD. A number beyond a double is read as text. `repair` is for upstream responses: bytes
    that are not UTF-8 become U+FFFD too, and a byte order mark is skipped.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        repaired = _repaired(body, repair=repair)
        if repaired is None:
            raise
        try:
            return _exactly(repaired)
        except (ValueError, RecursionError):
            raise error from None
    if not _has_long_number(body.translate(_SHAPE)):
        return value
    try:
        return _exactly(body)
    except RecursionError:
        return value


def dumps(value: Any, option: int | None = None) -> bytes:
    """Compact JSON. Raises TypeError for a value that is not JSON or is nested deeper than 254 levels."""
    try:
        return orjson.dumps(value, option=option)
    except orjson.JSONEncodeError as error:
        try:
            return orjson.dumps(_writable(value), option=option)
        except RecursionError:
            raise error from None


def well_formed(text: str) -> str:
    """The text with each lone surrogate replaced by U+FFFD, so that UTF-8 can encode it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _has_long_number(shape: bytes) -> bool:
    return _LONG_RUN in shape and (b":" + _LONG_RUN in shape or shape.startswith(_LONG_RUN))


def _repaired(body: bytes, *, repair: bool) -> bytes | None:
    """A document that orjson rejected, repaired; None if it has nothing to repair."""
    before = body
    if repair:
        body = body.removeprefix(_BYTE_ORDER_MARK).decode(errors="replace").encode()
    if (b"\\ud" in body or b"\\uD" in body) and b"\0" not in body:  # a raw NUL is not JSON
        # A body of 48 MiB may consist of such escapes: no step calls back into Python for each.
        body = body.replace(_ESCAPED_BACKSLASH, _PLACEHOLDER)
        body = _LONE_LOW.sub(_REPLACEMENT, _LONE_HIGH.sub(_REPLACEMENT, body))
        body = body.replace(_PLACEHOLDER, _ESCAPED_BACKSLASH)
    shape = body.translate(_SHAPE)
    large = _has_long_number(shape) or b"e000" in shape or b"e+000" in shape
    return body if large or body != before else None


def _exactly(body: bytes) -> Any:
    shape = body.translate(_SHAPE)
    if not _has_long_number(shape):
        try:
            return orjson.loads(body)  # it takes four times as many levels
        except orjson.JSONDecodeError:
            pass
    text = body.decode()
    if _TOO_LONG_RUN in shape or b"e0" in shape or b"e+0" in shape:
        return json.loads(text, parse_int=_integer, parse_float=_float, parse_constant=_refused)
    return json.loads(text, parse_constant=_refused)  # no number needs a call each: ten times as fast


def _integer(text: str) -> int | str:
    return int(text) if len(text.removeprefix("-")) <= MAX_INTEGER_DIGITS else text


def _float(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else text


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _writable(value: Any) -> Any:
    match value:
        case str():
            return well_formed(value)
        case bool():
            return value
        case int():
            return value if -(2**63) <= value < 2**64 else orjson.Fragment(str(value))
        case dict():
            return {_writable(name): _writable(each) for name, each in value.items()}
        case list() | tuple():
            return [_writable(each) for each in value]
        case _:
            return value


REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def decoded(raw: bytes) -> str:
    """Decodes bytes as UTF-8, or else as Latin-1. NUL becomes U+FFFD."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text.replace("\0", REPLACEMENT)


def storable(text: str) -> str:
    """Repairs text decoded by a library: decodes surrogate escapes again, turns other lone surrogates into U+FFFD."""
    if text.isascii():
        return text.replace("\0", REPLACEMENT) if "\0" in text else text
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raw = well_formed(text).encode()
    return decoded(raw)


SLICE_BYTES = 64 * 1024
"""Bytes scanned per step. A short piece has up to twice as many."""

_ESCAPED_QUOTE = b'\\"'
_WINDOW_BYTES = 512
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ROUNDS = 3
_STRUCTURE = re.compile(rb"[\[\]{},]")
_RUNS = re.compile(rb"[\[{]+|[\]}]+|,")


class Piece(NamedTuple):
    """Some whole elements of an array: its bytes from `start` to `end`, without a comma around them.

    containers  objects and lists in it
    is_long     it is one element, of more than a slice
    """

    start: int
    end: int
    containers: int
    is_long: bool


class Element(NamedTuple):
    """One element of an array: its bytes from `start` to `end`, and how many levels of objects and lists it has."""

    start: int
    end: int
    levels: int


class Unbalanced(ValueError):
    """The text is not the inside of a JSON array. `position`: where that was noticed."""

    def __init__(self, position: int) -> None:
        super().__init__("brackets or quotes do not match")
        self.position = position


def has_more_containers(body: bytes, count: int) -> bool:
    """True if a JSON document has more than `count` objects and lists. Brackets in strings are not counted."""
    return _opened(b"".join(_masked(body).split(b'"')[::2])) > count


def array_pieces(body: bytes, start: int, end: int) -> Iterator[Piece | int]:
    """Cuts the inside of an array, from `start` to `end`, between elements. Raises Unbalanced.

    Between the pieces come numbers, one for each slice: the containers found so far. A piece may be no JSON, or empty;
    elements that are not cut apart correctly then fail to parse too.
    """
    begin = at = start
    depth = containers = total = 0
    inside = is_long = False
    while at < end:
        to = _end_of_slice(body, at, min(at + SLICE_BYTES, end), end)
        parts = _masked(body[at:to]).split(b'"')
        outside = b"".join(parts[inside::2])
        opened = _opened(outside)
        before, depth = depth, depth + opened - outside.count(b"]") - outside.count(b"}")
        if depth < 0:
            raise Unbalanced(to)
        if is_long and _may_reach_top(outside, before):  # its end comes first, so that it is alone
            found = _first_comma(parts, inside, before)
            if found is not None:
                yield Piece(begin, at + found[0], containers + found[1], True)
                begin, containers, is_long = at + found[0] + 1, -found[1], False
        containers += opened
        total += opened
        inside ^= len(parts) % 2 == 0
        last = None if is_long else _last_comma(parts, inside, depth)
        if last is not None and at + last[0] >= begin:
            yield Piece(begin, at + last[0], containers - last[1], False)
            begin, containers = at + last[0] + 1, last[1]
        yield total
        is_long = begin <= at
        at = to
    if depth or inside:
        raise Unbalanced(end)
    yield Piece(begin, end, containers, is_long)


def cut_elements(text: bytes) -> list[Element]:
    """The elements of an array, from its inside. Slower than a parser, but for any nesting."""
    found: list[Element] = []
    begin = at = depth = levels = 0
    for number, part in enumerate(_masked(text).split(b'"')):
        for mark in _RUNS.finditer(part) if number % 2 == 0 else ():
            first, count = mark[0][0], mark.end() - mark.start()
            if first in b"[{":
                depth += count
                levels = max(levels, depth)
            elif first in b"]}":
                depth -= count
            elif depth == 0:
                found.append(Element(begin, at + mark.start(), levels))
                begin, levels = at + mark.end(), 0
        at += len(part) + 1
    return [*found, Element(begin, len(text), levels)]


def _end_of_slice(body: bytes, start: int, end: int, limit: int) -> int:
    """`end`, or one more where that would part a backslash from what it escapes."""
    backslashes = end - start - len(body[start:end].rstrip(b"\\"))
    return end + 1 if backslashes % 2 and end < limit else end


def _masked(text: bytes) -> bytes:
    """The text, as long as before, with a quote only where a string begins or ends."""
    return text.replace(_ESCAPED_BACKSLASH, _PLACEHOLDER).replace(_ESCAPED_QUOTE, _PLACEHOLDER)


def _opened(outside: bytes) -> int:
    return outside.count(b"[") + outside.count(b"{")


def _may_reach_top(outside: bytes, depth: int) -> bool:
    """False if the text surely stays below the array's own level: then it has no comma between elements."""
    brackets = outside.translate(None, _NO_BRACKETS)
    for _ in range(_ROUNDS):
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return brackets.count(b"]") + brackets.count(b"}") >= depth


def _first_comma(parts: list[bytes], inside: bool, depth: int) -> tuple[int, int] | None:
    """The first comma between elements: its offset, and how many containers open before it."""
    at = opened = 0
    for number, part in enumerate(parts):
        if number % 2 == inside:
            for found in _STRUCTURE.finditer(part):
                mark = found[0]
                if mark in b"[{":
                    depth, opened = depth + 1, opened + 1
                elif mark != b",":
                    depth -= 1
                elif depth == 0:
                    return at + found.start(), opened
        at += len(part) + 1
    return None


def _from_its_end(part: bytes) -> Iterator[re.Match[bytes]]:
    for end in range(len(part), 0, -_WINDOW_BYTES):
        yield from reversed(list(_STRUCTURE.finditer(part, max(end - _WINDOW_BYTES, 0), end)))


def _last_comma(parts: list[bytes], inside: bool, depth: int) -> tuple[int, int] | None:
    """The last comma between elements: its offset, and how many containers open after it. `inside` and `depth` are
    those at the end."""
    at, opened = sum(map(len, parts)) + len(parts), 0
    for number, part in enumerate(reversed(parts)):
        at -= len(part) + 1
        if number % 2 == inside:
            for found in _from_its_end(part):
                mark = found[0]
                if mark in b"[{":
                    depth, opened = depth - 1, opened + 1
                elif mark != b",":
                    depth += 1
                elif depth == 0:
                    return at + found.start(), opened
    return None
