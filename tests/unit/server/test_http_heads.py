"""Heads that RFC 9112 forbids are refused before anything of the request runs; odd ones that it allows are not."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from relay.server.http_server import Limits, make_server
from tests.support.wire import listening

HOST = b"Host: a.example\r\n"
TRACE = b"DELETE /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n"
"""A request that is never reached: what a faulty head hides."""

REFUSED = {
    # RFC 9112, 3.2: exactly one valid Host
    "no host": (400, b"DELETE / HTTP/1.1\r\n\r\n"),
    "two hosts": (400, b"DELETE / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n"),
    "the same host twice": (400, b"DELETE / HTTP/1.1\r\n" + HOST + b"hOST: a.example\r\n\r\n"),
    "two hosts in HTTP/1.0": (400, b"DELETE / HTTP/1.0\r\n" + HOST + b"Host: b.example\r\n\r\n"),
    "two hosts and an upgrade": (
        400,
        b"DELETE / HTTP/1.1\r\n" + HOST + HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    ),
    "hosts in a list": (400, b"DELETE / HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n"),
    "a host with a path": (400, b"DELETE / HTTP/1.1\r\nHost: a.example/x\r\n\r\n"),
    "a host with a user": (400, b"DELETE / HTTP/1.1\r\nHost: user@a.example\r\n\r\n"),
    "a host with a scheme": (400, b"DELETE / HTTP/1.1\r\nHost: http://a.example\r\n\r\n"),
    "a host with a space": (400, b"DELETE / HTTP/1.1\r\nHost: a example\r\n\r\n"),
    "a host with a quote": (400, b'DELETE / HTTP/1.1\r\nHost: a"example\r\n\r\n'),
    "a host in UTF-8": (400, "DELETE / HTTP/1.1\r\nHost: ä.example\r\n\r\n".encode()),
    "a host with half an escape": (400, b"DELETE / HTTP/1.1\r\nHost: a%4.example\r\n\r\n"),
    "a host with an odd port": (400, b"DELETE / HTTP/1.1\r\nHost: a.example:80a\r\n\r\n"),
    "a host with two ports": (400, b"DELETE / HTTP/1.1\r\nHost: a.example:80:80\r\n\r\n"),
    "an open bracket": (400, b"DELETE / HTTP/1.1\r\nHost: [::1\r\n\r\n"),
    # 3.2.2: the target's host replaces it, but it must be there
    "an absolute target without a host": (400, b"DELETE http://a.example/ HTTP/1.1\r\n\r\n"),
    "an absolute target with two hosts": (400, b"DELETE http://a.example/ HTTP/1.1\r\n" + HOST + HOST + b"\r\n"),
    "an absolute target with a user": (400, b"DELETE http://user@a.example/ HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a relative target": (400, b"DELETE x HTTP/1.1\r\n" + HOST + b"\r\n"),
    # 6: one framing
    "a length twice": (400, b"DELETE / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx"),
    "two lengths": (400, b"DELETE / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 9\r\n\r\nx"),
    "a list of lengths": (400, b"DELETE / HTTP/1.1\r\n" + HOST + b"Content-Length: 1, 1\r\n\r\nx"),
    "a signed length": (400, b"DELETE / HTTP/1.1\r\n" + HOST + b"Content-Length: +1\r\n\r\nx"),
    "an empty length": (400, b"DELETE / HTTP/1.1\r\n" + HOST + b"Content-Length:\r\n\r\n"),
    "a huge length": (400, b"DELETE / HTTP/1.1\r\n" + HOST + b"Content-Length: 18446744073709551617\r\n\r\nx"),
    "a length and chunks": (
        400,
        b"DELETE / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "chunks in HTTP/1.0": (400, b"DELETE / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "an unknown coding": (501, b"DELETE / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "a coding before chunked": (
        501,
        b"DELETE / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ),
    "identity": (501, b"DELETE / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: identity\r\n\r\n"),
    "a coding after chunked": (400, b"DELETE / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked, gzip\r\n\r\n"),
    "chunked twice": (
        400,
        b"DELETE / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "an empty coding": (400, b"DELETE / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding:\r\n\r\n"),
    # 5: field lines
    "a folded value": (400, b"DELETE / HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n"),
    "a space before the first field": (400, b"DELETE / HTTP/1.1\r\n Host: a.example\r\n\r\n"),
    "a space before the colon": (400, b"DELETE / HTTP/1.1\r\n" + HOST + b"Content-Length : 5\r\n\r\n"),
    "a tab before the colon": (400, b"DELETE / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding\t: chunked\r\n\r\n"),
    "no name": (400, b"DELETE / HTTP/1.1\r\n" + HOST + b": x\r\n\r\n"),
    "no colon": (400, b"DELETE / HTTP/1.1\r\n" + HOST + b"X\r\n\r\n"),
    "a name in UTF-8": (400, "DELETE / HTTP/1.1\r\nHost: a.example\r\nXä: y\r\n\r\n".encode()),
    "a bare line feed": (400, b"DELETE / HTTP/1.1\r\n" + HOST + b"X: a\nY: b\r\n\r\n"),
    "a bare carriage return": (400, b"DELETE / HTTP/1.1\r\n" + HOST + b"X: a\rY: b\r\n\r\n"),
    "a NUL": (400, b"DELETE / HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n"),
    # 2.3 and 3: versions and the request line
    "no version": (505, b"GET /\r\n\r\n"),
    "HTTP/2.0": (505, b"DELETE / HTTP/2.0\r\n" + HOST + b"\r\n"),
    "HTTP/1.2": (400, b"DELETE / HTTP/1.2\r\n" + HOST + b"\r\n"),
    "a version in lower case": (400, b"DELETE / http/1.1\r\n" + HOST + b"\r\n"),
    "a fourth word": (400, b"DELETE / HTTP/1.1 x\r\n" + HOST + b"\r\n"),
    "an unknown method": (400, b"DELETED / HTTP/1.1\r\n" + HOST + b"\r\n"),
}
ACCEPTED = {
    "a name": (b"GET / HTTP/1.1\r\nHost: a_b.example\r\n\r\n", b"a_b.example"),
    "a name in capitals, with a port": (b"GET / HTTP/1.1\r\nHost: A.EXAMPLE:8080\r\n\r\n", b"A.EXAMPLE:8080"),
    "an address": (b"GET / HTTP/1.1\r\nHost: 127.0.0.1:80\r\n\r\n", b"127.0.0.1:80"),
    "an IPv6 address": (b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", b"[::1]:80"),
    "an IPv6 address with a zone": (b"GET / HTTP/1.1\r\nHost: [fe80::1%25lo]\r\n\r\n", b"[fe80::1%25lo]"),
    "an empty port": (b"GET / HTTP/1.1\r\nHost: a.example:\r\n\r\n", b"a.example:"),
    "an empty host": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", b""),
    "spaces around the host": (b"GET / HTTP/1.1\r\nHost: \t a.example \t\r\n\r\n", b"a.example"),
    "HTTP/1.0 without a host": (b"GET / HTTP/1.0\r\n\r\n", None),
    "HTTP/1.0 with one": (b"GET / HTTP/1.0\r\nHost: a.example\r\n\r\n", b"a.example"),
    "an absolute target": (b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", b"a.example"),
    "an absolute target that differs from the host, and wins": (
        b"GET http://b.example:81/?x HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"b.example:81",
    ),
    "a URL in the query": (b"GET /?u=http://b.example HTTP/1.1\r\nHost: a.example\r\n\r\n", b"a.example"),
    "a target with a fragment, which is dropped": (b"GET /x#y HTTP/1.1\r\nHost: a.example\r\n\r\n", b"a.example"),
    "chunks": (b"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", b"a.example"),
    "an upgrade": (
        b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"a.example",
    ),
}


class App:
    """Keeps the hosts of the requests that reach it."""

    def __init__(self) -> None:
        self.hosts: list[bytes | None] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        assert len(hosts) <= 1
        self.hosts.append(hosts[0] if hosts else None)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[tuple[App, int]]:
    app = App()
    server = make_server(app, shutdown_seconds=1, limits=Limits(keep_alive_seconds=0.1))
    with contextlib.closing(listening()) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        yield app, listener.getsockname()[1]
        server.should_exit = True
        await serving


async def answer(port: int, raw: bytes) -> bytes:
    """All that comes until the server closes."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(raw)
        said = await reader.read()
        writer.close()
        return said


