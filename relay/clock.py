"""Time: epoch seconds as floats inside the program, RFC 3339 text at its edges.

`core/` never reads a clock. Every component that needs the time takes a `Clock`, which tests replace.
"""

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from email.utils import formatdate
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

Clock = Callable[[], float]
"""Returns the current time in epoch seconds (UTC)."""

MAX_EPOCH_SECONDS = 253402300799.0  # 9999-12-31T23:59:59Z, the last second that RFC 3339 can write


def wall_clock() -> float:
    """The machine's clock, in epoch seconds."""
    return time.time()


_STEADY_ID = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # on macOS CLOCK_MONOTONIC includes sleep


def steady_clock() -> float:
    """Seconds since an arbitrary moment. Runs on during sleep, and setting the machine's clock does not change it."""
    return time.clock_gettime(_STEADY_ID)


class FollowedClock:
    """Another machine's clock, extrapolated between readings with the steady clock. Setting this machine's clock has no
    effect on it."""

    def __init__(self, steady: Clock = steady_clock) -> None:
        self._steady = steady
        self._ahead_seconds: float | None = None

    def now(self) -> float:
        """The other clock, in epoch seconds. Call `read` first."""
        assert self._ahead_seconds is not None
        return self._steady() + self._ahead_seconds

    def read(self, reading: float, before: float, after: float) -> None:
        """Takes a reading made between two moments of the steady clock.

        The known offset changes only as far as the reading contradicts it, so a slow answer changes nothing.
        """
        least, most = reading - after, reading - before
        known = (least + most) / 2 if self._ahead_seconds is None else self._ahead_seconds
        self._ahead_seconds = min(max(known, least), most)


def to_rfc3339(epoch_seconds: float) -> str:
    """RFC 3339 in UTC with milliseconds, the upstream's precision: `2026-05-20T10:00:08.000Z`. A later time than it can
    write is shown as the last one: a job scheduled for the end of 9999 has its deadline after that."""
    rounded = round(min(epoch_seconds, MAX_EPOCH_SECONDS), 3)
    second = math.floor(rounded)
    return f"{_to_the_second(second)}.{round((rounded - second) * 1000):03d}Z"


@lru_cache(maxsize=64)
def _to_the_second(epoch_seconds: int) -> str:
    return datetime.fromtimestamp(epoch_seconds, UTC).isoformat()[:19]


def http_date(epoch_seconds: float) -> str:
    """The text of a `Date` header (RFC 9110 section 5.6.7), such as `Wed, 20 May 2026 10:00:08 GMT`."""
    return _http_date(int(epoch_seconds))


@lru_cache(maxsize=16)
def _http_date(epoch_seconds: int) -> str:
    return formatdate(epoch_seconds, usegmt=True)


def optional_rfc3339(epoch_seconds: float | None) -> str | None:
    """`to_rfc3339`, or None for None."""
    return None if epoch_seconds is None else to_rfc3339(epoch_seconds)


def short_time(epoch_seconds: float, now: float) -> str:
    """A time to read: `10:00:06 UTC`, with the date unless it is today."""
    text, today = to_rfc3339(epoch_seconds), to_rfc3339(now)
    date = "" if text[:10] == today[:10] else f"{text[:10]} "
    return f"{date}{text[11:19]} UTC"


_NOT_EVERYWHERE = ("localtime", "posixrules")
"""Files beside the time zones that mean another one on each machine."""


def zone_named(name: str) -> ZoneInfo:
    """The time zone of an IANA name, such as `Europe/Paris`. Raises ValueError if there is none."""
    try:
        if name in _NOT_EVERYWHERE:
            raise ValueError
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a folder of zones, or a name that is too long
        raise ValueError(f"{name[:100]!r} is not a time zone: use an IANA name such as Europe/Paris") from None


@lru_cache(maxsize=1)
def time_zones() -> tuple[str, ...]:
    """The names of all time zones. The first call reads files for some 20 ms."""
    return tuple(sorted(available_timezones() - set(_NOT_EVERYWHERE)))


def local_time(epoch_seconds: float, zone: tzinfo = UTC) -> str:
    """A time to read, where people are: `2026-05-20 12:00:08 CEST`."""
    try:
        moment = datetime.fromtimestamp(round(epoch_seconds, 3), zone)
    except OverflowError:  # the last hours of the year 9999, further east
        moment = datetime.fromtimestamp(epoch_seconds, UTC)
    name = moment.strftime("%Z")
    if not name[:1].isalpha():  # +03 or +0545: this zone has no name for it
        name = f"UTC{name[:3]}{name[3:] and f':{name[3:]}'}"
    return f"{moment:%Y-%m-%d %H:%M:%S} {name}"


def in_words(seconds: float) -> str:
    """A duration to read: `1.2 s`, `42 s`, `5 min`, `3 h`, `4 days`."""
    if seconds < 9.95:
        return f"{max(seconds, 0.1):.1f}".removesuffix(".0") + " s"
    for unit, size, up_to in (("s", 1, 119.5), ("min", 60, 119.5), ("h", 3600, 47.5)):
        if seconds / size < up_to:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def from_rfc3339(text: str) -> float:
    """The epoch seconds of an RFC 3339 time. Raises ValueError if it is not one or has no time zone."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone: write it like 2026-05-20T10:00:08Z")
    seconds = moment.timestamp()
    if not (math.isfinite(seconds) and 0 <= seconds <= MAX_EPOCH_SECONDS):
        raise ValueError(f"{text!r} is out of range: 1970 to 9999")
    return seconds
