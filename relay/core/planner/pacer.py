"""Paces an account's requests: budget, token bucket, and the price that balances demand with both."""

from __future__ import annotations

from collections.abc import Mapping

from relay.core.planner.budget import Budget, LimitReading, read_limits
from relay.core.planner.config import SLACK_SECONDS, PlannerConfig
from relay.core.planner.forecast import Forecast
from relay.core.planner.poll_queues import CHECK, LIKELY_QUEUES
from relay.core.planner.poll_schedule import PollSchedule
from relay.core.planner.price import Price

MIN_RATE_PER_SECOND = 1e-6
MAX_RATE_PER_SECOND = 1e6


class Bucket:
    """A token bucket, the generic cell rate algorithm of ITU-T I.371. Starts empty. Times are seconds.

    It allows at most `rate * (window + bank_seconds) + 1` requests in any window. Its state is one time, the
    theoretical arrival time: the earliest time of the next request.
    """

    __slots__ = ("bank_seconds", "opens_at", "rate")

    def __init__(self) -> None:
        self.rate = 0.0
        """Requests per second; 0 before the first `set_rate`."""
        self.bank_seconds = 0.0
        """Maximum saved requests, in seconds of the rate."""
        self.opens_at = 0.0
        """Earliest time of the next request; a time in the past means now."""

    def set_rate(self, rate: float, bank_seconds: float, now: float) -> None:
        """Allows `rate` requests per second and saves at most `bank_seconds` of them. Saved requests are kept.

        The first call opens the bucket empty, so nothing bursts after downtime.
        """
        rate = min(max(rate, MIN_RATE_PER_SECOND), MAX_RATE_PER_SECOND)
        if self.rate == 0:
            self.opens_at = now + 1 / rate
        elif rate != self.rate:
            # Keeps the number of saved or missing tokens, not the time they represented at the old rate.
            missing = max(self.opens_at - now, -self.bank_seconds)
            self.opens_at = now + missing * self.rate / rate
        self.rate = rate
        self.bank_seconds = bank_seconds

    def saved(self, now: float) -> float:
        """Requests that can be sent at once."""
        return max(min(now - self.opens_at, self.bank_seconds), 0.0) * self.rate

    def full_at(self) -> float:
        """The time at which the bucket is full. A request not sent by then is lost."""
        return self.opens_at + self.bank_seconds

    def take(self, now: float) -> bool:
        """Takes one request. Returns False if none is allowed now."""
        if self.rate == 0 or self.opens_at > now + SLACK_SECONDS:
            return False
        self.opens_at = max(self.opens_at, now - self.bank_seconds) + 1 / self.rate
        return True

    def refund(self) -> None:
        """Gives a request back."""
        if self.rate:
            self.opens_at -= 1 / self.rate

    def charge(self, now: float) -> None:
        """Charges a request sent without `take`. Delays the next ones by at most the time needed to fill the bucket."""
        arrival = max(self.opens_at, now - self.bank_seconds) + 1 / self.rate
        self.opens_at = max(self.opens_at, min(arrival, now + self.bank_seconds))

    def drain(self, now: float) -> None:
        """Drops the saved requests, so that nothing bursts after a pause."""
        self.opens_at = max(self.opens_at, now)


BACKLOG_COUNTED = 1_000
HEAD_START_REQUESTS = 8.0
"""Head start of an urgent poll over an expected one, in requests at the current rate."""
SAVED_SHARE = 0.65
"""Share of the bucket kept for bursts. Requests saved beyond it lower the price."""
SPENT_SHARE = 0.3
"""Below this share of the bucket the price may rise as fast as the rise can show."""


class Pacer:
    """Decides when the next request may be sent. Times are planner time, in seconds."""

    __slots__ = ("_forecast", "_names", "_price", "_schedule", "_unit", "bucket", "budget", "closed_until")

    def __init__(self, config: PlannerConfig, schedule: PollSchedule, price: Price, forecast: Forecast) -> None:
        self._unit = config.unit_seconds
        self._names = config.headers.meanings
        self._schedule = schedule
        self._price = price
        self._forecast = forecast
        self.budget = Budget(config)
        self.bucket = Bucket()
        self.closed_until: float | None = None
        """End of a requested pause or of an exhausted window; None if sending is allowed."""

    def configure(self, config: PlannerConfig) -> None:
        """Applies other settings. Saved requests and what is known of the limits are kept."""
        self._unit = config.unit_seconds
        self._names = config.headers.meanings
        self.budget.configure(config)

    def refresh(self, now: float, open_jobs: int) -> None:
        """Updates rate, pause and price. Call it before each decision."""
        budget, bucket, queues = self.budget, self.bucket, self._schedule.queues
        bucket.set_rate(budget.rate(now), budget.banked_windows() * budget.window_seconds(), now)
        queues.head_start_seconds = HEAD_START_REQUESTS / bucket.rate
        closed = budget.closed_until(now)
        if closed is None and self.closed_until is not None:
            bucket.drain(now)
        self.closed_until = closed
        if self._price.due(now):
            overdue = queues.due(now - self._unit, BACKLOG_COUNTED, LIKELY_QUEUES)
            overdue_checks = queues.due(now - self._unit - queues.late_seconds, BACKLOG_COUNTED, (CHECK,))
            saved, capacity = bucket.saved(now), bucket.bank_seconds * bucket.rate
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
        return self.bucket.opens_at if self.closed_until is None else self.closed_until

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
        reading = read_limits(headers, self._names, clock)
        self.budget.answered(reading, ours=ours, sent_at=sent_at, now=now)
        return reading
