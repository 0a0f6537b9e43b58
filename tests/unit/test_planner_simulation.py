"""The planner against simulated upstreams: what it spends, how late it is, and how it shares a limit.

Every request takes 50 to 300 ms and sees the state at its middle. All is seeded; no clock is read.
"""

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from relay.core.planner import Planner, PlannerConfig

Answer = tuple[int, dict[str, str]]


@dataclass(kw_only=True)
class Job:
    id: str
    created: float
    lane: str
    scheduled: float | None
    attempts: list[tuple[float, float]]
    retries: list[float] = field(default_factory=list)

    def item(self, at: float) -> dict[str, Any]:
        """What the upstream says of this job at a moment."""
        item: dict[str, Any] = {"status": "queued", "scheduled_at": self.scheduled, "started_at": None}
        for number, (start, end) in enumerate(self.attempts):
            if at < start:
                break
            item |= {"status": "running", "started_at": start, "next_attempt_at": None}
            if at >= end and number < len(self.retries):
                item |= {"status": "queued", "next_attempt_at": self.retries[number]}
            elif at >= end:
                item |= {"status": "succeeded", "finished_at": end}
        return item


def lognormal(luck: random.Random, median: float, sigma: float) -> float:
    return median * math.exp(sigma * luck.gauss(0, 1))


def lanes(luck: random.Random, *, hints: bool = True, count: int = 30, scale: float = 1.0) -> list[Job]:
    """Lanes of ten jobs, a minute apart; `scale` shortens all times."""
    jobs = []
    for number in range(count):
        at = created = luck.uniform(0, 3600) * scale
        end = -math.inf
        for place in range(10):
            start = max(at + lognormal(luck, 1, 0.5) * scale, end + 0.2 * scale)
            end = start + lognormal(luck, 7, 0.6) * scale
            scheduled = at if hints else None
            name = f"lane{number}"
            jobs.append(
                Job(id=f"{name}-{place}", created=created, lane=name, scheduled=scheduled, attempts=[(start, end)])
            )
            at += 60 * scale
    return jobs


def heavy(luck: random.Random) -> list[Job]:
    """One job a second, with runs of heavy tails and no hint of any kind."""
    jobs, at = [], 0.0
    for number in range(300):
        at += luck.expovariate(1)
        start = at + lognormal(luck, 1, 0.5)
        attempts = [(start, start + lognormal(luck, 20, 1.5))]
        jobs.append(Job(id=f"heavy{number}", created=at, lane="", scheduled=None, attempts=attempts))
    return jobs


def retry(luck: random.Random) -> list[Job]:
    """One job a second, of whose attempts a third fails and is repeated after a pause."""
    jobs, at = [], 0.0
    for number in range(300):
        at += luck.expovariate(1)
        job = Job(id=f"retry{number}", created=at, lane="", scheduled=None, attempts=[])
        anchor = at
        for pause in (30, 120, 600, None):
            start = anchor + lognormal(luck, 1, 0.5)
            end = start + lognormal(luck, 7, 0.6)
            job.attempts.append((start, end))
            if pause is None or luck.random() >= 0.35:
                break
            anchor = end + pause * luck.uniform(1, 1.2)
            job.retries.append(anchor)
        jobs.append(job)
    return jobs


@dataclass(kw_only=True)
class Outcome:
    delays: list[float]
    requests: int
    rejected: int

    @property
    def mean_delay(self) -> float:
        return sum(self.delays) / len(self.delays)

    @property
    def requests_per_job(self) -> float:
        return self.requests / len(self.delays)


