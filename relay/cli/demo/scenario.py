"""The demo's scenario: dispatches jobs at the sandbox, registers them at the relay, and receives their events."""

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.cli.demo.environment import API_KEY, Plan, demo_database, demo_settings, listen, sandbox_of, served, url_of
from relay.cli.demo.report import FINAL_STATUSES, Receipt, Receipts, Report, check_job, make_report
from relay.clock import wall_clock
from relay.config.settings import PollingSettings
from relay.errors import RelayError
from relay.node.local_token import with_local_token
from relay.node.node import Node
from relay.node.opening import open_node
from relay.sandbox.bodies import DISPATCH_PATH, dispatch_body
from relay.sandbox.world import World

SINK_CONCURRENCY = 32
REGISTERING_AT_ONCE = 16
EVENTS_PATH = "/events"
WARM_UP_SECONDS = 0.5
"""Until the relay knows the upstream's limit, its first requests accrue in real time at any speed."""
CHECK_SECONDS = 0.05
SETTLE_SECONDS = 0.2
PATIENCE_SECONDS = 20.0
"""Minimum time after the last true end, at any speed."""
PATIENCE_INTERVALS = 2
POLLS_A_JOB = 12
"""Maximum polls per job if the rate limit is the bottleneck."""


class DemoError(RelayError):
    """The sandbox or the relay did not answer as expected, so the demo cannot continue."""

    code = "demo_failed"


def truths_of(sandbox: Starlette, job_ids: Sequence[str]) -> list[dict[str, Any]]:
    """The true lifecycles of these jobs in the sandbox."""
    world: World = sandbox.state.world
    now = wall_clock()
    return [world.truth(job, now) for job in map(world.job, job_ids) if job is not None]


def last_end_of(truths: Iterable[Mapping[str, Any]]) -> float:
    """The last true end of the jobs, in epoch seconds."""
    return max((truth["transitions"][-1]["at_epoch_seconds"] for truth in truths), default=0.0)


@dataclass(kw_only=True)
class Scenario:
    """A running demo: its addresses and what has happened so far."""

    plan: Plan
    sandbox_url: str
    relay_url: str
    receiver_url: str
    sandbox: Starlette
    received: Receipts = field(default_factory=Receipts)
    job_ids: list[str] = field(default_factory=list)
    began_at: float = field(default_factory=time.monotonic)
    elapsed_seconds: float = 0.0
    verifier: Webhook | None = None
    node: Node | None = None

    @property
    def dashboard_url(self) -> str:
        """The dashboard. The relay runs with --dev: no sign-in."""
        return f"{self.relay_url}/ui"

    @property
    def upstream_requests(self) -> int:
        """Reads of jobs so far, including refused ones."""
        reads: int = self.sandbox.state.request_counts.job_reads
        return reads

    def is_over(self) -> bool:
        """True once every job has ended or the time limit is reached."""
        return self.elapsed_seconds > 0

    def truths(self) -> list[dict[str, Any]]:
        """The true lifecycles of all dispatched jobs."""
        return truths_of(self.sandbox, self.job_ids)

    def states(self) -> dict[str, int]:
        """The number of jobs in each state, as known to the receiver. Jobs without an event are `dispatched`."""
        counts: dict[str, int] = {}
        for job_id in self.job_ids:
            of_job = self.received.of(job_id)
            state = of_job[-1].kind if of_job else "dispatched"
            counts[state] = counts.get(state, 0) + 1
        return counts

    @property
    def finished(self) -> int:
        """The number of jobs whose end the receiver knows."""
        return sum(number for state, number in self.states().items() if state in FINAL_STATUSES)

    def report(self) -> Report:
        """The figures so far."""
        return make_report(
            self.truths(),
            self.received,
            speed=self.plan.speed,
            upstream_requests=self.upstream_requests,
            elapsed_seconds=self.elapsed_seconds or time.monotonic() - self.began_at,
        )

    async def receive(self, request: Request) -> Response:
        """The receiver. Counts an event that does not verify and refuses it with 400."""
        body = await request.body()
        try:
            if self.verifier is None:
                raise WebhookVerificationError("no secret yet")
            receipt = Receipt.of(self.verifier.verify(body, dict(request.headers)))
            if receipt.event_id != request.headers["webhook-id"]:
                raise WebhookVerificationError("webhook-id is not the event's id")
        except (WebhookVerificationError, ValueError, KeyError, TypeError):
            self.received.signature_failures += 1
            return Response(status_code=400)
        self.received.add(receipt)
        return Response(status_code=204)


@contextlib.asynccontextmanager
async def open_scenario(
    plan: Plan, *, sandbox: Starlette | None = None, routes: Sequence[Route] = ()
) -> AsyncIterator[Scenario]:
    """Runs the three servers while inside, then closes everything and removes the temporary folder. `sandbox`: another
    one than the plan's; `routes`: more of the receiver."""
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-demo-")))
        at_sandbox, at_relay, at_receiver = (stack.enter_context(contextlib.closing(listen())) for _ in range(3))
        scenario = Scenario(
            plan=plan,
            sandbox_url=url_of(at_sandbox),
            relay_url=url_of(at_relay),
            receiver_url=url_of(at_receiver),
            sandbox=sandbox_of(plan).app() if sandbox is None else sandbox,
        )
        receiver = Starlette(routes=[Route(EVENTS_PATH, scenario.receive, methods=["POST"]), *routes])
        database = await stack.enter_async_context(demo_database(plan, directory))
        settings = demo_settings(
            plan, database=database, sandbox_url=scenario.sandbox_url, port=at_relay.getsockname()[1]
        )
        settings = with_local_token(settings, os.environ)  # commands send it to `relay demo --keep`
        await stack.enter_async_context(served(scenario.sandbox, at_sandbox))
        await stack.enter_async_context(served(receiver, at_receiver))
        node = await stack.enter_async_context(
            open_node(settings, base_url=scenario.relay_url, state_dir=directory, seed=plan.seed, auto_migrate=True)
        )
        await stack.enter_async_context(served(node, at_relay, dates=False))
        scenario.node = node
        yield scenario


