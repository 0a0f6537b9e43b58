"""`POST /v1/subscriptions/preview`: what a subscription would send for an event. Nothing is sent, and nothing stored.

The request is made by the code that sends. Names that a template lacks are errors here, even if the template is not
strict: a preview is for finding them.
"""

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any

from pydantic import Field
from starlette.responses import Response

from relay.api.deliveries.deliveries import is_signed_name, recipient_of
from relay.api.deliveries.sink_credentials import sent_headers_view
from relay.api.events.events import CloudEvent
from relay.api.http.auth import READS_SUBSCRIPTIONS
from relay.api.http.fields import FAILED, ID_PATTERN, Body
from relay.api.http.operations import Answer, Call, Operation, json_response
from relay.api.http.shown import Shown, Time
from relay.api.http.validation import invalid, under, validate
from relay.api.jobs.registration import is_printable_id
from relay.api.subscriptions.checks import read_create, read_replace
from relay.api.subscriptions.subscriptions import new_signing_secret, sample_of
from relay.clock import to_rfc3339
from relay.core.deliveries.dialogue import Step
from relay.core.events.event import Event
from relay.core.jobs.job import ANYBODY, Recipient
from relay.core.subscriptions.comparisons import EventView
from relay.core.subscriptions.filters import Filters, explain_filters, filters_of, why_not
from relay.core.subscriptions.subscription import SigningSecret, Subscription
from relay.errors import FieldError, InvalidRequest, NotRenderable, Unreadable
from relay.ids import new_id
from relay.redaction import REDACTED
from relay.tasks import Turns
from subscribers.common.templates import strictly
from subscribers.registry import kind_named

RECENT_DAYS = 7
DAY_SECONDS = 86_400.0
MAX_RECENT = 10_000
"""Maximum events, the newest ones, that one preview checks."""
MAX_RECENT_SECONDS = 2.0
SLICE = 500
MAX_EXAMPLES = 3
PREFERRED = "failed"
"""The type of the sample if neither `type` nor `event_id` is given, and if the subscription gets this type."""


class SubscriptionPreview(Body):
    """A subscription, and the event to show it with."""

    subscription: Any = Field(
        json_schema_extra={
            "anyOf": [{"$ref": "#/components/schemas/SubscriptionCreate"}, {"type": "string", "pattern": ID_PATTERN}]
        },
        description="A body as for `POST /v1/subscriptions`, or the id of a subscription.",
        examples=[{"sink": "https://receiver.example/hooks", "types": [FAILED]}],
    )
    replaces: str | None = Field(
        default=None,
        pattern=ID_PATTERN,
        description="`subscription` is a body as for `PUT /v1/subscriptions/{id}` with this id: a redacted sink or "
        "header and an absent credential are those that are stored.",
    )
    type: str | None = Field(
        default=None,
        description="A sample of this type. Default: one that the subscription gets.",
        examples=[FAILED],
    )
    event_id: str | None = Field(default=None, pattern=ID_PATTERN, description="A recorded event, instead of a sample.")
    metadata: dict[str, Any] | None = Field(
        default=None, description="Added to the metadata of the sample's job.", examples=[{"deal": 42}]
    )


class PreviewedRequest(Shown):
    """A request as it would be sent. What is secret is redacted."""

    name: str | None = Field(description="What it is for, where a delivery takes several requests.")
    method: str = Field(examples=["POST"])
    url: str = Field(examples=["https://receiver.example/hooks"])
    headers: dict[str, str] = Field(
        examples=[{"Content-Type": "application/cloudevents+json", "webhook-signature": REDACTED}]
    )
    body: str | None = Field(description="null: the request has none, such as a look-up.", examples=["{}"])


