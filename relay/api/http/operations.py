"""The API's operations as values. An Operation gives its route, its checks and its documentation."""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from relay.api.http.auth import (
    ADMIN,
    DELIVERIES_WRITE,
    EVENTS_WRITE,
    JOBS_WRITE,
    METRICS,
    PROXY,
    READ,
    SUBSCRIPTIONS_WRITE,
    Identity,
)
from relay.api.http.dependencies import Account, ApiDependencies, ApiSettings
from relay.api.http.limits import MAX_BODY_BYTES
from relay.core.subscriptions.filters import known_types
from relay.core.subscriptions.subscription import Subscription
from relay.errors import NotFound
from relay.ids import new_id, same_id
from relay.redaction import url_without_path
from subscribers.registry import redacted_url

PUBLIC = None
READS = frozenset({READ})
READS_JOBS = frozenset({READ, JOBS_WRITE})
WRITES_JOBS = frozenset({JOBS_WRITE})
READS_SUBSCRIPTIONS = frozenset({READ, SUBSCRIPTIONS_WRITE})
WRITES_SUBSCRIPTIONS = frozenset({SUBSCRIPTIONS_WRITE})
PULLS = frozenset({DELIVERIES_WRITE, SUBSCRIPTIONS_WRITE})
WRITES_EVENTS = frozenset({EVENTS_WRITE})
READS_METRICS = frozenset({METRICS})
READS_TRACKED = frozenset({READ, JOBS_WRITE, PROXY})
"""For reads of tracked jobs through the drop-in."""
USES_UPSTREAM = frozenset({JOBS_WRITE, PROXY})
"""For everything else through it: the account's key sees and does more than the relay shows."""
ADMINS: frozenset[str] = frozenset()


@dataclass(slots=True, kw_only=True)
class Context:
    """What all requests share: the rest of the relay, and the documents served as they are."""

    ports: ApiDependencies
    schemas: Mapping[str, bytes] = field(default_factory=dict)
    openapi: Callable[[], bytes] = lambda: b"{}"
    asyncapi: Callable[[], bytes] = lambda: b"{}"
    _views: dict[Account, "Context"] = field(default_factory=dict)

    def within(self, account: Account) -> "Context":
        """This context as a token bound to the account sees it: its rows, its source, and nothing of other accounts."""
        view = self._views.get(account)
        if view is None:
            view = self._views[account] = replace(self, ports=self.ports.within(account), _views={})
        return view

    @property
    def settings(self) -> ApiSettings:
        """The settings of the API."""
        return self.ports.settings

    @property
    def known_types(self) -> tuple[str, ...]:
        """Every event type there is with these settings."""
        return known_types(origin.type_prefix for origin in self.settings.origins.values())

    @property
    def base_url(self) -> str:
        """The relay's URL, without a slash at the end."""
        settings = self.ports.settings
        if settings.public_url:
            return settings.public_url.rstrip("/")
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        return f"http://{host}:{settings.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstSent:
    """When a request was first sent with its Idempotency-Key, and a digest of caller, path and key."""

    at: float
    digest: str


@dataclass(slots=True, kw_only=True)
class Call:
    """One request.

    query     the checked parameters
    document  the parsed body, None without one
    notes     what the audit's entry says beside the rest, without secrets and recipients
    count     how many a `counted` operation has handled
    """

    context: Context
    request: Request
    identity: Identity | None
    query: Mapping[str, Any]
    body: bytes = b""
    document: Any = None
    first: FirstSent | None = None
    notes: dict[str, Any] | None = None
    count: int = 1

    def note(self, **notes: Any) -> None:
        """Adds to what the audit's entry says. Never a secret, never a recipient."""
        self.notes = {**(self.notes or {}), **notes}

    def new_id(self, prefix: str, now: float) -> str:
        """A new id. A call that is repeated with its Idempotency-Key after a crash gets the same one."""
        return new_id(prefix, now) if self.first is None else same_id(prefix, self.first.at, self.first.digest)

    @property
    def ports(self) -> ApiDependencies:
        """The rest of the relay."""
        return self.context.ports

    def shown_sink(self, kind: str, url: str) -> str:
        """A sink's URL as this caller may see it: the path, which may be a credential, only who may set it."""
        if self.may_set_sinks or not url:
            return redacted_url(kind, url)
        return url_without_path(url)

    def shown_url(self, subscription: Subscription, url: str) -> str:
        """The URL of a request to a subscription's sink. What follows the sink in it is no credential."""
        base = subscription.sink.rstrip("/")
        if self.may_set_sinks and url != subscription.sink and url.startswith(f"{base}/"):
            return self.shown_sink(subscription.kind, base) + url[len(base) :]
        return self.shown_sink(subscription.kind, url)

    @property
    def may_set_sinks(self) -> bool:
        """True if the caller may change the subscriptions that it sees, and so see what their sinks are sent and
        answer."""
        return self.identity is not None and not self.identity.scopes.isdisjoint({ADMIN, SUBSCRIPTIONS_WRITE})

    @property
    def caller(self) -> str:
        """What the limits of one caller count by."""
        return "" if self.identity is None else self.identity.key

    @property
    def is_allowed(self) -> bool:
        """True if the caller's token is still valid: asked again and again while a request is open."""
        return self.ports.access.holds(self.identity)

    @property
    def id(self) -> str:
        """The `{id}` of the path. Raises NotFound if it contains NUL, which no database can store."""
        value: str = self.request.path_params["id"]
        if "\0" in value:
            raise NotFound("an id cannot contain NUL")
        return value


