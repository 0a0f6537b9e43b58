"""The node: health, metrics, schemas and the OpenAPI description."""

import asyncio
from functools import partial
from typing import Literal

from pydantic import Field
from starlette.responses import Response

from relay.api.http.auth import ADMIN, READ
from relay.api.http.operations import PUBLIC, READS_METRICS, Answer, Call, Operation, json_response
from relay.api.http.shown import Shown
from relay.errors import NotFound

METRICS_MEDIA_TYPE = "text/plain; version=0.0.4"
SCHEMA_MEDIA_TYPE = "application/schema+json"


class Alive(Shown):
    """The process is running."""

    status: Literal["ok"]


class Ready(Shown):
    """Whether the node is ready. Without a token, `problems` only names components, and the rest is empty."""

    status: Literal["ok", "unavailable"]
    problems: list[str]
    notes: list[str]
    checks: dict[str, str] = Field(examples=[{"database": "ok"}])


OPERATIONS: list[Operation] = []
operation = partial(Operation, into=OPERATIONS, tag="System")


@operation("GET /livez", scopes=PUBLIC, answers={200: Answer("The process is running.", Alive)})
async def get_liveness(call: Call) -> Response:
    """Check that the process is running."""
    return json_response({"status": "ok"})


@operation(
    "GET /readyz",
    scopes=PUBLIC,
    problems={401: "The token is not valid. None is needed."},
    answers={
        200: Answer("The node is ready; `notes` list minor problems.", Ready),
        503: Answer("The node is not ready; `problems` list the reasons.", Ready),
    },
)
async def get_readiness(call: Call) -> Response:
    """Check that the node is ready.

    Without a token that may read everything, the answer has the status and the names of what has problems.
    """
    readiness, identity = await call.ports.node.readiness(), call.identity
    status, code = ("unavailable", 503) if readiness.problems else ("ok", 200)
    if identity is not None and identity.account is None and not identity.scopes.isdisjoint((ADMIN, READ)):
        return json_response(Ready.of(readiness, status=status), code)
    document = {"status": status, "problems": list(readiness.components), "notes": [], "checks": {}}
    return json_response(document, code)


@operation("GET /metrics", scopes=READS_METRICS, answers={200: Answer("The metrics.", media_type="text/plain")})
async def get_metrics(call: Call) -> Response:
    """Prometheus metrics."""
    return Response(call.ports.node.metrics(), media_type=METRICS_MEDIA_TYPE)


@operation("GET /openapi.json", scopes=PUBLIC, answers={200: Answer("OpenAPI 3.1.")})
async def get_open_api(call: Call) -> Response:
    """Read this description."""
    document = await asyncio.to_thread(call.context.openapi)  # the first one takes 0.1 s to make
    return Response(document, media_type="application/json")


@operation("GET /asyncapi.json", scopes=PUBLIC, answers={200: Answer("AsyncAPI 3.")})
async def get_async_api(call: Call) -> Response:
    """Read the description of the events, and of the ways that they take."""
    document = await asyncio.to_thread(call.context.asyncapi)
    return Response(document, media_type="application/json")


@operation(
    "GET /schemas/{name}.json", scopes=PUBLIC, answers={200: Answer("The schema.", media_type=SCHEMA_MEDIA_TYPE)}
)
async def get_schema(call: Call) -> Response:
    """Read the JSON Schema of an event."""
    name = call.request.path_params["name"]
    found = call.context.schemas.get(name)
    if found is None:
        known = ", ".join(sorted(call.context.schemas))
        raise NotFound(f"there is no schema {name[:100]!r}: known are {known}", code="schema_not_found")
    return Response(found, media_type=SCHEMA_MEDIA_TYPE)
