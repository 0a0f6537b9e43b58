"""The operations of replays: start one for a subscription or for deliveries, read it, stop it."""

from relay.api import models, replays, shapes
from relay.api.operations import ADMINS, LOCATION, Answer, Operation

_STARTED = Answer(
    description="The replay has started. `GET /v1/replays/{id}` has its progress.",
    model=shapes.ReplayStarted,
    headers=LOCATION,
)
_TOO_MANY = {409: "A hundred replays are already running."}

REPLAYS = (
    Operation(
        id="replaySubscription",
        method="POST",
        path="/v1/subscriptions/{id}/replay",
        tag="Subscriptions",
        summary="Send a range of events again",
        description="Sends the undelivered events recorded from `since` until before `until`, including events older "
        "than the subscription; with `only: all` also the delivered ones. Each keeps its id. They go out in order "
        "within a job, and always behind new events.",
        handler=replays.replay,
        scopes=ADMINS,
        body=models.ReplayCreate,
        answers={202: _STARTED},
        problems=_TOO_MANY,
    ),
    Operation(
        id="retryDeliveries",
        method="POST",
        path="/v1/deliveries/retry",
        tag="Deliveries",
        summary="Send matching deliveries again",
        description="They go out in order within a job and a subscription, each with a fresh retry schedule, and "
        "always behind new events.",
        handler=replays.retry_deliveries,
        scopes=ADMINS,
        body=models.DeliveriesRetry,
        answers={202: _STARTED},
        problems=_TOO_MANY,
    ),
    Operation(
        id="getReplay",
        method="GET",
        path="/v1/replays/{id}",
        tag="Replays",
        summary="Read the progress of a replay",
        handler=replays.get,
        answers={200: Answer(description="The replay.", model=shapes.Replay)},
    ),
    Operation(
        id="stopReplay",
        method="DELETE",
        path="/v1/replays/{id}",
        tag="Replays",
        summary="Stop a replay",
        description="Deliveries not yet sent return to their previous state; attempts in flight finish. A replay that "
        "has ended is unchanged.",
        handler=replays.stop,
        scopes=ADMINS,
        answers={200: Answer(description="The stopped replay.", model=shapes.Replay)},
    ),
)
