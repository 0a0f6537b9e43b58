"""The input of an import: a file or standard input, read once, line by line if the format allows it."""

import hashlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from relay.cli.importing.answers import answers
from relay.cli.importing.lines import MAX_LINE_BYTES, Entry, Format, Line, csv_rows, infer, json_lines
from relay.cli.output import note
from relay.errors import UsageError

MAX_PASTE_BYTES = 64 << 20
HEAD_BYTES = 64 << 10
SUFFIXES: dict[str, Format] = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}

_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class Source:
    """The input. `bytes_read` and `digest()` cover what has been read for the entries so far."""

    def __init__(self, stream: BinaryIO, name: str, format: Format | None = None) -> None:
        """`name`: the file name, or a description. Raises UsageError if it is not text."""
        self.skipped_lines = 0
        self.bytes_read = 0
        self._digest = hashlib.sha256()
        head = stream.read(HEAD_BYTES)
        if b"\0" in head or head.startswith(_UTF_16):
            raise UsageError(f"{name} is not UTF-8 text. Save a spreadsheet as CSV (UTF-8)")
        self._stream = io.BufferedReader(_Joined(head, stream), HEAD_BYTES)
        self.format: Format = format or infer(_text(head.removeprefix(_BOM)), SUFFIXES.get(Path(name).suffix.lower()))
        self._name = name

    def entries(self) -> Iterator[Entry]:
        """All entries, once. Raises UsageError if the input cannot be read."""
        if self.format == "answers":
            return answers(self._rest(), self._skip)
        return csv_rows(self._lines()) if self.format == "csv" else json_lines(self._lines())

    def digest(self) -> str:
        """The SHA-256 of what has been read."""
        return self._digest.hexdigest()

    def _lines(self) -> Iterator[Line]:
        number = 0
        while raw := self._read(lambda: self._stream.readline(MAX_LINE_BYTES + 1)):
            number += 1
            is_cut = len(raw) > MAX_LINE_BYTES
            yield Line(number, _text(raw.removeprefix(_BOM) if number == 1 else raw), is_cut)
            while is_cut and raw and not raw.endswith(b"\n"):
                raw = self._read(lambda: self._stream.readline(MAX_LINE_BYTES))

    def _rest(self) -> str:
        raw = self._read(lambda: self._stream.read(MAX_PASTE_BYTES + 1))
        if len(raw) > MAX_PASTE_BYTES:
            limit = MAX_PASTE_BYTES >> 20
            raise UsageError(
                f"{self._name} is larger than {limit} MiB, the limit of this format. Use JSON lines or CSV"
            )
        return _text(raw.removeprefix(_BOM))

    def _read(self, read: Callable[[], bytes]) -> bytes:
        try:
            raw = read()
        except OSError as error:
            raise UsageError(f"cannot continue to read {self._name}: {error.strerror}") from error
        self.bytes_read += len(raw)
        self._digest.update(raw)
        return raw

    def _skip(self, lines: int) -> None:
        self.skipped_lines += lines


class _Joined(io.RawIOBase):
    """A stream whose beginning has already been read."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = len(buffer)
        piece, self._head = self._head[:size], self._head[size:]
        piece = piece or self._rest.read(size)
        buffer[: len(piece)] = piece
        return len(piece)


def open_input(file: Path | None) -> BinaryIO:
    """The file, or standard input for None. Raises UsageError if the file cannot be read."""
    if file is None:
        if sys.stdin.isatty():
            note("relay: reading standard input. Paste, then press Ctrl-D on a new line")
        return sys.stdin.buffer
    try:
        return file.open("rb")
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error


def size_bytes(stream: BinaryIO) -> int | None:
    """The size of the input, or None if it is unknown."""
    try:
        return os.fstat(stream.fileno()).st_size or None
    except (OSError, io.UnsupportedOperation):
        return None


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
