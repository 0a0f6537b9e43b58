"""The campaign story of the demo: one group of jobs over three channels; an account breaks and is repaired half-way.

A Slack subscription gets what people get, a webhook gets every event.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from starlette.routing import Route

from relay.cli.demo.campaign_report import CampaignReport, Statement, true_counts
from relay.cli.demo.campaign_world import (
    BROKEN,
    GROUP,
    PEOPLE,
    CampaignWorld,
    break_account,
    dispatch,
    open_campaign_world,
    set_account,
)
from relay.cli.demo.environment import Plan
from relay.cli.demo.scenario import (
    CHECK_SECONDS,
    SETTLE_SECONDS,
    WARM_UP_SECONDS,
    Scenario,
    last_end_of,
    patience_seconds,
    post,
    request,
    subscribe,
    ticking,
    wait_for_events,
)
from relay.cli.demo.slack_channel import PATH as SLACK_PATH
from relay.cli.demo.slack_channel import SlackChannel
from relay.clock import from_rfc3339, wall_clock
from relay.sandbox.lifecycle import SandboxJob
from relay.sandbox.world import MIN_INTERVAL_SECONDS

JOBS = 200
MIN_JOBS = 60
"""Of fewer runs no finish can be stated."""
LENGTH_SECONDS, LEAST_SECONDS = 35.0, 20.0
"""About how long it takes, and at least: the relay keeps a forecast for KEPT_SECONDS, however fast the world is."""
ASK_SECONDS = 0.5
KEPT_SECONDS = 5.0
"""How long the relay keeps a forecast."""


def speed_for(jobs: int, seconds: float = LENGTH_SECONDS) -> float:
    """The speed at which a campaign of so many jobs takes about so long: the jobs of a channel start one by one."""
    return max(jobs / len(PEOPLE) * MIN_INTERVAL_SECONDS / seconds, 1.0)


@dataclass(kw_only=True)
class Campaign(CampaignWorld):
    """A running story: its world, and the Slack channel."""

    channel: SlackChannel = field(default_factory=SlackChannel)

    @property
    def share(self) -> float:
        """The share of the jobs whose end the webhook knows."""
        return self.scenario.finished / max(len(self.scenario.job_ids), 1)


@contextlib.asynccontextmanager
async def open_campaign(plan: Plan) -> AsyncIterator[Campaign]:
    """Runs the servers while inside, then closes everything."""
    channel = SlackChannel()
    routes = [Route(SLACK_PATH, channel.receive, methods=["POST"])]
    async with open_campaign_world(plan, routes) as found:
        yield Campaign(scenario=found.scenario, clock=found.clock, channel=channel)


async def run_campaign(campaign: Campaign, progress: Callable[[], None] = lambda: None) -> CampaignReport:
    """Dispatches the group, breaks and repairs the account, and waits for the end."""
    scenario = campaign.scenario
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        scenario.began_at = time.monotonic()
        await subscribe(scenario, session)
        slack = await post(
            session,
            f"{scenario.relay_url}/v1/subscriptions",
            {"sink": f"{scenario.receiver_url}{SLACK_PATH}", "config": {"kind": "slack"}, "description": "the channel"},
        )
        async with ticking(progress):
            await asyncio.sleep(WARM_UP_SECONDS)
            await dispatch(campaign, session)
            began_at = campaign.clock.until
            breaks_at, repaired_at = campaign.outage(wall_clock())
            asks_before = repaired_at - breaks_at > KEPT_SECONDS + 2 * ASK_SECONDS
            before, while_broken, _ = await asyncio.gather(
                _ask(campaign, session, at=breaks_at - ASK_SECONDS) if asks_before else _nothing(),
                _ask(campaign, session, at=repaired_at - ASK_SECONDS),
                _break_and_repair(campaign, session, breaks_at, repaired_at),
            )
            broken = sum(_has_failed(job) for job in campaign.world.jobs())
            after = await _ask_until_stated(campaign, session)
            await wait_for_events(scenario)
            group = await _finished_group(campaign, session)
            await _wait_for_messages(campaign)
        cancelled = await _cancelled(scenario, session, slack["id"])
    scenario.elapsed_seconds = time.monotonic() - scenario.began_at
    await asyncio.sleep(SETTLE_SECONDS)
    progress()
    truths = scenario.truths()
    return CampaignReport(
        group=GROUP,
        name=PEOPLE[BROKEN],
        report=scenario.report(),
        titles=tuple(message.title for message in campaign.channel.messages),
        counts={state: count for state, count in sorted(group["counts"].items()) if count},
        true_counts=true_counts(truths),
        broken=broken,
        collapsed=cancelled,
        before=before,
        while_broken=while_broken,
        after=after,
        began_at=began_at,
        finished_at=last_end_of(truths),
    )


async def _break_and_repair(
    campaign: Campaign, session: aiohttp.ClientSession, breaks_at: float, repaired_at: float
) -> None:
    """Breaks the account, and repairs it, at these times."""
    await break_account(campaign, session, breaks_at)
    await asyncio.sleep(max(0.0, repaired_at - wall_clock()))
    await set_account(campaign, session, "ok")


async def _nothing() -> None:
    """In place of a question that is not asked."""


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
    """The group once it has finished, or when the time limit is reached."""
    latest = wall_clock() + patience_seconds(campaign.scenario.plan)
    while True:
        _, group = await request(session, "GET", campaign.group_url)
        if group["state"] == "finished" or wall_clock() > latest:
            return group
        await asyncio.sleep(CHECK_SECONDS)


async def _wait_for_messages(campaign: Campaign) -> None:
    """Waits for the message about the group: it is the last one."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience_seconds(campaign.scenario.plan)):
            await campaign.channel.told(GROUP)


async def _cancelled(scenario: Scenario, session: aiohttp.ClientSession, subscription_id: str) -> int:
    """How many failures the channel was not sent, because it was told of them in an incident."""
    query = f"?subscription={subscription_id}&state=cancelled&limit=500"
    _, page = await request(session, "GET", f"{scenario.relay_url}/v1/deliveries{query}")
    return sum(delivery["event_type"].endswith(".job.failed") for delivery in page["items"])
