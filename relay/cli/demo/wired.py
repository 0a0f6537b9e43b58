"""`relay demo --wired`: the events of one world through every kind of sink, into a stand-in of each service.

The world is the campaign's, smaller: some jobs fail for reasons of their own, and an account breaks and is repaired.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.cli.demo.campaign_world import (
    FAILS_ALONE,
    CampaignWorld,
    break_account,
    dispatch,
    open_campaign_world,
    set_account,
)
from relay.cli.demo.environment import Plan
from relay.cli.demo.report import Receipt, Receipts, make_report
from relay.cli.demo.scenario import (
    WARM_UP_SECONDS,
    DemoError,
    last_end_of,
    patience_seconds,
    request,
    ticking,
)
from relay.cli.demo.slack_channel import Message
from relay.cli.demo.vendors.endpoint import Endpoint
from relay.cli.demo.vendors.slack_web import Post, SlackWeb
from relay.cli.demo.wired_crms import Account, Crm, metadata_of
from relay.cli.demo.wired_report import MAX_EXAMPLES, MUST_TELL, Arrivals, Result, WiredReport, all_arrivals, examples
from relay.cli.demo.wired_targets import STRUCTURED, TARGETS, Target, Truth
from relay.clock import from_rfc3339, wall_clock
from relay.sandbox.fate import TRANSIENT_CODES
from relay.sandbox.lifecycle import RECONNECT_REQUIRED
from subscribers.registry import kind_named

JOBS = 20
MIN_JOBS = 12
"""With fewer jobs none would start after the outage."""
BROKEN_FOR = 0.4
ALONE = (FAILS_ALONE, {**FAILS_ALONE, "channel": "whatsapp", "error_code": TRANSIENT_CODES[0]})
"""Jobs that fail for reasons of their own, which are no incidents."""
ASK_SECONDS = 0.3
QUIET_SECONDS = 1.0
"""The demo ends once nothing more has arrived for this time."""
PAGE = 500


@dataclass(kw_only=True)
class Wire:
    """A target while the demo runs, and what arrived at it.

    id          of its subscription
    verifier    of the target's signatures; None: it is not signed
    unverified  signatures that are wrong; the stand-in counts what it refuses itself
    unmatched   events that the relay skipped, since they are about people whom the target does not know
    skipped     why it is not run
    """

    target: Target
    endpoint: Endpoint | Account | None = None
    slack: SlackWeb | None = None
    id: str = ""
    verifier: Webhook | None = None
    requests: int = 0
    unverified: int = 0
    unmatched: int = 0
    skipped: str | None = None

    @property
    def routes(self) -> list[Route]:
        """Where it receives."""
        if isinstance(self.endpoint, Account):
            methods = ["GET", "POST", "PATCH"]
            return [Route(path, self.receive, methods=methods) for path in self.endpoint.crm.paths]
        path = "/api/{method}" if self.endpoint is None else self.target.sink_path
        return [Route(path, self.receive, methods=["POST"])]

    async def receive(self, request: Request) -> Response:
        """Takes a request: the stand-in does, if the signature is valid."""
        self.requests += 1
        if self.slack is not None:
            return await self.slack.receive(request)
        assert self.endpoint is not None
        try:
            if self.verifier is not None:
                self.verifier.verify(await request.body(), dict(request.headers))
        except (WebhookVerificationError, ValueError):
            self.unverified += 1
            return Response(status_code=400)
        return await self.endpoint.receive(request)

    @property
    def got(self) -> Arrivals:
        """The events that have arrived. A bot tells most of them in threads."""
        if self.slack is not None:
            return all_arrivals(one.message for post in self.slack.channel() for one in (post, *post.replies))
        return all_arrivals(() if self.endpoint is None else self.endpoint.messages)

    @property
    def examples(self) -> tuple[Message, ...]:
        """One or two messages that show most. Those of a bot with the longest threads, as they are now."""
        if self.slack is not None:
            posts = self.slack.channel()
            longest = sorted(posts, key=lambda post: -len(post.replies))[:MAX_EXAMPLES]
            return tuple(_with_thread(post) for post in posts if post in longest)
        return examples([] if self.endpoint is None else self.endpoint.messages)

    @property
    def refused(self) -> int:
        """Requests that were not accepted."""
        return self.unverified + sum(len(one.refused) for one in (self.endpoint, self.slack) if one is not None)

    def result(self, truths: Sequence[Truth]) -> Result:
        """Compares what arrived with what should have."""
        stand_in = self.endpoint or self.slack
        return Result(
            name=self.target.name,
            kind=self.target.kind,
            gets=self.target.gets,
            requests=self.requests,
            due=frozenset(truth.event["id"] for truth in truths if self.target.wants(truth)),
            got=self.got,
            refused=self.refused,
            mentions=0 if stand_in is None else len(stand_in.mentioned),
            messages=self.examples,
            to_skip=sum(self.target.skips(truth) for truth in truths) if self.target.skips else 0,
            skipped=self.unmatched,
            lost=self.endpoint.lost if isinstance(self.endpoint, Account) else 0,
        )


def _with_thread(post: Post) -> Message:
    message = post.message
    thread = tuple(("In its thread", reply.message.title.replace("\n", ": ")) for reply in post.replies)
    edits = len(post.edits)
    edited = ("edited once" if edits == 1 else f"edited {edits} times") if edits else ""
    footer = " · ".join(part for part in (message.footer, edited) if part)
    return replace(message, fields=(*message.fields, *thread), footer=footer)


def wire(target: Target, jobs: int) -> Wire:
    """A target with its stand-in."""
    if target.vendor is None:
        return Wire(target=target, slack=SlackWeb())
    if isinstance(target.vendor, Crm):
        return Wire(target=target, endpoint=Account(crm=target.vendor, jobs=jobs))
    return Wire(target=target, endpoint=Endpoint(target.vendor))


@dataclass(kw_only=True)
class Wired:
    """The running demo: its world, its targets, and what the relay has recorded so far."""

    campaign: CampaignWorld
    wires: Sequence[Wire]
    truths: Sequence[Truth] = ()
    deals: dict[str, int] = field(default_factory=dict)

    @property
    def live(self) -> list[Wire]:
        """The targets that are run."""
        return [one for one in self.wires if one.skipped is None]

    @property
    def finished(self) -> int:
        """The number of jobs that have truly ended."""
        return sum(truth["finished"] for truth in self.campaign.scenario.truths())

    @property
    def told(self) -> frozenset[str]:
        """Last words of the types of the events that are of no job."""
        return frozenset(truth.kind for truth in self.truths if not truth.of_job)

    def results(self) -> tuple[Result, ...]:
        """Each target so far."""
        return tuple(one.result(self.truths) for one in self.live)


@contextlib.asynccontextmanager
async def open_wired(plan: Plan, targets: Sequence[Target] = TARGETS) -> AsyncIterator[Wired]:
    """Runs the servers and the stand-ins while inside, then closes everything."""
    wires = [wire(target, plan.jobs) for target in targets]
    async with open_campaign_world(plan, [route for one in wires for route in one.routes]) as campaign:
        yield Wired(campaign=campaign, wires=wires)


async def run_wired(wired: Wired, progress: Callable[[], None] = lambda: None) -> WiredReport:
    """Subscribes all targets, dispatches the jobs, breaks and repairs the account, and waits until each target has what
    it should get, or for the time limit."""
    campaign = wired.campaign
    scenario = campaign.scenario
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        scenario.began_at = time.monotonic()
        await subscribe_all(wired, session)
        async with ticking(progress):
            await asyncio.sleep(WARM_UP_SECONDS)
            await dispatch(campaign, session, alone=ALONE, metadata=metadata_of)
            wired.deals = {id: metadata_of(index)["deal"] for index, id in enumerate(scenario.job_ids)}
            await _break_and_repair(wired, session)
            await _wait(wired, session)
    scenario.elapsed_seconds = time.monotonic() - scenario.began_at
    progress()
    report = make_report(
        scenario.truths(),
        _receipts(wired),
        speed=scenario.plan.speed,
        upstream_requests=scenario.upstream_requests,
        elapsed_seconds=scenario.elapsed_seconds,
    )
    return WiredReport(
        report=report,
        recorded=len(wired.truths),
        of_jobs=sum(truth.of_job for truth in wired.truths),
        told=wired.told,
        results=wired.results(),
        skipped=tuple((one.target.name, one.skipped) for one in wired.wires if one.skipped is not None),
    )


async def subscribe_all(wired: Wired, session: aiohttp.ClientSession) -> None:
    """Subscribes the targets, except those that need an extra that is not installed."""
    for one in wired.wires:
        await _subscribe(wired, one, session)


async def _subscribe(wired: Wired, one: Wire, session: aiohttp.ClientSession) -> None:
    """Subscribes a target, or says why it is not run: it needs an extra that is not installed."""
    scenario = wired.campaign.scenario
    body = one.target.subscription(scenario.receiver_url)
    response, answer = await request(session, "POST", f"{scenario.relay_url}/v1/subscriptions", body=body, accepted=422)
    if response.status == 422:
        missing = [error["detail"] for error in answer["errors"] if error["code"] == "extra_missing"]
        if not missing:
            raise DemoError(f"{one.target.name}: {answer['detail']}")
        one.skipped = missing[0]
        return
    one.id = answer["id"]
    if kind_named(one.target.kind).signed:
        one.verifier = Webhook(answer["config"]["secret"])


async def _break_and_repair(wired: Wired, session: aiohttp.ClientSession) -> None:
    """Breaks the account after some of its jobs have started. Somebody repairs it once the relay has told of it."""
    campaign = wired.campaign
    breaks_at, repaired_at = campaign.outage(wall_clock(), BROKEN_FOR)
    await break_account(campaign, session, breaks_at)
    latest = repaired_at + patience_seconds(campaign.scenario.plan)
    await asyncio.sleep(max(0.0, repaired_at - wall_clock()))
    while wall_clock() < latest:
        await _ask(wired, session)
        if {"needs_reconnect", "opened"} <= wired.told:
            break
        await asyncio.sleep(ASK_SECONDS)
    await set_account(campaign, session, "ok")


async def _wait(wired: Wired, session: aiohttp.ClientSession) -> None:
    """Waits until everything is told and has arrived, and nothing more comes; or for the time limit."""
    scenario = wired.campaign.scenario
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
    scenario = wired.campaign.scenario
    events: list[Mapping[str, Any]] = []
    cursor = ""
    while True:
        _, page = await request(session, "GET", f"{scenario.relay_url}/v1/events?limit={PAGE}{cursor}")
        events += page["items"]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    for one in wired.live:
        if one.target.skips is not None:
            url = f"{scenario.relay_url}/v1/deliveries?limit={PAGE}&state=cancelled&subscription={one.id}"
            _, cancelled = await request(session, "GET", url)
            one.unmatched = sum(item["reason"] == "unmatched" for item in cancelled["items"])
    found = {truth["id"]: truth for truth in scenario.truths()}
    wired.truths = [_truth(wired, event, found.get(event.get("subject", ""))) for event in reversed(events)]


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


def _receipts(wired: Wired) -> Receipts:
    """What came to the structured webhook."""
    received = Receipts()
    for one in wired.live:
        if one.target is STRUCTURED and isinstance(one.endpoint, Endpoint):
            for (event,) in one.endpoint.documents:
                received.add(
                    Receipt(
                        event_id=event["id"],
                        job_id=event["subject"],
                        sequence=int(event["sequence"]),
                        kind=event["type"].rpartition(".")[2],
                        detected_at=from_rfc3339(event["data"]["detected_at"]),
                    )
                )
    return received
