"""Counts and cuts the text of JSON before it is parsed, so that one large body cannot hold up the process.

Strings and structure are distinguished exactly: up to the first byte that is not JSON, the counts are those of a
parser. Each step runs at memory speed on one slice, whatever it contains.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

SLICE_BYTES = 64 * 1024
"""Bytes scanned per step. A short piece has up to twice as many."""

_ESCAPED_BACKSLASH = b"\\\\"
_ESCAPED_QUOTE = b'\\"'
_MASK = b"\0\0"
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
    return text.replace(_ESCAPED_BACKSLASH, _MASK).replace(_ESCAPED_QUOTE, _MASK)


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
