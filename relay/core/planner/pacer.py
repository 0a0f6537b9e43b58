"""Paces an account's requests: budget, token bucket, and the price that balances demand with both."""

from __future__ import annotations

from collections.abc import Mapping

from relay.core.planner.budget.price import Price
from relay.core.planner.budget.rate_limit_headers import HeaderReader, LimitReading
from relay.core.planner.budget.request_budget import Budget
from relay.core.planner.config import PlannerConfig
from relay.core.planner.forecast import Forecast
from relay.core.planner.poll_schedule import PollSchedule
from relay.core.planner.timeline import SLACK_SECONDS

MIN_RATE_PER_SECOND = 1e-6
MAX_RATE_PER_SECOND = 1e6


class Bucket:
    """A token bucket, the generic cell rate algorithm of ITU-T I.371. Starts empty. Times are seconds.

    It allows at most `rate * (window + bank_seconds) + 1` requests in any window. Its state is one time, the
    theoretical arrival time: the earliest time of the next request.
    """

    __slots__ = ("_arrival", "_bank_seconds", "_rate")

    def __init__(self) -> None:
        self._rate = 0.0
        self._bank_seconds = 0.0
        self._arrival = 0.0

    @property
    def rate(self) -> float:
        """Requests per second; 0 before the first `set_rate`."""
        return self._rate

    def set_rate(self, rate: float, bank_seconds: float, now: float) -> None:
        """Allows `rate` requests per second and saves at most `bank_seconds` of them. Saved requests are kept.

        The first call opens the bucket empty, so nothing bursts after downtime.
        """
        rate = min(max(rate, MIN_RATE_PER_SECOND), MAX_RATE_PER_SECOND)
        if self._rate == 0:
            self._arrival = now + 1 / rate
        elif rate != self._rate:
            # Keeps the number of saved or missing tokens, not the time they represented at the old rate.
            missing = max(self._arrival - now, -self._bank_seconds)
            self._arrival = now + missing * self._rate / rate
        self._rate = rate
        self._bank_seconds = bank_seconds

    def opens_at(self) -> float:
        """Earliest time of the next request; a time in the past means now."""
        return self._arrival

    def capacity(self) -> float:
        """Maximum number of saved requests."""
        return self._bank_seconds * self._rate

    def saved(self, now: float) -> float:
        """Requests that can be sent at once."""
        return max(min(now - self._arrival, self._bank_seconds), 0.0) * self._rate

    def full_at(self) -> float:
        """When the bucket is full. A request not sent by then is lost."""
        return self._arrival + self._bank_seconds

    def take(self, now: float) -> bool:
        """Takes one request. Returns False if none is allowed now."""
        if self._rate == 0 or self._arrival > now + SLACK_SECONDS:
            return False
        self._arrival = max(self._arrival, now - self._bank_seconds) + 1 / self._rate
        return True

    def charge(self, now: float) -> None:
        """Charges a request sent without `take`. Delays the next ones by at most the time needed to fill the bucket."""
        arrival = max(self._arrival, now - self._bank_seconds) + 1 / self._rate
        self._arrival = max(self._arrival, min(arrival, now + self._bank_seconds))

    def drain(self, now: float) -> None:
        """Drops the saved requests, so that nothing bursts after a pause."""
        self._arrival = max(self._arrival, now)


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

    def configure(self, config: PlannerConfig) -> None:
        """Applies other settings. Saved requests and what is known of the limits are kept."""
        self._unit = config.unit_seconds
        self._headers = HeaderReader(config.headers)
        self.budget.configure(config)

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
