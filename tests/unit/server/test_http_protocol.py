"""Limits of the HTTP server, on real sockets: one client can use only a bounded amount of anything."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import Mock

import pytest
from uvicorn.server import ServerState

from relay.server.http_server import CHUNK_BYTES, PIPELINED_BYTES, Limits, make_server
from tests.support.wire import Client, listening, request

SHORT = Limits(head_seconds=0.3, body_seconds=0.3, keep_alive_seconds=1)
ROOMY = Limits(head_seconds=60, body_seconds=60)
HEAD = 32 * 1024
MEBIBYTE = 1 << 20
LARGE = 16 * MEBIBYTE


@pytest.fixture(autouse=True)
async def _bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(60):
        yield


@dataclass(kw_only=True)
class App:
    """Answers with what it was asked, after `hold`; `asked` are the paths, `bodies` what came, `left` who went away."""

    asked: list[str] = field(default_factory=list)
    headers: list[list[tuple[bytes, bytes]]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    holding: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    more_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    url: str = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        self.asked.append(path)
        self.headers.append(scope["headers"])
        self.changed.set()
        body, more = b"", path != "/unread"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left.append(path)
                self.changed.set()
                return
            body += message["body"]
            more = message["more_body"]
        self.bodies.append(body)
        if path.startswith("/hold"):
            await self._hold(path, receive)
        if path in self.left:
            return
        if path == "/begun":
            head = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(path))]}
            await send(head)
            await self.holding.wait()
            await send({"type": "http.response.body", "body": path.encode()})
            return
        if path == "/endless":
            await self._pour(path, receive, send)
            return
        said = bytes(LARGE) if path == "/large" else path.encode()
        headers = [(b"content-length", b"%d" % len(said)), *self.more_headers]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": said})

    async def _pour(self, path: str, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        watch = asyncio.create_task(receive())
        while not watch.done():
            await send({"type": "http.response.body", "body": bytes(CHUNK_BYTES), "more_body": True})
            await asyncio.sleep(0)
        self.left.append(path)
        self.changed.set()

    async def _hold(self, path: str, receive: Any) -> None:
        async def leave() -> None:
            await receive()
            self.left.append(path)
            self.holding.set()
            self.changed.set()

        watch = asyncio.create_task(leave())
        await self.holding.wait()
        watch.cancel()

    async def until(self, true: Callable[[], bool]) -> None:
        while not true():
            self.changed.clear()
            await self.changed.wait()


@contextlib.asynccontextmanager
async def served(limits: Limits) -> AsyncIterator[App]:
    app = App()
    server = make_server(app, shutdown_seconds=1, limits=limits)
    with contextlib.closing(listening()) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        app.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield app
        app.holding.set()
        server.should_exit = True
        await serving


async def connect(app: App) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(app.url.rpartition(":")[2]))


async def said(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the server closes."""
    with contextlib.suppress(ConnectionError):
        return await reader.read()
    return b""


async def poured(writer: asyncio.StreamWriter, parts: Callable[[], bytes], at_most: int) -> int:
    """Sends until the server no longer takes it: how many bytes."""
    count = 0
    with contextlib.suppress(ConnectionError):
        while count < at_most:
            part = parts()
            writer.write(part)
            await writer.drain()
            count += len(part)
    return count


async def answers(app: App) -> None:
    """A fresh client gets its answer."""
    async with Client(app.url) as client:
        assert (await client.exchange(request("GET", "/fresh"))).body == b"/fresh"


def rss_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- sizes


@pytest.mark.parametrize("size", [HEAD - 1, HEAD])
@pytest.mark.parametrize("kept", [False, True])
async def test_head_of_32_kib_is_accepted(size: int, kept: bool) -> None:
    async with served(ROOMY) as app, Client(app.url) as client:
        if kept:
            await client.exchange(request("GET", "/first"))
        empty = len(request("GET", "/x", [("X-Long", "")]))
        for raw in (
            request("GET", "/x", [("X-Long", "v" * (size - empty))]),
            request("GET", "/x?" + "q" * (size - empty - 1), [("X-Long", "")]),
        ):
            assert len(raw) == size
            assert (await client.exchange(raw)).body == b"/x"


@pytest.mark.parametrize("kept", [False, True])
async def test_larger_head_is_refused_with_431(kept: bool) -> None:
    async with served(ROOMY) as app:
        for raw in (
            request("GET", "/x", [("X-Long", "v" * HEAD)]),
            request("GET", "/x?" + "q" * HEAD),
            request("GET", "/x", [(f"X-{number}", "v" * 100) for number in range(400)]),
            request("POST", "/x", [("X" * HEAD, "v")], b"{}"),
        ):
            async with Client(app.url) as client:
                if kept:
                    await client.exchange(request("GET", "/first"))
                got = await client.exchange(raw)
                assert (got.status, got.one("connection")) == (431, b"close")
        assert set(app.asked) <= {"/first"}
        await answers(app)