class Recent(Shown):
    """The deliveries that recent events would have made."""

    days: int = Field(examples=[7])
    since: Time = Field(description="Events recorded since then were checked.", examples=["2026-05-13T10:00:00.000Z"])
    seen: int = Field(description="The number of events checked.", examples=[1204])
    matched: int = Field(examples=[1])
    named: int | None = Field(
        description="Of those, how many have metadata that identify a person whom the CRM can look up. Recipients that "
        "`proxy.capture` keeps are not counted. null: the sink is no CRM."
    )
    cut: bool = Field(description="There are older events in these days that were not checked.")
    examples: list[CloudEvent] = Field(description="The newest that match, three at most.")


class Preview(Shown):
    """The requests that a subscription would send for an event."""

    matches: bool = Field(description="Whether the subscription gets the event.", examples=[True])
    why: str = Field(default="", description="Why it does not.")
    event: CloudEvent
    requests: list[PreviewedRequest] = Field(description="In this order. Empty if it does not get the event.")
    recent: Recent


operation = partial(Operation, tag="Subscriptions")


@operation(
    "POST /v1/subscriptions/preview",
    bound=True,
    scopes=READS_SUBSCRIPTIONS,
    body=SubscriptionPreview,
    answers={200: Answer("What would be sent.", Preview)},
    problems={
        409: "The subscription's account has no events of this type.",
        429: "Too many previews are being made.",
    },
)
async def preview_subscription(call: Call) -> Response:
    """Show what a subscription would send.

    For a sample or a recorded event: whether the subscription gets it, if not why, and the requests as they would be
    sent. Also how many events of the last seven days it would have got. Nothing is sent, and nothing is stored. A wrong
    filter or template is a 422 with its position, and so is a name in a template that the event does not have.
    """
    body = validate(SubscriptionPreview, call.document)
    async with call.dependencies.admission.previews.turn(call.caller):
        preview = await _preview(call, body)
    return json_response(preview)


async def _preview(call: Call, body: SubscriptionPreview) -> dict[str, Any]:
    """Each of its parts computes for up to a tenth of a second: filters are compiled, templates rendered."""
    subscription = await _subscription(call, body)
    await asyncio.sleep(0)
    filters = filters_of(subscription.filters)
    await asyncio.sleep(0)
    event, owner = await _event(call, body, subscription)
    why = why_not(subscription, event, owner)
    if why is None and (false := explain_filters(filters, event.body)) is not None:
        why = f"a filter is false: {false}"
    recipient = ANYBODY if body.event_id is None else await recipient_of(call, event)
    return {
        "matches": why is None,
        **({} if why is None else {"why": why}),
        "event": event.document(),
        "requests": [] if why is not None else await _requests(call, subscription, event, recipient),
        "recent": await _recent(call, subscription, filters),
    }


async def _subscription(call: Call, body: SubscriptionPreview) -> Subscription:
    given = body.subscription
    if isinstance(given, str):
        if body.replaces is not None:
            detail = "replaces needs the new settings of the subscription, not its id"
            raise invalid(FieldError(pointer="/subscription", code="contradiction", detail=detail))
        found = await call.dependencies.store.subscriptions.get(given) if is_printable_id(given) else None
        if found is None:
            raise _no_subscription("/subscription", given)
        return found
    if body.replaces is not None:
        before = await call.dependencies.store.subscriptions.get(body.replaces)
        if before is None:
            raise _no_subscription("/replaces", body.replaces)
        with under("subscription"):
            return read_replace(given, call.context, before)
    now = call.dependencies.clock()
    with under("subscription"):
        made, secret = read_create(given, call.context, id=new_id("sub", now), now=now)
    value = secret or new_signing_secret()
    return replace(made, owner=call.dependencies.settings.owner, secrets=(SigningSecret(value=value),))


def _no_subscription(pointer: str, id: str) -> InvalidRequest:
    detail = f"there is no subscription {id[:200]!r}"
    return invalid(FieldError(pointer=pointer, code="subscription_not_found", detail=detail))


