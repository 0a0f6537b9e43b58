"""Where each setting was written, and every setting as it is in force."""

import ipaddress
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from relay.config.binding import phrase_of
from relay.config.declared import Declared
from relay.config.fields import Section
from relay.config.loader import Value
from relay.core.values import DEFAULT, EffectiveSetting

_REFERENCE = re.compile(r"\$?\$\{([^}]*)\}")
_INDEX = re.compile(r"\[\d+\]")
NOT_FOLLOWED = frozenset({"subscriptions"})
"""Lists whose entries are no settings of their own."""


@dataclass(frozen=True, slots=True)
class Written:
    """The place of each written value, by its key. Settings with the same values are equal wherever they come from."""

    places: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def place(self, key: str) -> str:
        """Where the value of a setting comes from: of an entry of a list at least where the list was written."""
        while key not in self.places:
            if "[" not in key:
                return DEFAULT
            key = key[: max(key.rfind("["), key.rfind("."))]
        return self.places[key]

    def opened(self, keys: Collection[str], place: str) -> "Written":
        """With these keys changed by an option, such as `--dev`, after they were read."""
        before = {key: self.place(key) for key in keys}
        return self.including({key: place if at == DEFAULT else f"{at}, {place}" for key, at in before.items()})

    def including(self, places: Mapping[str, str]) -> "Written":
        """With more of them."""
        return Written({**self.places, **places})

    def reread(self, new: "Written", keys: Collection[str]) -> "Written":
        """After a reload: of the settings with these keys the new places, of the others these."""

        def of(written: "Written", *, reread: bool) -> dict[str, str]:
            return {key: at for key, at in written.places.items() if (_INDEX.split(key)[0] in keys) is reread}

        return Written(of(self, reread=False) | of(new, reread=True))


def written_in(tree: Value) -> Written:
    """The places of a tree of values, before its references are replaced: a place names these too."""
    return Written(dict(_places(tree, "")))


def effective(made: Section, written: Written, prefix: str = "") -> Iterator[EffectiveSetting]:
    """Every setting of this section and those below it. A secret has no value here."""
    for name, model_field in type(made).model_fields.items():
        key, value, extra = f"{prefix}{name}", getattr(made, name), model_field.json_schema_extra
        if isinstance(value, Section):
            yield from effective(value, written, f"{key}.")
        elif isinstance(value, Mapping):
            for child_name, child in value.items():
                yield from effective(child, written, f"{key}.{child_name}.")
        elif isinstance(extra, dict):
            if isinstance(value, tuple) and value and all(isinstance(one, Section) for one in value):
                for index, child in enumerate(value):
                    yield from effective(child, written, f"{key}[{index}].")
                continue
            secret = not model_field.repr
            shown = not secret or value == model_field.default
            yield EffectiveSetting(
                key=key,
                value=_json(value) if shown else None,
                secret=secret,
                is_set=value is not None and value != (),
                place=written.place(key),
                reloaded=bool(extra["reloaded"]),
                default=str(extra["default"]),
                type=phrase_of(model_field),
                meaning=model_field.description or "",
            )


def _places(value: Value, key: str) -> Iterator[tuple[str, str]]:
    if key:
        yield key, value.where + _references(value)
    if isinstance(value.data, dict):
        for name, child in value.data.items():
            yield from _places(child, f"{key}.{name}" if key else name)
    elif isinstance(value.data, list) and key not in NOT_FOLLOWED:
        for index, child in enumerate(value.data):
            yield from _places(child, f"{key}[{index}]")


def _references(value: Value) -> str:
    """The references in a text, such as ` (${REVOR_API_KEY})`."""
    if not isinstance(value.data, str):
        return ""
    names = [found[0] for found in _REFERENCE.finditer(value.data) if not found[0].startswith("$$")]
    return f" ({', '.join(names)})" if names else ""


def _json(value: Any) -> object:
    """The value as JSON has it."""
    if isinstance(value, tuple):
        return [_json(one) for one in value]
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return str(value)
    return value.id if isinstance(value, Declared) else value
