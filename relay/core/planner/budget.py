"""The allowed request rate of an account, derived from rate-limit headers.

The upstream counts requests in windows, per API key and per account; other programs share both counts. A `Meter`
follows one count. An `AimdRate` finds a rate by trial if no count is reported. The `Budget` is the lowest of them, and
pauses after a 429 (`Budget.rejected`).
"""

import contextlib
import math
from collections.abc import Mapping
from typing import NamedTuple

from relay.clock import from_rfc3339
from relay.core.deliveries.retry import MAX_RETRY_AFTER_SECONDS, parse_http_date
from relay.core.planner.config import SLACK_SECONDS, PlannerConfig

DEFAULT_WINDOW_SECONDS = 60.0
SOON = 1 / 60
LATELY = 0.25
NEARLY_SPENT = 0.05
MAX_EARLY_STARTS = 8
"""Shares of a window, and a count. A window still reported as spent just after its end has not ended."""
BANKED_WINDOWS = 0.5
VANISHED_WINDOWS = 2.0
"""A count missing from responses for this many windows is dropped."""


class Meter:
    """A limit of requests per window, the remaining requests, and the rate of other programs. Times are seconds.

    Headers do not report when a window begins; a rise of `remaining` shows it. Requests of others are the decrease of
    `remaining` that is not ours, smoothed over a quarter of a window.
    """

    __slots__ = (
        *("_base", "_early", "_lowest", "_others", "_own", "_probed", "_rated_at", "_since"),
        *("limit", "others_rate", "rate", "remaining", "reserve", "seen_at", "started_at", "window_seconds"),
    )

    KEPT = tuple(name for name in __slots__ if name != "reserve")
    """Attributes in a snapshot, under these names; the setting is not included."""

    def __init__(self, reserve: float) -> None:
        self.reserve = reserve
        self.limit = 0.0
        self.remaining = 0.0
        """Requests left in the window, less those in flight."""
        self.window_seconds = DEFAULT_WINDOW_SECONDS
        self.started_at = 0.0
        self.seen_at = 0.0
        self.others_rate = 0.0
        """Requests per second of other programs."""
        self.rate = 0.0
        """Requests per second we may send."""
        self._early = 0
        """Number of times that the begin of this window was assumed too early."""
        self._base = 0.0
        self._lowest = -1.0
        self._own = 0
        self._others = 0.0
        self._probed = False
        self._rated_at = 0.0
        self._since = 0.0

    @property
    def known(self) -> bool:
        """True if the upstream reports this count."""
        return self.limit > 0

    def ends_at(self) -> float:
        """End of the window."""
        return self.started_at + self.window_seconds

    def left(self) -> float:
        """Requests left for us in this window. At least one per window: only a response brings new headers."""
        left = self._left()
        return left if self._probed else max(left, 1.0)

    def spend(self) -> None:
        """Counts a request being sent."""
        self.remaining -= 1
        self._probed = True

    def roll(self, now: float, in_flight: int) -> None:
        """Begins the next window if this one is over."""
        if now < self.started_at:
            self.started_at = self._since = now
        elif now + SLACK_SECONDS >= self.ends_at():
            self.started_at += (
                math.floor((now + SLACK_SECONDS - self.started_at) / self.window_seconds) * self.window_seconds
            )
            self._rate_others(0.0, now)
            self._begin(self.limit - in_flight, now)
            self._probed = False

    def read(
        self,
        limit: float | None,
        remaining: float | None,
        window_seconds: float | None,
        *,
        ours: bool,
        in_flight: int,
        sent_at: float,
        now: float,
    ) -> None:
        """Reads one response. `ours`: it answers our request; `in_flight`: how many more of ours are in flight."""
        self._own += ours
        if limit is None:
            if self.known and now - self.seen_at > VANISHED_WINDOWS * self.window_seconds:
                self.limit = 0.0
            return
        if window_seconds is not None:
            self.window_seconds = window_seconds
        if limit != self.limit:
            self._meet(limit, now)
        self.roll(now, in_flight)
        # A request sent before this window began may have been counted in the previous one.
        stale = remaining is not None and sent_at < self.started_at and 0 <= remaining <= self._lowest
        if remaining is None or stale:
            self.seen_at = now
            self._begin(self.remaining, now)
            return
        remaining = min(remaining, limit)
        if self._began_early(remaining, in_flight, now):
            # Our clock was slightly ahead: the previous window has not ended yet, but will soon.
            self._early += 1
            self.started_at = now - self.window_seconds * (1 - SOON)
        elif remaining > self._lowest:
            self._early = 0
        self._rate_others(self._used_by_others(remaining, ours, in_flight, sent_at, now), now)
        self.seen_at = now
        self._begin(remaining - in_flight, now)

    def realign(self, ends_at: float, now: float) -> None:
        """Aligns the window with an end reported by the upstream."""
        if self.known and now < ends_at <= now + self.window_seconds:
            self.started_at = ends_at - self.window_seconds
            self._begin(self.remaining, now)

    def _began_early(self, remaining: float, in_flight: int, now: float) -> bool:
        """True if a response received just after the assumed begin of the window still reports the previous one."""
        lately = now - self.started_at < LATELY * self.window_seconds
        as_before = self._lowest >= 0 and remaining <= self._lowest + in_flight + 1
        spent = self._reserved() + NEARLY_SPENT * self.limit
        # If this window was once reported as not spent, it has begun, and others have used it up since.
        untold = self.seen_at < self.started_at or self._lowest < spent
        return lately and as_before and remaining < spent and untold and self._early < MAX_EARLY_STARTS

    def _meet(self, limit: float, now: float) -> None:
        if not self.known:
            self.started_at = now
            self.others_rate = 0.0
            self._rated_at = now
        self.limit = self.remaining = limit
        self._lowest = -1.0
        self._probed = True

    def _used_by_others(self, remaining: float, ours: bool, in_flight: int, sent_at: float, now: float) -> float:
        first = self._lowest < 0
        rise = remaining - self._lowest
        whole_window = not first and rise > (self.limit - self._lowest) / 2
        # Responses overtake each other: a small rise means a new window only if the request was sent after the last
        # response arrived.
        if not first and (rise <= 0 or (sent_at < self.seen_at and not whole_window)):
            # Requests in flight may already be counted in `remaining`: this is a lower bound of what others used,
            # tightest while few are in flight.
            self._lowest = min(self._lowest, remaining)
            known, self._others = self._others, max(self._others, self._base - remaining - self._own - in_flight)
            return self._others - known
        if not first and self.seen_at >= self.started_at:
            self.started_at = now
        self._base = self.limit if whole_window else remaining + ours
        self._own = int(ours)
        self._lowest = remaining
        self._others = max(0.0, self._base - remaining - ours - in_flight)
        return self._others

    def _rate_others(self, used: float, now: float) -> None:
        memory_seconds = self.window_seconds / 4
        passed = max(now - self._rated_at, 0.0)
        self.others_rate = self.others_rate * math.exp(-passed / memory_seconds) + used / memory_seconds
        self._rated_at = now

    def _reserved(self) -> float:
        return min(self.reserve * self.limit, self.limit - 1)

    def _left(self) -> float:
        return self.remaining - self._reserved() - self.others_rate * (self.ends_at() - self._since)

    def _begin(self, remaining: float, now: float) -> None:
        self.remaining = remaining
        self._since = now
        most = (self.limit - self._reserved()) / self.window_seconds
        rate = self._left() / max(self.ends_at() - now, SLACK_SECONDS)
        self.rate = max(min(most, rate), 1 / self.window_seconds)


