"""Drives a planner through a workload in simulated time, and measures how late it knows and what it spends.

Every request takes U(50, 300) ms and sees the state at its middle. No clock is read; all is seeded.
"""

import heapq
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from polling_workloads import SimulatedJob, World

MIN_REQUEST_SECONDS = 0.05
MAX_REQUEST_SECONDS = 0.3
FIRST_JOBS = 30
HORIZON_SECONDS = 4 * 3600.0
"""So long after the last end a run is given up, at least; what was not seen by then counts as seen then."""
STEP_SECONDS = 1e-3
"""How soon a planner is asked again that said "now" and then gave no job."""
WINDOW_SECONDS = 60.0
OK = 200
TOO_MANY_REQUESTS = 429
NO_HEADERS: dict[str, str] = {}


class Poller(Protocol):
    """The part of a planner's face that a run uses."""

    def track(
        self,
        job_id: str,
        item: Mapping[str, Any] | None,
        now: float,
        weight: float = 1.0,
        lane: str | None = None,
        min_interval_seconds: float | None = None,
    ) -> None:
        """Begins to plan polls of a job."""

    def next_request_at(self, now: float) -> float | None:
        """When to send the next request; None for not at all as things stand."""

    def take(self, now: float) -> str | None:
        """The job to poll now."""

    def observed(
        self, job_id: str, item: Mapping[str, Any] | None, headers: Mapping[str, str], sent_at: float, now: float
    ) -> None:
        """A poll succeeded."""

    def failed(self, job_id: str, status_code: int | None, headers: Mapping[str, str], now: float) -> None:
        """A poll failed."""


@dataclass(kw_only=True)
class Outcome:
    """What a run found. Delays are seconds from a job's end to the arrival of the response that shows it."""

    jobs: int
    requests: int
    unfinished: int
    mean_delay_seconds: float
    p50_delay_seconds: float
    p95_delay_seconds: float
    p99_delay_seconds: float
    first_jobs_mean_delay_seconds: float
    action_mean_delays_seconds: dict[str, float] = field(default_factory=dict)
    weight_mean_delays_seconds: dict[str, float] = field(default_factory=dict)
    rejected: int = 0
    others_requests: int = 0
    others_rejected: int = 0

    @property
    def requests_per_job(self) -> float:
        """Requests that were sent, per job."""
        return self.requests / self.jobs


