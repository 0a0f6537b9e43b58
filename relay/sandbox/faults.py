"""Fault injection: which requests fail, and how. Pure: time is passed in, randomness comes from the seed.

Durations in a fault are real seconds as the client sees them. The world's speed does not divide them.
"""

import asyncio
import time
from collections.abc import Set
from dataclasses import dataclass, field, replace
from random import Random
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, Field, StringConstraints, model_validator
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from relay.sandbox.requests import Body

REFUSALS = {
    "429": (429, "api_rate_limit_exceeded"),
    "500": (500, "internal_error"),
    "502": (502, "bad_gateway"),
    "503": (503, "task_unavailable"),
    "403": (403, "permission_denied"),
    "404": (404, "external_api_job_not_found"),
    "revoked_key": (401, "api_key_revoked"),
}
"""Kinds that answer with an error: kind -> (HTTP status, code)."""
CORRUPTIONS = ("timeout", "malformed_json", "truncated", "wrong_content_type", "slow_drip", "oversized")
"""Kinds that corrupt the answer on its way, after the request took effect."""
JOB_KINDS = frozenset({"unknown_status", "status_back"})
"""Kinds that change the status in a read of a job."""
KINDS = (*REFUSALS, *CORRUPTIONS, *sorted(JOB_KINDS))

MAX_DURATION_SECONDS = 86_400.0

_Text = Annotated[str, Field(min_length=1, max_length=500)]


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"must be one of {', '.join(KINDS)}")
    return kind


class FaultSpec(Body):
    """A fault as requested. It ends after `count` hits or `duration_seconds`, whichever comes first. With neither,
    and a `share`, it never ends; without all three it hits once.

    share         fraction of the matching requests that it hits, drawn from the seed
    after_effect  True if the request takes effect before it fails (a job is created, its answer is lost). Without it,
                  False for kinds that answer with an error. Kinds that corrupt a real answer: always True
    hold_seconds  `timeout`: silence before the connection is closed. `slow_drip`: how long the body takes
    retry_after_seconds, size_bytes, status_value   for `429` and `503`, `oversized` and `unknown_status`
    """

    kind: Annotated[str, AfterValidator(_known)]
    count: int | None = Field(None, ge=1, le=1_000_000_000)
    share: float = Field(1.0, ge=0, le=1)
    duration_seconds: float | None = Field(None, ge=0, le=MAX_DURATION_SECONDS)
    path_prefix: _Text = "/"
    method: Annotated[str, StringConstraints(min_length=1, max_length=500, to_upper=True)] | None = None
    account: _Text | None = None
    after_effect: bool = Field(default_factory=lambda given: given.get("kind") not in REFUSALS)
    hold_seconds: float = Field(30.0, ge=0, le=600)
    retry_after_seconds: float | None = Field(None, ge=0, le=MAX_DURATION_SECONDS)
    size_bytes: int = Field(2 * 1024 * 1024, ge=1, le=64 * 1024 * 1024)
    status_value: _Text = "awaiting_approval"

    @model_validator(mode="before")
    @classmethod
    def _once(cls, given: Any) -> Any:
        if isinstance(given, dict) and not given.keys() & {"count", "share", "duration_seconds"}:
            return {**given, "count": 1}
        return given


@dataclass(slots=True, kw_only=True)
class Fault:
    """An injected fault."""

    id: int
    spec: FaultSpec
    added_at: float
    rng: Random
    hits: int = 0

    def is_active(self, now: float) -> bool:
        """True while it can still hit a request."""
        spec = self.spec
        return not (
            (spec.count is not None and self.hits >= spec.count)
            or (spec.duration_seconds is not None and now >= self.added_at + spec.duration_seconds)
        )

    def shown(self, now: float) -> dict[str, Any]:
        """The JSON object in `GET /_sandbox/faults`."""
        return {"id": self.id, **self.spec.model_dump(), "hits": self.hits, "active": self.is_active(now)}


@dataclass(kw_only=True)
class FaultInjector:
    """The injected faults. The oldest one that matches a request hits it."""

    seed: int = 0
    _faults: list[Fault] = field(default_factory=list, init=False)
    _added: int = field(default=0, init=False)

    def add(self, spec: FaultSpec, now: float) -> Fault:
        """Injects a fault."""
        self._added += 1
        rng = Random(f"{self.seed}:fault:{self._added}")  # noqa: S311  (reproducible, not a secret)
        fault = Fault(id=self._added, spec=spec, added_at=now, rng=rng)
        self._faults.append(fault)
        return fault

    def faults(self) -> tuple[Fault, ...]:
        """All faults, including ended ones."""
        return tuple(self._faults)

    def clear(self, fault_id: int | None = None) -> int:
        """Removes one fault, or all. Returns how many were removed."""
        kept = [] if fault_id is None else [fault for fault in self._faults if fault.id != fault_id]
        removed = len(self._faults) - len(kept)
        self._faults = kept
        return removed

    def draw(
        self, *, method: str, path: str, account: str | None, now: float, impossible: Set[str] = frozenset()
    ) -> FaultSpec | None:
        """The fault that hits this request, if any. Skips the kinds in `impossible` without counting a hit."""
        for fault in self._faults:
            spec = fault.spec
            if (
                spec.kind not in impossible
                and fault.is_active(now)
                and path.startswith(spec.path_prefix)
                and spec.method in (None, method)
                and spec.account in (None, account)
                and (spec.share >= 1 or fault.rng.random() < spec.share)
            ):
                fault.hits += 1
                return spec
        return None


