"""Builds the OpenAPI 3.1 description from the operations and the models that validate the requests."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from relay.api.catalogue import OPERATIONS
from relay.api.http.auth import PUBLIC
from relay.api.http.dependencies import ApiSettings
from relay.api.http.fields import PATHS
from relay.api.http.idempotency import KEY_PATTERN, MAX_KEY_CHARACTERS
from relay.api.http.operations import Answer, Operation, models_of
from relay.api.http.problems import Problem
from relay.api.http.shown import example_of
from relay.api.http.stream import EVENT_ID_PATTERN
from relay.core.events.event import BATCH_CONTENT_TYPE, CONTENT_TYPE
from relay.core.relay_events import SCHEMA_NAMES
from relay.core.subscriptions.filters import known_types
from relay.core.subscriptions.signing import ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER
from relay.errors import PROBLEM_MEDIA_TYPE
from relay.resources import schemas_dir
from subscribers.registry import kinds

EXAMPLES = {model.__name__: example_of(model) for model in models_of(OPERATIONS)}
"""One example of each body and answer, by the name of its model."""
REF = "#/components/schemas/{model}"
TIME = "EventTime"
PUBLISHED = "PublishedCloudEvent"
"""The component of events that other programs publish: the model of `POST /v1/events`."""

SIGNED: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        ID_HEADER: {"type": "string", "description": "The relay's id of the event, or that of the batch."},
        TIMESTAMP_HEADER: {"type": "string", "description": "When the attempt was sent, in epoch seconds."},
        SIGNATURE_HEADER: {
            "type": "string",
            "description": "Standard Webhooks: `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`, or `v1a,` "
            "and that of an ed25519 signature. Several are separated by one space.",
        },
    },
    "required": [ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER],
}
"""The headers of a signed request."""


def component_of(name: str) -> str:
    """The component of a schema: `JobStatusEvent` for `job-status.v1`."""
    return "".join(word.capitalize() for word in name.partition(".")[0].split("-")) + "Event"


def ref(component: str, *path: str) -> dict[str, str]:
    """A reference to a component, or to a part of it."""
    return {"$ref": "/".join((REF.format(model=component), *path))}


@cache
def event_schemas() -> Mapping[str, Mapping[str, Any]]:
    """The schemas of the relay's own events, and of their times, by the names of their components."""
    found: dict[str, Any] = {}
    for name in SCHEMA_NAMES:
        schema = json.loads((schemas_dir() / f"{name}.json").read_text(encoding="utf-8"))
        found[TIME] = schema["$defs"]["time"]
        found[component_of(name)] = _rewritten(
            {key: value for key, value in schema.items() if key not in ("$schema", "$id", "$defs")}
        )
    return found


def _rewritten(value: Any) -> Any:
    if isinstance(value, dict):
        time = ref(TIME) if value.get("$ref") == "#/$defs/time" else {}
        return {key: _rewritten(part) for key, part in value.items()} | time
    return [_rewritten(part) for part in value] if isinstance(value, list) else value


_REQUEST_ID = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}
_REPLAYED = {"Idempotency-Replayed": {"$ref": "#/components/headers/IdempotencyReplayed"}}
_LIMITS = {
    "RateLimit": {"$ref": "#/components/headers/RateLimit"},
    "RateLimit-Policy": {"$ref": "#/components/headers/RateLimitPolicy"},
}
_HEADER_SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "Idempotency-Key": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARACTERS, "pattern": KEY_PATTERN},
    "Prefer": {"type": "string", "examples": ["wait=1"]},
    "Last-Event-ID": {"type": "string", "pattern": EVENT_ID_PATTERN},
}
_BY_PATH_ID = re.compile(r"\{(\w+)\}")

