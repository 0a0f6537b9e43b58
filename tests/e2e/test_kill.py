"""SIGKILL at random moments, while jobs are registered, looked at and delivered to a sink that answers 500 at times.

The sandbox and the sink live in the test's process and are never killed; the relay is a process of its own and is, 20
times. Nothing may be lost, no transition may get a second event, the order has to hold, and only a delivery whose
answer the relay had no time to write down may come twice.
"""

import asyncio
import contextlib
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from relay.cli.demo_stage import listen, served, url_of
from relay.clock import wall_clock
from relay.sandbox.orders import DISPATCH_PATH, dispatch_body
from relay.sandbox.server import Sandbox

KILLS = 20
JOBS = 60
SPEED = 150.0
CONCURRENCY = 8
UNMARKED = 2 * CONCURRENCY
"""Deliveries of one sink that are out or wait for their commit, at most: what one crash may repeat."""
NOTICE_SECONDS = 0.05
"""The sink may answer a connection for so long after its other end is gone; no relay is up again by then."""
START_SECONDS = 30.0
OWED_SECONDS = 25.0
"""Less than the dispatcher's idle scan (30 s): a retry that only that scan finds is found late."""
API_KEY = "sk-revor-test"
SEED = int(os.environ.get("KILL_TEST_SEED", "20260520"))

CONFIG = """\
sources:
  revor:
    polling: {min_interval_seconds: 0.05, max_interval_seconds: 1}
delivery:
  retry_schedule: [0.1s, 0.2s, 0.2s, 0.5s, 0.5s, 1s, 1s, 1s, 2s, 2s]
"""


@dataclass(slots=True, kw_only=True)
class Arrival:
    """One request at the sink. `answered_at`: when its 2xx was written to a connection that still stood."""

    event_id: str
    subject: str
    sequence: int
    kind: str
    came_at: float
    answered_at: float | None = None


@dataclass(kw_only=True)
class Sink:
    """Checks signatures, answers 500 about one time in seven, and remembers every request."""

    rng: random.Random
    verifier: Webhook | None = None
    arrivals: list[Arrival] = field(default_factory=list)
    refused: int = 0
    cut: int = 0
    unverified: list[str] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        try:
            assert self.verifier is not None
            event = self.verifier.verify(body, headers)
        except (AssertionError, WebhookVerificationError) as error:
            self.unverified.append(repr(error))
            await _answer(send, 400)
            return
        arrival = Arrival(
            event_id=event["id"],
            subject=event["subject"],
            sequence=int(event["sequence"]),
            kind=event["type"].rpartition(".")[2],
            came_at=time.monotonic(),
        )
        assert headers["webhook-id"] == event["id"]
        self.arrivals.append(arrival)
        gone = asyncio.create_task(receive())  # ends when the relay's side of the connection does
        await asyncio.sleep(self.rng.uniform(0.01, 0.06))
        if gone.done():
            self.cut += 1
            return
        if self.rng.random() < 1 / 7:
            self.refused += 1
            await _answer(send, 500)
        else:
            arrival.answered_at = time.monotonic()
            await _answer(send, 204)
        await gone

    def kinds_of(self, job_id: str) -> list[str]:
        """The kinds of the job's accepted events, each once, by sequence."""
        got = {a.sequence: a.kind for a in self.arrivals if a.subject == job_id and a.answered_at is not None}
        return [got[sequence] for sequence in sorted(got)]


