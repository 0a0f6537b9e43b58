"""Revor's rate limit: a fixed window per API key and one per account, and their response headers. Pure."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class _Window:
    started_at: float
    used: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The decision about one request. `retry_after_seconds` is None if it is allowed."""

    limit: int
    remaining: int
    account_remaining: int
    window_milliseconds: int
    retry_after_seconds: float | None = None

    def headers(self, *, whole_seconds: bool) -> list[tuple[str, str]]:
        """The five headers of every response, plus Retry-After (rounded up) if the request is refused."""
        found = [
            ("X-RateLimit-Limit", str(self.limit)),
            ("X-RateLimit-Remaining", str(self.remaining)),
            ("X-RateLimit-Window-Ms", str(self.window_milliseconds)),
            ("X-User-RateLimit-Limit", str(self.limit)),
            ("X-User-RateLimit-Remaining", str(self.account_remaining)),
        ]
        if self.retry_after_seconds is not None:
            found.append(("Retry-After", retry_after_text(self.retry_after_seconds, whole_seconds=whole_seconds)))
        return found


def retry_after_text(seconds: float, *, whole_seconds: bool) -> str:
    """Retry-After, rounded up: to whole seconds as HTTP requires, or to three decimals at other speeds."""
    if whole_seconds:
        return str(max(1, math.ceil(seconds)))
    return f"{math.ceil(max(seconds, 0.001) * 1000) / 1000:.3f}"


@dataclass(kw_only=True)
class RateLimiter:
    """Allows `limit` requests per key and per account in windows of `window_seconds` (real seconds).

    A window opens with the first request after the previous one closed. Refused requests do not count. All keys of an
    account share its window, so more keys do not allow more requests.
    """

    limit: int
    window_seconds: float
    _windows: dict[tuple[str, str], _Window] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        # Whole milliseconds, so that the header states the window exactly.
        self.window_seconds = max(1, round(self.window_seconds * 1000)) / 1000

    def spend(self, key: str, account: str, now: float) -> Verdict:
        """Counts one request, or refuses it without counting."""
        by_key, by_account = self._window(("key", key), now), self._window(("account", account), now)
        full = [one for one in (by_key, by_account) if one.used >= self.limit]
        waits = [one.started_at + self.window_seconds - now for one in full]
        if not waits:
            by_key.used += 1
            by_account.used += 1
        return self._verdict(by_key.used, by_account.used, max(waits, default=None))

    def peek(self, key: str | None, account: str | None, now: float) -> Verdict:
        """The decision for a response that is not counted. `key` and `account` are None if the key is unknown."""
        return self._verdict(self._used("key", key, now), self._used("account", account, now))

    def _used(self, kind: str, name: str | None, now: float) -> int:
        window = None if name is None else self._windows.get((kind, name))
        return 0 if window is None or now >= window.started_at + self.window_seconds else window.used

    def _window(self, place: tuple[str, str], now: float) -> _Window:
        window = self._windows.get(place)
        if window is None or now >= window.started_at + self.window_seconds:
            window = self._windows[place] = _Window(now)
        return window

    def _verdict(self, used: int, account_used: int, retry_after_seconds: float | None = None) -> Verdict:
        return Verdict(
            limit=self.limit,
            remaining=max(0, self.limit - used),
            account_remaining=max(0, self.limit - account_used),
            window_milliseconds=round(self.window_seconds * 1000),
            retry_after_seconds=retry_after_seconds,
        )


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@dataclass(kw_only=True)
class RequestCounts:
    """Requests by method, kind of path and HTTP status. Status 0: no answer was sent (a `timeout` fault)."""

    _counts: Counter[tuple[str, str, int]] = field(default_factory=Counter, init=False)

    def count(self, method: str, kind: str, status: int) -> None:
        """Counts one request."""
        self._counts[method if method in _METHODS else "other", kind, status] += 1

    def clear(self) -> None:
        """Resets every count to zero."""
        self._counts.clear()

    @property
    def job_reads(self) -> int:
        """Reads of jobs, whatever the answer. Includes 429s."""
        return sum(n for (method, kind, _), n in self._counts.items() if (method, kind) == ("GET", "job"))

    def shown(self) -> dict[str, Any]:
        """The JSON object of `GET /_sandbox/requests`."""
        by_kind: Counter[str] = Counter()
        by_status: Counter[str] = Counter()
        for (method, kind, status), number in self._counts.items():
            by_kind[f"{method} {kind}"] += number
            by_status[str(status)] += number
        return {
            "total": self._counts.total(),
            "job_reads": self.job_reads,
            "by_kind": dict(sorted(by_kind.items())),
            "by_status": dict(sorted(by_status.items())),
        }
