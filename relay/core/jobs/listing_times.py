"""When the connect accounts of an upstream account are listed: a pure clockwork. Times are epoch seconds."""

import math

LISTING_SHARE = 0.01
"""The most of the account's request budget that listings take."""
SAVED_LISTINGS = 3.0
"""Listings that may follow each other at once, such as one after a failure and one that confirms it."""
CONFIRM_SHARE = 0.1
"""Share of the interval after which a second listing confirms a change."""
ASK_AGAIN_SECONDS = 10.0
ASK_AGAIN_SHARE = 1 / 30
"""A failure may ask for a listing this often: each ASK_AGAIN_SECONDS, or share of a short interval."""


class ListingTimes:
    """When the next listing is due. Between two listings there is an interval, unless one must be confirmed, failed,
    or is asked for; on average they take at most LISTING_SHARE of the budget."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._due_at = 0.0
        self._began_at = -math.inf
        self._is_asked = False
        self._failure_count = 0
        self._saved = SAVED_LISTINGS
        self._saved_at = 0.0

    @property
    def confirm_seconds(self) -> float:
        """Time after which a second listing confirms a change."""
        return self._interval_seconds * CONFIRM_SHARE

    def next_at(self, now: float, requests_per_second: float) -> float:
        """When the next listing may be sent; a time in the past means now. `requests_per_second`: the budget."""
        if self._due_at > now + self._interval_seconds or self._began_at > now:  # the clock was set back
            self._due_at = self._began_at = now
        due_at = self._due_at
        if self._is_asked:
            again = min(ASK_AGAIN_SECONDS, self._interval_seconds * ASK_AGAIN_SHARE)
            due_at = min(due_at, max(self._began_at + again, 0.0))
        missing = 1 - self._saved_at_rate(now, requests_per_second)
        if missing <= 0:
            return due_at
        return max(due_at, now + missing / (LISTING_SHARE * max(requests_per_second, 1e-9)))

    def began(self, now: float, requests_per_second: float) -> None:
        """A listing is sent."""
        self._saved = max(self._saved_at_rate(now, requests_per_second) - 1, 0.0)
        self._saved_at = self._began_at = now
        self._is_asked = False

    def listed(self, listed_at: float | None, confirm_at: float | None) -> None:
        """The accounts were listed last at this time, None: never. A change can be confirmed at `confirm_at`."""
        self._failure_count = 0
        due_at = 0.0 if listed_at is None else listed_at + self._interval_seconds
        self._due_at = due_at if confirm_at is None else min(due_at, confirm_at)

    def failed(self, now: float) -> None:
        """A listing failed: the next one comes a little later each time, up to an interval."""
        wait = self.confirm_seconds * 2 ** min(self._failure_count, 10)
        self._failure_count += 1
        self._due_at = now + min(wait, self._interval_seconds)

    def ask(self) -> None:
        """Asks for a listing that begins from now on, as soon as the last one is old enough."""
        self._is_asked = True

    def _saved_at_rate(self, now: float, requests_per_second: float) -> float:
        elapsed = max(now - self._saved_at, 0.0)
        return min(self._saved + elapsed * requests_per_second * LISTING_SHARE, SAVED_LISTINGS)
