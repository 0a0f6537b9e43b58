"""The output of commands: JSON, tables, and progress on a terminal."""

import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any

import orjson
import typer

from relay.clock import from_rfc3339, in_words
from relay.core.jobs.job import JOB_EVENTS
from relay.core.jsontext import dumps

_TIME = re.compile(r"\b(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?Z")
_SCHEME = re.compile("^[a-z]+://")
_JOB_TYPE = re.compile(rf"(?<![\w.])(?:[a-z0-9]+\.)+job\.(?=(?:{'|'.join(JOB_EVENTS)})\b)")
_CONTROL = re.compile("[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")
MAX_UNBROKEN_ID_WIDTH = 40
SHORTENED_WIDTHS = {"job": 9, "about": 9, "sink": 16}
"""Columns that only help to recognise a row, and the width they are cut to on a narrow terminal."""
COLUMN_GAP = 2
NARROW_WIDTH = 72
"""On a terminal narrower than this, a table that does not fit is printed as a block of lines for each row."""


def print_json(value: Any) -> None:
    """Prints one JSON value on one line."""
    typer.echo(inert_json(dumps(value).decode()))


def inert_json(text: str) -> str:
    """The same JSON with the characters that could control a terminal escaped; JSON itself asks that only of some."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def print_result(document: Any, sentence: str, *, json: bool) -> None:
    """Prints the outcome of an action: the API's document with --json, else a sentence."""
    print_json(document) if json else say(sentence)


def print_object(document: Mapping[str, Any], *, json: bool) -> None:
    """Prints an object as JSON, or as lines of `name: value`."""
    print_json(document) if json else print_fields(document)


def print_list(
    items: Sequence[Any],
    columns: Sequence[str],
    row: Callable[[Any], Sequence[Any]] | None = None,
    *,
    empty: str,
    json: bool,
) -> None:
    """Prints a list as JSON, or as a table with `row(item)` for each item, by default the fields of its columns.
    Without items the table is `empty`. A line on stderr says if the limit has left out others."""
    if json:
        print_json(items)
    else:
        rows = [[item.get(name) for name in columns] if row is None else row(item) for item in items]
        print_table(columns, rows, empty=empty)
    note_limit(items)


def note_limit(items: Sequence[Any]) -> None:
    """Says on stderr if there are more items than these."""
    if getattr(items, "more", False):
        note(f"{len(items):,} shown; more with --limit")


def say(text: str) -> None:
    """Prints one line on stdout."""
    typer.echo(clean(text))


def note(text: str) -> None:
    """Prints one line on stderr."""
    typer.echo(clean(text), err=True)


def terminal_width() -> int | None:
    """The columns of the terminal on stdout. None if stdout is not a terminal: then lines are not wrapped."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def say_wrapped(text: str) -> None:
    """Prints sentences on stdout, wrapped on a terminal and on one line elsewhere."""
    text, width = clean(text), terminal_width()
    typer.echo(text if width is None else textwrap.fill(text, width))


def clean(value: Any) -> str:
    """The value as one line of text, without characters that could control a terminal."""
    if value is None:
        return "-"
    text = value if isinstance(value, str) else dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
    return "".join(character if character.isprintable() else " " for character in text)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str, now: float | None = None) -> None:
    """Prints a table on a terminal, and tab-separated values elsewhere. Without rows it prints `empty` on stderr.

    On a terminal times are relative to `now` (`3 min ago`) and event types are short (`failed`). Elsewhere both are as
    in the API, for scripts.
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

    width, at_time = shutil.get_terminal_size().columns, time.time() if now is None else now
    cells = [[_humanized(cell, at_time) for cell in row] for row in cells]
    room = width - COLUMN_GAP * (len(columns) - 1)
    if sum(_widths(columns, cells)) > room:
        limits = [SHORTENED_WIDTHS.get(column) for column in columns]
        cells = [list(map(_shortened, row, limits)) for row in cells]
        if width < NARROW_WIDTH:
            _print_blocks(columns, cells, width)
            return
    table = Table(box=None, pad_edge=False, padding=(0, COLUMN_GAP, 0, 0), header_style="bold")
    # Ids are copied into the next command, so they stay on one line. Other columns wrap: between words if there is room
    # for the longest one of each.
    full, least = _widths(columns, cells), _widths(columns, [[_longest_word(cell) for cell in row] for row in cells])
    is_id = [
        column in ("id", "example_id") and full[place] <= MAX_UNBROKEN_ID_WIDTH for place, column in enumerate(columns)
    ]
    least = [full[place] if is_id[place] else least[place] for place in range(len(columns))]
    fitted = _fitted(full, least, room)
    if fitted is None and True in is_id:
        at = is_id.index(True)
        others = _fitted([*full[:at], *full[at + 1 :]], [*least[:at], *least[at + 1 :]], room)
        if others is not None:
            _print_below_ids(columns, cells, at, others)
            return
    for place, column in enumerate(columns):
        table.add_column(
            column.upper(), overflow="fold", no_wrap=is_id[place], width=None if fitted is None else fitted[place]
        )
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console(width=width, height=1).print(table)


