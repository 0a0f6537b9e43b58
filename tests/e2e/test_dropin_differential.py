"""The same requests directly and through the relay: upstream and caller see no difference.

Two sandboxes with one seed and a stopped clock compare what callers get. Two raw sockets compare what arrives at the
upstream, and answer with bytes that no framework would send.
"""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from gzip import compress
from pathlib import Path

import pytest

from relay.core.access.forwarding import HOP_BY_HOP
from relay.sandbox.server import Sandbox
from relay.server.http_server import make_server
from relay.testing import FakeClock
from tests.support.dropin_requests import KEY, Made, Requests
from tests.support.process_world import Start, processes
from tests.support.wire import Answer, Call, Client, Header, Received, answer, listening, open_stub, request

CASES = 500
SEED = 20260520
LATER = 2_000_000_000.0
"""The sandboxes' time. No job is due before, so the relay makes no polls of its own."""
RARELY = "{min_interval_seconds: 800, max_interval_seconds: 900, connect_accounts_interval_seconds: 86400}"
POLLING = f"sources: {{revor: {{polling: {RARELY}}}}}\n"
CONNECTION = {name.decode() for name in HOP_BY_HOP} | {"connection"}
OURS = {"relay-cache", "age"}
COUNTERS = re.compile(r"x-(user-)?ratelimit-.*")
FROM_WHERE = re.compile(r"(x-)?forwarded.*|x-real-ip")
"""Headers that would tell the upstream where a request comes from. The relay does not send them on."""
REQUEST_ID = re.compile(rb'"request_id":"req_[0-9A-Za-z]+"')


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    (tmp_path / "relay.yaml").write_text(POLLING)
    with processes(tmp_path) as begin:
        yield begin


async def relay_to(start: Start, upstream: str) -> str:
    """The URL of a relay for this upstream."""
    adopts = {"RELAY_PROXY__ADOPT_UNKNOWN_KEYS": "true"}  # so that requests with any key reach the upstream
    process = start("serve", "--dev", "--port", "0", REVOR_BASE_URL=upstream, REVOR_API_KEY=KEY, **adopts)
    return await asyncio.to_thread(process.until, r"serving (http://\S+)")


@contextlib.asynccontextmanager
async def sandbox() -> AsyncIterator[str]:
    """The URL of a sandbox with this seed."""
    app = Sandbox(seed=SEED, rate_limit=(100_000, 60.0)).app(clock=FakeClock(LATER))
    server = make_server(app, shutdown_seconds=1)
    with contextlib.closing(listening()) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        await serving


def compared(headers: Sequence[Header], *left_out: str) -> list[tuple[str, bytes]]:
    """The headers that must match; order counts only within a name."""
    shown = [(name.decode(), value) for name, value in headers]
    named = {word.strip().lower() for name, value in shown if name == "connection" for word in value.split(b",")}
    apart = {*CONNECTION, *OURS, "date", "content-length", *(word.decode() for word in named), *left_out}
    ignored = re.compile(f"{COUNTERS.pattern}|{FROM_WHERE.pattern}")
    kept = [each for each in shown if each[0] not in apart and not ignored.fullmatch(each[0])]
    return sorted(kept, key=lambda each: each[0])


def next_of(requests: Requests) -> Made:
    """The next request whose key an account can have. The relay refuses others itself."""
    while True:
        made = requests.draw()
        if all(value.isascii() for name, value in made.headers if name.lower() in ("authorization", "x-api-key")):
            return made


def same_framing(answered: Answer, method: str) -> bool:
    """True if Content-Length matches the body."""
    expected = answered.length in (None, len(answered.body))
    return (method == "HEAD" and answered.status != 304) or expected


