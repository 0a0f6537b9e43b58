"""A relay that is killed, an upstream and a sink that are not, and the checks afterwards.

The upstream (`relay sandbox`) and the relay (`relay serve`) are processes forked by `fork_server`; the sink and the
registering client run in the test's process.
"""

import asyncio
import contextlib
import functools
import os
import random
import secrets
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from relay.cli.demo.environment import listen, served, url_of
from relay.config.keyring import new_key
from relay.delivery.slots import CLAIMED_PER_SLOT
from relay.sandbox.bodies import DISPATCH_PATH, dispatch_body
from relay.store.databases.sqlite import url_of as sqlite_url_of
from relay.store.schema import migrations
from tests.support.forks import Forked
from tests.support.group_recount import api_mismatches
from tests.support.postgres_server import PostgresServer
from tests.support.scale import scaled

SEED = int(os.environ.get("KILL_TEST_SEED", "20260520"))
KILL_COUNT = int(os.environ.get("KILL_TEST_COUNT", "2"))


TEMPLATE = "kill_template"
_cloning = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """`make`: a new, empty database for a test that has this folder; returns the DATABASE_URL. `delivery`: lines of
    the settings; `constants`: what the relay's are instead (`module:NAME`), so that no test has to wait for them."""

    make: Callable[[Path], str]
    environ: Mapping[str, str] = field(default_factory=dict)
    delivery: str = ""
    constants: Mapping[str, float] = field(default_factory=dict)


@functools.cache
def postgres() -> PostgresServer:
    """The server of this process, with a template that has the schema."""
    server = PostgresServer(max_connections=400)
    server.start()
    server.create_database(TEMPLATE)
    migrations.upgrade(server.url(TEMPLATE))
    return server


def new_postgres(folder: Path) -> str:
    name = f"kill_{secrets.token_hex(8)}"
    with _cloning:  # no other process may use the template meanwhile
        postgres().clone(TEMPLATE, name)
        return postgres().url(name)


DATABASES: Mapping[str, Database] = {
    "sqlite": Database(make=lambda folder: sqlite_url_of(folder / "relay.db")),
    "postgresql": Database(
        make=new_postgres,
        environ={"RELAY_ENCRYPTION_KEY": new_key()},
        delivery="  timeout_seconds: 3\n",  # a lease lasts longer than a time-out, and here a crash lets it expire
        constants={
            "relay.delivery.shared:LEASE_MARGIN_SECONDS": 0.7,
            # Long, as on a busy machine a renewal takes a second. After a kill nothing waits for it: the server reports
            # the end of the node's connection.
            "relay.node.cluster:LEASE_SECONDS": 6.0,
            "relay.node.cluster:RENEW_SECONDS": 1.5,
            "relay.node.cluster:SCAN_SECONDS": 0.2,
        },
    ),
}
"""Which all tests that kill are run with."""


def in_turns(points: Iterable[str]) -> list[tuple[str, str]]:
    """Database and point: each point on every database in `make soak`, on one of them in turn in `make verify`."""
    names = list(DATABASES)
    return [
        (name, point) for number, point in enumerate(points) for name in scaled(names[number % len(names) :][:1], names)
    ]


SPEED = 200.0
MAX_BURST = 8
MAX_UNFINISHED = 80
"""No more jobs are made meanwhile: a slow machine gets what it can deliver within `OWED_SECONDS`."""
LAST = ("succeeded", "failed", "cancelled")
CONCURRENCY = 8
UNMARKED = CLAIMED_PER_SLOT * CONCURRENCY
"""Deliveries of one sink that are out or wait for their commit, at most: what one crash may repeat."""
DUPLICATE_SHARE = 0.01
BATCH_PATH = "/batch"
BATCH = {"max_events": 20, "max_seconds": 0.3}
TOO_LARGE_SHARE = 0.5
"""Of the refused batches, those that are answered with 413: their events are sent one by one."""
CHECKED_DELIVERIES = 50
NOTICE_SECONDS = 0.1
"""The sink may find a request so long after who sent it is gone; no relay is up again by then."""
START_SECONDS = 120.0
OWED_SECONDS = 120.0
RARE_SCANS = {"relay.delivery.dispatcher:IDLE_SCAN_SECONDS": 600.0}
"""What only the dispatcher's idle scan would find is late."""
API_KEY = "sk-revor-test"
PORTS = range(15_000, 32_000)
"""Below those that the system gives to outgoing connections: one of them could sit on the port during a restart."""

