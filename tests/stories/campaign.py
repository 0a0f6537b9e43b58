"""A campaign as people see it: one group of jobs over three channels; an account breaks and is repaired half-way.

A Slack subscription gets what people get, a webhook gets every event.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
from starlette.routing import Route

from relay.cli.demo.environment import Plan
from relay.cli.demo.scenario import (
    CHECK_SECONDS,
    last_end_of,
    patience_seconds,
    post,
    request,
    running,
    subscribe,
    wait_for_events,
)
from relay.clock import from_rfc3339, wall_clock
from relay.sandbox.lifecycle import SandboxJob
from tests.stories.campaign_report import CampaignReport, Statement, true_counts
from tests.stories.world import (
    BROKEN,
    GROUP,
    PEOPLE,
    CampaignWorld,
    break_account,
    cancelled_deliveries,
    dispatch,
    open_world,
    set_account,
)
from tests.vendors.endpoint import Endpoint
from tests.vendors.stand_ins import VENDORS

PLAN = Plan(jobs=200, speed=114.0)
"""It takes about 35 s: the jobs of a channel start one by one."""
MIN_JOBS = 60
"""Of fewer runs no finish can be stated."""
ASK_SECONDS = 0.5
SLACK_PATH = "/services/T0DEMO/B0DEMO/channel"


@dataclass(kw_only=True)
class Campaign(CampaignWorld):
    """A running story: its world, and the Slack channel."""

    channel: Endpoint

    @property
    def share(self) -> float:
        """The share of the jobs whose end the webhook knows."""
        return self.scenario.finished / max(len(self.scenario.job_ids), 1)

    async def run(self, progress: Callable[[], None] = lambda: None) -> CampaignReport:
        """Dispatches the group, breaks and repairs the account, and waits for the end."""
        scenario = self.scenario
        async with running(scenario, progress) as session:
            await subscribe(scenario, session)
            sink = {"sink": f"{scenario.receiver_url}{SLACK_PATH}", "config": {"kind": "slack"}}
            slack = await post(session, f"{scenario.relay_url}/v1/subscriptions", sink)
            await dispatch(self, session)
            began_at = self.clock.until
            breaks_at, repaired_at = self.outage(wall_clock())
            while_broken, _ = await asyncio.gather(
                _ask(self, session, at=repaired_at - ASK_SECONDS),
                _break_and_repair(self, session, breaks_at, repaired_at),
            )
            broken = sum(_has_failed(job) for job in self.world.jobs())
            after = await _ask_until_stated(self, session)
            await wait_for_events(scenario)
            group = await _finished_group(self, session)
            cancelled = await cancelled_deliveries(scenario, session, slack["id"])
        truths = scenario.truths()
        return CampaignReport(
            group=GROUP,
            name=PEOPLE[BROKEN],
            report=scenario.report(),
            messages=tuple(self.channel.messages),
            refused=len(self.channel.refused),
            counts={state: count for state, count in sorted(group["counts"].items()) if count},
            true_counts=true_counts(truths),
            broken=broken,
            collapsed=sum(delivery["event_type"].endswith(".job.failed") for delivery in cancelled),
            while_broken=while_broken,
            after=after,
            began_at=began_at,
            finished_at=last_end_of(truths),
        )


@contextlib.asynccontextmanager
async def open_campaign(plan: Plan) -> AsyncIterator[Campaign]:
    """Runs the servers while inside, then closes everything."""
    channel = Endpoint(VENDORS["slack"])
    routes = [Route(SLACK_PATH, channel.receive, methods=["POST"])]
    async with open_world(partial(Campaign, channel=channel), plan, routes) as campaign:
        yield campaign


async def _break_and_repair(
    campaign: Campaign, session: aiohttp.ClientSession, breaks_at: float, repaired_at: float
) -> None:
    """Breaks the account, and repairs it, at these times."""
    await break_account(campaign, session, breaks_at)
    await asyncio.sleep(max(0.0, repaired_at - wall_clock()))
    await set_account(campaign, session, "ok")


def _has_failed(job: SandboxJob) -> bool:
    return job.channel == BROKEN and job.steps[-1].status == "failed"


async def _ask_until_stated(campaign: Campaign, session: aiohttp.ClientSession) -> Statement:
    """What the relay says of the finish once it knows of the repair."""
    said = await _ask(campaign, session)
    while not said.has_times and campaign.share < 1:
        await asyncio.sleep(ASK_SECONDS)
        said = await _ask(campaign, session)
    return said


async def _ask(campaign: Campaign, session: aiohttp.ClientSession, *, at: float = 0.0) -> Statement:
    """What the relay says of the finish, now or at a time. It writes down what it has learned first: by itself it does
    so every minute, which is long for a world that is so fast."""
    await asyncio.sleep(max(0.0, at - wall_clock()))
    node = campaign.scenario.node
    if node is not None:
        await node.save_statistics()
    _, group = await request(session, "GET", campaign.group_url)
    stated: Mapping[str, Any] = group["expected_finish"] or {}
    times = {name: from_rfc3339(at) for name, at in stated.items()}
    return Statement(share=campaign.share, note=group["expected_finish_note"], **times)


async def _finished_group(campaign: Campaign, session: aiohttp.ClientSession) -> dict[str, Any]:
    """The group once it has finished and the channel was told so, which is its last message; or at the time limit."""
    latest = wall_clock() + patience_seconds(campaign.scenario.plan)
    while True:
        _, group = await request(session, "GET", campaign.group_url)
        is_told = any(GROUP in message.title for message in campaign.channel.messages)
        if (group["state"] == "finished" and is_told) or wall_clock() > latest:
            return group
        await asyncio.sleep(CHECK_SECONDS)
