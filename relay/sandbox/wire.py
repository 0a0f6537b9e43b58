"""Sends answers, intact or corrupted, over plain ASGI. A framework would repair what is broken on purpose."""

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from relay.sandbox.faults import FaultSpec

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
    """A response. `headers` excludes content type and length."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = JSON_TYPE


def json_answer(status: int, content: Any, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """An answer with a JSON body."""
    return Answer(status=status, body=orjson.dumps(content), headers=headers)


async def read_body(receive: Receive, *, max_bytes: int) -> bytes:
    """The whole request body. Raises BodyTooLarge, or ConnectionCut if the client has disconnected."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionCut
        part = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            raise BodyTooLarge
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


async def send_answer(answer: Answer, scope: Scope, receive: Receive, send: Send, fault: FaultSpec | None) -> None:
    """Sends the answer, corrupted as `fault` requires."""
    kind = None if fault is None else fault.kind
    if fault is None or scope["method"] == "HEAD":
        await _send_whole(answer, send)
    elif kind == "timeout":
        await _wait_for_disconnect(receive, fault.hold_seconds)
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
        if await _wait_for_disconnect(receive, seconds / pieces):
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


async def _wait_for_disconnect(receive: Receive, seconds: float) -> bool:
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
    await _wait_for_disconnect(receive, _CLOSING_SECONDS)