JSON_TYPE = "application/json"
_CHUNK_BYTES = 64 * 1024
_DRIPS_PER_SECOND = 20
_CLOSING_SECONDS = 5.0


class ConnectionCut(Exception):
    """Makes the server cut the connection, where it offers no direct way to do so."""


class BodyTooLarge(Exception):
    """The request body is larger than the sandbox accepts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response. `headers` excludes content type and length. `ready_at`: it is held until then, in epoch seconds."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = JSON_TYPE
    ready_at: float = 0.0


def json_answer(status: int, content: Any, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """An answer with a JSON body."""
    return Answer(status=status, body=orjson.dumps(content), headers=headers)


async def read_body(request: Request, *, max_bytes: int) -> bytes:
    """The whole request body. Raises BodyTooLarge, or ClientDisconnect."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > max_bytes:
            raise BodyTooLarge
    return bytes(body)


async def send_answer(answer: Answer, scope: Scope, receive: Receive, send: Send, fault: FaultSpec | None) -> None:
    """Sends the answer, corrupted as `fault` requires."""
    kind = None if fault is None else fault.kind
    if fault is None or scope["method"] == "HEAD":
        await _send_whole(answer, send)
    elif kind == "timeout":
        await wait_for_disconnect(receive, fault.hold_seconds)
        await _cut(receive)
    elif kind == "malformed_json":
        await _send_whole(replace(answer, body=answer.body[:-1] + b",,"), send)
    elif kind == "wrong_content_type":
        page = b"<!doctype html><title>Just a moment...</title><p>Checking your browser"
        await _send_whole(replace(answer, body=page, content_type="text/html; charset=utf-8"), send)
    elif kind == "truncated":
        await _start(answer, len(answer.body), send)
        await send({"type": "http.response.body", "body": answer.body[: len(answer.body) // 2], "more_body": True})
        await _cut(receive)
    elif kind == "slow_drip":
        await _drip(answer, fault.hold_seconds, receive, send)
    elif kind == "oversized":
        await _send_oversized(answer, fault.size_bytes, send)
    else:
        await _send_whole(answer, send)


async def _start(answer: Answer, length: int, send: Send) -> None:
    headers = [("content-type", answer.content_type), ("content-length", str(length)), *answer.headers]
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": encoded})


async def _send_whole(answer: Answer, send: Send) -> None:
    await _start(answer, len(answer.body), send)
    await send({"type": "http.response.body", "body": answer.body})


async def _drip(answer: Answer, seconds: float, receive: Receive, send: Send) -> None:
    """Sends the body in small pieces, spread evenly over `seconds`. Stops if the client disconnects."""
    pieces = max(1, min(len(answer.body), round(seconds * _DRIPS_PER_SECOND)))
    await _start(answer, len(answer.body), send)
    for index in range(pieces):
        piece = answer.body[index * len(answer.body) // pieces : (index + 1) * len(answer.body) // pieces]
        if await wait_for_disconnect(receive, seconds / pieces):
            return
        await send({"type": "http.response.body", "body": piece, "more_body": index + 1 < pieces})


async def _send_oversized(answer: Answer, size_bytes: int, send: Send) -> None:
    """Adds a long `padding` field in front: still valid JSON."""
    head, tail = b'{"padding":"', b'",' + answer.body[1:]
    filling = max(0, size_bytes - len(head) - len(tail))
    await _start(answer, len(head) + filling + len(tail), send)
    await send({"type": "http.response.body", "body": head, "more_body": True})
    while filling:
        size = min(filling, _CHUNK_BYTES)
        await send({"type": "http.response.body", "body": b"x" * size, "more_body": True})
        filling -= size
        await asyncio.sleep(0)  # the server notices a lost connection only between two steps of the loop
    await send({"type": "http.response.body", "body": tail})


async def wait_for_disconnect(receive: Receive, seconds: float) -> bool:
    """Waits up to `seconds` for the client to disconnect. Returns True if it did."""
    ends_at = time.monotonic() + seconds
    while (left := ends_at - time.monotonic()) > 0:
        try:
            message = await asyncio.wait_for(receive(), left)
        except TimeoutError:
            return False
        if message["type"] == "http.disconnect":
            return True
    return False


async def _cut(receive: Receive) -> None:
    """Closes the connection without completing the response.

    ASGI has no message for this. Under uvicorn, closing the transport does it without a log entry. Elsewhere an
    exception has the same effect.
    """
    transport = getattr(getattr(receive, "__self__", None), "transport", None)
    if transport is None:
        raise ConnectionCut
    transport.close()
    await wait_for_disconnect(receive, _CLOSING_SECONDS)
