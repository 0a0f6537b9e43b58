"""What the relay is measured against: a plain poller that asks for each open job every 5 s, on the same world."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
from starlette.applications import Starlette

from relay.cli.demo.environment import API_KEY, Plan, listen, sandbox_of, served, url_of
from relay.cli.demo.report import FINAL_STATUSES, NAIVE_INTERVAL_SECONDS, Naive, make_naive
from relay.cli.demo.scenario import DemoError, Scenario, last_end_of, patience_seconds, post, ticking, truths_of
from relay.clock import Clock, wall_clock
from relay.sandbox.example_requests import DISPATCH_PATH, dispatch_body
from relay.sandbox.server import JOBS_PATH


@dataclass(frozen=True, slots=True, kw_only=True)
class PollResult:
    """What one request told: the job's status, or how long to wait because the limit is reached."""

    status: str = ""
    retry_after_seconds: float | None = None


@dataclass(kw_only=True)
class NaivePoller:
    """Asks for every open job each `interval_seconds`, one request after another, first in first out.

    Refused with 429 it waits out Retry-After and goes on with the same job. Times are the clock's epoch seconds.
    """

    interval_seconds: float
    poll: Callable[[str], Awaitable[PollResult]]
    clock: Clock = wall_clock
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    seen_at: dict[str, float] = field(default_factory=dict, init=False)
    """When it saw each job's end."""
    _line: asyncio.Queue[tuple[float, str]] = field(default_factory=asyncio.Queue, init=False, repr=False)

    def track(self, job_id: str) -> None:
        """From now on the job is looked at; for the first time when the interval is over."""
        # The interval is the same for all, so the order in the line is the order of what is due.
        self._line.put_nowait((self.clock() + self.interval_seconds, job_id))

    async def run(self, jobs: int) -> None:
        """Until it has seen that many ends."""
        while len(self.seen_at) < jobs:
            due_at, job_id = await self._line.get()
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
    """The same world once more, under way: a fresh sandbox of the same seed, with the naive poller in front of it."""

    plan: Plan
    url: str
    sandbox: Starlette
    poller: NaivePoller
    session: aiohttp.ClientSession
    is_done: bool = False

    @property
    def upstream_requests(self) -> int:
        """Reads of jobs so far, refused ones too."""
        reads: int = self.sandbox.state.request_counts.job_reads
        return reads

    @property
    def ends_seen(self) -> int:
        """Jobs whose end the poller has seen."""
        return len(self.poller.seen_at)


def length_seconds(truths: Sequence[dict[str, Any]]) -> float:
    """From the first job's creation to the last true end: about how long the world takes again."""
    began_at: float = min((truth["created_at_epoch_seconds"] for truth in truths), default=0.0)
    return max(0.0, last_end_of(truths) - began_at)


@contextlib.asynccontextmanager
async def open_rerun(plan: Plan) -> AsyncIterator[Rerun]:
    """A fresh sandbox on loopback, up, and the poller, which has not begun."""
    headers = {"Authorization": f"Bearer {API_KEY}"}
    timeout = aiohttp.ClientTimeout(total=60)
    with contextlib.closing(listen()) as listener:
        url, sandbox = url_of(listener), sandbox_of(plan).app()
        async with served(sandbox, listener), aiohttp.ClientSession(timeout=timeout) as session:

            async def poll(job_id: str) -> PollResult:
                return await _poll(session, f"{url}{JOBS_PATH}{job_id}", headers)

            poller = NaivePoller(interval_seconds=NAIVE_INTERVAL_SECONDS / plan.speed, poll=poll)
            yield Rerun(plan=plan, url=url, sandbox=sandbox, poller=poller, session=session)


async def run_again(rerun: Rerun, scenario: Scenario, progress: Callable[[], None] = lambda: None) -> Naive:
    """Dispatches what the scenario did, at the same relative times, until the poller has seen every end.

    It gets the patience that the relay had after the last true end; a job whose end it has not seen by then counts
    with its delay so far.
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
    """The same dispatches in the same order, each as long after the first as it was in the scenario."""
    job_ids: list[str] = []
    behind_seconds = 0.0  # the new world behind the scenario's
    for index, at in enumerate(created_at):
        await asyncio.sleep(max(0.0, at + behind_seconds - wall_clock()) if job_ids else 0.0)
        answer = await post(rerun.session, f"{rerun.url}{DISPATCH_PATH}", dispatch_body(index), api_key=API_KEY)
        job_ids.append(answer["item"]["id"])
        rerun.poller.track(job_ids[-1])
        if index == 0:
            behind_seconds = truths_of(rerun.sandbox, job_ids)[0]["created_at_epoch_seconds"] - at
    return job_ids


async def _poll(session: aiohttp.ClientSession, url: str, headers: Mapping[str, str]) -> PollResult:
    try:
        async with session.get(url, headers=headers) as response:
            raw = await response.read()
            if response.status == 429:
                return PollResult(retry_after_seconds=float(response.headers["Retry-After"]))
            if response.status != 200:
                raise DemoError(f"GET {url} answered {response.status}: {raw[:300].decode(errors='replace')}")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise DemoError(f"GET {url} failed: {error or type(error).__name__}") from None
    return PollResult(status=orjson.loads(raw)["item"]["status"])