async def test_callers_get_the_same_answers(start: Start) -> None:
    requests, caches, statuses = Requests(SEED), Counter[str](), Counter[int]()
    async with contextlib.AsyncExitStack() as stack:
        near, far = [await stack.enter_async_context(sandbox()) for _ in range(2)]
        relay = await relay_to(start, far)
        direct, relayed = [await stack.enter_async_context(Client(url)) for url in (near, relay)]
        for number in range(CASES):
            made = next_of(requests)
            expected, got = await direct.exchange(made.raw), await relayed.exchange(made.raw)
            said = f"case {number}: {made.raw[:300]!r}: {expected}, {got}"
            cache = (got.one("relay-cache") or b"none").decode()
            caches[cache] += 1
            statuses[expected.status] += 1
            assert got.complete, said
            assert got.status == expected.status, said
            assert compared(got.headers) == compared(expected.headers), said
            assert got.all("content-type") == expected.all("content-type"), said
            assert same_framing(got, made.method), said
            # The relay's own listings take request ids, too. All ids are as long.
            assert REQUEST_ID.sub(b"", got.body) == REQUEST_ID.sub(b"", expected.body), said
            if cache == "hit":
                assert int(got.one("age") or -1) >= 0, said
            else:
                assert got.all("content-length") == expected.all("content-length"), said
                assert got.all("age") == [], said
            if expected.status == 202:
                requests.jobs.append(expected.json["item"]["id"])
        behind = await stack.enter_async_context(Client(far))
        jobs = [await client.exchange(request("GET", "/_sandbox/jobs")) for client in (direct, behind)]
        assert jobs[0].json["jobs"] == jobs[1].json["jobs"]
    # All kinds of requests occurred:
    assert caches.keys() >= {"hit", "pass"}
    assert statuses.keys() >= {200, 202, 400, 401, 403, 404, 405, 409}


# --- what arrives, and odd answers

PAGE = b"<!doctype html><title>Just a moment...</title>"
ANSWERS: tuple[bytes, ...] = (
    answer(200, [("Content-Type", "application/json")], b'{"ok":true}'),
    answer(200, [("Content-Type", "application/json"), ("X-Request-Id", "req_1")], b'{"ok":true, "items" : [ ]}\n'),
    answer(202, [("Content-Type", "application/json")], b'{"ok":true,"item":{"id":"job-%d"}}'),
    answer(201, [("Location", "/api/v1/things/1"), ("ETag", 'W/"x"')], b""),
    answer(204, [("X-Nothing", "")], None),
    answer(304, [("ETag", '"abc"')], None),
    answer(304, [("ETag", '"abc"'), ("Content-Length", "1234")], None),
    answer(301, [("Location", "https://elsewhere.example/a?b=c")], b"moved"),
    answer(307, [("Location", "/api/v1/other")], b""),
    answer(400, [("Content-Type", "text/plain; charset=latin-1")], b"\xe9\xff\x00"),
    answer(401, [("WWW-Authenticate", 'Bearer realm="x"'), ("WWW-Authenticate", "Basic")], b"{}"),
    answer(404, [("Content-Type", "text/html")], PAGE),
    answer(418, [], b"short and stout"),
    answer(429, [("Retry-After", "0"), ("X-RateLimit-Remaining", "0")], b"{}"),
    answer(451, [("Link", "<https://x.example>; rel=blocked-by"), ("Link", "<https://y.example>")], b""),
    answer(500, [("Content-Type", "application/problem+json")], b'{"title":"x"}'),
    answer(503, [("Retry-After", "Wed, 20 May 2026 10:00:00 GMT")], b""),
    answer(599, [], b"?"),
    answer(200, [("Set-Cookie", "a=1; Path=/; HttpOnly"), ("X-A", "-"), ("Set-Cookie", "b=2, c; Expires=x")], b"ok"),
    answer(200, [("X-Empty", ""), ("X-Name", "Zoë 王"), ("X-Latin", b"caf\xe9"), ("X-Tab", "a\tb")], b"ok"),
    answer(200, [("Connection", "X-Hop, keep-alive"), ("X-Hop", "1"), ("Keep-Alive", "timeout=9"), ("X-Kept", "2")]),
    answer(200, [("Server", "nginx"), ("Via", "1.1 cdn"), ("Vary", "*"), ("Age", "12"), ("Cache-Control", "private")]),
    answer(200, [("Content-Encoding", "gzip")], compress(b'{"ok":true}', mtime=0)),
    answer(200, [("Content-Encoding", "br"), ("Content-Type", "application/json")], b"\x8b\x05\x80{}\x03"),
    answer(200, [("Content-Type", "application/octet-stream")], bytes(range(256)) * 5_000),
    answer(200, [("X-Many", "v" * 8_000)], b"ok"),
    answer(200, [("Transfer-Encoding", "chunked")], None) + b"3\r\nabc\r\n1;ext=1\r\nd\r\n0\r\n\r\n",
    answer(200, [("Transfer-Encoding", "chunked"), ("Trailer", "X-Sum")], None) + b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n",
    answer(200, [("Connection", "close")], None) + b"until the end of the connection",
    answer(200, [("Connection", "close"), ("Content-Type", "text/plain")], b"and gone"),
    b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n" + answer(200, [("X-After", "103")], b"ok"),
    b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok",
    b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nold",
)