def simulate(
    jobs: list[Job], config: PlannerConfig, answer: Callable[[float], Answer] | None = None, *, scale: float = 1.0
) -> Outcome:
    """Runs a planner over a world until it has seen every job's end. `scale` shortens requests, too."""
    luck = random.Random(config.seed)
    planner = Planner(config)
    by_id = {job.id: job for job in jobs}
    happening: list[tuple[float, int, Callable[[], None]]] = []
    outcome = Outcome(delays=[], requests=0, rejected=0)
    seen: dict[str, tuple[Answer, dict[str, Any]]] = {}
    now = 0.0

    def at(moment: float, what: Callable[[], None]) -> None:
        outcome_number = len(happening) + 1_000_000 * outcome.requests
        heapq.heappush(happening, (moment, outcome_number, what))

    def register(job: Job) -> None:
        known = {"status": "queued", "scheduled_at": job.scheduled}
        planner.track(job.id, known, now, lane=job.lane, min_interval_seconds=60 * scale)

    def look(job_id: str) -> None:
        seen[job_id] = ((200, {}) if answer is None else answer(now), by_id[job_id].item(now))

    def report(job_id: str, sent_at: float) -> None:
        (status_code, headers), item = seen.pop(job_id)
        if status_code != 200:
            outcome.rejected += 1
            planner.failed(job_id, status_code, headers, now)
            return
        planner.observed(job_id, item, headers, sent_at, now)
        if item["status"] == "succeeded":
            outcome.delays.append(now - item["finished_at"])

    for number, job in enumerate(sorted(jobs, key=lambda job: job.created)):
        heapq.heappush(happening, (job.created, number - len(jobs), lambda job=job: register(job)))
    while len(outcome.delays) < len(jobs):
        wake = planner.next_request_at(now)
        if wake is not None and wake <= now:
            taken = planner.take(now)
            assert taken is not None
            outcome.requests += 1
            took = luck.uniform(0.05, 0.3) * scale
            at(now + took / 2, lambda taken=taken: look(taken))
            at(now + took, lambda taken=taken, sent_at=now: report(taken, sent_at))
        elif wake is not None and (not happening or wake < happening[0][0]):
            now = max(wake, now + 1e-6)
        else:
            now, _, what = heapq.heappop(happening)
            what()
    return outcome


def plain_backoff(jobs: list[Job]) -> Outcome:
    """What a client's usual back-off does: first after 1 s, then half as much longer each time, 20 s at most."""
    luck = random.Random(1)
    outcome = Outcome(delays=[], requests=0, rejected=0)
    for job in jobs:
        now, wait, end = job.created, 1.0, job.attempts[-1][1]
        while True:
            now += wait
            took = luck.uniform(0.05, 0.3)
            outcome.requests += 1
            if now + took / 2 >= end:
                break
            now += took
            wait = min(wait * 1.5, 20.0)
        outcome.delays.append(now + took - end)
    return outcome


@pytest.mark.parametrize(
    ("workload", "requests_per_job", "mean_delay_seconds", "of_the_usual_delay"),
    [(lanes, 3.0, 2.5, 0.3), (retry, 5.0, 2.5, 0.5), (heavy, 8.0, 10.0, 1.5)],
)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_with_enough_budget_looks_are_few_and_ends_are_seen_soon(
    workload: Callable[[random.Random], list[Job]],
    requests_per_job: float,
    mean_delay_seconds: float,
    of_the_usual_delay: float,
    seed: int,
) -> None:
    """Against the usual back-off: hints and lanes save most of the delay, heavy tails without a hint save nothing."""
    jobs = workload(random.Random(seed))
    outcome = simulate(jobs, PlannerConfig(max_requests_per_second=20, seed=seed))
    usual = plain_backoff(jobs)
    assert outcome.requests_per_job <= requests_per_job
    assert outcome.mean_delay <= mean_delay_seconds
    assert outcome.requests < 1.05 * usual.requests
    assert outcome.mean_delay < of_the_usual_delay * usual.mean_delay


def test_four_requests_a_job_are_enough() -> None:
    jobs = lanes(random.Random(4))
    span = max(job.attempts[-1][1] for job in jobs) - min(job.created for job in jobs)
    outcome = simulate(jobs, PlannerConfig(max_requests_per_second=4 * len(jobs) / span, seed=4))
    assert outcome.requests_per_job <= 3
    assert outcome.mean_delay <= 4


def test_lane_order_alone_saves_most_looks() -> None:
    jobs = lanes(random.Random(5), hints=False)
    outcome = simulate(jobs, PlannerConfig(max_requests_per_second=20, seed=5))
    assert outcome.requests_per_job <= 4
    assert outcome.mean_delay <= 4


