"""The output of an import: its progress, its totals, and a file of rejected entries to be corrected."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from relay.cli.importing.lines import Entry, Fault, Format
from relay.cli.importing.state import Step
from relay.cli.output import clean, note, print_table, say
from relay.errors import UsageError
from relay.private_files import private_opener

MAX_SHOWN = 20
MAX_LISTED = 10_000
MAX_REASON_CHARACTERS = 500


@dataclass(slots=True)
class Report:
    """The totals of an import. Counts all rejected entries, and keeps the first MAX_LISTED of them."""

    dry_run: bool
    rejects: Path | None
    created: int = 0
    existing: int = 0
    rejected: int = 0
    entries: int = 0
    line: int = 0
    skipped_lines: int = 0
    listed: list[dict[str, Any]] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """Adds the results of one batch."""
        self.created += step.created
        self.existing += step.existing
        self.rejected += len(step.refused)
        self.entries += step.entries
        self.line = step.line
        room = MAX_LISTED - len(self.listed)
        self.listed += [asdict(one) for one in step.refused[:room]]

    def document(self, *, complete: bool) -> dict[str, Any]:
        """The JSON object of the totals. `rejected` has the first rejected entries, `rejected_count` counts all."""
        return {
            "complete": complete,
            "dry_run": self.dry_run,
            "entries": self.entries,
            "accepted": self.created + self.existing,
            "created": 0 if self.dry_run else self.created,
            "existing": self.existing,
            "rejected_count": self.rejected,
            "rejected": self.listed,
            "lines_passed_over": self.skipped_lines,
        }

    def show(self) -> None:
        """Prints the totals and the first rejected entries."""
        if self.rejected:
            rows = [(one["line"], one["id"], one["detail"]) for one in self.listed[:MAX_SHOWN]]
            print_table(("line", "id", "reason"), rows, empty="")
            if self.rejected > MAX_SHOWN:
                say(
                    f"and {self.rejected - MAX_SHOWN:,} more"
                    + ("" if self.rejects else ". --rejects FILE writes all of them")
                )
        if self.dry_run:
            say(f"dry run: {self.created:,} would be registered, {self.rejected:,} rejected; nothing was sent")
        else:
            say(f"{self.created:,} created, {self.existing:,} already tracked, {self.rejected:,} rejected")
        if self.rejected and self.rejects is not None:
            say(f"{self.rejects} contains the rejected entries. Correct them there, and import that file")
        if self.skipped_lines:
            note(f"relay: skipped {self.skipped_lines:,} lines of other text")


class Rejects:
    """The file of rejected entries: each unchanged, below a comment with its line and the reason.

    Without a path nothing is written.
    """

    def __init__(self, path: Path | None, format: Format) -> None:
        """Raises UsageError if the file cannot be written."""
        self._path = path
        self._format = format
        try:
            self._stream: BinaryIO = BytesIO() if path is None else open(path, "ab", opener=private_opener)  # noqa: SIM115
        except OSError as error:
            raise self._unwritable(error) from error

    def begin(self, kept_bytes: int) -> None:
        """Truncates the file to `kept_bytes`: removes an earlier import or an incomplete batch."""
        self._stream.truncate(kept_bytes)

    def size_bytes(self) -> int:
        """The size of the file."""
        return self._stream.seek(0, 2)

    def write(self, rejected: list[tuple[Entry, Fault]]) -> int:
        """Appends entries. Returns the new size of the file. Raises UsageError if it cannot be written."""
        if self._path is None:
            return 0
        pieces = [_piece(entry, fault) for entry, fault in rejected]
        try:
            if rejected and self.size_bytes() == 0:
                pieces.insert(0, f"# format: {self._format}\n{rejected[0][0].head}")
            self._stream.write("".join(pieces).encode("utf-8", "surrogateescape"))
            self._stream.flush()
            return self.size_bytes()
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()

    def _unwritable(self, error: OSError) -> UsageError:
        return UsageError(f"cannot write {self._path}: {error.strerror}")


@contextmanager
def watched(total_bytes: int | None, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Yields a function of the entries done and bytes read, which shows a progress bar on a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda entries, bytes_read: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("importing"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[entries]:,} done"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("importing", total=total_bytes, entries=0)
        yield lambda entries, bytes_read: progress.update(task, completed=bytes_read, entries=entries)


def _piece(entry: Entry, fault: Fault) -> str:
    end = "" if entry.text.endswith("\n") else "\n"
    return f"# line {entry.line}: {clean(fault.detail)[:MAX_REASON_CHARACTERS]}\n{entry.text}{end}"
