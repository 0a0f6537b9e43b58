"""`/v1/audit`: who did what, when and from where, and whether the record is intact."""

from functools import partial
from typing import Any

import orjson
from pydantic import Field
from starlette.responses import Response

from relay.api.http import params
from relay.api.http.auth import ADMINS
from relay.api.http.fields import SUBSCRIPTION_ID
from relay.api.http.operations import NEXT, Answer, Call, Operation, json_response, page_response
from relay.api.http.params import Parameter
from relay.api.http.shown import Shown, Time, page_of
from relay.core.access.audit import HEAD_PATTERN, AuditEntry, FindingKind, Result, Verification, read_head


class AuditItem(Shown):
    """One entry of the audit."""

    id: str = Field(examples=["aud_01jvpq3m8n0000000000000007"])
    number: int = Field(description="The number of the entry in the chain, from 1.", examples=[42])
    at: Time
    action: str = Field(description="What was done, such as `subscriptions.create`.", examples=["subscriptions.create"])
    actor: str | None = Field(description="The name of the token; `relay` for the relay itself.", examples=["ops"])
    token_id: str | None = Field(description="The id of the token, if it was created with `/v1/tokens`.")
    target: str | None = Field(description="The id of what it was done to.", examples=[SUBSCRIPTION_ID])
    address: str | None = Field(description="The client's address.", examples=["203.0.113.9"])
    result: Result = Field(
        description="started: it has not ended yet, or the node died meanwhile and its outcome is unknown; "
        "refused: a 4xx; failed: a 5xx.",
        examples=["ok"],
    )
    status: int | None = Field(description="The status of the response.", examples=[201])
    count: int = Field(description="How many requests or jobs this entry stands for.", examples=[1])
    request_id: str | None = Field(
        description="`X-Request-Id` of the response.", examples=["req_01jvpq3m8n0000000000000008"]
    )
    detail: dict[str, Any] = Field(description="More, without secrets.")


AuditPage = page_of(AuditItem, "the audit", "AuditPage")


class AuditFinding(Shown):
    """Something that was done to the audit itself."""

    kind: FindingKind = Field(description="For programs.")
    number: int | None = Field(description="The first entry that it concerns.")
    text: str = Field(description="What is wrong, in a sentence.")


class AuditVerification(Shown):
    """The result of verifying the audit."""

    ok: bool = Field(examples=[True])
    entries: int = Field(description="How many entries were verified.", examples=[42])
    finding_count: int
    findings: list[AuditFinding] = Field(description="The first hundred findings.", examples=[[]])
    head: str | None = Field(
        description="The last entry, as `NUMBER:MAC`. Kept elsewhere, it proves later that nothing was cut off. "
        "null: there is none, or it is not genuine.",
        examples=[f"42:{'9b' * 32}"],
    )


def entry_view(entry: AuditEntry) -> dict[str, Any]:
    """One entry of the audit."""
    record = entry.record
    detail = _detail(record.detail)
    return AuditItem.of(record, id=entry.id, number=entry.number, count=record.times, detail=detail)


def _detail(body: bytes) -> dict[str, Any]:
    """The detail, empty if it was changed into something else in the database."""
    try:
        detail = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return detail if isinstance(detail, dict) else {}


def verification_view(verification: Verification) -> dict[str, Any]:
    """The result of a verification."""
    head = None if verification.head is None else str(verification.head)
    ok = not verification.finding_count
    return AuditVerification.of(verification, ok=ok, entries=verification.entry_count, head=head)


operation = partial(Operation, tag="Audit", scopes=ADMINS)


@operation(
    "GET /v1/audit",
    query=(
        params.time("since", "Entries written at or after this time."),
        params.time("until", "Entries written before this time."),
        params.text("actor", "Entries of tokens with exactly this name."),
        params.text("action", "Entries of exactly this action."),
        *params.PAGE,
    ),
    answers={200: Answer("A page.", AuditPage, headers=NEXT)},
)
async def list_audit(call: Call) -> Response:
    """List who did what, newest first.

    Administrative writes have an entry each. Registrations are counted per token and hour, refused requests per
    address and minute; what was counted so far is written before the first page, at most once a minute.
    """
    if call.query["cursor"] is None:
        await call.dependencies.audit.before_list()
    page = await call.dependencies.store.audit.page(**call.query)
    return page_response(call.request, map(entry_view, page.items), page.next_cursor)


@operation(
    "GET /v1/audit/verify",
    query=(
        Parameter(
            name="head",
            description="`head` of an earlier verification: this entry must still be there.",
            schema={"type": "string", "pattern": f"^{HEAD_PATTERN}$"},
            read=read_head,
        ),
    ),
    answers={200: Answer("The result.", AuditVerification)},
    problems={429: "A verification is running already."},
)
async def verify_audit(call: Call) -> Response:
    """Verify that no entry was changed, inserted or removed.

    Reads the whole audit, which takes about a minute for a million entries.
    """
    with call.dependencies.admission.verifications.held(call.caller):
        return json_response(verification_view(await call.dependencies.audit.verify(call.query["head"])))