MIN_WINDOW_SECONDS = 0.001
MAX_WINDOW_SECONDS = 86_400.0


class LimitReading(NamedTuple):
    """Rate-limit values of one response; None if absent. Counts are requests per window."""

    limit: float | None = None
    remaining: float | None = None
    account_limit: float | None = None
    account_remaining: float | None = None
    window_seconds: float | None = None
    reset_seconds: float | None = None
    retry_after_seconds: float | None = None


SILENT = LimitReading()


def read_limits(headers: object, names: Mapping[str, str], clock: float) -> LimitReading:
    """Parses response headers. `names`: see `RateLimitHeaders.meanings`. `clock`: now in epoch seconds, for a
    Retry-After date. Never raises."""
    if not isinstance(headers, Mapping):
        return SILENT
    found: dict[str, str] = {}
    for name, value in headers.items():
        if isinstance(name, str) and isinstance(value, str):
            meaning = names.get(name.lower())
            if meaning is not None:
                found[meaning] = value
    if not found:
        return SILENT
    window_ms, retry_ms = _count(found.get("window_ms")), _count(found.get("retry_after_ms"))
    reset = _moment(found.get("reset"), clock)
    return LimitReading(
        limit=_count(found.get("limit")) or None,
        remaining=_count(found.get("remaining")),
        account_limit=_count(found.get("account_limit")) or None,
        account_remaining=_count(found.get("account_remaining")),
        window_seconds=min(max(window_ms / 1000, MIN_WINDOW_SECONDS), MAX_WINDOW_SECONDS) if window_ms else None,
        reset_seconds=None if reset is None else min(max(reset, MIN_WINDOW_SECONDS), MAX_WINDOW_SECONDS),
        retry_after_seconds=_retry_after(found.get("retry_after") if retry_ms is None else str(retry_ms / 1000), clock),
    )


