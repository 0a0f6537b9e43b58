"""`relay jobs import`: registers the jobs of a file or a pipe in batches, and reports the lines that cannot be.

The input is read line by line: memory does not grow with it. Registering a job again changes nothing, so an import that
stopped is run again from its start.
"""

import csv
import difflib
import io
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from relay.api.http.limits import parse_json
from relay.cli.client import Api, ApiError, Unreachable, not_a_relay
from relay.cli.output import clean, note, print_json, say
from relay.core.deliveries.retry import parse_retry_after
from relay.errors import InvalidRequest, RelayError, UsageError

MAX_LINE_BYTES = 1 << 20
MAX_RECORD_LINES = 100
"""Lines of one CSV row: a cell in quotes may have line ends."""
MAX_LISTED = 10_000
"""Rejected lines in the answer of `--json`. All are on stderr."""
MAX_REASON_CHARACTERS = 500
BATCH_ENTRIES = 2_000
BATCH_BYTES = 800_000
PATH = "/v1/jobs/batch"
ANSWER_SECONDS = 120.0
PATIENCE_SECONDS = 120.0
FIRST_PAUSE_SECONDS = 0.5
LAST_PAUSE_SECONDS = 15.0
CAUSED_BY_AN_ENTRY = frozenset({400, 413, 422})
"""Answers after which a batch is halved: one entry that the relay cannot read does not block the others."""
COLUMNS = (
    *("id", "source", "account", "resource", "callback_url", "callback_types", "metadata", "group", "priority"),
    *("deadline_seconds", "status_url"),
)
METADATA = "metadata."

_NO_ID = re.compile(r'[\s"{}\[\],;]')
_LIKE_A_NAME = re.compile(r"(?:(?:jobs?|external|upstream)[ _-]?|[a-z]+[ _-])?ids?|uu?ids?|jobs?", re.IGNORECASE)
_BOM = b"\xef\xbb\xbf"

Body = Mapping[str, Any]


class Fault(NamedTuple):
    """The reason why a line cannot be registered: a code for programs, a sentence for people."""

    code: str
    detail: str


class Entry(NamedTuple):
    """A job of the input by its first line, counted from 1: the registration, or the fault."""

    line: int
    id: str | None
    found: dict[str, Any] | Fault
    bytes: int = 0


class _Line(NamedTuple):
    number: int
    text: str
    fault: Fault | None = None


class ImportStopped(RelayError):
    """The import ended early. Finished batches stay registered."""

    code = "import_stopped"
    exit_code = 1