class Echo:
    """An upstream whose answer depends on the case number in a header; `got` are the received cases."""

    def __init__(self) -> None:
        self.got: list[Received] = []

    async def __call__(self, call: Call) -> None:
        await call.body()
        number = int(call.request.one("x-case") or 0)
        if call.request.one("x-case") is not None:  # else it is the relay's own poll of a case's job
            self.got.append(call.request)
        raw = ANSWERS[number % len(ANSWERS)].replace(b"job-%d", b"job-%02d" % (number % 100))
        if call.request.method == "HEAD":
            raw = _head_only(raw)
        await call.send(raw)
        if b"\r\nConnection: close" in raw or raw.startswith(b"HTTP/1.0"):
            call.cut()


def _head_only(raw: bytes) -> bytes:
    """The head of an answer, with any 1xx before it."""
    at = raw.index(b"\r\n\r\n") + 4
    return raw[:at] if not raw.startswith(b"HTTP/1.1 1") else raw[: raw.index(b"\r\n\r\n", at) + 4]


def numbered(made: Made, number: int) -> bytes:
    """The request with its case number."""
    line, rest = made.raw.split(b"\r\n", 1)
    return b"%s\r\nX-Case: %d\r\n%s" % (line, number, rest)


def arrived(got: Received, *left_out: str) -> tuple[str, bytes, list[tuple[str, bytes]], bytes]:
    """The parts of a received request that must match."""
    return got.method, got.target, compared(got.headers, "host", "relay-node", *left_out), bytes(got.body)


def readable(codings: list[bytes]) -> list[bytes]:
    """`Accept-Encoding` as a create is forwarded (docs/guides/drop-in.md)."""
    known = {b"gzip", b"x-gzip", b"deflate", b"identity"}
    words = [[word.strip() for word in value.split(b",")] for value in codings]
    kept = [[word for word in each if word.partition(b";")[0].strip().lower() in known] for each in words]
    return [b", ".join(each) or b"identity" for each in kept]


async def test_upstream_gets_the_same_requests_and_may_answer_anything(start: Start) -> None:
    requests, at_near, at_far = Requests(SEED), Echo(), Echo()
    async with contextlib.AsyncExitStack() as stack:
        near, far = [await stack.enter_async_context(open_stub(echo)) for echo in (at_near, at_far)]
        urls = near.url, await relay_to(start, far.url)
        direct, relayed = [await stack.enter_async_context(Client(url)) for url in urls]
        for number in range(CASES):
            made = next_of(requests)
            raw = numbered(made, number)
            expected, got = await direct.exchange(raw), await relayed.exchange(raw)
            sent, passed = at_near.got[-1], at_far.got[-1]
            said = f"case {number}: {sent}, {passed}, {expected}, {got}"
            assert len(at_far.got) == len(at_near.got) == number + 1, said
            assert passed.one("host") == far.url.partition("//")[2].encode(), said
            assert passed.one("relay-node"), said
            assert not [name for name, _ in passed.headers if FROM_WHERE.fullmatch(name.decode())], said
            if made.creates:
                assert arrived(passed, "accept-encoding") == arrived(sent, "accept-encoding"), said
                codings = sent.all("accept-encoding")  # unchanged for an unknown key
                assert passed.all("accept-encoding") in (codings, readable(codings)), said
            else:
                assert arrived(passed) == arrived(sent), said
            assert passed.length in (sent.length, len(passed.body)), said
            assert got.status == expected.status, said
            assert got.complete, said
            assert compared(got.headers) == compared(expected.headers), said
            assert got.body == expected.body, said
            assert got.one("relay-cache") == b"pass", said
            assert same_framing(got, made.method), said
