"""Strict reader for definition YAML: values are read by name and type, and unknown keys are refused.

Each problem is a one-line SettingsError that names the file, the key and what was expected.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from relay.errors import SettingsError

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml reads the presets ten times faster


class Section:
    """One mapping of a YAML file. It records which keys were read, so that `finish` can refuse the rest."""

    def __init__(self, file: str, key: str, values: Mapping[str, Any]) -> None:
        self._file = file
        self._key = key
        self._values = values
        self._read: set[str] = set()

    @classmethod
    def load(cls, path: Path) -> "Section":
        """Loads a file. Raises SettingsError if it cannot be read or is not a mapping."""
        try:
            values = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)  # noqa: S506 (safe either way)
        except Exception as error:  # PyYAML raises more than YAMLError: `!!int ""` is an IndexError
            raise SettingsError(f"{path.name}: cannot be read: {' '.join(str(error).split())}") from None
        if not isinstance(values, dict):
            raise SettingsError(f"{path.name}: expected a mapping of keys")
        return cls(path.name, "", values)

    def error(self, name: str, problem: str) -> SettingsError:
        """The error to raise about `name` in this section."""
        return SettingsError(f"{self._file}: {self._path(name)}: {problem}")

    def names(self) -> tuple[str, ...]:
        """The keys of this section. Raises SettingsError if one is not text."""
        for name in self._values:
            if not isinstance(name, str):
                raise self.error(str(name), "expected text as the key")
        return tuple(self._values)

    def section(self, name: str) -> "Section":
        """The mapping at `name`."""
        value = self._get(name)
        if not isinstance(value, dict):
            raise self.error(name, "expected a mapping")
        return Section(self._file, self._path(name), value)

    def optional_section(self, name: str) -> "Section | None":
        """The mapping at `name`; None if there is no such key."""
        self._read.add(name)
        return self.section(name) if name in self._values else None

    def text(self, name: str, *, pattern: str = r"\S(?:.*\S)?", expected: str = "text") -> str:
        """The text at `name`, which has to match `pattern` in full."""
        value = self._get(name)
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise self.error(name, f"expected {expected}")
        return value

    def choice(self, name: str, choices: Iterable[str]) -> str:
        """The text at `name`, one of `choices`."""
        value = self._get(name)
        if not isinstance(value, str) or value not in choices:
            raise self.error(name, f"expected one of {', '.join(sorted(choices))}")
        return value

    def optional_choice(self, name: str, choices: Iterable[str]) -> str | None:
        """The text at `name`, one of `choices`; None if there is no such key."""
        self._read.add(name)
        return self.choice(name, choices) if name in self._values else None

    def texts(self, name: str) -> tuple[str, ...]:
        """The list of text at `name`."""
        value = self._get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise self.error(name, "expected a list of text")
        return tuple(value)

    def finish(self) -> None:
        """Raises SettingsError if the section has a key that was not read."""
        for name in self.names():
            if name not in self._read:
                raise self.error(name, f"is not known here: {', '.join(sorted(self._read))}")

    def _get(self, name: str) -> object:
        self._read.add(name)
        if name not in self._values:
            raise self.error(name, "is missing")
        return self._values[name]

    def _path(self, name: str) -> str:
        return f"{self._key}.{name}" if self._key else name
