"""Passes callers' own requests on to an upstream: each exactly once, streamed both ways, and nothing changed."""

import zlib
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from relay.clock import Clock
from relay.core.forwarding import Header, header_text, headers_to_return
from relay.errors import NoAnswer, NotSent
from relay.sources.client import NODE_HEADER

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 300.0
"""How long an upstream may say nothing while we wait for it, and between two parts of an answer."""
# Under the 5 s after which many servers close an idle connection: what crosses that close may or may not have arrived.
KEEP_ALIVE_SECONDS = 4.0
MAX_ANSWER_BYTES = 1 << 20
"""Of an answer that we have to understand; a longer one is passed on and not understood."""
MAX_CONNECTIONS = 8_192
MAX_HEADER_BYTES = 64 * 1024
MAX_KEPT_URLS = 1_000
MAX_KEPT_URL_CHARACTERS = 500
"""To take a URL apart costs as much as to send it, and programs that poll come again with the same."""
MAX_STATUS = 599

_OURS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")  # aiohttp would make them up


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamRequest:
    """One request as it goes on. `target` is path and query as they came, `headers` those that are passed on."""

    method: str
    target: str
    headers: Sequence[Header] = field(repr=False)
    body: bytes | AsyncIterable[bytes] | None = None


class UpstreamResponse:
    """An answer whose head has come. Its body comes once: what `read` leaves is for `body`. `close` in any case."""

    def __init__(self, response: aiohttp.ClientResponse, sent_at: float) -> None:
        self.status = response.status
        self.headers = headers_to_return(response.raw_headers, response.status)
        self.sent_at = sent_at
        self._response = response
        # One for all readers: an iterator that is left before its end is closed by its collection, and the answer too.
        self._parts = self._coming()

    def from_memory(self) -> bytes | None:
        """The whole body where all of it came with the head; None where more is to come. Not to be asked twice."""
        content = self._response.content
        return content.read_nowait() if content.is_eof() and content.exception() is None else None

    def body(self) -> AsyncIterator[bytes]:
        """The body in the parts that come. Raises NoAnswer when it breaks off."""
        return self._parts

    async def _coming(self) -> AsyncIterator[bytes]:
        try:
            try:
                async for part in self._response.content.iter_any():
                    yield part
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                if left := self._left_behind():
                    yield left
                raise NoAnswer(_cause(error, "the answer broke off")) from error
        except BaseException:
            self._response.close()
            raise

    def _left_behind(self) -> bytes:
        """What came before the answer broke off and was not read yet: aiohttp gives only the error from then on."""
        content = self._response.content
        content.set_exception(None)  # type: ignore[arg-type]  # there is no other way to ask for it
        return content.read_nowait()

    async def read(self, max_bytes: int) -> tuple[bytes, bool]:
        """As much of the body as is there, and whether that is all of it: the rest is for `body`."""
        parts: list[bytes] = []
        size = 0
        async for part in self._parts:
            parts.append(part)
            size += len(part)
            if size > max_bytes:
                return b"".join(parts), False
        return b"".join(parts), True

    def close(self) -> None:
        """Gives the connection back where the answer was read to its end, else ends it."""
        self._response.close()


class UpstreamTransport:
    """The connections to one upstream for what callers send. Closing it ends them; used again, it opens new ones."""

    def __init__(self, root: str, *, clock: Clock, node_id: str) -> None:
        """`root`: scheme, address and port that paths are added to. `node_id` goes out in NODE_HEADER."""
        self._root = root
        self._clock = clock
        self._node = (NODE_HEADER.lower(), node_id)  # as callers' own are written: aiohttp would put it in their place
        self._session: aiohttp.ClientSession | None = None
        self._kept_url = lru_cache(MAX_KEPT_URLS)(self._url)

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """Sends once. Raises NotSent where nothing went out, NoAnswer where nobody knows what became of it.

        A GET, HEAD, OPTIONS, PUT or DELETE without a streamed body goes out a second time where the kept connection
        that it was sent on was just being closed (RFC 9110 section 9.2.2). A POST or PATCH never does.
        """
        session = self._open()
        try:
            headers = CIMultiDict([header_text(header) for header in request.headers])
        except ValueError as error:
            raise NotSent(str(error)) from None
        headers.add(*self._node)
        url_of = self._kept_url if len(request.target) <= MAX_KEPT_URL_CHARACTERS else self._url
        sent_at = self._clock()
        try:
            response = await session.request(
                request.method,
                url_of(request.target),
                headers=headers,
                data=request.body if isinstance(request.body, bytes | None) else _Once(request.body),
                allow_redirects=False,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL, ValueError) as error:
            raise NotSent(_cause(error, "no connection")) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise NoAnswer(_cause(error, "no answer")) from error
        if not 200 <= response.status <= MAX_STATUS:
            response.close()
            raise NoAnswer(f"no answer: {response.status} is no status of one")
        return UpstreamResponse(response, sent_at)

    async def close(self) -> None:
        """Ends all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _url(self, target: str) -> URL:
        return URL(self._root + target, encoded=True)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=KEEP_ALIVE_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=_OURS,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS),
                trust_env=False,
                auto_decompress=False,
                max_line_size=MAX_HEADER_BYTES,
                max_field_size=MAX_HEADER_BYTES,
            )
        return self._session


class _Once(AsyncIterable[bytes]):
    """A streamed body: a library that wants to send it again finds nothing, and fails."""

    def __init__(self, body: AsyncIterable[bytes]) -> None:
        self._body: AsyncIterable[bytes] | None = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        body, self._body = self._body, None
        if body is None:
            raise NoAnswer("the connection broke off, and the body is gone")
        async for part in body:
            yield part


def plain(body: bytes, headers: Sequence[Header], max_bytes: int) -> bytes | None:
    """A body without its content coding; None where it can not be read, or is larger than `max_bytes`."""
    codings = [
        value.decode("latin-1").strip().lower() for name, value in headers if name.lower() == b"content-encoding"
    ]
    coding = ",".join(codings)
    if coding in ("", "identity"):
        return body if len(body) <= max_bytes else None
    if coding not in ("gzip", "x-gzip", "deflate"):
        return None
    for window_bits in (zlib.MAX_WBITS | 32, -zlib.MAX_WBITS):  # deflate comes with and without zlib's head
        reader = zlib.decompressobj(window_bits)
        try:
            made = reader.decompress(body, max_bytes + 1)
        except zlib.error:
            continue
        return made if len(made) <= max_bytes and reader.eof else None
    return None


def _cause(error: Exception, what: str) -> str:
    """A line about it. aiohttp's own messages can hold the URL, and with it what a caller wrote there."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"{what}: none could be opened within {CONNECT_SECONDS:g} s"
    if isinstance(error, TimeoutError):
        return f"{what}: nothing came for {SILENCE_SECONDS:g} s"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"{what}: {error.os_error.strerror or type(error.os_error).__name__}"
    cause = error.strerror if isinstance(error, OSError) else None
    return f"{what}: {cause or type(error).__name__}"
