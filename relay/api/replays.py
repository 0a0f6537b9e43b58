"""`/v1/replays`: send events again, and follow the progress."""

from starlette.responses import Response

from relay.api.models import DeliveriesRetry, ReplayCreate
from relay.api.names import event_type, event_types
from relay.api.operations import Call
from relay.api.resource import json_response
from relay.api.validation import invalid, pointer_of, validate
from relay.api.views import replay_view
from relay.clock import from_rfc3339
from relay.core.filters import matches
from relay.core.replay import Replay, ReplayRequest
from relay.core.subscription import Subscription
from relay.errors import FieldError, NotFound
from relay.ids import new_id


async def replay(call: Call) -> Response:
    """`POST /v1/subscriptions/{id}/replay`: the undelivered events of a range, or all."""
    subscription = await call.ports.subscriptions.get(call.id)
    if subscription is None:
        raise NotFound(f"there is no subscription {call.id[:200]!r}", code="subscription_not_found")
    body = validate(ReplayCreate, call.document)
    since, until, now, errors = _range(call, body.since, body.until, "")
    types, type_errors = event_types(body.types or (), call.context.known_types, "/types")
    errors += type_errors
    for index, name in enumerate(types if not type_errors else ()):
        why = _not_sent(call, subscription, name)
        if why is not None:
            errors.append(FieldError(pointer=pointer_of("types", index), code="unknown_type", detail=why))
    if errors:
        raise invalid(*errors)
    request = ReplayRequest(
        id=new_id("rpl", now),
        subscription_id=subscription.id,
        since=since,
        until=until,
        now=now,
        types=None if body.types is None else types,
        only=body.only,
    )
    return _started(await call.ports.replays.create(request))


async def retry_deliveries(call: Call) -> Response:
    """`POST /v1/deliveries/retry`: all deliveries that match a filter."""
    wanted = validate(DeliveriesRetry, call.document).filter
    since, until, now, errors = _range(call, wanted.since, wanted.until, "/filter")
    type, type_errors = event_type(wanted.type, call.context.known_types, "/filter/type")
    errors += type_errors
    if errors:
        raise invalid(*errors)
    request = ReplayRequest(
        id=new_id("rpl", now),
        subscription_id=wanted.subscription,
        since=since,
        until=until,
        now=now,
        types=None if type is None else (type,),
        only=wanted.state,
        reason=wanted.reason,
    )
    return _started(await call.ports.replays.create(request))


async def get(call: Call) -> Response:
    """`GET /v1/replays/{id}`."""
    found = await call.ports.replays.get(call.id)
    if found is None:
        raise NotFound(f"there is no replay {call.id[:200]!r}", code="replay_not_found")
    return json_response(replay_view(found))


async def stop(call: Call) -> Response:
    """`DELETE /v1/replays/{id}`: deliveries not yet sent return to their previous state."""
    stopped = await call.ports.replays.stop(call.id, call.ports.clock())
    call.ports.delivering.wake()
    return json_response(replay_view(stopped))


def _started(made: Replay) -> Response:
    answer = {"replay_id": made.id, "matched": made.matched}
    return json_response(answer, 202, {"Location": f"/v1/replays/{made.id}"})


def _range(
    call: Call, since: str | None, until: str | None, place: str
) -> tuple[float, float, float, list[FieldError]]:
    """Start, end, now, and errors. The end is capped at now: later events are sent anyway."""
    now = call.ports.clock()
    first = 0.0 if since is None else from_rfc3339(since)
    last = now if until is None else min(from_rfc3339(until), now)
    errors = []
    if first >= now:
        errors.append(FieldError(pointer=f"{place}/since", code="out_of_range", detail="it must be in the past"))
    elif first >= last:
        errors.append(FieldError(pointer=f"{place}/until", code="out_of_range", detail="it must be after since"))
    return first, last, now, errors


def _not_sent(call: Call, subscription: Subscription, name: str) -> str | None:
    """Why a subscription never gets events of this type; None if it does."""
    job_event = any(name.startswith(f"{origin.type_prefix}.") for origin in call.context.settings.origins.values())
    source = subscription.source or ""
    if job_event if subscription.callback else matches(subscription, name, source, job_event=job_event):
        return None
    return f"subscription {subscription.id} does not get events of the type {name!r}"
