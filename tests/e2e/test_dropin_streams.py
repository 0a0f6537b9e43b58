"""Streaming through `relay serve` on raw sockets: no byte is delayed, added, lost or sent twice."""

import asyncio
import contextlib
import gzip
import itertools
import socket
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.process_world import API_TOKEN, keep_token, processes
from tests.support.wire import Answer, Call, Client, Stub, answer, body_parts, listening, open_stub, request

KEY = "sk-revor-test"
AUTH = [("Authorization", f"Bearer {KEY}")]
JSON = [("Content-Type", "application/json")]
DISPATCHES = "/api/v1/outreach/dispatches"
JOBS = "/api/v1/outreach/jobs/"
POLLING = "sources: {revor: {polling: {min_interval_seconds: 800, max_interval_seconds: 900}}}\n"
MEBIBYTE = 1 << 20
PART = bytes(range(256)) * 256
MANY_PARTS = 1600
"""100 MiB."""
SMALL_BUFFER_BYTES = 64 * 1024
MOST_UNDER_WAY_BYTES = 2 * MEBIBYTE + 2 * sum(
    int(Path(f"/proc/sys/net/ipv4/{name}").read_text().split()[2]) for name in ("tcp_rmem", "tcp_wmem")
)
"""Kernel buffers of two sending and two receiving sockets, plus some for the relay: 22 MiB by default, or 76."""
assert MANY_PARTS * len(PART) > MOST_UNDER_WAY_BYTES
POLL_AGAIN_SECONDS = 0.02
STUCK_SECONDS = 0.3
"""Writing counts as blocked after this time. A slow machine weakens the test but cannot fail it."""

REACHES_PAST = (
    *("/api/v1/..", "/api/v1/../../admin", "/api/v1/./x", "/api/v1/%2e%2e/%2e%2e/admin", "/api/v1/..%2f..%2fadmin"),
    *("/api/v1/x/%2E./y", "/api/v2/..;/..;/admin", "/api/v1/..;a=b/x", "/api/v1/..\\x", "/api/v1/%5c..%5cadmin"),
    *("/api/v1/%252e%252e%252fadmin", "/api/v1/%25252e%25252e/x", "/api/v1/%c0%ae%c0%ae/x", "/api/v1/%u002e%u002e/x"),
    *("/api%2Fv1/x", "/api/%76%31/x", "/api/v1/x%00", "/api/v1/x%0d%0aHost:%20x", "/api/v1/x%250ay"),
    *(JOBS + "%2e%2e/dispatches", JOBS + "..%2fdispatches", DISPATCHES + "/../jobs/x", DISPATCHES + "%2f.."),
    "http://127.0.0.1/api/v1/../../admin",
)

_numbers = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A relay and its upstream's port."""

    url: str
    port: int


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("relay")
    (folder / "relay.yaml").write_text(POLLING)
    keep_token(folder)
    with socket.socket() as reserved, processes(folder) as start:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # an upstream may listen there beside it
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        process = start("serve", "--port", "0", REVOR_BASE_URL=f"http://127.0.0.1:{port}", REVOR_API_KEY=KEY)
        yield Place(url=process.until(r"serving (http://\S+)"), port=port)
        assert process.end() == 0
        assert not [line for line in process.lines if "exception" in line or "Traceback" in line]


@pytest.fixture
async def upstream(place: Place) -> AsyncIterator[Stub]:
    async with open_stub(port=place.port) as stub:
        yield stub


@pytest.fixture
async def caller(place: Place) -> AsyncIterator[Client]:
    async with Client(place.url) as client:
        yield client


@pytest.fixture(autouse=True)
async def _bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(300):
        yield


def new_path() -> str:
    return f"/api/v1/things/{next(_numbers)}"


def new_create(*, body: bytes = b"{}", headers: Sequence[tuple[str, str]] = ()) -> tuple[str, bytes]:
    """A create with a unique target."""
    target = f"{DISPATCHES}?n={next(_numbers)}"
    return target, request("POST", target, [*AUTH, *JSON, *headers], body)


