"""What the commands print: JSON, tables, and signs of life where a person is watching."""

import re
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import orjson
import typer

from relay.clock import from_rfc3339, in_words
from relay.core.jsontext import dumps

_TIME = re.compile(r"\b(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)\.\d{3}Z")
_JOB_TYPE = re.compile(r"\bai\.revor\.job\.(?=[a-z_]+\b)")
MAX_KEPT_ID_WIDTH = 40
CUT_CHARACTERS = {"job": 9, "sink": 16}
"""Columns of long values that only help to recognise a row: on a narrow terminal cut to so many characters."""
COLUMN_GAP = 2

Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="How many to list at most.")]


def print_json(value: Any) -> None:
    """One JSON value on one line of stdout."""
    typer.echo(dumps(value).decode())


def say(text: str) -> None:
    """One line for a person on stdout."""
    typer.echo(clean(text))


def terminal_width() -> int | None:
    """How wide the terminal is that shows stdout; None where none does, and lines are best left whole."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def say_at_length(text: str) -> None:
    """Sentences for a person on stdout: on a terminal broken between words, elsewhere on one line."""
    text, width = clean(text), terminal_width()
    typer.echo(text if width is None else textwrap.fill(text, width))


def note(text: str) -> None:
    """One line for a person on stderr."""
    typer.echo(clean(text), err=True)


def clean(value: Any) -> str:
    """The value as text in one line that can not command a terminal."""
    if value is None:
        return "-"
    text = value if isinstance(value, str) else dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
    return "".join(character if character.isprintable() else " " for character in text)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str, now: float | None = None) -> None:
    """Prints a table on a terminal, and lines of tab-separated values elsewhere.

    On a terminal a time is told from `now` (`3 min ago`) and an event type by its last word (`failed`). Elsewhere both
    are as the API has them, for scripts. `empty` is said when there are no rows.
    """
    if not rows:
        note(empty)
        return
    cells = [[clean(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in ([column.upper() for column in columns], *cells):
            typer.echo("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    width, at = shutil.get_terminal_size().columns, time.time() if now is None else now
    cells = [[_for_a_person(cell, at) for cell in row] for row in cells]
    widths = [max(len(row[place]) for row in ([*columns], *cells)) for place in range(len(columns))]
    if sum(widths) + COLUMN_GAP * (len(columns) - 1) > width:
        most = [CUT_CHARACTERS.get(column) for column in columns]
        cells = [list(map(_cut, row, most)) for row in cells]
    table = Table(box=None, pad_edge=False, padding=(0, COLUMN_GAP, 0, 0), header_style="bold")
    for place, column in enumerate(columns):
        # An id is copied into the next command: it stays on one line, and the others give way for it.
        is_id = column in ("id", "example_id") and max(len(row[place]) for row in cells) <= MAX_KEPT_ID_WIDTH
        table.add_column(column.upper(), overflow="fold", no_wrap=is_id)
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console(width=width, height=1).print(table)


def _for_a_person(cell: str, now: float) -> str:
    if _TIME.fullmatch(cell):
        return relative(from_rfc3339(cell), now)
    return _JOB_TYPE.sub("", _TIME.sub(r"\1 \2", cell)).removeprefix("https://")


def _cut(cell: str, most: int | None) -> str:
    return cell if most is None or len(cell) <= most else f"{cell[: most - 1]}…"


def relative(at: float, now: float) -> str:
    """A time as seen from now: `3 min ago`, `in 5 s`."""
    return f"{in_words(now - at)} ago" if at <= now else f"in {in_words(at - now)}"


def print_fields(value: Mapping[str, Any]) -> None:
    """An object as lines of `name: value`."""
    width = max((len(name) for name in value), default=0)
    for name, field in value.items():
        typer.echo(f"{clean(name):<{width}}  {clean(field)}")


@contextmanager
def working(text: str) -> Iterator[None]:
    """Shows on a terminal that something takes its time."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield
