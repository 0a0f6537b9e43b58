"""What polls of a job are weighed against: how likely its next change is, and the delay that waiting for it costs.

For people who ask why a job is not polled earlier. Plans do not read it: they follow the tables of `inspection.py`,
which weigh the same hazards with the same price.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

from relay.core.planner.learning.hazard import bin_of

POINTS = 48
AHEAD = 1.5
"""How far it goes beyond the next poll, as a multiple of the time until then."""
LEAST_UNITS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlookPoint:
    """One time, in epoch seconds.

    hazard_per_second       rate of the change at this time, if it has not happened before
    expected_delay_seconds  mean time that the job has ended for by then without being polled since the last poll
    """

    at: float
    hazard_per_second: float
    expected_delay_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """A job's next change. `price_seconds`: seconds of delay that a poll of this job must save."""

    change: Literal["start", "end"]
    price_seconds: float
    points: tuple[OutlookPoint, ...]


def outlook(
    *,
    seen: float,
    anchor: float,
    due: float,
    unit: float,
    price_seconds: float,
    run_rates: Sequence[float],
    start_rates: Sequence[float] | None,
) -> Outlook:
    """The outlook of a job that was last polled at `seen`. Times are epoch seconds, rates are per unit and bin.

    anchor       when the run began; of a waiting job, when it can start at the earliest
    start_rates  hazard of the start of a waiting job; None if it runs
    """
    until = seen + max(AHEAD * (max(due, anchor) - seen), LEAST_UNITS * unit)
    step = (until - seen) / (POINTS - 1)
    times = [seen + step * index for index in range(POINTS)]
    rates = run_rates if start_rates is None else start_rates
    hazards = [rates[bin_of((time - anchor) / unit)] / unit if time >= anchor else 0.0 for time in times]
    happened = _happened(hazards, step)
    if start_rates is None:
        ended = happened
    else:
        runs = _happened([run_rates[bin_of((time - seen) / unit)] / unit for time in times], step)
        starts = [b - a for a, b in pairwise([0.0, *happened])]
        ended = [sum(starts[at] * runs[now - at] for at in range(now + 1)) for now in range(POINTS)]
    delays = [0.0, *accumulate(step * (a + b) / 2 for a, b in pairwise(ended))]
    points = tuple(
        OutlookPoint(at=time, hazard_per_second=hazard, expected_delay_seconds=delay)
        for time, hazard, delay in zip(times, hazards, delays, strict=True)
    )
    return Outlook(change="end" if start_rates is None else "start", price_seconds=price_seconds, points=points)


def _happened(hazards: Sequence[float], step: float) -> list[float]:
    """The probability at each time that it has happened since the first."""
    grown = [0.0, *accumulate(step * (a + b) / 2 for a, b in pairwise(hazards))]
    return [-math.expm1(-each) for each in grown]
