"""The stand-in of Salesforce (`relay/cli/demo/vendors/salesforce.py`) for tests: it can be a transport, and be asked
like a person who looks at the org."""

from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.routing import Route

from relay.cli.demo.vendors import salesforce
from relay.cli.demo.vendors.endpoint import Answer
from relay.cli.demo.vendors.salesforce import CLIENT_ID, CLIENT_SECRET, ORIGIN, TOKEN, Fault
from relay.core.delivery import OutboundRequest, Response

__all__ = ["CLIENT_ID", "CLIENT_SECRET", "ORIGIN", "TOKEN", "Fault", "Salesforce", "response_of"]


class Salesforce(salesforce.Salesforce):
    """One org."""

    def ask(self, method: str, path: str, document: Any = None, **headers: str) -> tuple[int, Any]:
        """The status and the document of an answer to a request with a valid token."""
        given = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", **headers}
        body = document if isinstance(document, bytes) else b"" if document is None else orjson.dumps(document)
        answer = self.answer(method, self.origin + path, given, body)
        return answer.status, orjson.loads(answer.body) if answer.body else None

    def app(self) -> Starlette:
        """The org over HTTP."""
        return Starlette(routes=[Route("/{path:path}", self.receive, methods=["GET", "POST", "PATCH"])])

    async def send(self, request: OutboundRequest, *, timeout_seconds: float) -> Response:
        """The org as a transport."""
        assert timeout_seconds > 0
        return self.respond(request)

    def respond(self, request: OutboundRequest, token: str | None = TOKEN) -> Response:
        """The response to a request; with a token, if it has none itself."""
        headers = dict(request.headers)
        if token is not None:
            headers.setdefault("Authorization", f"Bearer {token}")
        return response_of(self.answer(request.method, request.url, headers, request.body))


def response_of(answer: Answer) -> Response:
    """An answer as the relay gets it."""
    if not answer.status:
        return Response(started_at=0.0, duration_ms=1.0, error="read", detail="the connection broke")
    return Response(
        started_at=0.0, duration_ms=1.0, status_code=answer.status, headers=answer.headers, excerpt=answer.body
    )
