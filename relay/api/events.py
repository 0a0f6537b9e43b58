"""`/v1/events`: all recorded events, with or without subscriptions."""

from starlette.responses import Response

from relay.api.names import event_type
from relay.api.operations import Call
from relay.api.problems import invalid_detail
from relay.api.resource import page_response
from relay.api.stream import fragments, of_all
from relay.core.records import Page
from relay.errors import InvalidRequest, NotFound


async def list_events(call: Call) -> Response:
    """`GET /v1/events`: newest first."""
    type, errors = event_type(call.query["type"], call.context.known_types, "type")
    if errors:
        raise InvalidRequest(invalid_detail(errors), code="invalid_parameter", errors=errors)
    page = await call.ports.events.page(**{**call.query, "type": type})
    return page_response(call.request, Page(items=fragments(page.items), next_cursor=page.next_cursor))


async def get(call: Call) -> Response:
    """`GET /v1/events/{id}`: the stored bytes, which are also what is sent and signed."""
    event = await call.ports.events.get(call.id)
    if event is None:
        raise NotFound(f"there is no event {call.id[:200]!r}", code="event_not_found")
    return Response(event.body, media_type="application/json")


async def stream(call: Call) -> Response:
    """`GET /v1/events/stream`."""
    return await of_all(call)
