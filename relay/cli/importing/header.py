"""The first line of an imported CSV: its column names, or the first id of a plain list. Pure."""

import csv
import difflib
import re
from dataclasses import dataclass

from relay.errors import UsageError

COLUMNS = (
    *("id", "source", "account", "callback_url", "callback_types", "metadata", "group", "priority"),
    "deadline_seconds",
)
METADATA = "metadata."
DELIMITERS = (",", ";", "\t")

_LIKE_A_NAME = re.compile(r"(?:jobs?|external|revor|upstream)?[ _-]?ids?|uu?ids?|jobs?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The columns. Each is one of COLUMNS or `metadata.NAME`."""

    delimiter: str
    names: tuple[str, ...]

    @property
    def id_at(self) -> int:
        """The index of the column `id`."""
        return self.names.index("id")

    @classmethod
    def of_plain_ids(cls, line: str) -> "Header":
        """The header of a plain list of ids with this first line. Raises UsageError if the line is something else."""
        if any(len(_cells(line, delimiter)) != 1 for delimiter in DELIMITERS):
            raise UsageError("the first line of the CSV has no column `id`. It must name the columns")
        word = _cells(line, ",")[0].strip()
        if _LIKE_A_NAME.fullmatch(word):
            raise UsageError(f"the first line is {word[:40]!r}, which is not an id. Name the column `id`")
        return cls(delimiter=",", names=("id",))


def header_of(line: str) -> Header | None:
    """The columns that this line names, or None if `id` is missing. Raises UsageError for an unknown column."""
    for delimiter in DELIMITERS:
        names = tuple(_name(cell) for cell in _cells(line, delimiter))
        if "id" in names:
            _check(names)
            return Header(delimiter=delimiter, names=names)
    return None


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return []


def _name(cell: str) -> str:
    """Column names ignore case, except the NAME in `metadata.NAME`."""
    name = cell.strip()
    if name.lower().startswith(METADATA) and len(name) > len(METADATA):
        return METADATA + name[len(METADATA) :]
    return name.lower() if name.lower() in COLUMNS else name


def _check(names: tuple[str, ...]) -> None:
    for position, name in enumerate(names, 1):
        if not name:
            raise UsageError(f"column {position} of the CSV has no name in the first line")
        if names.count(name) > 1:
            raise UsageError(f"the CSV has the column {name[:40]!r} twice")
        if name not in COLUMNS and not name.startswith(METADATA):
            near = difflib.get_close_matches(name.lower()[:200], COLUMNS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"name it metadata.{name[:40]} to include it in every event"
            raise UsageError(f"unknown column {name[:40]!r}: {hint}")
