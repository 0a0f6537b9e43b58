"""`make bench-against`: is this version slower or larger than an earlier one? Both run the same load in turns.

Figures of one run depend on the machine, so only their ratios count: how many times worse HEAD's middle is than REF's.
Exits with 1 if one is more than 1.05 times worse and outside both spreads (against_judge.py), with 2 if a version
cannot be run, with 130 after an interrupt. The lines are in against_lines.py. Callers, upstream and sink are this
folder's for both. Processor time and memory are read from /proc, and include the database's.
"""

import argparse
import contextlib
import json
import shutil
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from against_judge import MIN_ROUNDS, Comparison, compare_rounds, is_worse
from against_lines import LINES, Figures, Line
from against_versions import NotInstalled, Version, default_ref, head, installed
from against_world import Lacks, World, databases, world
from latency import others
from rich.console import Console
from rich.table import Table

DATABASES = ("SQLite", "PostgreSQL")
ROUNDS = 5
WIDTH = 130
"""Of the table, at least: in characters."""
WARM_UP_SHARE = 0.1
"""Of a turn: what each version does before the first one that counts."""


@dataclass(kw_only=True)
class Found:
    """What has been measured so far. `rounds`: the figures by database, line and version; `skipped`: a line each."""

    versions: Sequence[Version]
    rounds: dict[tuple[str, str], dict[str, list[Figures]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    skipped: list[str] = field(default_factory=list)

    def comparisons(self) -> list[Comparison]:
        """Of the lines that both versions have done."""
        return [
            one
            for (database, line), rounds in self.rounds.items()
            if len(rounds) == len(self.versions)  # an interrupt may come between them
            for one in compare_rounds(line, database, rounds["REF"], rounds["HEAD"])
        ]


def run(
    found: Found, lines: Sequence[Line], kinds: Sequence[str], rounds: int, size: float, say: Callable[[str], None]
) -> None:
    """Measures all of these, and puts it into `found` turn by turn."""
    for kind in kinds:
        with contextlib.ExitStack() as servers:
            make = {one.name: servers.enter_context(databases(kind, one)) for one in found.versions}
            for line in lines:
                count = max(10, round(line.count * size))
                try:
                    with contextlib.ExitStack() as worlds:
                        opened = [
                            worlds.enter_context(prepared(one, make[one.name](), line, count, kind, say))
                            for one in found.versions
                        ]
                        for number in range(rounds):
                            for one in opened if number % 2 == 0 else reversed(opened):  # ABBA
                                name = one.version.name
                                say(f"{kind}, {line.name}: round {number + 1} of {rounds}, {name}")
                                figures = line.turn(one, count)
                                found.rounds[kind, line.name][name].append(figures)
                except Lacks as lacks:
                    found.skipped.append(f"{kind}, {line.name}: {lacks}")
                    say(f"SKIPPED {found.skipped[-1]}")


@contextlib.contextmanager
def prepared(
    version: Version, database: tuple[str, int | None], line: Line, count: int, kind: str, say: Callable[[str], None]
) -> Iterator[World]:
    """A world of this version, ready for the first turn of the line. Raises Lacks."""
    say(f"{kind}, {line.name}: preparing {version.name}")
    with (
        world(version, database, polls=line.polls, most=line.most) as one,
        contextlib.nullcontext() if line.starts else one.serving(),
    ):
        try:
            line.prepare(one, count)
            line.turn(one, max(10, round(WARM_UP_SHARE * count)))
        except Lacks as lacks:
            raise Lacks(f"{version} has no {lacks}") from None
        yield one


def table(found: Found) -> Table:
    """The ratios."""
    shown = Table(title=" against ".join(map(str, reversed(found.versions))))
    for name in ("database", "line", "figure"):
        shown.add_column(name, no_wrap=True)
    for name in ("REF", "spread", "HEAD", "spread", "ratio"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("", min_width=5)
    before = ("", "")
    for one in found.comparisons():
        place = (one.database, one.line)
        shown.add_row(
            *(place if place != before else ("", "")),
            f"{one.measure.name}, {one.measure.unit}",
            *(text for each in (one.ref, one.head) for text in (f"{each.middle:.4g}", f"{100 * each.width:.0f} %")),
            f"{one.ratio:.2f}",
            {True: "WORSE", False: "", None: "?"}[one.worse],
            style="red" if one.worse else None,
        )
        before = place
    return shown


def as_json(found: Found) -> str:
    """Everything that was measured."""
    compared = [
        {**asdict(one), "rounds": {name: [each[one.measure.name] for each in figures] for name, figures in of.items()}}
        for one in found.comparisons()
        for of in [found.rounds[one.database, one.line]]
    ]
    versions = {one.name: one.commit for one in found.versions}
    return json.dumps({"versions": versions, "figures": compared, "skipped": found.skipped})


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ref", help="the commit; default: what CHANGELOG.md names, else the last tag")
    parser.add_argument("--only", action="append", default=[], help="lines whose name contains this; may be repeated")
    parser.add_argument("--database", choices=DATABASES, help="one of them; default: both")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"turns of each version; default: {ROUNDS}")
    parser.add_argument("--size", type=float, default=1.0, help="how much is done in a turn, 1 being usual")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    options = parser.parse_args()
    lines = [line for line in LINES if not options.only or any(word in line.name for word in options.only)]
    if not lines or options.rounds < 1 or options.size <= 0:
        parser.error(f"nothing to do. Lines: {'; '.join(line.name for line in LINES)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console, errors = Console(width=max(WIDTH, shutil.get_terminal_size().columns)), Console(stderr=True)
    kinds = [options.database] if options.database else DATABASES
    begun, ended = time.monotonic(), 0
    try:
        found = Found(versions=[installed(options.ref or default_ref()), head()])
    except NotInstalled as problem:
        errors.print(str(problem), style="red", markup=False)
        return 2
    except KeyboardInterrupt:
        return 130
    busy = others()
    if busy > 0.2:
        errors.print(f"Other work uses {busy:.1f} processors: expect wide spreads.", style="yellow")
    with errors.status("starting") as status:

        def say(text: str) -> None:
            if errors.is_terminal and not text.startswith("SKIPPED"):
                status.update(text)
            else:
                errors.print(
                    f"{time.monotonic() - begun:5.0f} s  {text}", markup=False, highlight=False, soft_wrap=True
                )

        try:
            run(found, lines, kinds, options.rounds, options.size, say)
        except KeyboardInterrupt:
            errors.print("Interrupted: what was measured until then.", style="yellow")
            ended = 130
        except RuntimeError as problem:
            errors.print(str(problem), style="red", markup=False)
            ended = 2
        except Exception:  # a fault of the tool: what was measured is shown all the same
            errors.print_exception()
            ended = 2
    console.print(table(found), markup=False)
    for line in found.skipped:
        console.print(f"SKIPPED {line}", style="bold yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"Ratios above 1 are worse. Processor time and memory include the database's. {time.monotonic() - begun:.0f} s."
    )
    if options.json:
        options.json.write_text(as_json(found))
    if options.rounds < MIN_ROUNDS:
        console.print(f"No verdict: that takes {MIN_ROUNDS} rounds or more.", style="yellow")
    return ended or int(is_worse(found.comparisons()))


if __name__ == "__main__":
    sys.exit(main())
