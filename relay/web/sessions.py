"""Identifies visitors of the dashboard, signs them in and out.

A visitor is, in this order: the user named by a trusted proxy, a caller on this machine with `--dev`, or the holder of
a session's cookie. A session acts as its token: every request asks `Access` for it, so scopes, account, networks,
expiry and quota are the token's present ones. Writes carry a token made from a secret in a cookie that other sites
cannot read (`core/access/sign_in.py`).
"""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from relay.api.access.tokens import SIGNS_IN
from relay.api.http.auth import ADMIN, LOCAL, Identity, WrongToken, client_of, is_local
from relay.api.http.operations import Context, request_id_of
from relay.api.http.stream import MEDIA_TYPE
from relay.core.access.sign_in import (
    HOME,
    SESSION_SECONDS,
    Session,
    SessionKind,
    csrf_of,
    digest_of,
    is_own_page,
    is_same,
    is_secret,
    local_target,
    new_session,
    secret_in,
    user_named,
)
from relay.errors import Forbidden, InvalidRequest, RequestError
from relay.ids import new_secret
from relay.web.page import Form, by_tls, read_form
from relay.web.rendering import Pages


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings:
    """Sign-in by a trusted proxy.

    user_header  header in which the proxy names the user; None: there is no such proxy
    user_scopes  scopes of those users
    """

    user_header: str | None = None
    user_scopes: frozenset[str] = frozenset()


LOGIN = "/ui/login"
LOGOUT = "/ui/logout"
SESSION_COOKIE = "relay_session"
VISITOR_COOKIE = "relay_visitor"
"""Protects the forms of visitors without a session."""
MAX_FORM_BYTES = 16 << 10
FORM_TYPE = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """A visitor who may see pages.

    secret        in the visitor's cookie
    csrf          the token in forms
    fresh_cookie  a cookie to set, because the visitor has none yet
    """

    identity: Identity
    secret: str
    csrf: str
    fresh_cookie: str | None
    kind: Literal["local", "proxy", "session"]


class _Refused(Exception):
    """The sign-in failed. `error` has the status and headers, `text` is the key of the form's message."""

    def __init__(self, error: RequestError, text: str = "") -> None:
        super().__init__(str(error))
        self.error = error
        self.text = text


