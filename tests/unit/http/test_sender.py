"""The guarded client with real sockets on loopback: refusals, limits, reported errors and timings."""

import asyncio
import ipaddress
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from relay.core.access.netguard import GuardPolicy
from relay.core.deliveries.delivery import OutboundRequest, Response
from relay.http.sender import MAX_BODY_BYTES, Sender
from tests.support.certificates import self_signed
from tests.support.guard import DEVELOPMENT
from tests.support.peer import open_peer

SECRET_PATH = "/services/T000/B000/hush-hush"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Peer:
    """A raw TCP server that keeps the head of each request and counts connections."""

    port: int = 0
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0

    def url(self, path: str = SECRET_PATH, *, scheme: str = "http", host: str = "127.0.0.1") -> str:
        return f"{scheme}://{host}:{self.port}{path}"


@asynccontextmanager
async def peer(handler: Handler | bytes = OK, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    """`handler` is called after each request; bytes are a response after which the connection stays open."""
    state = Peer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.connections += 1
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            state.heads.append(head)
            length = next((int(x.split(b":")[1]) for x in head.lower().split(b"\r\n") if b"content-length" in x), 0)
            state.bodies.append(await reader.readexactly(length))
            if isinstance(handler, bytes):
                writer.write(handler)
            else:
                await handler(reader, writer)

    async with open_peer(serve, tls=tls) as state.port:
        yield state


class StubResolver(AbstractResolver):
    """Resolves every name to the addresses set last."""

    def __init__(self, *addresses: str, delay_seconds: float = 0.0) -> None:
        self.addresses = addresses
        self.asked: list[str] = []
        self.delay_seconds = delay_seconds

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        self.asked.append(host)
        await asyncio.sleep(self.delay_seconds)
        if not self.addresses:
            raise OSError(None, "no such name")
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self.addresses
        ]

    async def close(self) -> None:
        return


async def send(
    url: str,
    policy: GuardPolicy = DEVELOPMENT,
    *,
    timeout_seconds: float = 5.0,
    method: str = "POST",
    headers: tuple[tuple[str, str], ...] = (),
    body: bytes = b"{}",
    tls: ssl.SSLContext | None = None,
    resolver: AbstractResolver | None = None,
    connect_timeout_seconds: float = 10.0,
) -> Response:
    async with Sender(
        policy, clock=lambda: 1000.0, tls=tls, resolver=resolver, connect_timeout_seconds=connect_timeout_seconds
    ) as sender:
        request = OutboundRequest(url=url, method=method, headers=headers, body=body)
        return await sender.send(request, timeout_seconds=timeout_seconds)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(status: int) -> None:
    async with peer() as other:
        answer = f"HTTP/1.1 {status} Moved\r\nLocation: {other.url()}\r\nContent-Length: 0\r\n\r\n"
        async with peer(answer.encode()) as sink:
            response = await send(sink.url())
    assert (response.status_code, response.error) == (status, None)
    assert other.connections == 0


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "::ffff:127.0.0.1", "fe80::1"])
async def test_host_name_is_judged_by_the_address_dialled(address: str) -> None:
    async with peer() as sink:
        policy = GuardPolicy(allow_ports=frozenset({sink.port}))
        url = sink.url(scheme="https", host="rebound.example.com")
        response = await send(url, policy, resolver=StubResolver(address))
    assert response.error == "refused"
    assert response.status_code is None
    assert sink.connections == 0


async def test_rebinding_between_two_requests_fails() -> None:
    resolver = StubResolver("127.0.0.1")
    policy = GuardPolicy(allow_http=True, allow_networks=(ipaddress.IPv4Network("127.0.0.1/32"),))
    close = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    async with peer(close) as sink, Sender(policy, clock=time.time, resolver=resolver) as sender:
        request = OutboundRequest(url=sink.url(host="sink.example.com"))
        assert (await sender.send(request, timeout_seconds=5)).status_code == 200
        resolver.addresses = ("127.0.0.2",)
        assert (await sender.send(request, timeout_seconds=5)).error == "refused"
    assert sink.connections == 1


