"""An upstream on a raw socket that answers with any bytes: status line, headers, body and framing.

After each answer the poll is recorded on its job, and the job's next event still arrives, on both databases.
FUZZ_TEST_COUNT sets the number of answers, FUZZ_TEST_SEED the first seed.
"""

import asyncio
import gzip
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.dropin_requests import JOBS
from tests.support.e2e_world import World, open_e2e_world
from tests.support.fuzz_kit import COUNT, SEED
from tests.support.store_databases import emptied_postgres
from tests.support.wire import Call, Stub, answer, open_stub, say_ok

ANSWERS = max(1, COUNT // 50)
AT_ONCE = 8
TIMEOUT_SECONDS = 0.25
"""Poll timeout: the duration of an endless answer."""
PATIENCE_SECONDS = 120.0

ITEM = b'{"id":"%s","status":"queued","action":"outreach.dispatch","channel":"email"%s}'
BIG = b"123456789012345678901234567890"
READABLE_FIELDS = (
    *(
        b"",
        b',"text":"Hi \\ud83d"',
        b',"\\udc00":1',
        b',"n":' + BIG,
        b',"n":1e400',
        b',"t":"caf\xe9"',
        b',"t":"\\u0000"',
    ),
    *(b',"n":' + b"9" * 5000, b',"t":"' + b"x" * 70_000 + b'"', b',"deep":' + b"[" * 300 + b"]" * 300),
    *(b',"deep":' + b'{"a":' * 900 + BIG + b"}" * 900, b',"attempt_count":1e308', b',"error":"\\ud800"'),
)
"""Fields that show a job's state."""
ODD_FIELDS = (
    *READABLE_FIELDS,
    *(b',"n":NaN', b',"t":"\x00"', b',"deep":' + b'{"a":' * 1100 + b"1" + b"}" * 1100, b',"id":5', b',"a":}'),
    *(b',"scheduled_at":"9999-12-31T23:59:59Z"', b',"error":{"code":7}'),
)
STATUSES = (*(200,) * 12, *(100, 101, 103, 199, 201, 204, 206, 226, 299, 301, 302, 304, 400, 401, 402, 403, 404, 405))
STATUSES = (*STATUSES, *(406, 408, 409, 410, 413, 418, 451, 499, 500, 501, 502, 504, 508, 511, 599, 600, 700, 999))
REASONS = (b"OK", b"", b"Caf\xe9", b"\xed\xa0\xbd", b"\x00", b"\x7f", b"x" * 9_000, b"200", b"\t\t")
VERSIONS = (*(b"HTTP/1.1",) * 8, b"HTTP/1.0", b"HTTP/2", b"HTTP/0.9", b"HTTP/9.9", b"http/1.1", b"ICY", b"", b"\xff")
NAMES = (
    *(b"X-Odd", b"Content-Type", b"X-Request-Id", b"Set-Cookie", b"Server", b"Location", b"Date", b"Connection"),
    *(b"Content-Encoding", b"Transfer-Encoding", b"Content-Length", b"Keep-Alive", b"Upgrade", b"Trailer"),
    *(b"", b" ", b"X Odd", b"X\xe9", b"X\x00", b":", b"X-" + b"y" * 9_000),
)
VALUES = (
    *(
        b"",
        b"1",
        b"Caf\xe9",
        b"\xed\xa0\xbd",
        b"\x00",
        b"\x01",
        b"\x7f",
        b"\x80\xff",
        b"a\tb",
        b"x" * 8_100,
        b"x" * 9_000,
    ),
    *(b"chunked", b"identity", b"gzip", b"deflate", b"br", b"gzip, gzip", b"close", b"keep-alive", b"upgrade"),
    *(b"-1", b"+5", b"0x10", b"1, 1", b"1, 2", b"99999999999999999999", b"\xd9\xa1", b"r\xe9q_1", b"a\r\n b"),
)


def made_up(luck: random.Random, job_id: bytes) -> tuple[bytes, str]:
    """An answer, and what happens to the connection after it."""
    body = luck.choice(
        (
            b'{"ok":true,"item":' + ITEM % (job_id, luck.choice(ODD_FIELDS)) + b"}",
            b'{"ok":true,"item":' + ITEM % (job_id, luck.choice(ODD_FIELDS)) + b"}",
            b'{"ok":false,"error":{"code":"\\ud83d","message":"\\u0000 caf\xe9","request_id":"\xff"}}',
            *(
                b"",
                b"<html>",
                b"null",
                b"[]",
                b'{"item":5}',
                b"\xff\xfe{\x00}\x00",
                luck.randbytes(luck.randrange(600)),
            ),
            *(b"[" * 100_000, b" " * (1 << 21), b'{"item":' * 3_000, b"\xef\xbb\xbf{}"),
        )
    )
    line = b"%s %d %s" % (luck.choice(VERSIONS), luck.choice(STATUSES), luck.choice(REASONS))
    if luck.random() < 0.15:
        line = luck.choice(
            (b"", b"HTTP/1.1", b"HTTP/1.1 2", b"HTTP/1.1 +200 OK", b"HTTP/1.1 20O OK", luck.randbytes(40))
        )
    headers = [b"%s: %s" % (luck.choice(NAMES), luck.choice(VALUES)) for _ in range(luck.choice((0, 0, 1, 1, 2, 3)))]
    if luck.random() < 0.05:
        headers += [b"X-%d: y" % n for n in range(300)]
    coded = gzip.compress(body) if any(b"gzip" in each for each in headers) and luck.random() < 0.7 else body
    ending = luck.choice((b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"))
    match luck.randrange(8):
        case 0 | 1 | 2:
            headers.append(b"Content-Length: %d" % len(coded))
        case 3:
            headers.append(b"Content-Length: %d" % (len(coded) + luck.choice((-5, -1, 1, 5, 1 << 40))))
        case 4:
            headers.append(b"Transfer-Encoding: chunked")
            cut = luck.randrange(len(coded) + 1)
            parts = [part for part in (coded[:cut], coded[cut:]) if part]
            coded = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
            coded += luck.choice(
                (b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"", b"zz\r\n", b"-1\r\n", b"ffffffffff\r\n")
            )
        case 5:
            headers += [b"Content-Length: %d" % len(coded), b"Transfer-Encoding: chunked"]
        case 6:
            headers += [b"Content-Length: %d" % len(coded)] * 2
        case _:
            pass  # until the connection closes
    before = luck.choice(
        (b"", b"", b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"\r\n", b"HTTP/1.1 103 Hints\r\nX: \xe9\r\n\r\n")
    )
    after = luck.choice((b"", b"", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull", b"\x00", coded))
    raw = before + ending.join([line, *headers, b"", b""]) + coded + after
    if luck.random() < 0.1:
        raw = raw[: luck.randrange(len(raw) + 1)]
    return raw, luck.choice(("close", "close", "keep", "abort"))


class Upstream:
    """Shows each job as queued, then once with the fuzzed answer, then as running in an odd item."""

    def __init__(self, stub: Stub) -> None:
        self.stub = stub
        self.made: dict[bytes, tuple[bytes, str]] = {}
        self.shown: dict[bytes, asyncio.Event] = {}
        self.noted: dict[bytes, asyncio.Event] = {}
        stub.handler = self.say

    async def say(self, call: Call) -> None:
        before, _, job_id = call.request.target.partition(JOBS.encode())
        if before or not job_id:
            await say_ok(call)
        elif job_id not in self.made:
            await call.send(answer(200, [], b'{"ok":true,"item":' + ITEM % (job_id, b"") + b"}"))
        elif not self.shown[job_id].is_set():
            raw, then = self.made[job_id]
            self.shown[job_id].set()
            await call.send(raw)
            if then == "close":
                call.cut()
            elif then == "abort":
                call.writer.transport.abort()
        else:
            await self.noted[job_id].wait()
            field = random.Random(job_id).choice(READABLE_FIELDS)
            running = (ITEM % (job_id, field)).replace(b"queued", b"running", 1)
            await call.send(answer(200, [], b'{"ok":true,"item":' + running + b"}"))


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    async with open_stub() as opened:
        yield opened


async def arrived(world: World, true: Callable[[], Any], what: str) -> None:
    """Waits at long intervals, since there are many polls. Retries a refused key as upkeep does."""
    ends_at = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while not await true():
        assert asyncio.get_running_loop().time() < ends_at, what
        await world.poller.probe()
        await asyncio.sleep(0.02)


async def live_through(world: World, upstream: Upstream, number: int) -> None:
    luck = random.Random(f"{SEED} {number}")
    job_id = f"job-{number}"
    key = job_id.encode()
    made = made_up(luck, key)
    story = f"answer {number}, {made[1]}: {made[0][:300]!r} FUZZ_TEST_SEED={SEED} FUZZ_TEST_COUNT={COUNT}"

    async def polls() -> int:
        return int((await world.shown(job_id))["poll_count"])

    async def seen_once() -> bool:
        return await polls() > 0

    async def noted() -> bool:
        return upstream.shown[key].is_set() and await polls() > before

    async def delivered() -> bool:
        return "running" in world.kinds(job_id)

    assert (await world.api.post("/v1/jobs", json={"id": job_id})).status_code == 201, story
    await arrived(world, seen_once, f"never polled before {story}")
    upstream.shown[key], upstream.noted[key] = asyncio.Event(), asyncio.Event()
    upstream.made[key], before = made, await polls()
    await arrived(world, noted, f"not noted: {story}")
    upstream.noted[key].set()
    await arrived(world, delivered, f"nothing comes after {story}")
    events = [each.event for each in world.received["/events"] if each.event["subject"] == job_id]
    assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1)), story


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """None: a SQLite file of the world's own."""
    return emptied_postgres() if request.param == "postgresql" else None


async def test_next_event_is_delivered_after_any_upstream_answer(
    tmp_path: Path, stub: Stub, database_url: str | None
) -> None:
    async with open_e2e_world(
        tmp_path, base_url=stub.url, database_url=database_url, timeout_seconds=TIMEOUT_SECONDS
    ) as world:
        await world.subscribe()
        upstream, turn = Upstream(stub), asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            async with turn:
                await live_through(world, upstream, number)

        async with asyncio.TaskGroup() as group:
            for number in range(ANSWERS):
                group.create_task(one(number))
        assert world.polls("observed") >= ANSWERS
        bad = await world.api.get("/v1/deliveries", params={"state": "dead"})
        assert bad.json()["items"] == []