class Sessions:
    """Identifies visitors, signs in and signs out."""

    def __init__(self, context: Context, settings: WebSettings, pages: Pages) -> None:
        self._dependencies = context.dependencies
        self._api = context.settings
        self._settings = settings
        self._pages = pages

    # --- who is asking

    async def visitor(self, request: Request) -> Visitor | None:
        """The visitor; None without a session. Raises TooMany if the token's quota is used up, and Forbidden if a
        trusted proxy sends an invalid name."""
        self._dependencies.access.address(request.scope)
        found = self._proxied(request) or self._local(request) or await self._signed_in(request)
        if found is not None:
            request.scope["relay.identity"] = found.identity  # for the log
        return found

    async def holds(self, visitor: Visitor) -> bool:
        """True if the visitor may still see an open page."""
        if not self._dependencies.access.holds(visitor.identity):
            return False
        return visitor.kind != "session" or await self._session(visitor.secret) is not None

    def to_login(self, request: Request) -> Response:
        """The answer without a session: redirects to the login page, which leads back.

        A link on another site sends no cookie, because of SameSite=Strict. It gets a page that redirects from here:
        then the cookies are sent, and signed-in users see no form.
        """
        if request.method not in ("GET", "HEAD"):
            return RedirectResponse(LOGIN, 303)
        target = f"{LOGIN}?{urlencode({'next': _asked(request)})}"
        headers = request.headers
        if MEDIA_TYPE in headers.get("accept", "") or "hx-request" in headers:  # else a page inside the page
            return self._page("signed_out.html", 401, target=target)
        if _follows_foreign_link(request) and self._secret(request, SESSION_COOKIE) is None:
            return self._page("arrived.html", 200, target=target)
        return RedirectResponse(target, 303)

    def _proxied(self, request: Request) -> Visitor | None:
        name = self._settings.user_header
        if name is None or not self._dependencies.access.is_proxied(request.scope):
            return None
        try:
            user = user_named(request.headers.getlist(name))
        except ValueError as error:
            raise Forbidden(f"the header {name} of the proxy {error}", code="user_header_invalid") from None
        if user is None:
            return None
        scopes = self._settings.user_scopes
        return self._without_session(request, Identity(name=user, scopes=scopes, client=client_of(request.scope)))

    def _local(self, request: Request) -> Visitor | None:
        if not is_local(request.scope, request.headers, self._api):
            return None
        identity = Identity(name=LOCAL, scopes=frozenset({ADMIN}), client=client_of(request.scope))
        return self._without_session(request, identity)

    def _without_session(self, request: Request, identity: Identity) -> Visitor | None:
        """The visitor without a session cookie. None for a request from another site, which sends no cookie: a new one
        would replace the existing one and invalidate the forms of open pages."""
        secret, fresh = self._visitor_secret(request)
        if fresh is not None and _is_foreign(request):
            return None
        return Visitor(
            identity=identity,
            secret=secret,
            csrf=csrf_of(secret, identity.name),
            fresh_cookie=fresh,
            kind="local" if identity.name == LOCAL else "proxy",
        )

    async def _signed_in(self, request: Request) -> Visitor | None:
        secret = self._secret(request, SESSION_COOKIE)
        session = await self._session(secret)
        if secret is None or session is None:
            return None
        identity = self._dependencies.access.of_digest(bytes.fromhex(session.token_digest), request.scope)
        if identity is None:
            return None
        return Visitor(identity=identity, secret=secret, csrf=csrf_of(secret), fresh_cookie=None, kind="session")

    async def _session(self, secret: str | None, kind: SessionKind = "session") -> Session | None:
        """The session or link with this secret; None if there is none, or it has ended."""
        if secret is None:
            return None
        return await self._dependencies.store.sessions.find(digest_of(secret), kind, self._dependencies.clock())

    # --- signing in and out

    async def login(self, request: Request) -> Response:
        """The login page and its form."""
        self._dependencies.access.address(request.scope)
        if request.method in ("GET", "HEAD"):
            return await self._login_page(request)
        if request.method != "POST":
            raise wrong_method({"GET", "HEAD", "POST"})
        form = await self._form(request)
        try:
            visitor = self._secret(request, VISITOR_COOKIE)
            if visitor is None:
                raise _Refused(Forbidden("the browser sent no cookie", code="csrf"), "login.no_cookie")
            self.check_csrf(csrf_of(visitor), request, form)
            return await (self._use_link(request, form) if form.get("link") else self._use_token(request, form))
        except _Refused as refused:
            return self._login_form(request, form, refused.error, refused.text)
        except RequestError as error:
            return self._login_form(request, form, error)

    async def logout(self, request: Request) -> Response:
        """Ends the session, even if the token's quota is used up. A form of another site sends no cookie, so it changes
        nothing."""
        if request.method != "POST":
            raise wrong_method({"POST"})
        self._dependencies.access.address(request.scope)
        form = await self._form(request)
        secret = self._secret(request, SESSION_COOKIE)
        session = await self._session(secret)
        if secret is not None and session is not None:
            self.check_csrf(csrf_of(secret), request, form)
            token = bytes.fromhex(session.token_digest)
            identity = Identity(name=session.name, scopes=frozenset(), client=client_of(request.scope), digest=token)
            await self._audited(request, "logout", identity, lambda: self._end(secret))
        response = RedirectResponse(LOGIN, 303)
        if secret is not None:
            response.headers.append("set-cookie", self._cookie(request, SESSION_COOKIE, "", 0))
        return response

    async def _login_page(self, request: Request) -> Response:
        query = Form(request.scope["query_string"])
        if _follows_foreign_link(request) and not query.get("arrived"):  # once: no endless redirects
            kept = {name: query.get(name) for name in ("next", "link") if query.get(name)}
            return self._page("arrived.html", 200, target=f"{LOGIN}?{urlencode({**kept, 'arrived': '1'})}")
        if query.get("link"):
            found = await self._link(query)
            if found is None:
                return self._login_form(request, query, _link_gone(request), "login.link_gone")
            return self._login_form(request, query, name=found.name)
        if await self.visitor(request) is not None:
            return RedirectResponse(local_target(query.get("next")), 303)
        return self._login_form(request, query)

    async def _use_token(self, request: Request, form: Form) -> Response:
        value = _one(form, "token")
        if not value:
            raise _Refused(InvalidRequest("a token is needed", code="missing"), "login.missing")
        identity = self._dependencies.access.identify(value, request.scope)
        if identity is None:
            raise await self._wrong(request, WrongToken("the token is not accepted", client_of(request.scope)))
        session, secret = self._new_session(identity)

        async def create() -> bool:
            await self._dependencies.store.sessions.create(session)
            return True

        return await self._begin(request, form, identity, secret, create)

    async def _use_link(self, request: Request, form: Form) -> Response:
        _one(form, "link")
        link = await self._link(form)
        identity = None
        if link is not None:
            identity = self._dependencies.access.of_digest(bytes.fromhex(link.token_digest), request.scope)
        if link is None or identity is None:
            raise await self._wrong(request, _link_gone(request), "login.link_gone")
        session, secret = self._new_session(identity)
        return await self._begin(
            request, form, identity, secret, lambda: self._dependencies.store.sessions.use_link(link.digest, session)
        )

    async def _link(self, form: Form) -> Session | None:
        secret = form.get("link")
        return await self._session(secret, "link") if is_secret(secret) else None

    async def _begin(
        self, request: Request, form: Form, identity: Identity, secret: str, create: Callable[[], Awaitable[bool]]
    ) -> Response:
        """Begins a session with a new secret, which replaces the browser's previous one."""
        identity.require(SIGNS_IN)
        target = local_target(_one(form, "next"))
        if not await self._audited(request, "login", identity, create):
            raise _Refused(_link_gone(request), "login.link_gone")  # another request used the link first
        before = self._secret(request, SESSION_COOKIE)
        if before is not None:
            await self._end(before)
        response = RedirectResponse(target, 303)
        response.headers.append("set-cookie", self._cookie(request, SESSION_COOKIE, secret, int(SESSION_SECONDS)))
        return response

    async def _audited(
        self, request: Request, action: str, identity: Identity, work: Callable[[], Awaitable[bool]]
    ) -> bool:
        """Runs the change between two audit entries. Returns False if nothing was left to change."""
        audit = self._dependencies.audit
        request_id = request_id_of(request.scope, self._dependencies.clock)
        (begun,) = await audit.begin(audit.request(action, identity, target=None, request_id=request_id))
        try:
            done = await work()
        except Exception:
            await audit.end(begun, status=503)
            raise
        await audit.end(begun, status=303 if done else 401)
        return done

    async def _end(self, secret: str) -> bool:
        return await self._dependencies.store.sessions.delete(digest_of(secret))

    async def _wrong(self, request: Request, error: WrongToken, text: str = "login.wrong") -> _Refused:
        """The error for a wrong token or link, with the same delay as elsewhere."""
        self._dependencies.audit.login_refused(client_of(request.scope))
        slowed = await self._dependencies.access.slowed(error)
        return _Refused(slowed, text if slowed is error else "")

    def _new_session(self, identity: Identity) -> tuple[Session, str]:
        """A session that acts as the caller's token, and its secret."""
        assert identity.digest is not None  # it has a token
        secret, now = new_secret(), self._dependencies.clock()
        return new_session("session", secret, token_digest=identity.digest, name=identity.name, now=now), secret

    # --- forms and cookies

    async def _form(self, request: Request) -> Form:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != FORM_TYPE:
            raise InvalidRequest(f"a form is expected: {FORM_TYPE}", code="unsupported_media_type", status=415)
        return await read_form(request, self._dependencies.admission.bodies, "", MAX_FORM_BYTES)

    def check_csrf(self, expected: str, request: Request, form: Form) -> None:
        """Raises Forbidden unless the form, or the header X-CSRF-Token, has the token of its visitor."""
        given = request.headers.getlist("x-csrf-token") or [value for name, value in form.pairs if name == "_csrf"]
        own = is_own_page(request.headers.getlist("sec-fetch-site"))
        if not own or len(given) != 1 or not is_same(expected, given[0]):
            raise Forbidden("the form is too old, or not of this session: load the page again", code="csrf")

    def _login_form(
        self, request: Request, form: Form, error: RequestError | None = None, text: str = "", *, name: str = ""
    ) -> Response:
        """The login page. `name`: of the token that the link signs in as; without it the page asks for a token."""
        secret, fresh = self._visitor_secret(request)
        status, headers = (200, {}) if error is None else (error.status, error.headers)
        texts = self._pages.texts
        if error is not None and not text:
            text = "login.csrf" if error.code == "csrf" else ""
        response = self._page(
            "login.html",
            status,
            title=texts("login.title"),
            csrf=csrf_of(secret),
            next=local_target(form.get("next")),
            link=form.get("link") if name else "",
            name=name,
            error=texts(text) if text else None if error is None else str(error),
        )
        response.headers.update(headers)
        arrived = request.method == "GET" and bool(form.get("arrived")) and _follows_foreign_link(request)
        if fresh is not None and (arrived or not _is_foreign(request)):
            response.headers.append("set-cookie", fresh)
        return response

    def _page(self, template: str, status: int, **values: object) -> Response:
        return Response(self._pages.page(template, values), status, media_type="text/html")

    def _secret(self, request: Request, name: str) -> str | None:
        return secret_in(request.headers.getlist("cookie"), name)

    def _visitor_secret(self, request: Request) -> tuple[str, str | None]:
        """The secret that protects a visitor's forms, and the cookie to set if it is new."""
        known = self._secret(request, VISITOR_COOKIE)
        if known is not None:
            return known, None
        made = new_secret()
        return made, self._cookie(request, VISITOR_COOKIE, made)

    def _cookie(self, request: Request, name: str, value: str, seconds: int | None = None) -> str:
        """A cookie for the dashboard's pages only. Without `seconds` it ends with the browser."""
        life = "" if seconds is None else f"; Max-Age={seconds}"
        secure = "; Secure" if by_tls(request, self._dependencies) else ""
        return f"{name}={value}; Path={HOME}; HttpOnly; SameSite=Strict{life}{secure}"


