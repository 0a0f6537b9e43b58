"""`/v1/intents`: creates that were sent through the relay and whose fate is unknown."""

from starlette.responses import Response

from relay.api.models import IntentResolution
from relay.api.operations import Call
from relay.api.resource import json_response, page_response
from relay.api.validation import invalid, validate
from relay.api.views import intent_view
from relay.core.records import Page
from relay.errors import FieldError, NotFound


async def list_intents(call: Call) -> Response:
    """`GET /v1/intents`: newest first."""
    page = await call.ports.dropin.intents(**call.query)
    shown = tuple(intent_view(intent) for intent in page.items)
    return page_response(call.request, Page(items=shown, next_cursor=page.next_cursor))


async def resolve(call: Call) -> Response:
    """`POST /v1/intents/{id}/resolve`."""
    body = validate(IntentResolution, call.document)
    if body.job_id is not None and body.fate != "sent":
        detail = "only a create with fate `sent` can have a job"
        raise invalid(FieldError(pointer="/job_id", code="invalid", detail=detail))
    return json_response(intent_view(await call.ports.dropin.resolve(call.id, body.fate, body.job_id)))


async def dismiss(call: Call) -> Response:
    """`DELETE /v1/intents/{id}`."""
    intent = await call.ports.dropin.dismiss(call.id)
    if intent is None:
        detail = f"there is no create {call.id[:200]!r} whose fate is unknown"
        raise NotFound(detail, code="intent_not_found")
    return json_response(intent_view(intent))
