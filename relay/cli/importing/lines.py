"""Reads CSV and JSON lines for `relay jobs import`, one entry at a time. Pure: text in, registrations out.

Bytes that are not UTF-8 arrive as lone surrogates, so that a rejected entry can be written back unchanged.
"""

import csv
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

from relay.api.limits import parse_json
from relay.cli.importing.header import METADATA, Header, header_of
from relay.errors import InvalidRequest

Format = Literal["csv", "jsonl", "answers"]

MAX_LINE_BYTES = 1 << 20
MAX_RECORD_LINES = 1_000
BESIDE_AN_ITEM = frozenset(
    {"source", "account", "callback_url", "callback_types", "metadata", "group", "deadline_seconds"}
)
# Comments in a file of rejected entries, skipped when it is read again. A plain `#` could be the start of an id.
REMARK = re.compile(r"# (?:line [0-9]+|format): ")

_FORMAT = re.compile(r"# format: (csv|jsonl|answers)\s*$", re.MULTILINE)
_ENVELOPE = re.compile(r'\{\s*"(?:ok|item|request_id)"\s*:')


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why an entry cannot be registered: a code for programs, a sentence for people."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of the input: either the `body` to register, or the `fault`.

    `line` is its first line, counted from 1. `text` is its original text, `head` the header line that it needs, and
    `id` the job id if there is one.
    """

    line: int
    text: str
    head: str = ""
    id: str | None = None
    body: dict[str, Any] | None = None
    fault: Fault | None = None


class Line(NamedTuple):
    """A line including its line end. `is_cut`: only the beginning of a line longer than MAX_LINE_BYTES."""

    number: int
    text: str
    is_cut: bool = False


def infer(head: str, usual: Format | None = None) -> Format:
    """The format of an input with this beginning. `usual` is the format of its file name.

    Raises UsageError for a CSV with an unknown column.
    """
    if stated := _FORMAT.match(head):
        return cast(Format, stated[1])
    if usual is not None:
        return usual
    lines = [line for line in head.split("\n") if line.strip() and not REMARK.match(line)]
    if not lines:
        return "csv"
    first = lines[0].strip()
    if first.startswith("["):
        return "answers"
    if first.startswith("{"):
        others = (line.rstrip() for line in lines[1:])
        each_line = isinstance(_json(first), dict) and all(line[0] in '{"' and line != "{" for line in others)
        return "jsonl" if each_line else "answers"
    if first.startswith('"') and isinstance(_json(first), str) and header_of(first) is None:
        return "jsonl"
    return "answers" if header_of(first) is None and _ENVELOPE.search(head) else "csv"


def json_lines(lines: Iterator[Line]) -> Iterator[Entry]:
    """One JSON value per line. Skips empty lines."""
    for line in lines:
        if line.text.strip() and not REMARK.match(line.text):
            yield json_entry(line.number, line.text, line.text, is_cut=line.is_cut)


def json_entry(number: int, text: str, document: str, *, is_cut: bool = False) -> Entry:
    """The entry for one JSON document: a registration, an upstream answer, its item, or an id."""
    value = _text_fault(text, is_cut=is_cut) or _json(document)
    found = _registration(value)
    if isinstance(found, Fault):
        return Entry(line=number, text=text, id=_id_of(value), fault=found)
    return Entry(line=number, text=text, id=_id_of(value), body=found)


def _registration(value: Any) -> dict[str, Any] | Fault:
    if isinstance(value, Fault):
        return value
    if isinstance(value, str):
        return {"id": value}
    if not isinstance(value, dict):
        return Fault(code="wrong_type", detail="expected a job, an upstream answer or an id in quotes")
    if "id" not in value and value.get("ok") is False:
        error = value.get("error")
        why = error.get("code") if isinstance(error, dict) else error
        return Fault(code="invalid_answer", detail=f"the upstream refused this request ({why}), so it has no job")
    if "id" not in value and "item" not in value:
        return Fault(code="no_job", detail="no job: neither an id nor an item")
    return {"ok": True, "item": value} if _is_item(value) else value


def _is_item(value: dict[str, Any]) -> bool:
    """True for the item of an answer, as from `jq .item`. False for the relay's own jobs (`uid`), whose source and
    account must be kept."""
    is_like_one = isinstance(value.get("id"), str) and isinstance(value.get("status"), str)
    return is_like_one and "uid" not in value and not value.keys() & BESIDE_AN_ITEM


def _id_of(value: Any) -> str | None:
    if isinstance(value, dict):
        item = value.get("item")
        value = value.get("id", item.get("id") if isinstance(item, dict) else None)
    return value if isinstance(value, str) else None


def csv_rows(lines: Iterator[Line]) -> Iterator[Entry]:
    """The rows of a CSV with a header, or of a plain list of ids.

    Raises UsageError if the first line is neither a header nor an id.
    """
    feed = _Feed(lines)
    first = feed.peek()
    if first is None:
        return
    header = header_of(first.text)
    head = ""
    if header is None:
        header = Header.of_plain_ids(first.text)
    else:
        head = first.text
        feed.skip()
    for record in _records(feed, header.delimiter):
        number, text = record.taken[0].number, "".join(line.text for line in record.taken)
        fault = record.fault or _text_fault(text, is_cut=any(line.is_cut for line in record.taken))
        row = fault or _row(header, record.cells)
        id = "".join(record.cells[header.id_at : header.id_at + 1]).strip().encode("utf-8", "replace").decode() or None
        if isinstance(row, Fault):
            yield Entry(line=number, text=text, head=head, id=id, fault=row)
        elif row is not None:
            yield Entry(line=number, text=text, head=head, id=id, body=row)


class _Feed:
    """Feeds lines to a csv.reader. Keeps the lines of the current record, so that they can be read again."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self._again: deque[Line] = deque()
        self.taken: list[Line] = []

    def __iter__(self) -> "_Feed":
        return self

    def __next__(self) -> str:
        if len(self.taken) == MAX_RECORD_LINES:
            raise csv.Error("unexpected end of data")
        line = self._next()
        while not self.taken and REMARK.match(line.text):
            line = self._next()
        self.taken.append(line)
        return line.text

    def _next(self) -> Line:
        return self._again.popleft() if self._again else next(self._lines)

    def peek(self) -> Line | None:
        """The first line that is not empty or a comment, without consuming it. None if there is none."""
        for line in self._lines:
            if line.text.strip() and not REMARK.match(line.text):
                self._again.append(line)
                return line
        return None

    def skip(self) -> None:
        """Consumes the line that `peek` returned."""
        self._again.popleft()

    def give_back(self) -> None:
        """Returns all lines of the record except the first, so that an unclosed quote does not swallow them."""
        self._again.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]


