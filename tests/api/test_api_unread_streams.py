"""Streams whose clients do not read, over real sockets: bounded in memory and number, ended, and resumed without a
gap."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from relay.api.app import create_api
from relay.api.http.limits import Admission
from relay.server.http_server import Limits, make_server
from relay.signals import Signals
from tests.support.api_world import TOKENS
from tests.support.store_kit import NOW, relay_event
from tests.support.wire import listening, request

EVENTS = 400
EVENT_BYTES = 60 * 1024
STREAMS = 40
MEBIBYTE = 1 << 20


@pytest.fixture(autouse=True)
async def _bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(60):
        yield


@contextlib.asynccontextmanager
async def served(world: Any, limits: Limits, **settings: Any) -> AsyncIterator[int]:
    """The port of a server with the API on it, whose streams wait for real signals."""
    world.signals = Signals()
    server = make_server(create_api(world.dependencies(**settings), world.proxy), shutdown_seconds=1, limits=limits)
    with contextlib.closing(listening()) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        yield listener.getsockname()[1]
        world.node.stop()
        world.signals.wake_all()
        server.should_exit = True
        await serving


async def large_events(world: Any, count: int = EVENTS) -> list[str]:
    """Records events as large as any. Returns their ids."""
    events = [relay_event(now=NOW + number) for number in range(count)]
    await asyncio.gather(
        *(world.store.events.record(replace(one, body=one.body[:-1].ljust(EVENT_BYTES) + b"}")) for one in events)
    )
    return [event.id for _, event in (await world.store.events.tail(0, count, 1 << 30)).events]


async def connect(port: int, last_id: str, headers: tuple[tuple[str, str], ...] = ()) -> Any:
    """A stream with a small receive buffer. Nothing of it is read."""
    loop = asyncio.get_running_loop()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    await loop.sock_connect(client, ("127.0.0.1", port))
    asked = [("Last-Event-ID", last_id), *headers]
    await loop.sock_sendall(client, request("GET", "/v1/events/stream", asked))
    return client


def rss_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_forty_unread_streams_stay_small(world: Any) -> None:
    first, *_ = await large_events(world)
    tails, changed = 0, asyncio.Event()
    read = world.store.events.tail

    async def tail(*arguments: Any) -> Any:
        nonlocal tails
        tails += 1
        changed.set()
        return await read(*arguments)

    world.store.events.tail = tail
    async with served(world, Limits()) as port:
        before = rss_bytes()
        clients = [await connect(port, first) for _ in range(STREAMS)]
        with contextlib.suppress(TimeoutError):
            while True:  # until all have begun and no stream reads on
                changed.clear()
                async with asyncio.timeout(1.0 if tails >= STREAMS else 60.0):
                    await changed.wait()
        grown = rss_bytes() - before
        for client in clients:
            client.close()
    assert tails >= STREAMS
    print(f"{grown / MEBIBYTE:.1f} MiB for {STREAMS} unread streams")
    assert grown < 48 * MEBIBYTE, f"{grown / MEBIBYTE:.0f} MiB for {STREAMS} streams"


async def test_client_that_does_not_read_is_cut_off_and_resumes_without_a_gap(world: Any) -> None:
    first, *others = await large_events(world, 200)
    got: list[str] = []
    connections = 0
    async with served(world, Limits(body_seconds=0.4)) as port:
        while len(got) < len(others):
            connections += 1
            client = await connect(port, got[-1] if got else first)
            reader, writer = await asyncio.open_connection(sock=client, limit=MEBIBYTE)
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await reader.readuntil(b": connected\n\n")
                for number in range(len(others)):
                    if connections < 4 and number == 20:
                        writer.transport.pause_reading()  # type: ignore[attr-defined]
                        await asyncio.sleep(1.0)  # longer than the server waits
                        writer.transport.resume_reading()  # type: ignore[attr-defined]
                    await reader.readuntil(b"id: ")
                    event_id = (await reader.readuntil(b"\n"))[:-1].decode()
                    await reader.readuntil(b"\n\n")
                    got.append(event_id)
                    if len(got) == len(others):
                        break
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
    assert got == others
    assert connections > 1


async def test_streams_are_limited_for_each_token(world: Any) -> None:
    tokens = {token.name: (("Authorization", f"Bearer {token.value}"),) for token in TOKENS}
    (last,) = await large_events(world, 1)
    loop = asyncio.get_running_loop()
    async with served(world, Limits(), tokens=TOKENS, dev=False) as port:
        most = Admission().streams.limit_of_owner
        clients = [await connect(port, last, tokens["viewer"]) for _ in range(most + 1)]
        answers = [(await loop.sock_recv(client, 4096)).split()[1] for client in clients]
        assert sorted(answers) == [b"200"] * most + [b"429"]
        other = await connect(port, last, tokens["ops"])
        assert (await loop.sock_recv(other, 4096)).split()[1] == b"200"
        for client in (*clients, other):
            client.close()