async def _answer(send: Any, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


class Relay:
    """`relay serve` as a process that is killed and started again, on one port and one database."""

    def __init__(self, folder: Path, *, sandbox_url: str) -> None:
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self.kills: list[tuple[float, float]] = []
        (folder / "relay.yaml").write_text(CONFIG)
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "REVOR_"))}
        self.environ = {
            **environ,
            "PYTHONPATH": os.getcwd(),
            "XDG_STATE_HOME": str(folder),
            "DATABASE_URL": f"sqlite:///{folder / 'relay.db'}",
            "REVOR_API_KEY": API_KEY,
            "REVOR_BASE_URL": sandbox_url,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "relay.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "relay", "serve", "--dev", "--port", str(self.port)),
                    *("--config", str(self.folder / "relay.yaml")),
                ],
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def kill(self) -> None:
        """SIGKILL, at once. It must have lived until then: a relay that ends by itself has failed."""
        assert self.process is not None
        assert self.process.poll() is None, f"it ended by itself:\n{self.log_tail()}"
        began_at = time.monotonic()
        self.process.kill()
        await asyncio.to_thread(self.process.wait, 10)
        self.kills.append((began_at, time.monotonic()))

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    async def ready(self, session: aiohttp.ClientSession) -> None:
        latest = time.monotonic() + START_SECONDS
        while time.monotonic() < latest:
            assert self.process is not None
            assert self.process.poll() is None, f"it ended by itself:\n{self.log_tail()}"
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(f"{self.url}/livez") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.02)
        raise AssertionError(f"it did not come up in {START_SECONDS} s:\n{self.log_tail()}")

    def log_tail(self) -> str:
        return (self.folder / "relay.log").read_text()[-4000:]


@dataclass(kw_only=True)
class World:
    relay: Relay
    sink: Sink
    sink_url: str
    sandbox: Any
    sandbox_url: str
    session: aiohttp.ClientSession
    job_ids: list[str] = field(default_factory=list)

    async def subscribe(self) -> None:
        body = {"sink": self.sink_url, "config": {"concurrency": CONCURRENCY}}
        async with self.session.post(f"{self.relay.url}/v1/subscriptions", json=body) as response:
            answer = await response.json()
            assert response.status == 201, answer
        self.sink.verifier = Webhook(answer["config"]["secret"])

    async def dispatch(self) -> str:
        """A new job upstream, one after another, so that a seed means the same lives."""
        headers = {"Authorization": f"Bearer {API_KEY}"}
        body = dispatch_body(len(self.job_ids))
        async with self.session.post(f"{self.sandbox_url}{DISPATCH_PATH}", json=body, headers=headers) as response:
            answer = await response.json()
            assert response.status == 202, answer
        job_id: str = answer["item"]["id"]
        self.job_ids.append(job_id)
        return job_id

    async def register(self, job_id: str) -> None:
        """Tells the relay of the job until it says that it has it: a killed relay may have it already, or not."""
        latest = time.monotonic() + START_SECONDS + OWED_SECONDS
        while time.monotonic() < latest:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self.session.post(f"{self.relay.url}/v1/jobs", json={"id": job_id}) as response:
                    text = await response.text()
                    assert response.status in (200, 201), text
                    return
            await asyncio.sleep(0.03)
        raise AssertionError(f"{job_id} could not be registered")

    async def get(self, path: str) -> Any:
        async with self.session.get(f"{self.relay.url}{path}") as response:
            assert response.status == 200, await response.text()
            return orjson.loads(await response.read())

    def truth(self, job_id: str) -> dict[str, Any]:
        truth: dict[str, Any] = self.sandbox.state.world.truth(self.sandbox.state.world.job(job_id), wall_clock())
        return truth

    def missing(self) -> dict[str, str]:
        """By job, what it owes and has not delivered."""
        found = {job_id: what_is_missing(self.truth(job_id), self.sink.kinds_of(job_id)) for job_id in self.job_ids}
        return {job_id: what for job_id, what in found.items() if what}


