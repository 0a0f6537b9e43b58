"""HTTP/1.1 exchanges over aiohttp's connection pool: writes a request, reads the response with aiohttp's parser.

The status line decides, whatever follows it: a head that aiohttp's parser rejects is read again leniently, and its
connection is closed. All text returned can be stored as JSON and in the databases.

Bypasses aiohttp's ClientSession, which accounts for three quarters of the cost of a small POST with features that are
not used here (cookies, redirects, proxies, authentication, a task that writes the body). Figures:
docs/design/performance.md.

Private parts of aiohttp: `TCPConnector.connect` with a `ClientRequest`, `ResponseHandler` and its `_parser`, and the
messages that its parser returns. tests/unit/http/test_exchange.py breaks if they change, so pyproject.toml pins one
minor version.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError, RawResponseMessage
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.streams import EMPTY_PAYLOAD
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from relay.core.deliveries.response_head import LONGEST_END, ResponseHead, ends_in, read_response_head
from relay.core.jsontext import storable

MIN_TIMER_SECONDS = 0.001
"""Minimum time between two timers: uvloop counts in milliseconds, and fires shorter ones at once."""


class Deadlines:
    """All timeouts of one length, within one event loop, with one timer for them.

    Behaves like `asyncio.timeout`, which sets a timer for each request: 12 us more CPU per request sent (95 %: 9 to
    19), 4.8 % of the CPU of a durable delivery on SQLite. Medians of 40 paired turns on a busy two-core machine.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.open: dict[Deadline, None] = {}
        """Running timeouts, the next one first."""
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, deadline: "Deadline") -> float:
        """Starts a timeout. Returns when it expires, by the loop's clock."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._seconds
        self.open[deadline] = None
        if self._timer is None:
            self._timer = loop.call_at(ends_at, self._expire)
        return ends_at

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        expired = list(itertools.takewhile(lambda deadline: deadline.ends_at <= now, self.open))
        for deadline in expired:
            del self.open[deadline]
        following = next(iter(self.open), None)
        self._timer = None
        if following is not None:
            self._timer = loop.call_at(max(following.ends_at, now + MIN_TIMER_SECONDS), self._expire)
        for deadline in expired:
            deadline.cancel()


class Deadline:
    """Cancels the code inside it when the time expires, and turns that into TimeoutError, as `asyncio.timeout` does.

    If the task is cancelled from outside as well, CancelledError is raised. Other errors are not changed.
    """

    __slots__ = ("_all", "_cancelling", "_expired", "_task", "ends_at")

    def __init__(self, deadlines: Deadlines) -> None:
        self._all = deadlines
        self._expired = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline needs a running task")
        self._task = task
        self._cancelling = task.cancelling()
        self.ends_at = self._all.enter(self)
        return self

    def cancel(self) -> None:
        """Called when the time has expired."""
        self._expired = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._expired:
            self._all.open.pop(self, None)
        elif self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error


MAX_HEADER_BYTES = 8190
MAX_HEADERS = 128
MAX_HEAD_BYTES = 64 * 1024
"""Maximum length of a head that aiohttp's parser has rejected. Of a longer one only the status counts."""
MAX_KEPT_BYTES = 256 * 1024
"""Maximum length of a head and the 1xx responses before it. Of a longer one only the status counts, if it came already.
Each delivery in flight can hold this much: 64 MiB in all with `delivery.concurrency` 256."""
BUFFER_BYTES = 64 * 1024
"""Read buffer of a response; up to twice as much may be buffered."""

# RFC 9110 section 9.2.2: sent again if the connection closes before a response. Other methods never are.
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_OFTEN_EMPTY = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})  # no Content-Length without a body

Header = tuple[str, str]


class Garbled(Exception):
    """The response is not HTTP: it has no readable status line."""


@dataclass(frozen=True, slots=True)
class Route:
    """The destination of requests to one URL. `place` is the key of its connections in aiohttp's pool, `target` what
    the request line names."""

    url: URL
    target: str
    host: str
    place: aiohttp.ClientRequest = field(repr=False)

    @classmethod
    def to(cls, url: URL) -> "Route":
        """Needs a running event loop. Raises ValueError if the URL has no host."""
        place = aiohttp.ClientRequest("GET", url)
        return cls(url, url.raw_path_qs, place.headers["Host"], place)

    def at(self, target: str) -> "Route":
        """The route to another target at the same host and port."""
        return Route(self.url, target, self.host, self.place)


