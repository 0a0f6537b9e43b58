"""The dashboard on a large database (`large_database.py`), on SQLite and PostgreSQL: time to the first byte of each
page beside 500 deliveries a second, how much each page weighs, what twenty open tabs cost the deliveries, in turns with
and without, and whether they make the node grow.

`python dashboard.py [SCALE]` prints what came of it; `run.py` has it in its table. At scale 1 there are 1,000,000 jobs,
10,000,000 events and 3,000,000 deliveries, which take about fifteen minutes to make for each database, and the rest
twenty. `python dashboard.py SCALE URL` uses a database that is there already; RELAY_ENCRYPTION_KEY is its key.
"""

import asyncio
import contextlib
import math
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import structlog
import uvloop
from dropin_world import resident_bytes
from flat import databases  # puts the repository on the path
from large_database import ACCOUNTS, PAUSED, SEARCH_KEYS, Size, build
from publishing import TYPE, batches
from run import node, serving, sink_process, subscribed

from relay.clock import to_rfc3339
from relay.config.keyring import Keyring, new_key
from relay.config.settings import AccountSettings, Settings
from relay.node.interpreter import tune
from relay.web.pages import PAGES
from relay.web.sessions import VISITOR_COOKIE

HERE = Path(__file__).resolve().parent
SIZE = Size()
RATE, AT_ONCE = 500, 5
"""Deliveries a second beside the pages, and events that are published together."""
ROUNDS = 20
SHARE = 0.95
"""Of the first bytes that have to come in time."""
FIRST_BYTE_MS, WEIGHT_KB = 100.0, 150.0
TABS = ("/ui", "/ui/jobs", "/ui/groups", "/ui/events", "/ui/deliveries", "/ui/subscriptions", "/ui/incidents")
TABS = (*TABS, "/ui/sources", "/ui/intents", "/ui/audit")
EACH = 2
"""Tabs of each page."""
TURNS, EVENTS_A_TURN = 6, 30_000
TABS_BAR = 0.95
IN_FLIGHT = 64
GROWTH_SECONDS, GROWTH_MB = 300.0, 10.0


def paths(ids: dict[str, str]) -> list[str]:
    """Every page that answers a GET, and lists with filters. Raises KeyError for a page that is not known here."""
    found = []
    for page in PAGES:
        if page.method == "GET":
            section = page.path.removeprefix("/ui/").partition("/")[0]
            found.append(page.path.format(id=ids[section], name=ids[section]) if "{" in page.path else page.path)
    return [
        *found,
        *("/ui/jobs?status=failed&account=revor%2Feu", "/ui/jobs?metadata=deal%3A42", "/ui/deliveries?state=dead"),
        *("/ui/deliveries?state=delivered", "/ui/events?type=job.failed", "/ui/audit?action=login"),
    ]


async def ids_of(port: int) -> dict[str, str]:
    """One of each kind that has a page of its own, by the section of the page's path."""
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

        async def get(path: str) -> Any:
            async with session.get(path) as answer:
                assert answer.status == 200, await answer.text()
                return await answer.json()

        deliveries = await get("/v1/deliveries?state=dead&limit=1")
        jobs = await get("/v1/jobs?status=failed&limit=1")
        groups = await get("/v1/groups?limit=1")
        incidents = await get("/v1/incidents?limit=1")
        events = await get("/v1/events?type=ai.revor.job.failed&limit=1")
        body = {"since": to_rfc3339(time.time() - 60), "only": "all"}
        async with session.post(f"/v1/subscriptions/{PAUSED}/replay", json=body) as answer:
            assert answer.status == 202, await answer.text()
            replay = await answer.json()
    return {
        "jobs": jobs["items"][0]["id"],
        "deliveries": deliveries["items"][0]["id"],
        "events": events["ids"][0],
        "incidents": incidents["items"][0]["id"],
        "groups": groups["items"][0]["name"].replace(" ", "%20"),
        "subscriptions": deliveries["items"][0]["subscription_id"],
        "replays": replay["replay_id"],
    }