class _Record(NamedTuple):
    taken: list[Line]
    cells: list[str]
    fault: Fault | None


def _records(feed: _Feed, delimiter: str) -> Iterator[_Record]:
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    while True:
        feed.taken = []
        fault, cells = None, list[str]()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            feed.give_back()
            fault = Fault(code="not_csv", detail=_csv_detail(str(error)))
        yield _Record(feed.taken, cells, fault)


def _csv_detail(why: str) -> str:
    if "unexpected end" in why or "expected after" in why:
        return "invalid CSV: a quote is not closed, or not doubled inside a cell"
    return "invalid CSV: it contains a carriage return" if "new-line" in why else f"invalid CSV: {why}"


def _row(header: Header, cells: list[str]) -> dict[str, Any] | Fault | None:
    """The registration in a row, or None if all cells are empty."""
    if not any(cell.strip() for cell in cells):
        return None
    if len(cells) > len(header.names):
        return Fault(code="too_long", detail=f"{len(cells)} cells, but only {len(header.names)} columns")
    body: dict[str, Any] = {}
    named: dict[str, str] = {}
    for name, cell in zip(header.names, cells, strict=False):
        if name.startswith(METADATA):
            if cell:
                named[name.removeprefix(METADATA)] = cell
            continue
        value = _cell(name, cell.strip())
        if isinstance(value, Fault):
            return value
        if value is not None:
            body[name] = value
    if named:
        body["metadata"] = {**body.get("metadata", {}), **named}
    return body if "id" in body else Fault(code="missing", detail="id: missing")


def _cell(name: str, text: str) -> Any:
    """The value of a cell, None if it is empty, or a Fault if it is invalid."""
    if name == "callback_types":
        return [word for word in re.split(r"[\s,;]+", text) if word] or None
    if not text or name not in ("metadata", "deadline_seconds"):
        return text or None
    value = _json(text)
    if name == "metadata":
        detail = 'metadata: expected a JSON object such as {"deal": 42}'
        return value if isinstance(value, dict) else Fault(code="wrong_type", detail=detail)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    detail = f"deadline_seconds: expected a number, not {text[:60]!r}"
    return value if is_number else Fault(code="wrong_type", detail=detail)


def _text_fault(text: str, *, is_cut: bool) -> Fault | None:
    if is_cut:
        return Fault(code="too_large", detail=f"the line is longer than {MAX_LINE_BYTES:,} bytes")
    try:
        text.encode()
    except UnicodeEncodeError:
        return Fault(code="not_utf8", detail="not UTF-8")
    return None


def _json(text: str) -> Any:
    """The JSON value of a text, or a Fault if the relay would not accept it."""
    try:
        return parse_json(text.encode("utf-8", "surrogateescape"))
    except InvalidRequest as error:
        return Fault(code=error.code, detail=str(error).replace("the body", "it", 1))
