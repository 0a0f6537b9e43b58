"""The operations of the node: sources, health, metrics, schemas."""

from relay.api import shapes, system
from relay.api.operations import NEXT, PUBLIC, Answer, Operation
from relay.api.params import PAGE

SYSTEM = (
    Operation(
        id="listSources",
        method="GET",
        path="/v1/sources",
        tag="System",
        summary="Read the polling state of each account",
        handler=system.sources,
        query=PAGE,
        answers={200: Answer(description="A page.", model=shapes.SourcePage, headers=NEXT)},
    ),
    Operation(
        id="getMetrics",
        method="GET",
        path="/metrics",
        tag="System",
        summary="Prometheus metrics",
        handler=system.metrics,
        answers={200: Answer(description="The metrics.", media_type="text/plain")},
    ),
    Operation(
        id="getLiveness",
        method="GET",
        path="/livez",
        tag="System",
        summary="Check that the process is running",
        handler=system.livez,
        scopes=PUBLIC,
        answers={200: Answer(description="The process is running.", model=shapes.Alive)},
    ),
    Operation(
        id="getReadiness",
        method="GET",
        path="/readyz",
        tag="System",
        summary="Check that the node is ready",
        handler=system.readyz,
        scopes=PUBLIC,
        answers={
            200: Answer(description="The node is ready; `notes` list minor problems.", model=shapes.Ready),
            503: Answer(description="The node is not ready; `problems` list the reasons.", model=shapes.Ready),
        },
    ),
    Operation(
        id="getOpenApi",
        method="GET",
        path="/openapi.json",
        tag="System",
        summary="Read this description",
        handler=system.openapi,
        scopes=PUBLIC,
        answers={200: Answer(description="OpenAPI 3.1.")},
    ),
    Operation(
        id="getSchema",
        method="GET",
        path="/schemas/{name}.json",
        tag="System",
        summary="Read the JSON Schema of an event",
        handler=system.schema,
        scopes=PUBLIC,
        answers={200: Answer(description="The schema.", media_type=system.SCHEMA_MEDIA_TYPE)},
    ),
)
