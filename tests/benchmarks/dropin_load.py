"""The callers of dropin.py and against.py, a process of their own: `python dropin_load.py` does what the JSON on its
standard input says and prints what came of it. Every way to call bounds itself.

closed  so many requests, so many at once: requests a second. The caller is a usual client (aiohttp), or with `raw` one
        that costs next to nothing, where the server has to be what is measured
paced   so many requests a second whatever becomes of the ones before: seconds from when each was due
wait    so many connections with one request each, which are held open: `ready` once all are sent, then the answers,
        and when each was sent and answered

The requests go to `paths` in turn. With `bodies` (of closed with `raw`, and of paced) each of these is sent once.
"""

import asyncio
import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import aiohttp
import orjson
import uvloop

KEY = "sk-revor-benchmark-0123456789"
TOKEN = "rl_benchmark_0123456789abcdefghijklmn"
"""What `/v1` takes; see `dropin_world.relay`."""
LONGEST_SECONDS = 90.0
OPENED_AT_ONCE = 200


class Connection(asyncio.Protocol):
    """A kept connection that sends one request at a time, and reads answers that have a Content-Length."""

    def __init__(self) -> None:
        self._buffer = b""
        self._needed = 0
        self._answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionError("closed"))

    def send(self, request: bytes) -> "asyncio.Future[bytes]":
        """The head of the answer, once all of the answer is there."""
        self._answer = asyncio.get_running_loop().create_future()
        self._buffer, self._needed = b"", 0
        self.transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._needed:
            head, mark, _ = self._buffer.partition(b"\r\n\r\n")
            if not mark:
                return
            lower = head.lower()
            at = lower.index(b"content-length:")
            self._needed = len(head) + 4 + int(lower[at + 15 :].split(b"\r\n", 1)[0])
        if len(self._buffer) >= self._needed and self._answer is not None and not self._answer.done():
            self._answer.set_result(self._buffer)


