"""How polling is usually done, behind the planner's face and under the same rate limit, first due, first out.

Real defaults, with their sources:

- google-api-core, `google.api_core.future.polling.DEFAULT_POLLING`: initial 1 s, multiplier 1.5, maximum 20 s;
  the first poll is at once, and `google.api_core.retry` waits a random part of each step
  (`exponential_sleep_generator`).
- The AWS waiter ECS `TasksStopped` ("Polls every 6 seconds"): a fixed delay of 6 s, the first poll at once. It gives up
  after 100 polls; here it is called again.
"""

import heapq
import math
import random
from collections.abc import Callable, Mapping
from typing import Any

from polling_workloads import UNEVEN_MIN_SPACING_SECONDS, World
from polling_world import WINDOW_SECONDS, Outcome, simulate

BANKED_SECONDS = 0.5 * WINDOW_SECONDS
"""What the limiter saves up while nothing is sent: half a window, as much as the relay's own."""
SCALES = tuple(2.0 ** (step / 2) for step in range(-6, 11))
"""From a first wait of an eighth of a second: below the time that a request takes it is no back-off any more."""
REFINEMENTS = (2.0**-0.25, 2.0**0.25)


class Pending:
    """What a baseline knows of one job."""

    __slots__ = ("lane", "status", "step")

    def __init__(self, lane: str, status: str) -> None:
        self.lane, self.status, self.step = lane, status, 0


class Queue:
    """First due, first out, through a GCRA limit of `requests_per_second`; a subclass says when a job is due."""

    def __init__(self, requests_per_second: float) -> None:
        self._interval = 1.0 / requests_per_second
        self._conforms_at = -math.inf
        self._due: list[tuple[float, int, str]] = []
        self._pushed = 0
        self.jobs: dict[str, Pending] = {}

    def track(
        self,
        job_id: str,
        item: Mapping[str, Any] | None,
        now: float,
        weight: float = 1.0,
        lane: str | None = None,
        min_interval_seconds: float | None = None,
    ) -> None:
        """Takes in a job."""
        if self._conforms_at == -math.inf:
            self._conforms_at = now + self._interval
        job = self.jobs[job_id] = Pending(lane or "", "" if item is None else str(item["status"]))
        self.push(job_id, self.first_due(job_id, job, item or {}, now))

    def next_request_at(self, now: float) -> float | None:
        """When the first that is due may go."""
        return max(self._due[0][0], self._conforms_at) if self._due else None

    def take(self, now: float) -> str | None:
        """The first that is due, if the limit has a request for it."""
        if not self._due or self._due[0][0] > now or self._conforms_at > now:
            return None
        self._conforms_at = max(self._conforms_at, now - BANKED_SECONDS) + self._interval
        return heapq.heappop(self._due)[2]

    def observed(
        self, job_id: str, item: Mapping[str, Any] | None, headers: Mapping[str, str], sent_at: float, now: float
    ) -> None:
        """Plans the next poll, or forgets a job that has ended."""
        known = item or {}
        if known.get("status") == "succeeded":
            del self.jobs[job_id]
        else:
            self.push(job_id, self.next_due(job_id, self.jobs[job_id], known, now))

    def failed(self, job_id: str, status_code: int | None, headers: Mapping[str, str], now: float) -> None:
        """Waits as long as the answer says."""
        self.push(job_id, now + float(headers.get("Retry-After", 1.0)))

    def push(self, job_id: str, due: float) -> None:
        """Plans a poll; none for infinity."""
        if due < math.inf:
            self._pushed += 1
            heapq.heappush(self._due, (due, self._pushed, job_id))

    def first_due(self, job_id: str, job: Pending, item: Mapping[str, Any], now: float) -> float:
        """When a new job is polled first."""
        return now

    def next_due(self, job_id: str, job: Pending, item: Mapping[str, Any], now: float) -> float:
        """When a job is polled again that had not ended."""
        raise NotImplementedError


class Fixed(Queue):
    """A poll every so many seconds, the first one at once or after one interval."""

    def __init__(self, requests_per_second: float, interval_seconds: float, *, at_once: bool = False) -> None:
        super().__init__(requests_per_second)
        self._seconds = interval_seconds
        self._first = 0.0 if at_once else interval_seconds

    def first_due(self, job_id: str, job: Pending, item: Mapping[str, Any], now: float) -> float:
        return now + self._first

    def next_due(self, job_id: str, job: Pending, item: Mapping[str, Any], now: float) -> float:
        return now + self._seconds


