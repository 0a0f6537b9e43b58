"""HTTP transport for forwarded requests: unchanged, streamed both ways, and never sent twice where that matters."""

import math
import time
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from functools import lru_cache

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from relay.clock import Clock
from relay.core.access.forwarding import Header, headers_to_return
from relay.errors import NoAnswer, NotSent
from relay.sources.client import NODE_HEADER

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 300.0
"""Read timeout: before an answer begins and between two parts of it."""
# Many servers close idle connections after 5 s. A request that crosses the close may or may not have arrived.
KEEP_ALIVE_SECONDS = 4.0
MAX_ANSWER_BYTES = 1 << 20
"""Limit for answers the relay has to parse. A longer one is forwarded unparsed."""
MAX_CONNECTIONS = 8_192
MAX_HEADER_BYTES = 64 * 1024
MAX_KEPT_URLS = 1_000
MAX_KEPT_URL_CHARACTERS = 500
"""Parsing a URL costs as much as sending it, and polling programs repeat the same ones."""
MAX_STATUS = 599

_OURS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")  # otherwise added by aiohttp


_REPEATED_WRITES = frozenset({"PUT", "DELETE"})
"""Writes that aiohttp would repeat: they are idempotent for HTTP, but each may make a job."""


class UpstreamResponse:
    """An answer whose head has arrived. The body is read once: `body` continues after `read`. Always `close` it."""

    def __init__(self, response: aiohttp.ClientResponse, sent_at: float) -> None:
        self.status = response.status
        self.headers = headers_to_return(response.raw_headers, response.status)
        self.sent_at = sent_at
        self._response = response
        # Shared by `read` and `body`: collecting an unfinished iterator would close it, and the response with it.
        self._parts = self._stream()

    def from_memory(self) -> bytes | None:
        """The whole body if it arrived with the head, else None. Call once."""
        content = self._response.content
        return content.read_nowait() if content.is_eof() and content.exception() is None else None

    def body(self) -> AsyncIterator[bytes]:
        """The body in parts as they arrive. Raises NoAnswer if it breaks off."""
        return self._parts

    async def _stream(self) -> AsyncIterator[bytes]:
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
        """The unread bytes from before the answer broke off. aiohttp itself only reports the error."""
        content = self._response.content
        content.set_exception(None)  # type: ignore[arg-type]  # the only way to read on
        return content.read_nowait()

    async def read(self, max_bytes: int, *, seconds: float = math.inf) -> tuple[bytes, bool]:
        """Up to about `max_bytes` of the body, or what arrived in about `seconds`, and whether that is all. `body`
        yields the rest."""
        ends_at = time.monotonic() + seconds
        parts: list[bytes] = []
        size = 0
        async for part in self._parts:
            parts.append(part)
            size += len(part)
            if size > max_bytes or time.monotonic() > ends_at:
                return b"".join(parts), False
        return b"".join(parts), True

    def close(self) -> None:
        """Returns the connection to the pool after a complete read, else closes it."""
        self._response.close()


class UpstreamTransport:
    """Connections to one upstream for forwarded requests. Usable again after `close`."""

    def __init__(self, root: str, *, clock: Clock, node_id: str) -> None:
        """`root`: scheme, host and port. `node_id` is sent in NODE_HEADER."""
        self.root = root
        self._clock = clock
        # in lower case as the caller's headers, or aiohttp would replace those
        self._node = (NODE_HEADER.lower(), node_id)
        self._session: aiohttp.ClientSession | None = None
        self._kept_url = lru_cache(MAX_KEPT_URLS)(self._url)

    async def send(
        self,
        method: str,
        target: str,
        headers: Sequence[Header],
        body: bytes | AsyncIterable[bytes] | None = None,
        *,
        has_key: bool = False,
    ) -> UpstreamResponse:
        """Sends once. `target` is the unchanged path and query; with an API key in it (`has_key`) it is kept nowhere.
        Raises NotSent if nothing was sent, NoAnswer if the outcome is unknown.

        A GET, HEAD or OPTIONS without a streamed body is sent a second time if the pooled connection was being closed
        (RFC 9110 section 9.2.2). No other request is: it may be a create.
        """
        session = self._open()
        texts = CIMultiDict([(name.decode("ascii"), value.decode()) for name, value in headers])
        texts.add(*self._node)
        url_of = self._kept_url if len(target) <= MAX_KEPT_URL_CHARACTERS and not has_key else self._url
        sent_at = self._clock()
        try:
            response = await session.request(
                method,
                url_of(target),
                headers=texts,
                data=body if isinstance(body, bytes | None) else _Once(body),
                allow_redirects=False,
                middlewares=(_sent_once,) if method in _REPEATED_WRITES else None,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL, ValueError) as error:
            raise NotSent(_cause(error, "no connection")) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise NoAnswer(_cause(error, "no answer")) from error
        if not 200 <= response.status <= MAX_STATUS:
            response.close()
            raise NoAnswer(f"no answer: {response.status} is not a final status")
        return UpstreamResponse(response, sent_at)

    async def close(self) -> None:
        """Closes all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _url(self, target: str) -> URL:
        return URL(self.root + target, encoded=True)

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


async def _sent_once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Turns what aiohttp repeats a request after into an error that it does not know."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise NoAnswer(_cause(error, "no answer")) from error


class _Once(AsyncIterable[bytes]):
    """A streamed body that can be iterated once, so that no library can send it twice."""

    def __init__(self, body: AsyncIterable[bytes]) -> None:
        self._body: AsyncIterable[bytes] | None = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        body, self._body = self._body, None
        if body is None:
            raise NoAnswer("the connection broke off, and the body is gone")
        async for part in body:
            yield part


def plain(body: bytes, headers: Sequence[Header], max_bytes: int) -> bytes | None:
    """The decoded body; None if the coding is unknown or broken, or the result exceeds `max_bytes`."""
    codings = [
        value.decode("latin-1").strip().lower() for name, value in headers if name.lower() == b"content-encoding"
    ]
    coding = ",".join(codings)
    if coding in ("", "identity"):
        return body if len(body) <= max_bytes else None
    if coding not in ("gzip", "x-gzip", "deflate"):
        return None
    for window_bits in (zlib.MAX_WBITS | 32, -zlib.MAX_WBITS):  # deflate is sent with and without the zlib header
        reader = zlib.decompressobj(window_bits)
        try:
            made = reader.decompress(body, max_bytes + 1)
        except zlib.error:
            continue
        return made if len(made) <= max_bytes and reader.eof else None
    return None


def _cause(error: Exception, what: str) -> str:
    """A one-line cause. aiohttp's own messages can contain the URL, and so the caller's data."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"{what}: none could be opened within {CONNECT_SECONDS:g} s"
    if isinstance(error, TimeoutError):
        return f"{what}: nothing came for {SILENCE_SECONDS:g} s"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"{what}: {error.os_error.strerror or type(error.os_error).__name__}"
    cause = error.strerror if isinstance(error, OSError) else None
    return f"{what}: {cause or type(error).__name__}"
