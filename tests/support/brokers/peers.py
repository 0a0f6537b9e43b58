"""Servers that are no brokers, or bad ones: what they say is a script."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_network
from typing import Any

from aiohttp import ThreadedResolver

from relay.bus.publishers import Publishers
from relay.clock import wall_clock
from relay.core.access.netguard import GuardPolicy

POLICY = GuardPolicy(allow_http=True, allow_networks=(ip_network("127.0.0.0/8"),))

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def peer(script: Script) -> AsyncIterator[int]:
    """The port of a server that treats each connection by the script."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await script(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def publishers(**options: object) -> AsyncIterator[Publishers]:
    """The connections of a node whose guard allows loopback."""
    given: dict[str, Any] = {"resolver": ThreadedResolver(), **options}
    made = Publishers(POLICY, clock=wall_clock, **given)
    try:
        yield made
    finally:
        await made.close()


def says(*data: bytes) -> Script:
    """Says this, one after the other, and waits."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for one in data:
            writer.write(one)
            await writer.drain()
        await reader.read()

    return script


def leaves_after(*data: bytes) -> Script:
    """Says this, and closes."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for one in data:
            writer.write(one)
        await writer.drain()

    return script


def repeats(data: bytes, *, first: bytes = b"", times: int = 1_000_000) -> Script:
    """Says `first`, and then the same again and again."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        for _ in range(times):
            writer.write(data)
            await writer.drain()

    return script
