"""HTTP/1.1 as bytes on real sockets: a client that sends given bytes, an upstream that reports what it received."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

import orjson

PATIENCE_SECONDS = 60.0
MAX_HEAD_BYTES = 1 << 20
PART_BYTES = 64 * 1024

Header = tuple[bytes, bytes]


@dataclass(slots=True, kw_only=True)
class Head:
    """The first line and the headers as they came; names in lower case. `size_bytes` is what they took on the wire."""

    line: bytes
    headers: Sequence[Header]

    @property
    def words(self) -> tuple[bytes, bytes, bytes]:
        """The three words of the first line; the last of an answer's may be empty."""
        first, _, rest = self.line.partition(b" ")
        second, _, third = rest.partition(b" ")
        return first, second, third

    def all(self, name: str) -> list[bytes]:
        """The values of a header, in order."""
        return [value for one, value in self.headers if one == name.encode()]

    def one(self, name: str) -> bytes | None:
        """The value of a header that is there once; None where it is not there."""
        values = self.all(name)
        assert len(values) <= 1, (name, values)
        return values[0] if values else None

    @property
    def length(self) -> int | None:
        """`Content-Length`."""
        value = self.one("content-length")
        return None if value is None else int(value)

    @property
    def chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return self.one("transfer-encoding") == b"chunked"


@dataclass(slots=True, kw_only=True)
class Answer(Head):
    """An answer. `complete`: the body came to its end as the head had promised. `interim` are the 1xx before it."""

    body: bytes = field(repr=False)
    complete: bool
    interim: tuple[int, ...] = ()

    @property
    def status(self) -> int:
        return int(self.words[1])

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def code(self) -> str:
        """The code of an error in the upstream's shape."""
        document = self.json
        assert document.keys() == {"ok", "error"}, document
        assert document["ok"] is False
        assert document["error"].keys() == {"code", "message", "request_id"}, document
        return str(document["error"]["code"])


async def read_head(reader: asyncio.StreamReader) -> Head:
    """The next head. Raises IncompleteReadError where the other side has closed."""
    text = await reader.readuntil(b"\r\n\r\n")
    line, *lines = text[:-4].split(b"\r\n")
    pairs = [each.partition(b":") for each in lines]
    return Head(line=line, headers=[(name.lower(), value.strip(b" \t")) for name, _, value in pairs])


async def body_parts(reader: asyncio.StreamReader, head: Head, *, until_closed: bool = False) -> AsyncIterator[bytes]:
    """The body in the parts that come. Raises IncompleteReadError where it breaks off."""
    if head.chunked:
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            yield await reader.readexactly(size)
            assert await reader.readexactly(2) == b"\r\n"
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass  # trailers
    elif head.length is not None or not until_closed:
        left = head.length or 0
        while left:
            part = await reader.read(min(left, PART_BYTES))
            if not part:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(part)
            yield part
    else:
        while part := await reader.read(PART_BYTES):
            yield part


def request(
    method: str,
    target: str | bytes,
    headers: Iterable[tuple[str, str | bytes]] = (),
    body: bytes | None = None,
    *,
    chunks: Sequence[bytes] | None = None,
) -> bytes:
    """A request's bytes. `body` brings its length, `chunks` come as they are; a `Host` of this machine is added."""
    lines = [b"%s %s HTTP/1.1" % (method.encode(), _bytes(target)), b"Host: 127.0.0.1"]
    lines += [b"%s: %s" % (name.encode(), _bytes(value)) for name, value in headers]
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    if chunks is not None:
        lines.append(b"Transfer-Encoding: chunked")
        body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks if chunk) + b"0\r\n\r\n"
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


def answer(status: int = 200, headers: Iterable[tuple[str, str | bytes]] = (), body: bytes | None = b"") -> bytes:
    """An answer's bytes; a `body` brings its length. A `Connection: close` is for the caller to add."""
    lines = [b"HTTP/1.1 %d Said" % status, *(b"%s: %s" % (name.encode(), _bytes(value)) for name, value in headers)]
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


