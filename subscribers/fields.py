"""The fields of a subscription as a person writes them, on the command line and in the dashboard's form: merged where
several kinds of sinks, or of credentials, have one."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import orjson
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from relay.core.events.sentences import enumerated
from relay.core.jsontext import JSONDecodeError, dumps, loads
from subscribers.options import Cli, Options, annotations_of, markers
from subscribers.registry import kinds

Part = Literal["", "config", "protocolsettings", "sinkcredential"]
"""The object that has a field; "" is the subscription itself."""
Shape = Literal["switch", "number", "decimal", "text", "words", "word or words", "pairs", "values", "json", "list"]
"""The form in which a person writes a value. `values`: those of an object, in order. `list`: of JSON values."""
JSON_SHAPES = ("json", "list")
_LIMITS = {"ge": "min", "gt": "min", "le": "max", "lt": "max", "max_length": "maxlength"}


@dataclass(frozen=True)
class WrittenField:
    """One field. `ways`: how it is declared, by who has it, in words; "" is every subscription."""

    part: Part
    name: str
    ways: Mapping[str, FieldInfo]
    cli: Cli
    shape: Shape

    @property
    def path(self) -> str:
        """Its part and name, such as `config.kind`."""
        return f"{self.part}.{self.name}" if self.part else self.name

    @property
    def short(self) -> str:
        """Its name on the command line, with underscores."""
        return self.cli.option or self.name

    @property
    def label(self) -> str:
        """Its name above a field of a form."""
        title = next((field.title for field in self.ways.values() if field.title), None)
        return title or self.short.replace("_", " ").capitalize()

    @property
    def is_common(self) -> bool:
        """True if every subscription has it."""
        return "" in self.ways

    @cached_property
    def words(self) -> str:
        """Its description."""
        owners: dict[str, list[str]] = {}
        for who, field in self.ways.items():
            owners.setdefault(field.description or "", []).extend([who] if who else [])
        return " ".join(f"{', '.join(who)}: {text}" if who else text for text, who in owners.items())

    @cached_property
    def example(self) -> str:
        """A value as it is written; empty if there is none."""
        values = [one.examples[0] for one in self.ways.values() if one.examples]
        return self.text_of(values[0], indent=False) if values else ""

    @cached_property
    def choices(self) -> Sequence[str]:
        """Its values, if there are only some."""
        found = [_choices(field.annotation) for field in self.ways.values()]
        return tuple(dict.fromkeys(str(one) for some in found for one in some)) if all(found) else ()

    @property
    def has_choice(self) -> bool:
        """False if it has one value only."""
        return len(self.choices) != 1

    @cached_property
    def limits(self) -> Mapping[str, object]:
        """The attributes of a field in HTML for its limits, where all who have it have the same."""
        found = [
            {
                at: limit
                for name, at in _LIMITS.items()
                for one in annotations_of(field)
                if (limit := getattr(one, name, None))
            }
            for field in self.ways.values()
        ]
        is_sized = self.shape in ("number", "decimal", "text")
        limits = found[0] if is_sized and all(one == found[0] for one in found) else {}
        return limits | ({"step": "any"} if self.shape == "decimal" else {})

    @cached_property
    def is_secret(self) -> bool:
        """True if its value is never shown again."""
        fields = [
            one for field in self.ways.values() for one in (field, *annotations_of(field)) if isinstance(one, FieldInfo)
        ]
        extra = [one.json_schema_extra for one in fields if isinstance(one.json_schema_extra, dict)]
        return any(one.get("writeOnly") for one in extra)

    def read(self, written: str | bytes | Sequence[str]) -> Any:
        """The value of a text, or of lines. Text that is no value stays text: the check of the body refuses it. Raises
        ValueError, for JSON JSONDecodeError."""
        if self.shape in JSON_SHAPES:
            value = loads(written if isinstance(written, bytes) else str(written).encode(errors="surrogateescape"))
            return [value] if self.shape == "list" and not isinstance(value, list) else value
        if self.shape == "pairs":
            return _pairs(written.split("\n") if isinstance(written, str) else [str(one) for one in written])
        text = str(written)
        if self.shape in ("words", "word or words"):
            words = _words(text)
            is_one = self.shape == "word or words" and len(words) == 1 and not text.lstrip().startswith("[")
            return words[0] if is_one else words
        if self.shape == "values":
            names, numbers = _names(next(iter(self.ways.values()))), [_number(one.strip()) for one in text.split(",")]
            if len(numbers) > len(names) or any(isinstance(one, str) for one in numbers):
                raise ValueError(f"takes up to {len(names)} numbers: {' and '.join(names)}")
            return dict(zip(names, numbers, strict=False))
        if self.shape == "switch":
            return {"true": True, "false": False}.get(text, text)
        return _number(text) if self.shape in ("number", "decimal") else text

    def text_of(self, value: Any, *, indent: bool = True) -> str:
        """A value as a person writes it. `read` makes the same value of it."""
        if isinstance(value, bool):
            return "true" if value else "false"
        if self.shape == "pairs":
            return "\n".join(f"{name}: {one}" for name, one in value.items())
        if self.shape == "values":
            return ",".join(str(one) for one in value.values() if one is not None)
        if self.shape in ("words", "word or words") and isinstance(value, list):
            words = [_seconds(one) if isinstance(one, int | float) else one for one in value]
            text, is_list = ",".join(words), self.shape == "words" or len(words) > 1
            return text if text and is_list and _split(text) == words else dumps(value).decode()
        if self.shape in JSON_SHAPES:
            return dumps(value, orjson.OPT_INDENT_2 if indent else None).decode()
        return str(value)


def _seconds(number: float) -> str:
    """A duration, which has six decimals at most."""
    return f"{number:.6f}".rstrip("0").rstrip(".") + "s" if round(number, 6) == number else ""


def _words(text: str) -> list[Any]:
    if text.lstrip().startswith("["):
        found = loads(text.encode(errors="surrogateescape"))
        return found if isinstance(found, list) else [found]
    if not (words := _split(text)):
        raise ValueError("is empty")
    return words


def _split(text: str) -> list[str]:
    return [] if text.lstrip().startswith("[") else [one.strip() for one in re.split("[,\n]", text) if one.strip()]


def _pairs(lines: Iterable[str]) -> dict[str, str]:
    found = {}
    for line in filter(str.strip, lines):
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise ValueError("has no colon")
        found[name.strip()] = value.strip()
    return found


def _number(text: str) -> Any:
    try:
        found = loads(text.encode(errors="surrogateescape"))
    except JSONDecodeError:
        return text
    return found if isinstance(found, int | float) else text


def model_of(kind: str, part: Part) -> type[Options] | None:
    """The model of a kind's fields; None: it has none in this part, or there is no such kind."""
    found = kinds().get(kind)
    return None if found is None else found.options if part == "config" else found.settings