CONFIG = """\
sources:
  revor:
    polling: {min_interval_seconds: 0.05, max_interval_seconds: 0.5, max_requests_per_second: 500}
delivery:
  retry_schedule: [0.1s, 0.2s, 0.2s, 0.5s, 0.5s, 1s, 1s, 1s, 2s, 2s]
"""


class Relay(Forked):
    """`relay serve` on one port and one database."""

    def __init__(
        self,
        folder: Path,
        *,
        database_url: str,
        sandbox_url: str,
        database: Database | None = None,
    ) -> None:
        database = database or DATABASES["sqlite"]
        (folder / "relay.yaml").write_text(CONFIG + database.delivery)
        environ = {"DATABASE_URL": database_url, "REVOR_API_KEY": API_KEY, "REVOR_BASE_URL": sandbox_url}
        super().__init__("relay", folder, {**environ, **database.environ})
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.constants = RARE_SCANS | database.constants
        self.kills: list[tuple[float, float]] = []

    async def serve(self, stop: tuple[str, int] | None = None, roles: str | None = None) -> None:
        """Starts it. `stop`: the point and the passage at which it kills itself."""
        config = str(self.folder / "relay.yaml")
        chosen = [] if roles is None else ["--roles", roles]
        arguments = ("serve", "--dev", "--auto-migrate", "--port", str(self.port), "--config", config, *chosen)
        await self.start(*arguments, stop=stop, constants=self.constants)

    async def kill(self) -> None:
        began_at = time.monotonic()
        await super().kill()
        self.kills.append((began_at, time.monotonic()))

    async def thaw(self) -> None:
        """Lets it go on after the fork server's `freeze`."""
        await self.signal(signal.SIGCONT)

    async def killed_itself(self, seconds: float) -> None:
        """Waits until its injected stop has ended it."""
        assert await self.stopped(seconds), f"it ended without a stop:\n{self.log_tail()}"

    async def stopped(self, seconds: float) -> bool:
        """Whether its injected stop ends it; else it ends on request."""
        began_at = time.monotonic()
        code = await self.ended(seconds)
        assert code in (0, -signal.SIGKILL), f"it does not stop ({code}):\n{self.log_tail()}"
        if code == 0:
            return False
        self.kills.append((began_at, time.monotonic()))
        return True

    async def ready(self, session: aiohttp.ClientSession) -> None:
        latest = time.monotonic() + START_SECONDS
        while time.monotonic() < latest:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(f"{self.url}/livez") as response:
                    if response.status == 200:
                        return
            assert (code := await self.ended(0)) is None, f"it ended by itself ({code}):\n{self.log_tail()}"
            await asyncio.sleep(0.02)
        raise AssertionError(f"it did not come up in {START_SECONDS} s:\n{self.log_tail()}")


