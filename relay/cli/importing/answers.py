"""Reads pasted upstream answers: JSON documents in sequence or in an array, with other text between them.

The other text (curl output, headers, log prefixes) is skipped and counted. A broken document is rejected, not skipped,
and no part of it is read as a document. Pure.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from relay.cli.importing.lines import REMARK, Entry, Fault, json_entry

# A name must follow the brace, and a value the bracket: curl prints `{ [5 bytes data]`, logs print `[2026-05-20]`.
_BEGIN = re.compile(r'\{(?=\s*["}])|^[ \t]*\[(?=\s*["{\[\]])', re.MULTILINE)
# The certain start of a document after a broken one, whose own content is indented.
_NEXT = re.compile(r'^(?:\{(?=\s*["}])|\[(?=\s*["{\[\]]))|\{(?=\s*"ok"\s*:)', re.MULTILINE)
_ENVELOPE = re.compile(r'\{\s*"(?:ok|item|request_id)"\s*:')
_BLANK = re.compile(r"[ \t\r\n]*")
_REMARKS = re.compile(f"^{REMARK.pattern}.*$", re.MULTILINE)
_AROUND = " \t\r\n,[]"

_raw_decode = json.JSONDecoder().raw_decode


class _Piece(NamedTuple):
    """A possible document or array: the spans of its documents, its end, and where it is broken, if it is.

    `is_ours` is False for other text that looks like one.
    """

    spans: list[tuple[int, int]]
    end: int
    broken_at: int | None = None
    is_ours: bool = True


def answers(text: str, skipped: Callable[[int], None]) -> Iterator[Entry]:
    """The entries of a paste. Calls `skipped` with the number of lines that contain only other text."""
    text = _REMARKS.sub(lambda found: " " * len(found[0]), text)  # the same length, so that positions stay valid
    at = reported = counted = 0
    number = 1
    while found := _BEGIN.search(text, at):
        start = found.end() - 1
        piece = _array(text, start) if text[start] == "[" else _object(text, start, at)
        at = piece.end
        if not piece.is_ours:
            continue
        skipped(_lines_of_text(text[reported:start]))
        reported = piece.end
        for first, last in piece.spans:
            number, counted = number + text.count("\n", counted, first), first
            document = text[first:last]
            # A bare text is an id only in an array: a rejected one must be readable again.
            yield json_entry(number, f"[{document}]\n" if document[0] == '"' else f"{document}\n", document)
        if piece.broken_at is not None:
            number, counted = number + text.count("\n", counted, piece.broken_at), piece.broken_at
            fault = Fault(code="not_json", detail="the JSON document that begins here is broken or cut off")
            yield Entry(line=number, text=text[piece.broken_at : piece.end].rstrip() + "\n", fault=fault)
    skipped(_lines_of_text(text[reported:]))


def _object(text: str, start: int, after: int) -> _Piece:
    """The piece that the brace at `start` begins. `after` is the end of the previous piece."""
    before = text[max(after, text.rfind("\n", after, start) + 1) : start]
    end = _document_end(text, start)
    if before.strip(_AROUND) and not _ENVELOPE.match(text, start):
        return _Piece(
            [], start + 1 if end is None else end, is_ours=False
        )  # such as a header value, or a body passed to curl
    if end is None:
        return _Piece([], _next_begin(text, start), broken_at=start)
    return _Piece([(start, end)], end)


def _array(text: str, start: int) -> _Piece:
    """The piece that the bracket at `start` begins."""
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
    return _Piece(spans, at + 1, is_ours=not is_word)  # `["INFO"] started` is not a list of ids


def _document_end(text: str, start: int) -> int | None:
    """The end of the JSON value at `start`, or None if there is none."""
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
