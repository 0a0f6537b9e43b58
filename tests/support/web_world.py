"""A browser without JavaScript, inside the process: cookies, CSRF tokens, parsed pages, over the real dashboard and the
real API on a store of SQLite."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import httpx2

from relay.api.app import create_api
from relay.api.http.auth import LOCAL
from relay.api.http.operations import Context
from relay.core.access.sign_in import Session, csrf_of, digest_of
from relay.ids import new_id, new_secret
from relay.web.app import Web, create_web
from relay.web.sessions import SESSION_COOKIE, VISITOR_COOKIE, WebSettings
from tests.support.api_world import TOKENS, World
from tests.support.html import Soup
from tests.support.store_kit import access_token

BASE_URL = "http://127.0.0.1:8080"
NO_PROXY = WebSettings()

Fields = Mapping[str, str | Sequence[str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A response of the dashboard, after the redirects of an action."""

    response: httpx2.Response

    @property
    def status(self) -> int:
        """The status of the last response."""
        return self.response.status_code

    @property
    def path(self) -> str:
        """The path and query of the page that the browser shows."""
        return self.response.url.raw_path.decode()

    @property
    def html(self) -> str:
        """The page."""
        return self.response.text

    @property
    def headers(self) -> httpx2.Headers:
        """The headers of the last response."""
        return self.response.headers

    @property
    def soup(self) -> Soup:
        """The page, parsed."""
        return Soup(self.response.text)

    @property
    def said(self) -> str:
        """What the page says that an action did; "" if it says nothing."""
        return " ".join(self.soup.texts("//p[contains(concat(' ', @class, ' '), ' notice ')]"))


class Browser:
    """`await browser.get("/ui/jobs")`; `await browser.post("/ui/jobs/…/refresh", {…})` adds the form token."""

    def __init__(self, client: httpx2.AsyncClient, web: Web, csrf: str | None = None) -> None:
        self.client = client
        self.web = web
        self._csrf = csrf

    async def get(self, path: str, **query: str) -> Answer:
        """A page. A redirect is not followed: `answer.headers["location"]`."""
        return Answer(await self.client.get(path, params=query or None))

    async def post(self, path: str, fields: Fields | None = None, *, follow: bool = True, csrf: bool = True) -> Answer:
        """Sends a form, and follows to the page that says what was done."""
        sent = {name: value for name, value in (fields or {}).items() if name != "_csrf"}
        if csrf:
            sent["_csrf"] = await self.csrf()
        return Answer(await self.client.post(path, data=sent, follow_redirects=follow))

    async def csrf(self) -> str:
        """The form token of this visitor."""
        if self._csrf is None:
            await self.get("/ui")
            self._csrf = csrf_of(self.client.cookies[VISITOR_COOKIE], LOCAL)
        return self._csrf


async def open_browser(
    world: World,
    *,
    token: str | None = None,
    scopes: Sequence[str] = (),
    account: tuple[str, str] | None = None,
    peer: str = "127.0.0.1",
    headers: Mapping[str, str] | None = None,
    base_url: str = BASE_URL,
    web: WebSettings = NO_PROXY,
    **settings: Any,
) -> Browser:
    """A browser. Without more it is on loopback of a relay with --dev: admin, without a sign-in.

    token    the browser is signed in with this token of TOKENS, such as `rl_read`
    scopes   it is signed in with a new token of the database that has these scopes,
    account  and is bound to this source and account
    peer     the address that connects
    web      which proxy signs users in
    """
    if token is not None or scopes:
        settings = {"dev": False, "tokens": TOKENS, **settings}
    made: list[Web] = []

    def pages(context: Context, app: Any) -> Web:
        made.append(create_web(context, app, web))
        return made[0]

    api = create_api(world.dependencies(**settings), world.proxy, pages)
    if scopes:
        id = new_id("tok", world.now)
        token = f"rl_{id}"
        stored = access_token(id, name="test", scopes=frozenset(scopes), account=account)
        await world.store.tokens.create(stored, world.now)
        await world.node.tokens_changed()
    transport = httpx2.ASGITransport(app=api, client=(peer, 5000), raise_app_exceptions=False)
    client = httpx2.AsyncClient(transport=transport, base_url=base_url, headers=headers)
    return Browser(client, made[0], None if token is None else await sign_in(world, client, token))


async def sign_in(world: World, client: httpx2.AsyncClient, token: str) -> str:
    """Gives the client the cookie of a session of this token, without a sign-in (tests/web/test_sessions.py signs in).
    Returns the form token."""
    secret = new_secret()
    session = Session(
        digest=digest_of(secret),
        kind="session",
        token_digest=sha256(token.encode()).hexdigest(),
        name="test",
        created_at=world.now,
        expires_at=world.now + 1e9,
    )
    await world.store.sessions.create(session)
    client.cookies.set(SESSION_COOKIE, secret, path="/ui")
    return csrf_of(secret)
