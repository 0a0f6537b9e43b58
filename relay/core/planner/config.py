"""What a planner is told once, at its making."""

import math
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitHeaders:
    """The names of the response headers that tell about the upstream's rate limit; upper and lower case are the same.

    The defaults are the names that the first upstream uses. `limit` and `remaining` count requests a window of the
    API key, `account_limit` and `account_remaining` those of the account behind it, which all of its keys share.
    `window_ms` is the window's length in milliseconds, `retry_after` seconds or an HTTP date (RFC 9110, 10.2.3).
    """

    limit: str = "X-RateLimit-Limit"
    remaining: str = "X-RateLimit-Remaining"
    window_ms: str = "X-RateLimit-Window-Ms"
    account_limit: str = "X-User-RateLimit-Limit"
    account_remaining: str = "X-User-RateLimit-Remaining"
    retry_after: str = "Retry-After"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerConfig:
    """The bounds that a planner keeps. Raises ValueError where they make no sense.

    - `max_requests_per_second`: a cap; None leaves it to the headers, or to trial where the upstream sends none.
    - `reserve`: the share of the upstream's limit (0 to below 1) that is left to other programs on the account.
    - `min_interval_seconds`, `max_interval_seconds`: the shortest and the longest time between two looks at a job
      (the longest up to MAX_PATIENCE times for one of which nothing is expected and a look is not worth a request).
    - `seed`: spreads looks that would otherwise fall together; the same seed decides the same.
    - `headers`: where responses tell about the rate limit.
    """

    max_requests_per_second: float | None = None
    reserve: float = 0.3
    min_interval_seconds: float = 1.0
    max_interval_seconds: float = 900.0
    seed: int = 0
    headers: RateLimitHeaders = field(default_factory=RateLimitHeaders)

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
