"""The allowed request rate of an account, derived from rate-limit headers.

The upstream counts requests in windows, per API key and per account; other programs share both counts. A `Meter`
follows one count. An `AimdRate` finds a rate by trial if no count is reported. The `Budget` is the lowest of them, and
pauses after a 429 (`Budget.rejected`).
"""

import math

from relay.core.deliveries.retry import MAX_RETRY_AFTER_SECONDS
from relay.core.planner.budget.limit_meter import DEFAULT_WINDOW_SECONDS, Meter
from relay.core.planner.budget.rate_limit_headers import LimitReading
from relay.core.planner.config import PlannerConfig
from relay.core.planner.timeline import SLACK_SECONDS

STARTING_RATE_PER_SECOND = 5.0
STEP_RATE_PER_SECOND = 1.0
STEP_SECONDS = 10.0
CUT = 0.7
MAX_TRIAL_RATE_PER_SECOND = 1_000.0
MIN_TRIAL_RATE_PER_SECOND = 0.05
ERRORS_IN_A_ROW = 3
"""More consecutive server or network errors than this halve the rate, once per further error."""
MAX_HALVINGS = 10
SLOWEST_PROBE_SECONDS = 30.0


class AimdRate:
    """Additive increase, multiplicative decrease: the rate for an upstream without rate-limit headers."""

    __slots__ = ("cap", "rate", "sent", "since")

    def __init__(self, cap: float | None) -> None:
        self.cap = MAX_TRIAL_RATE_PER_SECOND if cap is None else cap
        self.rate = min(STARTING_RATE_PER_SECOND, self.cap) if cap is None else cap
        self.since: float | None = None
        self.sent = 0

    def at(self, now: float) -> float:
        """The rate at `now`, one step higher after every ten seconds without a 429."""
        if self.since is None:
            self.since = now
        elif now - self.since >= STEP_SECONDS:
            # An unused rate proves nothing. Without this an idle account would climb without limit, then burst.
            if self.sent >= self.rate * STEP_SECONDS / 2:
                self.rate = min(self.rate + STEP_RATE_PER_SECOND, self.cap)
            self.since, self.sent = now, 0
        return self.rate

    def restart_at(self, rate: float, now: float) -> None:
        """Starts again from a rate known until now."""
        self.rate = min(max(rate, MIN_TRIAL_RATE_PER_SECOND), self.cap)
        self.since, self.sent = now, 0

    def reject(self, until: float) -> None:
        """Lowers the rate after a 429. The next step counts from `until`."""
        self.rate = max(self.rate * CUT, min(MIN_TRIAL_RATE_PER_SECOND, self.cap))
        self.since, self.sent = until, 0


class Budget:
    """The request budget of one account. All times are planner time, in seconds."""

    __slots__ = ("_cap", "account", "aimd", "errors", "in_flight", "key", "paused_until")

    def __init__(self, config: PlannerConfig) -> None:
        self._cap = math.inf if config.max_requests_per_second is None else config.max_requests_per_second
        self.errors = 0
        """Consecutive server or network errors."""
        self.key = Meter(config.reserve)
        self.account = Meter(config.reserve)
        self.aimd = AimdRate(config.max_requests_per_second)
        self.in_flight = 0
        self.paused_until: float | None = None

    def configure(self, config: PlannerConfig) -> None:
        """Applies other settings. A rate found by trial is kept below a new cap."""
        cap = config.max_requests_per_second
        self._cap = math.inf if cap is None else cap
        self.key.reserve = self.account.reserve = config.reserve
        self.aimd.cap = MAX_TRIAL_RATE_PER_SECOND if cap is None else cap
        self.aimd.rate = min(self.aimd.rate, self.aimd.cap)

    def meters(self) -> list[Meter]:
        """The meters whose count the upstream reports."""
        return [meter for meter in (self.key, self.account) if meter.known]

    def window_seconds(self) -> float:
        """Length of the upstream's window in seconds; 60 if it is not reported."""
        return self.account.window_seconds if self.account.known else self.key.window_seconds

    def rate(self, now: float) -> float:
        """Allowed requests per second at `now`, always above 0. `closed_until` says when none are allowed."""
        rate = self._cap
        known = self.meters()
        for meter in known:
            meter.roll(now, self.in_flight)
            rate = min(rate, meter.rate)
        if not known:
            rate = self.aimd.at(now)
        if self.errors > ERRORS_IN_A_ROW:
            slow = rate * 0.5 ** min(self.errors - ERRORS_IN_A_ROW, MAX_HALVINGS)
            rate = max(slow, min(rate, 1 / SLOWEST_PROBE_SECONDS))
        return rate

    def closed_until(self, now: float) -> float | None:
        """When sending may resume after a requested pause or an exhausted window. None if sending is allowed."""
        ends = [meter.ends_at() for meter in self.meters() if meter.left() < 1]
        until = self.stopped_until(now)
        if until is not None:
            ends.append(until)
        return max(ends, default=None)

    def stopped_until(self, now: float) -> float | None:
        """End of the pause the upstream requested. None if there is none."""
        if self.paused_until is not None:
            if self.paused_until <= now + SLACK_SECONDS:
                self.paused_until = None
            else:
                self.paused_until = min(self.paused_until, now + MAX_RETRY_AFTER_SECONDS)
        return self.paused_until

    def changes_at(self) -> float:
        """When the next window ends, and the rate may rise."""
        return min((meter.ends_at() for meter in self.meters()), default=math.inf)

    def sent(self) -> None:
        """Counts a request being sent."""
        self.in_flight += 1
        self.aimd.sent += 1
        self.key.spend()
        self.account.spend()

    def dropped(self) -> None:
        """Stops waiting for the response of a request in flight."""
        self.in_flight -= 1

    def answered(self, reading: LimitReading, *, ours: bool, sent_at: float, now: float) -> None:
        """Reads the headers of any response. `ours`: `sent` counted its request."""
        self.in_flight -= ours
        known = bool(self.meters())
        before = self.rate(now)
        window, in_flight = reading.window_seconds, self.in_flight
        for meter, limit, remaining in (
            (self.key, reading.limit, reading.remaining),
            (self.account, reading.account_limit, reading.account_remaining),
        ):
            meter.read(limit, remaining, window, ours=ours, in_flight=in_flight, sent_at=sent_at, now=now)
        if known and not self.meters():
            self.aimd.restart_at(before, now)

    def succeeded(self) -> None:
        """Ends a series of errors."""
        self.errors = 0

    def erred(self) -> None:
        """Counts a server or network error."""
        self.errors += 1

    def rejected(self, reading: LimitReading, now: float) -> float:
        """Handles a 429. Nothing is sent before the returned time."""
        self.errors = 0
        if reading.retry_after_seconds is None:
            until = max((meter.ends_at() for meter in self.meters()), default=now + DEFAULT_WINDOW_SECONDS)
        else:
            until = now + reading.retry_after_seconds
            for meter in self.meters():
                if meter.remaining < 1:
                    meter.realign(until, now)
        already = self.stopped_until(now)
        if already is None:
            # 429s to requests sent before the pause are no further evidence.
            self.aimd.reject(until)
        self.paused_until = until if already is None else max(already, until)
        return self.paused_until
