"""Binds a tree of written values to the models of the settings.

`bind` validates with pydantic and turns the first error into one line with the value's place and key, what is expected,
and the value unless it may be secret. `describe` lists a model's settings for the documentation, `effective` those in
force, with the place where each was written.
"""

import dataclasses
import ipaddress
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from relay.config.declared import Declared, declared
from relay.config.fields import NAME, Form, Section, is_name
from relay.config.loader import Value, parse_text
from relay.core.values import DEFAULT, EffectiveSetting
from relay.errors import SettingsError
from relay.redaction import redact_text

S = TypeVar("S", bound=Section)

MAX_SHOWN = 60

_REFERENCE = re.compile(r"\$?\$\{([^}]*)\}")
_INDEX = re.compile(r"\[\d+\]")
NOT_FOLLOWED = frozenset({"subscriptions"})
"""Lists whose entries are no settings of their own."""

_LIMITS = ("ge", "gt", "le", "lt", "max_length")


class SettingDoc(NamedTuple):
    """One setting for the documentation. In `key`, NAME stands for a name of the user's, `[]` for a list's entry."""

    key: str
    type: str
    default: str
    meaning: str
    reloaded: bool


class Misplaced(ValueError):
    """A validator's error about one key of its section, or one entry of its list."""

    def __init__(self, key: str | int, problem: str) -> None:
        super().__init__(problem)
        self.key = key


def bind(model: type[S], tree: Value, **filled: Any) -> S:
    """The model with the tree's values, its own defaults, and the fields in `filled`. Raises SettingsError."""
    return _bind(model, tree, [doc.key for doc in describe(model)], filled)


def describe(model: type[Section], prefix: str = "") -> Iterator[SettingDoc]:
    """Every setting of this section and the sections below it, in the order of declaration."""
    for name, field in model.model_fields.items():
        key, kind = f"{prefix}{name}", _kind_of(field)
        if isinstance(extra := field.json_schema_extra, dict):
            yield SettingDoc(key, kind.phrase, str(extra["default"]), field.description or "", bool(extra["reloaded"]))
        for candidate in (kind.base, *get_args(kind.base)):
            if _is_section(candidate):
                place = {tuple: "[]", None: ""}.get(get_origin(kind.base), ".NAME")
                yield from describe(candidate, f"{key}{place}.")


def settings_in(made: Section, prefix: str = "") -> Iterator[tuple[str, Any, FieldInfo]]:
    """(key, value, field) of every setting; a list is one. The values hold secrets: compare, never show."""
    for name, field in type(made).model_fields.items():
        key, value = f"{prefix}{name}", getattr(made, name)
        if isinstance(value, Section):
            yield from settings_in(value, f"{key}.")
        elif isinstance(value, Mapping):
            for child_name, child in value.items():
                yield from settings_in(child, f"{key}.{child_name}.")
        elif isinstance(field.json_schema_extra, dict):
            yield key, value, field


def is_reloaded(field: FieldInfo) -> bool:
    """True if SIGHUP applies a change of this setting."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra["reloaded"])


def effective(made: Section, written: "Written", prefix: str = "") -> Iterator[EffectiveSetting]:
    """Every setting of this section and those below it. A secret has no value here."""
    for key, value, field in settings_in(made, prefix):
        if isinstance(value, tuple) and value and isinstance(value[0], Section):
            for index, child in enumerate(value):
                yield from effective(child, written, f"{key}[{index}].")
            continue
        secret, extra = not field.repr, field.json_schema_extra
        assert isinstance(extra, dict)
        yield EffectiveSetting(
            key=key,
            value=_as_json(value) if not secret or value == field.default else None,
            secret=secret,
            is_set=value is not None and value != (),
            place=written.place(key),
            reloaded=bool(extra["reloaded"]),
            default=str(extra["default"]),
            type=_kind_of(field).phrase,
            meaning=field.description or "",
        )


def _as_json(value: Any) -> object:
    if isinstance(value, tuple):
        return [_as_json(one) for one in value]
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return str(value)
    return value.id if isinstance(value, Declared) else value


# --- where they were written


@dataclasses.dataclass(frozen=True, slots=True)
class Written:
    """The place of each written value, by its key. Settings with the same values are equal wherever they come from."""

    places: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def place(self, key: str) -> str:
        """Place of a setting's value. For an entry of a list: at least the place of the list."""
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


