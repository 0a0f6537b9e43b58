"""Requests through an egress proxy, with real sockets: tunnels, TLS end to end, and whose failure is whose."""

import asyncio
import ipaddress
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relay.core.access.netguard import GuardPolicy
from relay.core.deliveries.delivery import OutboundRequest, Response
from relay.http.egress_proxy import MAX_HEAD_BYTES, EgressProxy
from relay.http.sender import Sender
from tests.support.certificates import self_signed
from tests.support.connect_proxy import ConnectProxy, open_connect_proxy
from tests.support.guard import DEVELOPMENT
from tests.support.hostile import HostileResolver
from tests.support.peer import open_peer

NAME = "sink.example.com"
BEHIND = replace(DEVELOPMENT, by_proxy=True)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Sink:
    """Answers every request with 200, and keeps the heads and the number of connections."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next((int(line.split(":")[1]) for line in head.lower().split("\r\n") if "content-l" in line), 0)
            await reader.readexactly(length)
            self.heads.append(head)
            writer.write(OK)


@asynccontextmanager
async def open_sink(tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Sink, int]]:
    sink = Sink()
    async with open_peer(sink.serve, tls=tls) as port:
        yield sink, port


def sender_through(url: str, policy: GuardPolicy = BEHIND, **options: Any) -> Sender:
    """A sender that may not look up any name itself."""
    return Sender(policy, clock=time.time, proxy=EgressProxy.at(url), resolver=HostileResolver(), **options)


async def send(sender: Sender, url: str, timeout_seconds: float = 5, method: str = "POST") -> Response:
    request = OutboundRequest(url=url, method=method, body=b'{"secret":"event"}')
    return await sender.send(request, timeout_seconds=timeout_seconds)


async def send_once(proxy_url: str, url: str, **options: Any) -> Response:
    async with sender_through(proxy_url, connect_timeout_seconds=options.pop("connect_timeout_seconds", 5)) as sender:
        return await send(sender, url, **options)


async def test_request_goes_through_a_tunnel_and_arrives_unchanged() -> None:
    async with open_sink() as (sink, port), open_connect_proxy() as proxy, sender_through(proxy.url()) as sender:
        response = await send(sender, f"http://127.0.0.1:{port}/hook?a=b")
    assert (response.status_code, response.excerpt, response.error) == (200, b"ok", None)
    assert response.remote_ip is None, "the connection's peer is the proxy"
    assert response.timings.connect_ms is not None
    assert proxy.places == [f"127.0.0.1:{port}"]
    assert sink.heads[0].startswith("POST /hook?a=b HTTP/1.1\r\nHost: 127.0.0.1")
    assert "proxy" not in sink.heads[0].lower()


async def test_proxy_resolves_names_and_sees_only_them(tmp_path: Path) -> None:
    path, context = self_signed(tmp_path, NAME)
    async with open_sink(context) as (sink, port), open_connect_proxy(ConnectProxy(names={NAME: "127.0.0.1"})) as proxy:
        policy = GuardPolicy(allow_ports=frozenset({port}), by_proxy=True)
        async with sender_through(proxy.url(), policy, tls=ssl.create_default_context(cafile=path)) as sender:
            response = await send(sender, f"https://{NAME}:{port}/secret-path")
            dotted = await send(sender, f"https://{NAME}.:{port}/")
    assert (response.status_code, response.excerpt) == (200, b"ok")
    assert response.timings.tls_ms is not None
    assert proxy.places[0] == f"{NAME}:{port}"
    assert len(sink.heads) >= 1
    assert b"secret" not in proxy.relayed, "only ciphertext passes the proxy"
    assert dotted.error == "proxy", "the name is handed over as written; this proxy does not know it with a dot"


async def test_credentials_are_sent_to_the_proxy_only() -> None:
    proxy = ConnectProxy(credentials="Team A:p@ss:wörd")
    async with open_sink() as (sink, port), open_connect_proxy(proxy):
        response = await send_once(proxy.url("Team%20A:p%40ss%3Aw%C3%B6rd"), f"http://127.0.0.1:{port}/")
    assert response.status_code == 200
    assert "authorization" not in sink.heads[0].lower()


@pytest.mark.parametrize(
    ("proxy", "detail"),
    [
        (ConnectProxy(credentials="a:b"), "asks for a user name and password (407)"),
        (ConnectProxy(answer=b"HTTP/1.1 403 Forbidden\r\n\r\n"), "refuses this sink (403)"),
        (ConnectProxy(answer=b"HTTP/1.0 302 Found\r\nLocation: http://10.0.0.1/\r\n\r\n"), "refuses this sink (302)"),
        (ConnectProxy(answer=b"HTTP/1.1 502 Bad\r\nX: 10.0.0.7\r\n\r\n"), "could not connect to the sink (502)"),
        (ConnectProxy(answer=b"HTTP/1.1 100 Continue\r\n\r\n"), "(100)"),
        (ConnectProxy(answer=b""), "closed the connection without an answer"),
        (ConnectProxy(answer=b"SSH-2.0-OpenSSH\r\n\r\n"), "is not HTTP"),
        (ConnectProxy(answer=b"HTTP/1.1 200\xff OK\r\n\r\n"), "is not HTTP"),
        (ConnectProxy(answer=b"HTTP/1.1 200 OK\r\nX: " + b"y" * MAX_HEAD_BYTES), "too long"),
        (ConnectProxy(answer=b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"), "more than an answer"),
        (ConnectProxy(silent=True), "no answer of the egress proxy within 0.1 s"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_each_failure_of_the_proxy_is_its_own(proxy: ConnectProxy, detail: str) -> None:
    async with open_sink() as (sink, port), open_connect_proxy(proxy):
        url = f"http://127.0.0.1:{port}/"
        response = await send_once(proxy.url(), url, method="PUT", connect_timeout_seconds=0.1 if proxy.silent else 5)
    assert (response.error, response.status_code, response.remote_ip) == ("proxy", None, None)
    assert detail in (response.detail or "")
    assert "10.0.0" not in (response.detail or "")
    assert sink.connections == 0
    assert len(proxy.heads) == 1, "no second try in one attempt, not even of a method that may be repeated"


async def test_names_get_neither_http_nor_other_ports_through_the_proxy() -> None:
    """Their addresses are unknown here, so no rule about networks can hold."""
    everywhere = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
    policy = GuardPolicy(allow_http=True, allow_networks=everywhere, by_proxy=True)
    async with open_connect_proxy() as proxy, sender_through(proxy.url(), policy) as sender:
        for url in (f"http://{NAME}/", f"https://{NAME}:8443/"):
            assert (await send(sender, url)).error == "refused"
    assert not proxy.heads


async def test_no_connection_is_left_open() -> None:
    """Whichever way an attempt ends: the proxy sees the end of its connection."""
    ended: list[str] = []

    def watched(name: str, serve: Callable[..., Any]) -> Callable[..., Any]:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await serve(reader, writer)
            finally:
                ended.append(name)

        return talk

    for proxy in (ConnectProxy(silent=True), ConnectProxy(answer=b"HTTP/1.1 200 OK\r\n\r\nmore")):
        over = asyncio.Event()

        async def talk(
            reader: asyncio.StreamReader,
            writer: asyncio.StreamWriter,
            proxy: ConnectProxy = proxy,
            over: asyncio.Event = over,
        ) -> None:
            await proxy.serve(reader, writer)
            await reader.read()
            over.set()

        async with open_peer(talk) as proxy.port, sender_through(proxy.url()) as sender:
            await send(sender, "http://127.0.0.1:9/", timeout_seconds=0.1)
            await asyncio.wait_for(over.wait(), 60)
