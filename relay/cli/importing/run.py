"""Runs an import: reads entries, registers them in batches, saves its position after each, and reports."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from relay.cli.client import Api, ApiError
from relay.cli.importing.check import Check, known_accounts
from relay.cli.importing.lines import Entry, Fault, Format
from relay.cli.importing.report import Rejects, Report, watched
from relay.cli.importing.send import Relay, Result, Target
from relay.cli.importing.source import Source, open_input, size_bytes
from relay.cli.importing.state import SUFFIX, Rejected, State, Step
from relay.cli.output import note, print_json
from relay.errors import RelayError, UsageError

BATCH_ENTRIES = 2_000
BATCH_CHARACTERS = 800_000


class ImportStopped(RelayError):
    """The import ended early. Finished batches stay registered."""

    code = "import_stopped"

    def __init__(self, problem: str, *, exit_code: int) -> None:
        super().__init__(problem)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The options of an import. `defaults`: fields for entries that do not have them."""

    file: Path | None = None
    format: Format | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    dry_run: bool = False
    rejects: Path | None = None
    resume: bool = False
    json: bool = False

    @property
    def name(self) -> str:
        """The name of the input."""
        return "standard input" if self.file is None else str(self.file)

    def check(self) -> None:
        """Raises UsageError for conflicting options."""
        if self.resume and self.file is None:
            raise UsageError("--resume needs a file. Import standard input again from its start")
        if self.resume and self.dry_run:
            raise UsageError("--resume cannot be used with --dry-run, which has nothing to continue")
        for name, value in self.defaults.items():
            if isinstance(value, str) and not value.isprintable():
                raise UsageError(
                    f"--{name.replace('_', '-')} contains characters that are not printable. Type it again"
                )
        if self.file is not None and self.rejects is not None:
            with contextlib.suppress(OSError):
                if self.file.samefile(self.rejects):
                    raise UsageError("--rejects is the imported file. Use another file")


class Import:
    """One run of an import."""

    def __init__(self, plan: Plan, api: Api, files: contextlib.ExitStack) -> None:
        """`files` closes what is opened. Raises UsageError if the input cannot be read or --rejects not written."""
        self._plan = plan
        self._files = files
        self._before: list[Step] = []
        self._has_begun = False
        self.report = Report(dry_run=plan.dry_run, rejects=plan.rejects)
        self._open()
        self._rejects = Rejects(plan.rejects, self._source.format)
        files.callback(self._rejects.close)
        has_state = plan.file is not None and not plan.dry_run
        self._state = State(Path(f"{plan.file}{SUFFIX}") if has_state else None, self._about(api.url))
        files.callback(self._state.close)
        self._target: Target = Check(known_accounts(api)) if plan.dry_run else Relay(api)

    def _open(self) -> None:
        self._stream = open_input(self._plan.file)
        if self._plan.file is not None:
            self._files.callback(self._stream.close)
        self._source = Source(self._stream, self._plan.name, self._plan.format)
        self._entries = self._source.entries()

    def _about(self, url: str) -> dict[str, Any]:
        rejects = None if self._plan.rejects is None else ascii(str(self._plan.rejects))  # a file name may not be UTF-8
        return {"url": url, "format": self._source.format, "defaults": self._plan.defaults, "rejects": rejects}

    def run(self) -> None:
        """Imports everything. Raises what ends it early: `report` then has the totals so far."""
        self._before = self._resumed_steps() if self._plan.resume else []
        for step in self._before:
            self.report.add(step)
        with watched(size_bytes(self._stream), quiet=self._plan.json) as progress:
            for batch in _batches(self._entries):
                step = self._register(batch)
                self.report.add(step)
                self._state.add(step)
                progress(self.report.entries, self._source.bytes_read)
        self._begin_files()
        self.report.skipped_lines = self._source.skipped_lines
        self._state.remove()

    def _resumed_steps(self) -> list[Step]:
        """The finished steps of an earlier run, after reading the input up to there. Empty if the input changed."""
        steps = self._state.steps()
        if not steps:
            note(f"relay: no interrupted import of {self._plan.name} with these options: starting at the first line")
            return []
        done = sum(step.entries for step in steps)
        read = sum(1 for _ in islice(self._entries, done))
        is_same = read == done and self._source.digest() == steps[-1].digest
        if is_same and self._rejects.size_bytes() >= steps[-1].rejects_bytes:
            return steps
        note(f"relay: {self._plan.name} or its --rejects file has changed: starting at the first line")
        self._open()
        return []

    def _register(self, batch: list[Entry]) -> Step:
        bodies = [self._with_defaults(entry.body) for entry in batch if entry.body is not None]
        result = self._target.register(bodies) if bodies else Result()
        self._begin_files()
        rejected = list(_rejected(batch, result))
        return Step(
            entries=len(batch),
            line=batch[-1].line,
            created=result.created,
            existing=result.existing,
            digest=self._source.digest(),
            rejects_bytes=self._rejects.write(rejected),
            refused=[
                Rejected(line=entry.line, id=entry.id, code=fault.code, detail=fault.detail)
                for entry, fault in rejected
            ],
        )

    def _begin_files(self) -> None:
        """Starts the output files after the first batch: a run without a relay keeps those of an earlier run."""
        if not self._has_begun:
            self._has_begun = True
            self._rejects.begin(self._before[-1].rejects_bytes if self._before else 0)
            self._state.begin(self._before)

    def _with_defaults(self, body: Mapping[str, Any]) -> dict[str, Any]:
        missing = {name: value for name, value in self._plan.defaults.items() if body.get(name) is None}
        if "callback_types" in missing and "callback_url" not in {**body, **missing}:
            del missing["callback_types"]
        return {**body, **missing}


def run(plan: Plan, api: Api) -> bool:
    """Runs an import and reports it. Returns True if all entries were accepted. Raises RelayError."""
    plan.check()
    with contextlib.ExitStack() as files:
        work = Import(plan, api, files)
        try:
            work.run()
        except (RelayError, KeyboardInterrupt) as error:
            if work.report.entries == 0:
                raise
            _show(plan, work.report, complete=False)
            stopped = f"stopped after line {work.report.line:,} ({_how_to_continue(plan)})"
            if isinstance(error, RelayError):
                exit_code = 1 if isinstance(error, ApiError) else error.exit_code
                raise ImportStopped(f"{stopped}: {error}", exit_code=exit_code) from error
            note(f"relay: {stopped}")
            raise
    _show(plan, work.report, complete=True)
    return work.report.rejected == 0


def _show(plan: Plan, report: Report, *, complete: bool) -> None:
    if plan.json:
        print_json(report.document(complete=complete))
    else:
        report.show()


def _how_to_continue(plan: Plan) -> str:
    if plan.dry_run:
        return "nothing was sent"
    if plan.file is None:
        return "import all of it again: tracked jobs do not change"
    return "continue with the same command and --resume"


def _batches(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    """Batches of entries. Never reads ahead, so that the digest is the one at the end of the batch."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        batch.append(entry)
        size += len(entry.text)
        if len(batch) == BATCH_ENTRIES or size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _rejected(batch: list[Entry], result: Result) -> Iterator[tuple[Entry, Fault]]:
    place = 0
    for entry in batch:
        if entry.body is None:
            yield entry, entry.fault or Fault(code="no_job", detail="no job")
            continue
        if place in result.faults:
            yield entry, result.faults[place]
        place += 1
