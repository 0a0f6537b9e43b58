"""The node: sources, health, metrics, schemas and the OpenAPI description."""

from starlette.responses import Response

from relay.api import params
from relay.api.operations import Call
from relay.api.resource import json_response, page_response
from relay.api.views import report_view
from relay.core.records import Page
from relay.errors import NotFound

METRICS_MEDIA_TYPE = "text/plain; version=0.0.4"
SCHEMA_MEDIA_TYPE = "application/schema+json"


async def sources(call: Call) -> Response:
    """`GET /v1/sources`: one entry per configured account."""
    reports = call.ports.tracking.reports()
    first, limit = params.decode_cursor(call.query["cursor"]), call.query["limit"]
    shown = tuple(report_view(report) for report in reports[first : first + limit])
    cursor = params.encode_cursor(first + limit) if len(reports) > first + limit else None
    return page_response(call.request, Page(items=shown, next_cursor=cursor))


async def livez(call: Call) -> Response:
    """`GET /livez`: the process is running."""
    return json_response({"status": "ok"})


async def readyz(call: Call) -> Response:
    """`GET /readyz`: 503 if there are problems; notes do not count."""
    readiness = await call.ports.node.readiness()
    document = {
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
