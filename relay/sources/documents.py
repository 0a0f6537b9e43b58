"""YAML files of a source: read within limits, with the line of each key for the errors about it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from operator import itemgetter
from pathlib import Path
from typing import Any

import yaml

from relay.errors import SettingsError
from relay.redaction import redact_text

MAX_FILE_BYTES = 1 << 20
MAX_VALUES = 50_000  # counted after aliases are expanded, which can turn a small file into a huge tree
MAX_DEPTH = 32
MAX_FAULTS = 20
"""Faults of one file that are shown."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml reads the presets ten times faster
_PLAIN = frozenset(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map"))

Loc = tuple[int | str, ...]
"""A place in a file: its keys, and the numbers of items."""


@dataclass(frozen=True)
class Document:
    """The mapping in a file. `name`: of the file in messages; `lines`: of its keys and items."""

    name: str
    values: dict[str, Any]
    lines: Mapping[Loc, int]

    def section(self, key: str) -> "Document | None":
        """The mapping at a key as a document of its own; None if there is none."""
        values = self.values.get(key)
        if not isinstance(values, dict):
            return None
        lines = {place[1:]: line for place, line in self.lines.items() if place[0] == key and len(place) > 1}
        return Document(self.name, values, lines)

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
                words = _words(fault, place[-1] if place else "", known)
                text = f"{self.name}:{self.lines.get(there, 1)}: {'.'.join(map(str, shown))}: {words}"
                # A value that is none of several types is one fault, with one error for each of them.
                mark = "" if len(there) < len(place) and error["type"] != "missing" else words
                found.setdefault((shown, mark), (self.lines.get(there, 1), redact_text(" ".join(text.split()))))
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


def _words(error: Mapping[str, Any], key: object, known: Collection[str]) -> str:
    match error["type"]:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            near = get_close_matches(str(key), sorted(set(known) - {key}), 1)
            return f"is not a known key{f': is it {near[0]}?' if near else ''}"
        case "string_pattern_mismatch":
            pattern, text = error["ctx"]["pattern"], str(error["input"])[:100]
            if pattern.startswith("^/") and "://" in text:
                return "is no path: requests go to `base_url`, and to `origins` where an answer gives an address"
            return f"{text!r} does not match {pattern}"
    return str(error["msg"]).removeprefix("Value error, ")


def read_document(path: Path, name: str = "") -> Document:
    """The document in a file. `name`: in messages; default: the path. Raises SettingsError with file and line."""
    name = name or str(path)
    try:
        if not path.is_file():
            raise SettingsError(f"{name}: {'is not a file' if path.exists() else 'there is no such file'}")
        with path.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{name}: cannot be read ({error.strerror})") from None
    if len(raw) > MAX_FILE_BYTES:
        raise SettingsError(f"{name}: larger than 1 MiB, the limit for a source's file")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{name}:{line}: not UTF-8 text: save the file as UTF-8") from None
    return parse_document(text, name)


def parse_document(text: str, name: str) -> Document:
    """The document in a text. Raises SettingsError with file and line."""
    try:
        loader = _LOADER(text)
        try:
            root = loader.get_single_node()
            lines = {} if root is None else _Lines(name).of(root)
            values = None if root is None else loader.construct_document(root)
        finally:
            loader.dispose()
    except SettingsError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise SettingsError(f"{name}:{line}: not YAML: {error.problem or 'it breaks off'}") from None
    except Exception as error:  # PyYAML raises more than YAMLError: `!!int ""` is an IndexError
        raise SettingsError(f"{name}: not YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{name}:1: expected a mapping of keys, with one `key: value` a line")
    return Document(name, values, lines)


class _Lines:
    """The lines of a tree of nodes. Raises SettingsError for what is not plain, or too large."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lines: dict[Loc, int] = {}
        self._count = 0

    def of(self, root: yaml.Node) -> Mapping[Loc, int]:
        self._visit(root, ())
        return self._lines

    def _visit(self, node: yaml.Node, place: Loc) -> None:
        self._count += 1
        if self._count > MAX_VALUES:
            raise self._wrong(node, f"more than {MAX_VALUES} values after expanding aliases")
        if len(place) > MAX_DEPTH:
            raise self._wrong(node, f"nested deeper than {MAX_DEPTH} levels")
        if node.tag not in _PLAIN:
            kind = node.tag.rpartition(":")[2]
            raise self._wrong(node, f"{_shown(place)} has the YAML type {kind}: use plain values, or put it in quotes")
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                self._visit(value, self._key(key, place))
        elif isinstance(node, yaml.SequenceNode):
            for number, value in enumerate(node.value):
                self._lines[*place, number] = value.start_mark.line + 1
                self._visit(value, (*place, number))

    def _key(self, key: yaml.Node, place: Loc) -> Loc:
        if key.tag == "tag:yaml.org,2002:merge":
            raise self._wrong(key, "merge keys (<<) are not supported: write the keys out")
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            raise self._wrong(key, f"a key in {_shown(place)} is not text: put it in quotes")
        inner = (*place, str(key.value))
        if inner in self._lines:
            raise self._wrong(key, f"{_shown(inner)} is set twice, first in line {self._lines[inner]}: remove one")
        self._lines[inner] = key.start_mark.line + 1
        return inner

    def _wrong(self, node: yaml.Node, problem: str) -> SettingsError:
        return SettingsError(f"{self._name}:{node.start_mark.line + 1}: {problem}")


def _shown(place: Loc) -> str:
    return ".".join(map(str, place))[:200] or "the file"
