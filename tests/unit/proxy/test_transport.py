"""Forwarded answers arrive complete, on real sockets."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from relay.errors import NoAnswer
from relay.proxy.transport import UpstreamResponse, UpstreamTransport
from tests.support.peer import open_peer

BODY = b"".join(b"%08d" % n for n in range(300_000))
Answering = Callable[[], Awaitable[UpstreamResponse]]


@pytest.fixture
async def answering() -> AsyncIterator[Callable[[int], Answering]]:
    """Serves BODY, cut after the given number of bytes; yields a function that requests it once."""
    transports: list[UpstreamTransport] = []
    servers = AsyncExitStack()

    def of(size_bytes: int) -> Answering:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY))
            writer.write(BODY[:size_bytes])
            await writer.drain()

        async def ask() -> UpstreamResponse:
            port = await servers.enter_async_context(open_peer(connected))
            transport = UpstreamTransport(f"http://127.0.0.1:{port}", clock=lambda: 0.0, node_id="node")
            transports.append(transport)
            return await transport.send("GET", "/", [])

        return ask

    yield of
    for transport in transports:
        await transport.close()
    await servers.aclose()


async def test_trailers_of_an_answer_are_no_headers_of_it_or_of_the_next() -> None:
    trailers = b"Retry-After: 99\r\nX-RateLimit-Remaining: 0\r\nSet-Cookie: a=b\r\n\r\n"
    chunked = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Retry-After\r\n\r\n2\r\nok\r\n0\r\n" + trailers
    )

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3):
            await reader.readuntil(b"\r\n\r\n")
            for at in range(0, len(chunked), 40):
                writer.write(chunked[at : at + 40])
                await writer.drain()
        writer.close()

    async with open_peer(connected) as port:
        transport = UpstreamTransport(f"http://127.0.0.1:{port}", clock=lambda: 0.0, node_id="node")
        for _ in range(3):
            answer = await transport.send("GET", "/", [])
            assert await answer.read(100) == (b"ok", True)
            assert answer.headers == []
            answer.close()
        await transport.close()


@pytest.mark.parametrize("max_bytes", [0, 1, 1 << 20, len(BODY) - 1])
async def test_unread_rest_of_a_long_answer_can_be_streamed(
    answering: Callable[[int], Answering], max_bytes: int
) -> None:
    answer = await answering(len(BODY))()
    begun, is_whole = await answer.read(max_bytes)
    gc.collect()  # would close an abandoned iterator, and the answer with it
    await asyncio.sleep(0)
    rest = b"".join([part async for part in answer.body()])
    assert begun + rest == BODY
    assert len(begun) > max_bytes
    assert not is_whole
    answer.close()


async def test_incomplete_answer_raises_no_answer(answering: Callable[[int], Answering]) -> None:
    answer = await answering(len(BODY) // 2)()
    with pytest.raises(NoAnswer):
        await answer.read(len(BODY))
    answer = await answering(len(BODY) // 2)()
    begun, is_whole = await answer.read(1000)
    assert (len(begun) > 1000, is_whole) == (True, False)
    with pytest.raises(NoAnswer):
        _ = [part async for part in answer.body()]
