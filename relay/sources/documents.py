"""YAML files of a source: read within limits, with the line of each key for the errors about it."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from operator import itemgetter
from pathlib import Path
from typing import Any

from relay.config.loader import Value, parse_yaml, read_text
from relay.core.requirements import requirement
from relay.errors import SettingsError
from relay.redaction import redact_text

MAX_DEPTH = 32
MAX_FAULTS = 20
"""Faults of one file that are shown."""

Loc = tuple[int | str, ...]
"""A place in a file: its keys, and the numbers of items."""


@dataclass(frozen=True)
class Document:
    """The mapping in a file. `name`: of the file in messages; `lines`: of its keys and items;
    `first`: of itself."""

    name: str
    values: dict[str, Any]
    lines: Mapping[Loc, int]
    first: int = 1

    def line(self, place: Loc) -> int:
        """The line of a place. Of what is not there: of what it would be in."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, self.first)

    def where(self, place: Loc) -> str:
        """File and line of a place."""
        return f"{self.name}:{self.line(place)}"

    def section(self, key: str) -> "Document | None":
        """The mapping at a key as a document of its own; None if there is none."""
        values = self.values.get(key)
        if not isinstance(values, dict):
            return None
        lines = {place[1:]: line for place, line in self.lines.items() if place[0] == key and len(place) > 1}
        return Document(self.name, values, lines, self.lines[key,])

    def faults(self, errors: Iterable[Mapping[str, Any]], known: Collection[str]) -> list[str]:
        """Pydantic's errors, each in one line: file, line, key, and what is wrong; in the order of the lines. `known`:
        the names of keys."""
        found: dict[tuple[Loc, str], tuple[int, str]] = {}
        for error in errors:
            place, inner = tuple(error["loc"]), error.get("ctx", {}).get("error")
            for below, words in inner.faults if isinstance(inner, Faults) else [((), None)]:
                fault = error if words is None else {"type": "value_error", "msg": words}
                there = (*place, *below)
                while there and there not in self.lines:
                    there = there[:-1]
                shown = (*place, *below) if error["type"] == "missing" or not there else there
                words = _words(fault, place, known if len(found) < MAX_FAULTS else ())
                text = f"{self.name}:{self.line(there)}: {'.'.join(map(str, shown))}: {words}"
                # A value that is none of several types is one fault, with one error for each of them.
                mark = "" if len(there) < len(place) and error["type"] != "missing" else words
                found.setdefault((shown, mark), (self.line(there), redact_text(" ".join(text.split()))))
        return [text for _, text in sorted(found.values(), key=itemgetter(0))]


class Faults(ValueError):
    """Several faults of a section, each with its place below that."""

    def __init__(self, faults: Sequence[tuple[Loc, str]]) -> None:
        super().__init__("; ".join(words for _, words in faults))
        self.faults = faults


def refused(faults: Sequence[str]) -> SettingsError:
    """The error of a file with these faults, a line for each."""
    more = len(faults) - MAX_FAULTS
    return SettingsError(*faults[:MAX_FAULTS], *([f"{more} more"] if more > 0 else []))


_TYPES = {
    "string": "text: put it in quotes",
    "dict": "a section, such as {key: value}",
    "mapping": "a section, such as {key: value}",
    "model": "a section, such as {key: value}",
}
"""What a value of a file must be, by the beginning of pydantic's name for its error, in place of `requirement`."""
_LISTS = frozenset({"tuple", "list", "set", "frozen"})


def _words(error: Mapping[str, Any], place: Loc, known: Collection[str]) -> str:
    kind, _, rest = error["type"].partition("_")
    match error["type"]:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            key = place[-1] if place else ""
            near = get_close_matches(str(key), sorted(set(known) - {key}), 1)
            return f"is not a known key{f': is it {near[0]}?' if near else ''}"
        case "string_pattern_mismatch":
            return _mismatch(error["ctx"]["pattern"], str(error["input"])[:100], place)
    if rest.endswith(("type", "parsing")) and kind in _LISTS:
        return f"must be a list, such as [{error['input'] if isinstance(error['input'], str) else 'a, b'}]"
    if rest.endswith(("type", "parsing", "from_float")) and kind in _TYPES:
        return f"must be {_TYPES[kind]}"
    own_words = str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    return requirement(error["type"], error.get("ctx", {})) or own_words


def _mismatch(pattern: str, text: str, place: Loc) -> str:
    """Why a text does not match a pattern. Text that may hold a key is not shown."""
    if r"\{key\}" in pattern and "{key}" not in text:
        return "needs {key}, where the key goes: the key itself goes into relay.yaml"
    if place[:1] in (("credential",), ("send_headers",)):
        return f"does not match {pattern}"
    if pattern.startswith("^/") and "://" in text:
        return "is no path: requests go to `base_url`, and to `origins` where an answer gives an address"
    if r"id\}" in pattern and "{id}" not in text and "{+id}" not in text:
        return f"{text!r} needs {{id}}, where the id goes"
    return f"{text!r} does not match {pattern}"


def read_document(path: Path, name: str = "") -> Document:
    """The document in a file. `name`: in messages; default: the path. Raises SettingsError with file and line."""
    name = name or str(path)
    with suppress(OSError):  # `read_text` says it
        if path.is_fifo():  # it might be waited for without an end
            raise SettingsError(f"{name}: is a named pipe, not a file")
    return parse_document(read_text(path, name), name)


def parse_document(text: str, name: str) -> Document:
    """The document in a text. Raises SettingsError with file and line."""
    tree = parse_yaml(text, name=name, max_depth=MAX_DEPTH, fast=True)
    return Document(name, tree.plain(), dict(_lines(tree, ())))


def _lines(value: Value, place: Loc) -> Iterator[tuple[Loc, int]]:
    inner: Any = value.data
    pairs = inner.items() if isinstance(inner, dict) else enumerate(inner) if isinstance(inner, list) else ()
    for key, one in pairs:
        if isinstance(one.data, int) and not -(2**63) <= one.data < 2**64:
            raise one.error("is a number of more than 64 bits: put it in quotes")
        yield (*place, key), int(one.where.rpartition(":")[2])
        yield from _lines(one, (*place, key))
