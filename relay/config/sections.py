"""Sections of settings as frozen dataclasses: declaring their fields, reading them, listing them, comparing them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from typing import Any, NamedTuple, TypeVar

from relay.config.kinds import NAME, Kind, is_name, mapping
from relay.config.loader import Value
from relay.errors import SettingsError

T = TypeVar("T")


class SettingDoc(NamedTuple):
    """One setting for the documentation: `key` has NAME for what a user names, `[]` for an entry of a list."""

    key: str
    type: str
    default: str
    meaning: str
    reloaded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Declared:
    kind: Kind[Any]
    meaning: str
    reloaded: bool
    default: str | None
    file_field: str | None
    entry: type[Any] | None


def setting(
    kind: Kind[T],
    default: T,
    meaning: str,
    *,
    secret: bool = False,
    reloaded: bool = False,
    shown_default: str | None = None,
    file_field: str | None = None,
    entry: type[Any] | None = None,
) -> T:
    """One setting with its default. `secret` keeps it out of reprs; `reloaded`: SIGHUP suffices for a change.

    `file_field` names the field that takes the path when the value is `${file:/path}`; `entry` is the section that each
    entry of a list is.
    """
    declared = _Declared(
        kind=kind,
        meaning=meaning,
        reloaded=reloaded,
        default=shown_default if shown_default is not None else _yaml(default),
        file_field=file_field,
        entry=entry,
    )
    made: T = field(default=default, repr=not secret, metadata={"setting": declared})
    return made


def needed(kind: Kind[T], meaning: str, *, secret: bool = False) -> T:
    """A setting without a default, in an entry of a list."""
    declared = _Declared(kind=kind, meaning=meaning, reloaded=True, default=None, file_field=None, entry=None)
    made: T = field(repr=not secret, metadata={"setting": declared})
    return made


def section(cls: type[T]) -> T:
    """A section within a section; all of it has defaults."""
    return field(default_factory=cls, metadata={"section": cls})


def sections(cls: type[T], default_name: str) -> Mapping[str, T]:
    """Sections of one shape under names that the user gives; by default one, with `default_name`."""
    make: Any = cls
    return field(default_factory=lambda: {default_name: make(name=default_name)}, metadata={"sections": cls})


def read_section(cls: type[T], value: Value, *, known: list[str], **given: Any) -> T:
    """The section that this mapping writes; what it leaves out has its default. Raises SettingsError.

    `known` are all keys there are, to guess what an unknown one was meant to be. A method `check(value)` of the section
    is called at the end.
    """
    shape: Any = cls
    written = mapping(value)
    names = [each.name for each in fields(shape) if each.metadata]
    for name, child in written.items():
        if name not in names:
            raise _unknown(name, child, value.key, names, known)
    for each in fields(shape):
        child_value = written.get(each.name)
        if child_value is None:
            if each.metadata and each.default is MISSING and each.default_factory is MISSING:
                raise value.error(f"has no {each.name}: it needs {', '.join(names)}")
        elif "section" in each.metadata:
            given[each.name] = read_section(each.metadata["section"], child_value, known=known)
        elif "sections" in each.metadata:
            children = _named(each.metadata["sections"], child_value, known)
            if children:
                given[each.name] = children
        else:
            declared: _Declared = each.metadata["setting"]
            given[each.name] = declared.kind.read(child_value)
            if declared.file_field is not None:
                given[declared.file_field] = child_value.file
    made = cls(**given)
    check = getattr(made, "check", None)
    if check is not None:
        check(value)
    return made


def describe_section(cls: type[Any], prefix: str = "") -> Iterator[SettingDoc]:
    """Every setting of this section and of the sections below it, in the order they are declared."""
    for each in fields(cls):
        key = f"{prefix}{each.name}"
        if "section" in each.metadata:
            yield from describe_section(each.metadata["section"], f"{key}.")
        elif "sections" in each.metadata:
            yield from describe_section(each.metadata["sections"], f"{key}.NAME.")
        elif each.metadata:
            declared: _Declared = each.metadata["setting"]
            default = "(needed)" if declared.default is None else declared.default
            yield SettingDoc(key, declared.kind.name, default, declared.meaning, declared.reloaded)
            if declared.entry is not None:
                yield from describe_section(declared.entry, f"{key}[].")


def walk(made: Any, prefix: str = "") -> Iterator[tuple[str, Any, bool]]:
    """(key, value, whether SIGHUP suffices) of every setting as it is. The values hold secrets: compare, never show."""
    for each in fields(made):
        key, value = f"{prefix}{each.name}", getattr(made, each.name)
        if "section" in each.metadata:
            yield from walk(value, f"{key}.")
        elif "sections" in each.metadata:
            yield key, sorted(value), False
            for name, child in value.items():
                yield from walk(child, f"{key}.{name}.")
        elif each.metadata:
            yield key, value, each.metadata["setting"].reloaded


def _named(cls: type[T], value: Value, known: list[str]) -> dict[str, T]:
    made: dict[str, T] = {}
    for name, child in mapping(value).items():
        if not is_name(name):
            raise SettingsError(f"{child.where}: a key of {value.key} must be {NAME}")
        made[name] = read_section(cls, child, known=known, name=name)
    return made


def _unknown(name: str, child: Value, path: str, siblings: list[str], known: list[str]) -> SettingsError:
    """Guess among the siblings first, then for the same word elsewhere, then the nearest sibling after all."""
    prefix = f"{path}." if path else ""
    close = [f"{prefix}{near}" for near in get_close_matches(name, siblings, n=1, cutoff=0.6)]
    if not close:
        leaves = {key.rpartition(".")[2]: key for key in reversed(known)}
        close = [leaves[near] for near in get_close_matches(name, leaves, n=1, cutoff=0.8)]
    if not close:
        close = [f"{prefix}{near}" for near in get_close_matches(name, siblings, n=1, cutoff=0.0)]
    here = ", ".join(siblings)
    return SettingsError(f"{child.where}: unknown key {prefix}{name}: did you mean {close[0]}? Known here: {here}")


def _yaml(default: object) -> str:
    if isinstance(default, tuple):
        return f"[{', '.join(_yaml(item) for item in default)}]"
    if isinstance(default, float):
        return f"{default:g}" if default < 1e6 and default != int(default) else str(int(default))
    return json.dumps(default)
