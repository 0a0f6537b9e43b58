"""Random times of a job class, drawn from what polls have taught: waits, runs, retries, and whole jobs.

Pure: the generator is passed in. Times are in seconds.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from random import Random

from relay.core.planner.learning.hazard import BINS, EDGES, PSEUDO_JOBS, WIDTHS, bin_of
from relay.core.planner.learning.policy import KINDS, RETRY, RUN, SCHEDULED
from relay.core.planner.learning.retries import MAX_ATTEMPTS, PSEUDO_ATTEMPTS
from relay.core.planner.learning.statistics import (
    ALL_CLASSES,
    LEARNED_EVENTS,
    PRIORS,
    ClassStatistics,
    PlannerStatistics,
)

DURATIONS = 512
"""Number of whole jobs drawn beforehand."""
ROOT_PSEUDO_JOBS = 0.05
LARGEST = EDGES[-1]
LEAST_RETRIES = 5
PATIENCE_UNITS = 10.0
"""A job that has waited for longer is held up by something that is not known."""
PAUSE_UNITS = 60.0
"""Pause before a retry if none has been seen."""
_GOLDEN = (math.sqrt(5) - 1) / 2


class JobTimes:
    """What is known of a class at one time. `durations`: sorted times from a job's first start to its end."""

    __slots__ = (
        *("_change_rate", "_change_share", "_chances", "_cumulative", "_pauses", "_rates", "_start_kind", "_unit"),
        *("durations", "job_count"),
    )

    def __init__(self, job_class: ClassStatistics, unit: float) -> None:
        self._unit = unit
        self._rates = [_rates(job_class, kind) for kind in range(len(KINDS))]
        self._cumulative = [_cumulated(rates) for rates in self._rates]
        parent = None if job_class.parent is None else job_class.parent.retries
        attempts = range(1, MAX_ATTEMPTS + 1)
        self._chances = [job_class.retries.chance(attempt, parent) for attempt in attempts]
        self._pauses = [job_class.retries.pauses(attempt, parent) or (PAUSE_UNITS,) for attempt in attempts]
        self._change_rate = job_class.change_rate / unit
        self._change_share = (job_class.changes + 1) / (job_class.changes + job_class.retries.ended_count + 2)
        root = job_class if job_class.parent is None else job_class.parent
        retry = root.hazards[RETRY]
        self._start_kind = RETRY if retry is not None and retry.count >= LEAST_RETRIES else SCHEDULED
        self.job_count = job_class.retries.ended_count + PSEUDO_ATTEMPTS
        """Number of jobs that `durations` is known from."""
        self.durations = self._whole_jobs()

    def wait(self, waited: float, rng: Random) -> float:
        """Time from the moment a job may start to its start, of one that has waited for `waited` already.

        Retries show it best: what a scheduled job waits for can be its lane, and then a long wait is likely to last.
        """
        kind = SCHEDULED if waited > PATIENCE_UNITS * self._unit else self._start_kind
        return self._draw(kind, waited / self._unit, rng.expovariate(1.0)) * self._unit

    def end(self, attempt: int, age: float, rng: Random) -> float:
        """Time from the start of an attempt to the end of its job, of an attempt that has run for `age` already."""
        last = self._attempts(attempt, rng.random())
        return self._end(attempt, last, age / self._unit, rng.expovariate(1.0), rng) * self._unit

    def cancelled(self, waits: float) -> float:
        """Probability that a job is cancelled while it waits for so long; at most the share of jobs that were."""
        return min(-math.expm1(-self._change_rate * waits), self._change_share)

    def _attempts(self, attempt: int, place: float) -> int:
        """The last attempt of a job that is at this one. `place`: in the distribution, 0 to 1."""
        left = 1.0
        while attempt < MAX_ATTEMPTS:
            left *= self._chances[attempt - 1]
            if place >= left:
                break
            attempt += 1
        return attempt

    def _end(self, attempt: int, last: int, age: float, hazard: float, rng: Random) -> float:
        """The time, in units, from the start of an attempt to the end of the last one."""
        passed = self._draw(RUN, age, hazard)
        for each in range(attempt, last):
            passed += rng.choice(self._pauses[each - 1])
            passed += self._draw(RETRY, 0.0, rng.expovariate(1.0)) + self._draw(RUN, 0.0, rng.expovariate(1.0))
        return passed

    def _whole_jobs(self) -> list[float]:
        """First runs and numbers of attempts are evenly spread, so that few draws represent them well."""
        rng = Random(0)  # noqa: S311  (reproducible, not a secret)
        found = []
        for number in range(DURATIONS):
            place = (number + 0.5) / DURATIONS
            last = self._attempts(1, (number + 0.5) * _GOLDEN % 1.0)
            found.append(self._end(1, last, 0.0, -math.log1p(-place), rng) * self._unit)
        return sorted(found)

    def _draw(self, kind: int, age: float, hazard: float) -> float:
        """The age at which the cumulative hazard has grown by `hazard` since an age."""
        cumulative, rates = self._cumulative[kind], self._rates[kind]
        if age >= LARGEST:
            return age + min(hazard / rates[-1], LARGEST)
        at = bin_of(age)
        target = cumulative[at] + (age - EDGES[at]) * rates[at] + hazard
        at = min(bisect_right(cumulative, target), BINS) - 1
        return min(EDGES[at] + (target - cumulative[at]) / rates[at], LARGEST)


def _rates(job_class: ClassStatistics, kind: int) -> tuple[float, ...]:
    """The hazard of one kind. Less prior than polls use: its tail would dominate the sum over a lane's jobs."""
    hazard, parent = job_class.hazards[kind], job_class.parent
    before = PRIORS[kind] if parent is None else _rates(parent, kind)
    return before if hazard is None else hazard.estimate(before, PSEUDO_JOBS if parent else ROOT_PSEUDO_JOBS)


def _cumulated(rates: Sequence[float]) -> list[float]:
    """The cumulative hazard at each edge."""
    total, found = 0.0, [0.0]
    for rate, width in zip(rates, WIDTHS, strict=True):
        total += rate * width
        found.append(total)
    return found


def times_from(rows: Mapping[str, str], classes: Iterable[tuple[str, str]]) -> dict[tuple[str, str], JobTimes | None]:
    """The times of each class, from the stored statistics of a source by name. None if too few runs have been seen."""
    statistics = PlannerStatistics(_unit(rows.get(ALL_CLASSES, "")))
    for name in sorted(rows, key=lambda each: each != ALL_CLASSES):
        statistics.load_row(name, rows[name])
    found = {key: statistics.of_class(*key) for key in classes}
    return {
        key: JobTimes(job_class, statistics.unit) if _is_learned(job_class) else None
        for key, job_class in found.items()
    }


def _unit(values: str) -> float:
    """The unit of stored statistics; 1 if there is none to be read."""
    try:
        unit = float(json.loads(values)["unit"])
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return 1.0
    return unit if 0 < unit < math.inf else 1.0


def _is_learned(job_class: ClassStatistics) -> bool:
    """True if enough runs of the class, or of all classes, have been seen for their times to be meaningful."""
    return any(
        each is not None and (hazard := each.hazards[RUN]) is not None and hazard.count >= LEARNED_EVENTS
        for each in (job_class, job_class.parent)
    )
