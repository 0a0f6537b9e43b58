"""`/v1/erasures`: removes what is stored about a person, a group or a job."""

import asyncio
from functools import partial
from typing import Annotated, Any

from pydantic import Field
from starlette.responses import Response

from relay.api.http.auth import ADMINS
from relay.api.http.fields import ID_PATTERN, Body
from relay.api.http.idempotency import STORED
from relay.api.http.operations import Answer, Call, Operation, json_response
from relay.api.http.params import CURSOR_PATTERN
from relay.api.http.shown import Shown
from relay.api.http.validation import invalid, validate
from relay.api.jobs.jobs import refuse_ambiguous
from relay.core.erasure import Erased, ErasureRequest
from relay.errors import FieldError

WORK_SECONDS = 5.0
"""A request that is not done by then answers with a cursor."""
MAX_VALUE_CHARACTERS = 1_000

Value = Annotated[str, Field(min_length=1, max_length=MAX_VALUE_CHARACTERS)]


class ErasureCreate(Body):
    """A request to erase: exactly one of `metadata`, `group`, `job` and `subject`."""

    metadata: dict[str, Value] | None = Field(
        default=None,
        min_length=1,
        max_length=1,
        description="One field of the metadata, at any depth, and its exact value as text. A list matches with any of "
        "its members.",
        examples=[{"email": "kim@example.com"}],
    )
    group: Value | None = Field(
        default=None, description="A group of jobs, by its name, and whatever `metadata: {group: …}` finds."
    )
    job: str | None = Field(
        default=None, pattern=ID_PATTERN, description="The upstream's id of a job, in every resource, or its uid."
    )
    subject: Value | None = Field(default=None, description="The subject of events that programs have published.")
    source: str | None = Field(default=None, pattern=ID_PATTERN, description="Only what is about this source.")
    account: str | None = Field(default=None, pattern=ID_PATTERN, description="Only what is about this account.")
    cursor: str | None = Field(
        default=None, pattern=CURSOR_PATTERN, description="The `next_cursor` of the previous answer, to go on."
    )


class Erasure(Shown):
    """The rows that this request removed."""

    jobs: int = Field(examples=[2])
    events: int = Field(examples=[9])
    deliveries: int = Field(examples=[18])
    attempts: int = Field(examples=[19])
    intents: int = Field(description="Creates of unknown or recorded fate.")
    in_flight: int = Field(
        description="Creates that match and stay, because their answer is awaited: erase again later."
    )
    next_cursor: str | None = Field(description="Send it as `cursor` to go on; null: all is erased.")


operation = partial(Operation, tag="Erasures")


@operation(
    "POST /v1/erasures",
    repeats=STORED,
    audited="erasures.create",
    scopes=ADMINS,
    body=ErasureCreate,
    answers={200: Answer("What was removed. Repeat the request with `next_cursor` until that is null.", Erasure)},
    problems={
        409: "Several accounts have a job with this id: use `source` and `account`, or the uid.",
        429: "Too many erasures are in progress.",
    },
)
async def erase_data(call: Call) -> Response:
    """Erase a person, a group, a job, or published events.

    Removes jobs with the metadata, their events, deliveries and attempts, published events with it, and creates with
    it. What is pending is not sent any more. It cannot be undone. A request that was cut off
    can be sent again.
    """
    body = validate(ErasureCreate, call.document)
    request, cursor = await _request(call, body), body.cursor
    by = "job" if request.subject is None else "subject"
    call.note(by=by if request.name is None else f"metadata.{request.name[:100]}")
    with call.dependencies.admission.erasures.held(call.caller):
        return json_response(await _erase(call, request, cursor))


async def _erase(call: Call, request: ErasureRequest, cursor: str | None) -> dict[str, Any]:
    """Erases for WORK_SECONDS, or until all is erased."""
    erased, loop = Erased(), asyncio.get_running_loop()
    ends_at = loop.time() + WORK_SECONDS
    while True:
        step = await call.dependencies.tracking.erase(request, cursor)
        erased, cursor = erased + step.erased, step.next_cursor
        shown = Erasure.of(erased, intents=erased.creates, next_cursor=cursor)
        call.note(**{name: count for name, count in shown.items() if name != "next_cursor"}, done=cursor is None)
        if cursor is None or loop.time() >= ends_at:
            return shown


async def _request(call: Call, body: ErasureCreate) -> ErasureRequest:
    if [body.metadata, body.group, body.job, body.subject].count(None) != 3:
        detail = "send exactly one of metadata, group, job and subject"
        raise invalid(FieldError(pointer="", code="one_of", detail=detail))
    source, account, jobs = body.source, body.account, call.dependencies.store.jobs
    if body.subject is not None:
        return ErasureRequest(subject=body.subject, source=source, account=account)
    if body.group is not None:
        return ErasureRequest.of_group(body.group, source, account)
    if body.metadata is not None:
        ((name, value),) = body.metadata.items()
        return ErasureRequest(name=name, value=value, source=source, account=account)
    assert body.job is not None
    by_uid = await jobs.get(body.job) if body.job.startswith("job_") else None
    found = [by_uid] if by_uid is not None else await jobs.find(body.job, source, account)
    if len({(job.source, job.account) for job in found}) > 1:  # those of several resources are all erased
        refuse_ambiguous(call, body.job, found)
    if found:  # its creates know only the upstream's id
        return ErasureRequest(job=found[0].external_id, source=found[0].source, account=found[0].account)
    return ErasureRequest(job=body.job, source=source, account=account)