def _places(value: Value, key: str) -> Iterator[tuple[str, str]]:
    if key:
        yield key, value.where + _references_in(value)
    if isinstance(value.data, dict):
        for name, child in value.data.items():
            yield from _places(child, f"{key}.{name}" if key else name)
    elif isinstance(value.data, list) and key not in NOT_FOLLOWED:
        for index, child in enumerate(value.data):
            yield from _places(child, f"{key}[{index}]")


def _references_in(value: Value) -> str:
    """The references in a text, such as ` (${REVOR_API_KEY})`."""
    if not isinstance(value.data, str):
        return ""
    names = [found[0] for found in _REFERENCE.finditer(value.data) if not found[0].startswith("$$")]
    return f" ({', '.join(names)})" if names else ""


# --- from written values to a model


def _bind(model: type[S], value: Value, known: list[str], filled: dict[str, Any]) -> S:
    names = [name for name, field in model.model_fields.items() if not field.exclude]
    given = dict(filled)
    for name, child in _children(value).items():
        if name not in names:
            raise _unknown(name, child, value.key, names, known)
        field = model.model_fields[name]
        if field.description is None and not _children(child):
            continue  # a section without keys is the default
        given[name] = _plain(_kind_of(field), child, known)
        if child.file is not None and f"{name}_file" in model.model_fields:
            given[f"{name}_file"] = child.file
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise _problem(model, value, error.errors(include_url=False, include_input=False)[0]) from None


def _plain(kind: "_Kind", value: Value, known: list[str]) -> Any:
    """The data for pydantic, with sections bound. A variable's text is parsed as YAML, unless the setting is text."""
    if kind.optional and (value.data is None or (value.untyped and value.data in ("null", "~"))):
        return None
    if kind.form is not None and kind.form.text:
        return value.data if value.raw is None else value.raw
    if _is_section(kind.base):
        return _bind(kind.base, value, known, {})
    if get_origin(kind.base) is Mapping:
        for name, child in _children(value).items():
            if not is_name(name):
                raise SettingsError(f"{child.where}: a key of {value.key} must be {NAME.expected}")
        section = get_args(kind.base)[1]
        return {name: _bind(section, child, known, {"name": name}) for name, child in _children(value).items()}
    if kind.base is Declared:
        return declared(value)
    data = _typed(value).data
    if isinstance(data, list):
        entry = _kind(get_args(kind.base)[0]) if get_origin(kind.base) is tuple else _Kind(Any, None, {}, False)
        return tuple(_plain(entry, item, known) for item in data)
    return data


def _children(value: Value) -> dict[str, Value]:
    """The children of a mapping; none for nothing (`server:` with no keys below it)."""
    data = _typed(value).data
    if data is not None and not isinstance(data, dict):
        raise value.error(f"must be a section, with one `key: value` a line{_shown(value)}")
    return data or {}


def _typed(value: Value) -> Value:
    return parse_text(value) if value.untyped and isinstance(value.data, str) else value


# --- from pydantic's errors to ours


def _problem(model: type[Section], value: Value, error: Any) -> SettingsError:
    """One of pydantic's errors in the words of the settings: about the section, a field, or an entry of its list."""
    cause = error.get("ctx", {}).get("error")
    if not error["loc"]:
        at = _entry(value, cause.key) if isinstance(cause, Misplaced) else value
        return at.error(str(cause))
    name, *index = error["loc"]
    if error["type"] == "missing":
        return value.error(f"has no {name}: it needs {', '.join(model.model_fields)}")
    kind, value = _kind_of(model.model_fields[name]), _entry(value, name)
    if index:
        kind = _kind(get_args(kind.base)[0])
        value = _entry(value, index[0])
    if isinstance(cause, Misplaced):
        return _entry(value, cause.key).error(str(cause))
    match error["type"]:
        case "too_long":
            count = error["ctx"]["actual_length"]
            return value.error(f"has {count} entries: at most {error['ctx']['max_length']} are possible")
        case "string_too_short":
            return value.error(f"is empty: it must be {kind.expected}")
        case "string_too_long":
            return value.error(f"is too long: it must be {kind.expected}")
        case "string_type" if isinstance(value.data, int | float):
            problem = "must be {expected} (put it in quotes)"
        case _:
            problem = "must be {expected}" if cause is None else str(cause)
    shown = "" if kind.form is not None and not kind.form.shown else _shown(value)
    return value.error(problem.replace("{expected}", kind.expected) + shown)


