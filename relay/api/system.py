"""The node: health, metrics, schemas and the OpenAPI description."""

from typing import Any, Literal

from starlette.responses import Response
from typing_extensions import TypedDict

from relay.api.operations import PUBLIC, Answer, Call, Operation
from relay.api.resource import json_response
from relay.errors import NotFound


class Alive(TypedDict):
    """The process is running."""

    status: Literal["ok"]


class Ready(TypedDict):
    """Whether the node is ready."""

    status: Literal["ok", "unavailable"]
    problems: list[str]
    notes: list[str]
    checks: dict[str, str]


METRICS_MEDIA_TYPE = "text/plain; version=0.0.4"
SCHEMA_MEDIA_TYPE = "application/schema+json"


async def livez(call: Call) -> Response:
    """`GET /livez`: the process is running."""
    alive: Alive = {"status": "ok"}
    return json_response(alive)


async def readyz(call: Call) -> Response:
    """`GET /readyz`: 503 if there are problems; notes do not count."""
    readiness = await call.ports.node.readiness()
    document: Ready = {
        "status": "unavailable" if readiness.problems else "ok",
        "problems": list(readiness.problems),
        "notes": list(readiness.notes),
        "checks": dict(readiness.checks),
    }
    return json_response(document, 503 if readiness.problems else 200)


async def metrics(call: Call) -> Response:
    """`GET /metrics`: Prometheus' text format."""
    return Response(call.ports.node.metrics(), media_type=METRICS_MEDIA_TYPE)


async def openapi(call: Call) -> Response:
    """`GET /openapi.json`."""
    return Response(call.context.openapi(), media_type="application/json")


async def schema(call: Call) -> Response:
    """`GET /schemas/{name}.json`: the target of an event's `dataschema`."""
    name = call.request.path_params["name"]
    found = call.context.schemas.get(name)
    if found is None:
        known = ", ".join(sorted(call.context.schemas))
        raise NotFound(f"there is no schema {name[:100]!r}: known are {known}", code="schema_not_found")
    return Response(found, media_type=SCHEMA_MEDIA_TYPE)


OPERATIONS = [
    Operation(
        id="getMetrics",
        method="GET",
        path="/metrics",
        tag="System",
        summary="Prometheus metrics",
        handler=metrics,
        answers={200: Answer(description="The metrics.", media_type="text/plain")},
    ),
    Operation(
        id="getLiveness",
        method="GET",
        path="/livez",
        tag="System",
        summary="Check that the process is running",
        handler=livez,
        scopes=PUBLIC,
        answers={200: Answer(description="The process is running.", model=Alive)},
    ),
    Operation(
        id="getReadiness",
        method="GET",
        path="/readyz",
        tag="System",
        summary="Check that the node is ready",
        handler=readyz,
        scopes=PUBLIC,
        answers={
            200: Answer(description="The node is ready; `notes` list minor problems.", model=Ready),
            503: Answer(description="The node is not ready; `problems` list the reasons.", model=Ready),
        },
    ),
    Operation(
        id="getOpenApi",
        method="GET",
        path="/openapi.json",
        tag="System",
        summary="Read this description",
        handler=openapi,
        scopes=PUBLIC,
        answers={200: Answer(description="OpenAPI 3.1.")},
    ),
    Operation(
        id="getSchema",
        method="GET",
        path="/schemas/{name}.json",
        tag="System",
        summary="Read the JSON Schema of an event",
        handler=schema,
        scopes=PUBLIC,
        answers={200: Answer(description="The schema.", media_type=SCHEMA_MEDIA_TYPE)},
    ),
]

EXAMPLES: dict[str, Any] = {
    "Nothing": {},
    "Alive": {"status": "ok"},
    "Ready": {"status": "ok", "problems": [], "notes": [], "checks": {"database": "ok"}},
}
