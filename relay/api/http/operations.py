"""The API's operations as values, and the way of a request through one.

An Operation gives its route, its checks and its documentation. A Resource has those of one path: it finds the
operation, checks the request and sends the response.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from relay.api.http import idempotency, limits, params
from relay.api.http.auth import ADMIN, PUBLIC, READS, SUBSCRIPTIONS_WRITE, Identity
from relay.api.http.dependencies import Account, ApiDependencies, ApiSettings
from relay.api.http.fields import Nothing
from relay.api.http.idempotency import FirstSent, Repeats
from relay.api.http.limits import MAX_BODY_BYTES
from relay.api.http.params import Parameter
from relay.api.http.problems import store_problem
from relay.api.http.validation import validate
from relay.clock import Clock
from relay.core.jsontext import dumps
from relay.core.subscriptions.filters import known_types
from relay.core.subscriptions.subscription import Subscription
from relay.errors import Forbidden, NotFound, RequestError, StoreError, Unauthorized
from relay.ids import new_id, same_id
from relay.redaction import url_without_path
from subscribers.registry import redacted_url


@dataclass(slots=True, kw_only=True)
class Context:
    """Objects that all requests share: the rest of the relay, and the documents served as they are."""

    dependencies: ApiDependencies
    schemas: Mapping[str, bytes] = field(default_factory=dict)
    openapi: Callable[[], bytes] = lambda: b"{}"
    asyncapi: Callable[[], bytes] = lambda: b"{}"
    _views: dict[Account, "Context"] = field(default_factory=dict)

    def within(self, account: Account) -> "Context":
        """This context as a token bound to the account sees it: its rows, its source, and nothing of other accounts."""
        view = self._views.get(account)
        if view is None:
            view = self._views[account] = replace(self, dependencies=self.dependencies.within(account), _views={})
        return view

    @property
    def settings(self) -> ApiSettings:
        """The settings of the API."""
        return self.dependencies.settings

    @property
    def known_types(self) -> tuple[str, ...]:
        """Every event type there is with these settings."""
        return known_types(self.settings.origins.values())

    @property
    def base_url(self) -> str:
        """The relay's URL, without a slash at the end."""
        settings = self.dependencies.settings
        if settings.public_url:
            return settings.public_url.rstrip("/")
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        return f"http://{host}:{settings.port}"


@dataclass(slots=True, kw_only=True)
class Call:
    """One request.

    dependencies  those of its context
    query         the checked parameters
    document      the parsed body, None without one
    notes         what the audit's entry says beside the rest, without secrets and recipients
    count         how many a `counted` operation has handled
    """

    context: Context
    dependencies: ApiDependencies
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
        """The key that the limits of one caller count by."""
        return "" if self.identity is None else self.identity.key

    @property
    def is_allowed(self) -> bool:
        """True if the caller's token is still valid: asked again and again while a request is open."""
        return self.dependencies.access.holds(self.identity)

    @property
    def id(self) -> str:
        """The `{id}` of the path. Raises NotFound if it contains NUL, which no database can store."""
        value: str = self.request.path_params["id"]
        if "\0" in value:
            raise NotFound("an id cannot contain NUL")
        return value


Handler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful response, for the documentation. `headers`: name to description; `also`: other media types."""

    description: str
    model: type | None = None
    _: KW_ONLY
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    also: Mapping[str, str] = field(default_factory=dict)


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
    """One method of one path. It decorates its handler and takes its name in the module, where the catalogue finds it.

    The handler's name gives the id (`get_job`: getJob), its docstring the summary and the description.

    route     method and path, such as `GET /v1/jobs/{id}`
    scopes    any of them suffices, admin always does; PUBLIC: no token is needed
    audited   the action that an administrative write is in the audit as, or a function of the query that gives it;
              it is recorded before the operation runs, and again with its result
    counted   the action that a frequent write is counted as in the audit, per token and hour
    body      the model of the body; None: no body
    body_optional  whether the body may be absent, as it always may be for `Nothing`
    reads_body  the handler parses the body itself
    media_types  of `body` and `also_bodies`, if they are not application/json: the handler judges the Content-Type
    repeats   how a POST is answered again for its Idempotency-Key; None: the header has no effect
    problems  errors that only this operation has: status code to description
    bound     whether a token bound to an account may call it. The handler then sees that account only, through
              `Context.within`: what it reads elsewhere must be as safe. Without a decision a bound token is refused
    """

    route: str
    _: KW_ONLY
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

    def __call__(self, handler: Handler) -> "Operation":
        """This operation with the handler."""
        self.handler = handler
        self.body_optional = self.body_optional or self.body is Nothing
        self.method, _, self.path = self.route.partition(" ")
        first, *others = handler.__name__.split("_")
        self.id = first + "".join(word.capitalize() for word in others)
        summary, _, description = (inspect.getdoc(handler) or "").partition("\n\n")
        self.summary, self.description = summary.rstrip("."), " ".join(description.split("\n"))
        return self


def models_of(operations: Iterable[Operation]) -> list[type[BaseModel]]:
    """The models of all bodies and answers."""
    found: dict[Any, None] = {}
    for operation in operations:
        found |= dict.fromkeys(operation.bodies)
        found |= dict.fromkeys(answer.model for answer in operation.answers.values() if answer.model is not None)
    return list(found)


# --- a request


def request_id_of(scope: Scope, clock: Clock) -> str:
    """The request's id, created on first use: an answer from memory needs none."""
    found: str | None = scope.get("relay.request_id")
    if found is None:
        found = scope["relay.request_id"] = new_id("req", clock())
    return found