_DESCRIPTION = """Tracks jobs of a pull-only API and sends an event for every status change.

Errors are `application/problem+json` (RFC 9457) with a stable `code`. Times are RFC 3339 in UTC. Token scopes: `admin`
allows everything; `read` reading everything but secrets; `jobs:write` registering, refreshing, untracking and reading
jobs; `subscriptions:write` subscriptions, their deliveries and replays; `deliveries:write` pulling deliveries;
`events:write` publishing events; `proxy` the drop-in proxy only. Only paths under `/v1` and `/metrics` need a token;
with `relay serve --dev`, callers on the same machine need none."""


def document_of(operations: Sequence[Operation], settings: ApiSettings) -> dict[str, Any]:
    """The description as JSON. It lists the event types and kinds; with `--dev` also the configured sources and
    accounts, whose names are not public."""
    refs, schemas = schemas_of([Problem, *models_of(operations)])
    _fill_in_names(schemas, operations, settings)
    schemas |= event_schemas()
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, refs, settings)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "revor-relay", "version": settings.version, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in operations)],
        "paths": paths,
        "webhooks": {"event": {"post": _webhook()}},
        "components": {"schemas": schemas, "headers": _HEADERS},
    }
    if _asks_for_tokens(settings):
        document["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    return document


def schemas_of(models: Sequence[type]) -> tuple[Mapping[type, Mapping[str, Any]], dict[str, Any]]:
    """A reference to each model, and the schemas of all that these need."""
    names, definitions = TypeAdapter.json_schemas(
        [(model, "validation", TypeAdapter(model)) for model in models], ref_template=REF
    )
    schemas: dict[str, Any] = definitions["$defs"]
    for schema in schemas.values():
        for field in schema.get("properties", {}).values():
            field.pop("examples", None)  # the example of the whole has them
    return {model: names[(model, "validation")] for model in models}, schemas


def _asks_for_tokens(settings: ApiSettings) -> bool:
    return bool(settings.tokens) or not settings.dev


_HEADERS = {
    "RequestId": {
        "description": "The request's id in the relay's log.",
        "schema": {"type": "string"},
        "required": True,
    },
    "IdempotencyReplayed": {
        "description": "`true` if this is the stored first response.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "RateLimit": {
        "description": "What is left of the token's requests, and the seconds until all are there again, if it has a "
        'limit: `"token";r=599;t=60`.',
        "schema": {"type": "string"},
    },
    "RateLimitPolicy": {
        "description": 'The limit of the token, if it has one: `"token";q=600;w=60`.',
        "schema": {"type": "string"},
    },
}


FREE = {"type": "string", "pattern": r"^[!-~]+\.[!-~]+$", "maxLength": 200}
"""The form of the types that other programs publish."""


def _fill_in_names(schemas: dict[str, Any], operations: Sequence[Operation], settings: ApiSettings) -> None:
    """Adds the names that depend on the settings; handlers check them, not the models."""
    types = {"anyOf": [{"enum": list(known_types(settings.origins.values()))}, FREE]}
    sources = sorted(settings.event_sources)
    for name in ("JobRegistration", "UpstreamAnswer") if settings.dev else ():
        properties = schemas[name]["properties"]
        properties["source"]["enum"] = sorted(settings.accounts)
        properties["account"]["enum"] = sorted({account for names in settings.accounts.values() for account in names})
    for name in ("SubscriptionCreate", "SubscriptionReplace", "DeclaredSubscription"):
        properties = schemas[name]["properties"]
        properties["types"]["anyOf"][0]["items"] = types
        if settings.dev:
            properties["source"]["anyOf"][0]["enum"] = sources
        schemas["SubscriptionConfig"]["properties"]["kind"]["anyOf"][0]["enum"] = list(kinds())
    schemas["ReplayCreate"]["properties"]["types"]["anyOf"][0]["items"] = types
    schemas["DeliveryFilter"]["properties"]["type"]["anyOf"][0] |= types
    for name in ("TestRequest", "SubscriptionPreview"):
        schemas[name]["properties"]["type"]["anyOf"][0] |= types
    for operation in operations:
        for model in operation.bodies:
            schemas[model.__name__]["examples"] = [EXAMPLES[model.__name__]]


def _operation(operation: Operation, refs: Mapping[type, Mapping[str, Any]], settings: ApiSettings) -> dict[str, Any]:
    document: dict[str, Any] = {"operationId": operation.id, "tags": [operation.tag], "summary": operation.summary}
    if operation.description:
        document["description"] = operation.description
    parameters = _parameters(operation)
    if parameters:
        document["parameters"] = parameters
    if operation.body is not None:
        document["requestBody"] = {"required": not operation.body_optional, "content": _bodies(operation, refs)}
    document["responses"] = {
        str(code): _answer(operation, answer, refs) for code, answer in sorted(operation.answers.items())
    } | {str(code): _problem(code, when) for code, when in sorted(_problems(operation).items())}
    if operation.scopes is not PUBLIC and _asks_for_tokens(settings):
        document["security"] = [{"bearer": sorted({*operation.scopes, "admin"})}]
    return document


def _bodies(operation: Operation, refs: Mapping[type, Mapping[str, Any]]) -> dict[str, Any]:
    """The accepted request bodies, by media type."""
    if operation.media_types:
        return {
            media_type: {"schema": refs[model], "example": EXAMPLES[model.__name__]}
            for media_type, model in zip(operation.media_types, operation.bodies, strict=True)
        }
    schemas = [refs[model] for model in operation.bodies]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return {"application/json": {"schema": schema, "example": EXAMPLES[operation.bodies[0].__name__]}}


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    found = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": "The job's uid or upstream id. Use the uid for an id with a `/`."
            if operation.tag == "Jobs"
            else "The id of the resource.",
            "schema": {"type": "string", "pattern": r"^[^\u0000-\u001f\u007f-\u009f]+$"},
            "example": PATHS[operation.tag],
        }
        for name in _BY_PATH_ID.findall(operation.path)
    ]
    found += [
        {"name": one.name, "in": "query", "description": one.description, "schema": dict(one.schema)}
        for one in operation.query
    ]
    headers = dict(operation.request_headers)
    if operation.repeats is not None:
        headers["Idempotency-Key"] = (
            "1 to 255 printable ASCII characters. A request repeated within 24 hours with the same key and body is "
            "answered with the first status; nothing is done twice."
        )
    return found + [
        {"name": name, "in": "header", "description": description, "schema": _HEADER_SCHEMAS[name]}
        for name, description in headers.items()
    ]


