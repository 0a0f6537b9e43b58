"""Random operations from outside on one or two nodes, and what they mean for the promises.

`World` runs the operations and records when each was sent and answered; `tests/support/operations_judge.py` compares
these records with what arrived. An operation that lost its answer to a kill is repeated until it is answered, so that
its effect lies between the two times.
"""

import asyncio
import contextlib
import hashlib
import json
import random
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from relay.cli.demo.environment import listen, served, url_of
from tests.support.forks import Forked
from tests.support.kill_world import DATABASES, SPEED, START_SECONDS, Database, Relay, free_port

NODE_COUNTS = {"sqlite": 1, "postgresql": 2}
SLACK_SECONDS = 3.0
"""How long another node may take to hear of an operation, and a request in flight to end."""
WORKERS = 4
QUIET_SECONDS = 90.0
REQUEST_SECONDS = 60.0
REFUSED_SHARE, BUSY_SHARE, SLOW_SHARE = 1 / 10, 1 / 50, 1 / 25
JOB_TYPES = ("queued", "scheduled", "running", "retrying", "succeeded", "failed", "cancelled")
CHAOS = (("kill", 3), ("reload", 2), ("restart", 1))
LEASES = {"relay.delivery.shared:LEASE_MARGIN_SECONDS": 3.0}


@dataclass(slots=True)
class Window:
    """When an operation took effect: not before `sent_at`, not after `answered_at`. Monotonic seconds."""

    sent_at: float
    answered_at: float = float("inf")

    def surely_before(self, at: float) -> bool:
        return self.answered_at + SLACK_SECONDS < at

    def surely_after(self, at: float) -> bool:
        return self.sent_at - SLACK_SECONDS > at


@dataclass(slots=True, kw_only=True)
class Arrival:
    """One request at a sink. `accepted_at`: when its 2xx was written."""

    path: str
    event_id: str
    subject: str
    sequence: int
    type: str
    body_digest: str
    came_at: float
    accepted_at: float | None = None


@dataclass(slots=True, kw_only=True)
class Subscribed:
    """A subscription as the test knows it. `types`: the filters it had, each with the window in which it came."""

    id: str
    path: str
    made: Window
    types: list[tuple[Window, frozenset[str] | None]]
    verifiers: list[tuple[Window, Webhook]]
    clean: bool
    """Never retried by hand, replayed or reordered: order and duplicates are judged strictly."""
    removed: Window | None = None


@dataclass(slots=True, kw_only=True)
class Tracked:
    """A job as the test knows it."""

    id: str
    registered: list[Window] = field(default_factory=list)
    untracked: list[Window] = field(default_factory=list)
    purged: list[Window] = field(default_factory=list)
    callbacks: dict[str, Window] = field(default_factory=dict)
    """By path, when the registration that names it was answered."""
    busy: bool = False
    """An operation on it is under way: the next would overlap it."""


