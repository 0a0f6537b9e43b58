"""What stand-ins share: one endpoint of a service, an API of many paths, and strict reading of documents."""

import math
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.core.deliveries import delivery
from relay.redaction import split_url

READ_BYTES = 64 * 1024
"""Of an answer, as the relay reads it."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message as people read it: its sentence, the labelled fields below it, and the small print."""

    title: str
    fields: tuple[tuple[str, str], ...] = ()
    footer: str = ""


class Sent(NamedTuple):
    """A request. Names of headers are in lower case."""

    method: str
    query: str
    headers: Mapping[str, str]
    body: bytes


class Answer(NamedTuple):
    """The answer to a request."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def json(cls, status: int, document: Any, headers: tuple[tuple[str, str], ...] = ()) -> "Answer":
        """An answer with a JSON document."""
        return cls(status, orjson.dumps(document), (("Content-Type", "application/json"), *headers))


@dataclass(kw_only=True)
class Fault:
    """An answer in place of a service's own. `status` 0: the connection breaks. `works`: the call is carried out
    first."""

    status: int = 0
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    works: bool = False

    @property
    def answer(self) -> Answer:
        """The answer."""
        return Answer(self.status, self.body, tuple(self.headers.items()))


class Api:
    """An API of many paths. `broken`: what the relay makes of no answer."""

    broken = delivery.Response(started_at=0.0, duration_ms=1.0, error="read", detail="the connection broke")

    def answer(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """The answer to a request. Status 0: none."""
        raise NotImplementedError

    async def receive(self, request: Request) -> Response:
        """Takes a call: an endpoint of Starlette for every path."""
        path = request.scope.get("raw_path", request.url.path.encode()).decode("ascii")
        url = f"{request.url.scheme}://{request.url.netloc}{path}?{request.url.query}".removesuffix("?")
        answer = self.answer(request.method, url, dict(request.headers), await request.body())
        return Response(answer.body, answer.status or 500, dict(answer.headers))

    def app(self) -> Starlette:
        """The API over HTTP."""
        methods = ["GET", "POST", "PATCH", "PUT", "DELETE"]
        return Starlette(routes=[Route("/{path:path}", self.receive, methods=methods)])

    def take(self, request: delivery.OutboundRequest) -> delivery.Response:
        """The response to a request with its credential, as the relay gets it."""
        return self.response_of(self.answer(request.method, request.url, dict(request.headers), request.body))

    async def send(self, request: delivery.OutboundRequest, *, timeout_seconds: float) -> delivery.Response:
        """The API as a transport."""
        assert timeout_seconds > 0
        return self.take(request)

    @classmethod
    def response_of(cls, answer: Answer) -> delivery.Response:
        """An answer as the relay gets it."""
        if not answer.status:
            return cls.broken
        return delivery.Response(
            started_at=0.0,
            duration_ms=1.0,
            status_code=answer.status,
            headers=answer.headers,
            excerpt=answer.body[:READ_BYTES],
        )


class Limit(NamedTuple):
    """At most so many requests in so many seconds."""

    requests: int
    seconds: float


class Wrong(Exception):
    """What is wrong with a document, and where (a JSON pointer)."""

    def __init__(self, pointer: str, why: str) -> None:
        super().__init__(f"{pointer or '/'}: {why}")
        self.pointer, self.why = pointer, why


class Vendor(NamedTuple):
    """A service.

    accept   the answer to a request, and its document if it was accepted
    limited  the answer to a request above the limit; it names the pause in seconds
    read     a document as people read it
    mentions who a document mentions
    """

    name: str
    accept: Callable[[Sent], tuple[Answer, Any]]
    limit: Limit
    limited: Callable[[float], Answer]
    read: Callable[[Any], Message]
    mentions: Callable[[Any], list[str]]


@dataclass(slots=True)
class Endpoint:
    """One URL of a service, and the requests that it got, in order of arrival.

    faults  answers to the next requests, whatever these are
    """

    vendor: Vendor
    clock: Callable[[], float] = time.monotonic
    documents: list[Any] = field(default_factory=list)
    refused: list[Answer] = field(default_factory=list)
    faults: deque[Answer] = field(default_factory=deque)
    _times: deque[float] = field(default_factory=deque, init=False, repr=False)

    @property
    def messages(self) -> list[Message]:
        """What was accepted, as people read it."""
        return [self.vendor.read(document) for document in self.documents]

    @property
    def mentioned(self) -> list[str]:
        """Everybody who was mentioned."""
        return [one for document in self.documents for one in self.vendor.mentions(document)]

    def answer(self, sent: Sent) -> Answer:
        """Takes a request."""
        answer, document = self._judge(sent)
        if 200 <= answer.status < 300:
            self.documents.append(document)
        else:
            self.refused.append(answer)
        return answer

    async def receive(self, request: Request) -> Response:
        """Takes a request: an endpoint of Starlette."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        sent = Sent(request.method, request.url.query, headers, await request.body())
        answer = self.answer(sent)
        return Response(answer.body, status_code=answer.status, headers=dict(answer.headers))

    def _judge(self, sent: Sent) -> tuple[Answer, Any]:
        if self.faults:
            return self.faults.popleft(), None
        now, limit = self.clock(), self.vendor.limit
        while self._times and self._times[0] <= now - limit.seconds:
            self._times.popleft()
        if len(self._times) >= limit.requests:
            return self.vendor.limited(self._times[0] + limit.seconds - now), None
        self._times.append(now)
        return (Answer(405), None) if sent.method != "POST" else self.vendor.accept(sent)