_WEBHOOK_ANSWERS = {
    "2XX": "The event is accepted, and not sent again.",
    "410": "The receiver takes no more events: the subscription is disabled, and its events are held.",
    "429": "Too many requests. `Retry-After` (seconds or a date, up to 24 hours) pauses the subscription.",
    "503": "The receiver is not available. `Retry-After` pauses the subscription.",
    "default": "Everything else fails, also a redirect, which is not followed. The event is sent again by the retry "
    "schedule. In batch mode, 400, 413 and 422 have each event of the batch sent again by itself.",
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds, or an HTTP date.", "schema": {"type": "string"}}}


def _webhook() -> dict[str, Any]:
    """The requests that the relay sends to sinks of kind `webhook` and to callback URLs."""
    event = {"anyOf": [ref(component) for component in (*map(component_of, SCHEMA_NAMES), PUBLISHED)]}
    example = EXAMPLES["CloudEvent"]
    description = (
        "To the `sink` of a subscription of kind `webhook`, and to the `callback_url` of a job. Every event comes at "
        "least once, always with the same `id`, and in order within a job or a `partitionkey`: drop ids that are "
        "known. Verify the signature over the raw body. In binary mode the attributes are "
        "`ce-` headers, and the body is the data. `protocolsettings` can choose PUT or PATCH and add headers, and "
        "`sinkcredential` adds the header of a credential."
    )
    parameters = [
        {
            "name": name,
            "in": "header",
            "required": True,
            "description": schema["description"],
            "schema": {"type": schema["type"]},
        }
        for name, schema in SIGNED["properties"].items()
    ]
    parameters += [
        {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}
        for name, text in {
            "ce-id": "In binary mode: the event's id.",
            "ce-source": "In binary mode: the event's source.",
            "ce-type": "In binary mode: the event's type. Each other attribute is a header too.",
            "ce-specversion": "In binary mode: `1.0`.",
        }.items()
    ]
    return {
        "operationId": "receiveEvent",
        "summary": "Receive an event",
        "description": description,
        "parameters": parameters,
        "requestBody": {
            "required": True,
            "content": {
                CONTENT_TYPE: {"schema": event, "example": example},
                BATCH_CONTENT_TYPE: {
                    "schema": {"type": "array", "minItems": 1, "items": event},
                    "example": [example],
                },
                "application/json": {"schema": {}, "example": example["data"]},
            },
        },
        "responses": {
            status: {"description": text, **({"headers": _RETRY_AFTER} if status in ("429", "503") else {})}
            for status, text in _WEBHOOK_ANSWERS.items()
        },
    }


def _answer(operation: Operation, answer: Answer, refs: Mapping[type, Mapping[str, Any]]) -> dict[str, Any]:
    headers = {
        name: {"description": description, "schema": {"type": "string"}} for name, description in answer.headers.items()
    }
    replayed = _REPLAYED if operation.repeats is not None else {}
    limits = {} if operation.scopes is PUBLIC else _LIMITS
    document: dict[str, Any] = {
        "description": answer.description,
        "headers": {**headers, **replayed, **limits, **_REQUEST_ID},
    }
    content: dict[str, Any] = {}
    if answer.model is not None:
        content[answer.media_type] = {"schema": refs[answer.model], "example": EXAMPLES[answer.model.__name__]}
    elif answer.media_type:
        content[answer.media_type] = {"schema": {"type": "object" if answer.media_type.endswith("json") else "string"}}
    content |= {media_type: {"schema": {"type": "string"}} for media_type in answer.also}
    return {**document, "content": content} if content else document


def _problem(code: int, when: str) -> dict[str, Any]:
    headers: dict[str, Any] = dict(_REQUEST_ID)
    if code == 401:
        headers["WWW-Authenticate"] = {"description": "How to send a token.", "schema": {"type": "string"}}
    if code == 429:
        headers |= _LIMITS
    if code in (429, 503):
        headers["Retry-After"] = {"description": "Seconds.", "schema": {"type": "string"}}
    return {"description": when, "headers": headers, "content": {PROBLEM_MEDIA_TYPE: {"schema": ref("Problem")}}}


def _problems(operation: Operation) -> dict[int, str]:
    """All errors of the operation: status code to description."""
    found = {
        422: "A parameter is unknown or invalid.",
        500: "An internal error. The relay's log has the reason.",
        503: "The database is unavailable, or the node has too much to do.",
        508: "The request was sent by this relay itself.",
    }
    if operation.scopes is not PUBLIC:
        found[401] = "The request has no valid token."
        found[429] = "The token's requests are used up, or too many wrong tokens came from the caller's address."
        found[403] = "The token lacks a scope. With --dev and without a token: the caller is on another machine."
    if "{" in operation.path:
        found[404] = "There is no resource with this id."
        found[400] = "The path contains a control character."
    if operation.body is not None:
        found[400] = "The body is not JSON in UTF-8 or is nested too deep, or the path contains a control character."
        found[413] = f"The body is larger than {operation.max_body_bytes >> 20} MiB."
        found[415] = "The body is not `application/json`."
        found[422] = "The body, a parameter or a header is invalid: see `errors`."
    if operation.repeats is not None:
        found[409] = "A request with this `Idempotency-Key` is still in progress."
        found[410] = "What the first request with this `Idempotency-Key` made or changed was removed since."
    for code in operation.answers:
        found.pop(code, None)
    for code, when in operation.problems.items():
        found[code] = f"{when} {found[code]}" if code in (409, 429) and code in found else when
    return found
