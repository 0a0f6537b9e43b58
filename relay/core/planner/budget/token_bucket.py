"""The token bucket that paces requests, implemented as the generic cell rate algorithm (ITU-T I.371).

Its state is one time, the theoretical arrival time: the earliest time of the next request. Each request moves it
forward by 1 / rate. While nothing is sent it falls behind the present, by at most `bank_seconds`: the saved requests.
"""

from relay.core.planner.timeline import SLACK_SECONDS

MIN_RATE_PER_SECOND = 1e-6
MAX_RATE_PER_SECOND = 1e6


class Bucket:
    """Allows at most `rate * (window + bank_seconds) + 1` requests in any window. Starts empty. Times are seconds."""

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
