"""The operations of `/v1/intents`."""

from relay.api import intents, shapes
from relay.api.models import IntentResolution
from relay.api.operations import NEXT, READS_JOBS, WRITES_JOBS, Answer, Operation
from relay.api.params import PAGE

INTENTS = (
    Operation(
        id="listIntents",
        method="GET",
        path="/v1/intents",
        tag="Intents",
        summary="List creates whose fate is unknown, newest first",
        description="They were sent to the upstream, and no response proves whether they were carried out. Check "
        "before you send one again. A create that is repeated with its Idempotency-Key and answered leaves the list.",
        handler=intents.list_intents,
        scopes=READS_JOBS,
        query=PAGE,
        answers={200: Answer(description="A page.", model=shapes.IntentPage, headers=NEXT)},
    ),
    Operation(
        id="resolveIntent",
        method="POST",
        path="/v1/intents/{id}/resolve",
        tag="Intents",
        summary="Record the outcome of a create",
        description="Use it once you have checked with the upstream. The create leaves the list; with `job_id` that "
        "job is tracked with the metadata and the callback of the create. Nothing is sent upstream.",
        handler=intents.resolve,
        scopes=WRITES_JOBS,
        body=IntentResolution,
        answers={200: Answer(description="The create, as recorded.", model=shapes.Intent)},
        problems={409: "The create was already resolved, or is still in flight."},
    ),
    Operation(
        id="dismissIntent",
        method="DELETE",
        path="/v1/intents/{id}",
        tag="Intents",
        summary="Remove a create from the list",
        description="Use it once you have checked with the upstream. Nothing is sent upstream.",
        handler=intents.dismiss,
        scopes=WRITES_JOBS,
        answers={200: Answer(description="The create before it was removed.", model=shapes.Intent)},
    ),
)