def made(job_id: str) -> bytes:
    """The answer to a create. The job is scheduled far ahead, so it is not polled."""
    item = {"id": job_id, "status": "queued", "channel": "email", "scheduled_at": "2096-01-01T00:00:00.000Z"}
    return orjson.dumps({"ok": True, "request_id": "req_1", "item": item})


async def ask(place: Place, path: str) -> Answer:
    """A request to the relay's API."""
    async with Client(place.url) as client:
        return await client.exchange(request("GET", path, [("Authorization", f"Bearer {API_TOKEN}")]))


async def until(true: Callable[[], Any]) -> None:
    """Repeats a request until it succeeds, within the test's time."""
    while True:
        if await true():
            return
        await asyncio.sleep(POLL_AGAIN_SECONDS)


async def until_tracked(place: Place, job_id: str) -> None:
    async def tracked() -> bool:
        return (await ask(place, f"/v1/jobs/{job_id}")).status == 200

    await until(tracked)


async def intents_of(place: Place, key: str) -> list[dict[str, Any]]:
    """The creates of unknown outcome with this Idempotency-Key."""
    items = (await ask(place, "/v1/intents?limit=500")).json["items"]
    return [item for item in items if item["idempotency_key"] == key]


# --- what a caller sends


async def test_relay_answers_100_continue(upstream: Stub, caller: Client) -> None:
    path = new_path()
    caller.writer.write(request("PUT", path, [*AUTH, ("Expect", "100-continue"), ("Content-Length", "5")]))
    assert (await caller.head()).words[1] == b"100"
    caller.writer.write(b"hello")
    assert (await caller.answer()).status == 200
    (got,) = upstream.of(path)
    assert (bytes(got.body), got.all("expect")) == (b"hello", [])


async def test_chunks_are_forwarded_as_they_arrive(upstream: Stub, caller: Client) -> None:
    path = new_path()
    came: asyncio.Queue[bytes] = asyncio.Queue()

    async def take(call: Call) -> None:
        async for part in body_parts(call.reader, call.request):
            came.put_nowait(part)
        await call.send(answer(200, [], b"taken"))

    upstream.handler = take
    caller.writer.write(request("POST", path, [*AUTH, ("Transfer-Encoding", "chunked")]))
    for part in (b"one", b"two", b"three"):
        caller.writer.write(chunk_of(part))
        assert await came.get() == part  # before the next one is sent
    caller.writer.write(b"0\r\n\r\n")
    assert (await caller.answer()).body == b"taken"
    assert upstream.of(path)[0].chunked


