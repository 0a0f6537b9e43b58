"""Sending answers, whole or spoiled, straight over ASGI: a framework would repair what is broken on purpose."""

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
    """The connection should be cut here, but this server gives no way to do so; it then does it on this exception."""


class BodyTooLarge(Exception):
    """The request's body is larger than the sandbox takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response: `headers` without content type and length."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = JSON_TYPE


def json_answer(status: int, content: Any, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """An answer with a JSON body."""
    return Answer(status=status, body=orjson.dumps(content), headers=headers)


async def read_body(receive: Receive, *, max_bytes: int) -> bytes:
    """The request's whole body. Raises BodyTooLarge, and ConnectionCut when the client is gone."""
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
    """Sends the answer, spoiled as `fault` says."""
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
    """The body in small pieces, evenly over `seconds`; ends early when the client hangs up."""
    pieces = max(1, min(len(answer.body), round(seconds * _DRIPS_PER_SECOND)))
    await _start(answer, len(answer.body), send)
    for index in range(pieces):
        piece = answer.body[index * len(answer.body) // pieces : (index + 1) * len(answer.body) // pieces]
        if await _wait_for_disconnect(receive, seconds / pieces):
            return
        await send({"type": "http.response.body", "body": piece, "more_body": index + 1 < pieces})


async def _send_oversized(answer: Answer, size_bytes: int, send: Send) -> None:
    """Still valid JSON: the answer's object with a long `padding` in front."""
    head, tail = b'{"padding":"', b'",' + answer.body[1:]
    filling = max(0, size_bytes - len(head) - len(tail))
    await _start(answer, len(head) + filling + len(tail), send)
    await send({"type": "http.response.body", "body": head, "more_body": True})
    while filling:
        size = min(filling, _CHUNK_BYTES)
        await send({"type": "http.response.body", "body": b"x" * size, "more_body": True})
        filling -= size
    await send({"type": "http.response.body", "body": tail})


async def _wait_for_disconnect(receive: Receive, seconds: float) -> bool:
    """Waits until the client hangs up, at most `seconds`; whether it did."""
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
    """Closes the connection after what was sent, without a word more.

    ASGI has no message for that. Under uvicorn the transport is at hand, and closing it leaves nothing in the log;
    elsewhere an exception has the same effect.
    """
    transport = getattr(getattr(receive, "__self__", None), "transport", None)
    if transport is None:
        raise ConnectionCut
    transport.close()
    await _wait_for_disconnect(receive, _CLOSING_SECONDS)
