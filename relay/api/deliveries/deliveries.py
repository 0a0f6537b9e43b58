"""`/v1/deliveries`: one per event and subscription, with all attempts."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from pydantic import Field, RootModel
from starlette.responses import Response

from relay.api.deliveries.sink_credentials import sent_headers_view
from relay.api.http.auth import ADMINS, READS_SUBSCRIPTIONS, WRITES_SUBSCRIPTIONS
from relay.api.http.fields import (
    DELIVERY_ID,
    EVENT_ID,
    FAILED,
    JOB_ID,
    JOB_UID,
    SUBSCRIPTION_ID,
    TIME,
    Body,
    NextCursor,
    Nothing,
)
from relay.api.http.idempotency import Repeats, members
from relay.api.http.operations import NEXT, Answer, Call, Operation, json_response, page_response
from relay.api.http.params import PAGE, choice, choices, text, time, whole_number
from relay.api.http.problems import invalid_parameter, known
from relay.api.http.shown import Shown, Time
from relay.api.http.validation import validate
from relay.clock import to_rfc3339
from relay.core.deliveries import delivery as core
from relay.core.events.event import Event
from relay.core.jobs.job import Recipient
from relay.core.subscriptions.subscription import PULL
from relay.errors import Conflict

GroupField = Literal["reason", "sink", "day"]
MAX_COUNTED = 50_000
_MAY_CHANGE = "Null unless the caller may change the subscription."
GROUPED_BY: Mapping[GroupField, str] = {"reason": "reason", "sink": "subscription_id", "day": "day"}
"""The values of `group_by`, and the column that each groups by."""


class Timings(Shown):
    """The phases of an attempt. A part that did not happen is null, for example on a reused connection. A part that
    failed counts until it failed."""

    dns_ms: float | None = Field(description="The lookup of the host name; null if it was cached.", examples=[2.1])
    connect_ms: float | None = Field(description="TCP, over all addresses tried.", examples=[18.4])
    tls_ms: float | None = Field(description="The TLS handshake.", examples=[21.3])
    first_byte_ms: float | None = Field(
        description="From sending the request to the response headers.", examples=[42.0]
    )


class MadeUpRequest(Shown):
    """A request that was not sent. Placeholders in braces stand for what only the sink knows, and for whom the job's
    create names. A long body is cut."""

    method: str
    url: str = Field(description="Redacted.")
    body: str


class Attempt(Shown):
    """One attempt. Credentials are redacted. What was sent and answered is null unless the caller may change the
    subscription: headers, excerpt and `requests`."""

    number: int = Field(examples=[1])
    started_at: Time
    duration_ms: float = Field(description="Total time, to the end of the response body.", examples=[84.2])
    status_code: int | None = Field(examples=[200])
    error: str | None
    timings: Timings
    decision: str | None = Field(
        description="The decision and its reason, in a sentence. Of a test: where the broker has put it, else null.",
        examples=["HTTP 200: delivered"],
    )
    next_attempt_at: Time | None = Field(description="When this attempt scheduled the next one; null if there is none.")
    request_headers: dict[str, str] | None = Field(
        description=_MAY_CHANGE, examples=[{"webhook-id": EVENT_ID, "webhook-signature": "[redacted]"}]
    )
    response_headers: dict[str, str] | None = Field(description=_MAY_CHANGE, examples=[{"content-type": "text/plain"}])
    response_excerpt: str | None = Field(
        description=f"The beginning of the response body. {_MAY_CHANGE}", examples=["ok"]
    )
    response_excerpt_encoding: Literal["text", "hex"] | None = Field(
        description="`hex` if the body is not UTF-8.", examples=["text"]
    )
    remote_ip: str | None = Field(
        description="The address that was dialled, even if it did not answer.", examples=["93.184.215.14"]
    )
    requests: list[MadeUpRequest] | None = Field(
        description=f"With `config.dry_run`: what would have been sent; otherwise null. {_MAY_CHANGE}"
    )


SEEN_BY_FEW = ("request_headers", "response_headers", "response_excerpt", "response_excerpt_encoding", "requests")
"""Fields of an attempt that are shown only to callers who may change the subscription."""


class Delivery(Shown):
    """One event for one subscription."""

    id: str = Field(examples=[DELIVERY_ID])
    event_id: str = Field(examples=[EVENT_ID])
    event_type: str = Field(examples=[FAILED])
    subject: str | None = Field(
        description="The event's subject: of job events the job's id upstream.", examples=[JOB_ID]
    )
    subscription_id: str = Field(examples=[SUBSCRIPTION_ID])
    sink: str | None = Field(
        description="The sink, redacted; null if the subscription was removed.",
        examples=["https://receiver.example/hooks"],
    )
    job_uid: str | None = Field(examples=[JOB_UID])
    state: Literal["pending", "delivered", "dead", "cancelled", "uncertain"] = Field(examples=["delivered"])
    attempt_count: int = Field(examples=[1])
    next_attempt_at: Time | None
    waiting_for: str | None = Field(
        description="The delivery of an earlier event of the same job, which must end first."
    )
    reason: str | None
    created_at: Time
    ended_at: Time | None = Field(examples=[TIME])


class DeliveryWithAttempts(Delivery):
    """A delivery with all its attempts."""

    attempts: list[Attempt]


class Settlement(Body):
    """The fate of an uncertain delivery, as a person found it."""

    fate: Literal["sent", "not_sent"] = Field(description="Whether the record is in the CRM.")


class DeliveryPage(Shown):
    """One page of deliveries."""

    items: list[Delivery]
    next_cursor: NextCursor


class DeliveryGroup(Shown):
    """Deliveries with equal values in the `group_by` fields; the other fields are null. Times are creation times."""

    reason: str | None
    subscription_id: str | None
    sink: str | None = Field(description="The sink, redacted; also null if its subscription was removed.")
    day: str | None = Field(description="A UTC day, such as 2026-05-20.")
    count: int
    oldest_at: Time
    newest_at: Time
    example_id: str = Field(description="The newest delivery of the group.")


class DeliveryGroups(Shown):
    """The largest groups of the newest deliveries."""

    items: list[DeliveryGroup]
    next_cursor: NextCursor
    group_by: list[GroupField]
    scanned: int = Field(description="The number of deliveries counted, newest first.")
    truncated: bool = Field(description="True if older deliveries were not counted, or groups were left out.")


class DeliveryListing(RootModel[DeliveryPage | DeliveryGroups]):
    """A page of deliveries, or their groups."""


class SignedRequest(Shown):
    """A request to a sink with a current signature; other credentials are redacted."""

    method: str = Field(examples=["POST"])
    url: str = Field(description="The sink, redacted.", examples=["https://receiver.example/hooks"])
    headers: dict[str, str] = Field(examples=[{"content-type": "application/cloudevents+json", "webhook-id": EVENT_ID}])
    body: str = Field(description="The exact text that is signed.", examples=["{}"])


def attempt_view(attempt: core.Attempt, *, whole: bool) -> dict[str, Any]:
    """One attempt. `whole`: the caller may see what the sink was sent and has answered."""
    if not whole:
        return Attempt.of(attempt, **dict.fromkeys(SEEN_BY_FEW))
    no_excerpt = attempt.response_excerpt is None
    return Attempt.of(
        attempt,
        request_headers=_headers_view(attempt.request_headers),
        response_headers=_headers_view(attempt.response_headers),
        response_excerpt_encoding=None if no_excerpt else "hex" if attempt.excerpt_is_hex else "text",
    )


def _headers_view(headers: tuple[tuple[str, str], ...]) -> dict[str, str]:
    shown: dict[str, str] = {}
    for name, value in headers:
        shown[name] = f"{shown[name]}, {value}" if name in shown else value
    return shown


operation = partial(Operation, tag="Deliveries", bound=True, scopes=READS_SUBSCRIPTIONS)


@operation(
    "GET /v1/deliveries",
    query=(
        choice("state", "The delivery's state.", "pending", "delivered", "dead", "cancelled", "uncertain"),
        text("subscription", "The subscription's id."),
        text("event", "The event's id."),
        text("reason", "The reason, such as `http_500`."),
        time("since", "Deliveries made at or after this time, to the millisecond."),
        time("until", "Deliveries made before this time."),
        choices("group_by", "Count deliveries by these fields, largest groups first.", *GROUPED_BY),
        whole_number(
            "newest", "With `group_by`: how many of the newest deliveries are counted.", MAX_COUNTED, MAX_COUNTED
        ),
        *PAGE,
    ),
    answers={
        200: Answer(
            "A page; with `group_by`: groups. With several filters a page can have few items, or none, though others "
            "follow.",
            DeliveryListing,
            headers=NEXT,
        )
    },
)
async def list_deliveries(call: Call) -> Response:
    """List deliveries, newest first, or count them by group."""
    query = dict(call.query)
    query["subscription_id"], query["event_id"] = query.pop("subscription"), query.pop("event")
    group_by, newest = query.pop("group_by"), query.pop("newest")
    if group_by:
        return await _groups(call, group_by, {**query, "newest": newest})
    page = await call.dependencies.store.deliveries.page(**query)
    sinks = await _sinks(call, (one.subscription_id for one in page.items))
    items = [Delivery.of(one, sink=sinks.get(one.subscription_id)) for one in page.items]
    return page_response(call.request, items, page.next_cursor)


async def _groups(call: Call, group_by: Sequence[GroupField], query: dict[str, Any]) -> Response:
    if query.pop("cursor") is not None:
        detail = "cursor: groups have no pages; use `limit` for the number of groups"
        raise invalid_parameter("cursor", detail, code="invalid_cursor")
    found = await call.dependencies.store.deliveries.groups([GROUPED_BY[word] for word in group_by], **query)
    sinks = await _sinks(call, (group.subscription_id for group in found.items if group.subscription_id is not None))
    items = [
        DeliveryGroup.of(
            group,
            sink=sinks.get(group.subscription_id or ""),
            day=None if group.day is None else to_rfc3339(group.day)[:10],
        )
        for group in found.items
    ]
    truncated = found.truncated or found.more
    groups = DeliveryGroups.of(found, items=items, next_cursor=None, group_by=list(group_by), truncated=truncated)
    return json_response(groups)


async def _sinks(call: Call, ids: Iterable[str]) -> dict[str, str]:
    """The redacted sink of each subscription that still exists."""
    found = await call.dependencies.store.subscriptions.some(sorted(set(ids)))
    return {one.id: call.shown_sink(one.kind, one.sink) for one in found}


@operation("GET /v1/deliveries/{id}", answers={200: Answer("The delivery.", DeliveryWithAttempts)})
async def get_delivery(call: Call) -> Response:
    """Read a delivery with its attempts."""
    return await _shown(call, await _find(call))


@operation(
    "GET /v1/deliveries/{id}/request",
    scopes=ADMINS,
    answers={200: Answer("The request. Nothing is sent.", SignedRequest)},
    problems={409: "The subscription was removed, or nothing would be sent."},
)
async def get_delivery_request(call: Call) -> Response:
    """Preview the request with a current signature."""
    found = await _find(call)
    subscription = await call.dependencies.store.subscriptions.get(found.subscription_id)
    event = await call.dependencies.store.events.get(found.event_id)
    if subscription is None or event is None:
        raise Conflict(f"the subscription of delivery {found.id} was removed", code="subscription_removed")
    if subscription.kind == PULL:
        raise Conflict("a program pulls it, so nothing is sent", code="nothing_to_send")
    sent = await call.dependencies.dispatcher.request_of(subscription, event, await recipient_of(call, event))
    if sent is None:
        detail = "the event names no person whom the sink can look for, so nothing would be written"
        raise Conflict(detail, code="nothing_to_send")
    headers = sent_headers_view(sent.headers, subscription.credential)
    headers |= {name: value for name, value in sent.headers if is_signed_name(name)}
    url = call.shown_url(subscription, sent.url)
    return json_response(SignedRequest.of(sent, url=url, headers=headers, body=sent.body.decode()))


async def recipient_of(call: Call, event: Event) -> Recipient | None:
    """The captured recipient of an event's job; None if there is none. Never to be shown."""
    return None if event.job_uid is None else await call.dependencies.store.jobs.recipient(event.job_uid)


