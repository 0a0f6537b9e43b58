"""The plain poller that the relay is compared with: its order, interval, rate limit and time limit."""

import io

from rich.console import Console

from relay.cli.demo.environment import API_KEY, Plan, sandbox_of
from relay.cli.demo.live import rerun_line, rerun_picture
from relay.cli.demo.naive import NaivePoller, PollResult, length_seconds, open_rerun
from relay.cli.demo.report import Delay, Naive, make_naive
from relay.cli.demo.scenario import post
from relay.sandbox.bodies import DISPATCH_PATH, dispatch_body
from relay.sandbox.lifecycle import Script

NOW = 1_779_271_200.0


class Upstream:
    """An upstream whose jobs end at given times, with a clock that advances only while a caller waits."""

    def __init__(self, ends_at: dict[str, float], *, request_seconds: float = 0.0) -> None:
        self.now = 0.0
        self.ends_at = ends_at
        self.request_seconds = request_seconds
        self.refusals: list[float] = []
        self.polls: list[tuple[float, str]] = []

    def poller(self, *, interval_seconds: float = 5.0) -> NaivePoller:
        return NaivePoller(interval_seconds=interval_seconds, poll=self.poll, clock=lambda: self.now, sleep=self.sleep)

    async def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds

    async def poll(self, job_id: str) -> PollResult:
        self.now += self.request_seconds
        self.polls.append((self.now, job_id))
        if self.refusals:
            return PollResult(retry_after_seconds=self.refusals.pop(0))
        return PollResult(status="succeeded" if self.now >= self.ends_at[job_id] else "running")


async def test_poller_polls_every_open_job_each_interval() -> None:
    upstream = Upstream({"a": 12.0, "b": 7.0})
    poller = upstream.poller()
    poller.track("a")
    upstream.now = 1.0
    poller.track("b")
    await poller.run(2)
    assert upstream.polls == [(5.0, "a"), (6.0, "b"), (10.0, "a"), (11.0, "b"), (15.0, "a")]
    assert poller.seen_at == {"b": 11.0, "a": 15.0}


async def test_poller_waits_for_retry_after_and_repeats_the_job() -> None:
    upstream = Upstream({"a": 0.0, "b": 0.0})
    upstream.refusals = [2.5, 0.001]
    poller = upstream.poller()
    poller.track("a")
    poller.track("b")
    await poller.run(2)
    assert upstream.polls == [(5.0, "a"), (7.5, "a"), (7.501, "a"), (7.501, "b")]


def truths(plan: Plan, number: int) -> list[dict[str, object]]:
    world = sandbox_of(plan).world()
    script = Script(final="succeeded", attempt_failures=0, run_seconds=7, start_delay_seconds=1, in_lane=False)
    jobs = [world.create(account="a", channel="email", now=NOW, script=script) for _ in range(number)]
    return [world.truth(job, NOW + 100) for job in jobs]


def test_unseen_end_counts_with_its_delay_so_far() -> None:
    lives = truths(Plan(speed=1), 2)  # both end at NOW + 8
    first, second = (str(truth["id"]) for truth in lives)
    figures = make_naive(lives, {first: NOW + 9}, given_up_at=NOW + 38, speed=2, upstream_requests=7)
    assert figures == Naive(detection_delay_seconds=Delay(mean=31.0, p50=2.0, p95=60.0), upstream_requests=7, unseen=1)
    assert figures.shown() == {
        "detection_delay_seconds": {"mean": 31.0, "p50": 2.0, "p95": 60.0},
        "upstream_requests": 7,
    }
    seen = make_naive(lives, {first: NOW + 9, second: NOW + 8}, given_up_at=NOW + 38, speed=2, upstream_requests=7)
    assert (seen.detection_delay_seconds.mean, seen.unseen) == (1.0, 0)
    assert length_seconds(lives) == 8
    assert length_seconds([]) == 0


async def test_second_run_has_the_rate_limit_of_the_first() -> None:
    async with open_rerun(Plan(speed=1000, rate_limit=(1, 3600))) as rerun:
        answer = await post(rerun.session, f"{rerun.url}{DISPATCH_PATH}", dispatch_body(0), api_key=API_KEY)
        job_id = answer["item"]["id"]
        assert (await rerun.poller.poll(job_id)).status
        refused = await rerun.poller.poll(job_id)
        assert refused.retry_after_seconds is not None
        assert 0 < refused.retry_after_seconds <= 3.6
        assert rerun_line(rerun) == "0/20 ends seen, 2 upstream requests"
        console = Console(file=io.StringIO(), force_terminal=True, width=120)
        console.print(rerun_picture(rerun))
        assert "0/20 ends seen" in console.file.getvalue()  # type: ignore[attr-defined]
