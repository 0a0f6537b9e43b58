"""Follows one of the upstream's request counts through response headers."""

import math

from relay.core.planner.timeline import SLACK_SECONDS

DEFAULT_WINDOW_SECONDS = 60.0
SOON = 1 / 60
LATELY = 0.25
NEARLY_SPENT = 0.05
MAX_EARLY_STARTS = 8
"""Shares of a window, and a count. A window still reported as spent just after its end has not ended."""
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
        """How often the begin of this window was assumed too early."""
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