async def _event(call: Call, body: SubscriptionPreview, subscription: Subscription) -> tuple[Event, str | None]:
    """The event, and the account that it is about: a sample is about the account that the subscription belongs to."""
    if body.event_id is not None:
        for name in ("type", "metadata"):
            if getattr(body, name) is not None:
                detail = f"{name} is for a sample, and event_id names a recorded event: leave one of them out"
                raise invalid(FieldError(pointer=f"/{name}", code="contradiction", detail=detail))
        found = await call.dependencies.store.events.get(body.event_id)
        if found is None:
            detail = f"there is no event {body.event_id[:200]!r}"
            raise invalid(FieldError(pointer="/event_id", code="event_not_found", detail=detail))
        return found, found.owner
    wanted = _usual(call, subscription) if body.type is None else body.type
    return sample_of(call, wanted, body.metadata, subscription), subscription.owner


def _usual(call: Call, subscription: Subscription) -> str:
    """The type of a sample that the subscription gets: of a failed job if it gets those."""
    known = call.context.known_types
    wanted = [one for one in known if subscription.types is None or one in subscription.types]
    wanted = wanted or list(subscription.types or known)
    return next((one for one in wanted if one.endswith(f".{PREFERRED}")), wanted[0])


async def _requests(
    call: Call, subscription: Subscription, event: Event, recipient: Recipient | None
) -> list[dict[str, Any]]:
    """The requests as they would be sent. Raises InvalidRequest if the event cannot be rendered."""
    try:
        with under("subscription"):
            steps = await call.dependencies.dispatcher.requests_of(strictly(subscription), event, recipient)
    except (NotRenderable, Unreadable) as error:
        raise invalid(*(replace(one, pointer=f"/subscription{one.pointer}") for one in error.errors)) from None
    return [_request_view(call, subscription, one) for one in steps]


def _request_view(call: Call, subscription: Subscription, step: Step) -> dict[str, Any]:
    sent = step.request
    if subscription.protocol != "HTTP":  # a message's headers have no credential
        headers = dict(sent.headers)
    else:
        headers = sent_headers_view(sent.headers, subscription.credential)
    headers |= {name: REDACTED for name in headers if is_signed_name(name) and name.lower().endswith("signature")}
    return {
        "name": step.name or None,
        "method": sent.method,
        "url": call.shown_url(subscription, sent.url).replace("%7B", "{").replace("%7D", "}"),  # placeholders
        "headers": headers,
        "body": None if sent.method == "GET" else sent.body.decode(errors="replace"),
    }


async def _recent(call: Call, subscription: Subscription, filters: Filters | None) -> dict[str, Any]:
    """The deliveries that the newest events of the last days would have made. Works in slices, so that other requests
    run between them."""
    now = call.dependencies.clock()
    begin = since = now - RECENT_DAYS * DAY_SECONDS
    seen, matched, examples = 0, 0, list[dict[str, Any]]()
    names_person = kind_named(subscription.kind).names_person(subscription)
    named, cursor, cut = 0, None, False
    clock, turns = asyncio.get_running_loop().time, Turns()
    until = clock() + MAX_RECENT_SECONDS
    while not cut:
        page = await call.dependencies.store.events.page(limit=SLICE, cursor=cursor, since=begin)
        for event in page.items:
            if seen >= MAX_RECENT or (seen and clock() >= until):
                cut = True
                break
            seen, since = seen + 1, event.recorded_at
            gets = why_not(subscription, event, event.owner) is None
            if gets and (filters is None or filters.passes(EventView(event.body))):
                matched += 1
                named += names_person is not None and names_person(event)
                if len(examples) < MAX_EXAMPLES:
                    examples.append(event.document())
            if turns.over:
                await turns.next()
        cursor = page.next_cursor
        if cursor is None:
            break
    return {
        "days": RECENT_DAYS,
        "since": to_rfc3339(since if cut else begin),
        "seen": seen,
        "matched": matched,
        "named": None if names_person is None else named,
        "cut": cut,
        "examples": examples,
    }
