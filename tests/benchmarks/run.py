"""`make bench`: each figure beside a baseline of the same run, as a table and as JSON. Bounded; ends by itself.

Absolute figures depend on the machine; the ratios are what counts (docs/design/performance.md).
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import uvloop

from relay.config.keyring import new_key
from relay.config.settings import Settings
from relay.core.events.event import Origin, from_transition
from relay.core.jobs.job import Job, Observation, Progress, detect
from relay.core.polling.tracking import Registration, TrackRequest
from relay.core.records import PollRecord
from relay.core.subscriptions.signing import signature_headers
from relay.core.subscriptions.subscription import SigningSecret, Subscription
from relay.ids import new_id
from relay.node.interpreter import tune
from relay.store.databases.sqlite import make_engine, sqlite_url

ORIGIN = Origin(
    source="https://upstream.test/jobs", type_prefix="ai.revor.job", dataschema="http://127.0.0.1/schemas/x"
)
NOBODY_PORT = 9
"""The port of an upstream that does not answer."""
STILL_LOADING = "still being read"
LOADED_SECONDS = 120.0
SECRET = "whsec_" + "c2VjcmV0" * 4

SINK = """
import asyncio, socket, sys, uvloop
class Sink(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.buffer = transport, b""
    def data_received(self, data):
        self.buffer += data
        while True:
            head, mark, rest = self.buffer.partition(b"\\r\\n\\r\\n")
            if not mark:
                return
            at = head.lower().find(b"content-length:")
            length = int(head[at + 15:].split(b"\\r\\n", 1)[0]) if at >= 0 else 0
            if len(rest) < length:
                return
            self.buffer = rest[length:]
            self.transport.write(b"HTTP/1.1 204 No Content\\r\\n\\r\\n")
async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Sink, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
uvloop.run(main())
"""


@contextlib.contextmanager
def sink_process() -> Any:
    """A sink in a process of its own that answers 204 at once."""
    process = subprocess.Popen([sys.executable, "-c", SINK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/hook"
    finally:
        process.communicate("", timeout=10)


@asynccontextmanager
async def node(
    folder: Path,
    url: str = "http://127.0.0.1:1",
    *,
    database_url: str | None = None,
    key: str | None = None,
    roles: tuple[str, ...] = ("api", "dispatcher"),
    change: Callable[[Settings], Settings] = lambda settings: settings,
) -> AsyncIterator[Any]:
    """A node with its database in `folder` or at that URL, loopback sinks allowed, no polling. `change`: of its
    settings."""
    from ipaddress import ip_network

    from relay.node.opening import open_node

    settings = Settings()
    settings = settings.replace(
        database=settings.database.replace(url=database_url or f"sqlite:///{folder}/bench.db"),
        encryption=settings.encryption.replace(keys=(key or new_key(),)),
        security=settings.security.replace(allow_http=True, allow_networks=(ip_network("127.0.0.0/8"),)),
        delivery=settings.delivery.replace(per_host=256),
        dev=True,
    )
    async with open_node(change(settings), base_url=url, state_dir=folder, roles=roles, auto_migrate=True) as opened:
        yield opened


def job_with_events(index: int, now: float) -> tuple[Registration, PollRecord]:
    """A job and the look that saw its whole life: three events of about 1 KiB."""
    uid = new_id("job", now)
    item = {
        **{"id": f"bench-{index}", "status": "succeeded", "action": "outreach.dispatch", "channel": "email"},
        **{"scheduled_at": "2026-05-20T10:00:00.000Z", "started_at": "2026-05-20T10:00:01.000Z"},
        **{"finished_at": "2026-05-20T10:00:08.000Z", "attempt_count": 1, "next_attempt_at": None, "error": None},
    }
    seen = Observation(
        status="succeeded", observed_at=now, started_at=now - 7, finished_at=now, attempt_count=1, upstream=item
    )
    job = Job(uid=uid, external_id=f"bench-{index}", source="revor", account="default")
    transitions, progress = detect(Progress(), seen)
    events = tuple(from_transition(new_id("evt", now), job, t, ORIGIN, seen=seen) for t in transitions)
    made = registration(job.external_id, now, uid)
    record = PollRecord(
        job_uid=uid, expected_sequence=0, progress=progress, events=events, now=now, seen=seen, outcome="succeeded"
    )
    return made, record


def registration(external_id: str, now: float, uid: str) -> Registration:
    """A job to track."""
    request = TrackRequest(external_id=external_id, source="revor", account="default")
    return Registration(job=request.job(uid, now, 604_800.0, Progress()), request=request)


async def bare_client(url: str, bodies: list[bytes], in_flight: int) -> float:
    """Signed posts a second by an aiohttp client that does nothing else."""
    secrets = (SigningSecret(value=SECRET),)
    queue = iter(bodies)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=in_flight)) as session:

        async def work() -> None:
            for body in queue:
                headers = dict(signature_headers(secrets, message_id="evt_1", now=time.time(), body=body))
                headers["Content-Type"] = "application/cloudevents+json"
                async with session.post(url, data=body, headers=headers) as response:
                    await response.read()

        start = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(in_flight)))
        return len(bodies) / (time.perf_counter() - start)


async def deliveries(count: int, in_flight: int = 64, rounds: int = 4) -> list[dict[str, Any]]:
    """Durable deliveries on both databases: see `delivered`."""
    found = [await delivered("SQLite", None, 0.60, count, in_flight, rounds)]
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from tests.support.postgres_server import PostgresServer

    server = PostgresServer(fsync=True)
    server.start()
    try:
        server.create_database("bench")
        found.append(await delivered("PostgreSQL", server.url("bench"), 0.55, count, in_flight, rounds))
    finally:
        server.close()
    return found


async def delivered(
    name: str, database_url: str | None, bar: float, count: int, in_flight: int, rounds: int
) -> dict[str, Any]:
    """Durable deliveries, attempt rows and order included, in turns with the bare client."""
    bare_seconds, our_seconds, total = 0.0, 0.0, 0
    with sink_process() as url, tempfile.TemporaryDirectory() as folder:
        async with node(Path(folder), database_url=database_url) as opened:
            subscription_id = await subscribed(opened, url, in_flight)
            tune()  # as `relay serve` does; the bare client has the same
            for turn in range(rounds):
                bodies = await owe(opened, count // rounds, turn)
                total += len(bodies)
                bare_seconds += len(bodies) / await bare_client(url, bodies, in_flight)
                our_seconds += await drained(opened, subscription_id)
    return {
        **{"name": f"durable deliveries, {name}", "unit": "deliveries/s", "bar": bar},
        **{"ours": total / our_seconds, "baseline": total / bare_seconds},
    }


async def subscribed(opened: Any, url: str, in_flight: int, **settings: Any) -> str:
    """Makes a subscription that is paused. Returns its id."""
    now = time.time()
    subscription = Subscription(
        id=new_id("sub", now),
        sink=url,
        state="paused",
        concurrency=in_flight,
        created_at=now,
        secrets=(SigningSecret(value=SECRET),),
        **settings,
    )
    await opened.store.subscriptions.create(subscription)
    return subscription.id


async def drained(opened: Any, subscription_id: str, kind: str = "webhook") -> float:
    """Enables the subscription until nothing is owed any more. Returns how many seconds that takes."""
    delivered = opened.metrics_registry.attempts.labels(kind, "delivered")
    total = delivered._value.get() + (await opened.store.deliveries.pending()).count
    begun = time.perf_counter()
    await opened.store.subscriptions.set_state(subscription_id, "enabled", time.time())
    opened.signals.deliveries_due()
    while delivered._value.get() < total:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0.02)
    while (await opened.store.deliveries.pending()).count:  # noqa: ASYNC110 - nor has this
        await asyncio.sleep(0.005)
    seconds = time.perf_counter() - begun
    await opened.store.subscriptions.set_state(subscription_id, "paused", time.time())
    return seconds


async def fanout(scale: float, subscriptions: int = 1_000) -> dict[str, Any]:
    """One event to a thousand subscriptions beside a thousand events to one: deliveries a second."""
    events, rates = max(3, int(12 * scale)), []
    with sink_process() as url:
        for count, each in ((1, events * subscriptions), (subscriptions, events)):
            with tempfile.TemporaryDirectory() as folder:
                async with node(Path(folder)) as opened:
                    now = time.time()
                    for _ in range(count):
                        await opened.store.subscriptions.create(
                            Subscription(
                                id=new_id("sub", now),
                                sink=url,
                                state="enabled",
                                created_at=now,
                                secrets=(SigningSecret(value=SECRET),),
                            )
                        )
                    tune()
                    begun = time.perf_counter()
                    pairs = [job_with_events(index, now) for index in range(max(1, each // 3))]
                    for start in range(0, len(pairs), 500):
                        chunk = pairs[start : start + 500]
                        await opened.store.jobs.register_many([made for made, _ in chunk])
                        await asyncio.gather(*(opened.store.jobs.record(record) for _, record in chunk))
                    opened.signals.deliveries_due()
                    while (await opened.store.deliveries.pending()).count:  # noqa: ASYNC110 - it has no event
                        await asyncio.sleep(0.02)
                    total = opened.metrics_registry.attempts.labels("webhook", "delivered")._value.get()
                    rates.append(total / (time.perf_counter() - begun))
    return {
        **{"name": "one event to 1,000 subscriptions", "unit": "deliveries/s, beside 1,000 events to one"},
        **{"bar": 1 / 1.3, "ours": rates[1], "baseline": rates[0]},
    }


async def owe(opened: Any, count: int, turn: int) -> list[bytes]:
    """Records about `count` events that wait for their delivery. Returns their bodies."""
    now = time.time()
    pairs = [job_with_events(turn * count + index, now) for index in range(count // 2)]
    for start in range(0, len(pairs), 500):
        chunk = pairs[start : start + 500]
        await opened.store.jobs.register_many([made for made, _ in chunk])
        await asyncio.gather(*(opened.store.jobs.record(record) for _, record in chunk))
    return [event.body for _, record in pairs for event in record.events]


CLIENT = """
import asyncio, sys, time, aiohttp, uvloop
async def main(url, in_flight, bodies):
    queue = iter(bodies)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=in_flight)) as session:
        async def work():
            for body in queue:
                async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as response:
                    assert response.status in (200, 201), await response.text()
                    await response.read()
        start = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(in_flight)))
        print(len(bodies) / (time.perf_counter() - start))