def request_bytes(spec: dict[str, Any], path: str, body: str | None = None) -> bytes:
    """A request as it goes out, with this body or that of the spec."""
    body = (spec.get("body", "") if body is None else body).encode()
    lines = [f"{spec.get('method', 'GET')} {path} HTTP/1.1", f"Host: 127.0.0.1:{spec['port']}"]
    lines += [f"{name}: {value}" for name, value in headers_of(spec).items()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def headers_of(spec: dict[str, Any]) -> dict[str, str]:
    """What a usual client sends."""
    usual = {"Authorization": f"Bearer {KEY}", "Accept": "application/json", "User-Agent": "benchmark/1"}
    return {**usual, **({"Content-Type": "application/json"} if "body" in spec else {}), **spec.get("headers", {})}


def reported(answer: bytes) -> str:
    """`200 hit`: the status and what the relay says of where the answer came from."""
    head = answer[: answer.index(b"\r\n\r\n")].lower()
    at = head.find(b"relay-cache:")
    return f"{head[9:12].decode()} {head[at + 12 :].split(bytes(2), 1)[0].split()[0].decode() if at >= 0 else 'direct'}"


async def connect(port: int) -> Connection:
    """A new connection."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
    return connection


def requests_of(spec: dict[str, Any]) -> Iterator[bytes]:
    """The requests, as they go out: without end, or one for each of `bodies`."""
    paths = itertools.cycle(spec["paths"])
    if "bodies" in spec:
        return iter([request_bytes(spec, path, body) for path, body in zip(paths, spec["bodies"], strict=False)])
    return itertools.cycle([request_bytes(spec, path) for path in spec["paths"]])


async def closed(spec: dict[str, Any]) -> dict[str, Any]:
    """Requests a second, and with `raw` the seconds that each took, sorted."""
    seen: Counter[str] = Counter()
    taken: list[float] = []
    left = iter(range(spec["count"]))
    ends_at = time.perf_counter() + LONGEST_SECONDS

    async def raw(connection: Connection) -> None:
        for _ in left:
            sent = time.perf_counter()
            seen[reported(await connection.send(next(requests)))] += 1
            taken.append(time.perf_counter() - sent)
            if time.perf_counter() > ends_at:
                return

    async def usual(session: aiohttp.ClientSession) -> None:
        for _ in left:
            url = f"http://127.0.0.1:{spec['port']}{next(turns)}"
            async with session.request(spec.get("method", "GET"), url, data=spec.get("body")) as response:
                await response.read()
                seen[f"{response.status} {response.headers.get('relay-cache', 'direct')}"] += 1
            if time.perf_counter() > ends_at:
                return

    if spec.get("raw"):
        requests = requests_of(spec)
        connections = [await connect(spec["port"]) for _ in range(spec["in_flight"])]
        began, began_at = time.perf_counter(), time.time()
        await asyncio.gather(*(raw(connection) for connection in connections))
        seconds = time.perf_counter() - began
    else:
        turns = itertools.cycle(spec["paths"])
        connector = aiohttp.TCPConnector(limit=spec["in_flight"])
        async with aiohttp.ClientSession(connector=connector, headers=headers_of(spec)) as session:
            began, began_at = time.perf_counter(), time.time()
            await asyncio.gather(*(usual(session) for _ in range(spec["in_flight"])))
            seconds = time.perf_counter() - began
    return {"rate": seen.total() / seconds, "began_at": began_at, "seconds": sorted(taken), "answers": seen}


async def paced(spec: dict[str, Any]) -> dict[str, Any]:
    """Seconds from when each request was due to the end of its answer, sorted; and when each was due."""
    seen: Counter[str] = Counter()
    free = [await connect(spec["port"]) for _ in range(32)]
    requests = requests_of(spec)
    taken: list[float] = []

    async def one(due: float) -> None:
        connection = free.pop() if free else await connect(spec["port"])
        answer = await connection.send(next(requests))
        taken.append(time.perf_counter() - due)
        seen[reported(answer)] += 1
        free.append(connection)

    began, began_at = time.perf_counter(), time.time()
    async with asyncio.timeout(LONGEST_SECONDS), asyncio.TaskGroup() as group:
        for number in range(spec["count"]):
            due = began + number / spec["rate"]
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(one(due))
    due_at = [began_at + number / spec["rate"] for number in range(spec["count"])]
    return {"seconds": sorted(taken), "due_at": due_at, "answers": seen}


async def wait(spec: dict[str, Any]) -> dict[str, Any]:
    """When each request was sent and answered, in the order of `paths`."""
    seen: Counter[str] = Counter()
    paths = list(itertools.islice(itertools.cycle(spec["paths"]), spec["count"]))
    answers: list[asyncio.Future[bytes]] = []
    sent_at: list[float] = []
    times = [0.0] * len(paths)

    def answered(number: int, _: object) -> None:
        times[number] = time.time()

    for start in range(0, len(paths), OPENED_AT_ONCE):
        chunk = paths[start : start + OPENED_AT_ONCE]
        connections = await asyncio.gather(*(connect(spec["port"]) for _ in chunk))
        for connection, path in zip(connections, chunk, strict=True):
            answer = connection.send(request_bytes(spec, path))
            sent_at.append(time.time())
            answer.add_done_callback(partial(answered, len(answers)))
            answers.append(answer)
        await asyncio.sleep(0.02)
    print("ready", flush=True)
    async with asyncio.timeout(LONGEST_SECONDS):
        for answer in answers:
            seen[reported(await answer)] += 1
    await asyncio.sleep(0)  # the last one's time is written down after it is seen
    return {"sent_at": sent_at, "times": times, "answers": seen}


if __name__ == "__main__":
    given = orjson.loads(sys.stdin.buffer.read())
    print(orjson.dumps(uvloop.run({"closed": closed, "paced": paced, "wait": wait}[given["way"]](given))).decode())
