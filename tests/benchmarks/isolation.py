"""Healthy sinks beside ill ones: 94 of 100 answer at once; the others are dead, slow, dripping, resetting, busy for an
hour, or answer with 10 MB. Each is measured twice in a round, without subscriptions of the ill ones and with them:

burst  a backlog for all: deliveries a second to the healthy ones, until each of them has all of it
paced  a few looks a second: the time from the commit of an event to its arrival at each healthy sink

And one sink that was down: once it has taken something, what it missed is sent while new events come, whose time is
beside that of an idle relay.

`python isolation.py` prints what came of it; `run.py` has it in its table.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

from relay.core.subscriptions.signing import ID_HEADER
from relay.core.subscriptions.subscription import SigningSecret, Subscription
from relay.ids import new_id
from relay.node.interpreter import tune

HEALTHY = 94
ILL = ("dead", "slow", "dripping", "resetting", "busy", "huge")
SLOW_SECONDS = 5.0
TIMEOUT_SECONDS = 10.0
BURST_POLLS = 60
PACED_POLLS = 60
PACED_SECONDS = 0.2
LATEST_SECONDS = 120.0
MISSED_JOBS = 8_000
OUTAGE_SECONDS = 5.0
FRESH_POLLS = 200
FRESH_SECONDS = 0.05


class Sinks:
    """A hundred listeners of one process; `arrived` has when each healthy one got which event."""

    def __init__(self) -> None:
        self.arrived: dict[str, dict[str, float]] = {}
        self.requests: dict[str, int] = {}
        self.down = False

    async def serve(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection to the sink of that name."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
                await reader.readexactly(int(fields[b"content-length"]))
                self.requests[name] = self.requests.get(name, 0) + 1
                if self.down:
                    writer.write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
                elif name not in ILL:
                    self.arrived[name][fields[ID_HEADER.encode()].decode()] = time.time()
                    writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
                elif not await self._ill(name, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _ill(self, name: str, writer: asyncio.StreamWriter) -> bool:
        """Answers as this one does. False where that ends the connection."""
        if name == "dead":
            await asyncio.sleep(3600)
        elif name == "slow":
            await asyncio.sleep(SLOW_SECONDS)
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        elif name == "dripping":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3600\r\n\r\n")
            for _ in range(3600):
                if writer.is_closing():
                    return False
                writer.write(b".")
                await writer.drain()
                await asyncio.sleep(1)
        elif name == "resetting":
            writer.transport.abort()
            return False
        elif name == "busy":
            writer.write(b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n")
            for _ in range(100):
                writer.write(b"x" * 100_000)
                await writer.drain()
        return True


async def sinks_main() -> None:
    """The process of the sinks: a line with their ports, then at each line of input (`down` or `up`: how the healthy
    ones are from now on) one with what arrived since."""
    sinks, loop = Sinks(), asyncio.get_running_loop()
    ports: dict[str, int] = {}
    for name in [*(f"healthy-{number}" for number in range(HEALTHY)), *ILL]:
        sinks.arrived[name] = {}

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str = name) -> None:
            await sinks.serve(name, reader, writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
        ports[name] = server.sockets[0].getsockname()[1]
    print(json.dumps(ports), flush=True)
    while word := await loop.run_in_executor(None, sys.stdin.readline):
        sinks.down = word.strip() == "down" if word.strip() else sinks.down
        found = {name: events for name, events in sinks.arrived.items() if name not in ILL}
        print(json.dumps({"arrived": found, "requests": sinks.requests}), flush=True)
        sinks.arrived = {name: {} for name in sinks.arrived}
        sinks.requests = {}


class World:
    """A node, its hundred subscriptions, and the process of their sinks."""

    def __init__(self, opened: Any, process: asyncio.subprocess.Process) -> None:
        self.opened = opened
        self.ids: dict[str, str] = {}
        self._ports: dict[str, int] = {}
        self._process = process
        self._jobs = 0

    async def subscribe(self, only: str | None = None) -> None:
        """To all healthy sinks, or to one."""
        assert self._process.stdout is not None
        self._ports = json.loads(await self._process.stdout.readline())
        for name in self._ports:
            if name not in ILL and only in (None, name):
                await self._subscribe(name)
        self.opened.signals.deliveries_due()

    async def set_ill(self, there: bool) -> None:
        """Subscribes to the ill sinks, or removes their subscriptions with all that waits for them."""
        for name in ILL:
            if there:
                await self._subscribe(name)
            elif name in self.ids:
                await self.opened.store.subscriptions.remove(self.ids.pop(name), time.time())
        self.opened.signals.deliveries_due()

    async def _subscribe(self, name: str) -> None:
        now = time.time()
        subscription = Subscription(
            id=new_id("sub", now),
            sink=f"http://127.0.0.1:{self._ports[name]}/hook",
            state="enabled",
            created_at=now,
            timeout_seconds=TIMEOUT_SECONDS,
            retry_schedule_seconds=(OUTAGE_SECONDS,) * 8,
            secrets=(SigningSecret(value="whsec_" + "c2VjcmV0" * 4),),
        )
        self.ids[name] = subscription.id
        await self.opened.store.subscriptions.create(subscription)

    async def poll(self) -> dict[str, float]:
        """One look with three events, recorded now: when, by event."""
        from run import job_with_events

        self._jobs += 1
        registration, record = job_with_events(self._jobs, time.time())
        await self.opened.store.jobs.register_many([registration])
        await self.opened.store.jobs.record(record)
        self.opened.signals.deliveries_due()
        return dict.fromkeys((event.id for event in record.events), time.time())

    async def arrived(self, word: str = "") -> dict[str, Any]:
        """What came to the sinks since the last call; `down`, `up`: how they are from now on."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(word.encode() + b"\n")
        found: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return found

    async def all_of(
        self, events: dict[str, float], sinks: int = HEALTHY
    ) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
        """When each of so many sinks got each of these events, once all have all; and the requests by sink."""
        times: dict[str, dict[str, float]] = {}
        requests: dict[str, int] = {}
        ends_at = time.monotonic() + LATEST_SECONDS
        while sum(len(each.keys() & events.keys()) for each in times.values()) < sinks * len(events):
            if time.monotonic() > ends_at:
                raise RuntimeError("the healthy sinks did not get all")
            await asyncio.sleep(0.05)
            found = await self.arrived()
            for name, each in found["arrived"].items():
                times.setdefault(name, {}).update(each)
            for name, count in found["requests"].items():
                requests[name] = requests.get(name, 0) + count
        return times, requests


