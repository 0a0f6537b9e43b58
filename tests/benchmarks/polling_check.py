"""Computes the bound of two workloads once more, without the planner, its bins or a simulation.

`python tests/benchmarks/polling_check.py [REQUESTS_PER_JOB ...]` prints both. Here the least cost of a job's polls is
found by a dynamic programme over a fine grid of ages, directly from the survival functions: from the run's start on a
grid whose steps grow by less than a hundredth, before that in steps of a tenth of a second. Requests take no time,
follow each other as closely as they like, and nothing but the delay of the end costs; what a response takes from its
poll to its arrival is added at the end. So it is a little below what any planner could do.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from polling_bound import RUN_LAWS, Survival, bound, lognormal_survival
from polling_workloads import START_WAIT, make
from polling_world import MAX_REQUEST_SECONDS, MIN_REQUEST_SECONDS

STEPS, FIRST_SECONDS, LAST_SECONDS = 1_500, 0.2, 3e4
WAIT_STEP_SECONDS, LAST_START_SECONDS, LAST_FIRST_POLL_SECONDS = 0.1, 12.0, 90.0
HALVINGS = 14
ARRIVAL_SECONDS = (MIN_REQUEST_SECONDS + MAX_REQUEST_SECONDS) / 4
"""From the middle of a request to its response, on average."""
WORKLOADS = ("heavy", "bimodal")


@dataclass(frozen=True, slots=True)
class Value:
    """What is to come on average: cost = price * polls + delay."""

    cost: float
    polls: float
    delay: float


class Runs:
    """The best polls of a run of which is known that it has not ended at some age, for each age of the grid."""

    def __init__(self, survival: Survival, price: float) -> None:
        growth = (LAST_SECONDS / FIRST_SECONDS) ** (1 / STEPS)
        self.ages = [0.0, *(FIRST_SECONDS * growth**step for step in range(STEPS + 1))]
        self.alive = [max(survival(age), 1e-300) for age in self.ages]
        self.lived = [0.0]
        for (a, b), (x, y) in zip(pairwise(self.ages), pairwise(self.alive), strict=True):
            self.lived.append(self.lived[-1] + (b - a) * (x + y) / 2)
        self.values = [Value(price, 1.0, 0.0)] * len(self.ages)
        for i in range(len(self.ages) - 2, -1, -1):
            if self.alive[i] > 1e-12:
                self.values[i] = self._best(i, price)

    def _best(self, i: int, price: float) -> Value:
        best = Value(math.inf, 0.0, 0.0)
        for j in range(i + 1, len(self.ages)):
            late = self.ages[j] - self.ages[i] - (self.lived[j] - self.lived[i]) / self.alive[i]
            left, then = self.alive[j] / self.alive[i], self.values[j]
            if price + late + left * then.cost < best.cost:
                best = Value(price + late + left * then.cost, 1 + left * then.polls, late + left * then.delay)
            if price + late > best.cost:
                break
        return best

    def after(self, steps: int) -> list[Value]:
        """What comes of a run that is polled first at each age 0, 0.1 s, ...; that poll is not counted."""
        found, at = [], 0
        for number in range(steps + 1):
            age = number * WAIT_STEP_SECONDS
            while at + 2 < len(self.ages) and self.ages[at + 1] < age:
                at += 1
            share = (age - self.ages[at]) / (self.ages[at + 1] - self.ages[at])
            low, high = self._ahead(at), self._ahead(at + 1)
            parts = ((a + (b - a) * share) for a, b in zip(low, high, strict=True))
            found.append(Value(*parts))
        return found

    def _ahead(self, at: int) -> tuple[float, float, float]:
        late, left, then = self.ages[at] - self.lived[at], self.alive[at], self.values[at]
        return late + left * then.cost, left * then.polls, late + left * then.delay


def least(start: Survival, run: Survival, price: float) -> Value:
    """The least cost of a job from its creation on, at a price of a poll."""
    steps = round(LAST_FIRST_POLL_SECONDS / WAIT_STEP_SECONDS)
    starts = round(LAST_START_SECONDS / WAIT_STEP_SECONDS)
    after = Runs(run, price).after(steps)
    waiting = [start(step * WAIT_STEP_SECONDS) for step in range(starts)] + [0.0]
    began = [a - b for a, b in pairwise(waiting)]
    values = [Value(price, 1.0, 0.0)] * (starts + 1)
    for i in range(starts - 1, -1, -1):
        best = Value(math.inf, 0.0, 0.0)
        for j in range(i + 1, steps + 1):
            # Of those that wait at i, those that begin in each step until j: half of a step earlier than its end.
            cost = polls = delay = 0.0
            for k in range(i, min(j, starts)):
                low, high = after[j - k - 1], after[j - k]
                cost += began[k] * (low.cost + high.cost) / 2
                polls += began[k] * (low.polls + high.polls) / 2
                delay += began[k] * (low.delay + high.delay) / 2
            if j < starts:
                cost, polls = cost + waiting[j] * values[j].cost, polls + waiting[j] * values[j].polls
                delay += waiting[j] * values[j].delay
            share = waiting[i]
            if price + cost / share < best.cost:
                best = Value(price + cost / share, 1 + polls / share, delay / share)
            elif price + cost / share > 2 * best.cost:
                break
        values[i] = best
    return values[0]


def at_requests(value: Callable[[float], Value], requests_per_job: float) -> tuple[Value, float]:
    """The least cost at the price at which so many polls are made, and that price."""
    low, high = 0.02, 2_000.0
    for _ in range(HALVINGS):
        price = math.sqrt(low * high)
        if value(price).polls > requests_per_job:
            low = price
        else:
            high = price
    return value(high), high


def main() -> int:
    """The command line."""
    start = lognormal_survival(*START_WAIT)
    for asked in [float(argument) for argument in sys.argv[1:]] or [4.0]:
        for name in WORKLOADS:
            run = RUN_LAWS[name]
            simulated = bound(make(name, 1), asked, 1)
            sent = simulated.outcome.requests_per_job
            found, price = at_requests(lambda price, run=run: least(start, run, price), sent)  # type: ignore[misc]
            delay = found.delay + ARRIVAL_SECONDS
            print(
                f"{name}: at {sent:.2f} requests a job the planner with the true laws finds ends after "
                f"{simulated.outcome.mean_delay_seconds:.3f} s at a price of {simulated.price_seconds:.2f} s; the fine "
                f"grid after {delay:.3f} s with {found.polls:.2f} looks at {price:.2f} s: "
                f"{simulated.outcome.mean_delay_seconds / delay:.3f} times as long",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
