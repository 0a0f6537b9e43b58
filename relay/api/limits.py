"""Limits on requests: body size, nesting, open streams."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from relay.core.jsontext import JSONDecodeError, loads
from relay.errors import InvalidRequest, TooLarge, TooMany

MAX_BODY_BYTES = 1 << 20
MAX_BATCH_BODY_BYTES = 48 << 20
MAX_DEPTH = 64
MAX_CONTAINERS = 1_000_000
MAX_STREAMS = 1_000
MAX_WAITS = 10_000

_DIGITS = frozenset("0123456789")


async def read_body(headers: Headers, receive: Receive, max_bytes: int) -> bytes:
    """The whole body of a request. Raises TooLarge as soon as it exceeds `max_bytes`."""
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


def check_media_type(headers: Headers) -> None:
    """Raises InvalidRequest (415) unless the headers declare uncompressed `application/json` in UTF-8."""
    given = headers.get("content-type", "")
    if given != "application/json":
        media_type, _, parameters = given.partition(";")
        if media_type.strip().lower() != "application/json":
            shown = repr(media_type.strip()[:100]) if media_type.strip() else "nothing"
            raise _unsupported(f"Content-Type says {shown}: send application/json")
        for parameter in parameters.split(";"):
            name, _, value = parameter.partition("=")
            if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in ("utf-8", "utf8"):
                raise _unsupported("the body must be in UTF-8, but Content-Type names another charset")
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", ""):
        raise _unsupported(f"Content-Encoding {encoding[:100]!r} is not supported: send the body uncompressed")


def parse_json(body: bytes) -> Any:
    """The value of a JSON body. Raises InvalidRequest (400) if it is not JSON in UTF-8, or is nested too deep."""
    try:
        value = loads(body)
    except JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}" if body else "it is empty"
        raise InvalidRequest(
            f"the body is not JSON in UTF-8: {error.msg} ({where})", code="not_json", status=400
        ) from None
    containers = body.count(b"{") + body.count(b"[")
    if containers > MAX_CONTAINERS:
        detail = f"the body has more than {MAX_CONTAINERS:,} objects and lists: send less at once"
        raise InvalidRequest(detail, code="too_complex", status=400)
    if containers > MAX_DEPTH and deeper_than(value, MAX_DEPTH):
        raise InvalidRequest(f"the body is nested deeper than {MAX_DEPTH} levels", code="too_deep", status=400)
    return value


def deeper_than(value: Any, max_depth: int) -> bool:
    """Whether a JSON value is nested deeper than `max_depth`, so that a document around it may be too deep to write."""
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


class ConcurrencyLimit:
    """A limit on how many requests of a kind may be open at once."""

    def __init__(self, what: str, limit: int) -> None:
        self._what = what
        self.limit = limit
        self.taken = 0

    def take(self) -> None:
        """Takes a slot. Raises TooMany if all are taken."""
        if self.taken >= self.limit:
            detail = f"{self.limit} {self._what} are open already: close some, or try again later"
            raise TooMany(detail, code="too_many_streams", headers={"Retry-After": "5"})
        self.taken += 1

    def release(self) -> None:
        """Gives a slot back."""
        self.taken -= 1

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds a slot while inside. Raises TooMany if all are taken."""
        self.take()
        try:
            yield
        finally:
            self.release()


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the body is larger than {max_bytes:,} bytes: send less at once", headers={"Connection": "close"})


def _unsupported(detail: str) -> InvalidRequest:
    error = InvalidRequest(detail, code="unsupported_media_type", status=415)
    error.title = "Unsupported media type"
    return error
