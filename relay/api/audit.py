"""`/v1/audit`: who did what, when and from where, and whether the record is intact."""

import re
from functools import partial
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field
from starlette.responses import Response
from typing_extensions import TypedDict

from relay.api import params
from relay.api.examples import SUBSCRIPTION_ID, TIME
from relay.api.fields import NextCursor, Time
from relay.api.operations import ADMINS, NEXT, Answer, Call, Operation, Parameter
from relay.api.resource import json_response, page_response
from relay.clock import to_rfc3339
from relay.core.audit import AuditEntry, Finding, FindingKind, Head, Seen, Verification

MAX_HEADS = 100
HEAD_PATTERN = "[A-Za-z0-9_-]{1,64}:[0-9]{1,15}:[0-9a-f]{64}"
_HEAD = re.compile(HEAD_PATTERN)


class AuditItem(TypedDict):
    """One entry of the audit."""

    id: str
    at: Time
    action: Annotated[str, Field(description="What was done, such as `subscriptions.create`.")]
    actor: Annotated[str | None, Field(description="The name of the token; `relay` for the relay itself.")]
    token_id: Annotated[str | None, Field(description="The id of the token, if it was created with `/v1/tokens`.")]
    target: Annotated[str | None, Field(description="The id of what it was done to.")]
    address: Annotated[str | None, Field(description="The client's address.")]
    result: Annotated[
        Literal["started", "ok", "refused", "failed"],
        Field(
            description="started: it has not ended yet, or the node died meanwhile and its outcome is unknown; "
            "refused: a 4xx; failed: a 5xx."
        ),
    ]
    status: Annotated[int | None, Field(description="The status of the response.")]
    count: Annotated[int, Field(description="How many requests or jobs this entry stands for.")]
    request_id: Annotated[str | None, Field(description="`X-Request-Id` of the response.")]
    detail: Annotated[dict[str, Any], Field(description="More, without secrets.")]
    chain: Annotated[str, Field(description="The chain of the node that wrote the entry.")]
    number: Annotated[int, Field(description="The place of the entry in its chain, from 1.")]


class AuditPage(TypedDict):
    """One page of the audit."""

    items: list[AuditItem]
    next_cursor: NextCursor


class AuditFinding(TypedDict):
    """Something that was done to the audit itself."""

    kind: Annotated[FindingKind, Field(description="For programs.")]
    chain: str | None
    number: Annotated[int | None, Field(description="The first entry that it concerns.")]
    text: Annotated[str, Field(description="What is wrong, in a sentence.")]


class AuditHead(TypedDict):
    """The last entry of a chain."""

    chain: str
    number: int
    mac: str


class AuditVerification(TypedDict):
    """Whether the audit is intact."""

    ok: bool
    entries: Annotated[int, Field(description="How many entries were verified.")]
    chains: int
    finding_count: int
    findings: Annotated[list[AuditFinding], Field(description="The first hundred findings.")]
    heads: Annotated[
        list[AuditHead],
        Field(
            description="The last entry of each chain, newest first. Kept elsewhere, they prove later that nothing "
            "was cut off."
        ),
    ]


def entry_view(entry: AuditEntry) -> AuditItem:
    """One entry of the audit."""
    record = entry.record
    return {
        "id": entry.id,
        "at": to_rfc3339(record.at),
        "action": record.action,
        "actor": record.actor,
        "token_id": record.token_id,
        "target": record.target,
        "address": record.address,
        "result": record.result,
        "status": record.status,
        "count": record.count,
        "request_id": record.request_id,
        "detail": _detail(record.detail),
        "chain": entry.chain,
        "number": entry.number,
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
        "chains": verification.chain_count,
        "finding_count": verification.finding_count,
        "findings": [_finding(finding) for finding in verification.findings],
        "heads": [{"chain": head.chain, "number": head.number, "mac": head.mac.hex()} for head in verification.heads],
    }


def read_heads(text: str) -> tuple[Seen, ...]:
    """The heads in a list such as `chain:number:mac,…`. Raises ValueError."""
    parts = text.split(",")
    if len(parts) > MAX_HEADS or not all(map(_HEAD.fullmatch, parts)):
        raise ValueError(f"1 to {MAX_HEADS} of chain:number:mac are expected, separated by commas")
    heads = [part.split(":") for part in parts]
    return tuple(
        Seen(head=Head(chain=chain, number=int(number), mac=bytes.fromhex(mac)), by="the given report")
        for chain, number, mac in heads
    )


def _finding(finding: Finding) -> AuditFinding:
    return {"kind": finding.kind, "chain": finding.chain, "number": finding.number, "text": finding.text}


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
            name="heads",
            description="`chain:number:mac` of `heads` in earlier answers, separated by commas: these entries must "
            "still be there.",
            schema={"type": "string", "pattern": f"^{HEAD_PATTERN}(,{HEAD_PATTERN}){{0,{MAX_HEADS - 1}}}$"},
            read=lambda text: read_heads(text),
            default=(),
        ),
    ),
    answers={200: Answer("The result.", AuditVerification)},
    problems={429: "A verification is running already."},
)
async def verify_audit(call: Call) -> Response:
    """Verify that no entry was changed, removed, inserted or reordered.

    Reads the whole audit, which takes about a minute for a million entries.
    """
    with call.ports.admission.verifications.held(call.caller):
        return json_response(verification_view(await call.ports.audit.verify(call.query["heads"])))


_ITEM: AuditItem = {
    "id": "aud_01jvpq3m8n0000000000000007",
    "at": TIME,
    "action": "subscriptions.create",
    "actor": "ops",
    "token_id": None,
    "target": SUBSCRIPTION_ID,
    "address": "203.0.113.9",
    "result": "ok",
    "status": 201,
    "count": 1,
    "request_id": "req_01jvpq3m8n0000000000000008",
    "detail": {},
    "chain": "5f0c9a7b3e2d4c18",
    "number": 42,
}
_LAST: AuditHead = {"chain": _ITEM["chain"], "number": 42, "mac": "9b" * 32}
EXAMPLES: dict[str, Any] = {
    "AuditPage": {"items": [_ITEM], "next_cursor": None},
    "AuditVerification": {
        "ok": True,
        "entries": 42,
        "chains": 1,
        "finding_count": 0,
        "findings": [],
        "heads": [_LAST],
    },
}
