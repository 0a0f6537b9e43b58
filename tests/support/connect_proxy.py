"""A proxy for tests that takes CONNECT: with credentials, a filter, name resolution, and faults."""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.support.peer import open_peer

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(kw_only=True, eq=False)
class ConnectProxy:
    """Opens tunnels and keeps what it saw.

    credentials  `user:password` that it asks for
    names        what its own resolver knows: names and their addresses; None: it connects to addresses only
    answer       sent to every CONNECT instead of opening a tunnel; empty: closes at once
    silent       never answers
    """

    credentials: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    answer: bytes | None = None
    silent: bool = False
    port: int = 0
    heads: list[str] = field(default_factory=list)
    relayed: bytearray = field(default_factory=bytearray)

    @property
    def places(self) -> list[str]:
        """Host and port of each CONNECT."""
        return [head.split(" ")[1] for head in self.heads]

    def url(self, credentials: str = "", *, scheme: str = "http") -> str:
        """Its URL in the settings."""
        return f"{scheme}://{credentials}{'@' if credentials else ''}127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        if self.silent:
            await reader.read()
            return
        refusal = self.answer if self.answer is not None else self._refusal(head)
        if refusal is not None:
            writer.write(refusal)
            await writer.drain()
            return
        host, _, port = head.split(" ")[1].rpartition(":")
        host = host.strip("[]")
        try:
            sink = await asyncio.open_connection(self.names.get(host, host), int(port))
        except OSError:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return
        writer.write(b"HTTP/1.1 200 Connection established\r\nProxy-Agent: test\r\n\r\n")
        try:
            await self._relay((reader, writer), sink)
        finally:
            sink[1].close()
            with contextlib.suppress(OSError):
                await sink[1].wait_closed()

    def _refusal(self, head: str) -> bytes | None:
        method, place, _ = head.split(" ", 2)
        if method != "CONNECT":
            return b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n"
        if self.credentials is not None:
            wanted = f"Proxy-Authorization: Basic {base64.b64encode(self.credentials.encode()).decode()}\r\n"
            if wanted not in head:
                return b'HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="x"\r\n\r\n'
        host = place.rpartition(":")[0]
        if host not in self.names and host.endswith(".example.com"):
            return b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nforbidden"
        return None

    async def _relay(self, caller: Streams, sink: Streams) -> None:
        async def one_way(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65536):
                self.relayed += data
                writer.write(data)
                await writer.drain()

        ways = {asyncio.create_task(one_way(caller[0], sink[1])), asyncio.create_task(one_way(sink[0], caller[1]))}
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)


@asynccontextmanager
async def open_connect_proxy(
    proxy: ConnectProxy | None = None, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[ConnectProxy]:
    """A running proxy on a free port of loopback."""
    proxy = proxy or ConnectProxy()
    async with open_peer(proxy.serve, tls=tls) as proxy.port:
        yield proxy
