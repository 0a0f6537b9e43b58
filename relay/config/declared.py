"""The section `subscriptions`: each entry as it was written, with the line of every value.

The API's models know what a subscription looks like, and this package does not know the API: it checks only that each
entry is a mapping with an `id`, and that references stand where secrets may. Code that checks more finds the place of a
mistake with `place_of`. The value of a reference is never shown: `masked` gives texts as they were written.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from relay.config.loader import Value
from relay.errors import SettingsError

Path = tuple[str | int, ...]

MAY_REFER = (
    ("sink",),
    ("protocolsettings", "headers"),
    ("sinkcredential",),
    ("config", "secret"),
    ("config", "template"),
)
"""The fields that may have references. Their values are hidden in plans and errors."""
REVEALING_LENGTH = 8
"""A text reveals a value if it contains this many of its characters in a row."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A text of an entry with `${…}`: where it is in the entry, what it stands for, and as it was written."""

    path: Path
    value: str = field(repr=False)
    written: str


@dataclass(frozen=True, slots=True)
class Declared:
    """One entry. `document` is its plain data; it may hold secrets."""

    document: dict[str, Any] = field(repr=False)
    written: Value = field(repr=False, compare=False)

    @property
    def id(self) -> str:
        """The subscription's id."""
        given: str = self.document["id"]
        return given

    @property
    def references(self) -> tuple[Reference, ...]:
        """The texts with `${…}` in it."""
        return tuple(
            Reference(path, str(found.data), found.written or "${…}") for path, found in _references(self.written, ())
        )


def declared(value: Value) -> Declared:
    """An entry as it was written. Raises SettingsError if it is not a mapping with an id, or has a reference where none
    may be. Text from a reference, such as `${file:/run/secrets/crm}`, stays text."""
    if not isinstance(value.data, dict):
        raise value.error("must be a mapping such as {id: crm, sink: https://…}")
    for path, found in _references(value, ()):
        if not any(path[: len(place)] == place for place in MAY_REFER):
            raise found.error(
                "has a ${…}, which only sink, headers, sinkcredential, secret and template may have: write its value, "
                "or $${ for a literal ${"
            )
    id = value.data.get("id")
    if id is None or not isinstance(id.data, str) or not id.data:
        raise (id or value).error("needs an id of your own choice, such as `id: crm`")
    document = {name: _plain(child) for name, child in value.data.items()}
    return Declared(document, value)


def place_of(entries: Sequence[Declared], pointer: str) -> tuple[str, str]:
    """File and line of the value of a JSON Pointer into `{"subscriptions": […]}`, and its key. For a missing value: the
    place of the object that should contain it."""
    _, _, index, *path = (part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/"))
    entry = entries[int(index)].written
    here: Value | None = entry
    where, key = entry.where, entry.key
    for part in path:
        data = None if here is None else here.data
        here = None
        if isinstance(data, dict):
            here = data.get(part)
        elif isinstance(data, list) and part.isdecimal() and int(part) < len(data):
            here = data[int(part)]
        key = f"{key}[{part}]" if isinstance(data, list) else f"{key}.{part}"
        if here is not None:
            where = here.where
    return where, key


def mistake(entries: Sequence[Declared], pointer: str, detail: str) -> SettingsError:
    """The error about one value, in the form of all mistakes in the settings. It does not contain the
    values of references."""
    where, key = place_of(entries, pointer)
    _, _, index, *path = pointer.split("/")
    here = [
        one
        for one in entries[int(index)].references
        if all(str(part) == given for part, given in zip(one.path, path, strict=False))
    ]
    return SettingsError(f"{where}: in {key}, {masked(entries, detail, here)}")


def masked(entries: Sequence[Declared], text: str, here: Sequence[Reference] = ()) -> str:
    """The text with the references of these entries in place of their values. `here`: the references that the text is
    about; of these, short values are hidden too."""
    found = [one for entry in entries for one in entry.references]
    for one in sorted(found, key=lambda one: -len(one.value)):
        if len(one.value) >= REVEALING_LENGTH:
            text = text.replace(one.value, one.written)
        if (one in here or len(one.value) >= REVEALING_LENGTH) and _reveals(text.replace(one.written, ""), one.value):
            return f"the value of {one.written} is refused. The reason is hidden, because it has a part of that value"
    return text


def _reveals(text: str, value: str) -> bool:
    """True if a text contains a part of a value other than its scheme."""
    text, value = text.casefold(), value.casefold()
    value = value.partition("://")[2] or value
    size = min(len(value), REVEALING_LENGTH)
    return any(value[first : first + size] in text for first in range(len(value) - size + 1))


def _references(value: Value, path: Path) -> Iterator[tuple[Path, Value]]:
    data = value.data
    if isinstance(data, dict):
        for name, child in data.items():
            yield from _references(child, (*path, name))
    elif isinstance(data, list):
        for index, child in enumerate(data):
            yield from _references(child, (*path, index))
    elif value.hidden:
        yield path, value


def _plain(value: Value) -> Any:
    data = value.data
    if isinstance(data, dict):
        return {name: _plain(child) for name, child in data.items()}
    if isinstance(data, list):
        return [_plain(child) for child in data]
    return data
