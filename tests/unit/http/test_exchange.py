"""Requests and responses on real sockets: what is sent, how often, and on which connection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from relay.http.exchange import Exchanges, Garbled, Route, _head
from tests.support.wire import Call, Handler, answer, body_parts, open_stub

BODY = b"x" * 100


@asynccontextmanager
async def opened() -> AsyncIterator[Exchanges]:
    exchanges = Exchanges(aiohttp.TCPConnector(), connect_timeout_seconds=5)
    try:
        yield exchanges
    finally:
        await exchanges.close()


async def ask(exchanges: Exchanges, url: str, method: str = "POST", body: bytes = BODY) -> tuple[int, bytes]:
    """Status and body of one exchange."""
    async with asyncio.timeout(10):
        got = await exchanges.begin(Route.to(URL(url)), method, [], body)
        try:
            return got.status, await got.content.read()
        finally:
            got.close()


# --- what is sent


async def test_request_is_head_and_body() -> None:
    async with open_stub() as stub, opened() as exchanges:
        route = Route.to(URL(stub.url + "/hook?a=1&b=%2F#part", encoded=True))
        (await exchanges.begin(route, "POST", [("X-Own", "ü"), ("X-Own", "2")], BODY)).close()
    (got,) = stub.received
    assert got.line == b"POST /hook?a=1&b=%2F HTTP/1.1"
    assert got.headers == [
        (b"host", stub.url.removeprefix("http://").encode()),
        (b"x-own", "ü".encode()),
        (b"x-own", b"2"),
        (b"content-length", b"100"),
    ]
    assert got.body == BODY


async def test_trailers_of_a_response_are_no_headers_of_it_or_of_the_next() -> None:
    async def chunked(call: Call) -> None:
        await call.body()
        head = b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n"
        await call.send(head + b"2\r\nok\r\n0\r\nRetry-After: 9999\r\nX-Other: y\r\n\r\n")

    async with open_stub(chunked) as stub, opened() as exchanges:
        for _ in range(3):
            got = await exchanges.begin(Route.to(URL(stub.url)), "POST", [], BODY)
            assert (got.status, await got.content.read()) == (503, b"ok")
            assert [name.lower() for name in got.headers] == ["transfer-encoding"]
            got.close()


@given(st.lists(st.text(), max_size=5), st.integers(0, 10_000))
def test_header_with_a_line_break_is_not_sent(values: list[str], size_bytes: int) -> None:
    route = Route(URL("http://a/"), "/", "a", None)  # type: ignore[arg-type]
    headers = [(f"X-{number}", value) for number, value in enumerate(values)]
    try:
        lines = _head(route, "POST", headers, size_bytes).split(b"\r\n")
    except ValueError:
        assert any(mark in value for value in values for mark in ("\r", "\n", "\0", *map(chr, range(0xD800, 0xE000))))
        return
    sent = [f"{name}: {value}".encode() for name, value in headers]
    assert lines == [b"POST / HTTP/1.1", b"Host: a", *sent, b"Content-Length: %d" % size_bytes, b"", b""]
    assert not any(mark in line for line in lines for mark in (b"\r", b"\n", b"\0"))


# --- what comes back


OK = b"HTTP/1.1 200 OK\r\n"
LONG = b"X: " + b"y" * 10_000 + b"\r\n"
LENGTH = b"Content-Length: 2\r\n"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\nok", (204, b"")),
        (b"HTTP/1.1 204 No Content\r\n" + LENGTH + b"\r\nok", (204, b"")),
        (OK + LENGTH + LENGTH + b"\r\nok", (200, b"ok")),
        (OK + LENGTH + LENGTH + b"\r\nok and more", (200, b"ok")),
        (OK + LENGTH + b"\r\nok and more", (200, b"ok")),
        (OK + b"Content-Length: 2, 2\r\n\r\nok", (200, b"ok")),
        (OK + LENGTH + b"Content-Length: 3\r\n\r\nok", (200, b"ok")),
        (OK + b"Content-Length: x\r\n\r\nok", (200, b"ok")),
        (OK + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", (200, b"2\r\nok\r\n0\r\n\r\n")),
        (OK + b"X: \0\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", (200, b"ok")),
        (OK + LONG + LENGTH + b"\r\nok", (200, b"ok")),
        (OK + b"X: y\r\n" * 500 + LENGTH + b"\r\nok", (200, b"ok")),
        (OK + LONG * 10, (200, b"")),
        (OK + b"\xff\0\r\n" + LENGTH + b"\r\nok", (200, b"ok")),
        (answer(103, [], None) + OK + LENGTH + LENGTH + b"\r\nok", (200, b"ok")),
        (answer(503, [("Content-Length", "2")], b"no"), (503, b"no")),
    ],
)
async def test_status_counts_even_if_the_rest_is_malformed(raw: bytes, expected: tuple[int, bytes]) -> None:
    async def say(call: Call) -> None:
        await call.body()
        await call.send(raw)

    async with open_stub(say) as stub, opened() as exchanges:
        for number in range(2):
            assert await ask(exchanges, stub.url) == expected
            await stub.until(lambda: not stub._writers)
            assert stub.connections == number + 1, "its connection is not used again"


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("raw", [OK, OK + b"Serv", OK + b"\0: \r\nX", b"HTTP/1.1 100 Continue\r\n\r\n" + OK])
async def test_status_counts_if_the_connection_breaks_within_the_head(raw: bytes, method: str) -> None:
    async def say(call: Call) -> None:
        await call.body()
        await call.send(raw)
        call.cut()

    async with open_stub(say) as stub, opened() as exchanges:
        assert await ask(exchanges, stub.url, method) == (200, b"")
    assert len(stub.received) == 1, "it is not sent again"


@pytest.mark.parametrize("end", [b"zz\r\n", b"5\r\nab"])
async def test_malformed_or_truncated_body_is_an_error_after_the_head(end: bytes) -> None:
    async def say(call: Call) -> None:
        await call.body()
        await call.send(OK + b"Transfer-Encoding: chunked\r\n\r\n" + end)
        call.cut()

    async with open_stub(say) as stub, opened() as exchanges:
        got = await exchanges.begin(Route.to(URL(stub.url)), "POST", [], BODY)
        assert got.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await got.content.read()
        got.close()


@pytest.mark.parametrize("endless", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 \r\nLink: x\r\n\r\n"])
async def test_endless_interim_responses_do_not_fill_memory(endless: bytes) -> None:
    sent_bytes = 0

    async def say(call: Call) -> None:
        nonlocal sent_bytes
        await call.body()
        while sent_bytes < 50_000_000:
            await call.send(endless * 1_000)
            sent_bytes += len(endless) * 1_000

    async with open_stub(say) as stub, opened() as exchanges:
        with pytest.raises(Garbled):
            await ask(exchanges, stub.url)
    assert sent_bytes < 50_000_000


# --- on which connection, and how often


async def test_unrequested_response_is_not_taken_for_the_next_one() -> None:
    async def say_twice(call: Call) -> None:
        await call.body()
        await call.send(answer(200, [], call.request.target))
        if call.request.target == b"/first":
            await asked.wait()
            await call.send(answer(200, [], b"somebody else's"))

    asked = asyncio.Event()
    async with open_stub(say_twice) as stub, opened() as exchanges:
        assert await ask(exchanges, stub.url + "/first") == (200, b"/first")
        ((kept, _),) = next(iter(exchanges._connector._conns.values()))
        asked.set()
        async with asyncio.timeout(10):
            while not len(kept):  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0)
        assert await ask(exchanges, stub.url + "/second") == (200, b"/second")
    assert stub.connections == 2


async def say_more(call: Call) -> None:
    """A response, followed by an unrequested one."""
    await call.body()
    await call.send(answer(200, [], b"ok") + answer(200, [], b"somebody else's"))


async def say_close(call: Call) -> None:
    await call.body()
    await call.send(answer(200, [("Connection", "close")], b"ok"))


async def say_upgraded(call: Call) -> None:
    await call.body()
    await call.send(answer(101, [("Connection", "upgrade"), ("Upgrade", "x")], None))


@pytest.mark.parametrize("say", [say_more, say_close, say_upgraded])
async def test_doubtful_connection_is_not_reused(say: Handler) -> None:
    async with open_stub(say) as stub, opened() as exchanges:
        for _ in range(2):
            got = await exchanges.begin(Route.to(URL(stub.url)), "POST", [], BODY)
            got.close()
    assert stub.connections == 2


async def test_connection_with_an_unread_response_is_not_reused() -> None:
    async def say(call: Call) -> None:
        await call.body()
        await call.send(answer(200, [("Content-Length", "10")], None) + b"half")

    async with open_stub(say) as stub, opened() as exchanges:
        got = await exchanges.begin(Route.to(URL(stub.url)), "POST", [], BODY)
        got.close()
        await stub.until(lambda: stub.connections == 1 and not stub._writers)


async def test_response_before_the_request_is_complete_closes_the_connection() -> None:
    """The next request on it would follow the unsent rest of this one."""
    left = asyncio.Event()

    async def refuse(call: Call) -> None:
        await call.send(answer(413, [], b"too large"))
        await left.wait()
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            async for part in body_parts(call.reader, call.request):
                call.request.body += part
        call.request.ended = len(call.request.body) == call.request.length

    body = b"x" * 50_000_000  # more than the sockets hold
    async with open_stub(refuse) as stub, opened() as exchanges:
        assert await ask(exchanges, stub.url, body=body) == (413, b"too large")
        left.set()
        await stub.until(lambda: not stub._writers)
        assert not stub.received[0].ended
    assert stub.connections == 1


@pytest.mark.parametrize(
    ("method", "times"), [("POST", 1), ("PATCH", 1), ("GET", 2), ("PUT", 2), ("DELETE", 2), ("OPTIONS", 2)]
)
async def test_only_idempotent_requests_are_sent_again_when_a_pooled_connection_breaks(method: str, times: int) -> None:
    async def close_after_one(call: Call) -> None:
        await call.body()
        if [each.connection for each in stub.received].count(call.request.connection) == 1:
            await call.send(answer(200, [], b"ok"))
        else:
            call.cut()

    async with open_stub() as stub, opened() as exchanges:
        stub.handler = close_after_one
        assert (await ask(exchanges, stub.url, method))[0] == 200
        if times == 1:
            with pytest.raises(aiohttp.ServerDisconnectedError):
                await ask(exchanges, stub.url, method)
        else:
            assert (await ask(exchanges, stub.url, method))[0] == 200
    assert len(stub.received) == 1 + times
