"""One HTTP/1.1 exchange: a request written on a connection of aiohttp's pool, and the answer that its parser reads.

The status line says what came of the request, whatever follows it: a head that aiohttp's parser refuses is read once
more, leniently, and its connection is not used again. Text leaves here as text that JSON and the databases can hold.

aiohttp's session takes three quarters of what a small POST costs it, for cookies, redirects, proxies, authentication
and a task that writes the body: we have none of these. What is hard is aiohttp's here too: the pool, name look-up, TLS
and the parser (docs/performance.md has the figures).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError, RawResponseMessage
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.streams import EMPTY_PAYLOAD
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from relay.core.answer_head import LONGEST_END, AnswerHead, ends_in, read_answer_head
from relay.core.text import storable
from relay.http.deadlines import Deadline, Deadlines

MAX_HEADER_BYTES = 8190
MAX_HEADERS = 128
MAX_HEAD_BYTES = 64 * 1024
"""Of a head that aiohttp's parser has refused: a longer one counts by its status line, and its body is not read."""
MAX_KEPT_BYTES = 4 * 1024 * 1024
"""Of a head and the answers (1xx) before it: more than all the headers that the parser takes. Else a sink that sends
those without an end would fill the memory."""
BUFFER_BYTES = 64 * 1024
"""Of an answer that came and is not read yet; twice as much may be there."""

# RFC 9110 section 9.2.2. They may be sent again where the connection broke off before an answer; others never.
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_OFTEN_EMPTY = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})  # these say nothing of a body that they have not

Header = tuple[str, str]


class Garbled(Exception):
    """What came is no HTTP: it has no status line that can be read."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where requests to one URL go. `place` tells aiohttp's pool which connections are of use."""

    url: URL
    target: str
    host: str
    place: aiohttp.ClientRequest = field(repr=False)

    @classmethod
    def to(cls, url: URL) -> "Route":
        """Inside a running loop. Raises ValueError where the URL has no host."""
        place = aiohttp.ClientRequest("GET", url)
        return cls(url, url.raw_path_qs, place.headers["Host"], place)

    def at(self, url: URL) -> "Route":
        """To another URL of the same scheme, host and port."""
        return replace(self, url=url, target=url.raw_path_qs)


class Answer:
    """An answer whose head has come. `close` in any case."""

    __slots__ = ("_connection", "content", "headers", "status")

    def __init__(
        self, status: int, headers: CIMultiDictProxy[str], content: aiohttp.StreamReader, connection: Connection
    ) -> None:
        self.status = status
        self.headers = headers
        self.content = content
        self._connection = connection

    def left(self) -> bytes:
        """What came of a body and was not read before it broke off: aiohttp gives only the error from then on."""
        nothing: Any = None
        self.content.set_exception(nothing)  # there is no other way to ask for it
        return self.content.read_nowait()

    def close(self) -> None:
        """Gives the connection back where both sides have said all, else ends it."""
        transport = self._connection.transport
        if self.content.at_eof() and transport is not None and not transport.get_write_buffer_size():
            self._connection.release()  # which ends it where the other side wants that
        else:
            _end(self._connection)


