"""The other ends of dropin.py, each a process of its own: an upstream that answers at once, and a bare endpoint.

`python dropin_stub.py upstream|bare` prints its port and ends when its standard input does. The upstream knows every
job: those named `done-…` have succeeded, those named `one-…` do when `POST /_end` is called, all others run.
"""

import asyncio
import sys
import time
from typing import Any

import orjson
import uvloop

PART = b"x" * 65_536
LIMITS = b"X-RateLimit-Limit: 1000000\r\nX-RateLimit-Remaining: 900000\r\nX-RateLimit-Window-Ms: 60000\r\n"
JOBS = b"/api/v1/outreach/jobs/"
ITEM = {
    **{"action": "outreach.dispatch", "channel": "email", "scheduled_at": "2026-05-20T10:00:00.000Z"},
    **{"started_at": "2026-05-20T10:00:01.000Z", "finished_at": None, "attempt_count": 1, "next_attempt_at": None},
    **{"result": None, "error": None},
}
ENDED = {
    "finished_at": "2026-05-20T10:00:08.000Z",
    "result": {
        "account_id": "connect_account_xxx",
        "channel": "email",
        "message_id": "message_xxx",
        "status": "accepted",
    },
}
ACCOUNT = {
    **{"account_id": "connect_account_xxx", "channel": "linkedin", "name": "LinkedIn Account", "status": "ok"},
    **{"lifecycle_status": "active", "can_send": True, "can_receive": True},
}


def envelope(name: str, value: Any) -> bytes:
    """A body as the upstream documents it."""
    return orjson.dumps({"ok": True, "request_id": "req_0123456789abcdef", name: value})


def job_body(id: str, *, ended: bool) -> bytes:
    """The read of a job."""
    return envelope(
        "item", {"id": id, **ITEM, "status": "running"} | ({"status": "succeeded", **ENDED} if ended else {})
    )


def answer(status: bytes, body: bytes) -> bytes:
    """A whole answer as it goes out."""
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b" % (
        *(status, LIMITS, len(body)),
        body,
    )


ACCOUNTS = answer(b"200 OK", envelope("items", [ACCOUNT]))


class Upstream(asyncio.Protocol):
    """One connection."""

    ended = False
    created = 0

    def __init__(self) -> None:
        self._buffer = b""
        self._left = 0  # of a request's body
        self._received = 0
        self._target = b""
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._sending: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def connection_lost(self, _error: Exception | None) -> None:
        if self._sending is not None:
            self._sending.cancel()

    def data_received(self, data: bytes) -> None:
        if self._left:
            data = self._take(data)
        if not data and not self._buffer:
            return
        self._buffer += data
        while not self._left:
            head, mark, rest = self._buffer.partition(b"\r\n\r\n")
            if not mark:
                return
            method, self._target, _ = head.split(b" ", 2)
            lower = head.lower()
            at = lower.find(b"\r\ncontent-length:")
            self._left = int(lower[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            self._received, self._buffer = 0, b""
            if method == b"GET" or not self._left:
                self._reply()
            self._buffer = self._take(rest) if self._left else rest

    def _take(self, data: bytes) -> bytes:
        taken = min(self._left, len(data))
        self._left -= taken
        self._received += taken
        if not self._left:
            self._reply()
        return data[taken:]

    def _reply(self) -> None:
        target = self._target
        if target.startswith(JOBS):
            id = target[len(JOBS) :].decode()
            ended = id.startswith("done-") or (Upstream.ended and id.startswith("one-"))
            self._transport.write(answer(b"200 OK", job_body(id, ended=ended)))
        elif target == b"/api/v1/outreach/dispatches":
            Upstream.created += 1
            item = {**ITEM, "id": f"new-{Upstream.created}", "status": "queued", "started_at": None}
            self._transport.write(answer(b"202 Accepted", envelope("item", item)))
        elif target.startswith(b"/api/v1/big/"):
            self._sending = asyncio.get_running_loop().create_task(self._send(int(target[12:])))
        elif target == b"/_end":
            Upstream.ended = True
            self._transport.write(answer(b"200 OK", orjson.dumps(time.time())))
        elif target.startswith(b"/api/v1/upload"):
            self._transport.write(answer(b"200 OK", envelope("bytes", self._received)))
        else:
            self._transport.write(ACCOUNTS)

    async def _send(self, count: int) -> None:
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % count)
        while count:
            await self._may_write.wait()
            part = PART[:count]
            self._transport.write(part)
            count -= len(part)


async def upstream() -> None:
    """Serves until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


async def bare() -> None:
    """A constant from Starlette, on the server that `relay serve` has, with its settings."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from relay.node.interpreter import tune
    from relay.server.http_server import make_server
    from relay.server.sockets import listening_socket

    body = job_body("done-1", ended=True)

    async def constant(_request: Request) -> Response:
        return Response(body, media_type="application/json")

    listener = listening_socket("127.0.0.1", 0)
    server = make_server(Starlette(routes=[Route(JOBS.decode() + "{id}", constant)]), shutdown_seconds=1)
    print(listener.getsockname()[1], flush=True)
    tune()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.should_exit = True
    await serving


if __name__ == "__main__":
    uvloop.run(upstream() if sys.argv[1] == "upstream" else bare())
