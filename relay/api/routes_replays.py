"""The operations of replays: of a subscription, of deliveries, and what became of them."""

from relay.api import models, replays, shapes
from relay.api.operations import ADMINS, LOCATION, Answer, Operation

_STARTED = Answer(
    description="It has begun; how far it is says `GET /v1/replays/{id}`.", model=shapes.ReplayStarted, headers=LOCATION
)
_TOO_MANY = {409: "A hundred replays are running."}

REPLAYS = (
    Operation(
        id="replaySubscription",
        method="POST",
        path="/v1/subscriptions/{id}/replay",
        tag="Subscriptions",
        summary="Send a range of events again",
        description="Those recorded from `since` until before `until` that were not delivered, also events from before "
        "the subscription; with `only: all` those that were, too. In order within a job, each with its old id, and "
        "always behind new events.",
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
        summary="Send deliveries again that ended in a certain way",
        description="In order within a job and a subscription, each with a fresh schedule, and always behind new "
        "events.",
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
        summary="How far a replay is",
        handler=replays.get,
        answers={200: Answer(description="The replay.", model=shapes.Replay)},
    ),
    Operation(
        id="stopReplay",
        method="DELETE",
        path="/v1/replays/{id}",
        tag="Replays",
        summary="Stop a replay",
        description="What it has not sent is as it was before; what is in flight ends. One that has ended stays as it "
        "is.",
        handler=replays.stop,
        scopes=ADMINS,
        answers={200: Answer(description="The replay as it ended.", model=shapes.Replay)},
    ),
)
