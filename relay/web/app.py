"""The dashboard as one ASGI application: finds the visitor, runs the page's handler and renders the frame around it."""

import asyncio
import gzip
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from relay.api.http.operations import Context, request_id_of
from relay.api.http.problems import store_problem
from relay.api.http.stream import MEDIA_TYPE, SlotResponse
from relay.clock import http_date
from relay.errors import NotFound, RequestError, StoreError, Unauthorized, Unavailable
from relay.signals import ALL_EVENTS
from relay.web.api_client import READS_AT_ONCE, ApiClient
from relay.web.export import MAX_ROWS, csv_response
from relay.web.live import IDLE_SECONDS, MIN_SECONDS, Key, Live
from relay.web.page import NAVIGATION, SECTIONS, Content, Done, Form, Page, PageRequest, Place, by_tls, read_form
from relay.web.pages import PAGES
from relay.web.rendering import STATIC, Pages, static_files, version_of
from relay.web.sessions import LOGIN, LOGOUT, Sessions, Visitor, WebSettings, wrong_method

log = structlog.get_logger()

UI = "/ui"
MAX_FORM_BYTES = 256 << 10
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy."""
HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
OPENER_POLICY = {"cross-origin-opener-policy": "same-origin"}
"""Sent over TLS only: without TLS a browser ignores it and reports an error on the page."""
FOR_EVER = "public, max-age=31536000, immutable"


@dataclass(slots=True, kw_only=True)
class Shared:
    """State shared by all requests."""

    context: Context
    api: ASGIApp
    sessions: Sessions
    pages: Pages
    live: Live
    reads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(READS_AT_ONCE))


class Web:
    """Serves every path below /ui, and redirects / and /ui/ there."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._routes: list[tuple[Route, Page]] = [
            (Route(page.path, _nothing, methods=[page.method]), page) for page in PAGES
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except ClientDisconnect:
            raise  # the connection is closed: there is nowhere to send an answer
        except RequestError as error:
            response = self._refused(request, error)
        except StoreError as error:
            log.error("page_failed", request_id=self._request_id(scope), path=scope["path"], error=str(error))
            response = self._refused(request, store_problem(error))
        except Exception:
            log.exception("page_failed", request_id=self._request_id(scope), path=scope["path"])
            response = self._refused(request, _failed(self._request_id(scope)))
        for name, value in self._headers(request).items():
            response.headers.setdefault(name, value)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path, sessions = request.scope["path"], self._shared.sessions
        if path in ("/", f"{UI}/"):
            return RedirectResponse(UI, 303)
        if path.startswith(f"{STATIC}/"):
            return _static(path.removeprefix(f"{STATIC}/"), request)
        if path in (LOGIN, LOGOUT):
            return await (sessions.login(request) if path == LOGIN else sessions.logout(request))
        visitor = await sessions.visitor(request)
        if visitor is None:
            return sessions.to_login(request)
        request.state.visitor = visitor
        page, form = self._find(request), await self._form(request, visitor)
        if form is not None:
            sessions.check_csrf(visitor.csrf, request, form)
        response = await self._page(request, page, visitor, form)
        if visitor.fresh_cookie is not None:
            response.headers.append("set-cookie", visitor.fresh_cookie)
        return response

    async def _form(self, request: Request, visitor: Visitor) -> Form | None:
        if request.method != "POST":
            return None
        bodies = self._shared.context.dependencies.admission.bodies
        return await read_form(request, bodies, visitor.identity.key, MAX_FORM_BYTES)

    def _find(self, request: Request) -> Page:
        """The page for a path and method. A path such as /ui/jobs/register also matches /ui/jobs/{id}: the first page
        in the list that takes the method is used."""
        method = "GET" if request.method == "HEAD" else request.method
        taken: set[str] = set()
        for route, page in self._routes:
            match, child = route.matches({**request.scope, "method": page.method})
            if match is Match.FULL and page.method == method:
                request.scope["path_params"] = child["path_params"]
                return page
            if match is Match.FULL:
                taken |= {page.method, "HEAD"} if page.method == "GET" else {page.method}
        raise wrong_method(taken) if taken else NotFound("the dashboard has no such page")

    async def _page(self, request: Request, page: Page, visitor: Visitor, form: Form | None) -> Response:
        page_request = self._page_request(request, visitor, form)
        if page.live and _is_live(request):
            return self._stream(page, page_request, visitor)
        if form is not None:  # the API limits actions, and one may wait for a sink
            return await self._made(page, page_request)
        async with self._shared.live.renderings.turn(visitor.identity.key):
            if await request.is_disconnected():  # else abandoned reloads delay the last one
                raise ClientDisconnect
            return await self._made(page, page_request)

    async def _made(self, page: Page, page_request: PageRequest) -> Response:
        made = await page.handler(page_request)
        if isinstance(made, Done):
            return RedirectResponse(made.location(page_request.csrf, page_request.now), 303)
        if made.export is not None and page_request.query.get("format") == "csv":
            return await csv_response(made.export, page_request)
        values = self._values(page_request, made, page)
        return _html(self._shared.pages.page(made.template, values), made.status)

    def _page_request(self, request: Request, visitor: Visitor, form: Form | None) -> PageRequest:
        context, identity = self._shared.context, visitor.identity
        if identity.account is not None:
            context = context.within(identity.account)
        api = ApiClient(self._shared.api, request.scope, identity, self._shared.reads)
        return PageRequest(request, identity, api, context, visitor.csrf, form, signs_out=visitor.kind == "session")

    def _values(self, page_request: PageRequest, made: Content, page: Page | None) -> dict[str, Any]:
        done, n = page_request.notice() or ("", 0)
        key, texts = f"done.{done}", self._shared.pages.texts
        place = _place_of(page_request.place)
        return {
            **made.values,
            "page_request": page_request,
            "title": made.title,
            "navigation": [
                (name, [place for place in places if not place.admin or page_request.may()])
                for name, places in SECTIONS
            ],
            "here": place.path if place else "",
            "up": place if place and place.path not in (UI, page_request.place) else None,
            "equivalent": made.equivalent,
            "export": page_request.path(format="csv", cursor=None)
            if made.export and made.values.get("items", True)
            else None,
            "export_rows": MAX_ROWS,
            "live_path": page_request.path() if page is not None and page.live else None,
            "notice": texts(key, n=n) if key in texts else None,  # unknown if a node of a newer version did it
            "base_url": page_request.base_url,
            "version": self._shared.context.settings.version,
        }

    def _stream(self, page: Page, page_request: PageRequest, visitor: Visitor) -> Response:
        shared = self._shared
        dependencies = shared.context.dependencies

        async def render() -> str:
            if not await shared.sessions.holds(visitor):
                raise Unauthorized("the session has ended")
            page_request.begin()
            made = await page.handler(page_request)
            if isinstance(made, Done):
                raise NotFound("this page only leads to another one")
            return shared.pages.live(made.template, self._values(page_request, made, page))

        async def frames() -> AsyncGenerator[bytes, None]:
            with dependencies.signals.watch(ALL_EVENTS) as watch:
                async for frame in shared.live.frames(key, caller, render, watch.wait, goes_on, idle):
                    yield frame

        def goes_on() -> bool:
            return not dependencies.node.stopping and dependencies.access.holds(page_request.identity)

        key, caller = Key(page_request.csrf, page_request.path()), page_request.identity.key
        idle = MIN_SECONDS if page.moves else IDLE_SECONDS
        if not shared.live.has_room(key):
            raise Unavailable("too many pages are open: this one shows what it knew", headers={"Retry-After": "30"})
        headers = {"X-Accel-Buffering": "no"}
        return SlotResponse(frames(), dependencies.admission.streams, caller, MEDIA_TYPE, headers)

    def _refused(self, request: Request, error: RequestError) -> Response:
        """The error as a page: inside the frame for a visitor, without it for anyone else."""
        if _is_live(request):
            return Response(status_code=error.status, headers=error.headers)
        visitor: Visitor | None = getattr(request.state, "visitor", None)
        content = Content(template="refused.html", title=self._shared.pages.texts("base.refused_title"))
        values: dict[str, Any] = {"page_request": None, "title": content.title}
        if visitor is not None:
            plain = Request({**request.scope, "query_string": b""})  # the query may be the invalid part
            values = self._values(self._page_request(plain, visitor, None), content, None)
        html = self._shared.pages.page(
            content.template,
            {**values, "error": error, "filtered": request.method == "GET" and bool(request.scope["query_string"])},
        )
        return _html(html, error.status, error.headers)

    def _headers(self, request: Request) -> Mapping[str, str]:
        return {
            **HEADERS,
            **(OPENER_POLICY if by_tls(request, self._shared.context.dependencies) else {}),
            "cache-control": "no-store",
            "date": http_date(self._shared.context.dependencies.clock()),
            "x-request-id": self._request_id(request.scope),
        }

    def _request_id(self, scope: Scope) -> str:
        return request_id_of(scope, self._shared.context.dependencies.clock)


