"""The times that jobs of a class take from their first start to their end, drawn from what polls have taught: runs,
retries and the pauses before them. Pure, in seconds.
"""

from __future__ import annotations

import json
import math
import operator
from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate
from random import Random

from relay.core.planner.hazard import BINS, EDGES, PSEUDO_JOBS, WIDTHS
from relay.core.planner.inspection import RETRY, RUN
from relay.core.planner.statistics import (
    ALL_CLASSES,
    LEARNED_EVENTS,
    MAX_ATTEMPTS,
    PRIORS,
    ClassStatistics,
    PlannerStatistics,
    class_name,
)

DURATIONS = 512
ROOT_PSEUDO_JOBS = 0.05
LARGEST = EDGES[-1]
PAUSE_UNITS = 60.0
"""Pause before a retry if none has been seen."""
_GOLDEN = (math.sqrt(5) - 1) / 2


@lru_cache(maxsize=256)
def durations_from(all_classes: str, own: str, action: str, channel: str) -> tuple[float, ...] | None:
    """Sorted durations of jobs of an action and a channel, from the stored statistics of all classes of a source and of
    this one; "": none are stored. None if too few runs have been seen."""
    statistics = PlannerStatistics(_unit(all_classes))
    statistics.load_row(ALL_CLASSES, all_classes)
    statistics.load_row(class_name(action, channel), own)
    job_class = statistics.of_class(action, channel)
    if not any(each is not None and _is_learned(each) for each in (job_class, job_class.parent)):
        return None
    return durations(job_class, statistics.unit)


def durations(job_class: ClassStatistics, unit: float) -> tuple[float, ...]:
    """DURATIONS sorted durations. First runs and numbers of attempts are evenly spread, so that few draws represent
    them well."""
    rng, parent = Random(0), None if job_class.parent is None else job_class.parent.retries  # noqa: S311
    run, retry = _Hazard(job_class, RUN), _Hazard(job_class, RETRY)
    attempts = range(1, MAX_ATTEMPTS + 1)
    chances = list(accumulate((job_class.retries.chance(attempt, parent) for attempt in attempts), operator.mul))
    pauses = [job_class.retries.pauses(attempt, parent) or (PAUSE_UNITS,) for attempt in attempts]
    found = []
    for number in range(DURATIONS):
        passed = run.age(-math.log1p(-(number + 0.5) / DURATIONS))
        retries = sum((number + 0.5) * _GOLDEN % 1.0 < chance for chance in chances)
        for seen in pauses[:retries]:
            passed += rng.choice(seen) + retry.age(rng.expovariate(1.0)) + run.age(rng.expovariate(1.0))
        found.append(passed * unit)
    return tuple(sorted(found))


class _Hazard:
    """The hazard of one kind of change. Less prior than polls use: its tail would dominate the sum over a lane's
    jobs."""

    def __init__(self, job_class: ClassStatistics, kind: int) -> None:
        self._rates = _rates(job_class, kind)
        growth = (rate * width for rate, width in zip(self._rates, WIDTHS, strict=True))
        self._cumulative = list(accumulate(growth, initial=0.0))

    def age(self, hazard: float) -> float:
        """The age at which the cumulative hazard has grown to `hazard`, in units."""
        at = min(bisect_right(self._cumulative, hazard), BINS) - 1
        return min(EDGES[at] + (hazard - self._cumulative[at]) / self._rates[at], LARGEST)


def _rates(job_class: ClassStatistics, kind: int) -> tuple[float, ...]:
    hazard, parent = job_class.hazards[kind], job_class.parent
    before = PRIORS[kind] if parent is None else _rates(parent, kind)
    return before if hazard is None else hazard.estimate(before, PSEUDO_JOBS if parent else ROOT_PSEUDO_JOBS)


def _unit(values: str) -> float:
    """The unit of stored statistics; 1 if there is none to be read."""
    try:
        unit = float(json.loads(values)["unit"])
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return 1.0
    return unit if 0 < unit < math.inf else 1.0


def _is_learned(job_class: ClassStatistics) -> bool:
    """True if enough runs have been seen for the durations to be meaningful."""
    hazard = job_class.hazards[RUN]
    return hazard is not None and hazard.count >= LEARNED_EVENTS
