"""The operations about the node itself."""

from relay.api import shapes, system
from relay.api.operations import NEXT, PUBLIC, Answer, Operation
from relay.api.params import PAGE

SYSTEM = (
    Operation(
        id="listSources",
        method="GET",
        path="/v1/sources",
        tag="System",
        summary="How the polling of each account goes",
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
        summary="Whether the process answers",
        handler=system.livez,
        scopes=PUBLIC,
        answers={200: Answer(description="It does.", model=shapes.Alive)},
    ),
    Operation(
        id="getReadiness",
        method="GET",
        path="/readyz",
        tag="System",
        summary="Whether the node can do its work",
        handler=system.readyz,
        scopes=PUBLIC,
        answers={
            200: Answer(description="It can; `notes` say what is not as it should be.", model=shapes.Ready),
            503: Answer(description="It can not: `problems` say why.", model=shapes.Ready),
        },
    ),
    Operation(
        id="getOpenApi",
        method="GET",
        path="/openapi.json",
        tag="System",
        summary="This description",
        handler=system.openapi,
        scopes=PUBLIC,
        answers={200: Answer(description="OpenAPI 3.1.")},
    ),
    Operation(
        id="getSchema",
        method="GET",
        path="/schemas/{name}.json",
        tag="System",
        summary="The JSON Schema of an event's data",
        handler=system.schema,
        scopes=PUBLIC,
        answers={200: Answer(description="The schema.", media_type=system.SCHEMA_MEDIA_TYPE)},
    ),
)
