"""A sink on a raw socket that answers with arbitrary bytes: the attempt is recorded and the job's next event is
sent.

`FUZZ_TEST_COUNT` and `FUZZ_TEST_SEED` as in `tests/support/fuzz_kit.py`; a failure shows the bytes.
"""

import asyncio
import contextlib
import ipaddress
import random
import re
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
import structlog

from relay.api.deliveries.deliveries import attempt_view
from relay.core.access.netguard import GuardPolicy
from relay.core.deliveries.delivery import Attempt
from relay.core.subscriptions.subscription import SigningSecret
from relay.delivery.outcomes import CUT, HEADERS_CHARACTERS
from relay.http.sender import Sender
from relay.store.store import Store
from relay.testing import FakeClock
from tests.support.fuzz_kit import INPUTS, SEED
from tests.support.peer import open_peer
from tests.support.simulation_world import SECRET, World
from tests.support.store_kit import poll, rows, subscription, track

pytestmark = pytest.mark.verify

CASES = max(20, INPUTS // 4)
TIMEOUT_SECONDS = 0.4
LONGEST_PAUSE_SECONDS = 90_000.0
STATUSES = (200, 200, 201, 202, 204, 206, 299, 301, 304, 400, 404, 410, 429, 500, 503, 599, 999)
ODD = (
    b"\0",
    b"\xff",
    b"\xe9",
    b"\xed\xa0\xbd",
    "é".encode(),
    *(b"\x7f", b"\t", b":", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" "),
)
NAMES = (
    *(b"Server", b"Retry-After", b"Date", b"Set-Cookie", b"Connection", b"Upgrade", b"Content-Encoding", b"X"),
    b"\xff",
)
VALUES = (
    b"close",
    b"keep-alive",
    b"gzip",
    b"1e999",
    b"9" * 40,
    b"-1",
    b"86400",
    b"Thu, 99 Foo 20 99:99:99 GMT",
    b"0.5",
)
VALUES += (b"Wed, 21 Oct 9999 07:28:00 GMT", b"Caf\xe9", b"\0", b"v" * 2000, b"v" * 20_000, b"")
LF = b"\r\n"


@dataclass(frozen=True, slots=True)
class Case:
    """One response: its bytes in the chunks written, and what follows.

    status  of the response's status line, if it is certain to arrive
    end     close, eof (the sink's half only), abort (unsent bytes may be lost), open
    """

    pieces: tuple[bytes, ...]
    end: str
    status: int | None


def noise(draw: random.Random, most: int = 40) -> bytes:
    """Random bytes, biased towards those with a meaning in HTTP."""
    return b"".join(
        draw.choice(ODD) if draw.random() < 0.3 else bytes([draw.randrange(256)]) for _ in range(draw.randrange(most))
    )


def header(draw: random.Random) -> bytes:
    name = draw.choice(NAMES) if draw.random() < 0.7 else noise(draw, 10)
    value = draw.choice(VALUES) if draw.random() < 0.7 else noise(draw)
    return name + draw.choice((b": ", b":", b" : ", b"")) + value


def framed(draw: random.Random) -> tuple[list[bytes], bytes]:
    """Headers that say where the body ends, correctly or not, and the body."""
    body = draw.choice((b"", b"ok", b"ok", noise(draw, 200), b"x" * 100_000))
    length = b"Content-Length: %d" % len(body)
    wrong = b"Content-Length: " + draw.choice((b"5", b"99999", b"-1", b"x", b"1, 1", b"9" * 30, b""))
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    coding = b"Transfer-Encoding: chunked"
    return draw.choice(
        (
            ([length], body),
            ([length, length], body),
            ([length, wrong], body),
            ([wrong], body),
            ([], body),
            ([length], body + noise(draw)),
            ([coding], chunks),
            ([coding], chunks[: draw.randrange(len(chunks))]),
            ([coding], noise(draw)),
            ([coding, length], chunks),
            ([b"Transfer-Encoding: " + noise(draw, 8)], body),
        )
    )


def answer(draw: random.Random) -> tuple[bytes, int | None]:
    """A response, and its status if nothing before the status was damaged."""
    if draw.random() < 0.1:
        return noise(draw, 300), None
    status: int | None = draw.choice(STATUSES)
    reason = noise(draw, 12).replace(b"\n", b"")
    framing, body = framed(draw)
    headers = [header(draw) for _ in range(draw.choice((0, 1, 3, 3, 200)))]
    headers += framing
    draw.shuffle(headers)
    line = b"HTTP/1.%d %d %b" % (draw.randrange(2), status, reason)
    raw = LF.join([line, *headers, b"", body])
    if draw.random() < 0.1:
        raw = raw[: draw.randrange(len(line), len(raw) + 1)]
        status = status if b"\n" in raw[len(line) :] else None
    if draw.random() < 0.1:
        at = draw.randrange(len(raw))
        raw, status = raw[:at] + noise(draw, 5) + raw[at + draw.randrange(3) :], None
    if draw.random() < 0.1:
        raw = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + raw
    return raw, status


def case(draw: random.Random) -> Case:
    raw, status = answer(draw)
    cuts = sorted(draw.randrange(len(raw) + 1) for _ in range(draw.choice((0, 0, 0, 1, 4))))
    pieces = tuple(raw[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(raw)], strict=True))
    end = draw.choice(("close",) * 7 + ("eof", "abort", "open"))
    return Case(pieces=pieces, end=end, status=None if end == "abort" else status)