class Exchanges:
    """The exchanges over one pool of connections. `decompress`: whether bodies come as they were before they were
    compressed."""

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
            ceil_threshold=float("inf"),  # aiohttp would round deadlines up to whole seconds
        )
        self._deadlines = lru_cache(maxsize=1024)(Deadlines)

    @property
    def closed(self) -> bool:
        """Whether it takes no requests any more."""
        return self._connector.closed

    async def close(self) -> None:
        """Ends all connections."""
        await self._connector.close()

    def within(self, seconds: float) -> Deadline:
        """`with` this, an exchange that takes longer ends with TimeoutError."""
        return self._deadlines(seconds).begin()

    async def begin(
        self,
        route: Route,
        method: str,
        headers: Iterable[Header],
        body: bytes,
        connected: Callable[[Connection], None] = lambda connection: None,
    ) -> Answer:
        """Sends a request and waits for the head of its answer, however long that takes.

        headers    without Host and Content-Length, which are added
        connected  called when there is a connection, new or pooled, before the request is written on it; its protocol
                   tells, by `head_so_far`, what came of an answer that was not there in time

        Raises ValueError where a header can not be sent, Garbled, aiohttp's ClientError or an OSError. A request of a
        method that may be repeated is, once, where the connection breaks off before an answer.
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
        while len(connection.protocol or ()):  # somebody answered what nobody asked: it is no answer to this
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
    """Head and body of the answer; what comes before it is passed over."""
    message, content = await protocol.read()
    while not _is_final(message.code):
        message, content = await protocol.read()
    return message, content


def head_so_far(protocol: ResponseHandler | None) -> AnswerHead | None:
    """The head that has begun to come on a connection; None where none has, or where it was read to its end."""
    parser: Any = None if protocol is None else protocol._parser
    return parser.head() if isinstance(parser, _HeadParser) else None


class _HeadParser:
    """Stands before aiohttp's parser until that has read a head, and keeps what came: of a head that it refuses, or
    that came with something it refuses, it tells nothing."""

    __slots__ = ("_came", "_ended", "_left_bytes", "_options", "_protocol", "_refused", "_strict")

    def __init__(self, protocol: ResponseHandler, options: Mapping[str, Any]) -> None:
        """For the next answer on a connection; `options` are those of aiohttp's parser."""
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
        """Whether all that came with the head is: looking for that in each header would cost a hundred times as
        much."""
        return all(map(bytes.isascii, self._came))

    def head(self) -> AnswerHead | None:
        """What has come of a head, leniently read."""
        return read_answer_head(b"".join(self._came))

    def feed_data(self, data: bytes) -> tuple[Any, bool, bytes]:
        """As aiohttp's. Raises what its parser raised where there is no status line."""
        if self._ended:
            return (), False, b""
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            self._came.clear()
            raise BadHttpMessage("there is no end of the head")
        self._came.append(data)
        if self._refused is None:
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
            return (), False, b""  # before it is read again: byte by byte that would be as much work as its square
        head = self.head()
        if head is None:
            raise self._refused
        if head.complete or MAX_KEPT_BYTES - self._left_bytes > MAX_HEAD_BYTES:
            self._ended = True
            return [(_message(head), self._body(head))], False, b""
        return (), False, b""

    def feed_eof(self) -> None:
        """As aiohttp's: what came of a head is all there will be."""
        head = None if self._ended else self.head()
        if head is not None:
            self._protocol.feed_data((_message(head), EMPTY_PAYLOAD))

    def pause_reading(self) -> None:
        """As aiohttp's."""
        if self._refused is None:
            self._strict.pause_reading()

    def _body(self, head: AnswerHead) -> aiohttp.StreamReader:
        """The body behind a head that was refused; of a head that leaves its end open only what came with it."""
        body: aiohttp.StreamReader
        rest = b"".join(self._came)[head.size_bytes :]
        if head.framing is None or not head.complete:
            body = aiohttp.StreamReader(self._protocol, BUFFER_BYTES, loop=self._protocol._loop)
            body.feed_data(rest[:BUFFER_BYTES])
            body.feed_eof()
            return body
        self._protocol.set_response_params(**self._options)  # a parser that has refused something reads no more
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


def _message(head: AnswerHead) -> RawResponseMessage:
    """The connection is to be closed: what comes on it next can not be told from this answer's rest."""
    headers = CIMultiDictProxy(CIMultiDict(head.headers))
    return RawResponseMessage(aiohttp.HttpVersion11, head.status, "", headers, (), True, None, False, False)


def _storable(headers: CIMultiDictProxy[str]) -> CIMultiDictProxy[str]:
    """The parser refuses NUL, and keeps what is no UTF-8 as surrogate escapes."""
    return CIMultiDictProxy(CIMultiDict((storable(name), storable(value)) for name, value in headers.items()))


def _end(connection: Connection) -> None:
    """Closes it; what was not sent yet is not: the other side may never take it. (TLS tells of nothing unsent.)"""
    transport = connection.transport
    if transport is not None and transport.get_write_buffer_size():
        transport.abort()
    connection.close()


def _head(route: Route, method: str, headers: Iterable[Header], size_bytes: int) -> bytes:
    """A request's head. Raises ValueError where a header would be more than one line."""
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
