"""Settings of a planner, and its time, which never goes backwards, derived from a clock that may."""

import math
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitHeaders:
    """Names of the upstream's rate-limit headers, case-insensitive; None: it sends none.

    limit, remaining                  requests per window of the API key
    account_limit, account_remaining  requests per window of the account, shared by its keys
    window_ms                         length of the window in milliseconds
    reset                             when the window ends: in seconds, at an epoch second, or at a date
    retry_after                       seconds or an HTTP date (RFC 9110, 10.2.3)
    retry_after_ms                    the same in milliseconds
    """

    limit: str | None = "X-RateLimit-Limit"
    remaining: str | None = "X-RateLimit-Remaining"
    window_ms: str | None = "X-RateLimit-Window-Ms"
    account_limit: str | None = "X-User-RateLimit-Limit"
    account_remaining: str | None = "X-User-RateLimit-Remaining"
    reset: str | None = None
    retry_after: str | None = "Retry-After"
    retry_after_ms: str | None = None

    @property
    def meanings(self) -> dict[str, str]:
        """The meaning of each name in lower case."""
        return {name.lower(): meaning for meaning, name in asdict(self).items() if name is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerConfig:
    """Settings of one planner. Raises ValueError if a value is out of range.

    max_requests_per_second  cap on the rate; None: the headers decide, or trial if the upstream sends none
    reserve                  share of the limit (0 to below 1) left to other programs on the account
    min_interval_seconds     shortest time between two polls of a job
    max_interval_seconds     longest time between two polls of a job; up to MAX_PATIENCE times as long for safety polls
                             that are not worth a request
    seed                     spreads polls that would otherwise coincide; the same seed gives the same decisions
    headers                  names of the rate-limit headers
    static_limit             documented requests and the seconds they are for; applies while no header tells a limit
    """

    max_requests_per_second: float | None = None
    reserve: float = 0.3
    min_interval_seconds: float = 1.0
    max_interval_seconds: float = 900.0
    seed: int = 0
    headers: RateLimitHeaders = field(default_factory=RateLimitHeaders)
    static_limit: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        cap = self.max_requests_per_second
        if cap is not None and not 0 < cap < math.inf:
            raise ValueError(f"max_requests_per_second must be above 0, or None: {cap!r}")
        if not 0 <= self.reserve < 1:
            raise ValueError(f"reserve must be from 0 to below 1: {self.reserve!r}")
        if not 0 < self.min_interval_seconds <= self.max_interval_seconds < math.inf:
            raise ValueError(
                f"0 < min_interval_seconds <= max_interval_seconds must hold: "
                f"{self.min_interval_seconds!r}, {self.max_interval_seconds!r}"
            )
        if self.static_limit is not None and not all(0 < value < math.inf for value in self.static_limit):
            raise ValueError(f"static_limit must be a number of requests and of seconds: {self.static_limit!r}")

    @property
    def trial_cap(self) -> float | None:
        """Cap on the rate while no header tells a limit; None: there is none."""
        caps = [] if self.max_requests_per_second is None else [self.max_requests_per_second]
        if self.static_limit is not None:
            requests, seconds = self.static_limit
            caps.append(max(requests * (1 - self.reserve), 1) / seconds)
        return min(caps, default=None)

    @property
    def unit_seconds(self) -> float:
        """The planner's unit of time: a second, or the shortest interval if that is less (accelerated simulations)."""
        return min(1.0, self.min_interval_seconds)


STEP_SECONDS = 5.0
"""A smaller step back is a reading out of order; a larger one means the clock was set."""

SLACK_SECONDS = 1e-6
"""Times closer than this are equal: the resolution of epoch seconds as floats."""


class Timeline:
    """Converts between the caller's clock and planner time, in seconds.

    Both are equal until the clock is set back. Planner time then continues, so that a poll due soon need not wait until
    the clock catches up.
    """

    __slots__ = ("last", "offset")

    def __init__(self) -> None:
        self.offset = 0.0
        """Planner time minus clock."""
        self.last: float | None = None
        """The latest time returned."""

    def at(self, now: float) -> float:
        """Planner time at `now` of the clock; never less than the last result."""
        last = self.last
        inner = now + self.offset
        if last is not None and not inner >= last:
            if last - inner > STEP_SECONDS:
                self.offset += last - inner
            return last
        if not math.isfinite(inner):
            return 0.0 if last is None else last
        self.last = inner
        return inner

    def inner(self, clock: float) -> float:
        """Planner time of any clock time, past or future."""
        return clock + self.offset

    def clock(self, inner: float) -> float:
        """Clock time of a planner time."""
        return inner - self.offset