class RawSink:
    """Answers the first request to a path as its case says, and later ones with a plain 200."""

    def __init__(self) -> None:
        self.cases: dict[bytes, Case] = {}
        self.asked: dict[bytes, int] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                await reader.readexactly(int(size[1]) if size else 0)
                path = head.split(b" ")[1]
                self.asked[path] = self.asked.get(path, 0) + 1
                reported = self.cases.pop(path, None)
                if reported is None:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    continue
                for piece in reported.pieces:
                    writer.write(piece)
                    await asyncio.sleep(0)
                if reported.end == "abort":
                    writer.transport.abort()
                elif reported.end == "eof":
                    writer.write_eof()
                if reported.end != "open":
                    break
        writer.close()


@contextlib.asynccontextmanager
async def open_sink() -> AsyncIterator[tuple[RawSink, str]]:
    sink = RawSink()
    async with open_peer(sink.serve) as port:
        yield sink, f"http://127.0.0.1:{port}"


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    """Keeps log lines off the console; only those about attempts matter."""
    with structlog.testing.capture_logs() as written:
        yield
    odd = {line["event"] for line in written} - {"attempt"}
    assert not odd, odd


async def attempts_of(store: Store, delivery_id: str) -> tuple[str, tuple[Attempt, ...]]:
    found = await store.deliveries.get(delivery_id)
    assert found is not None
    return found.state, found.attempts


def check_attempt(attempt: Attempt, case: Case) -> None:
    if case.status is not None:
        assert attempt.status_code == case.status
        assert attempt.error is None
    assert (attempt.status_code is None) is (attempt.error is not None)
    assert attempt.decision
    shown = orjson.dumps(attempt_view(attempt, whole=True)).decode()
    assert "\\u0000" not in shown
    kept = sum(len(name) + len(value) for name, value in attempt.response_headers)
    assert kept <= HEADERS_CHARACTERS + len(CUT) + 40


async def play(world: World, url: str, sink: RawSink, number: int, case: Case) -> None:
    """Two events of a job; the first is answered as the case says."""
    path, name, store = f"/{number}", f"sub_{number}", world.store
    sink.cases[path.encode()] = case
    await store.subscriptions.create(
        subscription(
            name,
            sink=url + path,
            timeout_seconds=TIMEOUT_SECONDS,
            retry_schedule_seconds=(),
            secrets=(SigningSecret(value=SECRET),),
        )
    )
    uid = await track(store, f"job {number}", tracked_at=world.clock())
    await store.jobs.record(poll(uid, 0, "queued", "running", now=world.clock()))
    first, second = [
        row["id"]
        for row in await rows(store, "SELECT id FROM deliveries WHERE job_uid = :uid ORDER BY sequence", uid=uid)
    ]
    await world.deliver()
    state, attempts = await attempts_of(store, first)
    assert len(attempts) == 1, state
    check_attempt(attempts[0], case)
    made = await store.subscriptions.get(name)
    assert made is not None
    if made.state == "disabled":
        assert (attempts[0].status_code, state) == (410, "pending")
        await store.subscriptions.set_state(name, "enabled", world.clock())
    else:
        is_success = attempts[0].status_code is not None and 200 <= attempts[0].status_code < 300
        assert state == ("delivered" if is_success else "dead")
    for _ in range(2):  # a Retry-After of a day is obeyed; what waits after a resume goes out slowly
        world.clock.advance(LONGEST_PAUSE_SECONDS)
        await world.deliver()
    state, attempts = await attempts_of(store, second)
    assert (state, [one.status_code for one in attempts]) == ("delivered", [200])
    assert sink.asked[path.encode()] == (3 if made.state == "disabled" else 2)
    await store.subscriptions.remove(name, world.clock())


async def test_any_sink_response_is_recorded_and_the_next_event_is_sent(store: Store) -> None:
    clock = FakeClock(time.time())
    policy = GuardPolicy(allow_http=True, allow_networks=(ipaddress.IPv4Network("127.0.0.1/32"),))
    async with open_sink() as (sink, url), Sender(policy, clock=clock) as sender:
        transport: Any = sender
        world = World(store, clock, transport)
        for number in range(CASES):
            made = case(random.Random(f"{SEED}/{number}"))
            try:
                async with asyncio.timeout(30):
                    await play(world, url, sink, number, made)
            except BaseException as error:
                error.add_note(
                    f"case {number} of FUZZ_TEST_SEED={SEED}: {made.end}, {made.status}, {made.pieces!r:.3000}"
                )
                raise
