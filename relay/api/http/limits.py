"""Limits on requests: body size, nesting, and what open requests hold, in total and for each caller."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from relay.core.jsontext import (
    Element,
    JSONDecodeError,
    Unbalanced,
    array_pieces,
    cut_elements,
    has_more_containers,
    loads,
)
from relay.errors import Busy, InvalidRequest, TooLarge
from relay.limiter import Computations, Limiter
from relay.tasks import TURN_SECONDS, Turns

UNREAD_BODY_BYTES = 64 << 10
"""Maximum body of an unknown caller that is still read after the answer. With a longer one the connection ends."""
MAX_BODY_BYTES = 1 << 20
MAX_BATCH_BODY_BYTES = 48 << 20
MAX_DEPTH = 64
MAX_CONTAINERS = 20_000
"""Objects and lists of a body, or of one entry of a batch. A parser needs milliseconds for these, and seconds for
those that fit into 48 MiB."""
MAX_ALL_CONTAINERS = 1_000_000
"""Objects and lists of a whole batch."""
MAX_SPOOLED_BYTES = 4 << 30

_DIGITS = frozenset("0123456789")


def is_long_body(headers: Headers) -> bool:
    """True if the body of a request may exceed UNREAD_BODY_BYTES."""
    declared = headers.get("content-length", "0")
    is_short = len(declared) < 18 and _DIGITS.issuperset(declared) and int(declared or 0) <= UNREAD_BODY_BYTES
    return not is_short or "transfer-encoding" in headers


async def read_body(headers: Headers, receive: Receive, max_bytes: int, held: "HeldBytes") -> bytes:
    """The whole body of a request. Raises TooLarge as soon as it exceeds `max_bytes`, and Busy if all requests, or
    those of this caller, hold too much already."""
    declared = headers.get("content-length", "")
    if declared and _DIGITS.issuperset(declared) and (len(declared) > 18 or int(declared) > max_bytes):
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        held.add(len(chunk))


def check_media_type(headers: Headers) -> None:
    """Raises InvalidRequest (415) unless the headers declare uncompressed `application/json` in UTF-8."""
    given = headers.get("content-type", "")
    if given != "application/json":
        media_type, _, parameters = given.partition(";")
        if media_type.strip().lower() != "application/json":
            shown = repr(media_type.strip()[:100]) if media_type.strip() else "nothing"
            raise unsupported(f"Content-Type says {shown}: send application/json")
        check_charset(parameters)
    if "content-encoding" in headers:
        check_encoding(headers)


def check_charset(parameters: str) -> None:
    """Raises InvalidRequest (415) if the parameters of a Content-Type name another charset than UTF-8."""
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in ("utf-8", "utf8"):
            raise unsupported("the body must be in UTF-8, but Content-Type names another charset")


def check_encoding(headers: Headers) -> None:
    """Raises InvalidRequest (415) for a compressed body."""
    encoding = ", ".join(headers.getlist("content-encoding")).strip().lower()
    if encoding not in ("identity", ""):
        raise unsupported(f"Content-Encoding {encoding[:100]!r} is not supported: send the body uncompressed")


def parse_json(body: bytes) -> Any:
    """The value of a JSON body. Raises InvalidRequest (400) if it is not JSON in UTF-8, has too many objects and lists,
    or is nested too deep. These are counted first: parsing them takes the time."""
    brackets = body.count(b"{") + body.count(b"[")  # also those in strings: it only decides whether to look closer
    if brackets > MAX_CONTAINERS and has_more_containers(body, MAX_CONTAINERS):
        raise _too_complex(MAX_CONTAINERS)
    try:
        value = loads(body)
    except JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}" if body else "it is empty"
        raise InvalidRequest(
            f"the body is not JSON in UTF-8: {error.msg} ({where})", code="not_json", status=400
        ) from None
    if brackets > MAX_DEPTH and deeper_than(value, MAX_DEPTH):
        raise _too_deep()
    return value


async def elements(
    body: bytes, start: int, end: int, *, depth: int | None = None, turns: Turns
) -> AsyncIterator[list[Any]]:
    """The elements of a JSON array, whose inside is from `start` to `end` of a body, some at a time; the error in place
    of one that is too large to be parsed. Raises InvalidRequest.

    depth  levels of the array below the body's top, which count for its elements; None: each has its own, and one that
           is nested too deep has an error in its place
    """
    try:
        for piece in array_pieces(body, start, end):
            if isinstance(piece, int):
                if piece > MAX_ALL_CONTAINERS:
                    raise _too_complex(MAX_ALL_CONTAINERS)
            elif piece.is_long and piece.end - piece.start > MAX_BODY_BYTES:
                detail = f"it is larger than {MAX_BODY_BYTES:,} bytes"
                yield [InvalidRequest(detail, code="too_large")]
            elif piece.is_long and piece.containers > MAX_CONTAINERS:
                yield [_too_complex(MAX_CONTAINERS)]
            else:
                values = (
                    _parse_apart(body, piece.start, piece.end)
                    if depth is None
                    else _parse_part(body, piece.start, piece.end, depth=depth)
                )
                if not values and (piece.start, piece.end) != (start, end):
                    raise _not_json("an entry is missing", body, piece.start)
                yield values
            if turns.over:
                await turns.next()
    except Unbalanced as error:
        raise _not_json(str(error), body, error.position) from None


def _parse_part(body: bytes, start: int, end: int, *, depth: int) -> list[Any]:
    """The elements of an array whose text is a part of a body, `depth` levels below its top. Raises InvalidRequest
    (400) as `parse_json`, but counts nothing."""
    part = b"[%b]" % body[start:end]
    try:
        values: list[Any] = loads(part)
    except JSONDecodeError as error:
        raise _not_json(error.msg, body, start + error.pos - 1) from None
    most = MAX_DEPTH + 1 - depth
    if part.count(b"{") + part.count(b"[") > most and deeper_than(values, most):
        raise _too_deep()
    return values


def _parse_apart(body: bytes, start: int, end: int) -> list[Any]:
    """The same, with the error in place of each element that is nested too deep."""
    part = body[start:end]
    is_deep = part.count(b"{") + part.count(b"[") > MAX_DEPTH  # perhaps: brackets in strings count here too
    try:
        values: list[Any] = loads(b"[%b]" % part)
    except JSONDecodeError as error:
        if not is_deep:
            raise _not_json(error.msg, body, start + error.pos - 1) from None
        return [_parsed(body, start, element) for element in cut_elements(part)]
    return [_too_deep() if deeper_than(value, MAX_DEPTH) else value for value in values] if is_deep else values


def _parsed(body: bytes, start: int, element: Element) -> Any:
    """One element. Too many levels are also more than a parser takes."""
    if element.levels > MAX_DEPTH:
        return _too_deep()
    try:
        return loads(body[start + element.start : start + element.end])
    except JSONDecodeError as error:
        raise _not_json(error.msg, body, start + element.start + error.pos) from None


def _not_json(why: str, body: bytes, position: int) -> InvalidRequest:
    """The error for a body that is not JSON from `position` on."""
    line = body.count(b"\n", 0, position) + 1
    column = position - body.rfind(b"\n", 0, position)
    detail = f"the body is not JSON in UTF-8: {why} (line {line}, column {column})"
    return InvalidRequest(detail, code="not_json", status=400)


def _too_complex(most: int) -> InvalidRequest:
    """The error for a body with more than `most` objects and lists."""
    detail = f"it has more than {most:,} objects and lists: send less at once"
    return InvalidRequest(detail, code="too_complex", status=400)


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"the body is nested deeper than {MAX_DEPTH} levels", code="too_deep", status=400)


def deeper_than(value: Any, max_depth: int) -> bool:
    """True if a JSON value is nested deeper than `max_depth`, so that a document around it may be too deep to write."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(max_depth):
        level = [
            child
            for container in level
            for child in (container.values() if type(container) is dict else container)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return False
    return True


class HeldBytes:
    """The bytes of one request's body, counted as they arrive."""

    __slots__ = ("_caller", "_count", "_limiter")

    def __init__(self, limiter: Limiter, caller: str) -> None:
        self._limiter = limiter
        self._caller = caller
        self._count = 0

    def add(self, count: int) -> None:
        """Counts more bytes. Raises Busy if they are too many."""
        limit = self._limiter.reached(self._caller, count)
        if limit is not None:
            whose = "of this token " if limit == self._limiter.limit_of_owner else ""
            held = f"the requests {whose}in progress hold {limit:,} bytes already"
            detail = f"{held}. Nothing was done or sent: try again later"
            raise Busy(detail, headers={"Retry-After": "5", "Connection": "close"})
        self._limiter.take(self._caller, count)
        self._count += count

    def __enter__(self) -> "HeldBytes":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """The body is no longer in memory."""
        if self._count:
            self._limiter.release(self._caller, self._count)
            self._count = 0


class Admission:
    """Limits the bytes that the open requests of a node hold, in all and for each caller. It outlives a reload of
    the settings, as they do."""

    def __init__(self) -> None:
        streams = "too_many_streams"
        self.streams = Limiter("event streams", 1_000, 100, code=streams)
        self.waits = Limiter("waiting requests", 10_000, 5_000, code=streams)
        self.pulls = Limiter("pulls", 5_000, 2_000)
        self.pulls_of_one = Limiter("pulls of the subscription", 5_000, 64)
        """By caller and subscription: each may hold an answer of 8 MiB."""
        self.tests = Limiter("tests of subscriptions", 64, 8)
        """Test events being sent. They take no slot of the dispatcher, so nothing else limits them."""
        self.previews = Limiter("previews", 16, 4, at_once=1)
        """Each reads the newest events."""
        self.exports = Limiter("downloads", 16, 4)
        """Lists being downloaded as CSV. Each reads up to 10,000 items."""
        self.filtering = Computations(TURN_SECONDS)
        """The filters of lists and streams."""
        self.batches = Limiter("batches", 32, 8)
        """Batches being tracked. One of small jobs takes many times its bytes in memory."""
        self.publishing = asyncio.Semaphore(2)
        """Held by large batches of published events. Others wait: they are as large again once they are read."""
        self.erasures = Limiter("erasures", 4, 2)
        self.verifications = Limiter("verifications of the audit", 1, 1)
        self.bodies = Limiter("bytes", 256 << 20, 128 << 20)
        """Bytes of request bodies in memory."""
        self.spooled = Limiter("bytes", MAX_SPOOLED_BYTES, 2 << 30)
        """Bytes of creates on disk, until they have been sent."""


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the body is larger than {max_bytes:,} bytes: send less at once", headers={"Connection": "close"})


def unsupported(detail: str) -> InvalidRequest:
    """The error for a body of another kind."""
    error = InvalidRequest(detail, code="unsupported_media_type", status=415)
    error.title = "Unsupported media type"
    return error
