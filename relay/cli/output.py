"""The output of commands: JSON, tables, and progress on a terminal."""

import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
import typer

from relay.cli.columns import ORDER, kept_in
from relay.clock import from_rfc3339, in_words
from relay.core.jobs.job import JOB_EVENTS
from relay.core.jsontext import dumps

_TIME = re.compile(r"\b(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?Z")
_SCHEME = re.compile("^[a-z]+://")
_JOB_TYPE = re.compile(rf"(?<![\w.])(?:[a-z0-9]+\.)+job\.(?=(?:{'|'.join(JOB_EVENTS)})\b)")
_CONTROL = re.compile("[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")
SHORTENED_WIDTHS = {"job": 9, "about": 9, "sink": 16}
"""Columns that only help to recognise a row, and the width they are cut to on a narrow terminal."""
COLUMN_GAP = 2
MIN_TEXT_WIDTH = 24
"""A column of sentences is not made narrower than this: columns are left out instead."""
UNBROKEN = "\N{NO-BREAK SPACE}"


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
    table: str = "",
) -> None:
    """Prints a list as JSON, or as a table with `row(item)` for each item, by default the fields of its columns.
    Without items the table is `empty`. `table`: as of `print_table`. A line on stderr says if the limit has left out
    others."""
    if json:
        print_json(items)
    else:
        rows = [[item.get(name) for name in columns] if row is None else row(item) for item in items]
        print_table(columns, rows, empty=empty, table=table)
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


def is_terminal() -> bool:
    """True if a person at a terminal can answer on stdin and sees stdout."""
    return sys.stdin.isatty() and sys.stdout.isatty()


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


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    empty: str,
    table: str = "",
) -> None:
    """Prints a table on a terminal, and tab-separated values elsewhere. Without rows it prints `empty` on stderr.

    On a terminal times are relative (`3 min ago`) and event types are short (`failed`). Elsewhere both are as
    in the API, for scripts. Columns that do not fit a terminal are left out, from the end of the `table`'s ORDER, and
    named below.
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

    width, now = shutil.get_terminal_size().columns, time.time()
    by_row = [[_humanized(cell, now) for cell in row] for row in cells]
    by_column = dict(zip(columns, zip(*by_row, strict=True), strict=True))
    widths, fitting = fitted(by_column, kept_in(columns, ORDER.get(table, ())), width)
    shown = [column for column in columns if column in widths]
    grid = Table(box=None, pad_edge=False, padding=(0, COLUMN_GAP, 0, 0), header_style="bold")
    for column in shown:
        grid.add_column(column.upper(), overflow="fold", width=widths[column])
    for texts in zip(*(fitting[column] for column in shown), strict=True):
        grid.add_row(*(Text(text.replace(UNBROKEN, " ")) for text in texts))
    Console(width=width, height=1).print(grid)
    if left_out := [column for column in columns if column not in widths]:
        text = f"not shown: {', '.join(left_out)}. A wider terminal or --json has them"
        typer.echo(textwrap.fill(text, width), err=True)


def fitted(
    cells: Mapping[str, Sequence[str]], order: Sequence[str], width: int
) -> tuple[dict[str, int], dict[str, Sequence[str]]]:
    """The columns that fit a terminal of `width` without a broken word, with their widths; and the cells of all, some
    of them shortened. `order`: the columns, the most useful first, of which the first one always stays."""
    names, fitting = list(order), dict(cells)
    if sum(_width(name, fitting[name]) + COLUMN_GAP for name in names) - COLUMN_GAP > width:
        for name in set(names) & set(SHORTENED_WIDTHS):
            fitting[name] = [_shortened(cell, SHORTENED_WIDTHS[name]) for cell in fitting[name]]
    full = {name: _width(name, fitting[name]) for name in names}
    least = {name: _least(name, fitting[name], full[name]) for name in names}
    while len(names) > 1 and sum(least[name] + COLUMN_GAP for name in names) - COLUMN_GAP > width:
        del names[-1]
    spare, widths = width - sum(least[name] + COLUMN_GAP for name in names) + COLUMN_GAP, {}
    for name in sorted(names, key=lambda name: full[name] - least[name]):  # those that lack little first
        more = max(0, min(full[name] - least[name], spare))
        widths[name] = min(least[name] + more, width)
        spare -= more
    return widths, fitting


def _width(name: str, cells: Sequence[str]) -> int:
    from rich.cells import cell_len

    return max(cell_len(text) for text in (name, *cells))


def _least(name: str, cells: Sequence[str], full: int) -> int:
    """The width that a column needs to be read: that of its longest word, or of a few words."""
    return max(min(full, MIN_TEXT_WIDTH), *(_width(word, ()) for text in (name, *cells) for word in text.split(" ")))


def _humanized(cell: str, now: float) -> str:
    if _TIME.fullmatch(cell):
        at = from_rfc3339(cell)
        shown = f"{in_words(now - at)} ago" if at <= now else f"in {in_words(at - now)}"
        return shown.replace(" ", UNBROKEN)
    return _JOB_TYPE.sub("", _TIME.sub(r"\1 \2", cell)).removeprefix("https://")


def _shortened(cell: str, width: int) -> str:
    cell = _SCHEME.sub("", cell)
    return cell if len(cell) <= width else f"{cell[: width - 1]}…"


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