uvloop.run(main(sys.argv[1], int(sys.argv[2]), sys.stdin.buffer.read().splitlines()))
"""


async def _post_all(port: int, bodies: list[bytes], in_flight: int) -> float:
    """Posts a second, by a client in a process of its own so that it costs the server nothing."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CLIENT, f"http://127.0.0.1:{port}/v1/jobs", str(in_flight)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate(b"\n".join(bodies))
    return float(printed)


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[int]:
    """Serves an application on a free port of loopback."""
    import uvicorn

    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.bind(("127.0.0.1", 0))
    bound.listen(1024)
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, access_log=False))
    server.capture_signals = contextlib.nullcontext
    task = asyncio.create_task(server.serve(sockets=[bound]))
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        yield bound.getsockname()[1]
    finally:
        server.should_exit = True
        await task


class WithoutStore:
    """The node's tracking, but nothing is stored: the same validation and the same answer."""

    def __init__(self, tracking: Any) -> None:
        self._tracking = tracking

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tracking, name)

    async def register(self, requests: Any) -> Any:
        from relay.core.records import Registered

        now = time.time()
        made = [self._tracking._registration(request, None, now) for request in requests]
        return [Registered(job=one.job, created=True) for one in made]


async def registrations(count: int, in_flight: int = 64) -> dict[str, Any]:
    """Registrations one at a time, beside the same endpoint that validates and answers without storing."""
    from relay.api.app import create_api

    def bodies(prefix: str) -> list[bytes]:
        return [orjson.dumps({"id": f"{prefix}{index}", "metadata": {"deal": index}}) for index in range(count)]

    with tempfile.TemporaryDirectory() as folder:
        async with node(Path(folder)) as opened:
            dependencies = opened._dependencies()
            without = create_api(replace(dependencies, tracking=WithoutStore(dependencies.tracking)), opened._proxy)
            async with serving(opened) as stored_port, serving(without) as bare_port:
                await _post_all(stored_port, bodies("warm")[:200], in_flight)
                await _post_all(bare_port, bodies("warm")[:200], in_flight)
                before = await _post_all(bare_port, bodies("x"), in_flight)
                ours = await _post_all(stored_port, bodies("y"), in_flight)
                after = await _post_all(bare_port, bodies("z"), in_flight)
    return {
        **{"name": "registrations one at a time", "unit": "jobs/s", "ours": ours, "bar": 0.40},
        "baseline": statistics.mean([before, after]),
    }


