"""Fields of `config` and `protocolsettings` that some kinds of sinks have, as the models in their folders declare them:
what a request may say, what an answer shows, and how both are documented."""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from relay.api.http.problems import did_you_mean
from relay.api.http.validation import invalid, pointer_of, under, validate
from relay.core.subscriptions import subscription as core
from relay.errors import FieldError
from subscribers.fields import Part, families, model_of
from subscribers.registry import kinds


class WithKindFields(BaseModel):
    """Base of models that take the fields of any kind, which are checked once the kind is known. Their schema has the
    fields of all kinds."""

    model_config = ConfigDict(extra="allow")
    part: ClassVar[Part] = "config"
    """The part of a subscription that the model is of."""

    @classmethod
    def __get_pydantic_json_schema__(cls, source: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(source))
        own = schema.get("properties", {})
        schema["properties"] = {**own, **{name: one for name, one in _schemas(cls.part).items() if name not in own}}
        schema["additionalProperties"] = False
        return schema


def read_fields(kind: str, part: Part, given: Mapping[str, Any], common: Iterable[str] = ()) -> dict[str, Any]:
    """The given fields of a kind that are not the defaults, as they are stored. `common`: the fields of every kind.
    Raises InvalidRequest, with the kinds that have it for a field that this kind does not have. A default of another
    kind is no mistake: an answer shows it, and may be sent back for another sink."""
    model = model_of(kind, part)
    own = {} if model is None else model.model_fields
    errors = [
        FieldError(pointer=pointer_of(part, name), code=code, detail=detail)
        for name, value in given.items()
        if name not in own and (problem := _problem(kind, part, name, value, (*common, *own))) is not None
        for code, detail in (problem,)
    ]
    if errors:
        raise invalid(*errors)
    if model is None:
        return {}
    with under(part):
        return validate(model, {name: value for name, value in given.items() if name in own}).given()


def shown_fields(subscription: core.Subscription, part: Part) -> dict[str, Any]:
    """The fields of the subscription's kind, with their defaults."""
    model = model_of(subscription.kind, part)
    return {} if model is None else model.of(subscription).shown().model_dump()


def place_of(subscription: core.Subscription) -> tuple[object, ...]:
    """The place in its sink where a subscription's events go, such as a channel."""
    model = model_of(subscription.kind, "config")
    places = () if model is None else tuple(getattr(model.of(subscription), name) for name in model.places)
    return *places, subscription.options.get(core.SETTINGS)


def switches_on(after: core.Subscription, before: core.Subscription) -> bool:
    """True if a change switches on what has the sink checked again."""
    model = model_of(after.kind, "config")
    return model is not None and any(
        getattr(model.of(after), name) and not getattr(model.of(before), name) for name in model.checked
    )


def destination_of(kind: str) -> str:
    """The pointer to the setting that names a broker's topic, subject or address."""
    model = model_of(kind, "protocolsettings")
    return pointer_of("protocolsettings", "" if model is None else model.needed())


def _problem(kind: str, part: Part, name: str, value: object, known: Iterable[str]) -> tuple[str, str] | None:
    others = {other: model for other in kinds() if (model := model_of(other, part)) and name in model.model_fields}
    if not others:
        return "unknown_field", f"there is no field {name[:100]!r}{did_you_mean(name, known)}"
    if any(value is None or value == model.default_of(name) for model in others.values()):
        return None
    have = "have" if len(others) > 1 else "has"
    code = "unknown_option" if part == "config" else "unknown_field"
    return code, f"kind {kind} has no {name}: {families(others)} {have} it"


@cache
def _schemas(part: Part) -> Mapping[str, JsonSchemaValue]:
    """The schema of each field that not all kinds have. Its description names the kinds."""
    found: dict[str, dict[str, tuple[list[str], JsonSchemaValue]]] = {}
    for kind in kinds():
        model = model_of(kind, part)
        schema = {} if model is None else model.model_json_schema()
        for name, field in schema.get("properties", {}).items():
            field.pop("title", None)
            inlined = _inlined(field, schema.get("$defs", {}))
            found.setdefault(name, {}).setdefault(str(inlined), ([], inlined))[0].append(kind)
    return {name: _merged(list(one.values())) for name, one in found.items()}


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inlined(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {name: _inlined(one, definitions) for name, one in schema.items()}


def _merged(ways: list[tuple[list[str], JsonSchemaValue]]) -> JsonSchemaValue:
    described = " ".join(f"For {families(names, '`')}: {schema['description']}" for names, schema in ways)
    schemas = [{name: one for name, one in schema.items() if name != "description"} for _, schema in ways]
    if all(schema == schemas[0] for schema in schemas):
        return {**schemas[0], "description": described}
    types = [{name: one for name, one in schema.items() if name not in ("default", "examples")} for schema in schemas]
    different = [one for index, one in enumerate(types) if one not in types[:index]]
    default = {"default": schemas[0]["default"]} if all("default" in one for one in schemas) else {}
    return {"anyOf": different, **default, "description": described}
