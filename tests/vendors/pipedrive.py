"""The stand-in of Pipedrive (`relay/cli/demo/vendors/pipedrive.py`) for tests: it can be a sink for the dispatcher, and
for a dialogue that a test drives by itself."""

from dataclasses import replace

from starlette.applications import Starlette
from starlette.routing import Route

from relay.cli.demo.vendors import pipedrive
from relay.cli.demo.vendors.pipedrive import BEARER, TOKEN, Fault, Row
from relay.core.credentials import TOKEN_HERE
from relay.core.delivery import OutboundRequest, Response

__all__ = ["BEARER", "HOST", "TOKEN", "Fault", "Pipedrive"]

HOST = "acme.pipedrive.com"
READ_BYTES = 64 * 1024


class Pipedrive(pipedrive.Pipedrive):
    """One company."""

    def add_person(self, name: str, email: str | None = None, phone: str | None = None) -> Row:
        """A person, whom a search finds at once."""
        emails = [{"value": email, "label": "work", "primary": True}] if email else []
        phones = [{"value": phone, "label": "work", "primary": True}] if phone else []
        person = {"id": self._id(), "name": name, "emails": emails, "phones": phones, "is_deleted": False}
        person["add_time"] = self._v2_time()
        self.persons.append({**person, "indexed_at": 0.0})
        return self.persons[-1]

    def add_lead(self, title: str, person_id: int | None = None) -> Row:
        """A lead."""
        lead = {"id": f"00000000-0000-4000-8000-{self._id():012d}", "title": title, "person_id": person_id}
        self.leads.append({**lead, "update_time": self._v2_time()})
        return self.leads[-1]

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
