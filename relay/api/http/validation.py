"""Validates bodies, and turns pydantic's errors into a pointer, a code and a sentence each. Names that must exist
(sources, accounts, event types) are checked here too: each error suggests the nearest known name."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import islice
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from relay.api.http.dependencies import Account
from relay.api.http.problems import MAX_ERRORS, MAX_WORD, did_you_mean, invalid_detail, known_are, suggested
from relay.core.jobs.job import DEFAULT_SOURCE
from relay.core.jsontext import dumps
from relay.core.requirements import requirement
from relay.core.subscriptions.filters import full_types, nearest_type, wanted_types
from relay.errors import FieldError, InvalidRequest

Model = TypeVar("Model", bound=BaseModel)

MAX_FIELDS = 100
"""Fields of an object in a body, and names in a mapping such as headers. Each mistake among them costs time."""

_CODES = {
    "missing": "missing",
    "extra_forbidden": "unknown_field",
    "literal_error": "unknown_value",
    "string_too_long": "too_long",
    "too_long": "too_long",
    "string_too_short": "too_short",
    "too_short": "too_short",
    "greater_than": "out_of_range",
    "greater_than_equal": "out_of_range",
    "less_than": "out_of_range",
    "less_than_equal": "out_of_range",
    "finite_number": "out_of_range",
    "string_pattern_mismatch": "invalid_text",
    "union_tag_invalid": "unknown_value",
    "union_tag_not_found": "missing",
}
_OWN_CODES = frozenset(
    {
        "invalid_credential",
        "invalid_duration",
        "invalid_group",
        "invalid_name",
        "invalid_network",
        "unknown_value",
        "invalid_secret",
        "invalid_start",
        "invalid_time",
        "invalid_time_zone",
        "too_large",
    }
)
_KEPT_AS_JSON = frozenset({"metadata"})
"""Fields with the caller's own JSON, which may contain NUL."""
_HIDDEN = ("secret", "headers", "sink", "sinkcredential", "callback_url", "metadata")


def validate(model: type[Model], document: Any, max_errors: int = MAX_ERRORS) -> Model:
    """The document as this model. Raises InvalidRequest with every mistake, up to `max_errors`."""
    try:
        made = model.model_validate(_without_most_unknown(model, document))
    except ValidationError as error:
        found = error.errors(include_url=False)[:max_errors]
        raise invalid(*(_field_error(model, one) for one in found)) from None
    if b"\\u0000" in dumps(document):  # checked first because the walk costs more than the rest
        errors = list(_nul_errors(made, ()))[:MAX_ERRORS]
        if errors:
            raise invalid(*errors)
    return made


def _without_most_unknown(model: type[BaseModel], document: Any) -> Any:
    """The document, and of an object with very many fields only the known ones and some of the others, which are
    mistakes. Raises InvalidRequest for a mapping with too many names."""
    if type(document) is list:
        return [_without_most_unknown(model, one) for one in document]
    if type(document) is not dict:
        return document
    if len(document) > MAX_FIELDS and model.model_config.get("extra") in ("allow", "forbid"):
        known = {name: document[name] for name in model.model_fields if name in document}
        unknown = islice((name for name in document if name not in known), MAX_ERRORS)
        document = {**known, **{name: document[name] for name in unknown}}
    for name in _objects_in(model):
        value, inner = document.get(name), _model_in(model.model_fields[name].annotation)
        if inner is not None and type(value) in (dict, list):
            document = {**document, name: _without_most_unknown(inner, value)}
        elif type(value) is dict and len(value) > MAX_FIELDS:
            detail = f"it has more than {MAX_FIELDS} names"
            raise invalid(FieldError(pointer=pointer_of(name), code="too_long", detail=detail))
    return document


@cache
def _objects_in(model: type[BaseModel]) -> tuple[str, ...]:
    """The fields that hold objects with a mistake in each name, and no JSON of the caller's own."""
    return tuple(
        name
        for name, field in model.model_fields.items()
        if name not in _KEPT_AS_JSON and (_model_in(field.annotation) is not None or _is_mapping(field.annotation))
    )


def _is_mapping(annotation: Any) -> bool:
    return get_origin(annotation) is dict or any(map(_is_mapping, get_args(annotation)))


def _nul_errors(value: object, path: tuple[str | int, ...]) -> Iterator[FieldError]:
    """Errors for texts with NUL, which PostgreSQL cannot store. (The JSON parser replaces lone surrogates.)"""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            if name not in _KEPT_AS_JSON:
                yield from _nul_errors(getattr(value, name), (*path, name))
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from _nul_errors(one, (*path, index))
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from _nul_errors(name, path)
            yield from _nul_errors(one, (*path, name.replace("\0", "")))
    elif isinstance(value, str) and "\0" in value:
        yield FieldError(pointer=pointer_of(*path), code="invalid_text", detail="a text must not contain NUL (\\u0000)")


def invalid(*errors: FieldError) -> InvalidRequest:
    """The error for one or more mistakes in a body."""
    return InvalidRequest(invalid_detail(errors), errors=errors)


@contextmanager
def under(*path: str | int) -> Iterator[None]:
    """Errors inside are about this part of a body: their pointers are made to begin with its place."""
    try:
        yield
    except InvalidRequest as error:
        place = pointer_of(*path)
        found = error.errors or (FieldError(pointer="", code=error.code, detail=str(error)),)
        errors = tuple(replace(one, pointer=place + one.pointer) for one in found)
        raise type(error)(invalid_detail(errors), code=error.code, status=error.status, errors=errors) from None


