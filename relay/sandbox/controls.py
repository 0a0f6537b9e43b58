"""The endpoints that every sandbox has under /_sandbox: its faults, and counts of the requests. Refused, raised by any
endpoint, is answered as JSON."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from relay.clock import Clock
from relay.sandbox.faults import (
    KINDS,
    Answer,
    BodyTooLarge,
    FaultInjector,
    FaultSpec,
    read_body,
    send_answer,
    wait_for_disconnect,
)
from relay.sandbox.limits import RequestCounts
from relay.sandbox.requests import Read, Refused, invalid, read

MAX_BODY_BYTES = 64 * 1024


Handle = Callable[[Scope, bytes | None], tuple[str, Answer, FaultSpec | None]]
"""Handles a call to the upstream, given its body (None: too large). Returns the kind of call, its answer, and the
injected fault."""


@dataclass(frozen=True, slots=True)
class Controls:
    """Faults of these `kinds`, and counts."""

    faults: FaultInjector
    counts: RequestCounts
    clock: Clock
    kinds: Sequence[str] = KINDS

    def app(self, routes: Sequence[Route], handle: Handle, max_body_bytes: int) -> Starlette:
        """The ASGI application: these endpoints, more of them in `routes`, and the upstream's calls."""

        async def upstream(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await send({"type": "websocket.close", "code": 1000})
                return
            try:
                body = await read_body(Request(scope, receive), max_bytes=max_body_bytes)
            except BodyTooLarge:
                body = None
            except ClientDisconnect:
                return
            kind, answer, fault = handle(scope, body)
            status = 0 if fault is not None and fault.kind == "timeout" else answer.status
            self.counts.count(scope["method"], kind, status)
            if not await wait_for_disconnect(receive, answer.ready_at - self.clock()):
                await send_answer(answer, scope, receive, send, fault)

        own = [
            Route("/_sandbox/faults", self._faults, methods=["GET", "POST", "DELETE"]),
            Route("/_sandbox/faults/{fault_id:int}", self._fault, methods=["DELETE"]),
            Route("/_sandbox/requests", self._requests, methods=["GET", "DELETE"]),
        ]
        return Starlette(routes=[*routes, *own, Mount("/", app=upstream)], exception_handlers={Refused: _refusal})

    async def _faults(self, request: Request) -> Response:
        now = self.clock()
        if request.method == "DELETE":
            return answered({"ok": True, "cleared": self.faults.clear()})
        if request.method == "POST":
            spec = await body_of(FaultSpec, request)
            if spec.kind not in self.kinds:
                raise invalid(f"{spec.kind} is a fault of Revor's sandbox only. Here are {', '.join(self.kinds)}")
            return answered({"ok": True, "fault": self.faults.add(spec, now).shown(now)}, 201)
        return answered({"ok": True, "faults": [one.shown(now) for one in self.faults.faults()], "kinds": self.kinds})

    async def _fault(self, request: Request) -> Response:
        return answered({"ok": True, "cleared": self.faults.clear(request.path_params["fault_id"])})

    async def _requests(self, request: Request) -> Response:
        if request.method == "DELETE":
            self.counts.clear()
        return answered({"ok": True, **self.counts.shown()})


async def body_of(model: type[Read], request: Request) -> Read:
    """The body of a request. Raises Refused."""
    try:
        found: object = orjson.loads(await read_body(request, max_bytes=MAX_BODY_BYTES) or b"{}")
    except BodyTooLarge:
        raise invalid(f"the body is larger than {MAX_BODY_BYTES} bytes") from None
    except orjson.JSONDecodeError:
        raise invalid("the body is not JSON") from None
    return read(model, found)


def answered(content: Any, status: int = 200) -> Response:
    """An answer of the sandbox itself."""
    return Response(orjson.dumps(content), status, media_type="application/json")


async def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return answered({"ok": False, "error": {"code": error.code, "message": error.message}}, error.status)