def _print_below_ids(columns: Sequence[str], cells: Sequence[Sequence[str]], id_at: int, widths: Sequence[int]) -> None:
    """Prints the id of each row on a line of its own, and the other columns below it."""
    gap = " " * COLUMN_GAP
    for row in ([column.upper() for column in columns], *cells):
        others = [cell for at, cell in enumerate(row) if at != id_at]
        typer.echo(row[id_at])
        wrapped = [textwrap.wrap(cell, width) for cell, width in zip(others, widths, strict=True)]
        for parts in zip_longest(*wrapped, fillvalue=""):
            padded = (f"{part:<{width}}" for part, width in zip(parts, widths, strict=True))
            typer.echo(f"{gap}{gap.join(padded)}".rstrip())


def _widths(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(columns, *cells, strict=True)]


def _longest_word(cell: str) -> str:
    return max(cell.split() or [""], key=len)


def _fitted(full: Sequence[int], least: Sequence[int], room: int) -> list[int] | None:
    """The widths of columns that have `room` together, each from its `least` to its `full` one; None if there is too
    little. Columns that lack little are widened first."""
    fitted, spare = list(least), room - sum(least)
    if spare < 0:
        return None
    for at in sorted(range(len(full)), key=lambda at: full[at] - least[at]):
        more = min(full[at] - least[at], spare)
        fitted[at] += more
        spare -= more
    return fitted


def _print_blocks(columns: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> None:
    """Prints each row as lines of `COLUMN  value`, for a terminal too narrow for columns side by side."""
    label = max(map(len, columns)) + COLUMN_GAP
    for number, row in enumerate(cells):
        if number:
            typer.echo()
        for column, cell in zip(columns, row, strict=True):
            head, room = f"{column.upper():<{label}}", max(width - label, 1)
            lines = textwrap.wrap(cell, room, break_on_hyphens=False) or [""]
            typer.echo(f"{head}{lines[0]}".rstrip())
            for line in lines[1:]:
                typer.echo(" " * label + line)


def _humanized(cell: str, now: float) -> str:
    if _TIME.fullmatch(cell):
        at = from_rfc3339(cell)
        return f"{in_words(now - at)} ago" if at <= now else f"in {in_words(at - now)}"
    return _JOB_TYPE.sub("", _TIME.sub(r"\1 \2", cell)).removeprefix("https://")


def _shortened(cell: str, width: int | None) -> str:
    if width is not None:
        cell = _SCHEME.sub("", cell)
    return cell if width is None or len(cell) <= width else f"{cell[: width - 1]}…"


def print_fields(value: Mapping[str, Any]) -> None:
    """Prints an object as lines of `name: value`."""
    width = max((len(name) for name in value), default=0)
    for name, field in value.items():
        typer.echo(f"{clean(name):<{width}}  {clean(field)}")


@contextmanager
def working(text: str) -> Iterator[None]:
    """Shows a spinner while inside, if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


Progress = Callable[[int, int, str, str], None]
"""Shows how much is done of how much, with a few words beside a bar, or with a sentence."""


@contextmanager
def progress() -> Iterator[Progress]:
    """Yields a function that shows progress on stderr: as a bar on a terminal, elsewhere as a sentence each tenth."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        with Bar(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("", visible=False)  # its first frame would have a made-up total

            def move(done: int, total: int, words: str, sentence: str) -> None:
                bar.update(task, completed=done, total=max(total, 1), description=words, visible=True)

            yield move
        return
    tenth = -1

    def line(done: int, total: int, words: str, sentence: str) -> None:
        nonlocal tenth
        reached = 10 * done // max(total, 1)
        if reached > tenth:
            tenth = reached
            note(sentence)

    yield line