async def test_plain_http_to_a_name_is_allowed_only_inside_the_allowed_networks() -> None:
    async with peer() as sink:
        url = sink.url(host="sink.example.com")
        assert (await send(url, resolver=StubResolver("127.0.0.1"))).status_code == 200
        refused = await send(url, resolver=StubResolver("93.184.215.14"))
    assert refused.error == "refused"
    assert "http is not allowed" in (refused.detail or "")


async def test_huge_body_is_read_up_to_the_limit_and_the_connection_closed() -> None:
    gone = asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
        try:
            while True:
                writer.write(bytes(65536))
                await writer.drain()
        except ConnectionError:
            gone.set()

    async with peer(flood) as sink, Sender(DEVELOPMENT, clock=time.time) as sender:
        response = await sender.send(OutboundRequest(url=sink.url()), timeout_seconds=10)
        await asyncio.wait_for(gone.wait(), 10)
    assert response.status_code == 200
    assert len(response.excerpt) == MAX_BODY_BYTES


async def dripping(first: bytes, status: int | None) -> Response:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while not writer.is_closing():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with peer(drip) as sink:
        response = await send(sink.url(), timeout_seconds=0.3)
    assert response.status_code == status
    assert 290 <= response.duration_ms < 10_000  # the sink would go on for ever
    assert response.remote_ip == "127.0.0.1"
    assert response.late
    return response


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nY: z\r\nX: ",
        b"HTTP/1.1 200 OK\r\nY: z\r\n\0",
    ],
)
async def test_slow_body_ends_at_the_timeout_and_the_status_counts(first: bytes) -> None:
    response = await dripping(first, 200)
    assert response.error is None
    assert response.detail == "status 200 came, but the answer had not ended after 0.3 s"
    assert response.headers[:1] == ((("Content-Length", "999"),) if first.endswith(b"\r\n\r\n") else (("Y", "z"),))
    assert response.timings.first_byte_ms is not None


@pytest.mark.parametrize(
    ("answer", "excerpt"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", b"half"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n", b"half"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", b""),
    ],
)
async def test_status_counts_if_the_rest_breaks_off(answer: bytes, excerpt: bytes) -> None:
    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with peer(broken) as sink:
        response = await send(sink.url())
    assert (response.status_code, response.error) == (200, None)
    assert response.excerpt == excerpt
    if b"\r\n\r\n" in answer:
        assert response.detail == "status 200 came, but the rest of the answer broke off or is malformed"


async def test_untrusted_certificate_is_a_tls_error(tmp_path: Path) -> None:
    path, context = self_signed(tmp_path)
    async with peer(tls=context) as sink:
        response = await send(sink.url(scheme="https"))
        assert response.error == "tls"
        assert response.detail == "the certificate does not verify: self-signed certificate"
        assert response.remote_ip == "127.0.0.1"
        trusting = await send(sink.url(scheme="https"), tls=ssl.create_default_context(cafile=path))
        assert (trusting.status_code, trusting.excerpt) == (200, b"ok")
        assert trusting.remote_ip == "127.0.0.1"
        other_name = sink.url(scheme="https", host="sink.example.com")
        wrong = await send(other_name, tls=ssl.create_default_context(cafile=path), resolver=StubResolver("127.0.0.1"))
        assert wrong.error == "tls"
        assert "mismatch" in (wrong.detail or "")


def test_tls_verification_cannot_be_turned_off() -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    with pytest.raises(ValueError, match="turned off"):
        Sender(DEVELOPMENT, clock=time.time, tls=context)


async def test_only_cancellation_is_raised() -> None:
    arrived = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await reader.read()

    async with peer(hang) as sink, Sender(DEVELOPMENT, clock=time.time) as sender:
        task = asyncio.create_task(sender.send(OutboundRequest(url=sink.url()), timeout_seconds=5))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_requests_wait_for_a_free_connection_within_their_timeout() -> None:
    release = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(OK)

    async with peer(hold) as sink, Sender(DEVELOPMENT, clock=time.time, limit_connections=1) as sender:
        request = OutboundRequest(url=sink.url())
        first = asyncio.create_task(sender.send(request, timeout_seconds=5))
        late = await sender.send(request, timeout_seconds=0.05)
        release.set()
        assert (await first).status_code == 200
    assert late.error == "timeout"
