"""SavedStatistics hazards: how likely an event is to come in the next second, given how long it has not come.

Time is cut into bins whose width grows with age, and in each the hazard is the number of events over the time at risk
(the occurrence/exposure rate; for constant hazards within bins it is the maximum of the likelihood, also when lives are
cut off on either side: Andersen, Borgan, Gill and Keiding, Statistical Models Based on Counting Processes, 1993). So a
look that finds nothing teaches as well: time at risk without an event. Ages are in units of `PlannerStatistics.unit`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

RATIO = 1.1
FIRST_EDGES = (0.0, 0.25, 0.5, 0.75)
EDGES: tuple[float, ...] = (*FIRST_EDGES, *(RATIO**power for power in range(122)))
"""The bins' edges: quarters up to 1, then each a tenth further than the one before, up to 1e5."""
BINS = len(EDGES) - 1
WIDTHS: tuple[float, ...] = tuple(b - a for a, b in pairwise(EDGES))
MEMORY_EVENTS = 800
"""What is older than so many events counts less than 1/e."""
GROWTH = 1 / (1 - 1 / MEMORY_EVENTS)
RESCALE_ABOVE = 1e100
LARGEST = 1e30
"""Far more time at risk than there can be: above it sums could become infinite."""
PSEUDO_JOBS = 3.0
TRACE = 1e-6
"""So many of the pseudo-jobs live for ever: where a prior lets none live on, it is still the prior that is leant on."""
MAX_PASSES = 12
PASSES_EVENTS = 40.0
EXPLORATION = 12.0
"""For so many times the prior's the hazard is taken at ages that no job has got past yet, once many have ended."""
EXPLORATION_EVENTS = 30.0
"""After so many ends it is half of that: the first jobs of all teach enough by being looked at as usual."""
EXPLORED_JOBS = 4.0
"""With so many jobs that got past, it is less by a factor of e."""
LEAST_RATE = 1e-12
MOST_RATE = 1e6


def bin_of(age: float) -> int:
    """The bin in which an age lies; the last one for all beyond. Compared alone: a logarithm errs beside an edge."""
    if age < 1.0:
        return int(age * 4) if age > 0 else 0
    return min(bisect_right(EDGES, age), BINS) - 1


def lomax(scale: float) -> tuple[float, ...]:
    """The hazard of a Lomax law of shape 1, in each bin: nothing is known but the order of magnitude of `scale`."""
    return tuple(
        (1 / (scale + a) - 1 / (scale + b)) * scale / (scale * math.log((scale + b) / (scale + a)))
        for a, b in pairwise(EDGES)
    )


def exploration(prior: Sequence[float], passed: Sequence[float], count: float) -> tuple[float, ...]:
    """What a hazard is taken for at least where requests are cheap: more than the prior at ages that few got past.

    Optimism where little is known, as in Auer, Cesa-Bianchi and Fischer, Finite-time Analysis of the Multiarmed Bandit
    Problem, 2002: what the first jobs there show serves all that follow, so a look at them is worth more than its own
    job's delay; and they alone would make an age seem safe in which they merely were not looked at. `passed` and
    `count` are those of the `Hazard`.
    """
    most = EXPLORATION * count / (count + EXPLORATION_EVENTS)
    return tuple(most * before * math.exp(-jobs / EXPLORED_JOBS) for before, jobs in zip(prior, passed, strict=True))


def _pseudo(prior: Sequence[float]) -> tuple[list[float], list[float]]:
    """Events and time at risk of the pseudo-jobs, in each bin, if they lived by `prior`."""
    events, exposure = [], []
    alive = PSEUDO_JOBS
    for rate, width in zip(prior, WIDTHS, strict=True):
        gone = -alive * math.expm1(-rate * width)
        events.append(gone)
        exposure.append(gone / rate)
        alive = max(alive - gone, TRACE)
    return events, exposure


def _smooth(values: list[float], passes: int) -> list[float]:
    for _ in range(passes):
        padded = [values[0], *values, values[-1]]
        values = [0.25 * a + 0.5 * b + 0.25 * c for a, b, c in zip(padded, padded[1:], padded[2:], strict=False)]
    return values


