"""What the commands print: JSON, tables, and signs of life where a person is watching."""

import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import orjson
import typer

_TIME = re.compile(r"\b(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)\.\d{3}Z")
MAX_KEPT_ID_WIDTH = 40

Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="How many to list at most.")]


def print_json(value: Any) -> None:
    """One JSON value on one line of stdout."""
    typer.echo(orjson.dumps(value).decode())


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
    text = value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
    return "".join(character if character.isprintable() else " " for character in text)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str) -> None:
    """A table on a terminal, with times to the second (UTC); lines of tab-separated values elsewhere, as the API has
    them. `empty` is said when there are no rows."""
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

    table = Table(box=None, pad_edge=False, header_style="bold")
    cells = [[_TIME.sub(r"\1 \2", cell) for cell in row] for row in cells]
    for place, column in enumerate(columns):
        # An id is copied into the next command: it stays on one line, and the others give way for it.
        is_id = column in ("id", "example_id") and max(len(row[place]) for row in cells) <= MAX_KEPT_ID_WIDTH
        table.add_column(column.upper(), overflow="fold", no_wrap=is_id)
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


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
