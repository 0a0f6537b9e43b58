"""`/v1/events`: all recorded events, with or without subscriptions."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from starlette.responses import Response
from typing_extensions import TypedDict

from relay.api.examples import EVENT_ID
from relay.api.fields import NextCursor, Time
from relay.api.names import event_type
from relay.api.operations import LAST_EVENT_ID, NEXT, STREAM, Answer, Call, Operation
from relay.api.params import PAGE, text, time
from relay.api.problems import invalid_detail
from relay.api.resource import page_response
from relay.api.stream import fragment, of_all
from relay.core.events import Origin
from relay.core.samples import sample_event
from relay.errors import InvalidRequest, NotFound


@with_config(ConfigDict(extra="allow"))
class CloudEvent(TypedDict):
    """A CloudEvent in structured JSON, as sent to sinks."""

    specversion: Literal["1.0"]
    id: str
    source: str
    type: str
    subject: NotRequired[Annotated[str, Field(json_schema_extra={"default": ""})]]
    time: Time
    datacontenttype: str
    dataschema: str
    data: dict[str, Any]


class EventPage(TypedDict):
    """One page of events."""

    items: list[CloudEvent]
    next_cursor: NextCursor


async def list_events(call: Call) -> Response:
    """`GET /v1/events`: newest first."""
    type, errors = event_type(call.query["type"], call.context.known_types, "type")
    if errors:
        raise InvalidRequest(invalid_detail(errors), code="invalid_parameter", errors=errors)
    page = await call.ports.events.page(**{**call.query, "type": type})
    return page_response(call.request, page, fragment)


async def get(call: Call) -> Response:
    """`GET /v1/events/{id}`: the stored bytes, which are also what is sent and signed."""
    event = await call.ports.events.get(call.id)
    if event is None:
        raise NotFound(f"there is no event {call.id[:200]!r}", code="event_not_found")
    return Response(event.body, media_type="application/json")


async def stream(call: Call) -> Response:
    """`GET /v1/events/stream`."""
    return await of_all(call)


OPERATIONS = [
    Operation(
        id="listEvents",
        method="GET",
        path="/v1/events",
        tag="Events",
        summary="List events, newest first",
        handler=list_events,
        query=(
            text("type", "The event's type, full or short (`failed`)."),
            text("subject", "The event's subject. For job events: the upstream's id of the job."),
            time("since", "Events recorded at or after this time."),
            time("until", "Events recorded before this time."),
            *PAGE,
        ),
        answers={200: Answer(description="A page.", model=EventPage, headers=NEXT)},
    ),
    Operation(
        id="streamEvents",
        method="GET",
        path="/v1/events/stream",
        tag="Events",
        summary="Stream events as they are recorded",
        description="Without `Last-Event-ID` the stream starts with the next event. A comment every 15 seconds keeps "
        "it open.",
        handler=stream,
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
        handler=get,
        answers={200: Answer(description="The event.", model=CloudEvent)},
    ),
]

EXAMPLE_EVENT = sample_event(
    "ai.revor.job.failed",
    event_id=EVENT_ID,
    now=1779271208.0,
    origin=Origin(
        source="https://upstream.example/api/jobs",
        type_prefix="ai.revor.job",
        dataschema="http://127.0.0.1:8080/schemas/job-status.v1.json",
    ),
    dataschema_base="http://127.0.0.1:8080",
).document()
EXAMPLES: dict[str, Any] = {
    "CloudEvent": EXAMPLE_EVENT,
    "EventPage": {"items": [EXAMPLE_EVENT], "next_cursor": "MTI"},
}
