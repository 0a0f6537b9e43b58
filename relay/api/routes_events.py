"""The operations of `/v1/events` and `/v1/deliveries`."""

from relay.api import deliveries, events, models, shapes
from relay.api.operations import ADMINS, LAST_EVENT_ID, NEXT, STREAM, Answer, Operation
from relay.api.params import PAGE, choice, choices, text, time

EVENTS = (
    Operation(
        id="listEvents",
        method="GET",
        path="/v1/events",
        tag="Events",
        summary="List events, newest first",
        handler=events.list_events,
        query=(
            text("type", "The event's type, full or short (`failed`)."),
            text("subject", "The event's subject. For job events: the upstream's id of the job."),
            time("since", "Events recorded at or after this time."),
            time("until", "Events recorded before this time."),
            *PAGE,
        ),
        answers={200: Answer(description="A page.", model=shapes.EventPage, headers=NEXT)},
    ),
    Operation(
        id="streamEvents",
        method="GET",
        path="/v1/events/stream",
        tag="Events",
        summary="Stream events as they are recorded",
        description="Without `Last-Event-ID` the stream starts with the next event. A comment every 15 seconds keeps "
        "it open.",
        handler=events.stream,
        request_headers=LAST_EVENT_ID,
        answers={200: STREAM},
        problems={429: "Too many streams are open."},
    ),
    Operation(
        id="getEvent",
        method="GET",
        path="/v1/events/{id}",
        tag="Events",
        summary="Read an event",
        handler=events.get,
        answers={200: Answer(description="The event.", model=shapes.CloudEvent)},
    ),
    Operation(
        id="listDeliveries",
        method="GET",
        path="/v1/deliveries",
        tag="Deliveries",
        summary="List deliveries, newest first, or count them by group",
        handler=deliveries.list_deliveries,
        query=(
            choice("state", "The delivery's state.", "pending", "delivered", "dead", "cancelled"),
            text("subscription", "The subscription's id."),
            text("event", "The event's id."),
            choices("group_by", "Count deliveries by these fields, largest groups first.", *deliveries.GROUPED_BY),
            *PAGE,
        ),
        answers={
            200: Answer(description="A page; with `group_by`: groups.", model=shapes.DeliveryListing, headers=NEXT)
        },
    ),
    Operation(
        id="getDelivery",
        method="GET",
        path="/v1/deliveries/{id}",
        tag="Deliveries",
        summary="Read a delivery with its attempts",
        handler=deliveries.get,
        answers={200: Answer(description="The delivery.", model=shapes.DeliveryWithAttempts)},
    ),
    Operation(
        id="getDeliveryRequest",
        method="GET",
        path="/v1/deliveries/{id}/request",
        tag="Deliveries",
        summary="Preview the request with a current signature",
        handler=deliveries.request,
        scopes=ADMINS,
        answers={200: Answer(description="The request. Nothing is sent.", model=shapes.SignedRequest)},
        problems={409: "The subscription was removed."},
    ),
    Operation(
        id="retryDelivery",
        method="POST",
        path="/v1/deliveries/{id}/retry",
        tag="Deliveries",
        summary="Send a delivery again",
        handler=deliveries.retry,
        scopes=ADMINS,
        body=models.Nothing,
        body_optional=True,
        answers={202: Answer(description="The delivery is due now.", model=shapes.DeliveryWithAttempts)},
        problems={
            409: "The delivery waits for an earlier event of its job, is being attempted, or its subscription was "
            "removed."
        },
    ),
)