class GoogleDefault(Queue):
    """google-api-core's default polling: at once, then after random parts of 1 s, 1.5 s, … 20 s.

    Without `jitter` after the whole of them, as its settings are often read.
    """

    initial_seconds, multiplier, maximum_seconds = 1.0, 1.5, 20.0

    def __init__(self, requests_per_second: float, seed: int, *, jitter: bool = True) -> None:
        super().__init__(requests_per_second)
        self._rng = random.Random(seed)
        self._jitter = jitter

    def next_due(self, job_id: str, job: Pending, item: Mapping[str, Any], now: float) -> float:
        most = min(self.initial_seconds * self.multiplier**job.step, self.maximum_seconds)
        job.step += 1
        return now + (self._rng.uniform(0.0, most) if self._jitter else most)


class HintedBackoff(Queue):
    """A back-off of 1 s, factor 1.5, at most 20 s, its times scaled by one number, that begins again at each status and
    never polls before `scheduled_at` or `next_attempt_at`."""

    def __init__(self, requests_per_second: float, scale: float) -> None:
        super().__init__(requests_per_second)
        self._initial = GoogleDefault.initial_seconds * scale
        self._maximum = GoogleDefault.maximum_seconds * scale

    def first_due(self, job_id: str, job: Pending, item: Mapping[str, Any], now: float) -> float:
        return max(now, self.hint(item)) + self._initial

    def next_due(self, job_id: str, job: Pending, item: Mapping[str, Any], now: float) -> float:
        status = str(item["status"])
        job.step = 0 if status != job.status else job.step + 1
        job.status = status
        wait = min(self._initial * GoogleDefault.multiplier ** min(job.step, 40), self._maximum)
        return max(now, self.hint(item)) + wait

    @staticmethod
    def hint(item: Mapping[str, Any]) -> float:
        """The moment before which nothing can happen, where the item tells one; 0 where not."""
        if item["status"] == "running":
            return 0.0
        return item["next_attempt_at"] or item["scheduled_at"] or 0.0


class LaneBackoff(HintedBackoff):
    """The same, and a lane's job without `scheduled_at` is not polled before its predecessor was seen to have
    started and the lane's least spacing, known in hindsight, has passed since."""

    def __init__(self, requests_per_second: float, scale: float) -> None:
        super().__init__(requests_per_second, scale)
        self._last: dict[str, str] = {}
        self._next: dict[str, str] = {}

    def first_due(self, job_id: str, job: Pending, item: Mapping[str, Any], now: float) -> float:
        if job.lane and item["scheduled_at"] is None:
            previous = self._last.get(job.lane)
            self._last[job.lane] = job_id
            if previous is not None:
                self._next[previous] = job_id
                return math.inf
        return super().first_due(job_id, job, item, now)

    def observed(
        self, job_id: str, item: Mapping[str, Any] | None, headers: Mapping[str, str], sent_at: float, now: float
    ) -> None:
        if item and item["started_at"] is not None and (follows := self._next.pop(job_id, None)) is not None:
            self.push(follows, max(now, item["started_at"] + UNEVEN_MIN_SPACING_SECONDS) + self._initial)
        super().observed(job_id, item, headers, sent_at, now)


BASELINES: dict[str, Callable[[float, int], Queue]] = {
    "fixed 5 s": lambda rate, seed: Fixed(rate, 5.0),
    "fixed 30 s": lambda rate, seed: Fixed(rate, 30.0),
    "google": lambda rate, seed: GoogleDefault(rate, seed),
    "google no jitter": lambda rate, seed: GoogleDefault(rate, seed, jitter=False),
    "aws ecs": lambda rate, seed: Fixed(rate, 6.0, at_once=True),
}


def best_hinted_backoff(
    world: World, requests_per_second: float, seed: int, kind: type[HintedBackoff] = HintedBackoff
) -> tuple[Outcome, float]:
    """What the scale did that is best in hindsight, and that scale."""
    tried: dict[float, Outcome] = {}

    def run(scale: float) -> float:
        if scale not in tried:
            tried[scale] = simulate(world, kind(requests_per_second, scale), seed=seed)
        return tried[scale].mean_delay_seconds

    best = min(SCALES, key=run)
    best = min((best, *(max(best * factor, SCALES[0]) for factor in REFINEMENTS)), key=run)
    return tried[best], best