def free_port() -> int:
    for _ in range(1000):
        port = secrets.choice(PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("there is no free port")


@dataclass(slots=True, kw_only=True)
class Arrival:
    """One request at the sink. `answered_at`: when its 2xx was written to a connection that still stood; `refused`: a
    500 was."""

    event_id: str
    subject: str
    sequence: int
    kind: str
    came_at: float
    answered_at: float | None = None
    refused: bool = False


@dataclass(kw_only=True)
class Sink:
    """Checks signatures, answers 500 to a share of the requests, is slow at times, and remembers every request."""

    rng: random.Random
    refused_share: float = 1 / 7
    slow_share: float = 0.04
    slow_seconds: tuple[float, float] = (0.01, 0.06)
    verifier: Webhook | None = None
    arrivals: list[Arrival] = field(default_factory=list)
    refused: int = 0
    cut: int = 0
    unverified: list[str] = field(default_factory=list)
    batch_verifier: Webhook | None = None
    batches: list[list[Arrival]] = field(default_factory=list)
    """The requests to /batch."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        batched = scope["path"] == BATCH_PATH
        verifier = self.batch_verifier if batched else self.verifier
        try:
            assert verifier is not None
            document = verifier.verify(body, headers)
        except (AssertionError, WebhookVerificationError) as error:
            self.unverified.append(repr(error))
            await _answer(send, 400)
            return
        arrivals = [
            Arrival(
                event_id=event["id"],
                subject=event["subject"],
                sequence=int(event["sequence"]),
                kind=event["type"].rpartition(".")[2],
                came_at=time.monotonic(),
            )
            for event in (document if batched else [document])
        ]
        assert len(arrivals) > 1 or headers["webhook-id"] == arrivals[0].event_id
        if batched:
            self.batches.append(arrivals)
        else:
            self.arrivals += arrivals
        gone = asyncio.create_task(receive())  # ends when the relay's side of the connection does
        await asyncio.sleep(self.rng.uniform(*self.slow_seconds) if self.rng.random() < self.slow_share else 0)
        if gone.done():
            self.cut += 1
            return
        if self.rng.random() < self.refused_share:
            self.refused += not batched
            for arrival in arrivals:
                arrival.refused = True
            await _answer(send, 413 if batched and len(arrivals) > 1 and self.rng.random() < TOO_LARGE_SHARE else 500)
        else:
            for arrival in arrivals:
                arrival.answered_at = time.monotonic()
            await _answer(send, 204)
        await gone


async def _answer(send: Any, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@dataclass(kw_only=True)
class World:
    relay: Relay
    sink: Sink
    sink_url: str
    sandbox: Forked
    sandbox_url: str
    session: aiohttp.ClientSession
    rng: random.Random
    job_ids: list[str] = field(default_factory=list)
    registered: set[str] = field(default_factory=set)
    """The jobs whose registration was answered: they are never registered again."""

    async def subscribe(self, *, batches: bool = False) -> None:
        """Subscribes the sink, with `batches` also to the same events in batches."""
        self.sink.verifier = await self._verifier_of(self.sink_url, {})
        if batches:
            url = self.sink_url.replace("/hook", BATCH_PATH)
            self.sink.batch_verifier = await self._verifier_of(url, {"content_mode": "batch", "batch": BATCH})

    async def _verifier_of(self, sink: str, config: Mapping[str, Any]) -> Webhook:
        """Verifies the requests of a new subscription."""
        body = {"sink": sink, "config": {"concurrency": CONCURRENCY, **config}}
        async with self.session.post(f"{self.relay.url}/v1/subscriptions", json=body) as response:
            answer = await response.json()
            assert response.status == 201, answer
        return Webhook(answer["config"]["secret"])

    async def new_job(self) -> dict[str, Any]:
        """A new job upstream, one after another, so that a seed means the same lives. What registers it at the relay:
        its id alone, or the upstream's own answer, which tells the first state."""
        number = len(self.job_ids)
        if number % 8 == 0:
            headers = {"Authorization": f"Bearer {API_KEY}"}
            url, body = f"{self.sandbox_url}{DISPATCH_PATH}", dispatch_body(number)
            async with self.session.post(url, json=body, headers=headers) as response:
                answer = await response.json()
                assert response.status == 202, answer
            item = answer["item"]
        else:
            body = {"account": "test", "in_lane": False, "retry_pause_seconds": 30}
            async with self.session.post(f"{self.sandbox_url}/_sandbox/jobs", json=body) as response:
                answer = await response.json()
                assert response.status == 201, answer
            item = answer["items"][0]
        self.job_ids.append(item["id"])
        group = {"group": f"group {number % 4}"} if number % 4 else {}
        return {"id": item["id"], **group} if number % 2 else {"ok": True, "item": item, **group}

    async def register(self, job: Mapping[str, Any]) -> None:
        """Tells the relay of the job until it says that it has it: a killed relay may have it already, or not."""
        job_id: str = job["id"] if "id" in job else job["item"]["id"]
        latest = time.monotonic() + START_SECONDS + OWED_SECONDS
        while time.monotonic() < latest:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self.session.post(f"{self.relay.url}/v1/jobs", json=job) as response:
                    text = await response.text()
                    assert response.status in (200, 201), text
                    self.registered.add(job_id)
                    return
            await asyncio.sleep(0.03)
        raise AssertionError(f"{job_id} could not be registered")

    async def register_until(self, done: asyncio.Event, bursts_per_second: float) -> None:
        """Makes and registers one to eight jobs at once, again and again, at this mean rate."""
        async with asyncio.TaskGroup() as group:
            while not done.is_set():
                if self.unfinished() < MAX_UNFINISHED:
                    for _ in range(self.rng.randint(1, MAX_BURST)):
                        group.create_task(self.register(await self.new_job()))
                await asyncio.sleep(self.rng.expovariate(bursts_per_second))

    def unfinished(self) -> int:
        """How many jobs have no last event at the sink yet."""
        ended = {arrival.subject for arrival in self.sink.arrivals if arrival.kind in LAST}
        return len(self.job_ids) - len(ended)

    async def get(self, path: str) -> Any:
        async with self.session.get(f"{self.relay.url}{path}") as response:
            assert response.status == 200, await response.text()
            return orjson.loads(await response.read())

    async def truths(self) -> dict[str, dict[str, Any]]:
        """By job, its whole true life."""
        async with self.session.get(f"{self.sandbox_url}/_sandbox/jobs") as response:
            answer = orjson.loads(await response.read())
        assert answer["next_after"] is None
        return {job["id"]: job for job in answer["jobs"]}

    def kinds(self) -> dict[str, list[str]]:
        """By job, the kinds of its accepted events, each once, by sequence."""
        got: dict[str, dict[int, str]] = {}
        for arrival in self.sink.arrivals:
            if arrival.answered_at is not None:
                got.setdefault(arrival.subject, {})[arrival.sequence] = arrival.kind
        return {job_id: [found[n] for n in sorted(found)] for job_id, found in got.items()}

    def missing(self, truths: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """By job, what it owes and has not delivered."""
        kinds = self.kinds()
        found = {job_id: what_is_missing(truths[job_id], kinds.get(job_id, [])) for job_id in self.job_ids}
        return {job_id: what for job_id, what in found.items() if what}

    async def everything_owed(self) -> dict[str, dict[str, Any]]:
        """Waits until nothing is missing or pending. Returns the truth."""
        latest = time.monotonic() + OWED_SECONDS
        while True:
            truths = await self.truths()
            missing = self.missing(truths)
            if not missing and not (await self.get("/v1/deliveries?state=pending"))["items"]:
                return truths
            assert time.monotonic() < latest, f"lost: {missing}\n{self.relay.log_tail()}"
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def open_world(folder: Path, seed: str, *, database: str = "sqlite") -> AsyncIterator[World]:
    """A sandbox, a sink, and a relay that is not started."""
    async with contextlib.AsyncExitStack() as stack:
        # A kept connection may be closed by its server just as it is used again: each request has one of its own.
        connector = aiohttp.TCPConnector(force_close=True)
        timeout = aiohttp.ClientTimeout(total=10)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector, timeout=timeout))
        at_sink = stack.enter_context(contextlib.closing(listen()))
        sink = Sink(rng=random.Random(f"sink:{seed}"))
        await stack.enter_async_context(served(sink, at_sink))
        port = free_port()
        sandbox_url = f"http://127.0.0.1:{port}"
        sandbox = Forked("sandbox", folder)
        stack.callback(sandbox.close)
        number = random.Random(f"sandbox:{seed}").randrange(1_000_000)
        settings = ("--port", str(port), "--seed", str(number), "--speed", str(SPEED), "--rate-limit", "100000/60")
        await sandbox.start("sandbox", *settings)
        chosen = DATABASES[database]
        url = await asyncio.to_thread(chosen.make, folder)
        relay = Relay(folder, database_url=url, sandbox_url=sandbox_url, database=chosen)
        stack.callback(relay.close)
        world = World(
            relay=relay,
            sink=sink,
            sink_url=f"{url_of(at_sink)}/hook",
            sandbox=sandbox,
            sandbox_url=sandbox_url,
            session=session,
            rng=random.Random(f"jobs:{seed}"),
        )
        latest = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                await world.truths()
                break
            assert time.monotonic() < latest, sandbox.log_tail()
            await asyncio.sleep(0.01)
        yield world