Handler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One query parameter. `read` raises ValueError with a text that completes "name: …"."""

    name: str
    description: str
    schema: Mapping[str, Any]
    read: Callable[[str], Any]
    default: Any = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful response, for the documentation. `headers`: name to description; `also`: other media types."""

    description: str
    model: type | None = None
    _: KW_ONLY
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    also: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Repeats:
    """How a POST is answered again for its Idempotency-Key.

    keep   what is stored of its answer: ids, counts, and a secret that is shown once. Nothing that a person could ask
           to have erased. Applied to its own result, it changes nothing
    again  makes the answer from what was kept, and the rest from the row. Raises NotFound if the row is gone
    """

    keep: Callable[[Any], Any]
    again: Callable[[Call, Any], Awaitable[object]]


def members(*names: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Keeps these members of an answer."""
    return lambda answer: {name: answer[name] for name in names}


def stored(keep: Callable[[Any], Any]) -> Repeats:
    """A repeated request gets what was stored of the answer."""

    async def again(_call: Call, kept: Any) -> object:
        return kept

    return Repeats(keep, again)


STORED = stored(lambda answer: answer)
"""For answers of ids, counts and secrets alone."""
REFUSED_BEFORE = (
    "the answer to the first request with this Idempotency-Key has the reason: send it again with another key"
)
"""Detail of a refused item in a repeated answer to a batch."""
LOCATION = {"Location": "The path of the new resource."}
NEXT = {"Link": 'The next page, `rel="next"`, if there is one.'}
LAST_EVENT_ID = {
    "Last-Event-ID": "The last `id` of an interrupted stream. If that event is no longer stored, the stream starts "
    "with the oldest stored event."
}
STREAM = Answer(
    "Server-sent events: `id` is the event's id, `event` its type, `data` the event as one line of JSON.",
    media_type="text/event-stream",
)


@dataclass(slots=True)
class Operation:
    """One method of one path. It decorates its handler, and is then in the list `into`.

    The handler's name gives the id (`get_job`: getJob), its docstring the summary and the description.

    route     method and path, such as `GET /v1/jobs/{id}`
    scopes    any of them suffices, admin always does; PUBLIC: no token is needed
    audited   the action that an administrative write is in the audit as, or a function of the query that gives it;
              it is recorded before the operation runs, and again with its result
    counted   the action that a frequent write is counted as in the audit, per token and hour
    body      the model of the body; None: no body
    reads_body  the handler parses the body itself
    media_types  of `body` and `also_bodies`, if they are not application/json: the handler judges the Content-Type
    repeats   how a POST is answered again for its Idempotency-Key; None: the header has no effect
    problems  errors that only this operation has: status code to description
    bound     whether a token bound to an account may call it. The handler then sees that account only, through
              `Context.within`: what it reads elsewhere must be as safe. Without a decision a bound token is refused
    """

    route: str
    _: KW_ONLY
    into: "list[Operation]"
    tag: str
    answers: Mapping[int, Answer]
    scopes: frozenset[str] | None = READS
    audited: str | Callable[[Mapping[str, Any]], str | None] | None = None
    counted: str | None = None
    query: tuple[Parameter, ...] = ()
    body: type[BaseModel] | None = None
    also_bodies: tuple[type[BaseModel], ...] = ()
    body_optional: bool = False
    max_body_bytes: int = MAX_BODY_BYTES
    reads_body: bool = False
    media_types: tuple[str, ...] = ()
    request_headers: Mapping[str, str] = field(default_factory=dict)
    repeats: Repeats | None = None
    problems: Mapping[int, str] = field(default_factory=dict)
    bound: bool = False
    handler: Handler = field(init=False)
    id: str = field(init=False)
    method: str = field(init=False)
    path: str = field(init=False)
    summary: str = field(init=False)
    description: str = field(init=False)

    @property
    def bodies(self) -> tuple[type[BaseModel], ...]:
        """The models of its bodies."""
        return () if self.body is None else (self.body, *self.also_bodies)

    def __call__(self, handler: Handler) -> Handler:
        """Adds the operation with this handler. Returns the handler."""
        self.handler = handler
        self.method, _, self.path = self.route.partition(" ")
        first, *others = handler.__name__.split("_")
        self.id = first + "".join(word.capitalize() for word in others)
        summary, _, description = (inspect.getdoc(handler) or "").partition("\n\n")
        self.summary, self.description = summary.rstrip("."), " ".join(description.split("\n"))
        self.into.append(self)
        return handler


def models_of(operations: Iterable[Operation]) -> list[type[BaseModel]]:
    """The models of all bodies and answers."""
    found: dict[Any, None] = {}
    for operation in operations:
        found |= dict.fromkeys(operation.bodies)
        found |= dict.fromkeys(answer.model for answer in operation.answers.values() if answer.model is not None)
    return list(found)
