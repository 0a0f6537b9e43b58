"""How far an import has come, in a small file beside its input: one line for what it is, one for each batch done.

A line is added only after the relay has answered, so the file never says more than is true; a line that a crash tore
is left out. What the file is not needed for is keeping anything from being registered twice: the relay does that.
"""

import contextlib
import os
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
class Refused:
    """An entry that was not registered."""

    line: int
    id: str | None
    code: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one batch brought, and where the import stands after it.

    `digest` is of all the input read so far, `rejects_bytes` the length of the file of refused entries.
    """

    entries: int
    line: int
    created: int
    existing: int
    digest: str
    rejects_bytes: int = 0
    refused: list[Refused] = field(default_factory=list)


class State:
    """The file of one import. Where it can not be written the import goes on without, and says so."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        """`about` is what has to be the same for going on: the relay, the options."""
        self.path = path
        self._about = orjson.dumps({"version": VERSION, **about}, option=orjson.OPT_SORT_KEYS)
        self._stream: BinaryIO | None = None

    def steps(self) -> list[Step] | None:
        """What is done already; None where there is nothing, or another import's."""
        try:
            lines = self.path.read_bytes().split(b"\n")
        except OSError:
            return None
        if lines[0] != self._about:
            return None
        steps = [_step(line) for line in lines[1:]]
        known = steps.index(None) if None in steps else len(steps)
        return [step for step in steps[:known] if step is not None]

    def begin(self, steps: list[Step]) -> None:
        """Starts the file anew, with these steps."""
        with self._unless_impossible():
            self._stream = open(self.path, "wb", opener=private_opener)  # noqa: SIM115
            self._stream.write(self._about + b"\n")
        for step in steps:
            self.add(step)

    def add(self, step: Step) -> None:
        """Keeps what a batch brought."""
        if self._stream is not None:
            with self._unless_impossible():
                self._stream.write(orjson.dumps(asdict(step)) + b"\n")
                self._stream.flush()

    def close(self) -> None:
        """Leaves the file for the next run."""
        if self._stream is not None:
            with contextlib.suppress(OSError):
                self._stream.close()

    def remove(self) -> None:
        """The import is complete."""
        self.close()
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    @contextlib.contextmanager
    def _unless_impossible(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            note(f"relay: {self.path} can not be written ({error.strerror}): if this is cut off, it starts over")
            self.close()
            self._stream = None


def _step(line: bytes) -> Step | None:
    try:
        found = orjson.loads(line)
        return Step(**{**found, "refused": [Refused(**one) for one in found["refused"]]})
    except (orjson.JSONDecodeError, TypeError, KeyError):
        return None
