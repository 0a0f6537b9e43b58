"""Who looks at the dashboard."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Literal

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from relay.api.auth import LOCAL, Identity, client_of, is_local
from relay.api.operations import Context
from relay.errors import Forbidden
from relay.web.page import Form

VISITOR_COOKIE = "relay_visitor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Somebody who may see pages."""

    identity: Identity
    secret: str
    csrf: str
    fresh_cookie: str | None
    kind: Literal["local", "proxy", "session"]


class Sessions:
    """Finds out who is asking."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def visitor(self, request: Request) -> Visitor | None:
        """Who is asking; None without a session."""
        if not is_local(request.scope, Headers(scope=request.scope), self._context.settings):
            return None
        identity = Identity(name=LOCAL, scopes=frozenset({"admin"}), client=client_of(request.scope))
        known = request.cookies.get(VISITOR_COOKIE)
        secret = known or secrets.token_urlsafe(32)
        cookie = None if known else f"{VISITOR_COOKIE}={secret}; HttpOnly; SameSite=Strict; Path=/ui"
        csrf = hmac.new(secret.encode(), b"csrf", hashlib.sha256).hexdigest()
        return Visitor(identity=identity, secret=secret, csrf=csrf, fresh_cookie=cookie, kind="local")

    def to_login(self, request: Request) -> Response:
        """Leads to the login page."""
        return RedirectResponse("/ui/login", 303)

    async def login(self, request: Request) -> Response:
        """The login page, and its form."""
        return Response("", media_type="text/html")

    async def logout(self, request: Request) -> Response:
        """Ends the session."""
        return RedirectResponse("/ui/login", 303)

    def check_csrf(self, visitor: Visitor, request: Request, form: Form) -> None:
        """Raises Forbidden unless the form is of a page of this visitor."""
        if not hmac.compare_digest(form.get("_csrf").encode(), visitor.csrf.encode()):
            raise Forbidden("the form is too old, or not of this session: load the page again", code="csrf")