def pointer_of(*path: str | int) -> str:
    """The JSON Pointer (RFC 6901) to a place in a body."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1")[:100] for part in path)


def _field_error(model: type[BaseModel], found: ErrorDetails) -> FieldError:
    location = tuple(part for part in found["loc"] if part != "[key]")
    if "discriminator" in found.get("ctx", {}):
        location = (*location, str(found["ctx"]["discriminator"]).strip("'"))
    elif location[:1] == ("sinkcredential",):
        location = (location[0], *location[2:])  # pydantic names the chosen model too
    kind = found["type"]
    code = kind if kind in _OWN_CODES else _CODES.get(kind) or ("wrong_type" if kind.endswith("_type") else "invalid")
    detail = requirement(kind, found.get("ctx", {})) or found["msg"][:1].lower() + found["msg"][1:]
    if kind in ("missing", "union_tag_not_found"):
        detail = "it is missing"
    elif kind == "extra_forbidden":
        detail = _unknown_field(model, location)
    elif kind == "literal_error":
        detail = _unknown_value(found)
    elif kind == "string_pattern_mismatch":
        detail = "1 to 200 printable characters are expected"
    elif kind == "union_tag_invalid":
        detail = _unknown(str(found["ctx"]["tag"]), str(found["ctx"]["expected_tags"]))
    return FieldError(pointer=pointer_of(*location), code=code, detail=detail + _given(location, found))


def _unknown_field(model: type[BaseModel], location: tuple[str | int, ...]) -> str:
    name = str(location[-1])
    fields = _fields_at(model, location[:-1])
    if name in getattr(model, "read_only", ()) and name not in fields:
        return f"{name} is read-only"
    return f"there is no field {name[:100]!r}{did_you_mean(name, fields)}"


def _unknown_value(found: ErrorDetails) -> str:
    given, expected = found["input"], str(found.get("ctx", {}).get("expected", ""))
    if not isinstance(given, str):
        return f"one of {', '.join(_quoted(expected))} is expected"
    return _unknown(given, expected)


def _unknown(given: str, expected: str) -> str:
    return f"{given[:100]!r} is unknown{did_you_mean(given, _quoted(expected))}"


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)


def _given(location: tuple[str | int, ...], found: ErrorDetails) -> str:
    """The given value, if it is short, not named yet, and cannot be a secret."""
    value = found["input"]
    if found["type"] in ("missing", "extra_forbidden", "literal_error") or any(part in _HIDDEN for part in location):
        return ""
    if isinstance(value, str):
        return f", not {value!r}" if len(value) <= 60 and repr(value) not in found["msg"] else ""
    if value is None or isinstance(value, bool):
        return ", not " + {None: "null", True: "true", False: "false"}[value]
    return f", not {value}" if isinstance(value, int | float) and abs(value) < 1e18 else ""


def _fields_at(model: type[BaseModel], path: tuple[str | int, ...]) -> Mapping[str, Any]:
    for part in path:
        field = model.model_fields.get(str(part))
        inner = None if field is None else _model_in(field.annotation)
        if inner is None:
            return {}
        model = inner
    return model.model_fields


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, UnionType, list):
        return next((found for one in get_args(annotation) if (found := _model_in(one)) is not None), None)
    return None


def account_meant(accounts: Mapping[str, tuple[str, ...]], source: object = None) -> Account:
    """The account that is meant by this source alone, or by none: the only one, else those named by default."""
    if not isinstance(source, str):
        source = next(iter(accounts)) if len(accounts) == 1 else DEFAULT_SOURCE
    names = accounts.get(source, ())
    return source, names[0] if len(names) == 1 else "default"


def account_errors(source: str, account: str, accounts: Mapping[str, tuple[str, ...]]) -> list[FieldError]:
    """Errors for a source that is not configured, or that has no account of this name."""
    if source not in accounts:
        detail = f"no source {source[:100]!r} is configured{did_you_mean(source, accounts)}"
        return [FieldError(pointer="/source", code="unknown_source", detail=detail)]
    if account not in accounts[source]:
        near = did_you_mean(account, accounts[source])
        detail = f"source {source} has no account {account[:100]!r}{near}"
        return [FieldError(pointer="/account", code="unknown_account", detail=detail)]
    return []


def event_types(
    names: Sequence[str], known: Sequence[str], pointer: str, *, free: bool = True
) -> tuple[tuple[str, ...], list[FieldError]]:
    """The full event types for names that may be short (`failed`) or free, without repeats, and an error for each
    unknown name. A short name of a job event stands for that of every resource.

    `pointer` is the place of the list in the body; the index of the name is appended. `free`: with the types that other
    programs publish.
    """
    meaning = wanted_types if free else full_types
    found = [meaning(name, known) for name in names]
    errors = [
        FieldError(pointer=f"{pointer}/{index}", code="unknown_type", detail=_unknown_type(name, known))
        for index, name in islice(((at, one) for at, one in enumerate(names) if not found[at]), MAX_ERRORS)
    ]
    return tuple(dict.fromkeys(one for types in found for one in types)), errors


def types_named(name: str | None, known: Sequence[str], pointer: str) -> tuple[tuple[str, ...], list[FieldError]]:
    """The same for one name, which is at `pointer` itself; no types for None."""
    found = () if name is None else wanted_types(name, known)
    if name is None or found:
        return found, []
    return (), [FieldError(pointer=pointer, code="unknown_type", detail=_unknown_type(name, known))]


def _unknown_type(name: str, known: Sequence[str]) -> str:
    near = suggested(nearest_type, name[:MAX_WORD], tuple(known))
    hint = f": did you mean {near}?" if near else known_are(known)
    if not near and "." not in name:
        hint += ". Types that other programs publish have a dot, such as com.acme.order.paid"
    return f"{name[:MAX_WORD]!r} is no event type{hint}"
