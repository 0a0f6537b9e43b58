"""Receives signed requests of a relay, in any web framework.

`Receiver.handle` takes method, headers and raw body, and returns an answer. The receiver is also an ASGI application,
and `wsgi` a WSGI one. It answers 2xx only after the handlers returned, so the relay sends a failed event again.
"""

import asyncio
import inspect
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from revor_relay_client.errors import VerificationError
from revor_relay_client.verification import TOLERANCE_SECONDS, Event, key_of, verify_all

MAX_BODY_BYTES = 2 << 20
"""A batch has at most 1 MiB."""

Handler = Callable[[Event], Any]
SomeHandler = TypeVar("SomeHandler", bound=Handler)
log = logging.getLogger("revor_relay_client")


class Reply(NamedTuple):
    """An answer, in the order in which Flask takes it."""

    body: str
    status: int
    headers: dict[str, str]


class Receiver:
    """Calls functions with the events of signed requests.

    secret             `whsec_…`. Default: WEBHOOK_SECRET
    tolerance_seconds  how far the time of a request may be off
    allowed_origin     the relay whose handshake is accepted: the host of its public URL. Default: any
    """

    def __init__(
        self, secret: str | None = None, *, tolerance_seconds: float = TOLERANCE_SECONDS, allowed_origin: str = "*"
    ) -> None:
        """Raises ValueError without a secret, or for a malformed one."""
        self._secret = secret or os.environ.get("WEBHOOK_SECRET", "").strip()
        if not self._secret:
            raise ValueError("give a secret, or set WEBHOOK_SECRET: `subscribe` returns it")
        key_of(self._secret)
        self._tolerance_seconds, self._allowed_origin = tolerance_seconds, allowed_origin
        self._handlers: list[tuple[tuple[str, ...], Handler]] = []

    def on(self, *types: str) -> Callable[[SomeHandler], SomeHandler]:
        """Calls the function for events of these types: whole (`ai.revor.job.failed`), or their last words
        (`job.failed`). Without types, or for `*`: for every event. An event may come twice: drop the
        `event.key` that you know. Raises TypeError for a function that would never run."""
        if not all(isinstance(one, str) for one in types):
            raise TypeError("types are strings: write @receiver.on() with parentheses")

        def keep(handler: SomeHandler) -> SomeHandler:
            if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
                raise TypeError("a function with yield does not run when it is called: return instead")
            self._handlers.append((types, handler))
            return handler

        return keep

    def handle(self, method: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """The answer to a request. Coroutines run in a new event loop."""
        found = self._events(method, headers, body)
        if isinstance(found, Reply):
            return found
        try:
            for event in found:
                for handler in self._wanted(event):
                    made = handler(event)
                    if inspect.isawaitable(made):
                        asyncio.run(_awaited(made))
        except Exception:
            return _failed()
        return Reply("", 204, {})

    async def ahandle(self, method: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """As `handle`, in a running loop. Handlers that are not coroutines run in a thread."""
        found = self._events(method, headers, body)
        if isinstance(found, Reply):
            return found
        try:
            for event in found:
                for handler in self._wanted(event):
                    is_coroutine = inspect.iscoroutinefunction(handler)
                    made = handler(event) if is_coroutine else await asyncio.to_thread(handler, event)
                    if inspect.isawaitable(made):  # also of a lambda, or of an object that is called
                        await made
        except Exception:
            return _failed()
        return Reply("", 204, {})

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        """The receiver as an ASGI application."""
        if scope["type"] != "http":
            raise RuntimeError("the receiver takes HTTP requests only: route its path to it")
        chunks, size, more = [], 0, True
        while more and size <= MAX_BODY_BYTES:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            chunks.append(message.get("body", b""))
            size, more = size + len(chunks[-1]), message.get("more_body", False)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        reply = await self.ahandle(scope["method"], headers, b"".join(chunks))
        body = reply.body.encode()
        sent = [(name.lower().encode(), value.encode("latin-1")) for name, value in reply.headers.items()]
        if reply.status != 204:
            sent.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": sent})
        await send({"type": "http.response.body", "body": body})

    def wsgi(self, environ: Mapping[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """The receiver as a WSGI application."""
        headers = {name[5:].replace("_", "-"): value for name, value in environ.items() if name.startswith("HTTP_")}
        headers |= {
            "Content-Type": environ.get("CONTENT_TYPE", ""),
            "Content-Length": environ.get("CONTENT_LENGTH", ""),
        }
        length = headers["Content-Length"]
        size = int(length[:12]) if length.isascii() and length.isdigit() else 0
        body = environ["wsgi.input"].read(min(size, MAX_BODY_BYTES + 1))
        reply = self.handle(environ["REQUEST_METHOD"], headers, body)
        start_response(f"{reply.status} {'OK' if reply.status < 300 else 'Error'}", list(reply.headers.items()))
        return [reply.body.encode()]

    def _events(self, method: str, headers: Mapping[str, str], body: bytes) -> Reply | list[Event]:
        if method == "OPTIONS":
            return self._handshake({name.lower(): value for name, value in headers.items()})
        if method not in ("POST", "PUT", "PATCH"):
            return _refusal(405, "send events by POST", Allow="POST, OPTIONS")
        if len(body) > MAX_BODY_BYTES:
            return _refusal(413, f"the body has more than {MAX_BODY_BYTES >> 20} MiB")
        if not self._handlers:
            return _refusal(500, "no handler: add one with on")
        try:
            return verify_all(body, headers, self._secret, tolerance_seconds=self._tolerance_seconds)
        except VerificationError as error:
            log.warning("request refused: %s (%s)", error, error.reason)
            return _refusal(422 if error.reason == "unfit_body" else 401, str(error))

    def _handshake(self, headers: Mapping[str, str]) -> Reply:
        """CloudEvents' abuse protection: the relay asks by OPTIONS whether it may send."""
        asks = headers.get("webhook-request-origin", "")
        if not asks or self._allowed_origin not in ("*", asks):
            return _refusal(403, "events of this origin are not accepted")
        agreed = {"Allow": "POST, OPTIONS", "WebHook-Allowed-Origin": self._allowed_origin}
        if "webhook-request-rate" in headers:
            agreed["WebHook-Allowed-Rate"] = "*"
        return Reply("", 200, agreed)

    def _wanted(self, event: Event) -> list[Handler]:
        wanted = [
            handler
            for types, handler in self._handlers
            if not types or any(one in ("*", event.type) or event.type.endswith(f".{one}") for one in types)
        ]
        if not wanted:
            log.info("no handler for %s", event.type)
        return wanted


async def _awaited(made: Awaitable[object]) -> None:
    await made


def _failed() -> Reply:
    """Makes the relay send the event again. The reason is in the log only."""
    log.exception("a handler failed, so the relay sends the event again")
    return _refusal(500, "the event was not handled: send it again")


def _refusal(status: int, detail: str, **headers: str) -> Reply:
    return Reply(detail, status, {"Content-Type": "text/plain; charset=utf-8", **headers})
