"""The position of an import, in a small file beside its input: a line about the import, and one for each batch.

A line is added after the relay's answer, so the file never claims too much. A line torn by a crash is ignored. The file
only saves work: registering a job again changes nothing.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from relay.cli.output import note
from relay.private_files import private_opener

SUFFIX = ".import-state"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """An entry that was not registered."""

    line: int
    id: str | None
    code: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The result of one batch, and the position of the import after it.

    `digest` covers all the input read so far. `rejects_bytes` is the size of the file of rejected entries.
    """

    entries: int
    line: int
    created: int
    existing: int
    digest: str
    rejects_bytes: int = 0
    refused: list[Rejected] = field(default_factory=list)


class State:
    """The state file of one import. If it cannot be written, the import continues without it and prints a note.

    Without a path nothing is read or written.
    """

    def __init__(self, path: Path | None, about: Mapping[str, Any]) -> None:
        """`about` must be the same for an import to be resumed: the relay and the options."""
        self.path = path
        self._about = orjson.dumps({"version": VERSION, **about}, option=orjson.OPT_SORT_KEYS)
        self._stream: BinaryIO | None = None

    def steps(self) -> list[Step] | None:
        """The finished steps. None if there is no file, or it belongs to another import."""
        try:
            lines = (b"" if self.path is None else self.path.read_bytes()).split(b"\n")
        except OSError:
            return None
        if lines[0] != self._about:
            return None
        steps = [_step(line) for line in lines[1:]]
        known = steps.index(None) if None in steps else len(steps)
        return [step for step in steps[:known] if step is not None]

    def begin(self, steps: list[Step]) -> None:
        """Starts the file again, with these steps."""
        if self.path is None:
            return
        with self._unless_impossible():
            self._stream = open(self.path, "wb", opener=private_opener)  # noqa: SIM115
            self._stream.write(self._about + b"\n")
        for step in steps:
            self.add(step)

    def add(self, step: Step) -> None:
        """Appends the result of a batch."""
        if self._stream is not None:
            with self._unless_impossible():
                self._stream.write(orjson.dumps(asdict(step)) + b"\n")
                self._stream.flush()

    def close(self) -> None:
        """Closes the file and keeps it for the next run."""
        if self._stream is not None:
            with contextlib.suppress(OSError):
                self._stream.close()

    def remove(self) -> None:
        """Removes the file: the import is complete."""
        self.close()
        with contextlib.suppress(OSError):
            if self.path is not None:
                self.path.unlink()

    @contextlib.contextmanager
    def _unless_impossible(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            note(f"relay: cannot write {self.path} ({error.strerror}). An interrupted import will start again")
            self.close()
            self._stream = None


def _step(line: bytes) -> Step | None:
    try:
        found = orjson.loads(line)
        return Step(**{**found, "refused": [Rejected(**one) for one in found["refused"]]})
    except (orjson.JSONDecodeError, TypeError, KeyError):
        return None
