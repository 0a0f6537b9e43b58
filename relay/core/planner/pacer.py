"""Paces an account's requests: budget, token bucket, and the price that balances demand with both."""

from __future__ import annotations

from collections.abc import Mapping

from relay.core.planner.budget.price import Price
from relay.core.planner.budget.rate_limit_headers import HeaderReader, LimitReading
from relay.core.planner.budget.request_budget import Budget
from relay.core.planner.budget.token_bucket import Bucket
from relay.core.planner.config import PlannerConfig
from relay.core.planner.forecast import Forecast
from relay.core.planner.poll_schedule import PollSchedule

BANKED_WINDOWS = 0.5
BACKLOG_COUNTED = 1_000
HEAD_START_REQUESTS = 8.0
"""Head start of an urgent poll over an expected one, in requests at the current rate."""
SAVED_SHARE = 0.65
"""Share of the bucket kept for bursts. Requests saved beyond it lower the price."""
SPENT_SHARE = 0.3
"""Below this share of the bucket the price may rise as fast as the rise can show."""


class Pacer:
    """Decides when the next request may be sent. Times are planner time, in seconds."""

    __slots__ = ("_forecast", "_headers", "_price", "_schedule", "_unit", "bucket", "budget", "closed_until")

    def __init__(self, config: PlannerConfig, schedule: PollSchedule, price: Price, forecast: Forecast) -> None:
        self._unit = config.unit_seconds
        self._headers = HeaderReader(config.headers)
        self._schedule = schedule
        self._price = price
        self._forecast = forecast
        self.budget = Budget(config)
        self.bucket = Bucket()
        self.closed_until: float | None = None
        """End of a requested pause or of an exhausted window; None if sending is allowed."""

    def refresh(self, now: float, open_jobs: int) -> None:
        """Updates rate, pause and price. Call it before each decision."""
        budget, bucket, queues = self.budget, self.bucket, self._schedule.queues
        bucket.set_rate(budget.rate(now), BANKED_WINDOWS * budget.window_seconds(), now)
        queues.head_start_seconds = HEAD_START_REQUESTS / bucket.rate
        closed = budget.closed_until(now)
        if closed is None and self.closed_until is not None:
            bucket.drain(now)
        self.closed_until = closed
        if self._price.due(now):
            overdue = queues.overdue(now - self._unit, BACKLOG_COUNTED)
            overdue_checks = queues.overdue_checks(now - self._unit, BACKLOG_COUNTED)
            saved, capacity = bucket.saved(now), bucket.capacity()
            self._price.step(
                now,
                demand=self._schedule.demand,
                backlog=overdue + overdue_checks - max(saved - SAVED_SHARE * capacity, 0.0),
                open_jobs=open_jobs,
                # Overdue checks have no expected event: a higher price would only postpone them further.
                at_risk=self._schedule.at_risk if saved < SPENT_SHARE * capacity and not overdue_checks else None,
                rate=bucket.rate * self._unit,
                polls=self._forecast.polls(),
            )

    def opens_at(self) -> float:
        """Earliest time of the next request."""
        return self.bucket.opens_at() if self.closed_until is None else self.closed_until

    def take(self, now: float) -> bool:
        """Takes a request of the budget. Returns False if none is allowed now."""
        if self.closed_until is not None or not self.bucket.take(now):
            return False
        self.budget.sent()
        return True

    def borrow(self, now: float) -> None:
        """Counts a request that a caller sends in place of a poll."""
        self.bucket.charge(now)
        self.budget.sent()

    def answered(
        self, headers: Mapping[str, str], *, ours: bool, sent_at: float, now: float, clock: float
    ) -> LimitReading:
        """Reads the rate-limit headers of a response. `ours`: to a request that was taken or borrowed."""
        reading = self._headers.read(headers, clock)
        self.budget.answered(reading, ours=ours, sent_at=sent_at, now=now)
        return reading