class SharedLimit:
    """A rate limit reported by headers; another client of the same key uses it too.

    The other one sends at .2 of the limit, and for 30 s in every 300 s at 1.5 times the limit, each a Poisson process.
    """

    steady_share, burst_share, burst_seconds, cycle_seconds = 0.2, 1.5, 30.0, 300.0

    def __init__(self, limit: int, *, seed: int, starts_at: float) -> None:
        self.limit = limit
        self.rejected, self.others_requests, self.others_rejected = 0, 0, 0
        self._rng = random.Random(seed)
        self._phase = self._rng.uniform(0, self.cycle_seconds)
        self._others_at = starts_at
        self._window, self._used = -1, 0

    def answer(self, at: float) -> tuple[int, dict[str, str]]:
        """Status code and headers for a request of ours that arrives then; moments must not decrease."""
        while self._others_at < at:
            self._others_turn(at)
        accepted = self._accept(at)
        self.rejected += not accepted
        headers = {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.limit - self._used),
            "X-RateLimit-Window-Ms": str(round(WINDOW_SECONDS * 1000)),
        }
        if accepted:
            return OK, headers
        return TOO_MANY_REQUESTS, {**headers, "Retry-After": str(math.ceil(WINDOW_SECONDS - at % WINDOW_SECONDS))}

    def _others_turn(self, until: float) -> None:
        within = (self._others_at + self._phase) % self.cycle_seconds
        bursts = within < self.burst_seconds
        share = self.burst_share if bursts else self.steady_share
        changes = self._others_at + (self.burst_seconds if bursts else self.cycle_seconds) - within + 1e-6
        then = self._others_at + self._rng.expovariate(share * self.limit / WINDOW_SECONDS)
        self._others_at = min(then, changes, until)
        if then <= self._others_at:
            self.others_requests += 1
            self.others_rejected += not self._accept(then)

    def _accept(self, at: float) -> bool:
        window = int(at // WINDOW_SECONDS)
        if window != self._window:
            self._window, self._used = window, 0
        if self._used >= self.limit:
            return False
        self._used += 1
        return True


def simulate(
    world: World,
    poller: Poller,
    *,
    seed: int,
    limit: SharedLimit | None = None,
    weights: Mapping[str, float] | None = None,
    hold: Callable[[str, float], float] | None = None,
    headers: Mapping[str, str] = NO_HEADERS,
) -> Outcome:
    """Runs a planner until it has seen every job's end, or until long after the last. With `limit` the upstream rejects
    and tells by headers; without, nothing does. `weights` are the jobs' by their ids, 1 for all where left out. `hold`:
    for how many seconds the upstream is asked to hold the read of a job until that ends; `headers`: of good answers."""
    took = random.Random(seed).uniform
    by_id = {job.id: job for job in world.jobs}
    created = iter(world.jobs)
    coming: SimulatedJob | None = next(created)
    ends_at = world.ends_at
    gives_up_at = ends_at + max(HORIZON_SECONDS, ends_at - world.jobs[0].created_at)
    # Responses that are out: arrival, number, job, sending, status code and headers if they are known by now.
    out: list[tuple[float, int, str, float]] = []
    arriving: list[tuple[float, int, str]] = []
    answers: dict[int, tuple[int, Mapping[str, str], float]] = {}
    delays: dict[str, float] = {}
    requests = 0
    now = world.jobs[0].created_at
    while len(delays) < len(by_id):
        wake = poller.next_request_at(now)
        if wake is not None and wake <= now:
            wake = now + STEP_SECONDS
            while (job_id := poller.take(now)) is not None:
                wake = now
                requests += 1
                seconds = took(MIN_REQUEST_SECONDS, MAX_REQUEST_SECONDS)
                held, seen_at = 0.0 if hold is None else hold(job_id, now), now + seconds / 2
                held = min(held, max(by_id[job_id].finished_at - seen_at, 0.0))
                if held:
                    answers[requests] = (OK, headers, seen_at + held)
                    seconds += held
                heapq.heappush(out, (now + seconds, requests, job_id, now))
                if limit is not None:
                    heapq.heappush(arriving, (now + seconds / 2, requests, job_id))
            if wake == now:
                continue
        then = math.inf if wake is None else wake
        if coming is not None and coming.created_at <= then:
            then = coming.created_at
        if out and out[0][0] <= then:
            then = out[0][0]
        if arriving and limit is not None and arriving[0][0] <= then:
            now, number, job_id = heapq.heappop(arriving)
            answers[number] = (*limit.answer(now), now)
            continue
        if then > gives_up_at:
            break
        now = max(now, then)
        while coming is not None and coming.created_at <= now:
            item = coming.item_at(now)
            weight = 1.0 if weights is None else weights[coming.id]
            poller.track(coming.id, item, now, weight, coming.lane, coming.min_interval_seconds)
            coming = next(created, None)
        while out and out[0][0] <= now:
            arrived, number, job_id, sent_at = heapq.heappop(out)
            job = by_id[job_id]
            code, told, seen_at = answers.pop(number, (OK, headers, (sent_at + arrived) / 2))
            if code != OK:
                poller.failed(job_id, code, told, now)
                continue
            poller.observed(job_id, job.item_at(seen_at), told, sent_at, now)
            if seen_at >= job.finished_at and job_id not in delays:
                delays[job_id] = now - job.finished_at
    return _outcome(world, delays, requests, gives_up_at, limit, weights or {})


def _outcome(
    world: World,
    delays: dict[str, float],
    requests: int,
    gave_up_at: float,
    limit: SharedLimit | None,
    weights: Mapping[str, float],
) -> Outcome:
    in_order = [delays.get(job.id, gave_up_at - job.finished_at) for job in world.jobs]
    by_action: dict[str, list[float]] = {}
    by_weight: dict[str, list[float]] = {}
    for job, delay in zip(world.jobs, in_order, strict=True):
        by_action.setdefault(job.action, []).append(delay)
        if weights:
            by_weight.setdefault(f"{weights[job.id]:g}", []).append(delay)
    ordered = sorted(in_order)

    def quantile(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return Outcome(
        jobs=len(world.jobs),
        requests=requests,
        unfinished=len(world.jobs) - len(delays),
        mean_delay_seconds=mean(in_order),
        p50_delay_seconds=quantile(0.5),
        p95_delay_seconds=quantile(0.95),
        p99_delay_seconds=quantile(0.99),
        first_jobs_mean_delay_seconds=mean(in_order[:FIRST_JOBS]),
        action_mean_delays_seconds={action: mean(found) for action, found in by_action.items()},
        weight_mean_delays_seconds={weight: mean(found) for weight, found in by_weight.items()},
        rejected=0 if limit is None else limit.rejected,
        others_requests=0 if limit is None else limit.others_requests,
        others_rejected=0 if limit is None else limit.others_rejected,
    )


def mean(numbers: list[float]) -> float:
    """The arithmetic mean."""
    return sum(numbers) / len(numbers)