def is_signed_name(name: str) -> bool:
    """True if this is a header of Standard Webhooks. These are not redacted: they are only valid with the body."""
    return name.lower() in ("webhook-id", "webhook-timestamp", "webhook-signature")


async def _delivery_again(call: Call, _kept: object) -> dict[str, Any]:
    return await _view(call, await _find(call))


@operation(
    "POST /v1/deliveries/{id}/retry",
    repeats=Repeats(members("id"), _delivery_again),
    audited="deliveries.retry",
    scopes=WRITES_SUBSCRIPTIONS,
    body=Nothing,
    answers={202: Answer("The delivery is due now.", DeliveryWithAttempts)},
    problems={
        409: "The delivery waits for an earlier event of its job, is being attempted, or its subscription was removed."
    },
)
async def retry_delivery(call: Call) -> Response:
    """Send a delivery again."""
    found = await _find(call)
    await _refuse_removed(call, found)
    delivery = await call.dependencies.store.deliveries.retry(call.id, call.dependencies.clock())
    call.dependencies.signals.deliveries_due()
    return await _shown(call, delivery, 202)


@operation(
    "POST /v1/deliveries/{id}/settle",
    repeats=Repeats(members("id"), _delivery_again),
    audited="deliveries.settle",
    scopes=WRITES_SUBSCRIPTIONS,
    body=Settlement,
    answers={200: Answer("The delivery: delivered, or due now.", DeliveryWithAttempts)},
    problems={409: "The delivery is not uncertain, or its subscription was removed."},
)
async def settle_delivery(call: Call) -> Response:
    """Record the outcome of an uncertain delivery.

    Use it once you have checked the CRM. `sent`: the record is there, and the delivery counts as delivered.
    `not_sent`: it is not there, and is written again.
    """
    fate = validate(Settlement, call.document).fate
    found = await _find(call)
    if fate == "not_sent":
        await _refuse_removed(call, found)
    delivery = await call.dependencies.store.deliveries.settle(found.id, fate, call.dependencies.clock())
    call.dependencies.signals.deliveries_due()
    return await _shown(call, delivery)


async def _refuse_removed(call: Call, delivery: core.Delivery) -> None:
    if await call.dependencies.store.subscriptions.get(delivery.subscription_id) is None:
        detail = f"subscription {delivery.subscription_id} was removed, so there is no sink to send this to"
        raise Conflict(detail, code="subscription_removed")


async def _find(call: Call) -> core.Delivery:
    return known(await call.dependencies.store.deliveries.get(call.id), "delivery", call.id)


async def _shown(call: Call, delivery: core.Delivery, status_code: int = 200) -> Response:
    return json_response(await _view(call, delivery), status_code)


async def _view(call: Call, delivery: core.Delivery) -> dict[str, Any]:
    sinks = await _sinks(call, [delivery.subscription_id])
    attempts = [attempt_view(attempt, whole=call.may_set_sinks) for attempt in delivery.attempts]
    return DeliveryWithAttempts.of(delivery, sink=sinks.get(delivery.subscription_id), attempts=attempts)