async def batches(count: int, size: int = 1_000) -> dict[str, Any]:
    """Batches of 1,000 over HTTP, beside a bare executemany of the same rows in SQLite with the same pragmas."""
    now = time.time()
    with tempfile.TemporaryDirectory() as folder:
        async with node(Path(folder)) as opened, serving(opened) as port:
            url = f"http://127.0.0.1:{port}/v1/jobs/batch"
            payloads = [
                orjson.dumps({"jobs": [{"id": f"b-{s}-{i}", "metadata": {"deal": 1}} for i in range(size)]})
                for s in range(count // size)
            ]
            async with aiohttp.ClientSession() as session:
                begun = time.perf_counter()
                for payload in payloads:
                    async with session.post(
                        url, data=payload, headers={"Content-Type": "application/json"}
                    ) as response:
                        answer = await response.json()
                        assert answer["created"] == size, answer
                ours = count / (time.perf_counter() - begun)
    with tempfile.TemporaryDirectory() as folder:
        from relay.store.schema.migrations import migrate

        database = f"sqlite:///{folder}/bare.db"
        migrate(database)
        rows = [
            (new_id("job", now), "revor", "default", f"bare-{i}", now, now + 1.0, b'{"deal":1}') for i in range(count)
        ]
        engine = make_engine(sqlite_url(database))
        with engine.connect() as connection:
            begun = time.perf_counter()
            for start in range(0, count, size):
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                connection.connection.cursor().executemany(BARE_INSERT, rows[start : start + size])
                connection.commit()
            bare = count / (time.perf_counter() - begun)
        engine.dispose()
    return {"name": "registrations in batches of 1,000", "unit": "jobs/s", "ours": ours, "baseline": bare, "bar": 0.30}


BARE_INSERT = """
INSERT INTO jobs (uid, source, account, external_id, tracked_at, deadline_at, metadata, sequence, retry_count,
  running_sent, overdue, attempt_count, weight, poll_count, failure_count, missing_count)
VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, 0, 0, 0, 1.0, 0, 0, 0)
"""


async def memory() -> list[dict[str, Any]]:
    """What a node with many open jobs takes: see `with_open_jobs`."""
    rows: list[dict[str, Any]] = []
    for count, megabytes, seconds in ((100_000, 300.0, 5.0), (1_000_000, 1_000.0, 10.0)):
        found = await with_open_jobs(count)
        reported = f"s, the first answer after {found['answering']:.1f} s"
        rows += [
            {"name": f"{count:,} open jobs: resident", "unit": "MB", "ours": found["megabytes"], "at_most": megabytes},
            {
                "name": f"{count:,} open jobs: planned after",
                "unit": reported,
                "ours": found["planned"],
                "at_most": seconds,
            },
        ]
    return rows


async def with_open_jobs(count: int) -> dict[str, float]:
    """`relay serve` with so many open jobs in SQLite: seconds from its start until it answers and until all are
    planned, and the megabytes that it then has resident."""
    from dropin_world import relay

    key = new_key()
    with tempfile.TemporaryDirectory() as folder:
        async with node(Path(folder), key=key) as opened:
            now = time.time()
            for start in range(0, count, 1_000):
                await opened.store.jobs.register_many(
                    [registration(f"m-{start + i}", now, new_id("job", now)) for i in range(1_000)]
                )
        environ = {"DATABASE_URL": f"sqlite:///{folder}/bench.db", "RELAY_ENCRYPTION_KEY": key}

        def measure() -> dict[str, float]:
            begun = time.perf_counter()
            with relay(NOBODY_PORT, environ=environ) as (port, pid):
                answering = time.perf_counter() - begun
                while STILL_LOADING in ready_notes(port):
                    if time.perf_counter() - begun > LOADED_SECONDS:
                        raise RuntimeError("the open jobs are not planned")
                    time.sleep(0.05)
                planned = time.perf_counter() - begun
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            megabytes = pages * resource.getpagesize() / 1e6
            return {"answering": answering, "planned": planned, "megabytes": megabytes}

        return await asyncio.to_thread(measure)


def ready_notes(port: int) -> str:
    """What `/readyz` notes."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=30) as answered:
        return " ".join(orjson.loads(answered.read())["notes"])


async def planner() -> list[dict[str, Any]]:
    """A decision of the planner, its memory, and the loading of a million jobs: see planner_speed.py."""
    from planner_speed import measure

    return measure()


async def dropin(scale: float) -> list[dict[str, Any]]:
    """The drop-in proxy beside direct calls to the same upstream: see dropin.py."""
    from dropin import measure

    return await asyncio.to_thread(measure, scale)


async def flat() -> list[dict[str, Any]]:
    """Claims and marks beside ever more blocked deliveries: see flat.py."""
    from flat import measure

    return await measure()


async def publishing(scale: float) -> list[dict[str, Any]]:
    """Events that come in, and go out as webhooks: see publishing.py."""
    from publishing import measure

    return await measure(scale)


async def many_events(scale: float) -> list[dict[str, Any]]:
    """Deliveries and retention beside ten million events: see many.py."""
    from many import measure

    return await measure(int(10_000_000 * scale))


async def dashboard(scale: float) -> list[dict[str, Any]]:
    """Pages of the dashboard on a large database, and what open tabs cost: see dashboard.py."""
    from dashboard import measure

    return await measure(scale)


async def two_nodes(scale: float) -> dict[str, Any]:
    """Two processes that deliver from one PostgreSQL database: see two_nodes.py."""
    from two_nodes import measure

    return await measure(int(20_000 * scale))


async def latency(scale: float) -> list[dict[str, Any]]:
    """From the upstream's answer to the POST at the sink: see latency.py."""
    from latency import measure

    return await asyncio.to_thread(measure, scale)


async def isolation(scale: float) -> list[dict[str, Any]]:
    """Healthy sinks beside dead and slow ones: see isolation.py."""
    from isolation import measure

    return await measure(scale)


async def retention(scale: float) -> list[dict[str, Any]]:
    """Sixty days of events with retention: see retention.py, which also has the full scale."""
    from retention import measure

    return await asyncio.to_thread(measure, scale)


async def brokers(scale: float) -> list[dict[str, Any]]:
    """Deliveries to Kafka, NATS and RabbitMQ beside bare clients: see brokers.py."""
    from brokers import measure

    return await measure(int(20_000 * scale))


def machine() -> dict[str, Any]:
    """What it ran on."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "cores": os.cpu_count(),
        "sqlite": __import__("sqlite3").sqlite_version,
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1),
    }


async def run(only: str | None, scale: float) -> list[dict[str, Any]]:
    """All benchmarks, or those whose name contains `only`."""
    results: list[dict[str, Any]] = []
    plan: list[tuple[str, Any]] = [
        ("deliveries", lambda: deliveries(int(20_000 * scale))),
        ("brokers", lambda: brokers(scale)),
        ("two processes", lambda: two_nodes(scale)),
        ("latency", lambda: latency(scale)),
        ("fanout", lambda: fanout(scale)),
        ("isolation", lambda: isolation(scale)),
        ("flat", flat),
        ("registrations", lambda: registrations(int(10_000 * scale))),
        ("publishing", lambda: publishing(scale)),
        ("batches", lambda: batches(max(1_000, int(40 * scale) * 1_000))),
        ("memory", memory),
        ("planner", planner),
        ("dropin", lambda: dropin(scale)),
        ("dashboard", lambda: dashboard(scale)),
        ("many events", lambda: many_events(scale)),
        ("retention", lambda: retention(scale)),
    ]
    for name, bench in plan:
        if only is None or only in name:
            print(f"running {name} …", file=sys.stderr, flush=True)
            found = await bench()
            results.extend(found if isinstance(found, list) else [found])
    return results


def show(results: list[dict[str, Any]]) -> bool:
    """Prints the table and the JSON. Returns whether every bar is met."""
    good = True
    print(f"{'benchmark':48} {'ours':>10} {'baseline':>10} {'ratio':>7} {'bar':>8}")
    for result in results:
        if "bar" in result:
            result["ratio"] = result["ours"] / result["baseline"]
            met = result["ratio"] >= result["bar"]
            numbers = f"{result['ours']:10.0f} {result['baseline']:10.0f} {result['ratio']:7.2f} {result['bar']:8.2f}"
        else:
            met = result["ours"] <= result["at_most"]
            numbers = f"{result['ours']:10.1f} {'':10} {'':7} {result['at_most']:8.4g}"
        result["met"] = met
        good = good and met
        print(f"{result['name']:48} {numbers} {result['unit']}{'' if met else '   NOT MET'}")
    print(json.dumps({"machine": machine(), "results": results}))
    return good


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="the name of one, such as deliveries, isolation, planner or dropin")
    parser.add_argument("--scale", type=float, default=1.0, help="how much work, 1 being usual")
    options = parser.parse_args()
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    results = uvloop.run(run(options.only, options.scale))
    return 0 if show(results) else 1


if __name__ == "__main__":
    sys.exit(main())