def _entry(value: Value, key: str | int) -> Value:
    data: Any = _typed(value).data
    found: Value = data[key]
    return found


def _unknown(name: str, child: Value, path: str, siblings: list[str], known: list[str]) -> SettingsError:
    """Suggests a similar sibling, else the same word elsewhere, else the nearest sibling."""
    prefix = f"{path}." if path else ""
    close = [f"{prefix}{near}" for near in get_close_matches(name, siblings, n=1, cutoff=0.6)]
    if not close:
        leaves = {key.rpartition(".")[2]: key for key in reversed(known)}
        close = [leaves[near] for near in get_close_matches(name, leaves, n=1, cutoff=0.8)]
    if not close:
        close = [f"{prefix}{near}" for near in get_close_matches(name, siblings, n=1, cutoff=0.0)]
    here = ", ".join(siblings)
    return SettingsError(f"{child.where}: unknown key {prefix}{name}: did you mean {close[0]}? Known here: {here}")


def _shown(value: Value) -> str:
    """The value for a message, redacted and cut; nothing of a reference's."""
    data = value.data
    if value.hidden:
        return ""
    if data is None:
        return ", not null (nothing)"
    if isinstance(data, dict):
        return ", not a mapping"
    if isinstance(data, list):
        return ", not a list"
    if isinstance(data, int) and data.bit_length() > 4 * MAX_SHOWN:  # Python cannot print huge numbers
        return ", not a number of so many digits"
    shown = redact_text(json.dumps(data, ensure_ascii=False))
    return f", not {shown if len(shown) <= MAX_SHOWN else shown[: MAX_SHOWN - 3] + '…'}"


# --- types


class _Kind(NamedTuple):
    """A type without Annotated and None: what it is, what its metadata says, and whether None is allowed."""

    base: Any
    form: Form | None
    limits: dict[str, Any]
    optional: bool

    @property
    def phrase(self) -> str:
        return f"{self.expected}, or null" if self.optional else self.expected

    @property
    def expected(self) -> str:
        """The end of "must be …": the type's form, or words for its constraints."""
        if self.form is not None:
            return self.form.expected
        if self.base is bool:
            return "true or false"
        if get_origin(self.base) is Literal:
            return f"one of {', '.join(get_args(self.base))}"
        limits = self.limits
        if get_origin(self.base) is tuple:
            return f"a list of at most {limits['max_length']}, each {_kind(get_args(self.base)[0]).phrase}"
        low = f"from {limits['ge']} to" if "ge" in limits else f"above {limits['gt']} and at most"
        high = f"below {limits['lt']}" if "lt" in limits else limits.get("le")
        number = "a whole number" if self.base is int else "a number"
        return f"{number} {low} {high}" if high is not None else f"{number} above {limits['gt']}"


def _kind_of(field: FieldInfo) -> _Kind:
    return _kind(field.annotation, field.metadata)


def _kind(annotation: Any, metadata: Sequence[Any] = ()) -> _Kind:
    found, optional = list(metadata), False
    while get_origin(annotation) is Annotated or NoneType in get_args(annotation):
        if get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            found += more
        else:
            annotation = next(arg for arg in get_args(annotation) if arg is not NoneType)
            optional = True
    flat = [each for item in found for each in (item.metadata if isinstance(item, FieldInfo) else [item])]
    form = next((each for each in flat if isinstance(each, Form)), None)
    limits = {name: getattr(each, name) for each in flat for name in _LIMITS if hasattr(each, name)}
    return _Kind(annotation, form, limits, optional)


def _is_section(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, Section)