class Answer:
    """A response whose head has been read. Always `close` it."""

    __slots__ = ("_connection", "content", "headers", "status")

    def __init__(
        self, status: int, headers: CIMultiDictProxy[str], content: aiohttp.StreamReader, connection: Connection
    ) -> None:
        self.status = status
        self.headers = headers
        self.content = content
        self._connection = connection

    def left(self) -> bytes:
        """The buffered rest of a body that broke off. aiohttp itself returns only the error from then on."""
        nothing: Any = None
        self.content.set_exception(nothing)  # the only way to get at the buffer
        return self.content.read_nowait()

    def close(self) -> None:
        """Returns the connection to the pool if request and response are complete, else closes it."""
        transport = self._connection.transport
        if self.content.at_eof() and transport is not None and not transport.get_write_buffer_size():
            self._connection.release()  # closes it if the response says so
        else:
            _end(self._connection)


class Exchanges:
    """Exchanges over one connection pool. `decompress`: decompress response bodies."""

    def __init__(
        self, connector: aiohttp.TCPConnector, *, connect_timeout_seconds: float, decompress: bool = False
    ) -> None:
        self._connector = connector
        self._parsing = {
            "read_until_eof": True,
            "read_bufsize": BUFFER_BYTES,
            "auto_decompress": decompress,
            "max_line_size": MAX_HEADER_BYTES,
            "max_field_size": MAX_HEADER_BYTES,
            "max_headers": MAX_HEADERS,
        }
        self._limits = aiohttp.ClientTimeout(
            sock_connect=connect_timeout_seconds,
            ceil_threshold=float("inf"),  # otherwise aiohttp rounds timeouts up to whole seconds
        )
        self._deadlines = lru_cache(maxsize=1024)(Deadlines)

    @property
    def closed(self) -> bool:
        """True once no more requests are accepted."""
        return self._connector.closed

    async def close(self) -> None:
        """Closes all connections."""
        await self._connector.close()

    def within(self, seconds: float) -> Deadline:
        """A context manager: an exchange inside it that takes longer raises TimeoutError."""
        return Deadline(self._deadlines(seconds))

    async def begin(
        self,
        route: Route,
        method: str,
        headers: Iterable[Header],
        body: bytes,
        connected: Callable[[Connection], None] = lambda connection: None,
    ) -> Answer:
        """Sends a request and waits, without a timeout, for the head of the response.

        headers    without Host and Content-Length, which are added
        connected  called with the connection, new or pooled, before the request is written; after a failure
                   `head_so_far` of its protocol returns what was received

        Raises ValueError for a header that cannot be sent, Garbled, aiohttp's ClientError or OSError. An idempotent
        request is sent once more if the connection closes before a response.
        """
        raw = _head(route, method, headers, len(body)) + body
        try:
            return await self._begin(route, method, raw, connected)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            if method not in _REPEATABLE or self.closed:
                raise
        return await self._begin(route, method, raw, connected)

    async def _begin(self, route: Route, method: str, raw: bytes, connected: Callable[[Connection], None]) -> Answer:
        connection = await self._connector.connect(route.place, traces=[], timeout=self._limits)
        while len(connection.protocol or ()):  # unrequested data: not the response to this request
            connection.close()
            connection = await self._connector.connect(route.place, traces=[], timeout=self._limits)
        try:
            connected(connection)
            protocol, transport = connection.protocol, connection.transport
            if protocol is None or transport is None:
                raise aiohttp.ServerDisconnectedError
            parser = _HeadParser(
                protocol, self._parsing if method != "HEAD" else {**self._parsing, "skip_payload": True}
            )
            transport.write(raw)
            message, content = await _answer(protocol)
            headers = message.headers if parser.is_ascii else _storable(message.headers)
            return Answer(message.code, headers, content, connection)
        except HttpProcessingError as error:
            _end(connection)
            raise Garbled(type(error).__name__) from error
        except BaseException:
            _end(connection)
            raise


async def _answer(protocol: ResponseHandler) -> tuple[RawResponseMessage, aiohttp.StreamReader]:
    """Head and body of the final response; 1xx responses are skipped. The kill tests stop here: a request was sent."""
    message, content = await protocol.read()
    while not _is_final(message.code):
        message, content = await protocol.read()
    return message, content


def head_so_far(protocol: ResponseHandler | None) -> ResponseHead | None:
    """The partial head received on a connection; None if there is none or it was read completely."""
    parser: Any = None if protocol is None else protocol._parser
    return parser.head() if isinstance(parser, _HeadParser) else None