ENDLESS: dict[str, tuple[bytes, Callable[[], bytes]]] = {
    "header lines": (b"GET / HTTP/1.1\r\nHost: x\r\n", lambda: b"X-A: b\r\n" * 5_000),
    "one header value": (b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ", lambda: b"v" * 50_000),
    "one header name": (b"GET / HTTP/1.1\r\n", lambda: b"n" * 50_000),
    "the URL": (b"GET /", lambda: b"u" * 50_000),
    "empty lines": (b"", lambda: b"\r\n" * 25_000),
    "a chunk's extension": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;",
        lambda: b"e" * 50_000,
    ),
    "trailers": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        lambda: b"X-T: t\r\n" * 5_000,
    ),
    "one trailer": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-T: ",
        lambda: b"t" * 50_000,
    ),
    "an app that does not read": (
        b"POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n",
        lambda: b"b" * 50_000,
    ),
}


@pytest.mark.verify
@pytest.mark.parametrize("name", ENDLESS)
async def test_endless_input_is_cut_off_in_bounded_memory(name: str) -> None:
    begin, more = ENDLESS[name]
    limits = Limits(head_seconds=0.3, body_seconds=60) if "does not read" in name else ROOMY
    async with served(limits) as app:
        await answers(app)
        before = rss_bytes()
        streams = [await connect(app) for _ in range(5)]
        for _, writer in streams:
            writer.write(begin)
        if "does not read" not in name:
            sent = await asyncio.gather(*(poured(writer, more, 40 * MEBIBYTE) for _, writer in streams))
            assert max(sent) < 40 * MEBIBYTE
        else:
            for reader, _ in streams:
                await reader.readuntil(b"/unread")
            await asyncio.gather(*(poured(writer, more, 1 << 40) for _, writer in streams))
        assert rss_bytes() - before < 30 * MEBIBYTE
        for _, writer in streams:
            writer.close()
        await answers(app)


async def test_client_that_writes_its_whole_request_first_sees_an_answer_that_ends_the_connection() -> None:
    async with served(ROOMY) as app:
        app.more_headers = [(b"connection", b"close")]
        reader, writer = await connect(app)
        writer.write(b"POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n" + b"b" * 500_000)
        assert (await said(reader)).endswith(b"/unread")
        writer.close()


async def test_trailers_never_become_headers() -> None:
    async with served(ROOMY) as app, Client(app.url) as client:
        raw = request("POST", "/x", chunks=[b"ok"]).removesuffix(b"\r\n") + b"Authorization: Bearer x\r\n\r\n"
        assert (await client.exchange(raw)).body == b"/x"
        assert app.bodies == [b"ok"]
        assert [name for name, _ in app.headers[0]] == [b"host", b"transfer-encoding"]


@pytest.mark.parametrize("size", [1, 7, 64, 1_000])
async def test_trailers_reach_neither_their_request_nor_the_next_one(size: int) -> None:
    trailers = b"Authorization: Bearer x\r\nX-Long: " + b"y" * 100 + b"\r\n\r\n"
    chunked = request("POST", "/one", chunks=[b"ok"]).removesuffix(b"\r\n") + trailers
    upgraded = request("POST", "/two", [("Connection", "Upgrade"), ("Upgrade", "h2c")], chunks=[b"ok"])
    raw = chunked + upgraded.removesuffix(b"\r\n") + trailers + request("GET", "/three") + chunked
    async with served(ROOMY) as app, Client(app.url) as client:
        for at in range(0, len(raw), size):
            client.writer.write(raw[at : at + size])
            await client.writer.drain()
        assert [(await client.answer()).body for _ in range(4)] == [b"/one", b"/two", b"/three", b"/one"]
    names = {name for headers in app.headers for name, _ in headers}
    assert names <= {b"host", b"transfer-encoding", b"connection"}
    assert app.bodies == [b"ok", b"ok", b"", b"ok"]


