"""Time: epoch seconds as floats inside the program, RFC 3339 text at its edges.

Nothing in `core/` reads a clock; the rooms that do take one, so that tests can hand them their own.
"""

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import formatdate
from functools import lru_cache

Clock = Callable[[], float]
"""Returns now, in epoch seconds (UTC)."""

MAX_EPOCH_SECONDS = 253402300799.0  # 9999-12-31T23:59:59Z, the last second that RFC 3339 can write


def wall_clock() -> float:
    """Now by the machine's clock, in epoch seconds."""
    return time.time()


_STEADY_ID = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # macOS counts sleep in the second one


def steady_clock() -> float:
    """Seconds since some moment in the past. Goes on while the machine sleeps; setting the machine's clock does not
    move it."""
    return time.clock_gettime(_STEADY_ID)


class FollowedClock:
    """Another machine's clock, kept between readings by our steady clock: setting our own clock does not move it."""

    def __init__(self, steady: Clock = steady_clock) -> None:
        self._steady = steady
        self._ahead_seconds: float | None = None

    def now(self) -> float:
        """Now by the other clock, in epoch seconds. Call `read` first."""
        assert self._ahead_seconds is not None
        return self._steady() + self._ahead_seconds

    def read(self, told: float, before: float, after: float) -> None:
        """The other clock showed `told` between two moments of the steady clock. What is known already is kept as far
        as it is possible by this reading, so a slow answer moves nothing."""
        least, most = told - after, told - before
        known = (least + most) / 2 if self._ahead_seconds is None else self._ahead_seconds
        self._ahead_seconds = min(max(known, least), most)


def to_rfc3339(epoch_seconds: float) -> str:
    """RFC 3339 in UTC with milliseconds, the upstream's own precision: `2026-05-20T10:00:08.000Z`."""
    moment = datetime.fromtimestamp(round(epoch_seconds, 3), UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def http_date(epoch_seconds: float) -> str:
    """The text of a `Date` header (RFC 9110 section 5.6.7), such as `Wed, 20 May 2026 10:00:08 GMT`."""
    return _http_date(int(epoch_seconds))


@lru_cache(maxsize=16)
def _http_date(epoch_seconds: int) -> str:
    return formatdate(epoch_seconds, usegmt=True)


def optional_rfc3339(epoch_seconds: float | None) -> str | None:
    """Like `to_rfc3339`, None for None."""
    return None if epoch_seconds is None else to_rfc3339(epoch_seconds)


def short_time(epoch_seconds: float, now: float) -> str:
    """A moment for a person: `10:00:06 UTC`, with the date where that is not today's."""
    text, today = to_rfc3339(epoch_seconds), to_rfc3339(now)
    date = "" if text[:10] == today[:10] else f"{text[:10]} "
    return f"{date}{text[11:19]} UTC"


def in_words(seconds: float) -> str:
    """A duration for a person: `1.2 s`, `42 s`, `5 min`, `3 h`, `4 days`."""
    if seconds < 9.95:
        return f"{max(seconds, 0.1):.1f}".removesuffix(".0") + " s"
    for unit, size, up_to in (("s", 1, 119.5), ("min", 60, 119.5), ("h", 3600, 47.5)):
        if seconds / size < up_to:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def from_rfc3339(text: str) -> float:
    """The epoch seconds of an RFC 3339 time. Raises ValueError when it is none, or has no zone."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone: write it like 2026-05-20T10:00:08Z")
    seconds = moment.timestamp()
    if not (math.isfinite(seconds) and 0 <= seconds <= MAX_EPOCH_SECONDS):
        raise ValueError(f"{text!r} is out of range: 1970 to 9999")
    return seconds