def _asked(request: Request) -> str:
    """The requested page, as a browser writes its path."""
    path = request.scope.get("raw_path") or b""
    query = request.scope["query_string"]
    return local_target((path + (b"?" + query if query else b"")).decode("latin-1"))


def _is_foreign(request: Request) -> bool:
    """True if the browser reports that another site's page caused the request."""
    return request.headers.get("sec-fetch-site") == "cross-site"


def _follows_foreign_link(request: Request) -> bool:
    """True if the visitor followed a link on another site."""
    return _is_foreign(request) and request.headers.get("sec-fetch-mode") == "navigate"


def _one(form: Form, name: str) -> str:
    """The value of a field. Raises InvalidRequest if there are several."""
    if sum(given == name for given, _ in form.pairs) > 1:
        raise InvalidRequest(f"the form has several fields {name}", code="invalid_form")
    return form.get(name)


def _link_gone(request: Request) -> WrongToken:
    return WrongToken("the link was used, or has expired", client_of(request.scope), code="link_gone")


def wrong_method(taken: Collection[str]) -> RequestError:
    """The error for a method that a path does not support."""
    allow = ", ".join(sorted(taken))
    error = RequestError(f"this path takes {allow}", code="method_not_allowed", status=405, headers={"Allow": allow})
    error.title = "Method not allowed"
    return error
