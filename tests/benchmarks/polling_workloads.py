"""The eight workloads that polling is measured on: jobs whose true lives are drawn beforehand, seeded.

Times are epoch seconds, LN(m, s) is the lognormal distribution with median m seconds and sigma s. `jobs` is the size of
a workload; a smaller one has the same span of lane starts or the same rate of arrivals, and so fewer jobs at once or
a shorter span.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

EPOCH = 1_800_000_000.0
START_WAIT = (1.0, 0.5)
"""LN parameters of the seconds from the moment at which a job may start to its start."""
LANE_JOBS = 10
LANE_CLASS = ("outreach.dispatch", "linkedin")
CHANNELS = 3
"""Lanes begin in so many channels at once: 334 times three lanes of ten jobs make 10,020."""
LANE_SPAN_SECONDS = 4 * 3600.0
MIX_SPAN_SECONDS = 2 * 3600.0
USUAL_JOBS = 10_000
"""The mix then counts 10,500: 100 and 50 times three lanes, and four times 1,500 jobs."""
LANE_GAP_SECONDS = 0.2
RELAY_MIN_INTERVAL_SECONDS = 60.0
FAILING_SHARE = 0.35
PAUSES_SECONDS = (30.0, 120.0, 600.0)

Draw = Callable[[random.Random], float]


@dataclass(frozen=True, slots=True)
class SimulatedJob:
    """One job and its true life: `attempts` are the (start, end) of its runs, `retries` the announced starts between.

    `scheduled_at` is what the upstream tells, None for nothing; `lane` is "" for none; `min_interval_seconds` is what
    the relay would assume between the starts of a lane's jobs; `late` says that it starts in the second half of the
    arrivals' span.
    """

    id: str
    lane: str
    action: str
    channel: str
    created_at: float
    scheduled_at: float | None
    attempts: tuple[tuple[float, float], ...]
    retries: tuple[float, ...] = ()
    min_interval_seconds: float = RELAY_MIN_INTERVAL_SECONDS
    late: bool = False

    @property
    def finished_at(self) -> float:
        """When the job's last run ended."""
        return self.attempts[-1][1]

    def item_at(self, at: float) -> dict[str, Any]:
        """What the upstream says of this job at a moment, in the relay's own field names."""
        status, started_at, finished_at, next_attempt_at = "queued", None, None, None
        count = 0
        for start, end in self.attempts:
            if at < start:
                break
            count += 1
            status, started_at, next_attempt_at = "running", start, None
            if at >= end:
                if count > len(self.retries):
                    status, finished_at = "succeeded", end
                else:
                    status, next_attempt_at = "queued", self.retries[count - 1]
        if not count and self.scheduled_at is not None and at < self.scheduled_at:
            status = "scheduled"
        return {
            **{"status": status, "action": self.action, "channel": self.channel},
            "scheduled_at": self.scheduled_at,
            "started_at": started_at,
            "finished_at": finished_at,
            "next_attempt_at": next_attempt_at,
            "attempt_count": count,
        }


@dataclass(frozen=True, slots=True)
class World:
    """A workload's jobs in the order of their creation. `span_seconds`: that of the arrivals, None: to the last one."""

    name: str
    jobs: tuple[SimulatedJob, ...]
    span_seconds: float | None = None

    @property
    def ends_at(self) -> float:
        """When the last job ends."""
        return max(job.finished_at for job in self.jobs)

    def requests_per_second(self, requests_per_job: float, *, arrivals: bool = True) -> float:
        """The limit that allows so many requests a job over the span of the arrivals; without `arrivals` over that from
        the first creation to the last end, which the tail of long runs makes longer."""
        if not arrivals:
            span = self.ends_at - self.jobs[0].created_at
        elif self.span_seconds is not None:
            span = self.span_seconds
        else:
            span = self.jobs[-1].created_at - self.jobs[0].created_at
        return requests_per_job * len(self.jobs) / span


def lognormal(rng: random.Random, median: float, sigma: float) -> float:
    """LN(median, sigma)."""
    return median * math.exp(sigma * rng.gauss(0.0, 1.0))


def lanes(rng: random.Random, name: str, count: int, span: float, spacing: Draw, hints: bool) -> Iterator[SimulatedJob]:
    """At each of `count` moments a lane of ten jobs in each of the channels; all of its jobs are created then."""
    for number in range(count):
        created = EPOCH + rng.uniform(0.0, span)
        for channel in range(CHANNELS):
            lane = f"{name}-{number}-{channel}"
            scheduled, end = created, -math.inf
            for place in range(LANE_JOBS):
                start = max(scheduled + lognormal(rng, *START_WAIT), end + LANE_GAP_SECONDS)
                end = start + lognormal(rng, 7.0, 0.6)
                hint = scheduled if hints else None
                yield SimulatedJob(f"{lane}-{place}", lane, *LANE_CLASS, created, hint, ((start, end),))
                scheduled += spacing(rng)


