"""Read-only views of a planner: why a job is not polled now, and the state of the account."""

from dataclasses import dataclass
from typing import Literal

from relay.core.planner.outlook import Outlook

Reason = Literal[
    "in_flight", "paused_until", "budget", "due", "lane_parked", "before_anchor", "backing_off", "between_looks"
]
"""Why a job is not polled now.

- `in_flight`: a request for it is in flight
- `paused_until`: it is due, but the upstream requested a pause
- `budget`: it is due, but the request budget is spent for now, or others are due before it
- `due`: it is polled now
- `lane_parked`: it cannot start before its predecessor in the lane
- `before_anchor`: nothing can happen to it before its anchor
- `backing_off`: its last poll failed
- `between_looks`: it was polled a short while ago
"""


Purpose = Literal["first", "expected", "ahead", "safety", "asked", "again", "passed"]
"""Purpose of a poll.

- `first`: nothing is known of the job yet
- `expected`: it is due by the plan
- `ahead`: sent early, because the request would otherwise be lost
- `safety`: nothing is expected; finds out whether the job was rescheduled or cancelled
- `asked`: requested by a user or a waiting client
- `again`: the last poll failed
- `passed`: a caller's own read, forwarded by the relay
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PollExplanation:
    """Why a job is not polled now, and when it will be. Times are epoch seconds.

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