@asynccontextmanager
async def open_world(folder: Path, only: str | None = None) -> AsyncIterator[World]:
    """A node over a database in that folder, with subscriptions of all sinks or of one."""
    from run import node

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(Path(__file__).resolve()), "sinks"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 26,
    )
    try:
        async with node(folder) as opened:
            world = World(opened, process)
            await world.subscribe(only)
            tune()
            yield world
    finally:
        process.kill()
        await process.wait()


async def burst(world: World, polls: int) -> tuple[float, dict[str, int]]:
    """Deliveries a second to the healthy sinks while all work through a backlog; and the requests by sink."""
    begun = time.time()
    events: dict[str, float] = {}
    for _ in range(polls):
        events |= await world.poll()
    times, requests = await world.all_of(events)
    last = max(max(each.values()) for each in times.values())
    return HEALTHY * len(events) / (last - begun), requests


async def paced(world: World, polls: int, seconds: float = PACED_SECONDS, sinks: int = HEALTHY) -> float:
    """The 99th percentile of the seconds from an event's commit to its arrival at a healthy sink."""
    events: dict[str, float] = {}
    next_at = time.monotonic()
    for _ in range(polls):
        await asyncio.sleep(max(0.0, next_at - time.monotonic()))
        next_at += seconds
        events |= await world.poll()
    times, _ = await world.all_of(events, sinks)
    late = [at - events[id] for each in times.values() for id, at in each.items() if id in events]
    return statistics.quantiles(late, n=100)[98]