def _count(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _retry_after(text: str | None, clock: float) -> float | None:
    seconds = None if text is None else _count(text)
    if seconds is None and text is not None:
        moment = parse_http_date(text)
        seconds = None if moment is None else moment - clock
    return None if seconds is None else min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


MIN_EPOCH_SECONDS = 1e8
"""A smaller number says how many seconds are left, not when: 1973 is over."""


def _moment(text: str | None, clock: float) -> float | None:
    """How long it is until the end of the window that a header names: seconds, an epoch second, or a date (RFC 3339, or
    as in HTTP)."""
    if text is None:
        return None
    number = _count(text)
    if number is not None:
        return number - clock if number >= MIN_EPOCH_SECONDS else number
    with contextlib.suppress(ValueError):
        return from_rfc3339(text) - clock
    moment = parse_http_date(text)
    return None if moment is None else moment - clock


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

    __slots__ = ("_cap", "_config", "account", "aimd", "errors", "in_flight", "key", "paused_until")

    def __init__(self, config: PlannerConfig) -> None:
        self._cap = math.inf if config.max_requests_per_second is None else config.max_requests_per_second
        self.errors = 0
        """Consecutive server or network errors."""
        self.key = Meter(config.reserve)
        self.account = Meter(config.reserve)
        self.aimd = AimdRate(config.trial_cap)
        self._config = config
        self.in_flight = 0
        self.paused_until: float | None = None

    def configure(self, config: PlannerConfig) -> None:
        """Applies other settings. A rate found by trial is kept below a new cap."""
        cap = config.max_requests_per_second
        self._cap = math.inf if cap is None else cap
        self.key.reserve = self.account.reserve = config.reserve
        self._config = config
        self.aimd.cap = MAX_TRIAL_RATE_PER_SECOND if config.trial_cap is None else config.trial_cap
        self.aimd.rate = min(self.aimd.rate, self.aimd.cap)

    def meters(self) -> list[Meter]:
        """The meters whose count the upstream reports."""
        return [meter for meter in (self.key, self.account) if meter.known]

    def window_seconds(self) -> float:
        """Length of the upstream's window in seconds, as it is reported or documented; else 60."""
        static = self._config.static_limit
        if static is not None and not self.meters():
            return static[1]
        return self.account.window_seconds if self.account.known else self.key.window_seconds

    def banked_windows(self) -> float:
        """Requests that may be saved, in windows. Of a documented limit, which is not counted down by headers, no burst
        exceeds the limit: at most the reserve is saved."""
        if self._config.static_limit is None or self.meters():
            return BANKED_WINDOWS
        return min(BANKED_WINDOWS, self._config.reserve / (1 - self._config.reserve))

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
        """The end of a requested pause or of an exhausted window. None if sending is allowed."""
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
        """The end of the next window, at which the rate may rise."""
        return min((meter.ends_at() for meter in self.meters()), default=math.inf)

    def sent(self) -> None:
        """Counts a request being sent."""
        self.in_flight += 1
        self.aimd.sent += 1
        self.key.spend()
        self.account.spend()

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
            if reading.reset_seconds is not None:  # the window is as long as the longest rest of one
                window = max(window or 0.0, meter.window_seconds, reading.reset_seconds)
            meter.read(limit, remaining, window, ours=ours, in_flight=in_flight, sent_at=sent_at, now=now)
            if reading.reset_seconds is not None:
                meter.realign(now + reading.reset_seconds, now)
        if known and not self.meters():
            self.aimd.restart_at(before, now)

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