def test_a_world_that_runs_faster_needs_no_more_looks() -> None:
    """The shortest interval scales everything that is not told by the upstream."""
    scale = 1 / 120
    jobs = lanes(random.Random(6), count=6, scale=scale)
    config = PlannerConfig(max_requests_per_second=2 / scale, min_interval_seconds=scale, seed=6)
    outcome = simulate(jobs, config, scale=scale)
    assert outcome.requests_per_job <= 4
    assert outcome.mean_delay <= 3 * scale


class SharedLimit:
    """A limit of requests a window that another client of the same key uses, too: steadily, and in bursts."""

    def __init__(self, limit: int, *, phase: float = 0.0, steady: float = 0.2, burst: float = 1.5) -> None:
        self.limit, self.window, self.phase, self.burst, self.steady = limit, 60.0, phase, burst, steady
        self.luck = random.Random(limit)
        self.now = 0.0
        self.used: dict[int, int] = {}
        self.sent = {"ours": 0, "others": 0}
        self.rejected = {"ours": 0, "others": 0}

    def send(self, who: str, at: float) -> bool:
        self.sent[who] += 1
        window = int((at + self.phase) / self.window)
        if self.used.get(window, 0) >= self.limit:
            self.rejected[who] += 1
            return False
        self.used[window] = self.used.get(window, 0) + 1
        return True

    def __call__(self, at: float) -> Answer:
        while self.now < at:
            share = self.steady + (self.burst if self.now % 300 < 30 else 0)
            turn = (self.now // 300) * 300 + (30 if self.now % 300 < 30 else 300)
            then = self.now + self.luck.expovariate(share * self.limit / self.window)
            self.now = min(then, turn, at)
            if self.now == then:
                self.send("others", then)
        allowed = self.send("ours", at)
        left = self.limit - self.used[int((at + self.phase) / self.window)]
        headers = {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(left),
            "X-RateLimit-Window-Ms": str(int(self.window * 1000)),
        }
        if allowed:
            return 200, headers
        wait = self.window - (at + self.phase) % self.window
        return 429, {**headers, "Retry-After": str(math.ceil(wait))}


def test_a_limit_is_shared_without_rejections() -> None:
    """Wherever in a window the others' burst falls; theirs can not all be spared, since nothing foretells a burst."""
    others = []
    for phase in range(0, 60, 10):
        upstream = SharedLimit(100, phase=phase)
        jobs = [
            Job(id=f"j{number}", created=0.0, lane="", scheduled=None, attempts=[(1.0, 1.0 + number * 0.6)])
            for number in range(1_000)
        ]
        simulate(jobs, PlannerConfig(reserve=0.3, seed=1), upstream)
        assert upstream.rejected["ours"] <= 0.002 * upstream.sent["ours"]
        others.append(upstream.rejected["others"] / upstream.sent["others"])
    assert sum(others) / len(others) <= 0.08


@pytest.mark.parametrize(("limit", "others", "ours"), [(120, 0.0, 0.7), (1200, 0.0, 0.7), (120, 0.2, 0.5)])
def test_what_others_leave_is_used(limit: int, others: float, ours: float) -> None:
    """All of the limit but the reserve and what others use."""
    upstream = SharedLimit(limit, steady=max(others, 1e-9), burst=0.0)
    jobs = [
        Job(id=f"j{number}", created=0.0, lane="", scheduled=None, attempts=[(0.0, 0.1)]) for number in range(limit * 4)
    ]
    simulate(jobs, PlannerConfig(reserve=0.3, seed=1), upstream)
    whole_windows = sorted(upstream.used)[1:-1]
    per_window = sum(upstream.used[window] for window in whole_windows) / len(whole_windows) - others * limit
    assert 0.9 * ours * limit <= per_window <= 1.05 * ours * limit
    assert upstream.rejected["ours"] == 0


def test_a_million_jobs_need_not_be_told_apart_to_be_kept_small() -> None:
    """Measured by slots, since measuring memory itself is a benchmark's business: no job holds a dict of its own."""
    planner = Planner(PlannerConfig())
    planner.track("job", None, 0.0)
    job = planner._roster.jobs["job"]
    assert not hasattr(job, "__dict__")
    assert len(job.__slots__) <= 14
