"""`/v1/audit`: who did what, when and from where, and whether the record is intact."""

from functools import partial
from typing import Annotated, Any

import orjson
from pydantic import Field
from starlette.responses import Response
from typing_extensions import TypedDict

from relay.api.http import params
from relay.api.http.examples import SUBSCRIPTION_ID, TIME
from relay.api.http.fields import NextCursor, Time
from relay.api.http.operations import ADMINS, NEXT, Answer, Call, Operation, Parameter
from relay.api.http.resource import json_response, page_response
from relay.clock import to_rfc3339
from relay.core.access.audit import HEAD_PATTERN, AuditEntry, FindingKind, Result, Verification, read_head


class AuditItem(TypedDict):
    """One entry of the audit."""

    id: str
    number: Annotated[int, Field(description="The number of the entry in the chain, from 1.")]
    at: Time
    action: Annotated[str, Field(description="What was done, such as `subscriptions.create`.")]
    actor: Annotated[str | None, Field(description="The name of the token; `relay` for the relay itself.")]
    token_id: Annotated[str | None, Field(description="The id of the token, if it was created with `/v1/tokens`.")]
    target: Annotated[str | None, Field(description="The id of what it was done to.")]
    address: Annotated[str | None, Field(description="The client's address.")]
    result: Annotated[
        Result,
        Field(
            description="started: it has not ended yet, or the node died meanwhile and its outcome is unknown; "
            "refused: a 4xx; failed: a 5xx."
        ),
    ]
    status: Annotated[int | None, Field(description="The status of the response.")]
    count: Annotated[int, Field(description="How many requests or jobs this entry stands for.")]
    request_id: Annotated[str | None, Field(description="`X-Request-Id` of the response.")]
    detail: Annotated[dict[str, Any], Field(description="More, without secrets.")]


class AuditPage(TypedDict):
    """One page of the audit."""

    items: list[AuditItem]
    next_cursor: NextCursor


class AuditFinding(TypedDict):
    """Something that was done to the audit itself."""

    kind: Annotated[FindingKind, Field(description="For programs.")]
    number: Annotated[int | None, Field(description="The first entry that it concerns.")]
    text: Annotated[str, Field(description="What is wrong, in a sentence.")]


class AuditVerification(TypedDict):
    """Whether the audit is intact."""

    ok: bool
    entries: Annotated[int, Field(description="How many entries were verified.")]
    finding_count: int
    findings: Annotated[list[AuditFinding], Field(description="The first hundred findings.")]
    head: Annotated[
        str | None,
        Field(
            description="The last entry, as `NUMBER:MAC`. Kept elsewhere, it proves later that nothing was cut off. "
            "null: there is none, or it is not genuine."
        ),
    ]


def entry_view(entry: AuditEntry) -> AuditItem:
    """One entry of the audit."""
    record = entry.record
    return {
        "id": entry.id,
        "number": entry.number,
        "at": to_rfc3339(record.at),
        "action": record.action,
        "actor": record.actor,
        "token_id": record.token_id,
        "target": record.target,
        "address": record.address,
        "result": record.result,
        "status": record.status,
        "count": record.times,
        "request_id": record.request_id,
        "detail": _detail(record.detail),
    }


def _detail(body: bytes) -> dict[str, Any]:
    """The detail, empty if it was changed into something else in the database."""
    try:
        detail = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return detail if isinstance(detail, dict) else {}


def verification_view(verification: Verification) -> AuditVerification:
    """The result of a verification."""
    return {
        "ok": not verification.finding_count,
        "entries": verification.entry_count,
        "finding_count": verification.finding_count,
        "findings": [{"kind": one.kind, "number": one.number, "text": one.text} for one in verification.findings],
        "head": None if verification.head is None else str(verification.head),
    }


OPERATIONS: list[Operation] = []
operation = partial(Operation, into=OPERATIONS, tag="Audit")


@operation(
    "GET /v1/audit",
    scopes=ADMINS,
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
        await call.ports.audit.before_list()
    return page_response(call.request, await call.ports.store.audit.page(**call.query), entry_view)


@operation(
    "GET /v1/audit/verify",
    scopes=ADMINS,
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
    with call.ports.admission.verifications.held(call.caller):
        return json_response(verification_view(await call.ports.audit.verify(call.query["head"])))


EXAMPLES: dict[str, Any] = {
    "AuditPage": {
        "items": [
            {
                **{"id": "aud_01jvpq3m8n0000000000000007", "number": 42, "at": TIME, "action": "subscriptions.create"},
                **{"actor": "ops", "token_id": None, "target": SUBSCRIPTION_ID, "address": "203.0.113.9"},
                **{"result": "ok", "status": 201, "count": 1, "request_id": "req_01jvpq3m8n0000000000000008"},
                "detail": {},
            }
        ],
        "next_cursor": None,
    },
    "AuditVerification": {
        **{"ok": True, "entries": 42, "finding_count": 0, "findings": [], "head": f"42:{'9b' * 32}"},
    },
}