async def test_heads_that_the_rfc_forbids_are_refused() -> None:
    wrong = []
    async with served() as (app, port):
        for name, (status, raw) in REFUSED.items():
            said = await answer(port, raw + TRACE)
            if not said.startswith(b"HTTP/1.1 %d " % status) or said.count(b"\r\n\r\n") != 1 or app.hosts:
                wrong.append((name, said, app.hosts[:]))
                app.hosts.clear()
                continue
            head, _, body = said.partition(b"\r\n\r\n")
            assert b"\r\ncontent-type: application/problem+json\r\n" in head, name
            problem = json.loads(body)
            assert (problem["status"], problem["type"]) == (status, f"urn:revor-relay:problem:{problem['code']}"), name
            assert problem["detail"], name
            assert problem["errors"] == [], name
    assert not wrong


async def test_a_bad_host_is_a_problem_that_names_it() -> None:
    async with served() as (_, port):
        said = await answer(port, REFUSED["a host with a path"][1])
    assert json.loads(said.partition(b"\r\n\r\n")[2]) == {
        "type": "urn:revor-relay:problem:bad_request",
        "title": "Bad request",
        "status": 400,
        "detail": "the Host header is not a host with an optional port",
        "code": "bad_request",
        "errors": [],
    }


async def test_odd_heads_that_the_rfc_allows_are_accepted() -> None:
    async with served() as (app, port):
        for name, (raw, host) in ACCEPTED.items():
            said = await answer(port, raw)
            assert said.startswith(b"HTTP/1.1 200 "), (name, said)
            assert (name, app.hosts.pop()) == (name, host)


async def test_a_faulty_head_behind_another_request_ends_the_connection() -> None:
    async with served() as (app, port):
        said = await answer(port, TRACE + REFUSED["two hosts"][1] + TRACE)
        assert said.startswith(b"HTTP/1.1 200 ")
        assert app.hosts == [b"a.example"]


@pytest.mark.parametrize("size", [1, 7])
async def test_heads_in_pieces_are_judged_alike(size: int) -> None:
    async with served() as (app, port), asyncio.timeout(10):
        raw = REFUSED["two hosts"][1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for at in range(0, len(raw), size):
            writer.write(raw[at : at + size])
            await writer.drain()
            await asyncio.sleep(0)
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        assert not app.hosts
        writer.close()
