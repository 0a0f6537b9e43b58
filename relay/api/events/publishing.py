"""`POST /v1/events`: other programs publish CloudEvents through the relay's outbox.

Three content modes of HTTP: structured, binary, batch. An event that cannot be taken takes no other with it. What is
answered with 202 is committed, and goes out once, however often it is sent.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel
from starlette.responses import Response

from relay.api.http import limits
from relay.api.http.auth import ADMIN, EVENTS_WRITE, WRITES_EVENTS
from relay.api.http.fields import EVENT_ID
from relay.api.http.idempotency import STORED_BATCH
from relay.api.http.operations import Answer, Call, Operation, json_response
from relay.api.http.shown import Shown, example_of
from relay.core.access.tokens import publish_prefixes
from relay.core.events.event import BATCH_CONTENT_TYPE, CONTENT_TYPE, stream_of
from relay.core.published import (
    ACCOUNT_NOT_ALLOWED,
    ID_TAKEN,
    MAX_BODY_BYTES,
    MAX_EVENT_BYTES,
    MAX_EVENTS,
    MAX_TEXT,
    MAX_TYPE,
    Draft,
    Publication,
    Refused,
    Rules,
    document_of_binary,
    identity_of,
    read_document,
)
from relay.core.subscriptions.filters import known_types
from relay.core.trace_context import TraceContext
from relay.errors import FieldError, Forbidden, InvalidRequest, RequestError
from relay.ids import new_id
from relay.tasks import Turns
from relay.tracing import request_span

CHUNK = 100
CHUNK_BYTES = 2 * 1024 * 1024
"""Events of one transaction, and the bytes at which it ends: it holds up other writes for that long."""
_WHITE_SPACE = b" \t\r\n"
_FORMATS = "application/cloudevents"
"""Prefix of the media types of whole events, in this format or another one."""
_TOO_LARGE = Refused("too_large", f"an event has at most {MAX_EVENT_BYTES:,} bytes as JSON, this one has more")
_TOO_DEEP = Refused("too_deep", f"the event is nested deeper than {limits.MAX_DEPTH} levels", "/data")
_NOT_PARSED = {one.code: one for one in (_TOO_LARGE, _TOO_DEEP)}


class PublishedCloudEvent(BaseModel):
    """A CloudEvent of another program. Other names are its extensions: texts, whole numbers, booleans."""

    model_config = ConfigDict(extra="allow")

    specversion: Literal["1.0"]
    id: str = Field(
        min_length=1,
        max_length=MAX_TEXT,
        description="With `source`: what tells the event from others.",
        examples=["A-17-paid"],
    )
    source: str = Field(min_length=1, max_length=MAX_TEXT, examples=["/shop"])
    type: str = Field(
        pattern=r"^[!-~]+\.[!-~]+$",
        max_length=MAX_TYPE,
        description="Not one of the relay: `com.acme.order.paid`.",
        examples=["com.acme.order.paid"],
    )
    subject: str | None = Field(default=None, min_length=1, max_length=MAX_TEXT, examples=["A-17"])
    time: str | None = Field(default=None, description="RFC 3339. Default: when the relay records it.")
    datacontenttype: str | None = None
    dataschema: str | None = None
    partitionkey: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_TEXT,
        description="Events with the same one go out in their order.",
        examples=["A-17"],
    )
    data: Any = Field(default=None, examples=[{"total": 42, "metadata": {"deal": "D-7"}}])
    data_base64: str | None = Field(default=None, description="Binary data, instead of `data`.")


_EXAMPLE = example_of(PublishedCloudEvent)


class PublishedBatch(RootModel[list[Any]]):
    """CloudEvents of another program. Each is judged by itself."""

    root: list[Any] = Field(examples=[[_EXAMPLE, {**_EXAMPLE, "id": "A-17-sent", "type": "com.acme.order.sent"}]])


class PublishedEvent(Shown):
    """An event that was taken."""

    index: int
    id: str = Field(examples=[EVENT_ID])
    known: bool


class RefusedEvent(Shown):
    """An event that was not taken."""

    index: int = Field(examples=[1])
    code: str = Field(examples=["required"])
    detail: str = Field(examples=["attribute type is needed"])
    pointer: str = Field(default="", examples=["/type"])


class Publishing(Shown):
    """Results of the events, by their index in the request."""

    accepted: int = Field(examples=[1])
    known: int
    items: list[PublishedEvent]
    rejected: list[RefusedEvent]


operation = partial(Operation, tag="Events")


@operation(
    "POST /v1/events",
    repeats=STORED_BATCH,
    bound=True,
    counted="events.publish",
    scopes=WRITES_EVENTS,
    reads_body=True,
    body=PublishedCloudEvent,
    also_bodies=(PublishedBatch,),
    media_types=(CONTENT_TYPE, BATCH_CONTENT_TYPE),
    max_body_bytes=MAX_BODY_BYTES,
    answers={202: Answer("The relay's ids of the events, which are recorded.", Publishing)},
    problems={
        400: "The body is not JSON.",
        403: "The token may not publish events of this type, or of this account.",
        413: "The body has more than 16 MiB.",
        415: "The body is in none of the content modes.",
        422: "The only event was refused; `errors` says why.",
        429: "Too many batches are being recorded.",
    },
)
async def publish_events(call: Call) -> Response:
    """Publish CloudEvents: one in structured or binary mode, or up to 1,000 in a batch.

    An event with a source and an id that the relay has already answers with the same `id`, and goes out once. Events
    with the same `partitionkey` go out in their order.
    """
    with request_span(call.dependencies.tracing, "record", "producer", call.request.headers.raw) as span:
        response = await _publish_body(call, span.context)
        span.set("messaging.batch.message_count", call.count)
        return response


async def _publish_body(call: Call, trace: TraceContext | None) -> Response:
    headers = call.request.headers
    limits.check_encoding(headers)
    media_type, _, parameters = headers.get("content-type", "").partition(";")
    media_type = media_type.strip().lower()
    if media_type in (CONTENT_TYPE, BATCH_CONTENT_TYPE):
        limits.check_charset(parameters)
    if media_type == BATCH_CONTENT_TYPE:
        is_large = len(call.body) > limits.MAX_BODY_BYTES
        admission = call.dependencies.admission
        with admission.batches.held(call.caller):
            async with admission.publishing if is_large else nullcontext():
                answer = await _publish(call, await _read_batch(call.body, _rules(call), trace))
    else:
        answer = await _publish(call, [_read(call, media_type, trace)], alone=True)
    call.count = len(answer["items"])
    return json_response(answer, 202)


async def _publish(call: Call, results: Sequence[Draft | Refused], *, alone: bool = False) -> dict[str, Any]:
    """Records the events that were not refused. Raises the problem of one that came alone."""
    allowed = _prefixes(call)
    results = [_permitted(one, allowed) for one in results]
    if alone and isinstance(results[0], Refused):
        raise _problem(results[0])
    owner = call.dependencies.settings.owner
    items: list[dict[str, Any]] = []
    rejected = [(index, one) for index, one in enumerate(results) if isinstance(one, Refused)]
    for chunk in _chunks([(index, one) for index, one in enumerate(results) if isinstance(one, Draft)]):
        now = call.dependencies.clock()
        taken = await call.dependencies.store.published.record([_publication(draft, owner, now) for _, draft in chunk])
        call.dependencies.published(sum(not one.known for one in taken))
        for (index, _), one in zip(chunk, taken, strict=True):
            if one.same:
                items.append({"index": index, "id": one.id, "known": one.known})
            elif alone:
                raise _problem(ID_TAKEN)
            else:
                rejected.append((index, ID_TAKEN))
    known = sum(one["known"] for one in items)
    refused = [_rejection(index, one) for index, one in sorted(rejected)]
    return {"accepted": len(items) - known, "known": known, "items": items, "rejected": refused}


def _chunks(drafts: Sequence[tuple[int, Draft]]) -> Iterator[Sequence[tuple[int, Draft]]]:
    """The events of one transaction each."""
    first = size = 0
    for place, (_, draft) in enumerate(drafts):
        if place - first == CHUNK or (size and size + len(draft.body) > CHUNK_BYTES):
            yield drafts[first:place]
            first, size = place, 0
        size += len(draft.body)
    if drafts:
        yield drafts[first:]


def _publication(draft: Draft, owner: str | None, now: float) -> Publication:
    stream = None if draft.partition_key is None else stream_of(owner, draft.partition_key)
    return Publication(
        draft.event(new_id("evt", now), now, owner, stream, None), identity_of(owner, draft.source, draft.id)
    )


# --- reading


def _read(call: Call, media_type: str, trace: TraceContext | None) -> Draft | Refused:
    """The only event of a request. Raises InvalidRequest if the body is in no content mode, or not JSON."""
    headers, rules = call.request.headers, _rules(call)
    if media_type != CONTENT_TYPE and ("ce-specversion" not in headers or media_type.startswith(_FORMATS)):
        detail = (
            f"send Content-Type {CONTENT_TYPE} with an event, {BATCH_CONTENT_TYPE} with an array of events, or an "
            "event in binary mode: its attributes as ce- headers, ce-specversion among them"
        )
        raise limits.unsupported(detail)
    if media_type == CONTENT_TYPE:
        if len(call.body) > limits.MAX_BODY_BYTES:  # white space and escapes included; it is parsed in one turn
            return _TOO_LARGE
        return read_document(limits.parse_json(call.body), rules, trace)
    if len(call.body) > MAX_EVENT_BYTES:
        return _TOO_LARGE
    return _checked(document_of_binary(headers.items(), call.body), rules, trace)


def _checked(document: object, rules: Rules, trace: TraceContext | None) -> Draft | Refused:
    if isinstance(document, Refused):
        return document
    if limits.deeper_than(document, limits.MAX_DEPTH):
        return _TOO_DEEP
    return read_document(document, rules, trace)


async def _read_batch(body: bytes, rules: Rules, trace: TraceContext | None) -> list[Draft | Refused]:
    """Reads an array of events a part at a time, so that a large one does not hold up other requests."""
    body = body.strip(_WHITE_SPACE)
    if not (body.startswith(b"[") and body.endswith(b"]")):
        raise InvalidRequest("the body is not a JSON array of events", code="not_json", status=400)
    turns = Turns()
    found: list[Draft | Refused] = []
    async for values in limits.elements(body, 1, len(body) - 1, turns=turns):
        if len(found) + len(values) > MAX_EVENTS:
            detail = f"a batch can have at most {MAX_EVENTS:,} events, this one has more: send several"
            raise InvalidRequest(detail, code="batch_too_long")
        for value in values:
            if isinstance(value, RequestError):  # it was not parsed
                found.append(_NOT_PARSED.get(value.code) or Refused(value.code, str(value)))
            else:
                found.append(read_document(value, rules, trace))
            if turns.over:
                await turns.next()
    return found


# --- who may publish what


def _rules(call: Call) -> Rules:
    """Restrictions on the caller's events. A bound token may not speak for the sources that it does not see either."""
    settings = call.context.settings
    every, account = settings.unrestricted or settings, settings.account
    return Rules(
        known=known_types(every.origins.values()),
        sources=every.event_sources,
        account=None if account is None else account[1],
    )


