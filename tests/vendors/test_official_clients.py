"""The official clients of upstreams, unchanged but for the base URL, get through the drop-in what they get without it.

Each runs twice: at a stand-in of its upstream, and at a relay before another stand-in with the same seed. The clocks
stand still: a job moves on by a step, and the relay polls when the test moves its clock to the poll that it planned.
So the numbers of reads do not depend on speed.

Compared are the client's reads of a job without a relay, and a relay's polls of it, where a stage of the job lasts
READS_A_STAGE of the client's reads. How many reads a relay passes on while the test moves its clock depends on speed:
they are printed. Polls in true time are compared in tests/benchmarks/polling.py.
"""

import asyncio
import contextlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from standardwebhooks import Webhook
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from relay.cli.demo.environment import listen, served, url_of
from relay.config.keyring import new_key
from relay.config.settings import (
    LOOPBACK_NETWORKS,
    AccountSettings,
    DatabaseSettings,
    EncryptionSettings,
    SecuritySettings,
    ServerSettings,
    Settings,
    SourceSettings,
)
from relay.core.access.forwarding import CACHE_HEADER
from relay.node.node import Node
from relay.node.opening import open_node
from relay.sandbox.faults import FaultInjector
from relay.sandbox.limits import RequestCounts
from relay.sandbox.playback import Playback
from relay.sandbox.recorded import Calls, RecordedWorld, Recording
from relay.signals import ALL_EVENTS
from relay.sources import definition
from relay.testing import FakeClock
from tests.support.e2e_world import client_of
from tests.support.environments import official_python
from tests.support.npm import npm_folder

pytestmark = pytest.mark.verify

SOURCES = Path(definition.__file__).parent
PROGRAM = Path(__file__).with_name("official_clients.py")
KEY = "key-of-the-upstream"
DEADLINE_SECONDS = 280.0
READS_A_STAGE = 3
"""How often a client reads before its job moves on."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A client and the story of its job: a fate of an entry in judges.yaml."""

    client: str
    package: str
    registry: str
    preset: str
    resource: str
    fate: str
    kinds: list[str]
    ended: dict[str, Any]
    request: dict[str, Any] | None = None
    waits: bool = False


JUDGES = [
    Judge(**{name: value for name, value in entry.items() if name != "fates"}, fate=fate, **story)
    for entry in yaml.safe_load(Path(__file__).with_name("judges.yaml").read_text(encoding="utf-8"))
    for fate, story in entry["fates"].items()
]


@dataclass
class Counted:
    """An application, with counts of requests: those that arrived, answered reads, those of them that a relay answered
    itself (hits), and answered creates."""

    app: Any
    counts: Counter[str] = field(default_factory=Counter)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = {"GET": "reads", "POST": "creates"}.get(scope["method"], "others")

        async def passed(message: Message) -> None:
            if message["type"] == "http.response.start":
                await self._count(kind)
                if (CACHE_HEADER, b"hit") in message["headers"]:
                    await self._count("hits")
            await send(message)

        await self._count("arrived")
        await self.app(scope, receive, passed)

    async def _count(self, name: str) -> None:
        async with self.changed:
            self.counts[name] += 1
            self.changed.notify_all()

    async def more(self, name: str, number: int) -> None:
        """Waits until there are so many more."""
        wanted = self.counts[name] + number
        async with self.changed:
            await self.changed.wait_for(lambda: self.counts[name] >= wanted)


@dataclass
class StandIn:
    """A stand-in of the upstream, on a socket."""

    url: str
    served: Counted
    sandbox: httpx2.AsyncClient

    async def job(self) -> dict[str, Any]:
        """Its only job."""
        (job,) = (await self.sandbox.get("/_sandbox/jobs")).json()["jobs"]
        return dict(job)

    async def step(self, job: dict[str, Any]) -> None:
        assert (await self.sandbox.post(f"/_sandbox/jobs/{job['id']}/step")).status_code == 200

    async def reads(self) -> int:
        """Reads of jobs that it was sent."""
        count: int = (await self.sandbox.get("/_sandbox/requests")).json()["job_reads"]
        return count