@contextlib.asynccontextmanager
async def open_world(folder: Path, seed: int) -> AsyncIterator[World]:
    async with contextlib.AsyncExitStack() as stack:
        at_sandbox, at_sink = (stack.enter_context(contextlib.closing(listen())) for _ in range(2))
        sandbox = Sandbox(seed=seed, speed=SPEED, rate_limit=(1200, 60.0), limit_reads_only=True).app()
        sink = Sink(rng=random.Random(f"sink:{seed}"))
        await stack.enter_async_context(served(sandbox, at_sandbox))
        await stack.enter_async_context(served(sink, at_sink))
        relay = Relay(folder, sandbox_url=url_of(at_sandbox))
        stack.callback(relay.close)
        timeout = aiohttp.ClientTimeout(total=10)
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        yield World(
            relay=relay,
            sink=sink,
            sink_url=f"{url_of(at_sink)}/hook",
            sandbox=sandbox,
            sandbox_url=url_of(at_sandbox),
            session=session,
        )


def split(truth: Mapping[str, Any]) -> list[list[str]]:
    """The true statuses, cut at each failed attempt that another followed."""
    parts: list[list[str]] = [[]]
    for step in truth["transitions"]:
        if step["failed_attempt"] is None:
            parts[-1].append(step["status"])
        else:
            parts.append([])
    return parts


