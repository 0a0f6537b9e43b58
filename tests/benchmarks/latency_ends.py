"""The other ends of latency.py and two_nodes.py, each a process of its own that says at what time what came and went.

`python latency_ends.py upstream|sink|throughput` prints its port. It answers each line of input with one of JSON:
`count`, how many it has noted; `take`, all of them, which it then forgets. It ends when its input does.

upstream  answers reads of jobs at once. The id of a job begins with the epoch second from which on it has succeeded;
          it started 5 to 30 s before. Notes when it wrote the first answer that says so: {id: time}, and how many
          reads there were
sink      answers 204 at once. Notes when each request had come: [time, id of the event, its type, its subject]

throughput  a sink as well, with uvloop: half the processor time a request, at times that are less exact

The others write with asyncio's own loop: what is written goes out at once, not at the end of a turn of the loop.
"""

import asyncio
import sys
import time
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson
import uvloop
from dropin_stub import ACCOUNTS, ENDED, ITEM, JOBS, answer, envelope

LEAST_RUN_SECONDS, MORE_RUN_SECONDS = 5.0, 25.0
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"


def written(at: float) -> str:
    """The time as the upstream writes it."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def started_at(id: str, ends_at: float, now: float) -> float:
    """Each job of a moment of its own: those that started together would be looked at together."""
    return min(now, ends_at - LEAST_RUN_SECONDS - MORE_RUN_SECONDS * (zlib.crc32(id.encode()) % 1000) / 1000)


class End(asyncio.Protocol):
    """One connection, whose requests are answered in turn."""

    def __init__(self, reply: Callable[[bytes, bytes], bytes]) -> None:
        self._reply = reply
        self._buffer = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            head, mark, rest = self._buffer.partition(b"\r\n\r\n")
            if not mark:
                return
            lower = head.lower()
            at = lower.find(b"\r\ncontent-length:")
            length = int(lower[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            self._transport.write(self._reply(head.split(b" ", 2)[1], rest[:length]))


class Upstream:
    """Jobs that end at the moments that their ids say."""

    def __init__(self) -> None:
        self.shown: dict[str, float] = {}
        self.reads = 0

    def reply(self, target: bytes, _body: bytes) -> bytes:
        """The answer to a GET."""
        if not target.startswith(JOBS):
            return ACCOUNTS
        self.reads += 1
        id, now = target[len(JOBS) :].decode(), time.time()
        ends_at = float(id.partition("-")[0])
        ended = ends_at <= now
        item: dict[str, Any] = {
            **ITEM,
            "id": id,
            "status": "running",
            "started_at": written(started_at(id, ends_at, now)),
        }
        if not ends_at:  # the first look shows its end: without a start that is one transition, as for one seen before
            item |= {"started_at": None, "attempt_count": 0}
        if ended:
            item |= ENDED | {"status": "succeeded", "finished_at": written(max(ends_at, now - 1.0))}
        answered = answer(b"200 OK", envelope("item", item))
        if ended and id not in self.shown:
            self.shown[id] = time.time()
        return answered

    def count(self) -> int:
        """How many ends were shown."""
        return len(self.shown)

    def take(self) -> dict[str, Any]:
        """When each end was shown first, and the reads since the last call."""
        found = {"shown": self.shown, "reads": self.reads}
        self.shown, self.reads = {}, 0
        return found


class Sink:
    """A subscriber. What came is read only when it is asked for."""

    def __init__(self) -> None:
        self.came: list[tuple[float, bytes]] = []

    def reply(self, _target: bytes, body: bytes) -> bytes:
        """The answer to a POST."""
        self.came.append((time.time(), body))
        return NO_CONTENT

    def count(self) -> int:
        """How many requests came."""
        return len(self.came)

    def take(self) -> list[tuple[float, str, str, str]]:
        """All requests since the last call."""
        came, self.came = self.came, []
        events = ((at, orjson.loads(body)) for at, body in came)
        return [(at, event["id"], event["type"], event["subject"]) for at, event in events]


async def main(end: Upstream | Sink) -> None:
    """Serves until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: End(end.reply), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    while word := await loop.run_in_executor(None, sys.stdin.readline):
        found = end.count() if word == "count\n" else end.take()
        print(orjson.dumps(found).decode(), flush=True)


if __name__ == "__main__":
    run = uvloop.run if sys.argv[1] == "throughput" else asyncio.run
    run(main(Upstream() if sys.argv[1] == "upstream" else Sink()))