@cache
def kind_fields(part: Part) -> tuple[WrittenField, ...]:
    """The fields of a part that not all kinds of sinks have."""
    models = ((kind, model) for kind in kinds() if (model := model_of(kind, part)) is not None)
    return merged(part, models, families)


def merged(
    part: Part, models: Iterable[tuple[str, type[BaseModel]]], named: Callable[[Sequence[str]], str]
) -> tuple[WrittenField, ...]:
    """The fields of named models. `named`: several of the names in words."""
    found: dict[str, dict[str, tuple[list[str], FieldInfo]]] = {}
    clis: dict[str, Cli] = {}
    for who, model in models:
        for name, field in model.model_fields.items():
            found.setdefault(name, {}).setdefault(repr(field), ([], field))[0].append(who)
            marker = next((one for one in markers(model, name) if isinstance(one, Cli)), None)
            clis[name] = marker or clis.get(name, Cli())
    return tuple(
        WrittenField(
            part, name, ways := {named(names): field for names, field in one.values()}, clis[name], _shape(ways)
        )
        for name, one in found.items()
    )


def families(names: Iterable[str], mark: str = "") -> str:
    """Kinds in words: `slack, CRMs and brokers`, where all kinds of a family are among them. `mark` is put around the
    name of a kind."""
    given, shown = set(names), dict[str, None]()
    for kind in kinds().values():
        if kind.name in given:
            whole = kind.family and {one.name for one in kinds().values() if one.family == kind.family} <= given
            shown[kind.family if whole else f"{mark}{kind.name}{mark}"] = None
    return enumerated(list(shown))


def _shape(ways: Mapping[str, FieldInfo]) -> Shape:
    shapes = {_shape_of(field.annotation) for field in ways.values()}
    return shapes.pop() if len(shapes) == 1 else "word or words" if "word or words" in shapes else "json"


def _shape_of(annotation: Any) -> Shape:
    kind = _without_null(annotation)
    if {get_origin(one) or one for one in get_args(kind)} == {str, list}:
        return "word or words"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "values"
    if get_origin(kind) is list:
        return "words" if _bare(get_args(kind)[0]) in (str, float) else "list"
    shapes: Mapping[Any, Shape] = {bool: "switch", int: "number", float: "decimal", str: "text", dict: "pairs"}
    is_json = get_args(kind) == (str, Any)
    return "json" if is_json else shapes.get(get_origin(kind) or kind, "text" if _choices(kind) else "json")


def _without_null(annotation: Any) -> Any:
    """The type without `None` and without what is annotated to it."""
    types = [_bare(one) for one in (get_args(annotation) if NoneType in get_args(annotation) else (annotation,))]
    (kind,) = [one for one in types if one is not NoneType] if len(types) == 2 else (types[0],)
    return kind


def _bare(annotation: Any) -> Any:
    return _bare(get_args(annotation)[0]) if get_origin(annotation) is Annotated else annotation


def _names(field: FieldInfo) -> Sequence[str]:
    """The fields of a field's model."""
    return list(_without_null(field.annotation).model_fields)


def _choices(annotation: Any) -> list[Any]:
    """The values of a literal type; for any other type none."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) in (list, dict):
        return []
    return [value for one in get_args(annotation) for value in _choices(one)]