async def run_scenario(scenario: Scenario, progress: Callable[[], None] = lambda: None) -> Report:
    """Subscribes, dispatches and registers the jobs, and waits for every expected event or the time limit."""
    async with running(scenario, progress) as session:
        await subscribe(scenario, session)
        await dispatch_jobs(scenario, session)
        await wait_for_events(scenario)
    return scenario.report()


@contextlib.asynccontextmanager
async def running(scenario: Scenario, progress: Callable[[], None]) -> AsyncIterator[aiohttp.ClientSession]:
    """A session for the run. It warms up before, measures the time and calls `progress` meanwhile, and then waits for
    duplicates and late events."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session, ticking(progress):
        scenario.began_at = time.monotonic()
        await asyncio.sleep(WARM_UP_SECONDS)
        yield session
        scenario.elapsed_seconds = time.monotonic() - scenario.began_at
        await asyncio.sleep(SETTLE_SECONDS)
    progress()


async def subscribe(scenario: Scenario, session: aiohttp.ClientSession) -> None:
    """Subscribes the receiver to every event of the jobs."""
    subscription = await post(
        session,
        f"{scenario.relay_url}/v1/subscriptions",
        {
            "sink": f"{scenario.receiver_url}{EVENTS_PATH}",
            "config": {"concurrency": SINK_CONCURRENCY},
            "description": "the demo",
        },
    )
    scenario.verifier = Webhook(subscription["config"]["secret"])


async def dispatch_jobs(scenario: Scenario, session: aiohttp.ClientSession) -> None:
    """Dispatches jobs one by one, so that a seed gives the same jobs, and registers several at a time."""
    slots = asyncio.Semaphore(REGISTERING_AT_ONCE)

    async def register(answer: Mapping[str, Any]) -> None:
        async with slots:
            await post(session, f"{scenario.relay_url}/v1/jobs", answer)

    try:
        async with asyncio.TaskGroup() as group:
            for index in range(scenario.plan.jobs):
                answer = await post(
                    session, f"{scenario.sandbox_url}{DISPATCH_PATH}", dispatch_body(index), api_key=API_KEY
                )
                scenario.job_ids.append(answer["item"]["id"])
                group.create_task(register(answer))
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None


async def wait_for_events(scenario: Scenario) -> None:
    """Waits until each job's expected events have arrived, or `patience_seconds` after the last true end."""
    truths = {truth["id"]: truth for truth in scenario.truths()}
    latest = last_end_of(truths.values()) + patience_seconds(scenario.plan)
    while truths and wall_clock() < latest:
        await asyncio.sleep(CHECK_SECONDS)
        for job_id in [
            job_id for job_id, truth in truths.items() if not check_job(truth, scenario.received.of(job_id)).missing
        ]:
            del truths[job_id]


def patience_seconds(plan: Plan) -> float:
    """Time to wait for a missing event after the last true end, before it counts as lost."""
    requests, seconds = plan.rate_limit
    polling = PollingSettings()
    by_limit = plan.jobs * POLLS_A_JOB * seconds / requests / (1 - polling.reserve) + seconds
    return PATIENCE_SECONDS + (PATIENCE_INTERVALS * polling.max_interval_seconds + by_limit) / plan.speed


async def post(
    session: aiohttp.ClientSession,
    url: str,
    body: Mapping[str, Any] | Sequence[Any],
    *,
    api_key: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Posts JSON and returns the object in the answer. Raises DemoError."""
    _, answer = await request(session, "POST", url, body=body, api_key=api_key, headers=headers)
    return answer


async def request(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    body: Mapping[str, Any] | Sequence[Any] | None = None,
    api_key: str | None = None,
    headers: Mapping[str, str] | None = None,
    accepted: int = 200,
) -> tuple[aiohttp.ClientResponse, dict[str, Any]]:
    """The response and its JSON object. Raises DemoError for an error status other than `accepted`."""
    sent = {"Content-Type": "application/json", **(headers or {})}
    if api_key is not None:
        sent["Authorization"] = f"Bearer {api_key}"
    try:
        data = None if body is None else orjson.dumps(body)
        async with session.request(method, url, data=data, headers=sent) as response:
            raw = await response.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise DemoError(f"{method} {url} failed: {error or type(error).__name__}") from None
    if response.status >= 300 and response.status != accepted:
        raise DemoError(f"{method} {url} answered {response.status}: {raw[:300].decode(errors='replace')}")
    return response, orjson.loads(raw)


@contextlib.asynccontextmanager
async def ticking(progress: Callable[[], None]) -> AsyncIterator[None]:
    """Calls `progress` periodically while inside."""
    watching = asyncio.get_running_loop().create_task(_tick(progress))
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait([watching])


async def _tick(progress: Callable[[], None]) -> None:
    while True:
        progress()
        await asyncio.sleep(0.25)