def _place_of(path: str) -> Place | None:
    """The navigation page that a path belongs to; None for none."""
    below = (one for one in NAVIGATION if path == one.path or (one.path != UI and path.startswith(f"{one.path}/")))
    return next(below, None)


def _is_live(request: Request) -> bool:
    """True if an open page requests its live part."""
    return request.method == "GET" and MEDIA_TYPE in request.headers.get("accept", "")


def _html(text: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    return Response(text.encode("utf-8", "replace"), status, media_type="text/html", headers=headers)


def _failed(request_id: str) -> RequestError:
    error = RequestError(f"the relay's log says why, under request id {request_id}", code="internal_error", status=500)
    error.title = "This page could not be made"
    return error


async def _nothing(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Placeholder: the routes are only matched."""


def _static(name: str, request: Request) -> Response:
    found = static_files().get(name)
    if found is None:
        raise NotFound("the dashboard has no such file")
    body, kind = found
    is_current = request.scope["query_string"] == f"v={version_of(name)}".encode()  # nodes may differ during an update
    headers = {"cache-control": FOR_EVER if is_current else "no-cache", "vary": "accept-encoding", "content-type": kind}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(_packed(name), headers={**headers, "content-encoding": "gzip"})
    return Response(body, headers=headers)


@cache
def _packed(name: str) -> bytes:
    return gzip.compress(static_files()[name][0], mtime=0)


def create_web(context: Context, api: ASGIApp, settings: WebSettings) -> Web:
    """The dashboard over the API operations that `api` serves."""
    pages = Pages()
    sessions = Sessions(context, settings, pages)
    return Web(Shared(context=context, api=api, sessions=sessions, pages=pages, live=Live()))
