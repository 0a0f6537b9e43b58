"""The fields that not all kinds of sinks have, as others use them: merged where several kinds have one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from relay.core.events.sentences import enumerated
from subscribers.options import Cli, Options, markers
from subscribers.registry import kinds

Part = Literal["config", "protocolsettings"]
Shape = Literal["switch", "number", "decimal", "text", "words", "word or words", "object", "json"]
"""What a value is for a person who writes it. An object is written as its values in order."""


@dataclass(frozen=True, slots=True)
class KindField:
    """One field.

    ways   the kinds that have it, by how they declare it
    words  what it is for, with the names of these kinds
    """

    part: Part
    name: str
    ways: Mapping[tuple[str, ...], FieldInfo]
    cli: Cli
    shape: Shape

    @property
    def words(self) -> str:
        """What it is for, per kind."""
        return " ".join(f"{families(names)}: {field.description}" for names, field in self.ways.items())

    @property
    def example(self) -> Any:
        """A value."""
        return next((one.examples[0] for one in self.ways.values() if one.examples), None)

    @property
    def has_choice(self) -> bool:
        """False if it has one value only."""
        return any(len(set(_choices(field.annotation))) != 1 for field in self.ways.values())


def model_of(kind: str, part: Part) -> type[Options] | None:
    """What declares a kind's fields; None: it has none in this part, or there is no such kind."""
    found = kinds().get(kind)
    return None if found is None else found.options if part == "config" else found.settings


@cache
def kind_fields(part: Part) -> tuple[KindField, ...]:
    """All of a part."""
    found: dict[str, dict[str, tuple[list[str], FieldInfo]]] = {}
    clis: dict[str, Cli] = {}
    for kind in kinds():
        model = model_of(kind, part)
        for name, field in () if model is None else model.model_fields.items():
            found.setdefault(name, {}).setdefault(repr(field), ([], field))[0].append(kind)
            of_model = [one for one in markers(model, name) if isinstance(one, Cli)] if model is not None else []
            clis[name] = (of_model or [clis.get(name, Cli())])[0]
    return tuple(
        KindField(part, name, ways := {tuple(names): field for names, field in one.values()}, clis[name], _shape(ways))
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


def _shape(ways: Mapping[tuple[str, ...], FieldInfo]) -> Shape:
    shapes = {_shape_of(field.annotation) for field in ways.values()}
    return shapes.pop() if len(shapes) == 1 else "word or words" if "word or words" in shapes else "json"


def _shape_of(annotation: Any) -> Shape:
    types = [_bare(one) for one in (get_args(annotation) if NoneType in get_args(annotation) else (annotation,))]
    (kind,) = [one for one in types if one is not NoneType] if len(types) == 2 else (types[0],)
    if {get_origin(one) or one for one in get_args(kind)} == {str, list}:
        return "word or words"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "object"
    shapes: Mapping[Any, Shape] = {bool: "switch", int: "number", float: "decimal", str: "text", list: "words"}
    return shapes.get(get_origin(kind) or kind, "text" if get_origin(kind) is Literal else "json")


def _bare(annotation: Any) -> Any:
    return _bare(get_args(annotation)[0]) if get_origin(annotation) is Annotated else annotation


def _choices(annotation: Any) -> list[Any]:
    """The values of a literal type; for any other type none."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [value for one in get_args(annotation) for value in _choices(one)]