@contextlib.asynccontextmanager
async def open_stand_in(judge: Judge) -> AsyncIterator[StandIn]:
    """One whose jobs all go as the judge's."""
    folder = SOURCES / judge.preset
    recording = Recording.model_validate(yaml.safe_load((folder / "answers.yaml").read_text(encoding="utf-8")))
    resource = recording.resources[judge.resource]
    only = resource.model_copy(update={"fates": {judge.fate: resource.fates[judge.fate]}})
    calls = Calls(yaml.safe_load((folder / "definition.yaml").read_text(encoding="utf-8")))
    playback = Playback(
        name=judge.preset,
        calls=calls,
        world=RecordedWorld(recording=recording.model_copy(update={"resources": {judge.resource: only}})),
        faults=FaultInjector(),
        counts=RequestCounts(),
        clock=FakeClock(),
    )
    app = Counted(playback.app())
    with contextlib.closing(listen()) as listener:
        async with served(app, listener), client_of(app.app) as sandbox:
            yield StandIn(url_of(listener), app, sandbox)


@dataclass
class Relay:
    """A relay before a stand-in."""

    url: str
    sink: str
    node: Node
    api: httpx2.AsyncClient
    served: Counted
    clock: FakeClock
    received: list[tuple[dict[str, str], bytes]]
    reschedule: Callable[[], None]

    def events_of(self, job_id: str) -> list[tuple[dict[str, str], bytes, dict[str, Any]]]:
        """What the sink got about a job: headers, body, and the event in it."""
        found = [(headers, body, json.loads(body)) for headers, body in self.received]
        return [one for one in found if one[2]["subject"] == job_id]

    async def until(self, true: Callable[[], bool]) -> None:
        """Checks again after each poll, recorded event and delivery."""
        with self.node.signals.watch(ALL_EVENTS) as watch:
            while not true():
                assert await watch.wait(DEADLINE_SECONDS)

    async def rest(self, job_id: str) -> float | None:
        """Lets the relay make the polls that are due. Returns the time of the next one that it plans; None: of none.

        The clock moves while none may be sent: the client's own requests spend the same rate limit.
        """
        (poller,) = self.node.pollers.values()
        (job,) = await self.node.store.jobs.find(job_id)
        with self.node.signals.watch(ALL_EVENTS) as watch:
            while poller.planner.tracks(job.uid):
                at = poller.planner.next_poll_at(job.uid)
                if at is not None and at > self.clock():
                    return at
                self.clock.now = max(self.clock(), poller.next_request_at() or 0.0)
                self.reschedule()
                await watch.wait(1.0)
        return None

    async def poll(self, job_id: str) -> None:
        """Moves the clock to the job's next poll, and lets the relay make it."""
        self.clock.now = await self.rest(job_id) or self.clock()
        await self.rest(job_id)


@contextlib.asynccontextmanager
async def open_relay(folder: Path, judge: Judge, upstream: StandIn) -> AsyncIterator[Relay]:
    """One with the judge's source, and a subscription whose sink is here."""
    received: list[tuple[dict[str, str], bytes]] = []
    async with contextlib.AsyncExitStack() as stack:
        at_relay, at_sink = (stack.enter_context(contextlib.closing(listen())) for _ in range(2))
        accounts = {"default": AccountSettings(api_key=KEY)}
        source = SourceSettings(name=judge.client, preset=judge.preset, base_url=upstream.url, accounts=accounts)
        settings = Settings(
            server=ServerSettings(shutdown_seconds=5.0),
            database=DatabaseSettings(url=f"sqlite:///{folder / 'relay.db'}", pool_size=4),
            encryption=EncryptionSettings(keys=(new_key(),)),
            sources={source.name: source},
            security=SecuritySettings(allow_http=True, allow_networks=LOOPBACK_NETWORKS),
            dev=True,
        )
        clock = FakeClock()
        node = await stack.enter_async_context(
            open_node(settings, base_url=url_of(at_relay), state_dir=folder, clock=clock)
        )
        await node.loaded()
        (poller,) = node.pollers.values()
        reschedule = poller.account.reschedule

        def after_each_poll() -> None:
            reschedule()
            node.signals.event_recorded()

        poller.account.reschedule = after_each_poll

        async def take(scope: Scope, receive: Receive, send: Send) -> None:
            request = Request(scope, receive)
            received.append((dict(request.headers), await request.body()))
            await Response(status_code=204)(scope, receive, send)
            node.signals.event_recorded()

        counted = Counted(node)
        await stack.enter_async_context(served(take, at_sink))
        await stack.enter_async_context(served(counted, at_relay, dates=False))
        api = await stack.enter_async_context(client_of(node))
        url = f"{url_of(at_relay)}/sources/{judge.client}"
        yield Relay(url, f"{url_of(at_sink)}/events", node, api, counted, clock, received, reschedule)


