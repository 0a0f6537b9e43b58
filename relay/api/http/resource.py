"""One path of the API as an ASGI app: finds the operation, checks the request, sends the response."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from relay.api.http import idempotency, limits, params
from relay.api.http.auth import Identity
from relay.api.http.fields import Nothing
from relay.api.http.operations import PUBLIC, Call, Context, Operation
from relay.api.http.problems import request_id_of, store_problem
from relay.api.http.validation import validate
from relay.core.jsontext import dumps
from relay.errors import Forbidden, RequestError, StoreError, Unauthorized

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
        call = Call(context=context, request=request, identity=identity, query=query)
        plain_read = operation.method == "GET" and operation.audited is None
        if plain_read or operation.scopes is PUBLIC:  # strangers' bodies are not read
            return await _run(operation, call)
        is_post, held = scope["method"] == "POST", limits.HeldBytes(call.ports.admission.bodies, call.caller)
        try:
            if is_post or operation.body is not None:
                call.body = await limits.read_body(request.headers, request.receive, operation.max_body_bytes, held)
            repeatable = operation.repeats is not None and idempotency.HEADER in request.headers
            key = idempotency.key_of(request.headers) if repeatable else None
            action = operation.audited(query) if callable(operation.audited) else operation.audited
            if action is not None and identity is not None:
                return await _audited(action, identity, operation, call, key)
            response = await _perform(operation, call, key)
        finally:
            held.release()
        if operation.counted is not None and identity is not None and response.status_code < 400:
            self._context.ports.audit.count(operation.counted, identity, call.count)
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
            context.ports.audit.denied(
                operation.audited if isinstance(operation.audited, str) else operation.id, identity
            )
        raise


async def _audited(action: str, identity: Identity, operation: Operation, call: Call, key: str | None) -> Response:
    """Runs an administrative write between two entries of the audit. If the first cannot be written, nothing is done.
    A request that is cut off has no second entry."""
    audit, scope = call.ports.audit, call.request.scope
    target = next(iter(call.request.path_params.values()), None)
    request_id = request_id_of(scope, call.ports.clock)
    (begun,) = await audit.begin(audit.request(action, identity, target=target, request_id=request_id))

    async def end(status: int, target: str | None = target) -> None:
        await audit.end(begun, status=status, target=target, notes=call.notes)

    try:
        response = await _perform(operation, call, key)
    except RequestError as error:
        await end(error.status)
        raise
    except StoreError as error:
        await end(store_problem(error).status)
        raise
    except Exception:
        await end(500)
        raise
    _, _, made = response.headers.get("location", "").rpartition("/")
    await end(response.status_code, target or made or None)
    return response


async def _perform(operation: Operation, call: Call, key: str | None) -> Response:
    if key is None or operation.repeats is None:
        return await _run(operation, call)
    described = _DESCRIBES if operation.media_types else ()
    return await idempotency.once(call, key, operation.repeats, lambda: _run(operation, call), described)


async def _run(operation: Operation, call: Call) -> Response:
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
