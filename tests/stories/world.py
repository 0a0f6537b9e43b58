"""The world of the stories `campaign` and `wired`: one group of jobs over three channels.

An account breaks and is repaired. It breaks between the starts of certain jobs, so a seed always gives the same
failures.
"""

import asyncio
import contextlib
import math
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp
import orjson
from starlette.routing import Route

from relay.cli.demo.environment import API_KEY, Plan, sandbox_of
from relay.cli.demo.scenario import Scenario, open_scenario, post, request
from relay.clock import wall_clock
from relay.sandbox.bodies import DISPATCH_PATH
from relay.sandbox.lifecycle import FINAL_CODES, Mix
from relay.sandbox.world import World
from tests.stories.story import Story
from tests.support.dispatches import campaign_body

World_ = TypeVar("World_", bound="CampaignWorld")

GROUP = "q4-launch"
PAGE = 500
TRIAL_JOBS, MARGIN, MAX_HELD_SECONDS = 6, 1.3, 60.0
PEOPLE = {"email": "Grace Hopper", "linkedin": "Ada Lovelace", "whatsapp": "Katherine Johnson"}
BROKEN = "linkedin"
BREAKS_AT, BROKEN_FOR = 0.35, 0.2
"""After which share of the broken account's jobs have started, and for how many starts, as a share of them."""
MIX = Mix(succeeded=0.9, retried=0.1, failed=0.0, cancelled=0.0)
FAILS_ALONE = {"channel": "email", "final": "failed", "attempt_failures": 0, "error_code": FINAL_CODES[1]}
"""A job that fails for a reason of its own, which makes no incident."""


@dataclass(slots=True)
class HeldClock:
    """The sandbox's clock. It shows `until` before that time has come: the jobs of a campaign do not start before all
    of them are there, however slow the machine is. It stops at `stops_at`, in epoch seconds, as long as that is set."""

    until: float = 0.0
    stops_at: float = math.inf

    def __call__(self) -> float:
        return min(max(self.until, wall_clock()), self.stops_at)


@dataclass(kw_only=True)
class CampaignWorld(Story):
    """A running story with a group of jobs, and the sandbox's clock."""

    clock: HeldClock = field(default_factory=HeldClock)

    @property
    def world(self) -> World:
        """The sandbox's jobs."""
        world: World = self.scenario.sandbox.state.world
        return world

    @property
    def group_url(self) -> str:
        """The group in the API."""
        return f"{self.scenario.relay_url}/v1/groups/{GROUP}"

    def outage(self, now: float, broken_for: float = BROKEN_FOR) -> tuple[float, float]:
        """When the account breaks and is repaired, in epoch seconds: each between the starts of two of its jobs.

        Where some of these starts have passed already, on a slow machine, as many later jobs fail instead.
        """
        jobs = [job for job in self.world.jobs() if job.channel == BROKEN]
        starts = sorted(job.first_started_at for job in jobs if job.first_started_at is not None)
        first = min(max(round(BREAKS_AT * len(starts)), bisect_right(starts, now) + 1), len(starts) - 2)
        last = min(first + max(round(broken_for * len(starts)), 1), len(starts) - 1)
        return (starts[first - 1] + starts[first]) / 2, (starts[last - 1] + starts[last]) / 2


def account_of(channel: str) -> str:
    """The id of the connect account that sends in a channel."""
    return f"{channel}-1"


@contextlib.asynccontextmanager
async def open_world(story: Callable[..., World_], plan: Plan, routes: Sequence[Route]) -> AsyncIterator[World_]:
    """Runs the servers while inside, then closes everything. `routes`: those of the receivers."""
    clock, sandbox = HeldClock(), sandbox_of(plan)
    world = sandbox.world()
    world.mix = MIX
    for name, person in PEOPLE.items():
        world.set_connect_account(account_of(name), wall_clock(), channel=name, name=person)
    async with open_scenario(plan, sandbox=sandbox.app(clock=clock, world=world), routes=routes) as scenario:
        yield story(scenario=scenario, clock=clock)