class _HeadParser:
    """Wraps aiohttp's parser until a head has been read, and keeps the raw bytes: aiohttp discards a head that it
    rejects, or that arrives together with something it rejects."""

    __slots__ = ("_came", "_ended", "_left_bytes", "_options", "_protocol", "_refused", "_strict")

    def __init__(self, protocol: ResponseHandler, options: Mapping[str, Any]) -> None:
        """For the next response on a connection; `options` are those of aiohttp's parser."""
        protocol.set_response_params(**options)
        self._protocol = protocol
        self._options = options
        self._strict: Any = protocol._parser
        self._came: list[bytes] = []
        self._left_bytes = MAX_KEPT_BYTES
        self._refused: Exception | None = None
        self._ended = False
        instead: Any = self
        protocol._parser = instead

    @property
    def is_ascii(self) -> bool:
        """True if all bytes received with the head are ASCII. Checking each header would cost a hundred times more."""
        return all(map(bytes.isascii, self._came))

    def head(self) -> ResponseHead | None:
        """The head received so far, parsed leniently."""
        return read_response_head(b"".join(self._came))

    def feed_data(self, data: bytes) -> tuple[Any, bool, bytes]:
        """As aiohttp's. Raises the error of its parser if there is no status line."""
        if self._ended:
            return (), False, b""
        self._left_bytes -= len(data)
        self._came.append(data)
        if self._left_bytes < 0:
            self._refused = self._refused or BadHttpMessage("the head is too long")
        elif self._refused is None:
            try:
                parsed: tuple[Any, bool, bytes] = self._strict.feed_data(data)
            except Exception as error:
                self._refused = error
            else:
                for message, _ in parsed[0]:
                    if _is_final(message.code):
                        self._protocol._parser = self._strict
                return parsed
        elif MAX_KEPT_BYTES - self._left_bytes <= MAX_HEAD_BYTES and not ends_in(b"".join(self._came[-LONGEST_END:])):
            return (), False, b""  # parse again only at its end: after each byte would be quadratic
        head = self.head()
        if head is None:
            self._came.clear()
            raise self._refused
        if head.complete or MAX_KEPT_BYTES - self._left_bytes > MAX_HEAD_BYTES:
            self._ended = True
            return [(_message(head), self._body(head))], False, b""
        return (), False, b""

    def feed_eof(self) -> None:
        """As aiohttp's: no more data will come."""
        head = None if self._ended else self.head()
        if head is not None:
            self._protocol.feed_data((_message(head), EMPTY_PAYLOAD))

    def pause_reading(self) -> None:
        """As aiohttp's."""
        if self._refused is None:
            self._strict.pause_reading()

    def _body(self, head: ResponseHead) -> aiohttp.StreamReader:
        """The body behind a rejected head. Without clear framing it is only what arrived with the head."""
        body: aiohttp.StreamReader
        rest = b"".join(self._came)[head.size_bytes :]
        if head.framing is None or not head.complete:
            body = aiohttp.StreamReader(self._protocol, BUFFER_BYTES, loop=self._protocol._loop)
            body.feed_data(rest[:BUFFER_BYTES])
            body.feed_eof()
            return body
        self._protocol.set_response_params(**self._options)  # a parser that has raised reads no more
        strict: Any = self._protocol._parser
        plain = b"HTTP/1.1 %d -\r\n%bConnection: close\r\n\r\n" % (head.status, head.framing)
        ((_, body),) = strict.feed_data(plain)[0]
        try:
            strict.feed_data(rest)
        except Exception as error:
            if not body.is_eof():
                body.set_exception(aiohttp.ClientPayloadError("the body is malformed"), error)
        return body


def _is_final(status: int) -> bool:
    return status >= 200 or status == 101


def _message(head: ResponseHead) -> RawResponseMessage:
    """Marks the connection for closing: later data cannot be distinguished from the rest of this response."""
    headers = CIMultiDictProxy(CIMultiDict(head.headers))
    return RawResponseMessage(aiohttp.HttpVersion11, head.status, "", headers, (), True, None, False, False)


def _storable(headers: CIMultiDictProxy[str]) -> CIMultiDictProxy[str]:
    """Headers without surrogate escapes, which the parser makes of bytes that are not UTF-8. It rejects NUL itself."""
    return CIMultiDictProxy(CIMultiDict((storable(name), storable(value)) for name, value in headers.items()))


def _end(connection: Connection) -> None:
    """Closes a connection and drops unsent data, which the peer may never read. (TLS reports no unsent data.)"""
    transport = connection.transport
    if transport is not None and transport.get_write_buffer_size():
        transport.abort()
    connection.close()


def _head(route: Route, method: str, headers: Iterable[Header], size_bytes: int) -> bytes:
    """The head of a request. Raises ValueError if a header has a line break or NUL."""
    lines = [f"{method} {route.target} HTTP/1.1", f"Host: {route.host}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if size_bytes or method not in _OFTEN_EMPTY:
        lines.append(f"Content-Length: {size_bytes}")
    lines += ["", ""]
    text = "\r\n".join(lines)
    breaks = len(lines) - 1
    if text.count("\r") != breaks or text.count("\n") != breaks or "\0" in text:
        raise ValueError("a header holds a line break or a NUL")
    return text.encode()
