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
        description="Sent through the relay to the upstream, and no answer says what came of them: whether a message "
        "went out has to be found out before it is sent again. One that is repeated with its own Idempotency-Key, and "
        "answered, is gone from the list.",
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
        summary="Say what came of a create",
        description="Once you have checked with the upstream. It takes the create off the list; with `job_id` that job "
        "is tracked with the metadata and the callback that the create attached. Nothing is sent upstream.",
        handler=intents.resolve,
        scopes=WRITES_JOBS,
        body=IntentResolution,
        answers={200: Answer(description="As it is now.", model=shapes.Intent)},
        problems={409: "It was resolved already, or is still in flight."},
    ),
    Operation(
        id="dismissIntent",
        method="DELETE",
        path="/v1/intents/{id}",
        tag="Intents",
        summary="Take a create off the list",
        description="For when somebody has found out what came of it. It changes nothing upstream.",
        handler=intents.dismiss,
        scopes=WRITES_JOBS,
        answers={200: Answer(description="As it was.", model=shapes.Intent)},
    ),
)