# --- what the truth owes


def split(truth: Mapping[str, Any]) -> list[list[str]]:
    """The true statuses, cut at each failed attempt that another followed."""
    parts: list[list[str]] = [[]]
    for step in truth["transitions"]:
        if step["failed_attempt"] is None:
            parts[-1].append(step["status"])
        else:
            parts.append([])
    return parts


def split_kinds(kinds: Sequence[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for kind in kinds:
        if kind == "retrying":
            parts.append([])
        else:
            parts[-1].append(kind)
    return parts


def owed_count(truth: Mapping[str, Any]) -> int:
    """Owed: the last true status, `running` if it started, and one `retrying` for each failed attempt before."""
    return len(split(truth)) + (truth["final_item"]["started_at"] is not None)


def what_is_missing(truth: Mapping[str, Any], kinds: Sequence[str]) -> str:
    """The first of what is owed that did not come."""
    retries, final = len(split(truth)) - 1, truth["transitions"][-1]["status"]
    last = split_kinds(kinds)[-1]
    if kinds.count("retrying") < retries:
        return f"{retries - kinds.count('retrying')} retrying of {retries}"
    if truth["final_item"]["started_at"] is not None and "running" not in last:
        return "running"
    return "" if final in last else final


def is_subsequence(part: Sequence[str], whole: Sequence[str]) -> bool:
    rest = iter(whole)
    return all(each in rest for each in part)


# --- the promise


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of a world that is quiet again. `duplicates`: requests with an event that the sink had got before and
    had not refused then; of them `unanswered`: its answer had not gone out either, as the relay was killed first."""

    jobs: int
    owed: int
    events: int
    requests: int
    refused: int
    lost: int
    out_of_order: int
    duplicates: int
    unanswered: int
    most_duplicates_a_kill: int
    kills: int

    def __str__(self) -> str:
        return (
            f"{self.jobs} jobs, {self.owed} owed, {self.events} events in {self.requests} requests: "
            f"{self.refused} refused, {self.lost} lost, {self.out_of_order} out of order, {self.duplicates} duplicates "
            f"({self.unanswered} of a request that was cut off, at most {self.most_duplicates_a_kill} a kill); "
            f"{self.kills} kills"
        )


def total(reports: Sequence[Report]) -> Report:
    """The sum of several worlds."""
    sums = {each.name: sum(getattr(report, each.name) for report in reports) for each in fields(Report)}
    most = max((report.most_duplicates_a_kill for report in reports), default=0)
    return Report(**{**sums, "most_duplicates_a_kill": most})


async def check_the_promise(world: World) -> Report:
    """Waits until all is quiet, compares the world's truth with what the sink got, and the relay's books with both."""
    await world.relay.ready(world.session)
    truths = await world.everything_owed()
    report = judged(world, truths)
    if world.sink.batch_verifier is not None:
        await check_the_batches(world)
    await check_the_relays_own_books(world)
    assert world.sink.unverified == []
    assert set(truths) ^ set(world.job_ids) == set(), "made upstream, and not by the test, or the other way round"
    assert set(world.job_ids) ^ world.registered == set(), "made, and not registered, or the other way round"
    assert (report.lost, report.out_of_order) == (0, 0)
    assert report.most_duplicates_a_kill <= UNMARKED, str(report)
    assert await world.relay.ended(0) is None, f"it ended by itself:\n{world.relay.log_tail()}"
    return report


def judged(world: World, truths: Mapping[str, Mapping[str, Any]]) -> Report:
    """Counts; and holds each job to one id for each of its sequences, to sequences without a gap, and to its truth."""
    arrivals = world.sink.arrivals
    ids: dict[tuple[str, int], set[str]] = {}
    accepted: dict[str, set[int]] = {}
    out_of_order = 0
    for arrival in arrivals:
        ids.setdefault((arrival.subject, arrival.sequence), set()).add(arrival.event_id)
        before = accepted.setdefault(arrival.subject, set())
        out_of_order += arrival.sequence > 1 and arrival.sequence - 1 not in before
        if arrival.answered_at is not None:
            before.add(arrival.sequence)
    assert {key: found for key, found in ids.items() if len(found) > 1} == {}
    assert len(set.union(*ids.values())) == len(ids)
    assert set(accepted) == set(world.job_ids)
    kinds = world.kinds()
    for job_id in world.job_ids:
        assert sorted(accepted[job_id]) == list(range(1, len(accepted[job_id]) + 1))
        attempts, came = split(truths[job_id]), split_kinds(kinds[job_id])
        assert len(came) == len(attempts), (job_id, attempts, came)
        for part, whole in zip(came, attempts, strict=True):
            assert is_subsequence(part, whole), (job_id, attempts, came)
    duplicates, unanswered = duplicates_by_kill(world, arrivals)
    return Report(
        jobs=len(world.job_ids),
        owed=sum(owed_count(truths[job_id]) for job_id in world.job_ids),
        events=len(ids),
        requests=len(arrivals),
        refused=world.sink.refused,
        lost=len(world.missing(truths)),
        out_of_order=out_of_order,
        duplicates=sum(duplicates.values()),
        unanswered=unanswered,
        most_duplicates_a_kill=max(duplicates.values(), default=0),
        kills=len(world.relay.kills),
    )


async def check_the_batches(world: World) -> None:
    """They brought the same events as the single requests, each job's in order, and again only after a crash; and each
    delivery has no more attempts than requests, one after another."""
    accepted: dict[str, dict[int, str]] = {}
    for batch in world.sink.batches:
        here: dict[str, dict[int, str]] = {}
        for arrival in batch:
            before = {**accepted.get(arrival.subject, {}), **here.get(arrival.subject, {})}
            assert arrival.sequence == 1 or arrival.sequence - 1 in before, f"out of order: {arrival} in {batch}"
            here.setdefault(arrival.subject, {})[arrival.sequence] = arrival.event_id
            if arrival.answered_at is not None:
                accepted.setdefault(arrival.subject, {})[arrival.sequence] = arrival.event_id
    singles: dict[str, dict[int, str]] = {}
    for arrival in world.sink.arrivals:
        singles.setdefault(arrival.subject, {})[arrival.sequence] = arrival.event_id
    assert accepted == singles
    assert max(map(len, world.sink.batches)) > 1
    duplicates_by_kill(world, [arrival for batch in world.sink.batches for arrival in batch])
    came = Counter(arrival.event_id for batch in world.sink.batches for arrival in batch)
    subscriptions = (await world.get("/v1/subscriptions"))["items"]
    (batched,) = (one["id"] for one in subscriptions if one["config"]["content_mode"] == "batch")
    for row in (await world.get(f"/v1/deliveries?subscription={batched}&limit={CHECKED_DELIVERIES}"))["items"]:
        attempts = (await world.get(f"/v1/deliveries/{row['id']}"))["attempts"]
        assert [attempt["number"] for attempt in attempts] == list(range(1, len(attempts) + 1))
        assert 1 <= len(attempts) <= came[row["event_id"]]


def duplicates_by_kill(world: World, arrivals: Iterable[Arrival]) -> tuple[Counter[int], int]:
    """How many events came again that had not been refused the last time, by the kill between the two; and how many of
    them had got no answer."""
    had: dict[str, Arrival] = {}
    unanswered = 0
    found: Counter[int] = Counter()
    for arrival in arrivals:
        last = had.pop(arrival.event_id, None)
        if last is not None:
            unanswered += last.answered_at is None
            kills = enumerate(world.relay.kills)
            between = [
                n for n, (at, ended) in kills if last.came_at <= ended + NOTICE_SECONDS and at <= arrival.came_at
            ]
            after = arrival.came_at - last.came_at
            lives = [f"{at - last.came_at:+.2f} to {ended - last.came_at:+.2f} s" for at, ended in world.relay.kills]
            assert between, f"{arrival.event_id} came again without a crash, {after:.2f} s after {last}; killed {lives}"
            found[between[0]] += 1
        if not arrival.refused:
            had[arrival.event_id] = arrival
    return found, unanswered


async def check_the_relays_own_books(world: World) -> None:
    """It has recorded what came and nothing else, and owes nothing more."""
    got: dict[str, set[str]] = {}
    for arrival in world.sink.arrivals:
        got.setdefault(arrival.subject, set()).add(arrival.event_id)
    for job_id in world.job_ids:
        events = (await world.get(f"/v1/jobs/{job_id}/events"))["items"]
        assert {event["id"] for event in events} == got[job_id]
    for state in ("pending", "dead", "cancelled"):
        assert (await world.get(f"/v1/deliveries?state={state}"))["items"] == []
    await check_the_groups(world)
    await check_the_incidents(world)


async def check_the_groups(world: World) -> None:
    """They count their jobs, and each is told once to have finished."""
    jobs = [await world.get(f"/v1/jobs/{job_id}") for job_id in world.job_ids]
    groups = (await world.get("/v1/groups"))["items"]
    assert groups or len(jobs) < 2
    assert api_mismatches(jobs, groups) == []
    for group in groups:
        async with world.session.post(f"{world.relay.url}/v1/groups/{group['name']}/close") as response:
            assert (response.status, (await response.json())["state"]) == (200, "finished")
    told = (await world.get("/v1/events?type=relay.group.finished"))["items"]
    assert sorted(event["subject"] for event in told) == sorted(group["name"] for group in groups)


async def check_the_incidents(world: World) -> None:
    """Each was opened once, and one of jobs counts those that have failed for its cause."""
    incidents = (await world.get("/v1/incidents?limit=500"))["items"]
    opened = (await world.get("/v1/events?type=relay.incident.opened&limit=500"))["items"]
    assert sorted(event["subject"] for event in opened) == sorted(incident["id"] for incident in incidents)
    for incident in (one for one in incidents if one["kind"] == "jobs"):
        jobs = (await world.get(f"/v1/incidents/{incident['id']}/jobs?limit=500"))["items"]
        assert len(jobs) == incident["failed"], incident
        assert all(job["outcome"] == "failed" for job in jobs)