_DESCRIBES = ("content-type", "ce-")
"""Beginnings of the headers that say what is in a body of CloudEvents."""
NO_MORE: Mapping[str, object] = MappingProxyType({})


class Resource:
    """The operations of one path."""

    def __init__(self, context: Context, operations: Sequence[Operation]) -> None:
        self._context = context
        self._operations = {operation.method: operation for operation in operations}
        if "GET" in self._operations:
            self._operations["HEAD"] = self._operations["GET"]
        self._allow = ", ".join(sorted(self._operations))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation = self._operations.get(scope["method"])
        if operation is None:
            raise HTTPException(405, headers={"Allow": self._allow})
        response = await self._answer(operation, Request(scope, receive))
        await response(scope, receive, send)

    async def _answer(self, operation: Operation, request: Request) -> Response:
        scope, context = request.scope, self._context
        identity: Identity | None = scope.get("relay.identity")
        if operation.scopes is not None:
            if identity is None:
                # The front has already checked; this guards against a gap there.
                raise Unauthorized("a token is needed")
            _require(operation, identity, context)
            if identity.account is not None:
                context = context.within(identity.account)
        scope["relay.operation"] = operation.id
        given = scope["query_string"]
        query = params.read_query(given, operation.query) if given or operation.query else NO_MORE
        call = Call(context=context, dependencies=context.dependencies, request=request, identity=identity, query=query)
        plain_read = operation.method == "GET" and operation.audited is None
        if plain_read or operation.scopes is PUBLIC:  # strangers' bodies are not read
            return await _run(operation, call)
        with limits.HeldBytes(call.dependencies.admission.bodies, call.caller) as held:
            if scope["method"] == "POST" or operation.body is not None:
                call.body = await limits.read_body(request.headers, request.receive, operation.max_body_bytes, held)
            repeatable = operation.repeats is not None and idempotency.HEADER in request.headers
            key = idempotency.key_of(request.headers) if repeatable else None
            action = operation.audited(query) if callable(operation.audited) else operation.audited
            if action is not None and identity is not None:
                return await _audited(action, identity, operation, call, key)
            response = await _run(operation, call, key)
        if operation.counted is not None and identity is not None and response.status_code < 400:
            self._context.dependencies.audit.count(operation.counted, identity, call.count)
        return response


def _require(operation: Operation, identity: Identity, context: Context) -> None:
    """Raises Forbidden unless the caller has one of the operation's scopes, and is not bound if that needs it."""
    assert operation.scopes is not None
    try:
        identity.require(operation.scopes)
        if identity.account is not None and not operation.bound:
            identity.refuse_bound()
    except Forbidden:
        if operation.audited is not None:
            context.dependencies.audit.denied(
                operation.audited if isinstance(operation.audited, str) else operation.id, identity
            )
        raise


async def _audited(action: str, identity: Identity, operation: Operation, call: Call, key: str | None) -> Response:
    """Runs an administrative write between two entries of the audit. If the first cannot be written, nothing is done.
    A request that is cut off has no second entry."""
    audit, scope = call.dependencies.audit, call.request.scope
    target = next(iter(call.request.path_params.values()), None)
    request_id = request_id_of(scope, call.dependencies.clock)
    (begun,) = await audit.begin(audit.request(action, identity, target=target, request_id=request_id))

    async def end(status: int, target: str | None = target) -> None:
        await audit.end(begun, status=status, target=target, notes=call.notes)

    try:
        response = await _run(operation, call, key)
    except Exception as error:
        answered = store_problem(error) if isinstance(error, StoreError) else error
        await end(answered.status if isinstance(answered, RequestError) else 500)
        raise
    _, _, made = response.headers.get("location", "").rpartition("/")
    await end(response.status_code, target or made or None)
    return response


async def _run(operation: Operation, call: Call, key: str | None = None) -> Response:
    """Runs the operation: with an Idempotency-Key once."""
    if key is not None and operation.repeats is not None:
        described = _DESCRIBES if operation.media_types else ()
        return await idempotency.once(call, key, operation.repeats, lambda: _run(operation, call), described)
    if call.body:
        if not operation.media_types:
            limits.check_media_type(call.request.headers)
        call.document = None if operation.reads_body else limits.parse_json(call.body)
    elif operation.body_optional:
        call.document = {}
    elif operation.body is not None and not operation.media_types:
        call.document = limits.parse_json(b"")
    if operation.body is Nothing:
        validate(Nothing, call.document)
    return await operation.handler(call)


def routes_of(context: Context, operations: Sequence[Operation]) -> list[Route]:
    """One route per path, in the given order."""
    by_path: dict[str, list[Operation]] = {}
    for operation in operations:
        by_path.setdefault(operation.path, []).append(operation)
    return [Route(path, Resource(context, of_path), methods=None) for path, of_path in by_path.items()]


def json_response(value: Any, status_code: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response."""
    return Response(dumps(value), status_code=status_code, headers=headers, media_type="application/json")


def page_response(
    request: Request, items: Iterable[object], next_cursor: str | None, more: Mapping[str, object] = NO_MORE
) -> Response:
    """One page of a list: its items as JSON values. `more`: further members."""
    headers = {} if next_cursor is None else {"Link": params.next_link(request, next_cursor)}
    return json_response({"items": list(items), **more, "next_cursor": next_cursor}, headers=headers)