class Hazard:
    """The events of one kind and the time at risk of them. What is older counts less with each new event."""

    __slots__ = ("_cover", "_events", "_exposure", "_weight", "count", "polls_since", "since")

    def __init__(self) -> None:
        self.count = 0.0
        """Events ever seen."""
        self.since = 0
        """Events since `rates` was asked for last."""
        self.polls_since = 0
        self._weight = 1.0
        self._events = [0.0] * BINS
        self._exposure = [0.0] * BINS
        """Time at risk in bins that were passed in part."""
        self._cover = [0.0] * (BINS + 1)
        """Where whole bins begin (+) and end (-) to be at risk: one number at each end instead of one a bin."""

    @property
    def effective_count(self) -> float:
        """Events that still count."""
        return min(self.count, float(MEMORY_EVENTS))

    def record_survival(self, since: float, age: float) -> None:
        """Nothing happened between two ages."""
        if age <= since:
            return
        weight = self._weight
        first, last = bin_of(since), bin_of(age)
        self.polls_since += 1
        if first == last:
            self._exposure[first] += weight * (min(age, EDGES[-1]) - min(since, EDGES[-1]))
            return
        self._exposure[first] += weight * (EDGES[first + 1] - since)
        self._exposure[last] += weight * (min(age, EDGES[-1]) - EDGES[last])
        if first + 1 < last:
            self._cover[first + 1] += weight
            self._cover[last] -= weight

    def record_event(self, since: float, age: float) -> None:
        """It happened at `age`, and had not at `since`."""
        self._weight *= GROWTH
        if self._weight > RESCALE_ABOVE:
            self._rescale()
        self.record_survival(since, age)
        self._events[bin_of(age)] += self._weight
        self.count += 1
        self.since += 1

    def record_event_between(self, since: float, age: float, rates: Sequence[float]) -> None:
        """It happened at some age between the two: spread as `rates` make it likely, as step E of the EM algorithm."""
        since, age = min(since, EDGES[-1]), min(age, EDGES[-1])
        if age <= since:
            self.record_event(since, since)
            return
        self._weight *= GROWTH
        if self._weight > RESCALE_ABOVE:
            self._rescale()
        first, last = bin_of(since), bin_of(age)
        alive, parts = 1.0, []
        for at in range(first, last + 1):
            a, b = max(since, EDGES[at]), min(age, EDGES[at + 1])
            gone = -alive * math.expm1(-rates[at] * max(b - a, 0.0))
            # Of those that end here, half the bin; of those that end later, all of it.
            parts.append((at, gone, b - a))
            alive -= gone
        total = sum(gone for _, gone, _ in parts)
        left = 1.0
        for at, gone, width in parts:
            share = gone / total if total > 0 else 1 / len(parts)
            left -= share
            self._events[at] += self._weight * share
            self._exposure[at] += self._weight * width * max(left + share / 2, 0.0)
        self.count += 1
        self.since += 1

    def rates(self, prior: Sequence[float]) -> tuple[float, ...]:
        """The hazard in each bin, always above 0: what was seen, leaning on pseudo-jobs that live by `prior`."""
        self.since = self.polls_since = 0
        passes = 1
        if self.count > 0:
            passes = max(1, min(MAX_PASSES, round(PASSES_EVENTS / math.sqrt(self.effective_count))))
        prior_events, prior_exposure = _pseudo(prior)
        events = _smooth(self._events, passes)
        exposure = _smooth(self._at_risk(), passes)
        weight = self._weight
        return tuple(
            min(max((seen / weight + seen0) / (risk / weight + risk0), LEAST_RATE), MOST_RATE)
            for seen, seen0, risk, risk0 in zip(events, prior_events, exposure, prior_exposure, strict=True)
        )

    def passed(self) -> list[float]:
        """How many jobs, of those that still count, have been at risk in each bin; parts of a bin as parts of a job."""
        return [risk / width / self._weight for risk, width in zip(self._at_risk(), WIDTHS, strict=True)]

    def _at_risk(self) -> list[float]:
        whole, exposure = 0.0, []
        for at, width in enumerate(WIDTHS):
            whole += self._cover[at]
            exposure.append(max(self._exposure[at] + max(whole, 0.0) * width, 0.0))
        return exposure

    def _rescale(self) -> None:
        factor = 1 / self._weight
        for values in (self._events, self._exposure, self._cover):
            values[:] = [value * factor for value in values]
        self._weight = 1.0

    def dump(self) -> list[Any]:
        """As plain values."""
        return [self.count, self.since, self.polls_since, self._weight, self._events, self._exposure, self._cover]

    def load(self, values: Sequence[Any]) -> None:
        """Takes back what `dump` gave. Raises ValueError for anything else."""
        count, since, polls_since, weight, *lists = values
        try:
            numbers = [float(number) for number in (count, since, polls_since, weight)]
            lists = [[float(value) for value in each] for each in lists]
        except OverflowError as error:
            raise ValueError("what was learned has to be finite numbers") from error
        if [len(each) for each in lists] != [BINS, BINS, BINS + 1]:
            raise ValueError("these are not the bins of this version")
        if not all(map(math.isfinite, (*numbers, *lists[0], *lists[1], *lists[2]))):
            raise ValueError("what was learned has to be finite numbers")
        if min(numbers) < 0 or min(lists[0]) < 0 or min(lists[1]) < 0:
            raise ValueError("counts and times at risk are not negative")
        if not 1 <= numbers[3] <= RESCALE_ABOVE or sum(lists[0]) > (MEMORY_EVENTS + 1) * numbers[3]:
            raise ValueError("no more events count than the memory holds")
        if max(map(abs, (*lists[1], *lists[2]))) > LARGEST * numbers[3]:
            raise ValueError("nobody can have looked for so long")
        self.count, self._weight = numbers[0], numbers[3]
        self.since, self.polls_since = int(numbers[1]), int(numbers[2])
        self._events, self._exposure, self._cover = lists