@pytest.mark.parametrize("begun", [False, True], ids=["no answer yet", "answer begun"])
async def test_upload_waits_for_a_slow_upstream(place: Place, begun: bool) -> None:
    path, go_on = new_path(), asyncio.Event()
    digest = sha256()
    head = answer(200, [("Content-Length", "5")], None)

    async def take_later(call: Call) -> None:
        if begun:
            await call.send(head)
        await go_on.wait()
        async for part in body_parts(call.reader, call.request):
            digest.update(part)
        await call.send(b"taken" if begun else head + b"taken")

    with contextlib.closing(listening(place.port, buffer_bytes=SMALL_BUFFER_BYTES)) as listener:
        async with open_stub(take_later, listener=listener) as upstream, Client(place.url) as caller:
            caller.writer.transport.set_write_buffer_limits(SMALL_BUFFER_BYTES)
            caller.writer.write(request("PUT", path, [*AUTH, ("Transfer-Encoding", "chunked")]))
            accepted = await written_until_stuck(caller.writer)
            assert upstream.of(path)
            assert accepted < MOST_UNDER_WAY_BYTES
            go_on.set()
            for _ in range(MANY_PARTS - accepted // len(PART)):
                caller.writer.write(chunk_of(PART))
                await caller.writer.drain()
            caller.writer.write(b"0\r\n\r\n")
            assert (await caller.answer()).body == b"taken"
    assert digest.digest() == sha256(PART * MANY_PARTS).digest()


async def written_until_stuck(writer: asyncio.StreamWriter) -> int:
    """Writes chunks until the peer stops reading. Returns the number of bytes written."""
    written = 0
    with contextlib.suppress(TimeoutError):
        while written < MANY_PARTS * len(PART):
            writer.write(chunk_of(PART))
            written += len(PART)
            async with asyncio.timeout(STUCK_SECONDS):
                await writer.drain()
    return written


def chunk_of(part: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(part), part)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_path_that_could_leave_the_prefix_is_never_sent(upstream: Stub, caller: Client, method: str) -> None:
    for target in REACHES_PAST:
        got = await caller.exchange(request(method, target, AUTH, None if method == "GET" else b"{}"))
        assert (got.status, got.code) == (400, "relay_invalid_path"), target
        assert "Nothing was sent" in got.json["error"]["message"]
    assert upstream.received == []


async def test_header_that_is_not_utf_8_is_refused_and_never_sent(upstream: Stub, caller: Client) -> None:
    for value in (b"caf\xe9", b"\xff", b"\xed\xa0\x80", b"\xc0\x80"):
        for method, target in (("GET", "/api/v1/x"), ("GET", JOBS + "x"), ("POST", DISPATCHES), ("PUT", "/api/v1/x")):
            body = None if method == "GET" else b"{}"
            got = await caller.exchange(request(method, target, [*AUTH, ("X-Caller", value)], body))
            assert (got.status, got.code) == (400, "relay_invalid_header"), (method, target, value)
            assert "x-caller" in got.json["error"]["message"]
            assert "Nothing was sent" in got.json["error"]["message"]
    assert upstream.received == []
    assert (await caller.exchange(request("GET", "/api/v1/x", [*AUTH, ("X-Caller", "café")]))).status == 200
    assert upstream.of("/api/v1/x")[0].one("x-caller") == "café".encode()


async def test_headers_of_an_answer_pass_as_they_are(upstream: Stub, caller: Client) -> None:
    odd = [("X-Latin", b"caf\xe9"), ("X-Surrogate", b"\xed\xa0\x80"), ("X-Any", b"\xff\xfe")]

    async def respond(call: Call) -> None:
        await call.body()
        await call.send(answer(202, [*JSON, *odd], made(f"odd-{next(_numbers)}")))

    upstream.handler = respond
    for method, target in (("GET", new_path()), ("POST", DISPATCHES)):
        got = await caller.exchange(request(method, target, AUTH, None if method == "GET" else b"{}"))
        assert [got.one(name.lower()) for name, _ in odd] == [value for _, value in odd]


async def test_query_that_is_not_ascii_is_never_sent(place: Place, upstream: Stub) -> None:
    for query in (b"q=caf\xe9", "q=café".encode(), b"q=\xed\xa0\x80"):
        async with Client(place.url) as caller:
            assert (await caller.exchange(request("GET", b"/api/v1/x?" + query, AUTH))).status == 400
    assert upstream.received == []


async def test_job_read_with_a_body_is_forwarded_with_it(upstream: Stub, caller: Client, place: Place) -> None:
    job_id = f"with-body-{next(_numbers)}"

    async def make(call: Call) -> None:
        await call.body()
        await call.send(answer(202, JSON, made(job_id)))

    upstream.handler = make
    await caller.exchange(new_create()[1])
    for framed in ({"body": b"hello"}, {"chunks": [b"hel", b"lo"]}):
        await caller.exchange(request("GET", JOBS + job_id, AUTH, **framed))  # type: ignore[arg-type]
        assert bytes(upstream.received[-1].body) == b"hello"


async def test_every_form_of_request_target(upstream: Stub, caller: Client) -> None:
    for target, wanted in (
        ("http://127.0.0.1:1/api/v1/a%2Fb?c=d", b"/api/v1/a%2Fb?c=d"),
        ("/api/v1/x?y#z", b"/api/v1/x?y"),  # a fragment is never sent
        ("/api/v1/x?", b"/api/v1/x"),  # docs/guides/drop-in.md
        ("/api/v1/x??", b"/api/v1/x??"),
        ("/api/v1/%2e%2e%2e/..x/x..;y", b"/api/v1/%2e%2e%2e/..x/x..;y"),
    ):
        assert (await caller.exchange(request("GET", target, AUTH))).status == 200
        assert upstream.received[-1].target == wanted


async def test_create_is_recognised_however_its_path_is_encoded(place: Place, upstream: Stub, caller: Client) -> None:
    async def make(call: Call) -> None:
        await call.body()
        await call.send(answer(202, [], made(f"written-{next(_numbers)}")))

    upstream.handler = make
    for target in (DISPATCHES, f"{DISPATCHES}?a=b", DISPATCHES.replace("s", "%73"), DISPATCHES.replace("o", "%6F")):
        job_id = (await caller.exchange(request("POST", target, AUTH, b"{}"))).json["item"]["id"]
        assert (await ask(place, f"/v1/jobs/{job_id}")).status == 200, target


async def test_chain_of_relays_works_and_a_loop_is_detected(upstream: Stub, caller: Client) -> None:
    other = "0123456789abcdef"
    sent = [*AUTH, ("Relay-Node", other), ("Relay-Node", "forged"), ("X-Forwarded-For", "10.0.0.1")]
    await caller.exchange(request("GET", "/api/v1/x", sent))
    first, own = upstream.received[-1].all("relay-node")
    assert first == other.encode()
    assert upstream.received[-1].all("x-forwarded-for") == []
    for names in ((own,), (other, own), (own, other)):
        got = await caller.exchange(request("GET", "/api/v1/x", [*AUTH, *(("Relay-Node", name) for name in names)]))
        assert got.status == 508
    assert len(upstream.received) == 1


# --- what an upstream answers


async def test_download_waits_for_a_slow_caller(upstream: Stub, place: Place) -> None:
    sent, stuck = 0, asyncio.Event()

    async def give(call: Call) -> None:
        nonlocal sent
        call.writer.transport.set_write_buffer_limits(SMALL_BUFFER_BYTES)
        await call.send(answer(200, [("Content-Length", str(MANY_PARTS * len(PART)))], None))
        while sent < MANY_PARTS * len(PART):
            call.writer.write(PART)
            sent += len(PART)
            try:
                async with asyncio.timeout(None if stuck.is_set() else STUCK_SECONDS):
                    await call.writer.drain()
            except TimeoutError:
                stuck.set()
                await call.writer.drain()
        stuck.set()

    upstream.handler = give
    async with Client(place.url) as caller:
        caller.writer.write(request("GET", new_path(), AUTH))
        await stuck.wait()
        assert sent < MOST_UNDER_WAY_BYTES
        head, digest = await caller.head(), sha256()
        async for part in body_parts(caller.reader, head):
            digest.update(part)
    assert digest.digest() == sha256(PART * MANY_PARTS).digest()


async def test_answer_is_streamed_as_it_arrives(upstream: Stub, caller: Client) -> None:
    more = asyncio.Event()

    async def drip(call: Call) -> None:
        await call.body()
        await call.send(answer(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")], None))
        for number in range(3):
            await call.send(chunk_of(b"event %d" % number))
            await more.wait()
            more.clear()
        await call.send(b"0\r\n\r\n")

    upstream.handler = drip
    caller.writer.write(request("GET", new_path(), AUTH))
    parts = body_parts(caller.reader, await caller.head())
    for number in range(3):
        assert await anext(parts) == b"event %d" % number
        more.set()  # only now is the next one sent
    assert [part async for part in parts] == []


@pytest.mark.parametrize(
    ("coding", "squeeze"),
    [
        ("gzip", lambda body: gzip.compress(body, mtime=0)),
        ("x-gzip", lambda body: gzip.compress(body, mtime=0)),
        ("deflate", zlib.compress),
        ("deflate", lambda body: zlib.compress(body)[2:-4]),
        ("identity", lambda body: body),
    ],
)
async def test_compressed_answer_to_a_create_is_forwarded_and_parsed(
    place: Place, upstream: Stub, caller: Client, coding: str, squeeze: Callable[[bytes], bytes]
) -> None:
    job_id = f"squeezed-{next(_numbers)}"
    body = squeeze(made(job_id))

    async def say(call: Call) -> None:
        await call.body()
        await call.send(answer(202, [*JSON, ("Content-Encoding", coding)], body))

    upstream.handler = say
    target, raw = new_create(headers=[("Accept-Encoding", "br;q=1, gzip;q=0.5, deflate, zstd")])
    got = await caller.exchange(raw)
    assert (got.status, got.body, got.all("content-encoding")) == (202, body, [coding.encode()])
    assert upstream.of(target)[0].all("accept-encoding") == [b"gzip;q=0.5, deflate"]
    await until_tracked(place, job_id)


async def test_oversized_answer_to_a_create_is_forwarded(place: Place, upstream: Stub, caller: Client) -> None:
    key = f"large-answer-{next(_numbers)}"
    body = made(key)[:-1] + b',"padding":"' + b"x" * 3 * MEBIBYTE + b'"}'

    async def say(call: Call) -> None:
        await call.body()
        await call.send(answer(202, JSON, body))

    upstream.handler = say
    got = await caller.exchange(new_create(headers=[("Idempotency-Key", key)])[1])
    assert (got.status, got.complete, got.body == body) == (202, True, True)
    (intent,) = await intents_of(place, key)
    assert (intent["reason"], intent["status_code"]) == ("unreadable", 202)


async def test_control_byte_in_an_answer_header_does_not_block_the_answer(
    place: Place, upstream: Stub, caller: Client
) -> None:
    for byte in (bytes([code]) for code in (*range(1, 9), 11, 12, *range(14, 32), 127)):
        job_id, path = f"odd-header-{next(_numbers)}", new_path()
        said = answer(202, [*JSON, ("X-Odd", b"a" + byte + b"b"), ("Server", b"Caf\xe9" + byte)], made(job_id))

        async def make(call: Call, said: bytes = said) -> None:
            await call.body()
            await call.send(said)

        upstream.handler = make
        for target, raw in (new_create(), (path, request("GET", path, AUTH))):
            got = await caller.exchange(raw)
            assert (got.status, got.body, got.complete) == (202, made(job_id), True), byte
            assert (got.one("x-odd"), got.one("server")) == (b"a b", b"Caf\xe9"), byte
            assert len(upstream.of(target)) == 1
            if target != path:
                await until_tracked(place, job_id)


# --- callers who leave


async def test_disconnect_cancels_an_upload(upstream: Stub, place: Place) -> None:
    came, broken = asyncio.Event(), asyncio.Event()

    async def take(call: Call) -> None:
        try:
            async for _ in body_parts(call.reader, call.request):
                came.set()
        except (asyncio.IncompleteReadError, ConnectionError):
            broken.set()
            raise

    async def failures() -> list[bytes]:
        lines = (await ask(place, "/metrics")).body.splitlines()
        return [line for line in lines if line.startswith(b"relay_passed_requests_total") and b'"5xx"' in line]

    upstream.handler = take
    before = await failures()
    for framing in (("Content-Length", "1000000"), ("Transfer-Encoding", "chunked")):
        async with Client(place.url) as caller:
            caller.writer.write(request("PUT", new_path(), [*AUTH, framing]) + chunk_of(b"the first part"))
            await came.wait()
        await broken.wait()
        came.clear()
        broken.clear()
    assert await failures() == before  # nothing failed, and there is no caller to answer


async def test_create_with_an_incomplete_body_is_not_sent(upstream: Stub, place: Place) -> None:
    key = f"half-{next(_numbers)}"
    target, raw = new_create(body=b"x" * 100, headers=[("Idempotency-Key", key)])
    async with Client(place.url) as caller:
        caller.writer.write(raw[:-1])
        await caller.writer.drain()
    async with Client(place.url) as caller:
        await caller.exchange(request("GET", new_path(), AUTH))
    assert upstream.of(target) == []
    assert await intents_of(place, key) == []


# --- upstreams that break off

HALF = answer(200, [*JSON, ("Content-Length", "1000")], None) + b'{"ok":true,'
HALF_CHUNKED = answer(200, [*JSON, ("Transfer-Encoding", "chunked")], None) + b'ff\r\n{"ok":true,'


@pytest.mark.parametrize("half", [HALF, HALF_CHUNKED, HALF[:30], b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 999 ?\r\n\r\n"])
async def test_create_with_an_incomplete_answer_has_an_unknown_outcome(
    place: Place, upstream: Stub, caller: Client, half: bytes
) -> None:
    async def break_off(call: Call) -> None:
        await call.body()
        await call.send(half)
        call.cut()

    upstream.handler = break_off
    key = f"broken-{next(_numbers)}"
    target, raw = new_create(headers=[("Idempotency-Key", key)])
    got = await caller.exchange(raw)
    assert (got.status, got.code, got.complete) == (502, "relay_outcome_unknown", True)
    (intent,) = await intents_of(place, key)
    assert intent["id"] in got.json["error"]["message"]
    assert intent["reason"] == "no_answer"
    assert len(upstream.of(target)) == 1


# --- never sent twice


async def close_at_once(call: Call) -> None:
    call.cut()


async def close_after_the_body(call: Call) -> None:
    await call.body()
    call.cut()


async def reset(call: Call) -> None:
    await call.body()
    call.writer.transport.abort()


async def close_after_100(call: Call) -> None:
    await call.body()
    await call.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    call.cut()


async def close_within_the_head(call: Call) -> None:
    await call.body()
    await call.send(b"HTTP/1.1 202 Acc")
    call.cut()


async def answer_503(call: Call) -> None:
    await call.body()
    await call.send(answer(503, [("Retry-After", "0"), ("Connection", "close")], b"{}"))
    call.cut()


async def answer_408(call: Call) -> None:
    await call.body()
    await call.send(answer(408, [("Connection", "close")], b""))
    call.cut()


@pytest.mark.parametrize("kept", [True, False], ids=["kept connection", "new connection"])
@pytest.mark.parametrize(
    "ending",
    [
        *(close_at_once, close_after_the_body, reset, close_after_100),
        *(close_within_the_head, answer_503, answer_408),
    ],
)
async def test_create_is_sent_once_whatever_happens(
    upstream: Stub, caller: Client, ending: Callable[[Call], Any], kept: bool
) -> None:
    target, raw = new_create(headers=[("Idempotency-Key", f"once-{next(_numbers)}")])
    path = new_path()
    if kept:
        await caller.exchange(request("GET", path, AUTH))
    upstream.handler = ending
    got = await caller.exchange(raw)
    assert got.status in (502, 503, 408)
    (sent,) = upstream.of(target)
    assert not kept or sent.connection == upstream.of(path)[0].connection
    await caller.exchange(request("OPTIONS", new_path(), AUTH))  # anything still to be sent comes first
    assert len(upstream.of(target)) == 1


async def test_read_on_a_closing_connection_is_sent_again(upstream: Stub, caller: Client) -> None:
    path, seen = new_path(), 0

    async def close_first(call: Call) -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            call.cut()
        else:
            await call.send(answer(200, [], b"here"))

    await caller.exchange(request("GET", new_path(), AUTH))
    upstream.handler = close_first
    assert (await caller.exchange(request("GET", path, AUTH))).body == b"here"
    assert len(upstream.of(path)) == 2


# --- upstreams that never answer
