"""Calls the API's own operations in this process, as the visitor of a page.

Scopes, account limits, checks and the audit are those of the API.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import orjson
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Scope

from relay.api.http.auth import Identity
from relay.api.http.problems import http_problem
from relay.core.jsontext import dumps
from relay.errors import FieldError, NotFound, RequestError, Unavailable

PAGE_LIMIT = 50
"""Items per request in `pages`. An item may have 64 KiB: larger requests would delay all other work."""

READS_AT_ONCE = 5
"""Maximum concurrent reads by all pages of a node: half of PostgreSQL's default read connections. If pages took all of
them, API calls would wait until they are refused. Further reads wait."""
WAIT_SECONDS = 10.0
"""Maximum wait for a read. Without it, a database that hangs would delay every page for minutes."""

Query = Mapping[str, object]

if TYPE_CHECKING:  # gather has a type for each number of reads
    together = asyncio.gather
else:

    async def together(*reads: Awaitable[object]) -> Sequence[object]:
        """The results of several reads made concurrently. Raises the error of the first that fails, but only after all
        have ended: no read may go on after its page was answered and the next page has begun."""
        found = await asyncio.gather(*reads, return_exceptions=True)
        for one in found:
            if isinstance(one, BaseException):
                raise one
        return found


class ApiClient:
    """The API as one caller sees it."""

    def __init__(self, api: ASGIApp, scope: Scope, identity: Identity, reads: asyncio.Semaphore) -> None:
        """`api` serves the API's operations; `scope` belongs to the request for the page; `reads` limits the reads of
        all pages of the node to READS_AT_ONCE."""
        self._api = api
        self._scope = scope
        self._identity = identity
        self._reads = reads

    async def get(self, path: str, *segments: str, query: Query | None = None, also: int = 200) -> Any:
        """The answer to a GET, as a JSON value. `segments` fill the `{}` of the path; parameters that are None or empty
        are left out. `also`: a further status accepted as an answer. Raises RequestError as the API does, StoreError,
        and Unavailable after waiting WAIT_SECONDS for the reads of other pages."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._reads.acquire()
        except TimeoutError:
            detail = "the database answers too slowly for all the pages that are open: try again later"
            raise Unavailable(detail, headers={"Retry-After": "10"}) from None
        try:
            return await self._call("GET", path, segments, query, None, also)
        finally:
            self._reads.release()

    async def allowed(self, path: str, *segments: str, query: Query | None = None) -> Any:
        """The answer to a GET; None if the caller may not read it, it does not exist, or several have its id. Raises
        RequestError for all other errors, and StoreError."""
        try:
            return await self.get(path, *segments, query=query)
        except RequestError as error:
            if error.status in (403, 404, 409):
                return None
            raise

    async def post(
        self, path: str, *segments: str, query: Query | None = None, body: object = None, key: str | None = None
    ) -> Any:
        """The answer to a POST. `key`: its Idempotency-Key, so that a form sent twice acts once."""
        return await self._call("POST", path, segments, query, body, key=key)

    async def put(self, path: str, *segments: str, query: Query | None = None, body: object = None) -> Any:
        """The answer to a PUT."""
        return await self._call("PUT", path, segments, query, body)

    async def delete(self, path: str, *segments: str, query: Query | None = None) -> Any:
        """The answer to a DELETE."""
        return await self._call("DELETE", path, segments, query, None)

    async def pages(
        self, path: str, *segments: str, query: Query | None = None, cursor: str | None = None, at_most: int
    ) -> AsyncIterator[Mapping[str, Any]]:
        """The API's pages of a list from a cursor on, `at_most` items in all. With a filter, `at_most` limits the items
        read, however few match. The last page has a `next_cursor` if there are more."""
        left = at_most
        while left > 0:
            asked = {**(query or {}), "limit": min(PAGE_LIMIT, left), "cursor": cursor}
            page = await self.get(path, *segments, query=asked)
            yield page
            left -= PAGE_LIMIT
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    async def _call(
        self,
        method: str,
        path: str,
        segments: Sequence[str],
        query: Query | None,
        body: object,
        also: int = 200,
        key: str | None = None,
    ) -> Any:
        sent = b"" if body is None else dumps(body)
        headers = [(b"accept", b"application/json")]
        if key is not None:
            headers.append((b"idempotency-key", key.encode()))
        if body is not None:
            headers += [(b"content-type", b"application/json"), (b"content-length", str(len(sent)).encode())]
        target = filled(path, segments)
        scope = {
            "type": "http",
            "asgi": self._scope["asgi"],
            "http_version": "1.1",
            "scheme": self._scope["scheme"],
            "server": self._scope.get("server"),
            "client": self._scope.get("client"),
            "method": method,
            "path": target,
            "raw_path": target.encode("utf-8", "surrogateescape"),
            "root_path": "",
            "query_string": urlencode(shown(query)).encode(),
            "headers": headers,
            "app": self._scope.get("app", self),
            "relay.identity": self._identity,
            "relay.request_id": self._scope.get("relay.request_id"),
        }
        answer = _Answer()

        async def receive() -> Message:
            return {"type": "http.request", "body": sent, "more_body": False}

        try:
            await self._api(scope, receive, answer.take)
        except HTTPException as error:  # the front, which answers it otherwise, is not asked here
            await http_problem(error)(scope, receive, answer.take)
        return answer.value(also)


class _Answer:
    """Collects a response."""

    def __init__(self) -> None:
        self._status = 0
        self._body = bytearray()

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        else:
            self._body += message.get("body", b"")

    def value(self, also: int) -> Any:
        document = orjson.loads(self._body) if self._body else None
        if self._status < 400 or self._status == also:
            return document
        raise _refusal(self._status, document if isinstance(document, dict) else {})


def _refusal(status: int, problem: Mapping[str, Any]) -> RequestError:
    errors = [
        FieldError(pointer=one["pointer"], code=one["code"], detail=one["detail"]) for one in problem.get("errors", ())
    ]
    title = problem.get("title") or HTTPStatus(status).phrase
    error = RequestError(problem.get("detail") or title, code=problem.get("code"), status=status, errors=errors)
    error.title = title
    return error


def shown(query: Query | None) -> dict[str, object]:
    """The parameters that have a value."""
    return {name: value for name, value in (query or {}).items() if value is not None and value != ""}


def filled(path: str, segments: Sequence[str]) -> str:
    """The path with its segments. Raises NotFound for one that would name another path."""
    for segment in segments:
        if not segment or "/" in segment or "\0" in segment or segment in (".", ".."):
            raise NotFound("there is nothing of this id")
    return path.format(*segments)