async def measure(scale: float = 1.0) -> list[dict[str, Any]]:
    """Rows of the table of run.py."""
    polls = max(10, int(BURST_POLLS * scale))
    rates: dict[str, list[float]] = {"alone": [], "beside": []}
    lates: dict[str, list[float]] = {"alone": [], "beside": []}
    seen: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        async with open_world(Path(folder)) as world:
            await burst(world, 10)  # connections are open, and what is built at the first use is there
            for _ in range(3):
                for way in ("alone", "beside"):
                    await world.set_ill(way == "beside")
                    rate, requests = await burst(world, polls)
                    rates[way].append(rate)
                    lates[way].append(await paced(world, max(10, int(PACED_POLLS * scale))))
                    if way == "beside":
                        seen = {name: seen.get(name, 0) + requests.get(name, 0) for name in ILL}
    if not all(seen[name] for name in ILL):
        raise RuntimeError(f"an ill sink was not tried: {seen}")
    return [
        await drain(scale),
        {
            **{"name": "94 healthy sinks beside 6 ill: rate", "unit": f"deliveries/s (ill got {seen})", "bar": 0.90},
            **{"ours": statistics.median(rates["beside"]), "baseline": statistics.median(rates["alone"])},
        },
        {
            **{"name": "94 healthy sinks beside 6 ill: p99", "unit": "ms, the other way round", "bar": 0.5},
            **{"ours": 1e3 * statistics.median(lates["alone"]), "baseline": 1e3 * statistics.median(lates["beside"])},
        },
    ]


async def drain(scale: float = 1.0) -> dict[str, Any]:
    """A row of the table of run.py: fresh events beside what a sink missed while it was down."""
    from run import job_with_events

    missed = int(MISSED_JOBS * scale)
    with tempfile.TemporaryDirectory() as folder:
        async with open_world(Path(folder), "healthy-0") as world:
            await paced(world, 20, FRESH_SECONDS, 1)
            idle = await paced(world, int(FRESH_POLLS * scale), FRESH_SECONDS, 1)
            await world.arrived("down")
            pairs = [job_with_events(10**6 + number, time.time()) for number in range(missed)]
            for start in range(0, missed, 500):
                chunk = pairs[start : start + 500]
                await world.opened.store.jobs.register_many([registration for registration, _ in chunk])
                await asyncio.gather(*(world.opened.store.jobs.record(record) for _, record in chunk))
                world.opened.signals.deliveries_due()
            await asyncio.sleep(OUTAGE_SECONDS)
            await world.arrived("up")
            before = (await world.opened.store.deliveries.pending()).count
            ends_at = time.monotonic() + OUTAGE_SECONDS
            while (await world.opened.store.deliveries.pending()).count == before:  # it is tried only now and then
                if time.monotonic() > ends_at:
                    raise RuntimeError("nothing of what was missed arrives")
                await asyncio.sleep(0.01)
            fresh = await paced(world, int(FRESH_POLLS * scale), FRESH_SECONDS, 1)
            left = (await world.opened.store.deliveries.pending()).count
            if not left < before:
                raise RuntimeError(f"of {before} that were missed {left} are left: nothing was drained")
            ends_at = time.monotonic() + LATEST_SECONDS
            while (await world.opened.store.deliveries.pending()).count:
                if time.monotonic() > ends_at:
                    raise RuntimeError("the backlog does not drain")
                await asyncio.sleep(0.1)
    return {
        **{"name": "fresh events beside a backlog: p99", "unit": f"ms, the other way round ({before} missed)"},
        **{"bar": 1 / 3, "ours": 1e3 * idle, "baseline": 1e3 * fresh},
    }


if __name__ == "__main__":
    if sys.argv[1:] == ["sinks"]:
        uvloop.run(sinks_main())
    else:
        import structlog

        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
        for row in uvloop.run(measure()):
            print(row)
