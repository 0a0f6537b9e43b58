"""The state of a planner's account, and for a job the probability of its next change and the cost of waiting.

For people who ask why a job is not polled earlier. Plans do not read it: they follow the tables of `inspection.py`,
which weigh the same hazards with the same price.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

from relay.core.planner.hazard import bin_of

POINTS = 48
AHEAD = 1.5
"""Reach of the outlook beyond the next poll, as a multiple of the time until then."""
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


Reason = Literal[
    "in_flight", "paused_until", "budget", "due", "lane_parked", "before_anchor", "backing_off", "between_looks"
]
"""Reasons why a job is not polled now.

- `in_flight`: a poll is in flight
- `paused_until`: the poll is due, but the upstream asked for a pause
- `budget`: the poll is due, but the request budget is used up, or other jobs come first
- `due`: the poll is being sent
- `lane_parked`: the job cannot start before its predecessor in the lane
- `before_anchor`: nothing can change before the job's scheduled time, its start or its next attempt
- `backing_off`: recent polls failed
- `between_looks`: the job was polled a short while ago
"""


Purpose = Literal["first", "expected", "ahead", "safety", "asked", "again", "passed"]
"""Purpose of a poll.

- `first`: the job's state is not known yet
- `expected`: the plan expects a change
- `ahead`: a request in the budget would have expired unused, so a poll was made early
- `safety`: no change is expected, but the job may have been moved or cancelled
- `asked`: a refresh was requested, or a client waits
- `again`: the previous poll failed
- `passed`: a caller read the job through the relay
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PollExplanation:
    """The reason why a job is not polled now, and the time of its next poll. Times are epoch seconds.

    anchor_at               nothing can happen to the job before this time; None if unknown
    next_poll_at            planned time of the next poll; None while one is in flight
    not_before              earliest possible time of that poll: later than planned if the budget or a pause delays it
    waiting_for_job_id      the predecessor in the lane of a parked job
    step                    polls that found nothing new
    failures                consecutive failed polls
    expected_delay_seconds  mean time from the job's end to its detection; None if unknown
    outlook                 what the next poll was weighed against; None if no price decides it
    """

    reason: Reason
    anchor_at: float | None
    next_poll_at: float | None
    not_before: float | None
    waiting_for_job_id: str | None
    step: int
    failures: int
    expected_delay_seconds: float | None = None
    outlook: Outlook | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """State of an account at one time. Times are epoch seconds.

    due_jobs                    counted up to DUE_JOBS_COUNTED
    limit, remaining            requests of the scarcer count (key or account); None if not reported
    requests_per_second         rate we may send at
    others_requests_per_second  estimated rate of other programs
    paused_until                end of a pause the upstream requested, or None
    price_seconds               seconds of delay that one request must save
    expected_delay_seconds      mean time from a job's end to its detection; the next two with double and with half the
                                budget; None if unknown
    """

    open_jobs: int
    due_jobs: int
    in_flight: int
    limit: float | None
    remaining: float | None
    window_seconds: float
    requests_per_second: float
    others_requests_per_second: float
    paused_until: float | None
    price_seconds: float = 0.0
    expected_delay_seconds: float | None = None
    expected_delay_at_double_seconds: float | None = None
    expected_delay_at_half_seconds: float | None = None


DUE_JOBS_COUNTED = 10_000
"""Limits counting to a few milliseconds."""
