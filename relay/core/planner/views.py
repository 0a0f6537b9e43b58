"""What a planner tells about itself."""

from dataclasses import dataclass
from typing import Literal

Reason = Literal[
    "in_flight", "paused_until", "budget", "due", "lane_parked", "before_anchor", "backing_off", "between_looks"
]
"""Why a job is not looked at right now.

- `in_flight`: a request for it is out
- `paused_until`: it is due, but the upstream asked for a stop
- `budget`: it is due, but the request budget is spent for the moment, or others are due before it
- `due`: it is looked at now
- `lane_parked`: it can not start before its predecessor in the lane has
- `before_anchor`: nothing can happen to it before its anchor
- `backing_off`: looks at it failed
- `between_looks`: it was looked at a short while ago
"""


Purpose = Literal["first", "expected", "ahead", "safety", "asked", "again", "passed"]
"""What a look is for.

- `first`: nothing is known of the job yet
- `expected`: its time has come by the plan
- `ahead`: a request of the budget would have been lost, so it was spent before its time
- `safety`: nothing is expected; it may have been moved or cancelled
- `asked`: somebody asked for it, or a client waits
- `again`: the look before failed
- `passed`: a caller's own read, which came through the relay
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a job is not looked at right now, and when it will be. Times are epoch seconds.

    `anchor_at` is the moment before which nothing can happen to the job, None while that is not known;
    `next_poll_at` when its next look is planned, None while one is under way; `not_before` the earliest moment at which
    that look can go out as things stand: later than planned where the budget or a stop delays it.
    `waiting_for_job_id` is the predecessor in its lane that a parked job waits for. `step` counts the looks that
    found nothing new, `failures` the looks in a row that failed. `expected_delay_seconds` is how long after its end the
    job's end will be known on average, None where that can not be said.
    """

    reason: Reason
    anchor_at: float | None
    next_poll_at: float | None
    not_before: float | None
    waiting_for_job_id: str | None
    step: int
    failures: int
    expected_delay_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """An account's budget and its jobs at one moment. Times are epoch seconds.

    `limit` and `remaining` are requests of the scarcer of the key's and the account's count, None where the upstream
    does not tell; `requests_per_second` is what we may send, `others_requests_per_second` what others seem to.
    `due_jobs` is counted up to DUE_JOBS_COUNTED. `paused_until` is None where the upstream asked for no stop.
    `price_seconds` is how many seconds of delay one request has to save. `expected_delay_seconds` is the mean time from
    a job's end to the look that sees it, as things stand; the two after it with double and with half the budget. None
    where there is nothing to judge by.
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
"""Counting goes through all due jobs: a limit keeps it below a few milliseconds."""
