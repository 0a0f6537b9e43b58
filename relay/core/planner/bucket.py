"""The token bucket that paces requests, as the generic cell rate algorithm (ITU-T I.371) keeps it: one moment.

That moment, the theoretical arrival time, is when the next request conforms. Each request moves it on by 1 / rate;
while nothing is sent it falls behind the present, by `bank_seconds` at most: that much is saved up.
"""

from relay.core.planner.timeline import SLACK_SECONDS

MIN_RATE_PER_SECOND = 1e-6
MAX_RATE_PER_SECOND = 1e6


class Bucket:
    """At most `rate * window + rate * bank_seconds + 1` requests in any window; empty at first. Times are seconds."""

    __slots__ = ("_arrival", "_bank_seconds", "_rate")

    def __init__(self) -> None:
        self._rate = 0.0
        self._bank_seconds = 0.0
        self._arrival = 0.0

    @property
    def rate(self) -> float:
        """Requests a second; 0 before the first `set_rate`."""
        return self._rate

    def set_rate(self, rate: float, bank_seconds: float, now: float) -> None:
        """From now on `rate` requests a second, saving up `bank_seconds` of them; what was saved is kept within that.

        The first call opens the bucket, empty: after a pause of the whole program nothing may burst.
        """
        rate = min(max(rate, MIN_RATE_PER_SECOND), MAX_RATE_PER_SECOND)
        if self._rate == 0:
            self._arrival = now + 1 / rate
        elif rate != self._rate:
            # Kept is the number of tokens saved or owed, not the time that they stood for at the old rate.
            missing = max(self._arrival - now, -self._bank_seconds)
            self._arrival = now + missing * self._rate / rate
        self._rate = rate
        self._bank_seconds = bank_seconds

    def opens_at(self) -> float:
        """When the next request may go; a moment of the past means now."""
        return self._arrival

    def capacity(self) -> float:
        """Requests that can be saved up."""
        return self._bank_seconds * self._rate

    def saved(self, now: float) -> float:
        """Requests that could go out at once."""
        return max(min(now - self._arrival, self._bank_seconds), 0.0) * self._rate

    def full_at(self) -> float:
        """When no more can be saved up: a request that is not sent by then is lost."""
        return self._arrival + self._bank_seconds

    def take(self, now: float) -> bool:
        """Takes one request if one may go now."""
        if self._rate == 0 or self._arrival > now + SLACK_SECONDS:
            return False
        self._arrival = max(self._arrival, now - self._bank_seconds) + 1 / self._rate
        return True

    def charge(self, now: float) -> None:
        """One request went out unasked: the next ones wait for it, but never longer than the bucket takes to fill."""
        arrival = max(self._arrival, now - self._bank_seconds) + 1 / self._rate
        self._arrival = max(self._arrival, min(arrival, now + self._bank_seconds))

    def drain(self, now: float) -> None:
        """Forgets what was saved up: after a stop nothing may burst."""
        self._arrival = max(self._arrival, now)
