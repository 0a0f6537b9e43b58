"""A server that stops: what it has accepted is answered, and no client sees a reset."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable

import pytest

from relay.server.http_server import Limits, Server, make_server
from tests.support.wire import listening, read_head, request
from tests.unit.server.test_http_protocol import App

KEPT_SECONDS = 0.3
LIMITS = Limits(head_seconds=5, body_seconds=5)


@pytest.fixture(autouse=True)
async def _bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(30):
        yield


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 (flags of the server, which signals nothing)
        await asyncio.sleep(0.001)


class Stopping:
    """A server whose listening socket this test holds too, as systemd does."""

    def __init__(self, app: App, server: Server, held: socket.socket, serving: "asyncio.Task[None]") -> None:
        self.app = app
        self.server = server
        self.held = held
        self.serving = serving

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.held.getsockname()[1])

    async def stop_listening(self, within_seconds: float = 5.0) -> None:
        self.server.stop(within_seconds)
        await until(lambda: self.server._connections.draining)


@contextlib.asynccontextmanager
async def serving(*, kept_seconds: float = KEPT_SECONDS, limits: Limits = LIMITS) -> AsyncIterator[Stopping]:
    app = App()
    server = make_server(app, shutdown_seconds=5, limits=limits, kept_seconds=kept_seconds)
    with contextlib.closing(listening()) as held:
        task = asyncio.create_task(server.serve(sockets=[held.dup()]))
        await until(lambda: server.started)
        yield Stopping(app, server, held, task)
        app.holding.set()
        server.should_exit = True
        await task


async def answered(reader: asyncio.StreamReader) -> tuple[bytes, bytes | None]:
    """Body of the next answer, and its `Connection`."""
    head = await read_head(reader)
    assert head.length is not None
    return await reader.readexactly(head.length), head.one("connection")


async def test_connections_that_come_later_wait_in_the_shared_socket() -> None:
    async with serving() as world:
        await world.stop_listening()
        reader, writer = await world.connect()
        writer.write(request("GET", "/later"))
        await world.serving

        next_app = App()
        next_server = make_server(next_app, shutdown_seconds=1)
        task = asyncio.create_task(next_server.serve(sockets=[world.held.dup()]))
        assert await answered(reader) == (b"/later", None)
        writer.close()
        next_server.should_exit = True
        await task
        assert "/later" not in world.app.asked


async def test_all_that_waited_in_the_queue_are_answered() -> None:
    """A started node accepts them in one turn of its loop, before it reads any: none has sent nothing."""
    limits = Limits(silent=20, silent_per_address=10)
    with contextlib.closing(listening()) as held:
        waiting = [await asyncio.open_connection("127.0.0.1", held.getsockname()[1]) for _ in range(100)]
        for _, writer in waiting:
            writer.write(request("GET", "/waited"))
        app = App()
        server = make_server(app, shutdown_seconds=1, limits=limits)
        task = asyncio.create_task(server.serve(sockets=[held.dup()]))
        for reader, writer in waiting:
            assert await answered(reader) == (b"/waited", None)
            writer.close()
        server.should_exit = True
        await task


async def test_idle_connection_with_a_request_on_its_way_is_answered_before_it_is_closed() -> None:
    """The loop was busy with something else: its timers run before it reads."""
    async with serving() as world:
        reader, writer = await world.connect()
        writer.write(request("GET", "/one"))
        await answered(reader)
        await world.stop_listening()
        writer.write(request("GET", "/two"))
        time.sleep(2 * KEPT_SECONDS)  # noqa: ASYNC251 (what a busy machine does)
        assert await answered(reader) == (b"/two", b"close")
        writer.close()
        await world.serving


async def test_request_in_flight_is_answered_as_the_last() -> None:
    async with serving() as world:
        reader, writer = await world.connect()
        writer.write(request("GET", "/hold"))
        await world.app.until(lambda: "/hold" in world.app.asked)
        await world.stop_listening()
        world.app.holding.set()
        assert await answered(reader) == (b"/hold", b"close")
        assert await reader.read() == b""
        writer.close()
        await world.serving


async def test_connection_whose_answer_had_begun_is_kept_for_one_more() -> None:
    """Its head did not say that it is the last, so the client may send again."""
    async with serving() as world:
        reader, writer = await world.connect()
        writer.write(request("GET", "/begun"))
        await world.app.until(lambda: "/begun" in world.app.asked)
        await reader.readuntil(b"\r\n\r\n")
        await world.stop_listening()
        world.app.holding.set()
        assert await reader.readexactly(6) == b"/begun"
        writer.write(request("GET", "/next"))
        assert await answered(reader) == (b"/next", b"close")
        writer.close()
        await world.serving


async def test_client_that_reads_late_gets_the_whole_last_answer() -> None:
    """The rest of its request, unread, would reset the connection on a plain close."""
    async with serving() as world:
        reader, writer = await world.connect()
        writer.write(b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n")
        await world.app.until(lambda: "/unread" in world.app.asked)
        await world.stop_listening()
        writer.write(b"x" * 300000)
        await writer.drain()
        assert (await answered(reader))[0] == b"/unread"
        assert await reader.read() == b""
        writer.close()
        await world.serving


async def test_client_that_sends_half_a_head_does_not_hold_the_stop_up() -> None:
    async with serving() as world:
        reader, writer = await world.connect()
        writer.write(b"GET /half HTTP/1.1\r\nHo")
        await until(lambda: any(each._head_bytes for each in world.server._connections._all))
        await world.stop_listening()
        assert b"408" in await reader.read()
        writer.close()
        await world.serving


async def test_request_that_outlasts_the_stop_is_cancelled() -> None:
    async with serving() as world:
        _, writer = await world.connect()
        writer.write(request("GET", "/hold"))
        await world.app.until(lambda: "/hold" in world.app.asked)
        await world.stop_listening(within_seconds=1)
        await world.serving
        writer.close()


async def test_second_signal_ends_the_stop_at_once() -> None:
    async with serving() as world:
        _, writer = await world.connect()
        writer.write(request("GET", "/hold"))
        await world.app.until(lambda: "/hold" in world.app.asked)
        await world.stop_listening(within_seconds=600)
        world.server.force_exit = True
        async with asyncio.timeout(60):
            await world.serving
        writer.close()
