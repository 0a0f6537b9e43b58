"""Learned hazards: the event rate at each age, given that the event has not happened yet.

Piecewise constant on bins that widen with age. In each bin the hazard is events over time at risk (the
occurrence/exposure rate, the maximum-likelihood estimate under censoring: Andersen, Borgan, Gill and Keiding,
Statistical Models Based on Counting Processes, 1993). A poll that finds nothing therefore counts too, as time at risk.
Ages are in units of `PlannerStatistics.unit`.
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
"""Bin edges: quarters up to 1, then each 1.1 times the last, up to 1e5."""
BINS = len(EDGES) - 1
WIDTHS: tuple[float, ...] = tuple(b - a for a, b in pairwise(EDGES))
MEMORY_EVENTS = 800
"""Exponential forgetting: an event this many events old has weight 1/e."""
GROWTH = 1 / (1 - 1 / MEMORY_EVENTS)
RESCALE_ABOVE = 1e100
LARGEST = 1e30
"""Upper bound of a stored time at risk: larger values could overflow sums."""
PSEUDO_JOBS = 3.0
TRACE = 1e-6
"""Pseudo-jobs that survive every bin, so that the prior counts even where it leaves none alive."""
MAX_PASSES = 12
PASSES_EVENTS = 40.0
EXPLORATION = 12.0
"""Maximum exploration, as a multiple of the prior, at ages that no job has passed."""
EXPLORATION_EVENTS = 30.0
"""Number of events at which exploration is half its maximum: the first jobs teach enough without it."""
EXPLORED_JOBS = 4.0
"""Exploration falls by a factor of e per this many jobs that passed an age."""
LEAST_RATE = 1e-12
MOST_RATE = 1e6


def bin_of(age: float) -> int:
    """Index of the bin of an age; the last bin for ages beyond. Uses comparisons: a logarithm errs near an edge."""
    if age < 1.0:
        return int(age * 4) if age > 0 else 0
    return min(bisect_right(EDGES, age), BINS) - 1


def lomax(scale: float) -> tuple[float, ...]:
    """Hazard of a Lomax distribution of shape 1, per bin: a prior that knows only the order of magnitude."""
    return tuple(
        (1 / (scale + a) - 1 / (scale + b)) * scale / (scale * math.log((scale + b) / (scale + a)))
        for a, b in pairwise(EDGES)
    )


def exploration(prior: Sequence[float], passed: Sequence[float], count: float) -> tuple[float, ...]:
    """Lower bound of a hazard while requests are cheap, per bin: above the prior at ages that few jobs have passed.

    Optimism under uncertainty (Auer, Cesa-Bianchi and Fischer, Finite-time Analysis of the Multiarmed Bandit Problem,
    2002): what the first jobs at an age show serves all later jobs, so polling them is worth more than their own delay.
    `passed` is `Hazard.passed()`, `count` is `Hazard.count`.
    """
    most = EXPLORATION * count / (count + EXPLORATION_EVENTS)
    return tuple(most * before * math.exp(-jobs / EXPLORED_JOBS) for before, jobs in zip(prior, passed, strict=True))


def _pseudo(prior: Sequence[float], jobs: float) -> tuple[list[float], list[float]]:
    """Events and time at risk of this number of pseudo-jobs under `prior`, per bin."""
    events, exposure = [], []
    alive = jobs
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
    """Events of one kind and their time at risk, with exponential forgetting per event. Ages are in units."""

    __slots__ = ("_cover", "_events", "_exposure", "_weight", "count", "polls_since", "since")

    def __init__(self) -> None:
        self.count = 0.0
        """Number of events, without forgetting."""
        self.since = 0
        """Events since the last call of `rates`."""
        self.polls_since = 0
        self._weight = 1.0
        self._events = [0.0] * BINS
        self._exposure = [0.0] * BINS
        """Time at risk in partly passed bins."""
        self._cover = [0.0] * (BINS + 1)
        """Difference array of whole bins at risk: +weight at the first, -weight after the last."""

    @property
    def effective_count(self) -> float:
        """Number of events within the memory."""
        return min(self.count, float(MEMORY_EVENTS))

    def record_survival(self, since: float, age: float) -> None:
        """Records time at risk without an event, between two ages."""
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
        """Records an event at `age` that had not happened at `since`."""
        self._weight *= GROWTH
        if self._weight > RESCALE_ABOVE:
            self._rescale()
        self.record_survival(since, age)
        self._events[bin_of(age)] += self._weight
        self.count += 1
        self.since += 1

    def record_event_between(self, since: float, age: float, rates: Sequence[float]) -> None:
        """Records an event at an unknown age in between, spread in proportion to `rates` (the E step of EM)."""
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
            # Time at risk: half the bin for events in it, the whole bin for later ones.
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
        """The smoothed hazard per bin for a new policy, always above 0, with `prior` as pseudo-jobs."""
        self.since = self.polls_since = 0
        return self.estimate(prior, PSEUDO_JOBS)

    def estimate(self, prior: Sequence[float], pseudo_jobs: float) -> tuple[float, ...]:
        """The smoothed hazard per bin, always above 0, with `pseudo_jobs` jobs that follow `prior`."""
        passes = 1
        if self.count > 0:
            passes = max(1, min(MAX_PASSES, round(PASSES_EVENTS / math.sqrt(self.effective_count))))
        prior_events, prior_exposure = _pseudo(prior, pseudo_jobs)
        events = _smooth(self._events, passes)
        exposure = _smooth(self._at_risk(), passes)
        weight = self._weight
        return tuple(
            min(max((seen / weight + seen0) / (risk / weight + risk0), LEAST_RATE), MOST_RATE)
            for seen, seen0, risk, risk0 in zip(events, prior_events, exposure, prior_exposure, strict=True)
        )

    def passed(self) -> list[float]:
        """Number of jobs at risk per bin, within the memory; part of a bin counts as part of a job."""
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
        """The state as JSON values."""
        return [self.count, self.since, self.polls_since, self._weight, self._events, self._exposure, self._cover]

    def load(self, values: Sequence[Any]) -> None:
        """Loads the values of `dump`. Raises ValueError or TypeError for others."""
        count, since, polls_since, weight, *lists = values
        try:
            numbers = [float(number) for number in (count, since, polls_since, weight)]
            lists = [[float(value) for value in each] for each in lists]
        except OverflowError as error:
            raise ValueError("statistics must be finite numbers") from error
        if [len(each) for each in lists] != [BINS, BINS, BINS + 1]:
            raise ValueError("the bins of another version")
        if not all(map(math.isfinite, (*numbers, *lists[0], *lists[1], *lists[2]))):
            raise ValueError("statistics must be finite numbers")
        if min(numbers) < 0 or min(lists[0]) < 0 or min(lists[1]) < 0:
            raise ValueError("counts and times at risk must not be negative")
        if not 1 <= numbers[3] <= RESCALE_ABOVE or sum(lists[0]) > (MEMORY_EVENTS + 1) * numbers[3]:
            raise ValueError("more events than the memory holds")
        if max(map(abs, (*lists[1], *lists[2]))) > LARGEST * numbers[3]:
            raise ValueError("the time at risk is too large")
        self.count, self._weight = numbers[0], numbers[3]
        self.since, self.polls_since = int(numbers[1]), int(numbers[2])
        self._events, self._exposure, self._cover = lists