class Input:
    """The input, read once. `bytes_read`: of the entries so far."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream, self._name = stream, name
        self.bytes_read = 0

    def entries(self) -> Iterator[Entry]:
        """All jobs, in the format that the first line shows. Raises UsageError for one that shows none."""
        lines = self._lines()
        first = next((line for line in lines if line.fault or line.text.strip()), None)
        if first is None:
            return iter(())
        again = _chained(first, lines)
        text = first.text.strip()
        if text.startswith("{"):
            return map(_json_entry, again)
        if first.fault is not None:
            raise UsageError(
                f"{self._name}: line {first.number} {first.fault.detail}. Save a spreadsheet as CSV (UTF-8)"
            )
        for delimiter in ",;\t":
            names = [_column(cell) for cell in _cells(first.text, delimiter)]
            if "id" in names:
                _check(names)
                return _csv_entries(lines, names, delimiter)
        if text.startswith('"'):
            return map(_json_entry, again)
        if text.startswith("["):
            raise UsageError(f"{self._name} is a JSON array. Write one job a line, such as with: jq -c '.[]'")
        if re.search("[,;\t]", text):
            raise UsageError("the first line of the CSV has no column `id`. It must name the columns")
        if _LIKE_A_NAME.fullmatch(text):
            raise UsageError(f"the first line is {text[:40]!r}, which is not an id. Name the column `id`")
        return map(_id_entry, again)

    def _lines(self) -> Iterator[_Line]:
        number = 0
        while raw := self._read(MAX_LINE_BYTES + 1):
            number += 1
            raw = raw.removeprefix(_BOM) if number == 1 else raw
            fault, rest = None, raw
            if len(raw) > MAX_LINE_BYTES:
                fault = Fault("too_large", f"is longer than {MAX_LINE_BYTES:,} bytes")
                while rest and not rest.endswith(b"\n"):
                    rest = self._read(MAX_LINE_BYTES)
            elif b"\0" in raw:
                fault = Fault("not_utf8", "is not UTF-8 text")
            text = raw.decode("utf-8", "replace")
            if fault is None and "\ufffd" in text and text.encode() != raw:
                fault = Fault("not_utf8", "is not UTF-8 text")
            yield _Line(number, text, fault)

    def _read(self, limit: int) -> bytes:
        try:
            raw = self._stream.readline(limit)
        except OSError as error:
            raise UsageError(f"cannot continue to read {self._name}: {error.strerror}") from error
        self.bytes_read += len(raw)
        return raw


def _chained(first: _Line, lines: Iterator[_Line]) -> Iterator[_Line]:
    yield first
    yield from (line for line in lines if line.fault or line.text.strip())


def _entry(line: _Line, found: dict[str, Any] | Fault, id: Any = None) -> Entry:
    return Entry(line.number, id if isinstance(id, str) else None, line.fault or found, len(line.text))


def _id_entry(line: _Line) -> Entry:
    id = line.text.strip()
    fault = Fault("not_an_id", "is not one id. Other formats: CSV with a header, or JSON lines")
    return _entry(line, fault if _NO_ID.search(id) else {"id": id}, id[:100])


def _json_entry(line: _Line) -> Entry:
    """A registration, an answer of the upstream, or an id in quotes."""
    value = line.fault or _json(line.text)
    if isinstance(value, Fault):
        return _entry(line, value)
    if isinstance(value, str):
        return _entry(line, {"id": value}, value)
    if not isinstance(value, dict):
        return _entry(line, Fault("wrong_type", "expected a job, an upstream's answer or an id in quotes"))
    item = value.get("item")
    return _entry(line, value, value.get("id", item.get("id") if isinstance(item, dict) else None))


def _json(text: str) -> Any:
    """The JSON value of a text, or a Fault if the relay would not accept it."""
    try:
        return parse_json(text.encode())
    except InvalidRequest as error:
        return Fault(error.code, str(error).replace("the body", "it", 1))


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return []


def _column(cell: str) -> str:
    """The name of a column. Case counts only in the NAME of `metadata.NAME`."""
    name = cell.strip()
    if name.lower().startswith(METADATA):
        return METADATA + name[len(METADATA) :]
    return name.lower() if name.lower() in COLUMNS else name


def _check(names: Sequence[str]) -> None:
    for position, name in enumerate(names, 1):
        if not name:
            raise UsageError(f"column {position} of the CSV has no name in the first line")
        if names.count(name) > 1:
            raise UsageError(f"the CSV has the column {name[:40]!r} twice")
        if name not in COLUMNS and not (name.startswith(METADATA) and name != METADATA):
            near = difflib.get_close_matches(name.lower()[:200], COLUMNS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"name it metadata.{name[:40]} to include it in every event"
            raise UsageError(f"unknown column {name[:40]!r}: {hint}")


def _csv_entries(lines: Iterator[_Line], names: Sequence[str], delimiter: str) -> Iterator[Entry]:
    again: deque[_Line] = deque()  # lines that an unclosed quote has taken: each is read again for itself
    while (first := again.popleft() if again else next(lines, None)) is not None:
        if first.fault is not None:
            yield _entry(first, first.fault)
            continue
        taken = [first]
        try:
            cells = next(csv.reader(_record(taken, again, lines), delimiter=delimiter, strict=True), [])
        except csv.Error as error:
            again.extendleft(reversed(taken[1:]))
            why = "a quote is not closed, or not doubled inside a cell" if "delimiter" in str(error) else str(error)
            why = "a quote is not closed" if "unexpected end" in why else why
            yield _entry(first, Fault("not_csv", f"invalid CSV: {why}"))
            continue
        if any(cell.strip() for cell in cells):
            id = (cells[names.index("id")].strip() or None) if len(cells) > names.index("id") else None
            yield _entry(first, _row(names, cells), id)._replace(bytes=sum(len(line.text) for line in taken))


def _record(taken: list[_Line], again: deque[_Line], lines: Iterator[_Line]) -> Iterator[str]:
    """The lines of one row, as its reader asks for them. Adds those after the first to `taken`."""
    yield taken[0].text
    while len(taken) < MAX_RECORD_LINES and (line := again.popleft() if again else next(lines, None)) is not None:
        if line.fault is not None:
            again.appendleft(line)
            return
        taken.append(line)
        yield line.text


def _row(names: Sequence[str], cells: Sequence[str]) -> dict[str, Any] | Fault:
    if len(cells) > len(names):
        return Fault("too_long", f"{len(cells)} cells, but only {len(names)} columns")
    body: dict[str, Any] = {}
    named: dict[str, str] = {}
    for name, cell in zip(names, cells, strict=False):
        text = cell.strip()
        if not text:
            continue
        if name.startswith(METADATA):
            named[name.removeprefix(METADATA)] = cell
        elif name == "callback_types":
            body[name] = [word for word in re.split(r"[\s,;]+", text) if word]
        elif name in ("metadata", "deadline_seconds"):
            body[name] = _json(text)
            is_number = isinstance(body[name], int | float) and not isinstance(body[name], bool)
            if name == "metadata" and not isinstance(body[name], dict):
                return Fault("wrong_type", 'metadata: expected a JSON object such as {"deal": 42}')
            if name == "deadline_seconds" and not is_number:
                return Fault("wrong_type", f"deadline_seconds: expected a number, not {text[:60]!r}")
        else:
            body[name] = text
    if named:
        body["metadata"] = {**body.get("metadata", {}), **named}
    return body if "id" in body else Fault("missing", "id: missing")


# --- sending


@dataclass(slots=True)
class Result:
    """The result of a batch. `faults` is keyed by the position in it."""

    created: int = 0
    existing: int = 0
    faults: dict[int, Fault] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class Relay:
    """The relay. Waits out temporary errors: a restart, a full disk, too many requests."""

    def __init__(self, api: Api, sleep: Callable[[float], None] = time.sleep) -> None:
        self._api, self._sleep = api, sleep
        self._is_reached = False

    def register(self, bodies: Sequence[Body]) -> Result:
        """Raises ApiError for a permanent error, and any error that lasts longer than PATIENCE_SECONDS."""
        try:
            return _result(self._send(bodies), self._api.url)
        except ApiError as error:
            if error.status not in CAUSED_BY_AN_ENTRY:
                raise
            if len(bodies) == 1:
                return Result(faults={0: Fault(error.problem or error.code, str(error))})
        middle = len(bodies) // 2
        first, second = self.register(bodies[:middle]), self.register(bodies[middle:])
        return Result(
            created=first.created + second.created,
            existing=first.existing + second.existing,
            faults={**first.faults, **{middle + index: fault for index, fault in second.faults.items()}},
            warnings=(*first.warnings, *second.warnings),
        )

    def _send(self, bodies: Sequence[Body]) -> Any:
        pause, waited = FIRST_PAUSE_SECONDS, 0.0
        while True:
            asked = 0.0
            try:
                document = self._api.send("POST", PATH, body={"jobs": list(bodies)}, timeout=ANSWER_SECONDS).document
            except Unreachable as error:
                if not self._is_reached:
                    raise
                failed: RelayError = error
            except ApiError as error:
                self._is_reached = True
                if error.status < 500 and error.status != 429:
                    raise
                failed, asked = error, parse_retry_after(error.retry_after, now=time.time()) or 0.0
            else:
                self._is_reached = True
                return document
            seconds = max(pause, asked)
            if waited + seconds > PATIENCE_SECONDS:
                raise failed
            note(f"relay: {failed}; trying again in {seconds:g} s")
            self._sleep(seconds)
            waited, pause = waited + seconds, min(pause * 2, LAST_PAUSE_SECONDS)


def _result(document: Any, url: str) -> Result:
    try:
        faults = {one["index"]: Fault(str(one["code"]), str(one["detail"])) for one in document["rejected"]}
        counts = {name: int(document[name]) for name in ("created", "existing")}
        return Result(**counts, faults=faults, warnings=tuple(map(str, document.get("warnings", ()))))
    except (TypeError, KeyError, ValueError):
        raise not_a_relay(url) from None


# --- the import


@dataclass(slots=True)
class Report:
    """The totals so far. `line`: the last one that is registered or reported."""

    created: int = 0
    existing: int = 0
    rejected: int = 0
    line: int = 0
    listed: list[dict[str, Any]] = field(default_factory=list)
    warnings: dict[str, None] = field(default_factory=dict)

    def add(self, batch: Sequence[Entry], result: Result) -> None:
        """Adds a batch, and prints a line on stderr for each entry that was rejected, and each new warning."""
        for warning in result.warnings:
            if warning not in self.warnings and len(self.warnings) < MAX_LISTED:
                self.warnings[warning] = None
                note(f"relay: {warning}")
        self.created += result.created
        self.existing += result.existing
        place = 0
        for entry in batch:
            fault = entry.found if isinstance(entry.found, Fault) else result.faults.get(place)
            place += not isinstance(entry.found, Fault)
            if fault is None:
                continue
            self.rejected += 1
            id, detail = entry.id and clean(entry.id)[:100], clean(fault.detail)[:MAX_REASON_CHARACTERS]
            note(f"line {entry.line} ({id}): {detail}" if id else f"line {entry.line}: {detail}")
            if len(self.listed) < MAX_LISTED:
                self.listed.append({"line": entry.line, "id": id, "code": fault.code, "detail": detail})
        self.line = batch[-1].line

    def show(self, *, complete: bool, json: bool) -> None:
        """Prints the totals, or the JSON object of them."""
        totals = {"created": self.created, "existing": self.existing}
        if json:
            rejected = {"rejected_count": self.rejected, "rejected": self.listed}
            warnings = {"warnings": list(self.warnings)} if self.warnings else {}
            print_json({"complete": complete, **totals, **rejected, **warnings})
        else:
            say(f"{self.created:,} created, {self.existing:,} already tracked, {self.rejected:,} rejected")


def run(api: Api, file: Path | None, defaults: Body, *, json: bool = False) -> bool:
    """Imports a file, or standard input for None. `defaults`: fields for entries that do not have them.

    Returns True if all entries were accepted. Raises RelayError: UsageError if the input cannot be read.
    """
    for option, value in defaults.items():
        if isinstance(value, str) and not value.isprintable():
            raise UsageError(f"--{option.replace('_', '-')} contains characters that are not printable. Type it again")
    if file is None and sys.stdin.isatty():
        note("relay: reading standard input. Paste ids, then press Ctrl-D on a new line")
    try:
        opened = nullcontext(sys.stdin.buffer) if file is None else file.open("rb")
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    report, relay = Report(), Relay(api)
    with opened as stream:
        given = Input(stream, "standard input" if file is None else str(file))
        try:
            with _progress(_size(stream), quiet=json) as progress:
                for batch in _batches(given.entries()):
                    bodies = [_filled(entry.found, defaults) for entry in batch if not isinstance(entry.found, Fault)]
                    report.add(batch, relay.register(bodies) if bodies else Result())
                    progress(report, given.bytes_read)
        except (RelayError, KeyboardInterrupt) as error:
            if report.line == 0:
                raise
            report.show(complete=False, json=json)
            stopped = f"stopped after line {report.line:,}. Run it again from the start: tracked jobs do not change"
            if isinstance(error, RelayError):
                raise ImportStopped(f"{stopped}: {error}") from error
            note(f"relay: {stopped}")
            raise
    report.show(complete=True, json=json)
    return report.rejected == 0


def _batches(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        batch.append(entry)
        size += entry.bytes
        if len(batch) == BATCH_ENTRIES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _filled(body: Body, defaults: Body) -> Body:
    missing = {name: value for name, value in defaults.items() if body.get(name) is None}
    if "callback_types" in missing and "callback_url" not in {**body, **missing}:
        del missing["callback_types"]
    return {**body, **missing}


def _size(stream: BinaryIO) -> int | None:
    try:
        return os.fstat(stream.fileno()).st_size or None
    except (OSError, io.UnsupportedOperation):
        return None


@contextmanager
def _progress(total_bytes: int | None, *, quiet: bool) -> Iterator[Callable[[Report, int], None]]:
    """Yields a function of the totals and the bytes read, which shows a progress bar on a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda report, bytes_read: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("line {task.fields[line]:,}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("importing", total=total_bytes, line=0)
        yield lambda report, bytes_read: progress.update(task, completed=bytes_read, line=report.line)
