"""Forwards requests: sent once and counted in the account's budget. Also builds the relay's own answers."""

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog

from relay.clock import Clock, http_date
from relay.core.access.forwarding import SAFE_METHODS, Header
from relay.core.records import Intent
from relay.errors import NoAnswer, NotSent, RelayError
from relay.polling.poller import Poller
from relay.proxy.transport import UpstreamRequest, UpstreamResponse, UpstreamTransport
from relay.proxy.types import Cache, Caller, ForwardedRequest, ProxyResponse
from relay.sources.definition import SourceDefinition

JSON_TYPE = (b"content-type", b"application/json")

Value = TypeVar("Value")
Pollers = Mapping[tuple[str, str], Poller]
Definitions = Mapping[str, SourceDefinition]

log = structlog.get_logger("relay.proxy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarding:
    """Forwards callers' requests. `transports` by source; `stopping` is true once the node shuts down."""

    pollers: Pollers
    definitions: Definitions
    transports: Mapping[str, UpstreamTransport]
    stopping: Callable[[], bool]
    clock: Clock

    async def forward(self, request: ForwardedRequest, body: AsyncIterable[bytes] | None) -> ProxyResponse:
        """Forwards a request that is neither a job read nor a create."""
        try:
            answer = await self.send(request, body)
        except (NotSent, NoAnswer) as error:
            return self.unreachable(request, error)
        self.count_request(request.caller, answer)
        whole = answer.from_memory()
        return ProxyResponse.of(answer, whole or b"", complete=whole is not None)

    async def send(self, request: ForwardedRequest, body: bytes | AsyncIterable[bytes] | None) -> UpstreamResponse:
        """Sends once. Raises NotSent, NoAnswer."""
        target = f"{request.path}?{request.query}" if request.query else request.path
        sent = UpstreamRequest(method=request.method, target=target, headers=request.headers, body=body)
        return await self.unless_stopping(self.transports[request.caller.source].send(sent))

    async def unless_stopping(self, waiting: Awaitable[Value]) -> Value:
        """Waits for the upstream. Raises NoAnswer if shutdown cancels the wait, so the caller still gets an answer."""
        try:
            return await waiting
        except asyncio.CancelledError:
            if not self.stopping():
                raise
            raise NoAnswer("no answer before the relay shut down") from None

    def count_request(self, caller: Caller, answer: UpstreamResponse) -> None:
        """Counts the request in the budget of the account whose key sent it."""
        if caller.account is not None:
            poller = self.pollers.get((caller.source, caller.account))
            if poller is None:
                return  # an account not yet adopted
            poller.forwarded(answer.status, texts(answer.headers), answer.sent_at)

    def problem(self, caller: Caller, status: int, code: str, message: str, request_id: str) -> ProxyResponse:
        """A relay error in the upstream's shape."""
        body = self.definitions[caller.source].error_body(code, message, request_id)
        return self.own(status, body)

    def own(self, status: int, body: bytes, *, cache: Cache = "pass", age_seconds: int | None = None) -> ProxyResponse:
        """An answer from the relay itself."""
        date = http_date(self.clock()).encode()
        headers = [(b"date", date), JSON_TYPE, (b"content-length", b"%d" % len(body))]
        return ProxyResponse(status=status, headers=headers, body=body, cache=cache, age_seconds=age_seconds)

    def unreachable(self, request: ForwardedRequest, error: RelayError, intent: Intent | None = None) -> ProxyResponse:
        """The error for a request that was not sent or got no answer."""
        if isinstance(error, NotSent):
            code, says = "relay_upstream_unreachable", f"{error}. Nothing was sent: it is safe to send it again"
        elif request.method in SAFE_METHODS:
            code, says = "relay_upstream_no_answer", f"{error}. It only reads: it is safe to send it again"
        else:
            listed = "" if intent is None else f", listed as {intent.id} at /v1/intents"
            code = "relay_outcome_unknown"
            says = (
                f"{error}. It was sent, and whether it was carried out is unknown{listed}. Check with the upstream "
                "before you send it again, or repeat it with the same Idempotency-Key"
            )
        log.warning("not_passed_on", code=code, method=request.method, path=request.path, error=str(error))
        return self.problem(request.caller, 502, code, says, request.request_id)


def texts(headers: Sequence[Header]) -> dict[str, str]:
    """Headers as text, names lower-cased."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}
