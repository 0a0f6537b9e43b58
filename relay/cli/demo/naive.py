"""The baseline of `--compare naive`: a plain poller that polls each open job every 5 s, on the same jobs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from starlette.applications import Starlette

from relay.cli.demo.environment import API_KEY, Plan, listen, sandbox_of, served, url_of
from relay.cli.demo.report import FINAL_STATUSES, NAIVE_INTERVAL_SECONDS, Naive, make_naive
from relay.cli.demo.scenario import Scenario, last_end_of, patience_seconds, post, request, ticking, truths_of
from relay.clock import Clock, wall_clock
from relay.sandbox.bodies import DISPATCH_PATH, dispatch_body
from relay.sandbox.lifecycle import OUTREACH


@dataclass(frozen=True, slots=True, kw_only=True)
class PollResult:
    """The result of one poll: the job's status, or how long to wait at the rate limit."""

    status: str = ""
    retry_after_seconds: float | None = None


@dataclass(kw_only=True)
class NaivePoller:
    """Polls every open job each `interval_seconds`: one request at a time, first in first out.

    After a 429 it waits for Retry-After and polls the same job again. Times are epoch seconds of the clock.
    """

    interval_seconds: float
    poll: Callable[[str], Awaitable[PollResult]]
    clock: Clock = wall_clock
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    seen_at: dict[str, float] = field(default_factory=dict, init=False)
    """Time at which the end of each job was seen, by job id."""
    _queue: asyncio.Queue[tuple[float, str]] = field(default_factory=asyncio.Queue, init=False, repr=False)

    def track(self, job_id: str) -> None:
        """Polls the job from now on, first after one interval."""
        # All intervals are equal, so the queue is in the order of due times.
        self._queue.put_nowait((self.clock() + self.interval_seconds, job_id))

    async def run(self, jobs: int) -> None:
        """Runs until it has seen the ends of that many jobs."""
        while len(self.seen_at) < jobs:
            due_at, job_id = await self._queue.get()
            if (early_seconds := due_at - self.clock()) > 0:
                await self.sleep(early_seconds)
            while (found := await self.poll(job_id)).retry_after_seconds is not None:
                await self.sleep(found.retry_after_seconds)
            if found.status in FINAL_STATUSES:
                self.seen_at[job_id] = self.clock()
            else:
                self.track(job_id)


@dataclass(kw_only=True)
class Rerun:
    """The second run: a new sandbox with the same seed, polled by the plain poller."""

    plan: Plan
    url: str
    sandbox: Starlette
    poller: NaivePoller
    session: aiohttp.ClientSession
    is_done: bool = False

    @property
    def upstream_requests(self) -> int:
        """Reads of jobs so far, including refused ones."""
        reads: int = self.sandbox.state.request_counts.job_reads
        return reads

    @property
    def ends_seen(self) -> int:
        """The number of jobs whose end the poller has seen."""
        return len(self.poller.seen_at)


def length_seconds(truths: Sequence[dict[str, Any]]) -> float:
    """The expected length of the second run: from the first creation to the last true end."""
    began_at: float = min((truth["created_at_epoch_seconds"] for truth in truths), default=0.0)
    return max(0.0, last_end_of(truths) - began_at)


@contextlib.asynccontextmanager
async def open_rerun(plan: Plan) -> AsyncIterator[Rerun]:
    """A new sandbox that serves on loopback, and a poller that is not started."""
    timeout = aiohttp.ClientTimeout(total=60)
    with contextlib.closing(listen()) as listener:
        url, sandbox = url_of(listener), sandbox_of(plan).app()
        async with served(sandbox, listener), aiohttp.ClientSession(timeout=timeout) as session:

            async def poll(job_id: str) -> PollResult:
                return await _poll(session, f"{url}{OUTREACH.reads}{job_id}")

            poller = NaivePoller(interval_seconds=NAIVE_INTERVAL_SECONDS / plan.speed, poll=poll)
            yield Rerun(plan=plan, url=url, sandbox=sandbox, poller=poller, session=session)


async def run_again(rerun: Rerun, scenario: Scenario, progress: Callable[[], None] = lambda: None) -> Naive:
    """Repeats the scenario's dispatches at the same relative times, until the poller has seen every end.

    The time limit after the last true end is the relay's. A job whose end has not been seen by then counts with its
    delay so far.
    """
    polling = asyncio.get_running_loop().create_task(rerun.poller.run(rerun.plan.jobs))
    async with ticking(progress):
        try:
            job_ids = await _dispatch_again(rerun, [truth["created_at_epoch_seconds"] for truth in scenario.truths()])
            truths = truths_of(rerun.sandbox, job_ids)
            latest = last_end_of(truths) + patience_seconds(rerun.plan)
            await asyncio.wait([polling], timeout=max(0.0, latest - wall_clock()))
        finally:
            polling.cancel()
            await asyncio.wait([polling])
            failure = None if polling.cancelled() else polling.exception()
    if failure is not None:
        raise failure
    rerun.is_done = True
    progress()
    return make_naive(
        truths,
        rerun.poller.seen_at,
        given_up_at=wall_clock(),
        speed=rerun.plan.speed,
        upstream_requests=rerun.upstream_requests,
    )


async def _dispatch_again(rerun: Rerun, created_at: Sequence[float]) -> list[str]:
    """Repeats the dispatches in the same order, with the same times after the first one."""
    job_ids: list[str] = []
    behind_seconds = 0.0  # how far the second run is behind the scenario
    for index, at in enumerate(created_at):
        await asyncio.sleep(max(0.0, at + behind_seconds - wall_clock()) if job_ids else 0.0)
        answer = await post(rerun.session, f"{rerun.url}{DISPATCH_PATH}", dispatch_body(index), api_key=API_KEY)
        job_ids.append(answer["item"]["id"])
        rerun.poller.track(job_ids[-1])
        if index == 0:
            behind_seconds = truths_of(rerun.sandbox, job_ids)[0]["created_at_epoch_seconds"] - at
    return job_ids


async def _poll(session: aiohttp.ClientSession, url: str) -> PollResult:
    response, answer = await request(session, "GET", url, api_key=API_KEY, accepted=429)
    if response.status == 429:
        return PollResult(retry_after_seconds=float(response.headers["Retry-After"]))
    return PollResult(status=answer["item"]["status"])
