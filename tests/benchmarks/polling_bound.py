"""The planner with the true distributions planted: what polling could do if nothing had to be learned.

Two of them. The known-distribution controller is the relay's planner, under the rate limit and with its own price, but
its hazards are the true ones from the first job on and nothing is learned. The bound has besides no rate limit and a
constant price, found such that so many requests a job are sent as are asked for; so no job ever waits for another. It
never polls a job ahead of its time, nor to see whether one was moved, and its tables are for exactly its price
instead of the nearest rung.

What the bound knows is what polling could know: the law of a job's class (of a drifting one: which law holds when the
run begins), not the life of a job, and hazards no finer than the planner's bins.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from statistics import NormalDist

from polling_workloads import LANE_CLASS, RELAY_MIN_INTERVAL_SECONDS, START_WAIT, World, make
from polling_world import Outcome, simulate

from relay.core.planner import Planner, PlannerConfig
from relay.core.planner.hazard import EDGES
from relay.core.planner.inspection import KINDS, LANE, RHYTHM, RUN, ClassPolicy, Table, run_table, wait_table
from relay.core.planner.open_jobs import RHYTHM_EARLY_UNITS
from relay.core.planner.price import Price
from relay.core.planner.statistics import ClassStatistics, PlannerStatistics

Survival = Callable[[float], float]
"""The chance that something takes longer than so many seconds."""
Rates = tuple[float, ...]

UNLIMITED_PER_SECOND = 1e6
UNLIMITED_SECONDS = 1e8
QUANTILES = 60
LEAST_RATE, MOST_RATE = 1e-9, 1e3
GONE = 1e-250
"""A survival function below this says nothing any more: the hazard stays what it was."""
NEVER_CHANGED = 1e30
"""So long jobs waited without one being cancelled or moved: in the workloads none is."""
LATE = " late"
"""Marks the class of the jobs of a drifting workload that begin after the change."""

TOLERANCE = 0.01
ROUGH_TOLERANCE = 0.04
ROUGH_JOBS = 1_500
MOST_RUNS = 6
SLOPE = -0.4
"""The power of the price with which requests go, roughly, before two runs tell."""
WIDEST_STEP = 4.0


# --- the true laws


def lognormal_survival(median: float, sigma: float) -> Survival:
    """LN(median, sigma)."""

    def survival(age: float) -> float:
        return 1.0 if age <= 0 else 0.5 * math.erfc(math.log(age / median) / (sigma * math.sqrt(2)))

    return survival


def mixture(*parts: tuple[float, Survival]) -> Survival:
    """One of several laws, each with its share."""
    return lambda age: sum(share * survival(age) for share, survival in parts)


def lane_survival(shortest: float, longest: float) -> Survival:
    """From a predecessor's start, and the least interval after it, to the start of the next in its lane.

    That is U(shortest, longest) between the scheduled moments, less the interval, and the difference of two waits.
    """
    median, sigma = START_WAIT
    waits = [median * math.exp(sigma * NormalDist().inv_cdf((place + 0.5) / QUANTILES)) for place in range(QUANTILES)]
    ends = [longest - RELAY_MIN_INTERVAL_SECONDS + own - before for own in waits for before in waits]
    width = max(longest - shortest, 1e-6)

    def survival(age: float) -> float:
        return sum(min(max((end - age) / width, 0.0), 1.0) for end in ends) / len(ends)

    return survival


def rhythm_survival(width: float) -> Survival:
    """From the moment that a rhythm seems to tell to the start, where the gaps are U of that width and there is none.

    The gap that seems to be the rhythm is as good as the next one: their difference has a triangular density.
    """
    return lambda age: 0.5 * max(1 - max(age - RHYTHM_EARLY_UNITS, 0.0) / width, 0.0) ** 2


def rates_of(survival: Survival) -> Rates:
    """The hazard in each of the planner's bins that makes as many survive it. What is not late is in the first."""
    rates: list[float] = []
    before, rate = 1.0, MOST_RATE
    for start, end in itertools.pairwise(EDGES):
        after = survival(end)
        if before > GONE:
            rate = math.log(before / max(after, GONE)) / (end - start)
            rate = min(max(rate, LEAST_RATE), MOST_RATE)
        rates.append(rate)
        before = after
    return tuple(rates)


RUN_LAWS: dict[str, Survival] = {
    LANE_CLASS[0]: lognormal_survival(7.0, 0.6),
    "heavy": lognormal_survival(20.0, 1.5),
    "bimodal": mixture((0.8, lognormal_survival(10.0, 0.1)), (0.2, lognormal_survival(900.0, 0.1))),
    "retry": lognormal_survival(7.0, 0.6),
    "drift": lognormal_survival(7.0, 0.8),
    "drift" + LATE: lognormal_survival(21.0, 0.8),
}
"""The law of a run by the job's action."""
WAIT_LAWS: dict[str, Survival] = {}
"""The law of the wait for the start by the job's action, where it is not LN of START_WAIT."""


@cache
def _rates(action: str, uneven: bool) -> tuple[Rates, ...]:
    """The true hazards of a class, for each kind. `uneven` is whether its lanes have other spacings than 60 s."""
    waits = rates_of(WAIT_LAWS.get(action) or lognormal_survival(*START_WAIT))
    found = [waits] * len(KINDS)
    found[RUN] = rates_of(RUN_LAWS[action])
    if action == LANE_CLASS[0]:
        found[LANE] = rates_of(lane_survival(180.0, 360.0) if uneven else lane_survival(60.0, 60.0))
        found[RHYTHM] = rates_of(rhythm_survival(180.0)) if uneven else waits
    return tuple(found)