async def test_large_body_arrives_whole_in_any_framing() -> None:
    body = os.urandom(3 * MEBIBYTE)
    async with served(ROOMY) as app, Client(app.url) as client:
        for raw in (
            request("POST", "/x", [], body),
            request("POST", "/x", [], chunks=[body[at : at + 70_000] for at in range(0, len(body), 70_000)]),
            request("POST", "/x", [], chunks=[bytes([each]) for each in body[:20_000]]),
        ):
            assert (await client.exchange(raw)).body == b"/x"
        assert [len(each) for each in app.bodies] == [len(body), len(body), 20_000]
        assert app.bodies[0] == app.bodies[1] == body


# --- times


@pytest.mark.parametrize(
    "begun", [b"", b"\r\n", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n", b"POST / HTTP/1.1\r\nA"]
)
async def test_missing_head_ends_the_connection(begun: bytes) -> None:
    async with served(SHORT) as app:
        reader, writer = await connect(app)
        writer.write(begun)
        got = await said(reader)
        assert got.startswith(b"HTTP/1.1 408 ") if begun else got == b""
        assert app.asked == []
        writer.close()


async def test_dripping_head_has_the_same_time_limit() -> None:
    async with served(SHORT) as app:
        reader, writer = await connect(app)
        writer.write(b"GET / HTTP/1.1\r\nX-Slow: ")
        dripping = asyncio.create_task(_drip(writer))
        assert (await said(reader)).startswith(b"HTTP/1.1 408 ")
        dripping.cancel()
        writer.close()
        assert app.asked == []


async def _drip(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"s")
        await asyncio.sleep(0.02)


async def test_stopped_body_is_408_and_disconnects_the_app() -> None:
    async with served(SHORT) as app:
        for framing in (b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"):
            reader, writer = await connect(app)
            writer.write(b"POST /x HTTP/1.1\r\nHost: x\r\n" + framing)
            assert (await said(reader)).startswith(b"HTTP/1.1 408 ")
            writer.close()
        await app.until(lambda: app.left == ["/x", "/x"])


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 1000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n"]
)
async def test_dripping_body_is_cut_off(framing: bytes) -> None:
    async with served(SHORT) as app:
        reader, writer = await connect(app)
        writer.write(b"POST /x HTTP/1.1\r\nHost: x\r\n" + framing)
        dripping = asyncio.create_task(_drip(writer))
        assert (await said(reader)).startswith(b"HTTP/1.1 408 ")
        dripping.cancel()
        writer.close()
        await app.until(lambda: app.left == ["/x"])


class Bare:
    """A connection without a socket or a clock, over a transport with so many unsent bytes."""

    def __init__(self, limits: Limits) -> None:
        config = make_server(App(), shutdown_seconds=1, limits=limits).config
        config.load()
        self.now, self.unsent = 0.0, 0
        self.loop = Mock(time=lambda: self.now, create_task=lambda work: work.close() or Mock())
        self.protocol: Any = config.http_protocol_class(  # type: ignore[call-arg]
            config=config, server_state=ServerState(), app_state={}, _loop=self.loop
        )
        self.protocol.connection_made(
            Mock(
                get_extra_info=lambda *_: None,
                get_write_buffer_size=lambda: self.unsent,
                is_closing=lambda: False,
            )
        )

    def comes(self, data: bytes) -> None:
        """The app reads it at once."""
        self.protocol.data_received(data)
        self.protocol.cycle.body.clear()
        self.protocol.flow.resume_reading()

    def is_overdue_after(self, seconds: float) -> bool:
        self.now += seconds
        return bool(self.protocol.is_overdue(self.now))


def test_rate_of_a_body_is_measured_again_after_each_period() -> None:
    bare = Bare(Limits(body_seconds=30, rate=4096))
    bare.comes(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n")
    for _ in range(10):
        assert not bare.is_overdue_after(29)
        bare.comes(bytes(30 * 4096))
    for _ in range(3):
        assert not bare.is_overdue_after(10)
        bare.comes(bytes(4096))
    assert bare.is_overdue_after(1)


def test_each_byte_of_a_body_counts_once_however_it_comes() -> None:
    with_head, alone = (Bare(Limits(body_seconds=30, rate=4096)) for _ in range(2))
    head, size = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n", 30 * 4096
    with_head.comes(head + bytes(size - 1))
    with_head.now += 29
    with_head.comes(bytes(1))
    assert not with_head.is_overdue_after(29)
    alone.comes(head)
    alone.comes(bytes(size - 1))
    assert alone.is_overdue_after(31)


def test_speed_of_a_reader_is_measured_on_when_an_answer_waits_for_it_again() -> None:
    """A transport stops the writer at 64 KiB, and lets it go on at 16 KiB."""

    def reads(seconds: float, *, pause: float, times: int) -> list[bool]:
        bare, overdue = Bare(Limits(body_seconds=30, rate=4096)), []
        bare.comes(request("GET", "/"))
        for _ in range(times):
            bare.unsent = 64 * 1024
            bare.protocol.pause_writing()
            bare.unsent = 16 * 1024
            overdue.append(bare.is_overdue_after(seconds))
            bare.protocol.resume_writing()
            bare.now += pause
        return overdue

    assert reads(29, pause=0, times=2) == [False, True]
    assert not any(reads(29 / 3, pause=100, times=20)), "4.9 KiB/s; time in which nothing waits does not count"
    assert any(reads(16, pause=100, times=2)), "3 KiB/s"


async def test_pipelined_requests_are_limited_in_total() -> None:
    async with served(Limits(unread=MEBIBYTE // 4)) as app:
        waiting = [await connect(app) for _ in range(30)]
        for _, writer in waiting:
            writer.write(request("GET", "/hold") + request("GET", "/next") * 4_000)
        ends = [asyncio.create_task(said(reader)) for reader, _ in waiting]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        await answers(app)
        assert "/next" not in app.asked
        for task in ends:
            task.cancel()
        for _, writer in waiting:
            writer.close()


def test_pipelined_requests_are_counted_with_what_they_are_parsed_to_and_until_they_are_answered() -> None:
    bare = Bare(Limits())
    connections = bare.protocol._connections
    bare.protocol.data_received(request("GET", "/a") + request("GET", "/b") * 1_000)
    assert connections._held_bytes > 100 * PIPELINED_BYTES
    while bare.protocol.pipeline or bare.protocol.pipelined:
        bare.protocol._answered.response_complete = True
        bare.protocol.on_response_complete()
    assert connections._held_bytes == 0


async def unread(app: App, path: str = "/large") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request whose answer is not read, over a small receive buffer."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", int(app.url.rpartition(":")[2])))
    reader, writer = await asyncio.open_connection(sock=client, limit=CHUNK_BYTES)
    writer.write(request("GET", path))
    return reader, writer


async def test_client_that_reads_too_slowly_is_cut_off() -> None:
    async with served(Limits(body_seconds=0.4, rate=32 * MEBIBYTE)) as app:
        reader, writer = await unread(app)
        count, began = 0, asyncio.get_running_loop().time()
        with contextlib.suppress(ConnectionError):
            while part := await reader.read(MEBIBYTE):
                count += len(part)
                await asyncio.sleep(0.02)
        assert count < LARGE
        assert asyncio.get_running_loop().time() - began > 0.8
        writer.close()


async def test_unread_answers_are_limited_in_total_and_the_slowest_reader_is_cut_off() -> None:
    async with served(Limits(unread=2 * LARGE + MEBIBYTE)) as app:
        idle = [await unread(app) for _ in range(2)]
        await app.until(lambda: app.asked == ["/large", "/large"])
        await asyncio.sleep(1.1)  # the grace of those that do not read
        reader, writer = await connect(app)
        writer.write(request("GET", "/large"))
        await reader.readexactly(LARGE)
        more, slow = await unread(app)
        await app.until(lambda: len(app.asked) == 4)
        ends = [asyncio.create_task(said(reader)) for reader, _ in idle]
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        assert len(done.pop().result()) < LARGE
        for task in ends:
            task.cancel()
        for _, each in (*idle, (reader, writer), (more, slow)):
            each.close()


async def test_next_pipelined_request_waits_until_the_answer_is_read() -> None:
    async with served(ROOMY) as app:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", int(app.url.rpartition(":")[2])))
        reader, writer = await asyncio.open_connection(sock=client, limit=CHUNK_BYTES)
        writer.write(request("GET", "/large") * 3 + request("GET", "/last"))
        await app.until(lambda: bool(app.asked))
        await answers(app)
        await asyncio.sleep(0.2)
        assert app.asked == ["/large", "/fresh"]
        count, part = 0, b""
        while count < 3 * LARGE:
            part = await reader.read(MEBIBYTE)  # of which the end may belong to the last answer
            count += len(part)
        await app.until(lambda: app.asked[-1] == "/last")
        assert (await said_until(reader, b"/last", part)).endswith(b"/last")
        assert app.asked == ["/large", "/fresh", "/large", "/large", "/last"]
        writer.close()


async def test_request_that_began_before_the_answer_was_read_is_not_overtaken() -> None:
    async with served(ROOMY) as app:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", int(app.url.rpartition(":")[2])))
        reader, writer = await asyncio.open_connection(sock=client, limit=CHUNK_BYTES)
        held = request("GET", "/hold")
        writer.write(request("GET", "/large") + held[:5])
        await app.until(lambda: bool(app.asked))
        await answers(app)
        writer.write(held[5:] + request("GET", "/last"))
        await app.until(lambda: "/hold" in app.asked)
        count = 0
        while count < LARGE:
            count += len(await reader.read(MEBIBYTE))
        await answers(app)
        assert app.asked == ["/large", "/fresh", "/hold", "/fresh"]
        app.holding.set()
        both = await said_until(reader, b"/last")
        assert both.index(b"/hold") < both.index(b"/last")
        writer.close()


async def said_until(reader: asyncio.StreamReader, end: bytes, got: bytes = b"") -> bytes:
    """What comes until these bytes, after `got`."""
    while not got.endswith(end):
        part = await reader.read(CHUNK_BYTES)
        assert part, f"the connection ended after {got[-100:]!r}"
        got += part
    return got


# --- numbers


async def test_silent_connections_are_limited_per_address() -> None:
    async with served(Limits(head_seconds=60, silent_per_address=10, silent=1000)) as app:
        port = int(app.url.rpartition(":")[2])
        waiting = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
        streams = [await connect(app) for _ in range(100)]
        for _, writer in streams[:90]:
            writer.close()
        waiting[1].write(request("GET", "/patient"))
        await waiting[0].readuntil(b"/patient")
        for _, writer in (*streams, waiting):
            writer.close()


async def test_incomplete_requests_cannot_occupy_all_connections() -> None:
    async with served(Limits(connections=20, head_seconds=60)) as app:
        half = [await connect(app) for _ in range(20)]
        for number, (reader, writer) in enumerate(half):
            if number % 2:
                writer.write(request("GET", "/x"))
                await reader.readuntil(b"/x")
            writer.write(b"GET / HTTP/1.1\r\n")
        await answers(app)
        assert await said(half[0][0]) == b""
        for _, writer in half:
            writer.close()


async def test_new_connection_gets_503_if_all_are_busy() -> None:
    async with served(Limits(connections=5)) as app:
        working = [await connect(app) for _ in range(5)]
        for _, writer in working:
            writer.write(request("GET", "/hold"))
        await app.until(lambda: len(app.asked) == 5)
        reader, writer = await connect(app)
        assert (await said(reader)).startswith(b"HTTP/1.1 503 ")
        for _, each in (*working, (reader, writer)):
            each.close()


async def test_pipelined_requests_are_answered_in_order_and_parsed_few_at_a_time() -> None:
    count = 3_000
    async with served(ROOMY) as app:
        reader, writer = await connect(app)
        writer.write(request("GET", "/hold"))
        for number in range(count):
            writer.write(request("GET", f"/{number}"))
        await app.until(lambda: bool(app.asked))
        before = rss_bytes()
        await asyncio.sleep(0.1)
        assert app.asked == ["/hold"]
        assert rss_bytes() - before < 20 * MEBIBYTE
        app.holding.set()
        await reader.readuntil(b"/hold")
        for number in range(count):
            await reader.readuntil(b"\r\n\r\n/%d" % number)
        writer.close()
        assert app.asked[1:] == [f"/{number}" for number in range(count)]


@pytest.mark.parametrize("size", [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
async def test_requests_are_separated_wherever_the_bytes_are_split(size: int) -> None:
    raw = b"".join(
        (
            request("POST", "/a", [("X-Long", "v" * 5_000)], b"b" * 9_000),
            request("POST", "/b", [], chunks=[b"c" * 5_000, b"d"]),
            request("GET", "/c", [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c")]),
            request("POST", "/d", [("Connection", "Upgrade"), ("Upgrade", "h2c")], b"e" * 9_000),
        )
    )
    async with served(ROOMY) as app:
        reader, writer = await connect(app)
        for at in range(0, len(raw), size):
            writer.write(raw[at : at + size])
            await writer.drain()
        for path in (b"/a", b"/b", b"/c", b"/d"):
            await reader.readuntil(b"\r\n\r\n" + path)
        writer.close()
        assert app.bodies == [b"b" * 9_000, b"c" * 5_000 + b"d", b"", b"e" * 9_000]


# --- clients that close their side


@pytest.mark.parametrize("begun", [b"GET / HT", b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"])
async def test_client_that_closes_within_its_request_gets_no_answer(begun: bytes) -> None:
    async with served(ROOMY) as app:
        reader, writer = await connect(app)
        writer.write(begun)
        writer.write_eof()
        assert await said(reader) == b""
        writer.close()
        if app.asked:
            await app.until(lambda: app.left == ["/x"])