async def dispatch(
    campaign: CampaignWorld,
    session: aiohttp.ClientSession,
    *,
    alone: Sequence[Mapping[str, Any]] = (FAILS_ALONE,),
    metadata: Callable[[int], Mapping[str, Any]] | None = None,
) -> None:
    """Creates the jobs through the drop-in, and registers those that fail `alone`. Then closes the group.

    How long the first ones take to create shows when all will be there: the jobs start then.

    metadata  of each job, by its number from 0
    """
    scenario = campaign.scenario
    jobs = scenario.plan.jobs
    url = f"{scenario.relay_url}{DISPATCH_PATH}"
    accounts = {channel: account_of(channel) for channel in PEOPLE}
    began_at = wall_clock()
    for index in range(jobs - len(alone)):
        if index == TRIAL_JOBS:
            now = wall_clock()
            campaign.clock.until = now + min(MARGIN * (now - began_at) / TRIAL_JOBS * jobs, MAX_HELD_SECONDS)
        headers = {"Relay-Group": GROUP}
        if metadata is not None:
            headers["Relay-Metadata"] = orjson.dumps(metadata(index)).decode()
        answer = await post(session, url, campaign_body(index, accounts), api_key=API_KEY, headers=headers)
        scenario.job_ids.append(answer["item"]["id"])
    for index, script in enumerate(alone, start=len(scenario.job_ids)):
        made = await post(
            session,
            f"{scenario.sandbox_url}/_sandbox/jobs",
            {**script, "account": "demo", "connect_account_id": account_of(script["channel"])},
        )
        (item,) = made["items"]
        scenario.job_ids.append(item["id"])
        body = {"id": item["id"], "group": GROUP, **({} if metadata is None else {"metadata": metadata(index)})}
        await post(session, f"{scenario.relay_url}/v1/jobs", body)
    await post(session, f"{campaign.group_url}/close", {"expected": jobs})


async def break_account(campaign: CampaignWorld, session: aiohttp.ClientSession, breaks_at: float) -> None:
    """Breaks the account at this time of the sandbox's clock, which stands still until the account is broken: no other
    job fails on a slow machine."""
    campaign.clock.stops_at = max(breaks_at, campaign.clock())  # it never goes back
    await asyncio.sleep(max(0.0, breaks_at - wall_clock()))
    await set_account(campaign, session, "credentials")
    campaign.clock.stops_at = math.inf


async def set_account(campaign: CampaignWorld, session: aiohttp.ClientSession, status: str) -> None:
    """Breaks the account (`credentials`), or repairs it (`ok`)."""
    url = f"{campaign.scenario.sandbox_url}/_sandbox/accounts"
    await post(session, url, {"id": account_of(BROKEN), "status": status})


async def recorded_events(scenario: Scenario, session: aiohttp.ClientSession) -> list[tuple[str, dict[str, Any]]]:
    """All events that the relay has recorded, the newest first, each with its id at the relay."""
    found: list[tuple[str, dict[str, Any]]] = []
    cursor = ""
    while True:
        _, page = await request(session, "GET", f"{scenario.relay_url}/v1/events?limit={PAGE}{cursor}")
        found += zip(page["ids"], page["items"], strict=True)
        if page["next_cursor"] is None:
            return found
        cursor = f"&cursor={page['next_cursor']}"


async def cancelled_deliveries(
    scenario: Scenario, session: aiohttp.ClientSession, subscription_id: str
) -> list[dict[str, Any]]:
    """The deliveries of a subscription that the relay has cancelled."""
    query = f"?subscription={subscription_id}&state=cancelled&limit={PAGE}"
    _, page = await request(session, "GET", f"{scenario.relay_url}/v1/deliveries{query}")
    items: list[dict[str, Any]] = page["items"]
    return items