def split_kinds(kinds: list[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for kind in kinds:
        if kind == "retrying":
            parts.append([])
        else:
            parts[-1].append(kind)
    return parts


def what_is_missing(truth: Mapping[str, Any], kinds: list[str]) -> str:
    """Owed: the last true status, `running` if it started, and one `retrying` for each failed attempt before."""
    retries, final = len(split(truth)) - 1, truth["transitions"][-1]["status"]
    last = split_kinds(kinds)[-1]
    if kinds.count("retrying") < retries:
        return f"{retries - kinds.count('retrying')} retrying of {retries}"
    if truth["final_item"]["started_at"] is not None and "running" not in last:
        return "running"
    return "" if final in last else final


def is_subsequence(part: list[str], whole: list[str]) -> bool:
    rest = iter(whole)
    return all(each in rest for each in part)


def check_each_job(world: World) -> None:
    """Each transition once and in its true order; sequences without a gap; one id for each."""
    ids: dict[tuple[str, int], set[str]] = {}
    accepted: dict[str, set[int]] = {}
    for arrival in world.sink.arrivals:
        ids.setdefault((arrival.subject, arrival.sequence), set()).add(arrival.event_id)
        later = arrival.sequence > 1 and arrival.sequence - 1 not in accepted.get(arrival.subject, set())
        assert not later, f"{arrival.subject}: {arrival.sequence} came before {arrival.sequence - 1} was accepted"
        if arrival.answered_at is not None:
            accepted.setdefault(arrival.subject, set()).add(arrival.sequence)
    assert {key: found for key, found in ids.items() if len(found) > 1} == {}
    assert len(set.union(*ids.values())) == len(ids)
    assert set(accepted) == set(world.job_ids)
    for job_id in world.job_ids:
        assert sorted(accepted[job_id]) == list(range(1, len(accepted[job_id]) + 1))
        attempts, came = split(world.truth(job_id)), split_kinds(world.sink.kinds_of(job_id))
        assert len(came) == len(attempts), (job_id, attempts, came)
        for part, whole in zip(came, attempts, strict=True):
            assert is_subsequence(part, whole), (job_id, attempts, came)


def repeats_by_kill(world: World) -> Counter[int]:
    """How many accepted events came again, by the kill between the acceptance and the repetition."""
    accepted_at: dict[str, float] = {}
    found: Counter[int] = Counter()
    for arrival in world.sink.arrivals:
        before = accepted_at.get(arrival.event_id)
        if before is not None and before < arrival.came_at:
            kills = enumerate(world.relay.kills)
            between = [n for n, (at, ended) in kills if before <= ended + NOTICE_SECONDS and at <= arrival.came_at]
            assert between, f"{arrival.event_id} came again without a crash"
            found[between[0]] += 1
        if arrival.answered_at is not None:
            accepted_at[arrival.event_id] = arrival.answered_at
    return found


async def check_the_relays_own_books(world: World) -> None:
    """It has recorded what came and nothing else, and owes nothing more."""
    for job_id in world.job_ids:
        events = (await world.get(f"/v1/jobs/{job_id}/events"))["items"]
        got = {arrival.event_id for arrival in world.sink.arrivals if arrival.subject == job_id}
        assert {event["id"] for event in events} == got
    for state in ("pending", "dead", "cancelled"):
        assert (await world.get(f"/v1/deliveries?state={state}"))["items"] == []


async def kill_and_start(world: World, rng: random.Random) -> None:
    """20 kills: six of ten a while after the relay answers, the others anywhere in its start."""
    for number in range(KILLS):
        if rng.random() < 0.6:
            await world.relay.ready(world.session)
            await asyncio.sleep(rng.uniform(0.05, 0.6))
        else:
            await asyncio.sleep(rng.uniform(0.05, 1.2))
        await world.relay.kill()
        world.relay.start()
        assert len(world.relay.kills) == number + 1


async def dispatch_and_register(world: World, rng: random.Random) -> None:
    """Small batches, spread over the time of the kills."""
    async with asyncio.TaskGroup() as group:
        while len(world.job_ids) < JOBS:
            for _ in range(min(rng.randint(1, 5), JOBS - len(world.job_ids))):
                group.create_task(world.register(await world.dispatch()))
            progress = len(world.relay.kills) / KILLS
            while len(world.job_ids) > JOBS * (progress + 0.2) and len(world.relay.kills) < KILLS:
                await asyncio.sleep(0.02)
                progress = len(world.relay.kills) / KILLS


async def everything_owed(world: World) -> None:
    latest = time.monotonic() + OWED_SECONDS
    while time.monotonic() < latest:
        if not world.missing() and not (await world.get("/v1/deliveries?state=pending"))["items"]:
            return
        await asyncio.sleep(0.2)
    raise AssertionError(f"lost: {world.missing()}\n{world.relay.log_tail()}")


@pytest.mark.slow
async def test_twenty_kills_lose_and_invent_nothing(tmp_path: Path) -> None:
    began = time.monotonic()
    print(f"KILL_TEST_SEED={SEED}")
    rng = random.Random(f"kills:{SEED}")
    async with open_world(tmp_path, SEED) as world:
        world.relay.start()
        await world.relay.ready(world.session)
        await world.subscribe()
        async with asyncio.timeout(KILLS * START_SECONDS), asyncio.TaskGroup() as group:
            group.create_task(dispatch_and_register(world, random.Random(f"jobs:{SEED}")))
            group.create_task(kill_and_start(world, rng))
        await world.relay.ready(world.session)
        killed_for = time.monotonic() - began
        await everything_owed(world)
        await asyncio.sleep(0.5)  # what comes twice comes now
        late = wall_clock() - max(world.truth(each)["transitions"][-1]["at_epoch_seconds"] for each in world.job_ids)
        repeats = repeats_by_kill(world)
        sink = world.sink
        print(
            f"{len(world.job_ids)} jobs, {len({a.event_id for a in sink.arrivals})} events in {len(sink.arrivals)} "
            f"requests: {sink.refused} refused, {sink.cut} cut off, {sum(repeats.values())} repeated (at most "
            f"{max(repeats.values(), default=0)} a kill); {len(world.relay.kills)} kills in {killed_for:.1f} s, "
            f"{time.monotonic() - began:.1f} s in all; the last true end was {late:.1f} s ago"
        )
        assert len(world.job_ids) == JOBS
        assert len(world.relay.kills) == KILLS
        assert sink.unverified == []
        assert sink.refused > 0
        assert world.missing() == {}
        check_each_job(world)
        assert max(repeats.values(), default=0) <= UNMARKED
        assert sum(repeats.values()) <= KILLS * CONCURRENCY
        await check_the_relays_own_books(world)
        assert world.relay.process is not None
        assert world.relay.process.poll() is None
