"""`/v1/events`: all recorded events, with or without subscriptions."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from starlette.responses import Response

from relay.api.http.fields import EVENT_ID, FAILED, NextCursor
from relay.api.http.operations import LAST_EVENT_ID, NEXT, STREAM, Answer, Call, Operation, page_response
from relay.api.http.params import PAGE, Parameter, text, time
from relay.api.http.problems import invalid_detail, known
from relay.api.http.shown import Shown
from relay.api.http.stream import fragment, of_all
from relay.api.http.validation import types_named
from relay.core.events.event import Event, Origin
from relay.core.jsontext import JSONDecodeError, loads
from relay.core.samples import sample_event
from relay.core.subscriptions.comparisons import EventView
from relay.core.subscriptions.filters import Filters, FiltersRefused, parse_filters
from relay.errors import InvalidRequest
from relay.limiter import Computations

MAX_CHARACTERS = 8_000


class Wanted:
    """The events that a caller asks for. `types`: empty for any. Filters have the bounds of those of a subscription."""

    def __init__(self, types: tuple[str, ...], filters: Filters | None) -> None:
        self._types = types
        self._filters = filters

    async def of(self, events: Sequence[Event], computations: Computations, caller: str) -> Sequence[Event]:
        """Those of these events that are wanted. `computations`: of all callers with filters."""
        if self._types:
            events = [event for event in events if event.type in self._types]
        if self._filters is None:
            return events
        filters = self._filters

        def passes(event: Event) -> bool:
            return filters.passes(EventView(event.body))

        return [event for event in events if await computations.step(caller, partial(passes, event))]


def _read_filters(value: str) -> Filters:
    if len(value) > MAX_CHARACTERS:
        raise ValueError(f"at most {MAX_CHARACTERS:,} characters are allowed")
    try:
        documents = loads(value.encode())
    except JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error.msg} (column {error.colno})") from None
    try:
        return parse_filters(documents if isinstance(documents, list) else [documents], "filters")
    except FiltersRefused as refused:
        detail = str(refused)
        raise InvalidRequest(detail, code="invalid_parameter", errors=refused.errors) from None


FILTERS = Parameter(
    name="filters",
    description="Only events that pass these filters, as URL-encoded JSON: a filter of a subscription, or a list of "
    "them, all of which must be true.",
    schema={"type": "string", "maxLength": MAX_CHARACTERS},
    read=_read_filters,
)


EXAMPLE_EVENT = sample_event(
    FAILED,
    event_id=EVENT_ID,
    now=1779271208.0,
    origin=Origin(
        source="https://upstream.example/api/jobs",
        type_prefix=FAILED.rpartition(".")[0],
        dataschema="http://127.0.0.1:8080/schemas/job-status.v1.json",
    ),
    dataschema_base="http://127.0.0.1:8080",
).document()


class CloudEvent(Shown):
    """A CloudEvent in structured JSON, as sent to sinks. A published one has what its program gave it."""

    model_config = ConfigDict(extra="allow")
    example: ClassVar[Mapping[str, Any]] = EXAMPLE_EVENT

    specversion: Literal["1.0"]
    id: str
    source: str
    type: str
    subject: str = ""
    time: str = Field(default="", json_schema_extra={"format": "date-time"})
    datacontenttype: str = ""
    dataschema: str = ""
    data: Any = None


class EventPage(Shown):
    """One page of events."""

    items: list[CloudEvent]
    ids: list[str] = Field(
        description="The relay's ids of `items`. A published event has in it the id of its program.",
        examples=[[EVENT_ID]],
    )
    next_cursor: NextCursor


operation = partial(Operation, tag="Events", bound=True)
_TYPE = text("type", "The event's type: full, short (`failed`: of every resource), or of another program.")


@operation(
    "GET /v1/events",
    query=(
        _TYPE,
        text("subject", "The event's subject. For job events: the upstream's id of the job."),
        time("since", "Events recorded at or after this time."),
        time("until", "Events recorded before this time."),
        FILTERS,
        *PAGE,
    ),
    answers={
        200: Answer(
            "A page. With `filters`, or several of the others, it can have few items, or none, though others follow.",
            EventPage,
            headers=NEXT,
        )
    },
)
async def list_events(call: Call) -> Response:
    """List events, newest first."""
    query = {**call.query, "types": _types(call)}
    del query["type"]
    wanted = Wanted((), query.pop("filters"))
    page = await call.dependencies.store.events.page(**query)
    shown = await wanted.of(page.items, call.dependencies.admission.filtering, call.caller)
    return page_response(call.request, map(fragment, shown), page.next_cursor, {"ids": [event.id for event in shown]})


# Before `get_event`: routes are matched in order.
@operation(
    "GET /v1/events/stream",
    query=(_TYPE, FILTERS),
    request_headers=LAST_EVENT_ID,
    answers={200: STREAM},
    problems={429: "Too many streams are open."},
)
async def stream_events(call: Call) -> Response:
    """Stream events as they are recorded.

    Without `Last-Event-ID` the stream starts with the next event. A comment every 15 seconds keeps it open.
    """
    return await of_all(call, Wanted(_types(call), call.query["filters"]))


def _types(call: Call) -> tuple[str, ...]:
    types, errors = types_named(call.query["type"], call.context.known_types, "type")
    if errors:
        raise InvalidRequest(invalid_detail(errors), code="invalid_parameter", errors=errors)
    return types


@operation("GET /v1/events/{id}", answers={200: Answer("The event.", CloudEvent)})
async def get_event(call: Call) -> Response:
    """Read an event."""
    event = known(await call.dependencies.store.events.get(call.id), "event", call.id)
    return Response(event.body, media_type="application/json")
