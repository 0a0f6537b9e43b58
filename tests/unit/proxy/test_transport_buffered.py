"""Answers that arrived completely with their head are forwarded as one buffer."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from relay.clock import wall_clock
from relay.errors import NoAnswer
from relay.proxy.transport import UpstreamTransport
from tests.support.peer import open_peer

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"


@asynccontextmanager
async def upstream(writes: Sequence[bytes], targets: list[bytes] | None = None) -> AsyncIterator[UpstreamTransport]:
    """A transport to a server that answers each request with these writes, a pause between them, and then closes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if targets is not None:
            targets.append(head.split(b" ")[1])
        for number, part in enumerate(writes):
            if number:
                await asyncio.sleep(0.05)
            writer.write(part)
            await writer.drain()

    async with open_peer(answer) as port:
        transport = UpstreamTransport(f"http://127.0.0.1:{port}", clock=wall_clock, node_id="node-1")
        try:
            yield transport
        finally:
            await transport.close()


@pytest.mark.parametrize(
    ("writes", "from_memory"),
    [
        ([HEAD + b"whole"], b"whole"),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], b""),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n"], b"whole"),
        ([HEAD, b"whole"], None),
        ([HEAD + b"who", b"le"], None),
    ],
)
async def test_body_that_arrived_with_the_head_is_buffered_and_the_rest_streamed(writes, from_memory):
    async with upstream(writes) as transport:
        answer = await transport.send("GET", "/x", [])
        assert answer.from_memory() == from_memory
        if from_memory is None:
            assert b"".join([part async for part in answer.body()]) == b"whole"
        answer.close()


async def test_incomplete_answer_is_not_buffered():
    async with upstream([HEAD + b"who"]) as transport:
        answer = await transport.send("GET", "/x", [])
        assert answer.from_memory() is None
        with pytest.raises(NoAnswer):
            [part async for part in answer.body()]
