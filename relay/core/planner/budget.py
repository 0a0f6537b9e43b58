"""How many requests a second an account may be sent, from what its responses tell.

The upstream counts requests in windows, of the API key and of the account behind it, and others use them too. A `Meter`
follows one such count; a `AimdRate` finds a rate where there is no count to follow; the `Budget` is the smaller of all.
"""

import math

from relay.core.planner.config import PlannerConfig
from relay.core.planner.headers import MAX_RETRY_AFTER_SECONDS, LimitReading
from relay.core.planner.meter import DEFAULT_WINDOW_SECONDS, Meter
from relay.core.planner.timeline import SLACK_SECONDS

STARTING_RATE_PER_SECOND = 5.0
STEP_RATE_PER_SECOND = 1.0
STEP_SECONDS = 10.0
CUT = 0.7
MAX_TRIAL_RATE_PER_SECOND = 1_000.0
MIN_TRIAL_RATE_PER_SECOND = 0.05
ERRORS_IN_A_ROW = 3
"""Server or network errors in a row, above which requests become slower: half as many for each further one."""
MAX_HALVINGS = 10
SLOWEST_PROBE_SECONDS = 30.0


class AimdRate:
    """Additive increase, multiplicative decrease: the rate for an upstream that does not tell its limit."""

    __slots__ = ("cap", "rate", "sent", "since")

    def __init__(self, cap: float | None) -> None:
        self.cap = MAX_TRIAL_RATE_PER_SECOND if cap is None else cap
        self.rate = min(STARTING_RATE_PER_SECOND, self.cap) if cap is None else cap
        self.since: float | None = None
        self.sent = 0

    def at(self, now: float) -> float:
        """The rate at `now`, a step higher after every ten seconds without a rejection."""
        if self.since is None:
            self.since = now
        elif now - self.since >= STEP_SECONDS:
            # A rate that was not used proves nothing: an idle account would climb to any height, and then burst.
            if self.sent >= self.rate * STEP_SECONDS / 2:
                self.rate = min(self.rate + STEP_RATE_PER_SECOND, self.cap)
            self.since, self.sent = now, 0
        return self.rate

    def restart_at(self, rate: float, now: float) -> None:
        """Starts from a rate that was known until now."""
        self.rate = min(max(rate, MIN_TRIAL_RATE_PER_SECOND), self.cap)
        self.since, self.sent = now, 0

    def reject(self, until: float) -> None:
        """A request was turned away; the next step counts from `until`."""
        self.rate = max(self.rate * CUT, min(MIN_TRIAL_RATE_PER_SECOND, self.cap))
        self.since, self.sent = until, 0


class Budget:
    """The requests that may be sent. All times are seconds of the planner's time."""

    __slots__ = ("_cap", "account", "aimd", "errors", "in_flight", "key", "paused_until")

    def __init__(self, config: PlannerConfig) -> None:
        self._cap = math.inf if config.max_requests_per_second is None else config.max_requests_per_second
        self.errors = 0
        """Server or network errors in a row."""
        self.key = Meter(config.reserve)
        self.account = Meter(config.reserve)
        self.aimd = AimdRate(config.max_requests_per_second)
        self.in_flight = 0
        self.paused_until: float | None = None

    def meters(self) -> list[Meter]:
        """The counts that the upstream tells."""
        return [meter for meter in (self.key, self.account) if meter.known]

    def window_seconds(self) -> float:
        """The upstream's window, taken to be a minute where it does not say."""
        return self.account.window_seconds if self.account.known else self.key.window_seconds

    def rate(self, now: float) -> float:
        """Requests a second that may be sent at `now`; above 0, for what forbids any is in `closed_until`."""
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
        """Until when nothing may be sent: a stop asked for, or a window with nothing left for us; None: now it may."""
        ends = [meter.ends_at() for meter in self.meters() if meter.left() < 1]
        until = self.stopped_until(now)
        if until is not None:
            ends.append(until)
        return max(ends, default=None)

    def stopped_until(self, now: float) -> float | None:
        """Until when the upstream asked us to stop; None where it did not, or that is over."""
        if self.paused_until is not None:
            if self.paused_until <= now + SLACK_SECONDS:
                self.paused_until = None
            else:
                self.paused_until = min(self.paused_until, now + MAX_RETRY_AFTER_SECONDS)
        return self.paused_until

    def changes_at(self) -> float:
        """When a window ends next, and with it the rate may rise."""
        return min((meter.ends_at() for meter in self.meters()), default=math.inf)

    def sent(self) -> None:
        """One request goes out."""
        self.in_flight += 1
        self.aimd.sent += 1
        self.key.spend()
        self.account.spend()

    def dropped(self) -> None:
        """Nobody waits for a request that is out any more."""
        self.in_flight -= 1

    def answered(self, reading: LimitReading, *, ours: bool, sent_at: float, now: float) -> None:
        """A response came, whatever it said; `ours` says whether it answers a request that `sent` counted."""
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
        """The upstream works."""
        self.errors = 0

    def erred(self) -> None:
        """The upstream, or the way to it, does not work."""
        self.errors += 1

    def rejected(self, reading: LimitReading, now: float) -> float:
        """A request was turned away as one too many: nothing is sent until the returned moment."""
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
            # Requests that were out already when the stop began tell nothing new.
            self.aimd.reject(until)
        self.paused_until = until if already is None else max(already, until)
        return self.paused_until
