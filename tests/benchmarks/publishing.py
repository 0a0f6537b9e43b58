"""What it costs to publish events: `POST /v1/events` in batches of 100 beside the same endpoint that validates and
answers without storing, and the processor time of a node from an event that comes in to the webhook that goes out, on
SQLite and PostgreSQL.

`python publishing.py [SCALE]` prints what came of it; `run.py` has it in its table.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import structlog
import uvloop
from flat import databases  # puts the repository on the path
from run import drained, node, serving, sink_process, subscribed

from relay.api.app import create_api
from relay.core.published import Publication, Taken
from relay.node.interpreter import tune

SIZE = 100
IN_FLIGHT = 8
"""Batches that a caller may have under way."""
ROUNDS = 6
TYPE = "com.acme.order.paid"
BAR = 0.40
CLIENT = """
import asyncio, sys, time, aiohttp, uvloop
async def main(url, in_flight, bodies):
    queue = iter(bodies)
    headers = {"Content-Type": "application/cloudevents-batch+json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=in_flight)) as session:
        async def work():
            for body in queue:
                async with session.post(url, data=body, headers=headers) as response:
                    assert response.status == 202, await response.text()
                    await response.read()
        start = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(in_flight)))
        print(time.perf_counter() - start)
uvloop.run(main(sys.argv[1], int(sys.argv[2]), sys.stdin.buffer.read().splitlines()))
"""


class NotStored:
    """A node's store whose published events are all new, and stored nowhere."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.published = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def record(self, publications: Sequence[Publication]) -> list[Taken]:
        """Takes them all."""
        return [Taken(one.event.id, known=False) for one in publications]


def batches(prefix: str, count: int, size: int = SIZE) -> list[bytes]:
    """So many events of about 1 KiB, of a thousand partition keys, as batches."""

    def event(number: int) -> dict[str, Any]:
        return {
            **{"specversion": "1.0", "id": f"{prefix}-{number}", "source": "/shop", "type": TYPE},
            **{"subject": f"order {number}", "partitionkey": f"customer {number % 1000}"},
            **{"time": "2026-05-20T10:00:08.123Z", "datacontenttype": "application/json"},
            "data": {"order": number, "total": 42.5, "lines": [{"sku": "A-17", "text": "x" * 130}] * 4},
        }

    return [orjson.dumps([event(n) for n in range(first, first + size)]) for first in range(0, count, size)]


async def post_all(port: int, bodies: Sequence[bytes]) -> float:
    """Seconds to post them all, by a client in a process of its own so that it costs the server nothing."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CLIENT, f"http://127.0.0.1:{port}/v1/events", str(IN_FLIGHT)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate(b"\n".join(bodies))
    return float(printed)


@asynccontextmanager
async def opened_at(url: str | None) -> AsyncIterator[Any]:
    """A node with a new database."""
    with tempfile.TemporaryDirectory() as folder:
        async with node(Path(folder), database_url=url) as opened:
            tune()
            yield opened


async def recorded(name: str, url: str | None, count: int) -> dict[str, Any]:
    """Events recorded per second, in turns with those that are only validated."""
    stored_seconds = bare_seconds = 0.0
    async with opened_at(url) as opened:
        dependencies = opened._dependencies()
        without = create_api(replace(dependencies, store=NotStored(dependencies.store)), opened._proxy)
        async with serving(opened) as stored_port, serving(without) as bare_port:
            for port in (stored_port, bare_port):
                await post_all(port, batches(f"warm {port}", 500))
            for turn in range(ROUNDS):
                bodies = batches(f"turn {turn}", count // ROUNDS)
                bare_seconds += await post_all(bare_port, bodies)
                stored_seconds += await post_all(stored_port, bodies)
    return {
        **{"name": f"events published in batches of 100, {name}", "unit": "events/s", "bar": BAR},
        **{"ours": count / stored_seconds, "baseline": count / bare_seconds},
    }


async def passed_on(name: str, url: str | None, count: int) -> dict[str, Any]:
    """Processor seconds of the node for 1,000 events that are published in batches and go out as webhooks."""
    async with opened_at(url) as opened, serving(opened) as port:
        with sink_process() as sink:
            subscription_id = await subscribed(opened, sink, 64, types=(TYPE,))
            cpu = 0.0
            for turn, share in enumerate((0.1, 1.0)):  # the first one warms up
                begun = time.process_time()
                await post_all(port, batches(f"turn {turn}", int(count * share)))
                await drained(opened, subscription_id)
                cpu = (time.process_time() - begun) / int(count * share) * 1000
    return {"name": f"event in, webhook out, {name}: processor time", "unit": "s per 1,000", "ours": cpu, "at_most": 2}


async def measure(scale: float) -> list[dict[str, Any]]:
    """Both, on both databases."""
    count = max(1, int(24_000 * scale) // (ROUNDS * SIZE)) * ROUNDS * SIZE
    found: list[dict[str, Any]] = []
    for kind, name in (("sqlite", "SQLite"), ("postgresql", "PostgreSQL")):
        with databases(kind) as make:
            urls = [await asyncio.to_thread(make, database) for database in ("recorded", "passed")]
            found += [await recorded(name, urls[0], count), await passed_on(name, urls[1], count)]
    return found


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    for result in uvloop.run(measure(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)):
        print(result)