_LINK = re.compile(r"\[((?:\\.|[^\]\\])*)\]\(([^)]*)\)")
_BOLD = re.compile(r"(?<!\\)\*\*")
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")


def plain(markdown: str, link: str = r"\1 (\2)") -> str:
    """What a Markdown field shows. `link`: what becomes of a link."""
    return _ESCAPED.sub(r"\1", _BOLD.sub("", _LINK.sub(link, markdown))).replace("\u2060", "")


# Strict reading of documents ----------------------------------------------------------------------------------------


def seconds(pause: float) -> str:
    """A pause as a Retry-After header."""
    return str(max(1, math.ceil(pause)))


def is_json(sent: Sent) -> bool:
    """True if the request says that its body is JSON in UTF-8."""
    type, _, parameter = sent.headers.get("content-type", "").partition(";")
    charset = parameter.strip().lower().replace('"', "")
    return type.strip().lower() == "application/json" and charset in ("", "charset=utf-8")


def members(value: Any, at: str, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Any]:
    """An object with these members and no others."""
    if not isinstance(value, dict):
        raise Wrong(at, "an object is expected")
    for name in required:
        if name not in value:
            raise Wrong(f"{at}/{name}", "it is missing")
    for name in value:
        if name not in required and name not in optional:
            raise Wrong(f"{at}/{name}", "no such field")
    return value


def text(value: Any, at: str, most: int, least: int = 1) -> str:
    """A text of `least` to `most` UTF-16 code units."""
    if not isinstance(value, str):
        raise Wrong(at, "a text is expected")
    if not least <= len(value.encode("utf-16-le", "surrogatepass")) // 2 <= most:
        raise Wrong(at, f"must be between {least} and {most} in length")
    return value


def items(value: Any, at: str, most: int, least: int = 1) -> list[tuple[Any, str]]:
    """The items of an array, and where each is."""
    if not isinstance(value, list):
        raise Wrong(at, "an array is expected")
    if not least <= len(value) <= most:
        raise Wrong(at, f"must have between {least} and {most} items")
    return [(item, f"{at}/{index}") for index, item in enumerate(value)]


def one_of(value: Any, at: str, allowed: Sequence[Any]) -> Any:
    """One of these values."""
    if not any(value is one or (isinstance(one, str) and value == one) for one in allowed):
        raise Wrong(at, f"must be one of {', '.join(map(str, allowed))}")
    return value


def url(value: Any, at: str, most: int = 2048) -> str:
    """An absolute http(s) URL without spaces."""
    found = text(value, at, most)
    parts = split_url(found)
    if parts is None or parts.scheme not in ("http", "https") or not found.isascii() or " " in found:
        raise Wrong(at, "not a well formed URL")
    return found