async def follow(judge: Judge, relay: Relay, job_id: Any) -> None:
    """The job is tracked by itself."""
    (job,) = (await relay.api.get("/v1/jobs")).json()["items"]
    assert (job["id"], job["source"]) == (str(job_id), judge.client)
    (kept,) = await relay.node.store.jobs.find(str(job_id))
    assert kept.request == judge.request


@pytest.fixture(scope="module")
def npm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the clients of npm, and their program."""
    packages = {judge.package for judge in JUDGES if judge.registry == "npm"}
    folder = npm_folder(tmp_path_factory.mktemp("npm"), sorted(packages))
    shutil.copy(PROGRAM.with_suffix(".mjs"), folder)
    return folder


@pytest.fixture
def program(judge: Judge, request: pytest.FixtureRequest) -> list[str]:
    """The command of the client's program."""
    if judge.registry == "npm":
        return ["node", str(request.getfixturevalue("npm") / PROGRAM.with_suffix(".mjs").name)]
    return [str(official_python()), str(PROGRAM), judge.client]


async def run_client(program: list[str], *urls: str) -> list[str]:
    """What the client prints: a line for each URL."""
    process = await asyncio.create_subprocess_exec(
        *(*program, KEY, *urls),
        env={"PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        said, wrong = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, wrong.decode()
    return said.decode().splitlines()


@pytest.mark.parametrize("judge", JUDGES, ids=lambda judge: f"{judge.client} {judge.fate}")
async def test_official_client_gets_the_same_result_with_fewer_reads(
    judge: Judge, program: list[str], tmp_path: Path
) -> None:
    began = time.perf_counter()
    async with (
        asyncio.timeout(DEADLINE_SECONDS),
        open_stand_in(judge) as alone,
        open_stand_in(judge) as behind,
        open_relay(tmp_path, judge, behind) as relay,
    ):
        made = await relay.api.post("/v1/subscriptions", json={"sink": relay.sink})
        assert made.status_code == 201, made.text

        async def without_relay() -> None:
            await alone.served.more("creates", 1)
            job = await alone.job()
            for _ in job["stages"][1:]:
                await alone.served.more("reads", READS_A_STAGE)
                await alone.step(job)

        async def with_relay() -> dict[str, Any]:
            await relay.served.more("creates", 1)
            job = await behind.job()
            await follow(judge, relay, job["id"])
            await relay.poll(str(job["id"]))  # until then reads with headers of the client's own are sent on
            for _ in job["stages"][1:]:
                await relay.served.more("hits", 0 if judge.waits else READS_A_STAGE)
                await behind.step(job)
                await relay.poll(str(job["id"]))
            return job

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(without_relay())
            relayed = tasks.create_task(with_relay())
            client = tasks.create_task(run_client(program, alone.url, relay.url))

        plain, through = client.result()
        assert judge.ended.items() <= json.loads(plain).items()
        assert json.loads(through.replace(relay.url, alone.url).replace(behind.url, alone.url)) == json.loads(plain)

        job_id = str(relayed.result()["id"])
        await relay.until(lambda: len(relay.events_of(job_id)) >= len(judge.kinds))
        events, secret = relay.events_of(job_id), Webhook(made.json()["config"]["secret"])
        assert [event["type"].rpartition(".")[2] for _, _, event in events] == judge.kinds
        for headers, body, _ in events:
            at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
            assert secret.sign(headers["webhook-id"], at, body.decode()) in headers["webhook-signature"].split()

        without, reads = await alone.reads(), await behind.reads()
        by_client, hits = relay.served.counts["reads"], relay.served.counts["hits"]
        own = reads - (by_client - hits)
        print(
            f"{judge.client} {judge.fate}: {without} reads without a relay; with it {own} polls by the relay, and "
            f"{by_client - hits} of {by_client} reads by the client are passed on; {time.perf_counter() - began:.1f} s"
        )
        assert own < without