@dataclass(kw_only=True)
class Sinks:
    """Every sink, by path. Refuses a share of the requests, asks for a pause at times, and keeps a list of them all."""

    rng: random.Random
    arrivals: list[Arrival] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)
    verifiers: dict[str, list[tuple[Window, Webhook]]] = field(default_factory=dict)
    reported: asyncio.Condition = field(default_factory=asyncio.Condition)
    """Notified when the secret of a path becomes known."""
    healthy: bool = False
    """Takes everything at once, for the end of the run."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        came_at, path = time.monotonic(), scope["path"]
        event = json.loads(body)
        if event["type"] == "relay.test":
            await _answer(send, 204)
            return
        await self._verify(path, body, headers, came_at)
        arrival = Arrival(
            path=path,
            event_id=event["id"],
            subject=event["subject"],
            sequence=int(event["sequence"]),
            type=event["type"].rpartition(".")[2],
            body_digest=hashlib.sha256(body).hexdigest(),
            came_at=came_at,
        )
        self.arrivals.append(arrival)
        gone = asyncio.create_task(receive())  # ends with the connection
        if not self.healthy and self.rng.random() < SLOW_SHARE:
            await asyncio.sleep(self.rng.uniform(0.01, 0.06))
        if gone.done():
            return
        drawn = 1.0 if self.healthy else self.rng.random()
        if drawn < BUSY_SHARE:
            await _answer(send, 503, (b"retry-after", b"1"))
        elif drawn < BUSY_SHARE + REFUSED_SHARE:
            await _answer(send, 500)
        else:
            arrival.accepted_at = time.monotonic()
            await _answer(send, 204)
        await gone

    async def tell(self, path: str, known: list[tuple[Window, Webhook]]) -> None:
        """The secrets of a path, oldest first; the list may grow."""
        async with self.reported:
            self.verifiers[path] = known
            self.reported.notify_all()

    async def _verify(self, path: str, body: bytes, headers: Mapping[str, str], at: float) -> None:
        """The oldest secret signs through every overlap; the newest one has to, once its rotation was answered."""
        async with asyncio.timeout(REQUEST_SECONDS), self.reported:  # the answer with the secret may be on its way
            await self.reported.wait_for(lambda: path in self.verifiers)
        known = self.verifiers[path]
        needed = [known[0][1]] + [verifier for window, verifier in known[-1:] if window.surely_before(at)]
        for verifier in needed:
            try:
                verifier.verify(body, dict(headers))
            except WebhookVerificationError as error:
                self.unread.add(f"{path}: {error}")


async def _answer(send: Any, status: int, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0"), *headers]})
    await send({"type": "http.response.body", "body": b""})


class Gone(AssertionError):
    """The nodes did not answer in time."""


@dataclass(kw_only=True)
class World:
    nodes: Sequence[Relay]
    sinks: Sinks
    sinks_url: str
    sandbox_url: str
    session: aiohttp.ClientSession
    rng: random.Random
    jobs: list[Tracked] = field(default_factory=list)
    subscriptions: list[Subscribed] = field(default_factory=list)
    streamed: set[str] = field(default_factory=set)
    """The ids of the events that the stream has sent, over all of its connections."""
    stream_repeats: list[str] = field(default_factory=list)
    done_counts: dict[str, int] = field(default_factory=dict)
    deaths: list[tuple[float, float]] = field(default_factory=list)
    """Kills: when each began, and when the process was gone."""
    following: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the stream's first connection stands."""
    reported: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the stream has an id to go on from: no event after that may be missed."""
    _last_streamed: str | None = None
    _numbers: int = 0
    _keys: int = 0

    # --- requests

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        expected: Sequence[int] = (200,),
        window: Window | None = None,
    ) -> tuple[int, Any]:
        """Sends a request to any node until one answers it; a POST carries one Idempotency-Key throughout."""
        headers = {}
        if method == "POST":
            self._keys += 1
            headers["Idempotency-Key"] = f"operation-{self._keys}"
        latest, said = time.monotonic() + REQUEST_SECONDS, "no answer"
        while time.monotonic() < latest:
            node = self.rng.choice(self.nodes)
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, ConnectionError):
                async with self.session.request(method, node.url + path, json=body, headers=headers) as response:
                    text = await response.text()
                    said = f"{response.status} {text}"
                    in_flight = response.status == 409 and "idempotency_in_flight" in text
                    if response.status < 500 and not in_flight:
                        assert response.status in expected, f"{method} {path} {body}: {said}"
                        if window is not None:
                            window.answered_at = time.monotonic()
                        return response.status, json.loads(text) if text else None
            await asyncio.sleep(0.05)
        tails = "\n".join(node.log_tail() for node in self.nodes)
        raise Gone(f"{method} {path}: {said} for {REQUEST_SECONDS} s\n{tails}")

    async def get(self, path: str) -> Any:
        return (await self.ask("GET", path))[1]

    async def pages(self, path: str) -> list[Any]:
        """Every item of a list."""
        items: list[Any] = []
        cursor = ""
        while True:
            answer = await self.get(f"{path}{'&' if '?' in path else '?'}limit=500{cursor}")
            items += answer["items"]
            if answer["next_cursor"] is None:
                return items
            cursor = f"&cursor={answer['next_cursor']}"

    def new_path(self, kind: str) -> str:
        self._numbers += 1
        return f"/{kind}/{self._numbers}"

    # --- operations

    async def register(self) -> None:
        """A new job, or one that was untracked or purged, with a callback or without."""
        again = [job for job in self.jobs if (job.untracked or job.purged) and not job.busy]
        if again and self.rng.random() < 0.3:
            job = self.rng.choice(again)
        else:
            body = {
                "account": "test",
                "in_lane": False,
                "start_delay_seconds": self.rng.uniform(0, 400),
                "run_seconds": self.rng.uniform(0, 600),
                "retry_pause_seconds": self.rng.uniform(10, 200),
            }
            async with self.session.post(f"{self.sandbox_url}/_sandbox/jobs", json=body) as response:
                assert response.status == 201, await response.text()
                job = Tracked(id=(await response.json())["items"][0]["id"])
            self.jobs.append(job)
        document: dict[str, Any] = {"id": job.id}
        number = self.jobs.index(job) % 4
        if number:
            document["group"] = f"group {number}"
        path = self.new_path("callback") if self.rng.random() < 0.4 else None
        if path is not None:
            document["callback_url"] = self.sinks_url + path
            await self.sinks.tell(path, self.sinks.verifiers["/callback"])
        job.busy, window = True, Window(time.monotonic())
        await self.ask("POST", "/v1/jobs", document, expected=(200, 201), window=window)
        job.registered.append(window)
        if path is not None:
            job.callbacks[path] = window
        job.busy = False

    async def untrack(self) -> None:
        await self._drop("", lambda job: job.untracked)

    async def purge(self) -> None:
        await self._drop("?purge=true", lambda job: job.purged)

    async def _drop(self, query: str, windows: Any) -> None:
        tracked = [job for job in self.jobs if job.registered and not job.busy]
        if len(tracked) < 10:
            return
        job = self.rng.choice(tracked[-20:])
        job.busy, window = True, Window(time.monotonic())
        windows(job).append(window)
        await self.ask("DELETE", f"/v1/jobs/{job.id}{query}", expected=(200, 404), window=window)
        job.busy = False

    async def subscribe(self, *, clean: bool = False) -> None:
        if not clean and len(self._rough()) > 8:
            return
        path, window = self.new_path("sink"), Window(time.monotonic())
        types = None if clean else self._some_types()
        body: dict[str, Any] = {"sink": self.sinks_url + path, "config": {"concurrency": 8}}
        if types is not None:
            body["types"] = [f"ai.revor.job.{name}" for name in sorted(types)]
        _, made = await self.ask("POST", "/v1/subscriptions", body, expected=(201,), window=window)
        verifiers = [(window, Webhook(made["config"]["secret"]))]
        await self.sinks.tell(path, verifiers)
        known = Subscribed(
            id=made["id"], path=path, made=window, types=[(window, types)], verifiers=verifiers, clean=clean
        )
        self.subscriptions.append(known)

    def _some_types(self) -> frozenset[str] | None:
        chosen = frozenset(name for name in JOB_TYPES if self.rng.random() < 0.6)
        return chosen or None

    def _alive(self) -> list[Subscribed]:
        return [known for known in self.subscriptions if known.removed is None]

    def _rough(self) -> list[Subscribed]:
        return [known for known in self._alive() if not known.clean]

    async def put(self) -> None:
        """Other types; at times another ordering."""
        if not (rough := self._rough()):
            return
        known, types = self.rng.choice(rough), self._some_types()
        ordering = self.rng.choice(("job", "job", "none"))
        window = Window(time.monotonic())
        known.types.append((window, types))
        body: dict[str, Any] = {
            "sink": self.sinks_url + known.path,
            "config": {"concurrency": self.rng.randint(1, 8), "ordering": ordering},
        }
        if types is not None:
            body["types"] = [f"ai.revor.job.{name}" for name in sorted(types)]
        await self.ask("PUT", f"/v1/subscriptions/{known.id}", body, expected=(200, 404), window=window)

    async def _on_any(self, what: str, body: Any = None, *, expected: Sequence[int] = (200, 404)) -> Any:
        known = self.rng.choice(self._alive())
        return await self.ask("POST", f"/v1/subscriptions/{known.id}/{what}", body, expected=expected)

    async def pause(self) -> None:
        await self._on_any("pause")

    async def resume(self) -> None:
        await self._on_any("resume")

    async def rotate(self) -> None:
        known = self.rng.choice(self._alive())
        window = Window(time.monotonic())
        path = f"/v1/subscriptions/{known.id}/rotate-secret"
        status, answer = await self.ask("POST", path, {}, expected=(200, 404), window=window)
        if status == 200:
            known.verifiers.append((window, Webhook(answer["secret"])))

    async def remove(self) -> None:
        if len(rough := self._rough()) < 3:
            return
        known = self.rng.choice(rough)
        known.removed = Window(time.monotonic())
        await self.ask("DELETE", f"/v1/subscriptions/{known.id}", expected=(200, 404), window=known.removed)

    async def replay(self) -> None:
        """Starts one; stops it at times while it runs."""
        if not (rough := self._rough()):
            return
        known = self.rng.choice(rough)
        body = {"since": "2020-01-01T00:00:00Z", "only": self.rng.choice(("undelivered", "all"))}
        path = f"/v1/subscriptions/{known.id}/replay"
        status, answer = await self.ask("POST", path, body, expected=(202, 404, 409))
        if status == 202 and self.rng.random() < 0.5:
            await self.ask("DELETE", f"/v1/replays/{answer['replay_id']}", expected=(200, 404))

    async def retry(self) -> None:
        """One delivery by hand, or all dead ones."""
        if not (rough := self._rough()):
            return
        known = self.rng.choice(rough)
        state = self.rng.choice(("pending", "delivered"))
        _, page = await self.ask("GET", f"/v1/deliveries?subscription={known.id}&state={state}&limit=20")
        if page["items"]:
            delivery = self.rng.choice(page["items"])
            await self.ask("POST", f"/v1/deliveries/{delivery['id']}/retry", expected=(202, 404, 409))

    async def test(self) -> None:
        await self._on_any("test", {})

    OPERATIONS = (
        *(("register", 30), ("untrack", 4), ("purge", 3), ("subscribe", 3), ("put", 5), ("pause", 3)),
        *(("resume", 6), ("rotate", 2), ("remove", 2), ("replay", 4), ("retry", 6), ("test", 1)),
    )

    async def work(self, until: float) -> None:
        """Operations one after another."""
        names, weights = zip(*self.OPERATIONS, strict=True)
        while time.monotonic() < until:
            name = self.rng.choices(names, weights)[0]
            await getattr(self, name)()
            self.done_counts[name] = self.done_counts.get(name, 0) + 1
            await asyncio.sleep(self.rng.expovariate(20))

    async def disturb(self, until: float, pause_seconds: tuple[float, float]) -> None:
        """Kills, reloads and restarts the nodes, one at a time."""
        names, weights = zip(*CHAOS, strict=True)
        while True:
            await asyncio.sleep(self.rng.uniform(*pause_seconds))
            if time.monotonic() > until:
                return
            node = self.rng.choice(self.nodes)
            name = self.rng.choices(names, weights)[0] if "kill" in self.done_counts else "kill"
            self.done_counts[name] = self.done_counts.get(name, 0) + 1
            if name == "reload":
                await node.signal(signal.SIGHUP)
                continue
            if name == "kill":
                began_at = time.monotonic()
                await node.kill()
                self.deaths.append((began_at, time.monotonic()))
            else:
                await node.signal(signal.SIGTERM)
                code = await node.ended(START_SECONDS)
                assert code == 0, f"SIGTERM ended it with {code}:\n{node.log_tail()}"
            await node.serve()
            await node.ready(self.session)

    async def follow(self) -> None:
        """Reads the stream of all events on one node after another, each time from the last id that came."""
        while True:
            node = self.rng.choice(self.nodes)
            headers = {} if self._last_streamed is None else {"Last-Event-ID": self._last_streamed}
            seen: set[str] = set()
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, ConnectionError):
                # Until an event has come there is no id to go on from, so the first connection stays.
                timeout = aiohttp.ClientTimeout(total=self.rng.uniform(2, 8) if self._last_streamed else None)
                url = f"{node.url}/v1/events/stream"
                async with self.session.get(url, headers=headers, timeout=timeout) as response:
                    assert response.status == 200, await response.text()
                    async for line in response.content:
                        self.following.set()
                        if line.startswith(b"id:"):
                            event_id = line[3:].strip().decode()
                            if event_id in seen:
                                self.stream_repeats.append(event_id)
                            seen.add(event_id)
                            self.streamed.add(event_id)
                            self.reported.set()
                            self._last_streamed = event_id
            await asyncio.sleep(0.05)

    # --- the end

    async def settle(self) -> None:
        """Every subscription enabled, every sink healthy; waits until nothing is open or pending."""
        self.sinks.healthy = True
        for known in self._alive():
            await self.ask("POST", f"/v1/subscriptions/{known.id}/resume", expected=(200, 404))
        latest = time.monotonic() + QUIET_SECONDS
        while True:
            pending = (await self.get("/v1/deliveries?state=pending"))["items"]
            open_jobs = (await self.get("/v1/jobs?open=true"))["items"]
            if not pending and not open_jobs:
                return
            what = f"{len(open_jobs)} open jobs, {len(pending)} pending: {pending[:3]}"
            assert time.monotonic() < latest, f"not quiet after {QUIET_SECONDS} s: {what}"
            await asyncio.sleep(0.2)

    async def truths(self) -> dict[str, Any]:
        """By job, its whole true life."""
        async with self.session.get(f"{self.sandbox_url}/_sandbox/jobs") as response:
            answer = json.loads(await response.read())
        assert answer["next_after"] is None
        return {job["id"]: job for job in answer["jobs"]}


@contextlib.asynccontextmanager
async def open_world(folder: Path, database: str, seed: str) -> AsyncIterator[World]:
    """A sandbox, the sinks, and nodes that are not started."""
    async with contextlib.AsyncExitStack() as stack:
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        timeout = aiohttp.ClientTimeout(total=15)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector, timeout=timeout))
        at_sinks = stack.enter_context(contextlib.closing(listen()))
        sinks = Sinks(rng=random.Random(f"sinks:{seed}"))
        await stack.enter_async_context(served(sinks, at_sinks))
        port = free_port()
        sandbox = Forked("sandbox", folder)
        stack.callback(sandbox.close)
        number = random.Random(f"sandbox:{seed}").randrange(1_000_000)
        settings = ("--port", str(port), "--seed", str(number), "--speed", str(SPEED), "--rate-limit", "100000/60")
        await sandbox.start("sandbox", *settings)
        sandbox_url, chosen = f"http://127.0.0.1:{port}", _patient(DATABASES[database])
        url = await asyncio.to_thread(chosen.make, folder)
        nodes = []
        for name in range(NODE_COUNTS[database]):
            (folder / f"node-{name}").mkdir()
            node = Relay(folder / f"node-{name}", database_url=url, sandbox_url=sandbox_url, database=chosen)
            stack.callback(node.close)
            nodes.append(node)
        world = World(
            nodes=nodes,
            sinks=sinks,
            sinks_url=url_of(at_sinks),
            sandbox_url=sandbox_url,
            session=session,
            rng=random.Random(f"operations:{seed}"),
        )
        latest = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                await world.truths()
                break
            assert time.monotonic() < latest, sandbox.log_tail()
            await asyncio.sleep(0.01)
        for node in nodes:
            await node.serve()
            await node.ready(session)
        secret = (await world.get("/v1/signing-secret"))["secret"]
        await sinks.tell("/callback", [(Window(0.0, 0.0), Webhook(secret))])
        yield world


def _patient(database: Database) -> Database:
    """With leases that outlast a slow commit on a busy machine, so that a duplicate is a fault."""
    constants = {**database.constants, **LEASES} if database.constants else {}
    return Database(make=database.make, environ=database.environ, delivery=database.delivery, constants=constants)


async def run_operations(world: World, seconds: float, pause_seconds: tuple[float, float]) -> None:
    """So many seconds of operations and disturbances, then quiet."""
    follower = asyncio.create_task(world.follow())
    try:
        await asyncio.wait_for(world.following.wait(), START_SECONDS)
        await world.register()
        await asyncio.wait_for(world.reported.wait(), START_SECONDS)
        for _ in range(2):
            await world.subscribe(clean=True)
        for _ in range(2):
            await world.subscribe()
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(world.work(until))
            group.create_task(world.disturb(until, pause_seconds))
        await world.settle()
        await _until_streamed(world)
    finally:
        follower.cancel()
        await asyncio.gather(follower, return_exceptions=True)


async def _until_streamed(world: World) -> None:
    """Waits until the stream has sent what the list has; the judge says what is missing."""
    ids = {event["id"] for event in await world.pages("/v1/events")}
    for _ in range(200):
        if ids <= world.streamed:
            return
        await asyncio.sleep(0.1)
