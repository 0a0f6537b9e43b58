"""The section `subscriptions`: each entry as it was written, with the line of every value.

The API's models know what a subscription looks like, and this package does not know the API: it checks only that each
entry is a mapping with an `id`. Code that checks more finds the place of a mistake with `place_of`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from relay.config.loader import Value
from relay.errors import SettingsError


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


def declared(value: Value) -> Declared:
    """An entry as it was written. Raises SettingsError if it is not a mapping with an id. Text from a reference, such
    as `${file:/run/secrets/crm}`, stays text."""
    if not isinstance(value.data, dict):
        raise value.error("must be a mapping such as {id: crm, sink: https://…}")
    id = value.data.get("id")
    if id is None or not isinstance(id.data, str) or not id.data:
        raise (id or value).error("needs an id of your own choice, such as `id: crm`")
    document = {name: _plain(child) for name, child in value.data.items()}
    return Declared(document, value)


def place_of(entries: Sequence[Declared], pointer: str) -> tuple[str, str]:
    """Where the value of a JSON Pointer into `{"subscriptions": […]}` was written, and its key. Of a value that is
    missing, the place of what should contain it."""
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
    """The error about one value, in the form of all mistakes in the settings."""
    where, key = place_of(entries, pointer)
    return SettingsError(f"{where}: in {key}, {detail}")


def _plain(value: Value) -> Any:
    data = value.data
    if isinstance(data, dict):
        return {name: _plain(child) for name, child in data.items()}
    if isinstance(data, list):
        return [_plain(child) for child in data]
    return data
