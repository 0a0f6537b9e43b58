"""`/v1/intents`: creates that were sent through the relay and whose fate is unknown."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from pydantic import Field
from starlette.responses import Response

from relay.api.http.auth import READS_JOBS, WRITES_JOBS
from relay.api.http.fields import ID_PATTERN, INTENT_ID, JOB_ID, SOURCE, Body
from relay.api.http.idempotency import Repeats, members
from relay.api.http.operations import NEXT, Answer, Call, Operation, json_response, page_response
from relay.api.http.params import PAGE
from relay.api.http.shown import JobRequest, Shown, Time, job_request_view, page_of
from relay.api.http.validation import invalid, validate
from relay.core import records
from relay.core.access.forwarding import NOT_ATTACHED_HEADER, not_attached
from relay.core.polling.tracking import TrackRequest
from relay.errors import Conflict, FieldError, NotFound
from relay.store.jobs.intents import CUT_OFF

NOT_ATTACHED = {"Relay-Not-Attached": "Parts of the create that the job is tracked without, each with the reason."}
UnknownReason = Literal["no_answer", "server_error", "unreadable", "cut_off"]


class IntentResolution(Body):
    """The outcome of a create, as checked with the upstream."""

    fate: Literal["sent", "not_sent"] = Field(description="Whether the upstream carried it out.")
    job_id: str | None = Field(
        default=None,
        pattern=ID_PATTERN,
        description="The id of the job it created; only with `sent`. The job is tracked with the callback, metadata "
        "and group of the create.",
        examples=[JOB_ID],
    )


class Intent(Shown):
    """A create that was sent through the relay and whose fate is unknown."""

    id: str = Field(examples=[INTENT_ID])
    source: str = Field(examples=[SOURCE])
    account: str = Field(examples=["default"])
    path: str = Field(examples=["/api/messages"])
    body_digest: str = Field(
        description="`sha256:` and the digest of the request body, in hex.",
        examples=["sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
    )
    idempotency_key: str | None = Field(
        description="The caller's key. Repeating the request with it is safe.", examples=["deal-42-invite"]
    )
    sent_at: Time
    reason: UnknownReason = Field(
        description="no_answer: no response arrived; server_error: a 5xx, which proves nothing; unreadable: a "
        "success without a job id; cut_off: the relay stopped before a response arrived."
    )
    status_code: int | None = Field(description="The status of the response; null if there was none.")
    channel: str | None = Field(description="The channel of the create.", examples=["linkedin"])
    connect_account_id: str | None = Field(description="The sending account named in the create.", examples=["acc_1"])
    connect_account_name: str | None = Field(examples=["Ada Lovelace"])
    metadata: dict[str, Any] = Field(description="The value of `Relay-Metadata`.", examples=[{"deal": 42}])
    group: str | None = Field(description="The value of `Relay-Group`.", examples=["Q4 campaign"])
    request: JobRequest
    fate: Literal["sent", "not_sent"] | None = Field(description="The outcome as recorded by a user; null on the list.")
    job_id: str | None = Field(description="The job it created, if the user named it.")


IntentPage = page_of(Intent, "creates whose fate is unknown")


class Recipient(Shown):
    """Whom a create was for: the parts that `proxy.capture` kept of it. null: not given, or not kept."""

    address: str | None = Field(examples=["alex@example.com"])
    profile_url: str | None
    phone: str | None


class IntentWithRecipient(Intent):
    """A create whose fate is unknown, and whom it was for."""

    recipient: Recipient | None = Field(description="null: nothing was kept.")


async def _views(call: Call, intents: Sequence[records.Intent]) -> list[dict[str, Any]]:
    """The creates with the names of their sending accounts."""
    keys = [(one.source, one.account, one.connect_account_id) for one in intents]
    names = await call.dependencies.store.connect_accounts.names(keys)
    return [
        Intent.of(
            one,
            connect_account_name=names.get(key),
            body_digest=f"sha256:{one.body_digest}",
            sent_at=one.created_at,
            metadata=one.metadata or {},
            request=job_request_view(one.request),
        )
        for one, key in zip(intents, keys, strict=True)
    ]


async def _view(call: Call, intent: records.Intent) -> dict[str, Any]:
    (shown,) = await _views(call, [intent])
    return shown


operation = partial(Operation, tag="Intents", bound=True, scopes=READS_JOBS)


@operation("GET /v1/intents", query=PAGE, answers={200: Answer("A page.", IntentPage, headers=NEXT)})
async def list_intents(call: Call) -> Response:
    """List creates whose fate is unknown, newest first.

    They were sent to the upstream, and no response proves whether they were carried out. Check before you send one
    again. A create that is repeated with its Idempotency-Key and answered leaves the list.
    """
    page = await call.dependencies.store.intents.page(**call.query, now=call.dependencies.clock())
    return page_response(call.request, await _views(call, page.items), page.next_cursor)


async def _find(call: Call) -> records.Intent:
    intent = await call.dependencies.store.intents.get(call.id)
    if intent is None:
        raise _not_found(call)
    return intent


async def _intent_again(call: Call, _kept: object) -> dict[str, Any]:
    return await _view(call, await _find(call))


async def _unresolved(call: Call) -> records.Intent:
    """The create of the path. Raises NotFound, and Conflict if it is resolved or in flight."""
    intent = await _find(call)
    if intent.fate is not None:
        raise Conflict(f"{intent.id} was resolved already: {intent.fate}", code="intent_resolved")
    if call.dependencies.store.intents.in_flight(intent, call.dependencies.clock()):
        raise Conflict(f"{intent.id} is still in flight: its answer may come", code="intent_in_flight")
    return replace(intent, reason=intent.reason or CUT_OFF)


@operation(
    "POST /v1/intents/{id}/recipient",
    audited="intents.recipient",
    scopes=WRITES_JOBS,
    answers={200: Answer("The create, and whom it was for.", IntentWithRecipient)},
    problems={409: "`proxy.capture_shown` is off, or the create was already resolved or is still in flight."},
)
async def show_recipient(call: Call) -> Response:
    """Show whom a create was for.

    For people who have to find out whether it was carried out. Only with the setting `proxy.capture_shown`, and only
    what `proxy.capture` kept. Each call is in the audit. The text of a message is never stored.
    """
    if not call.dependencies.settings.recipients_shown:
        detail = "recipients are not shown: set proxy.capture_shown to true"
        raise Conflict(detail, code="recipient_not_shown")
    intent = await _unresolved(call)
    kept = None if intent.recipient is None else Recipient.of(intent.recipient)
    return json_response({**await _view(call, intent), "recipient": kept})


@operation(
    "POST /v1/intents/{id}/resolve",
    repeats=Repeats(members("id"), _intent_again),
    audited="intents.resolve",
    scopes=WRITES_JOBS,
    body=IntentResolution,
    answers={200: Answer("The create, as recorded.", Intent, headers=NOT_ATTACHED)},
    problems={409: "The create was already resolved, or is still in flight."},
)
async def resolve_intent(call: Call) -> Response:
    """Record the outcome of a create.

    Use it once you have checked with the upstream. The create leaves the list; with `job_id` that job is tracked
    with the metadata, the callback and the group of the create. Nothing is sent upstream.
    """
    body = validate(IntentResolution, call.document)
    if body.job_id is not None and body.fate != "sent":
        detail = "only a create with fate `sent` can have a job"
        raise invalid(FieldError(pointer="/job_id", code="invalid", detail=detail))
    dependencies, now = call.dependencies, call.dependencies.clock()
    intents = dependencies.store.intents
    intent = await _unresolved(call)
    if body.job_id is None:
        resolved = await intents.resolve(intent.id, body.fate, now)
        if resolved is None:
            raise Conflict(f"{intent.id} was resolved meanwhile", code="intent_resolved")
        return json_response(await _view(call, resolved))
    request = TrackRequest.of_create(intent, body.job_id, resolves=intent, caller=call.caller)
    missing = (await dependencies.tracking.register_made(request)).not_attached
    headers = {NOT_ATTACHED_HEADER: not_attached(missing)} if missing else {}
    return json_response(await _view(call, replace(intent, fate=body.fate, job_id=body.job_id)), headers=headers)


@operation(
    "DELETE /v1/intents/{id}",
    audited="intents.dismiss",
    scopes=WRITES_JOBS,
    answers={200: Answer("The create before it was removed.", Intent)},
)
async def dismiss_intent(call: Call) -> Response:
    """Remove a create from the list.

    Use it once you have checked with the upstream. Nothing is sent upstream.
    """
    intent = await call.dependencies.store.intents.dismiss(call.id, call.dependencies.clock())
    if intent is None:
        raise _not_found(call)
    return json_response(await _view(call, intent))


def _not_found(call: Call) -> NotFound:
    return NotFound(f"there is no create {call.id[:200]!r} whose fate is unknown", code="intent_not_found")
