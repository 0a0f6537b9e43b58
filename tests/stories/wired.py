"""The events of one world through every kind of sink, into a stand-in of each service.

The world is the campaign's, smaller: some jobs fail for reasons of their own, and an account breaks and is repaired.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aiohttp
from rich.console import RenderableType
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.cli.demo.environment import Plan
from relay.cli.demo.live import picture
from relay.cli.demo.scenario import last_end_of, patience_seconds, post, running, subscribe
from relay.clock import wall_clock
from relay.sandbox.lifecycle import RECONNECT_REQUIRED, TRANSIENT_CODES
from subscribers.registry import kind_named
from tests.stories.crms import Account, metadata_of
from tests.stories.wired_report import MUST_TELL, Result, WiredReport, all_arrivals, examples, results_table
from tests.stories.wired_targets import TARGETS, Target, Truth
from tests.stories.world import (
    FAILS_ALONE,
    CampaignWorld,
    break_account,
    cancelled_deliveries,
    dispatch,
    open_world,
    recorded_events,
    set_account,
)

PLAN = Plan(jobs=20)
MIN_JOBS = 12
"""With fewer jobs none would start after the outage."""
BROKEN_FOR = 0.4
ALONE = (FAILS_ALONE, {**FAILS_ALONE, "channel": "whatsapp", "error_code": TRANSIENT_CODES[0]})
"""Jobs that fail for reasons of their own, which are no incidents."""
ASK_SECONDS = 0.3
QUIET_SECONDS = 1.0
"""The story ends once nothing more has arrived for this time."""


@dataclass(kw_only=True)
class Wire:
    """A target while the story runs, and its stand-in.

    id          of its subscription
    verifier    of the target's signatures; None: it is not signed
    unverified  signatures that are wrong; the stand-in counts what it refuses itself
    unmatched   events that the relay skipped, since they are about people whom the target does not know
    """

    target: Target
    stand_in: Any
    id: str = ""
    verifier: Webhook | None = None
    requests: int = 0
    unverified: int = 0
    unmatched: int = 0

    @property
    def routes(self) -> list[Route]:
        """Where it receives."""
        paths = self.target.paths or (self.target.sink_path,)
        return [Route(path, self.receive, methods=["GET", "POST", "PATCH"]) for path in paths]

    async def receive(self, request: Request) -> Response:
        """Takes a request: the stand-in does, if the signature is valid."""
        self.requests += 1
        try:
            if self.verifier is not None:
                self.verifier.verify(await request.body(), dict(request.headers))
        except (WebhookVerificationError, ValueError):
            self.unverified += 1
            return Response(status_code=400)
        answer: Response = await self.stand_in.receive(request)
        return answer

    def result(self, truths: Sequence[Truth]) -> Result:
        """Compares what arrived with what should have."""
        messages = self.stand_in.messages
        return Result(
            name=self.target.name,
            gets=self.target.gets,
            requests=self.requests,
            due=frozenset(truth.event["id"] for truth in truths if self.target.wants(truth)),
            got=all_arrivals(messages),
            refused=self.unverified + len(self.stand_in.refused),
            mentions=len(self.stand_in.mentioned),
            messages=examples(messages),
            to_skip=sum(self.target.skips(truth) for truth in truths) if self.target.skips else 0,
            skipped=self.unmatched,
            lost=self.stand_in.lost if isinstance(self.stand_in, Account) else 0,
        )


@dataclass(kw_only=True)
class Wired(CampaignWorld):
    """The running story: its world, its targets, and what the relay has recorded so far."""

    wires: Sequence[Wire]
    truths: Sequence[Truth] = ()
    deals: dict[str, int] = field(default_factory=dict)

    @property
    def told(self) -> frozenset[str]:
        """Last words of the types of the events that are of no job."""
        return frozenset(truth.kind for truth in self.truths if not truth.of_job)

    def results(self) -> tuple[Result, ...]:
        """Each target so far."""
        return tuple(one.result(self.truths) for one in self.wires)

    def picture(self) -> RenderableType:
        """The progress as a table of the targets and a bar."""
        return picture(self.scenario, results_table(self.results()))

    async def run(self, progress: Callable[[], None] = lambda: None) -> WiredReport:
        """Subscribes all targets, and the demo's own receiver; dispatches the jobs, breaks and repairs the account, and
        waits until each target has what it should get, or for the time limit."""
        async with running(self.scenario, progress) as session:
            await subscribe(self.scenario, session)
            for one in self.wires:
                await _subscribe(self, one, session)
            await dispatch(self, session, alone=ALONE, metadata=metadata_of)
            self.deals = {id: metadata_of(index)["deal"] for index, id in enumerate(self.scenario.job_ids)}
            await _break_and_repair(self, session)
            await _wait(self, session)
        return WiredReport(
            report=self.scenario.report(),
            recorded=len(self.truths),
            of_jobs=sum(truth.of_job for truth in self.truths),
            told=self.told,
            results=self.results(),
        )


@contextlib.asynccontextmanager
async def open_wired(plan: Plan) -> AsyncIterator[Wired]:
    """Runs the servers and the stand-ins while inside, then closes everything."""
    wires = [Wire(target=target, stand_in=target.stand_in(plan.jobs)) for target in TARGETS]
    async with open_world(partial(Wired, wires=wires), plan, [route for one in wires for route in one.routes]) as wired:
        yield wired


async def _subscribe(wired: Wired, one: Wire, session: aiohttp.ClientSession) -> None:
    scenario = wired.scenario
    body = one.target.subscription(scenario.receiver_url)
    answer = await post(session, f"{scenario.relay_url}/v1/subscriptions", body)
    one.id = answer["id"]
    if kind_named(one.target.kind).signed:
        one.verifier = Webhook(answer["config"]["secret"])


async def _break_and_repair(wired: Wired, session: aiohttp.ClientSession) -> None:
    """Breaks the account after some of its jobs have started. Somebody repairs it once the relay has told of it."""
    breaks_at, repaired_at = wired.outage(wall_clock(), BROKEN_FOR)
    await break_account(wired, session, breaks_at)
    latest = repaired_at + patience_seconds(wired.scenario.plan)
    await asyncio.sleep(max(0.0, repaired_at - wall_clock()))
    while wall_clock() < latest:
        await _ask(wired, session)
        if {"needs_reconnect", "opened"} <= wired.told:
            break
        await asyncio.sleep(ASK_SECONDS)
    await set_account(wired, session, "ok")


async def _wait(wired: Wired, session: aiohttp.ClientSession) -> None:
    """Waits until everything is told and has arrived, and nothing more comes; or for the time limit."""
    scenario = wired.scenario
    latest = last_end_of(scenario.truths()) + patience_seconds(scenario.plan)
    quiet_since: tuple[object, float] | None = None
    while (now := wall_clock()) < latest:
        await _ask(wired, session)
        done = wired.told.issuperset(MUST_TELL) and not any(result.problems for result in wired.results())
        state = (len(wired.truths), sum(one.requests for one in wired.wires))
        if not done:
            quiet_since = None
        elif quiet_since is None or quiet_since[0] != state:
            quiet_since = state, now
        elif now - quiet_since[1] >= QUIET_SECONDS:
            return
        await asyncio.sleep(ASK_SECONDS)


async def _ask(wired: Wired, session: aiohttp.ClientSession) -> None:
    """Reads what the relay has recorded."""
    scenario = wired.scenario
    events = await recorded_events(scenario, session)
    for one in wired.wires:
        if one.target.skips is not None:
            cancelled = await cancelled_deliveries(scenario, session, one.id)
            one.unmatched = sum(item["reason"] == "unmatched" for item in cancelled)
    found = {truth["id"]: truth for truth in scenario.truths()}
    wired.truths = [_truth(wired, event, found.get(event.get("subject", ""))) for _, event in events]


def _truth(wired: Wired, event: Mapping[str, Any], job: Mapping[str, Any] | None) -> Truth:
    if job is None:
        return Truth(event=event)
    error = job["final_item"]["error"] or {}
    return Truth(
        event=event,
        channel=job["channel"],
        deal=wired.deals.get(job["id"]),
        failed_on_account=error.get("code") == RECONNECT_REQUIRED,
    )
