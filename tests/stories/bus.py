"""Jobs and another program's events, through the relay, at a real NATS server with JetStream.

A client of its own reads what the server has stored. The server runs in a temporary folder and on free ports.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import nats
import orjson
from rich.console import RenderableType

from relay.cli.demo.environment import Plan
from relay.cli.demo.live import picture
from relay.cli.demo.report import Receipt
from relay.cli.demo.scenario import (
    CHECK_SECONDS,
    dispatch_jobs,
    open_scenario,
    post,
    request,
    running,
    wait_for_events,
)
from relay.clock import wall_clock
from relay.core.events.event import BATCH_CONTENT_TYPE
from tests.stories.bus_report import (
    JOB_SUBJECT,
    ORDER_SUBJECT,
    STEPS,
    TYPE_PREFIX,
    Arrival,
    BusReport,
    published_events,
    subjects_table,
)
from tests.stories.story import Story
from tests.stories.world import recorded_events
from tests.support.brokers.nats import nats_server
from tests.support.brokers.process import free_port

STREAM = "DEMO"
PLAN = Plan(jobs=20, speed=150.0)
"""At this speed it takes a quarter of a minute."""
PATIENCE_SECONDS = 120.0


@dataclass(kw_only=True)
class Bus(Story):
    """A running story: the servers, and what was read so far.

    url         of the broker
    monitoring  of the broker, where it says what it has stored
    server      its name and version
    """

    url: str
    monitoring: str
    server: str
    arrivals: list[Arrival] = field(default_factory=list)
    accepted: int = 0
    known: int = 0

    async def read(self, message: Any) -> None:
        """Takes a message that the broker has stored."""
        event = orjson.loads(message.data)
        arrival = Arrival(subject=message.subject, id=message.headers["webhook-id"], event=event)
        self.arrivals.append(arrival)
        if not event["type"].startswith(TYPE_PREFIX):
            self.scenario.received.add(Receipt.of(event))

    def picture(self) -> RenderableType:
        """The progress as a table of subjects and a bar."""
        return picture(self.scenario, subjects_table(self.arrivals))

    async def run(self, progress: Callable[[], None] = lambda: None) -> BusReport:
        """Subscribes the broker, publishes as another program and dispatches the jobs, and waits until every event has
        been read from the broker, or for the time limit."""
        scenario = self.scenario
        async with running(scenario, progress) as session:
            await _subscribe(self, session, JOB_SUBJECT)
            await _subscribe(self, session, ORDER_SUBJECT, types=[f"{TYPE_PREFIX}{step}" for step in STEPS])
            await _publish(self, session)
            await dispatch_jobs(scenario, session)
            await wait_for_events(scenario)
            recorded = await _wait_for_all(self, session)
        async with aiohttp.ClientSession() as session:
            _, told = await request(session, "GET", f"{self.monitoring}/jsz?streams=1")
        return BusReport(
            report=scenario.report(),
            server=self.server,
            stored=told["messages"],
            recorded=recorded,
            accepted=self.accepted,
            known=self.known,
            arrivals=tuple(self.arrivals),
        )


@contextlib.asynccontextmanager
async def open_bus(plan: Plan) -> AsyncIterator[Bus]:
    """Runs the broker and the demo's servers while inside, then closes everything."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-demo-nats-")))
        monitoring = free_port()
        broker = await stack.enter_async_context(nats_server(folder, "-m", str(monitoring)))
        url = f"nats://127.0.0.1:{broker.port}"
        client = await nats.connect(url)
        stack.push_async_callback(client.close)
        await client.jetstream().add_stream(name=STREAM, subjects=["jobs.>", "orders.>"])
        scenario = await stack.enter_async_context(open_scenario(plan))
        version = client.connected_server_version
        bus = Bus(
            scenario=scenario,
            url=url,
            monitoring=f"http://127.0.0.1:{monitoring}",
            server=f"NATS {version.major}.{version.minor}.{version.patch} at {url}",
        )
        await client.jetstream().subscribe(">", stream=STREAM, ordered_consumer=True, cb=bus.read)
        yield bus


async def _subscribe(bus: Bus, session: aiohttp.ClientSession, subject: str, **more: Any) -> None:
    body = {"protocol": "NATS", "sink": bus.url, "protocolsettings": {"subject": subject}, **more}
    await post(session, f"{bus.scenario.relay_url}/v1/subscriptions", body)


async def _publish(bus: Bus, session: aiohttp.ClientSession) -> None:
    """Publishes everything, and then everything again, as a program does that has not heard the first answer."""
    headers = {"Content-Type": BATCH_CONTENT_TYPE}
    for _ in range(2):
        answer = await post(session, f"{bus.scenario.relay_url}/v1/events", published_events(), headers=headers)
        bus.accepted += answer["accepted"]
        bus.known += answer["known"]


async def _wait_for_all(bus: Bus, session: aiohttp.ClientSession) -> frozenset[str]:
    """Waits until the reader has every event of jobs and of the other program that the relay has recorded. Returns
    their ids."""
    latest = wall_clock() + PATIENCE_SECONDS
    while True:
        events = await recorded_events(bus.scenario, session)
        kinds = {id: event["type"] for id, event in events}
        recorded = frozenset(id for id, type in kinds.items() if type.startswith(TYPE_PREFIX) or ".job." in type)
        if recorded <= {arrival.id for arrival in bus.arrivals} or wall_clock() > latest:
            return recorded
        await asyncio.sleep(CHECK_SECONDS)
