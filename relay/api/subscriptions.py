"""`/v1/subscriptions`: create, read, change, test, pause, resume, rotate secrets."""

import secrets
from dataclasses import replace
from urllib.parse import urlsplit

from starlette.responses import Response

from relay.api.models import SecretRotation, TestRequest
from relay.api.names import event_type
from relay.api.operations import Call
from relay.api.resource import json_response, page_response
from relay.api.subscription_bodies import read_create, read_replace
from relay.api.validation import invalid, validate
from relay.api.views import subscription_view, tested_view
from relay.clock import to_rfc3339
from relay.core.events import Origin
from relay.core.records import Page
from relay.core.samples import sample_event
from relay.core.signing import new_secret
from relay.core.subscription import SigningSecret, Subscription
from relay.errors import Conflict, NotFound
from relay.ids import new_id

SECRET_BYTES = 32
DEFAULT_TEST_TYPE = "relay.test"


async def create(call: Call) -> Response:
    """`POST /v1/subscriptions`."""
    now = call.ports.clock()
    subscription, given = read_create(call.document, call.context, id=call.new_id("sub", now), now=now)
    if call.query["reuse"]:
        same = sorted(
            (one for one in await call.ports.subscriptions.all() if same_url(one.sink, subscription.sink)),
            key=lambda one: one.id,
        )
        if same:
            return _shown(call, same[0])
    if call.first is not None and (known := await call.ports.subscriptions.get(subscription.id)) is not None:
        return _made(call, known)  # the first request was cut off after its commit
    secret = given or new_secret(secrets.token_bytes(SECRET_BYTES))
    made = replace(subscription, secrets=(SigningSecret(value=secret),))
    await call.ports.subscriptions.create(made)
    call.ports.delivering.wake()
    return _made(call, made)


def _made(call: Call, made: Subscription) -> Response:
    secret = made.secrets[0].value
    view = subscription_view(made, call.ports.kinds.redacted_url, call.ports.settings, secret=secret)
    return json_response(view, 201, {"Location": f"/v1/subscriptions/{made.id}"})


async def list_subscriptions(call: Call) -> Response:
    """`GET /v1/subscriptions`."""
    page = await call.ports.subscriptions.page(**call.query)
    kinds, settings = call.ports.kinds, call.ports.settings
    shown = tuple(subscription_view(one, kinds.redacted_url, settings) for one in page.items)
    return page_response(call.request, Page(items=shown, next_cursor=page.next_cursor))


async def get(call: Call) -> Response:
    """`GET /v1/subscriptions/{id}`."""
    return _shown(call, await _find(call))


async def put(call: Call) -> Response:
    """`PUT /v1/subscriptions/{id}`."""
    before = await _find(call)
    _refuse_callback(before, "its settings cannot be changed")
    await call.ports.subscriptions.replace(read_replace(call.document, call.context, before), call.ports.clock())
    call.ports.delivering.wake()
    return _shown(call, await _find(call))


async def delete(call: Call) -> Response:
    """`DELETE /v1/subscriptions/{id}`."""
    subscription = await _find(call)
    await call.ports.subscriptions.remove(subscription.id, call.ports.clock())
    call.ports.delivering.wake()
    return _shown(call, subscription)


async def test(call: Call) -> Response:
    """`POST /v1/subscriptions/{id}/test`: send a sample now, in any state. Nothing is stored."""
    subscription = await _find(call)
    given = validate(TestRequest, call.document).type
    read, errors = event_type(given, call.context.known_types, "/type")
    if errors:
        raise invalid(*errors)
    wanted = read or DEFAULT_TEST_TYPE
    now = call.ports.clock()
    name, origin = _origin_of(call, wanted)
    accounts = call.ports.settings.accounts.get(name) or ("default",)
    event = sample_event(
        wanted,
        event_id=new_id("evt", now),
        now=now,
        origin=origin,
        dataschema_base=call.context.base_url,
        source=name,
        account=accounts[0],
    )
    return json_response(tested_view(event, await call.ports.delivering.test(subscription, event)))


async def pause(call: Call) -> Response:
    """`POST /v1/subscriptions/{id}/pause`: events are still recorded, and wait."""
    subscription = await _find(call)
    if subscription.state == "disabled":
        detail = f"it is disabled ({subscription.disabled_reason}), so nothing is sent: use resume to enable it"
        raise Conflict(detail, code="subscription_disabled")
    return await _set_state(call, subscription, "paused")


async def resume(call: Call) -> Response:
    """`POST /v1/subscriptions/{id}/resume`: enable it, also after it was disabled, and send the backlog."""
    return await _set_state(call, await _find(call), "enabled")


async def rotate_secret(call: Call) -> Response:
    """`POST /v1/subscriptions/{id}/rotate-secret`: both secrets sign until the old one expires."""
    subscription = await _find(call)
    _refuse_callback(subscription, "it uses the relay's own secret, see GET /v1/signing-secret")
    overlap_seconds = validate(SecretRotation, call.document).overlap_seconds
    now = call.ports.clock()
    secret = new_secret(secrets.token_bytes(SECRET_BYTES))
    expires_at = now + overlap_seconds
    await call.ports.subscriptions.add_secret(subscription.id, secret, now, old_expire_at=expires_at)
    call.ports.delivering.wake()
    return json_response({"secret": secret, "old_secret_expires_at": to_rfc3339(expires_at)})


async def signing_secret(call: Call) -> Response:
    """`GET /v1/signing-secret`: the secret that signs requests to callback URLs."""
    return json_response({"secret": await call.ports.node.callback_secret()})


def same_url(one: str, other: str) -> bool:
    """Whether two sinks are the same URL. Scheme and host are compared case-insensitively."""
    return _comparable(one) == _comparable(other)


def _comparable(url: str) -> tuple[str, ...]:
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.netloc.lower(), parts.path or "/", parts.query


def _shown(call: Call, subscription: Subscription) -> Response:
    return json_response(subscription_view(subscription, call.ports.kinds.redacted_url, call.ports.settings))


async def _find(call: Call) -> Subscription:
    subscription = await call.ports.subscriptions.get(call.id)
    if subscription is None:
        raise NotFound(f"there is no subscription {call.id[:200]!r}", code="subscription_not_found")
    return subscription


async def _set_state(call: Call, subscription: Subscription, state: str) -> Response:
    reason = "paused by hand" if state == "paused" else "resumed by hand"
    await call.ports.subscriptions.set_state(subscription.id, state, call.ports.clock(), reason)
    call.ports.delivering.wake()
    return _shown(call, await _find(call))


def _refuse_callback(subscription: Subscription, why: str) -> None:
    if subscription.callback:
        raise Conflict(
            f"subscription {subscription.id} was created by a callback_url: {why}", code="callback_subscription"
        )


def _origin_of(call: Call, event_type: str) -> tuple[str, Origin]:
    """The source of this event type; any source for events about the relay."""
    origins = call.ports.settings.origins
    found = next((pair for pair in origins.items() if event_type.startswith(f"{pair[1].type_prefix}.")), None)
    return found or next(iter(origins.items()))
