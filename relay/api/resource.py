"""One path of the API as an ASGI app: finds the operation, checks the request, sends the response."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from relay.api import idempotency, limits, params
from relay.api.auth import Identity
from relay.api.fields import Nothing
from relay.api.operations import Call, Context, Operation
from relay.api.validation import validate
from relay.core.jsontext import dumps
from relay.core.records import Page
from relay.errors import Unauthorized

Item = TypeVar("Item")


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
            identity.require(operation.scopes)
            if identity.account is not None:
                if not operation.bound:
                    identity.refuse_bound()
                context = context.within(identity.account)
        scope["relay.operation"] = operation.id
        query = params.read_query(scope["query_string"], operation.query)
        call = Call(context=context, request=request, identity=identity, query=query)
        is_post = scope["method"] == "POST"
        if not is_post and operation.body is None:
            return await _run(operation, call)
        held = limits.HeldBytes(call.ports.admission.bodies, call.caller)
        try:
            call.body = await limits.read_body(request.headers, request.receive, operation.max_body_bytes, held)
            key = idempotency.key_of(request.headers) if is_post else None
            if key is None:
                return await _run(operation, call)
            return await idempotency.once(call, key, lambda: _run(operation, call))
        finally:
            held.release()


async def _run(operation: Operation, call: Call) -> Response:
    if call.body:
        limits.check_media_type(call.request.headers)
        call.document = None if operation.reads_body else limits.parse_json(call.body)
    elif operation.body_optional:
        call.document = {}
    elif operation.body is not None:
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


def page_response(request: Request, page: Page[Item], view: Callable[[Item], object]) -> Response:
    """One page of a list. `view` makes the JSON value of an item."""
    headers = {} if page.next_cursor is None else {"Link": params.next_link(request, page.next_cursor)}
    items = [view(item) for item in page.items]
    return json_response({"items": items, "next_cursor": page.next_cursor}, headers=headers)