class Client:
    """One connection to a server; opened again where the server has closed it after an answer."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        assert address.hostname
        assert address.port
        self._address = address.hostname, address.port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.leave()

    async def connect(self) -> None:
        """Opens a connection, unless one is open."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address, limit=MAX_HEAD_BYTES)

    async def leave(self) -> None:
        """Closes it, whatever is under way."""
        streams, self._streams = self._streams, None
        if streams is not None:
            await closed(streams[1])

    async def vanish(self) -> None:
        """Resets it, as the system does for a program that has ended with something unread."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await self.leave()

    @property
    def reader(self) -> asyncio.StreamReader:
        assert self._streams is not None
        return self._streams[0]

    @property
    def writer(self) -> asyncio.StreamWriter:
        assert self._streams is not None
        return self._streams[1]

    async def exchange(self, raw: bytes) -> Answer:
        """Sends a request and reads its answer."""
        await self.connect()
        self.writer.write(raw)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.writer.drain()
            return await self.answer(raw.partition(b" ")[0])

    async def head(self) -> Head:
        """The next head."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await read_head(self.reader)

    async def answer(self, method: bytes = b"GET") -> Answer:
        """The answer to what was sent; 1xx are passed over."""
        interim: list[int] = []
        async with asyncio.timeout(PATIENCE_SECONDS):
            head = await read_head(self.reader)
            while int(head.words[1]) < 200:
                interim.append(int(head.words[1]))
                head = await read_head(self.reader)
            body = bytearray()
            complete = True
            if method != b"HEAD" and int(head.words[1]) not in (204, 304):
                try:
                    async for part in body_parts(self.reader, head, until_closed=True):
                        body += part
                except (asyncio.IncompleteReadError, ConnectionError):
                    complete = False
        if not complete or head.one("connection") == b"close" or head.line.startswith(b"HTTP/1.0"):
            await self.leave()
        return Answer(
            line=head.line,
            headers=head.headers,
            body=bytes(body),
            complete=complete,
            interim=tuple(interim),
        )


async def closed(writer: asyncio.StreamWriter) -> None:
    """Closes a connection at once, with what was not sent yet."""
    writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@dataclass(slots=True, kw_only=True)
class Received(Head):
    """A request that the upstream got. `body` is what came of it so far; `ended` once all of it has come."""

    connection: int
    body: bytearray = field(default_factory=bytearray, repr=False)
    ended: bool = False

    @property
    def method(self) -> str:
        return self.words[0].decode()

    @property
    def target(self) -> bytes:
        return self.words[1]


@dataclass(slots=True, kw_only=True)
class Call:
    """One request at the upstream, and the connection to answer it on."""

    request: Received
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def body(self) -> bytes:
        """Reads the request to its end."""
        if not self.request.ended:
            async for part in body_parts(self.reader, self.request):
                self.request.body += part
            self.request.ended = True
        return bytes(self.request.body)

    async def send(self, raw: bytes) -> None:
        """Sends as much of an answer."""
        self.writer.write(raw)
        await self.writer.drain()

    async def left(self) -> None:
        """Waits until the other side has closed the connection."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(PART_BYTES):
                pass

    def cut(self) -> None:
        """Closes the connection after what was sent."""
        self.writer.close()


Handler = Callable[[Call], Awaitable[None]]


async def say_ok(call: Call) -> None:
    """The answer to what a test is not about."""
    await call.body()
    await call.send(answer(200, [("Content-Type", "application/json")], b'{"ok":true}'))


@dataclass(kw_only=True)
class Stub:
    """An upstream on a raw socket. `handler` answers each request; a connection is kept until one of both closes it."""

    handler: Handler = say_ok
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    url: str = ""
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection."""
        self.connections += 1
        number = self.connections
        self._writers.add(writer)
        try:
            while not writer.is_closing():
                head = await read_head(reader)
                got = Received(line=head.line, headers=head.headers, connection=number)
                self.received.append(got)
                self.changed()
                await self.handler(Call(request=got, reader=reader, writer=writer))
                self.changed()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the other side has closed, or the test is over
        finally:
            self._writers.discard(writer)
            await closed(writer)
            self.changed()

    def changed(self) -> None:
        """Something has happened that a test may wait for."""
        self._changed.set()

    async def until(self, true: Callable[[], bool]) -> None:
        """Waits for something that shows here."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not true():
                self._changed.clear()
                await self._changed.wait()

    def of(self, target: str) -> list[Received]:
        """The requests for this target."""
        return [each for each in self.received if each.target == target.encode()]


@contextlib.asynccontextmanager
async def open_stub(
    handler: Handler = say_ok, *, port: int = 0, listener: socket.socket | None = None
) -> AsyncIterator[Stub]:
    """An upstream that serves, on a free port by default."""
    stub = Stub(handler=handler)
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        await stub.connected(reader, writer)
        tasks.discard(task)

    server = await asyncio.start_server(connected, sock=listener or listening(port), limit=MAX_HEAD_BYTES)
    stub.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield stub
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def listening(port: int = 0, *, buffer_bytes: int | None = None) -> socket.socket:
    """A listening socket of this machine that does without Nagle's algorithm. `buffer_bytes`: what it takes unread."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if buffer_bytes is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    listener.bind(("127.0.0.1", port))
    listener.listen(100)
    return listener