def arrivals(rng: random.Random, count: int, per_second: float) -> Iterator[float]:
    """The moments of a Poisson process."""
    return itertools.accumulate((rng.expovariate(per_second) for _ in range(count)), initial=EPOCH)


def single(
    name: str,
    number: int,
    created: float,
    attempts: list[tuple[float, float]],
    retries: Iterable[float] = (),
    *,
    late: bool = False,
) -> SimulatedJob:
    """A job without a lane or a hint, of its workload's own class."""
    return SimulatedJob(f"{name}-{number}", "", name, name, created, None, tuple(attempts), tuple(retries), late=late)


def plain(
    rng: random.Random, name: str, count: int, per_second: float, run: Callable[[random.Random, bool], float]
) -> Iterator[SimulatedJob]:
    """Jobs that come one by one, wait a little, and run once. The span is that of the arrivals."""
    middle = EPOCH + count / per_second / 2
    for number, created in zip(range(count), arrivals(rng, count, per_second), strict=False):
        start = created + lognormal(rng, *START_WAIT)
        late = start >= middle
        yield single(name, number, created, [(start, start + run(rng, late))], late=late)


def retrying(rng: random.Random, name: str, count: int, per_second: float) -> Iterator[SimulatedJob]:
    """Jobs of whose attempts a part fails; the moment of the next is announced. The fourth attempt is the last."""
    for number, created in zip(range(count), arrivals(rng, count, per_second), strict=False):
        attempts: list[tuple[float, float]] = []
        retries: list[float] = []
        anchor = created
        for pause in (*PAUSES_SECONDS, None):
            start = anchor + lognormal(rng, *START_WAIT)
            end = start + lognormal(rng, 7.0, 0.6)
            attempts.append((start, end))
            if pause is None or rng.random() >= FAILING_SHARE:
                break
            anchor = end + pause * rng.uniform(1.0, 1.2)
            retries.append(anchor)
        yield single(name, number, created, attempts, retries)


def make(name: str, seed: int, jobs: int = USUAL_JOBS) -> World:
    """The workload of that name (one of NAMES) with about so many jobs: lanes are whole."""
    rng = random.Random(f"{name.removesuffix('-nohint')} {seed}")
    span = None
    if name == "mix":
        span = MIX_SPAN_SECONDS
        found = list(_mix(rng, jobs / USUAL_JOBS))
    elif name in LANES:
        span = LANE_SPAN_SECONDS
        found = list(lanes(rng, name, math.ceil(jobs / (LANE_JOBS * CHANNELS)), LANE_SPAN_SECONDS, *LANES[name]))
    elif name == "retry":
        found = list(retrying(rng, name, jobs, 1.0))
    else:
        found = list(plain(rng, name, jobs, 1.0, RUNS[name]))
    return World(name, tuple(sorted(found, key=lambda job: job.created_at)), span)


def _mix(rng: random.Random, scale: float) -> Iterator[SimulatedJob]:
    span = MIX_SPAN_SECONDS
    yield from lanes(rng, "lanes60", round(100 * scale), span, *LANES["lanes60"])
    yield from lanes(rng, "lanesU", round(50 * scale), span, *LANES["lanesU"])
    each = round(1_500 * scale)
    for name, run in RUNS.items():
        yield from plain(rng, name, each, each / span, run)
    yield from retrying(rng, "retry", each, each / span)


LANES: dict[str, tuple[Draw, bool]] = {
    "lanes60": (lambda rng: 60.0, True),
    "lanesU": (lambda rng: rng.uniform(180.0, 360.0), True),
    "lanesU-nohint": (lambda rng: rng.uniform(180.0, 360.0), False),
}
"""Seconds between the scheduled moments of a lane's jobs, and whether the job reports them."""
UNEVEN_MIN_SPACING_SECONDS = 180.0
RUNS: dict[str, Callable[[random.Random, bool], float]] = {
    "heavy": lambda rng, late: lognormal(rng, 20.0, 1.5),
    "bimodal": lambda rng, late: lognormal(rng, 10.0, 0.1) if rng.random() < 0.8 else lognormal(rng, 900.0, 0.1),
    "drift": lambda rng, late: lognormal(rng, 21.0 if late else 7.0, 0.8),
}
"""Seconds that a run takes; `late` says that it starts in the second half of the arrivals' span."""
NAMES = (*LANES, "heavy", "bimodal", "retry", "drift", "mix")
