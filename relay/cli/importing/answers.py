"""A paste of upstream answers: JSON documents one after another or in an array, with other text between them.

What is between is passed over and counted: what curl prints, headers, the beginnings of log lines. What begins like a
document and is none is refused, not passed over, and no part of a broken document is taken for a document.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from relay.cli.importing.lines import REMARK, Entry, Fault, json_entry

# `{ [5 bytes data]` is curl's, `[2026-05-20]` a log's: a document's brace has a name behind it, an array's a value.
_BEGIN = re.compile(r'\{(?=\s*["}])|^[ \t]*\[(?=\s*["{\[\]])', re.MULTILINE)
# Where a document begins for certain although the one before is broken: what is inside that one is indented.
_NEXT = re.compile(r'^(?:\{(?=\s*["}])|\[(?=\s*["{\[\]]))|\{(?=\s*"ok"\s*:)', re.MULTILINE)
_ENVELOPE = re.compile(r'\{\s*"(?:ok|item|request_id)"\s*:')
_BLANK = re.compile(r"[ \t\r\n]*")
_REMARKS = re.compile(f"^{REMARK.pattern}.*$", re.MULTILINE)
_AROUND = " \t\r\n,[]"

_raw_decode = json.JSONDecoder().raw_decode


class _Piece(NamedTuple):
    """What begins at a place: the documents in it, where it ends, and where it is broken, if it is.

    `is_ours`: False for text that only looks like it.
    """

    spans: list[tuple[int, int]]
    end: int
    broken_at: int | None = None
    is_ours: bool = True


def answers(text: str, passed_over: Callable[[int], None]) -> Iterator[Entry]:
    """The entries of a paste; `passed_over` is told of lines that have other text only, as a number."""
    text = _REMARKS.sub(lambda found: " " * len(found[0]), text)  # as long as before, so that places stay
    at = told = counted = 0
    number = 1
    while found := _BEGIN.search(text, at):
        start = found.end() - 1
        piece = _array(text, start) if text[start] == "[" else _object(text, start, at)
        at = piece.end
        if not piece.is_ours:
            continue
        passed_over(_lines_of_text(text[told:start]))
        told = piece.end
        for first, last in piece.spans:
            number, counted = number + text.count("\n", counted, first), first
            document = text[first:last]
            # Only in an array is a text an id: what is written back has to be read as it was.
            yield json_entry(number, f"[{document}]\n" if document[0] == '"' else f"{document}\n", document)
        if piece.broken_at is not None:
            number, counted = number + text.count("\n", counted, piece.broken_at), piece.broken_at
            fault = Fault(code="not_json", detail="a JSON document begins here, and it is broken or cut off")
            yield Entry(line=number, text=text[piece.broken_at : piece.end].rstrip() + "\n", fault=fault)
    passed_over(_lines_of_text(text[told:]))


def _object(text: str, start: int, after: int) -> _Piece:
    """What the brace at `start` begins; `after` is where the piece before it ends."""
    before = text[max(after, text.rfind("\n", after, start) + 1) : start]
    end = _document_end(text, start)
    if before.strip(_AROUND) and not _ENVELOPE.match(text, start):
        return _Piece([], start + 1 if end is None else end, is_ours=False)  # a header's value, a body given to curl
    if end is None:
        return _Piece([], _next_begin(text, start), broken_at=start)
    return _Piece([(start, end)], end)


def _array(text: str, start: int) -> _Piece:
    """What the bracket at `start` begins."""
    spans: list[tuple[int, int]] = []
    at = _after_blank(text, start + 1)
    while text[at : at + 1] != "]":
        end = _document_end(text, at)
        if end is None:
            return _Piece(spans, _next_begin(text, at), broken_at=at)
        spans.append((at, end))
        at = _after_blank(text, end)
        if text[at : at + 1] == ",":
            at = _after_blank(text, at + 1)
        elif text[at : at + 1] != "]":
            return _Piece(spans, _next_begin(text, at), broken_at=at)
    rest = text[at + 1 : _line_end(text, at + 1)]
    is_word = bool(spans) and rest.strip(_AROUND) and all(text[first] == '"' for first, _ in spans)
    return _Piece(spans, at + 1, is_ours=not is_word)  # `["INFO"] started` is no list of ids


def _document_end(text: str, start: int) -> int | None:
    """Where the JSON value that begins here ends; None where there is none."""
    try:
        end: int = _raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        return None
    return end


def _next_begin(text: str, broken_at: int) -> int:
    found = _NEXT.search(text, _line_end(text, broken_at))
    return len(text) if found is None else found.end() - 1


def _after_blank(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return at if found is None else found.end()


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _lines_of_text(gap: str) -> int:
    return sum(1 for line in gap.split("\n") if line.strip(_AROUND))
