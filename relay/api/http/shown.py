"""Resources as the API shows them: each is one model, whose fields have their types, words and examples.

`Shown.of` makes an answer from a value of the core, as a dict: instances of the models would make a list of deliveries
dearer by a fifth, dicts make it dearer by a twentieth. The tests compare every answer with its model.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, RootModel, create_model
from pydantic.fields import FieldInfo

from relay.api.http.fields import TIME, NextCursor
from relay.clock import to_rfc3339
from relay.redaction import redact_text

Time = datetime
"""RFC 3339 text in an answer, made from epoch seconds."""
Convert = Callable[[Any], Any]

_EXAMPLES: dict[Any, Any] = {Time: TIME, bool: False, int: 0, float: 0.0, list: [], dict: {}}
"""Of fields that have none of their own, by type. What can be null is null."""


class Shown(BaseModel):
    """Base of all answers. A field with a default is in some answers only. `example`: in place of those of fields."""

    model_config = ConfigDict(extra="forbid", defer_build=True)
    example: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def of(cls, value: object, **given: Any) -> dict[str, Any]:
        """An answer. Each field is one of `given`, else the value's attribute of this name; times are epoch seconds in
        both. A field with a default is left out unless it is given."""
        form = _form(cls, *given)
        shown = {**form.empty, **{name: getattr(value, name) for name in form.attributes}, **given}
        for name, convert in form.conversions:
            if shown[name] is not None:
                shown[name] = convert(shown[name])
        return shown


class LastError(Shown):
    """The failure of the last poll."""

    code: str
    message: str
    request_id: str | None
    at: Time | None


def last_error_view(error: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """An error as it is recorded with a job or an account; None for None."""
    if error is None:
        return None
    at = error.get("at")
    return {
        "code": str(error.get("code") or "unknown"),
        "message": redact_text(str(error.get("message") or "")),
        "request_id": error.get("request_id"),
        "at": to_rfc3339(at) if isinstance(at, int | float) else at,
    }


class JobRequest(Shown):
    """The kept part of a create that was sent through the drop-in proxy."""

    metadata: dict[str, Any] = Field(
        description="The `metadata` of the create; empty if it had none.", examples=[{"sequence": "spring"}]
    )
    truncated: bool = Field(default=False, description="True if the metadata was too large to keep.")


def job_request_view(request: Mapping[str, Any] | None) -> dict[str, Any]:
    """The kept part of a create; empty metadata if there is none."""
    return {"metadata": {}, **(request or {})}


def page_of(item: type[Shown], words: str, name: str = "") -> type[Shown]:
    """The model of one page of `words`, these items."""
    fields: dict[str, Any] = {"items": list[item], "next_cursor": NextCursor}  # type: ignore[valid-type]
    return create_model(name or f"{item.__name__}Page", __base__=Shown, __doc__=f"One page of {words}.", **fields)


def example_of(model: type[BaseModel]) -> Any:
    """The example of a body or an answer: what its fields have as theirs, and of others those that it needs."""
    if issubclass(model, RootModel):
        return _example(model.model_fields["root"])
    given: Mapping[str, Any] = getattr(model, "example", {})
    fields = [(name, field) for name, field in model.model_fields.items() if name not in given]
    return {**{name: _example(field) for name, field in fields if field.examples or field.is_required()}, **given}


def _example(field: FieldInfo) -> Any:
    if field.examples:
        return field.examples[0]
    if NoneType in get_args(field.annotation):
        return None
    return _example_of_type(field.annotation)


def _example_of_type(type_: Any) -> Any:
    args = get_args(type_)
    if get_origin(type_) is list and _is_model(args[0]):
        return [example_of(args[0])]
    if get_origin(type_) is Literal:
        return args[0]
    if get_origin(type_) is UnionType:
        return _example_of_type(args[0])
    return example_of(type_) if _is_model(type_) else _EXAMPLES[get_origin(type_) or type_]


def _is_model(type_: Any) -> bool:
    return isinstance(type_, type) and issubclass(type_, BaseModel)


class _Form(NamedTuple):
    """How answers with the same fields given are made: the fields in their order, those that are attributes of the
    value, and how some are shown."""

    empty: Mapping[str, None]
    attributes: tuple[str, ...]
    conversions: tuple[tuple[str, Convert], ...]


@cache
def _form(model: type[Shown], *given: str) -> _Form:
    fields = {name: one for name, one in model.model_fields.items() if name in given or one.is_required()}
    conversions = ((name, _conversion(field.annotation)) for name, field in fields.items())
    return _Form(
        empty=dict.fromkeys(fields),
        attributes=tuple(name for name in fields if name not in given),
        conversions=tuple((name, convert) for name, convert in conversions if convert is not None),
    )


def _conversion(type_: Any) -> Convert | None:
    args = get_args(type_)
    if NoneType in args:  # what is null is not converted
        return _conversion(next(one for one in args if one is not NoneType))
    if type_ is Time:
        return to_rfc3339
    if get_origin(type_) is list:
        convert = _conversion(args[0])
        return list if convert is None else lambda values: [convert(one) for one in values]
    if isinstance(type_, type) and issubclass(type_, Shown):
        return lambda value: value if isinstance(value, dict) else type_.of(value)
    return None
