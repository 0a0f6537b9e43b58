"""The stand-in of Pipedrive (`relay/cli/demo/vendors/pipedrive.py`) for tests: it can be a sink for the dispatcher, and
for a dialogue that a test drives by itself."""

from dataclasses import replace

from starlette.applications import Starlette
from starlette.routing import Route

from relay.cli.demo.vendors import pipedrive
from relay.cli.demo.vendors.pipedrive import BEARER, HOST, TOKEN, Fault
from relay.core.credentials import TOKEN_HERE
from relay.core.delivery import OutboundRequest, Response

__all__ = ["BEARER", "HOST", "TOKEN", "Fault", "Pipedrive"]

READ_BYTES = 64 * 1024


class Pipedrive(pipedrive.Pipedrive):
    """One company."""

    def app(self) -> Starlette:
        """The company over HTTP."""
        return Starlette(routes=[Route("/{path:path}", self.receive, methods=["GET", "POST", "PUT", "DELETE"])])

    async def send(self, request: OutboundRequest, *, timeout_seconds: float) -> Response:
        """The company as a transport."""
        assert timeout_seconds > 0
        return self.take(request)

    def take(self, request: OutboundRequest) -> Response:
        """The response to a request with its credential."""
        status, headers, body = self.answer(request.method, request.url, dict(request.headers), request.body)
        now = self.clock()
        if not status:
            return Response(started_at=now, duration_ms=1.0, error="timeout", detail="no answer", late=True)
        return Response(
            started_at=now,
            duration_ms=1.0,
            status_code=status,
            headers=tuple(headers.items()),
            excerpt=body[:READ_BYTES],
        )

    def take_unsigned(self, request: OutboundRequest) -> Response:
        """The response to a request as a kind renders it: the token is put where the sender would put it."""
        placed = tuple((name, TOKEN if value == TOKEN_HERE else value) for name, value in request.headers)
        return self.take(replace(request, headers=placed))
