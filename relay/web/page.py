"""A page and its actions: the arguments and results of handlers.

A handler is a coroutine function of a PageRequest. For a GET it returns Content, which a template renders; for a POST
also Done, which redirects to a page with a notice. It calls the API through `page_request.api` and lets RequestError
pass: the visitor then gets a page with the error.
"""

import hashlib
import shlex
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode

from starlette.requests import Request

from relay.api.http.auth import ADMIN, Identity
from relay.api.http.dependencies import ApiDependencies
from relay.api.http.limits import HeldBytes, read_body
from relay.api.http.operations import Context
from relay.core.access.netguard import browsed_url
from relay.core.access.sign_in import came_by_tls, is_sealed, sealed
from relay.core.values import moment
from relay.errors import InvalidRequest
from relay.ids import new_secret
from relay.limiter import Limiter
from relay.web.api_client import ApiClient, Query, filled, shown
from relay.web.texts import english

MAX_FIELDS = 300
"""Maximum fields of a form or a query."""
MAX_VALUE = 65_536
MAX_NAME = 200
PAGE_ITEMS = 50
"""Items of a list on one page."""
TIMES = ("since", "until")
"""Filters that are also read as an age such as `1d`, or as a day with or without a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Equivalent:
    """The same action from a terminal: a command, and a call of the API."""

    command: str
    method: str
    target: str
    body: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A list's export as CSV: the API's list, and the columns as heading and dotted path into an item, or what an item
    has there."""

    path: str
    segments: Sequence[str] = ()
    query: Query = field(default_factory=dict)
    columns: Mapping[str, str | Callable[[Mapping[str, Any]], object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The values that a template shows. `title`: of the browser's tab, from the catalogue or composed from it."""

    template: str
    title: str
    values: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200
    equivalent: Equivalent | None = None
    export: Export | None = None

    def plus(self, **values: Any) -> "Content":
        """The same with more values, or with others in place of these."""
        return replace(self, values={**self.values, **values})


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The result of an action: redirects to the page `to`, which shows the text `done.KEY`. `n`: a count in that text.
    Without a key there is only the redirect."""

    key: str
    to: str
    n: int | None = None

    def location(self, csrf: str, now: float) -> str:
        """The URL to redirect to. The notice is sealed for the visitor with this form token, so no foreign link can
        fake one."""
        path, _, query = self.to.partition("?")
        more = {"done": self.key, "n": "" if self.n is None else str(self.n)} if self.key else {}
        more |= {"seal": sealed(csrf, _said(more), now)} if self.key else {}
        kept = [(name, value) for name, value in parse_qsl(query) if name not in NOTICE]
        encoded = urlencode([*kept, *shown(more).items()])
        return f"{path}?{encoded}" if encoded else path


NOTICE = ("done", "n", "seal")
"""The query parameters of a notice."""


def _said(given: Mapping[str, str]) -> str:
    return f"{given['done']} {given['n']}"


ONCE = "_once"
"""A field with a random value: a form with it acts once, however often it is sent."""


class PageRequest:
    """One request for a page, by a visitor who may see it."""

    def __init__(
        self,
        request: Request,
        identity: Identity,
        api: ApiClient,
        context: Context,
        csrf: str,
        form: "Form | None" = None,
        *,
        signs_out: bool = False,
    ) -> None:
        """`signs_out`: True if there is a session to end. `now`: the time of the page, in epoch seconds."""
        self.request = request
        self.identity = identity
        self.now = context.dependencies.clock()
        self.api = api
        self.csrf = csrf
        self.signs_out = signs_out
        self.context = context
        self.query = Form(request.scope["query_string"])
        self.form = form if form is not None else Form(b"")

    def begin(self) -> None:
        """Sets the page's time, which stays the same until the page is done."""
        self.now = self.context.dependencies.clock()

    @property
    def sees_several(self) -> bool:
        """True if the visitor sees several accounts, which may have campaigns of one name."""
        known = self.context.dependencies.settings.accounts.values()
        return self.identity.account is None and sum(map(len, known)) > 1

    def once(self) -> str:
        """A new value for the field `_once`."""
        return new_secret()

    def id(self, name: str = "id") -> str:
        """A segment of the page's path."""
        value: str = self.request.path_params[name]
        return value

    @property
    def place(self) -> str:
        """The decoded path of this page. Not from `request.url`, which cuts it at an encoded `?` or `#`."""
        path: str = self.request.scope["path"]
        return path

    @property
    def base_url(self) -> str:
        """The relay's URL for the visitor: `server.public_url`, else the one that the browser used. The listening
        address would be wrong in a browser on another machine."""
        if self.context.settings.public_url:
            return self.context.base_url
        tls = by_tls(self.request, self.context.dependencies)
        return browsed_url(self.request.headers.getlist("host"), tls=tls) or self.context.base_url

    def upstream(self, *sources: str) -> str:
        """The titles of these sources, as `Revor or OpenAI`. Of a source that the settings no longer have: its name."""
        titles = {source: origin.title for (source, _), origin in self.context.settings.origins.items()}
        return " or ".join(dict.fromkeys(titles.get(source, source) for source in sources)) or "the upstream"

    def may(self, *scopes: str) -> bool:
        """True if the caller has one of these scopes, or is admin."""
        return ADMIN in self.identity.scopes or not self.identity.scopes.isdisjoint(scopes)

    def asked(self, *names: str) -> dict[str, str]:
        """The non-empty parameters with these names, for the API's list and for links to this page."""
        found = {name: self.query.get(name) for name in names}
        return {name: value for name, value in found.items() if value}

    def notice(self) -> tuple[str, int] | None:
        """The key and count of the visitor's last action; None if there is no notice."""
        given = {name: self.query.get(name) for name in NOTICE}
        if not given["done"] or not is_sealed(self.csrf, _said(given), given["seal"], self.now):
            return None
        return given["done"], int(given["n"] or 0)

    def path(self, **changes: str | None) -> str:
        """This page's path with changes to its query; None removes a parameter."""
        kept = {name: value for name, value in self.query.pairs if name not in NOTICE and name not in changes}
        query = urlencode(shown({**kept, **changes}))
        return quote(self.place, safe="/:@") + (f"?{query}" if query else "")


class Form:
    """The fields of a form or a query: text, decoded once. If several fields have one name the last counts, except in
    `all`."""

    def __init__(self, encoded: bytes) -> None:
        """Raises InvalidRequest if it is not text or exceeds a limit."""
        try:
            text = encoded.decode("ascii")
            pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
        except ValueError as error:
            raise InvalidRequest("the form cannot be read: it is not text, or has too many fields") from error
        for name, value in pairs:
            if len(value) > MAX_VALUE or len(name) > MAX_NAME or "\0" in name + value:
                raise InvalidRequest("a field of the form is too long, or has a NUL", code="invalid_form")
        self.pairs = pairs
        self._last = dict(pairs)

    @property
    def key(self) -> str | None:
        """An idempotency key for this form, from its field `_once` and all its values; None without that field. A form
        changed after it was sent has another key."""
        if not self.get(ONCE):
            return None
        return hashlib.sha256(repr(self.pairs).encode()).hexdigest()

    def get(self, name: str, default: str = "") -> str:
        """The value of a field, without white space around it."""
        return self._last.get(name, default).strip()

    def all(self, name: str) -> list[str]:
        """Every value of a field."""
        return [value for given, value in self.pairs if given == name and value]


def by_tls(request: Request, dependencies: ApiDependencies) -> bool:
    """True if the browser sent this over TLS, as far as the relay or a trusted proxy knows."""
    proxied = dependencies.access.is_proxied(request.scope)
    return came_by_tls(
        request.scope["scheme"],
        public_url=dependencies.settings.public_url,
        forwarded_proto=request.headers.getlist("x-forwarded-proto") if proxied else (),
    )


async def read_form(request: Request, bodies: Limiter, caller: str, max_bytes: int) -> Form:
    """The form of a POST. Its bytes count for the caller until it is read. Raises TooLarge, Busy and InvalidRequest."""
    with HeldBytes(bodies, caller) as held:
        return Form(await read_body(request.headers, request.receive, max_bytes, held))


Handler = Callable[[PageRequest], Awaitable[Content | Done]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A handler and its route. `live`: its block `live` is sent again after an event. `moves`: it also changes
    without events, as a progress bar does."""

    method: str
    path: str
    handler: Handler
    live: bool = False
    moves: bool = False


PAGES: list[Page] = []
"""Those of the modules that were imported."""


def page(route: str, *, live: bool = False, moves: bool = False) -> Callable[[Handler], Handler]:
    """Makes a page of the decorated handler. `route`: such as `GET /ui/jobs`."""
    method, _, path = route.partition(" ")

    def added(handler: Handler) -> Handler:
        PAGES.append(Page(method=method, path=path, handler=handler, live=live, moves=moves))
        return handler

    return added


def action(route: str, call: str, *, done: str, to: str, query: Query | None = None) -> None:
    """Makes an action that only calls the API, such as `POST /v1/jobs/{}/refresh`, with the id of its path. `to`: where
    it leads; `{}` stands for the uid in the answer, else the id."""
    method, _, path = call.partition(" ")

    async def handler(page_request: PageRequest) -> Done:
        id, send = page_request.id(), page_request.api.delete if method == "DELETE" else page_request.api.post
        answer = await send(path, id, query=query)
        return Done(key=done, to=to.format((answer or {}).get("uid", id)))

    page(route)(handler)


def columns(fields: str) -> dict[str, str]:
    """Columns of a CSV file, separated by spaces: each a field, whose name is the heading, or `heading=path.of.field`.
    Underscores of a heading are shown as spaces."""
    pairs = [one.partition("=") for one in fields.split()]
    return {head.replace("_", " "): path or head for head, _, path in pairs}


def options(values: Mapping[str, object]) -> list[str]:
    """These values as options of a command."""
    return [part for name, value in shown(values).items() for part in (f"--{name.replace('_', '-')}", str(value))]


async def list_page(
    page_request: PageRequest,
    name: str,
    path: str,
    *,
    columns: Mapping[str, str],
    filters: Sequence[str] = (),
    limit: int = PAGE_ITEMS,
) -> Content:
    """A page of one of the API's lists, as `items`, with its filters, pages, export and equivalents. `name`: of the
    page in the navigation, of its template, and of the command `relay NAME list`."""
    asked = page_request.asked(*filters)
    query = {**asked, **{name: moment(asked[name], page_request.now) for name in TIMES if name in asked}}
    found = await page_request.api.get(
        path, query={**query, "limit": limit, "cursor": page_request.query.get("cursor")}
    )
    return Content(
        template=f"{name}.html",
        title=english()(f"base.{name}"),
        values={"items": found["items"], "next_cursor": found["next_cursor"], "asked": asked},
        equivalent=equivalent(["relay", name, "list", *options(query)], f"GET {path}", query=query),
        export=Export(path=path, query=query, columns=columns),
    )


def equivalent(
    command: Sequence[str], call: str, *segments: str, query: Query | None = None, body: str | None = None
) -> Equivalent:
    """The equivalent command and API call, such as `GET /v1/jobs/{}`. Values are quoted for a shell."""
    method, _, path = call.partition(" ")
    encoded = urlencode(shown(query))
    target = filled(path, [quote(one, safe="") for one in segments]) + (f"?{encoded}" if encoded else "")
    return Equivalent(command=shlex.join(command), method=method, target=target, body=body)


class Place(NamedTuple):
    """A page of the navigation. `key`: the key pressed after `g` to open it. `admin`: it needs the scope `admin`."""

    name: str
    path: str
    key: str
    admin: bool = False


SECTIONS = (
    (
        "main",
        (
            Place("overview", "/ui", "o"),
            Place("incidents", "/ui/incidents", "i"),
            Place("groups", "/ui/groups", "c"),
            Place("accounts", "/ui/accounts", "a"),
            Place("jobs", "/ui/jobs", "j"),
            Place("deliveries", "/ui/deliveries", "d"),
            Place("subscriptions", "/ui/subscriptions", "s"),
            Place("events", "/ui/events", "e"),
        ),
    ),
    (
        "operations",
        (
            Place("sources", "/ui/sources", "r"),
            Place("intents", "/ui/intents", "u"),
            Place("tokens", "/ui/tokens", "t", admin=True),
            Place("audit", "/ui/audit", "l", admin=True),
            Place("settings", "/ui/settings", "p", admin=True),
        ),
    ),
)
"""The navigation: sections by name (the text `base.section_NAME`), each with its pages."""

NAVIGATION = tuple(place for _, places in SECTIONS for place in places)
"""Every page of the navigation, in order."""