def _prefixes(call: Call) -> tuple[str, ...] | None:
    """Prefixes of the types that the caller may publish; None: all."""
    scopes = frozenset() if call.identity is None else call.identity.scopes
    return publish_prefixes(scopes) if scopes.isdisjoint({ADMIN, EVENTS_WRITE}) else None


def _permitted(one: Draft | Refused, prefixes: tuple[str, ...] | None) -> Draft | Refused:
    if prefixes is None or isinstance(one, Refused) or one.type.startswith(prefixes):
        return one
    detail = f"the token may publish types that begin with {', '.join(prefixes)}"
    return Refused(NOT_ALLOWED, detail, "/type")


NOT_ALLOWED = "type_not_allowed"


def _problem(refused: Refused) -> RequestError:
    if refused.code in (NOT_ALLOWED, ACCOUNT_NOT_ALLOWED):
        return Forbidden(refused.detail, code=refused.code)
    error = FieldError(pointer=refused.pointer, code=refused.code, detail=refused.detail)
    return InvalidRequest(refused.detail, code="invalid_event", errors=[error])


def _rejection(index: int, refused: Refused) -> dict[str, Any]:
    found = {"index": index, "code": refused.code, "detail": refused.detail}
    return {**found, "pointer": refused.pointer} if refused.pointer else found