def reported(world: World) -> World:
    """The same world, but a job of the class that drifts says by its action which law its run has."""
    jobs = (replace(job, action=job.action + LATE) if job.action == "drift" and job.late else job for job in world.jobs)
    return replace(world, jobs=tuple(jobs))


# --- planted


class TrueStatistics(PlannerStatistics):
    """A statistics in which the true laws stand already, and nothing is ever written."""

    def __init__(self, world: World, policy: Callable[[list[Rates]], ClassPolicy] = ClassPolicy) -> None:
        super().__init__(1.0)
        self._uneven = world.name.startswith("lanesU")
        self._policy = policy
        self._planted: dict[tuple[str, str], ClassStatistics] = {}

    def of_class(self, action: str, channel: str) -> ClassStatistics:
        found = self._planted.get((action, channel))
        if found is None:
            found = self._planted[action, channel] = ClassStatistics((action, channel), None)
            found.policy = self._policy(list(_rates(action, self._uneven)))
            found.waited = NEVER_CHANGED
        return found

    def record_survival(self, job_class: ClassStatistics, kind: int, since: float, age: float) -> None:
        pass

    def record_event(self, job_class: ClassStatistics, kind: int, since: float, age: float) -> None:
        pass

    def record_event_between(self, job_class: ClassStatistics, kind: int, since: float, age: float) -> None:
        pass

    def record_wait(self, job_class: ClassStatistics, seconds: float, *, changed: bool) -> None:
        pass


class ConstantPrice(Price):
    """A price that no demand moves. There is one rung, and no request that were lost if it is not sent."""

    def __init__(self, seconds: float) -> None:
        super().__init__(1.0)
        self.value = seconds

    @property
    def above_floor(self) -> bool:
        return False

    def rung(self, weight: float) -> int:
        return 0

    def due(self, now: float) -> bool:
        return False


class ExactPolicy(ClassPolicy):
    """Its tables are for one price, whatever the rung."""

    def __init__(self, rates: list[Rates], price: float) -> None:
        super().__init__(rates)
        self._price = price

    def build(self, kind: int, rung: int) -> Table:
        found = self.tables.get((kind, 0))
        if found is None:
            if kind == RUN:
                found = run_table(self.rates(RUN), self._price)
            else:
                found = wait_table(self.rates(kind), self.rates(RUN), self.build(RUN, 0), self._price)
            self.tables[kind, 0] = found
        return found


def known(world: World, requests_per_second: float, seed: int) -> Outcome:
    """The known-distribution controller: learns nothing, keeps the rate limit, moves its price."""
    config = PlannerConfig(max_requests_per_second=requests_per_second, seed=seed)
    return simulate(reported(world), Planner(config, TrueStatistics(world)), seed=seed)


def at_price(world: World, price: float, seed: int) -> Outcome:
    """The planner with the true laws at a constant price and without a rate limit."""
    config = PlannerConfig(
        max_requests_per_second=UNLIMITED_PER_SECOND, max_interval_seconds=UNLIMITED_SECONDS, seed=seed
    )
    statistics = TrueStatistics(world, lambda rates: ExactPolicy(rates, price))
    return simulate(reported(world), Planner(config, statistics, ConstantPrice(price)), seed=seed)


@dataclass(frozen=True, slots=True)
class Bound:
    """What the search for the price found: the outcome with the number of requests nearest to what was asked for."""

    outcome: Outcome
    price_seconds: float


def bound(
    world: World, requests_per_job: float, seed: int, near: float | None = None, tolerance: float = TOLERANCE
) -> Bound:
    """The bound at so many requests a job: those that were sent are within the tolerance, where the price allows it.

    `near` is a price that is not far off. Without one it is sought on a smaller world of the same kind first: without a
    limit jobs have nothing to do with each other.
    """
    if near is None:
        rough = make(world.name, seed, min(ROUGH_JOBS, len(world.jobs)))
        near = _search(rough, requests_per_job, seed, _guess(requests_per_job), ROUGH_TOLERANCE).price_seconds
    return _search(world, requests_per_job, seed, near, tolerance)


def _guess(requests_per_job: float) -> float:
    return (4.0 / requests_per_job) ** 3


def _search(world: World, requests_per_job: float, seed: int, price: float, tolerance: float) -> Bound:
    """Halves the bracket on the logarithm of the price, or better: goes where a straight line through its ends does."""
    tried: list[tuple[float, float, Bound]] = []
    at = math.log(price)
    for _ in range(MOST_RUNS):
        outcome = at_price(world, math.exp(at), seed)
        off = math.log(outcome.requests_per_job / requests_per_job)
        tried.append((at, off, Bound(outcome, math.exp(at))))
        if abs(off) <= math.log1p(tolerance):
            break
        cheap = max(((x, y) for x, y, _ in tried if y > 0), default=None)
        dear = min(((x, y) for x, y, _ in tried if y < 0), default=None)
        if cheap is None or dear is None:
            at += min(max(-off / SLOPE, -WIDEST_STEP), WIDEST_STEP)
        else:
            share = cheap[1] / (cheap[1] - dear[1])
            at = cheap[0] + (dear[0] - cheap[0]) * min(max(share, 0.1), 0.9)
    return min(tried, key=lambda each: abs(each[1]))[2]