class Helper:
    """A process of dashboard_load.py."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, what: str, port: int, **given: Any) -> "Helper":
        """Starts it."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(HERE / "dashboard_load.py"), what, str(port)), stdin=pipe, stdout=pipe, limit=1 << 24
        )
        assert process.stdin is not None
        process.stdin.write(orjson.dumps(given) + b"\n")
        await process.stdin.drain()
        return cls(process)

    async def line(self) -> bytes:
        """What it says next. Raises if it has ended."""
        assert self._process.stdout is not None
        if not (line := await self._process.stdout.readline()):
            raise RuntimeError(f"dashboard_load.py ended with {await self._process.wait()}")
        return line

    async def end(self) -> Any:
        """Ends it. Returns what came of it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        line = await self.line()
        await self._process.wait()
        return orjson.loads(line)


def cookie() -> str:
    """Of a new visitor."""
    return f"{VISITOR_COOKIE}={secrets.token_urlsafe(32)}"


@contextlib.asynccontextmanager
async def delivering(port: int) -> AsyncIterator[None]:
    """Events are published and delivered meanwhile."""
    bodies = [body.decode().replace("beside-", "ROUND-") for body in batches("beside", 1_000, AT_ONCE)]
    publisher = await Helper.start("publish", port, bodies=bodies, rate=RATE / AT_ONCE)
    try:
        yield
    finally:
        await publisher.end()


@contextlib.asynccontextmanager
async def tabs_open(port: int, *, one_session: bool = False) -> AsyncIterator[Helper]:
    """Twenty tabs are open meanwhile: of people of their own, or of one person."""
    shared = cookie()
    opened = [(path, shared if one_session else cookie()) for path in TABS for _ in range(EACH)]
    tabs = await Helper.start("tabs", port, opened=opened)
    await tabs.line()
    try:
        yield tabs
    finally:
        await tabs.end()


def delivered(opened: Any) -> float:
    """How many deliveries the node has made."""
    return float(opened.metrics_registry.attempts.labels("webhook", "delivered")._value.get())


def p95(values: Sequence[float]) -> float:
    """The value that 95 of 100 do not exceed."""
    return sorted(values)[math.ceil(SHARE * len(values)) - 1]


async def of_pages(name: str, opened: Any, port: int, rounds: int) -> list[dict[str, Any]]:
    """The first byte and the weight of the worst pages. What came of each is printed."""
    begun, count = time.perf_counter(), delivered(opened)
    async with delivering(port):
        wanted = paths(await ids_of(port))
        found = await (await Helper.start("pages", port, paths=wanted, cookie=cookie(), rounds=rounds)).end()
        rate = (delivered(opened) - count) / (time.perf_counter() - begun)
    for path, one in sorted(found.items(), key=lambda item: -p95(item[1]["seconds"])):
        middle, late = statistics.median(one["seconds"]) * 1000, p95(one["seconds"]) * 1000
        sizes = f"{one['bytes'] / 1000:6.1f} KB, {one['total'] / 1000:6.1f} KB in all"
        print(f"{name:10} {middle:6.1f} {late:6.1f} ms p50, p95  {sizes}  {path}", file=sys.stderr)
    slowest = max(found, key=lambda path: p95(found[path]["seconds"]))
    heaviest = max(found, key=lambda path: found[path]["total"])
    return [
        {
            **{"name": f"dashboard, {name}: first byte of the slowest page, p95", "at_most": FIRST_BYTE_MS},
            **{
                "unit": f"ms ({slowest}; beside {rate:.0f} deliveries/s)",
                "ours": p95(found[slowest]["seconds"]) * 1000,
            },
        },
        {
            **{"name": f"dashboard, {name}: the heaviest page with all its files", "at_most": WEIGHT_KB},
            **{"unit": f"KB ({heaviest})", "ours": found[heaviest]["total"] / 1000},
        },
    ]


async def drained(opened: Any, port: int, subscription_id: str, turn: str, count: int) -> float:
    """Seconds to deliver so many events, which are published first."""
    async with aiohttp.ClientSession(headers={"Content-Type": "application/cloudevents-batch+json"}) as session:
        for body in batches(f"{secrets.token_hex(4)} {turn}", count, 1_000):  # ids are never used again
            async with session.post(f"http://127.0.0.1:{port}/v1/events", data=body) as answer:
                assert answer.status == 202, await answer.text()
    total = delivered(opened) + count
    begun, cpu = time.perf_counter(), time.process_time()
    await opened.store.subscriptions.set_state(subscription_id, "enabled", time.time())
    opened.signals.deliveries_due()
    while delivered(opened) < total:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0.02)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    print(f"{turn}: {count / seconds:.0f}/s, {cpu / count * 1e6:.0f} us of processor time each", file=sys.stderr)
    await opened.store.subscriptions.set_state(subscription_id, "paused", time.time())
    return seconds


async def of_tabs(
    name: str, opened: Any, port: int, subscription_id: str, count: int, *, one_session: bool
) -> dict[str, Any]:
    """The rate of deliveries beside twenty tabs, in turns with the rate without them."""
    seconds = {False: 0.0, True: 0.0}
    await opened.store.subscriptions.set_state(subscription_id, "paused", time.time())
    await drained(opened, port, subscription_id, f"warm {one_session}", count // 10)
    for turn in range(TURNS):
        for beside in (turn % 2 == 0, turn % 2 == 1):
            async with contextlib.AsyncExitStack() as meanwhile:
                if beside:
                    await meanwhile.enter_async_context(tabs_open(port, one_session=one_session))
                name_of_turn = f"{one_session} {turn} {beside}"
                seconds[beside] += await drained(opened, port, subscription_id, name_of_turn, count)
    people = "one session" if one_session else "twenty sessions"
    return {
        **{"name": f"dashboard, {name}: deliveries beside 20 tabs of {people}", "unit": "deliveries/s"},
        **{"bar": TABS_BAR, "ours": TURNS * count / seconds[True]},
        "baseline": TURNS * count / seconds[False],
    }


async def of_memory(name: str, port: int, seconds: float) -> dict[str, Any]:
    """How much the node grows from the first fifth of the time to the last, with twenty live tabs and deliveries."""
    resident: list[int] = []
    async with delivering(port), tabs_open(port):
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            await asyncio.sleep(seconds / 100)
            resident.append(resident_bytes(os.getpid()))
    fifth = max(1, len(resident) // 5)
    early, late = statistics.median(resident[fifth : 2 * fifth]), statistics.median(resident[-fifth:])
    reported = f"MB in {seconds:.0f} s, from {early / 1e6:.0f} MB"
    return {
        **{"name": f"dashboard, {name}: growth with 20 live tabs", "at_most": GROWTH_MB},
        **{"unit": reported, "ours": (late - early) / 1e6},
    }


def changed(settings: Settings) -> Settings:
    """The accounts and search keys of the large database."""
    source = settings.sources["revor"]
    accounts = {name: AccountSettings(name=name, api_key="rk_benchmark") for name in sorted(set(ACCOUNTS))}
    return settings.replace(
        sources={"revor": source.replace(accounts=accounts)}, web=settings.web.replace(search_keys=SEARCH_KEYS)
    )


async def of_database(name: str, url: str, key: str, scale: float) -> list[dict[str, Any]]:
    """All figures of one database."""
    with sink_process() as sink, tempfile.TemporaryDirectory() as folder:
        async with node(Path(folder), database_url=url, key=key, change=changed) as opened, serving(opened) as port:
            tune()
            subscription_id = await subscribed(opened, sink, IN_FLIGHT, types=(TYPE,))
            await opened.store.subscriptions.set_state(subscription_id, "enabled", time.time())
            rows = await of_pages(name, opened, port, max(3, int(ROUNDS * scale)))
            rows.append(await of_memory(name, port, max(10.0, GROWTH_SECONDS * scale)))
            count = max(5_000, int(EVENTS_A_TURN * scale) // 1_000 * 1_000)
            for one_session in (False, True):
                rows.append(await of_tabs(name, opened, port, subscription_id, count, one_session=one_session))
            await opened.store.subscriptions.remove(subscription_id, time.time())
    return rows


@contextlib.contextmanager
def large(kind: str, scale: float) -> Iterator[tuple[str, str]]:
    """A large database of its own: its URL and key."""
    key = new_key()
    with databases(kind) as make:
        url = make("large")
        asyncio.run(build(url, SIZE.times(scale), Keyring([key]), say=partial(print, file=sys.stderr, flush=True)))
        yield url, key


async def measure(scale: float) -> list[dict[str, Any]]:
    """Rows of the table of run.py."""
    rows: list[dict[str, Any]] = []
    for kind, name in (("sqlite", "SQLite"), ("postgresql", "PostgreSQL")):
        with contextlib.ExitStack() as stack:
            url, key = await asyncio.to_thread(stack.enter_context, large(kind, scale))
            rows += await of_database(name, url, key, scale)
    return rows


def main() -> None:
    """The command line."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    scale = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    if len(sys.argv) > 2:
        url = sys.argv[2]
        name = "SQLite" if url.startswith("sqlite") else "PostgreSQL"
        found = uvloop.run(of_database(name, url, os.environ["RELAY_ENCRYPTION_KEY"], scale))
    else:
        found = uvloop.run(measure(scale))
    for row in found:
        print(row)


if __name__ == "__main__":
    main()
