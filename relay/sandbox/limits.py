"""Revor's rate limit: a fixed window per API key and one per account, and their response headers. Pure."""

import math
from collections import Counter, OrderedDict
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
    window_milliseconds: int
    account_limit: int
    account_remaining: int
    retry_after_seconds: float | None = None

    @property
    def is_allowed(self) -> bool:
        """True if the request is within the limits."""
        return self.retry_after_seconds is None

    def headers(self, *, whole_seconds: bool) -> list[tuple[str, str]]:
        """The five headers of every response, plus Retry-After (rounded up) if the request is refused."""
        found = [
            ("X-RateLimit-Limit", str(self.limit)),
            ("X-RateLimit-Remaining", str(self.remaining)),
            ("X-RateLimit-Window-Ms", str(self.window_milliseconds)),
            ("X-User-RateLimit-Limit", str(self.account_limit)),
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
    """Allows `limit` requests per key and `account_limit` per account in windows of `window_seconds` (real seconds).

    A window opens with the first request after the previous one closed. Refused requests do not count. All keys of an
    account share its window, so more keys do not allow more requests.
    """

    limit: int
    window_seconds: float
    account_limit: int
    max_windows: int = 20_000
    _keys: OrderedDict[str, _Window] = field(default_factory=OrderedDict, init=False, repr=False)
    _accounts: OrderedDict[str, _Window] = field(default_factory=OrderedDict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.limit < 1 or self.account_limit < 1:
            raise ValueError("a rate limit must allow at least 1 request")
        if not (math.isfinite(self.window_seconds) and self.window_seconds > 0):
            raise ValueError("a rate limit's window must be above 0 seconds")
        # Whole milliseconds, so that the header states the window exactly.
        self.window_seconds = max(1, round(self.window_seconds * 1000)) / 1000

    def spend(self, key: str, account: str, now: float) -> Verdict:
        """Counts one request, or refuses it without counting."""
        by_key = self._window(self._keys, key, now)
        by_account = self._window(self._accounts, account, now)
        waits = [
            window.started_at + self.window_seconds - now
            for window, limit in ((by_key, self.limit), (by_account, self.account_limit))
            if window.used >= limit
        ]
        if waits:
            return self._verdict(by_key.used, by_account.used, retry_after_seconds=max(waits))
        by_key.used += 1
        by_account.used += 1
        return self._verdict(by_key.used, by_account.used)

    def peek(self, key: str | None, account: str | None, now: float) -> Verdict:
        """The decision for a response that is not counted. `key` and `account` are None if the key is unknown."""
        return self._verdict(self._used(self._keys, key, now), self._used(self._accounts, account, now))

    def _used(self, windows: OrderedDict[str, _Window], name: str | None, now: float) -> int:
        window = None if name is None else windows.get(name)
        return 0 if window is None or now >= window.started_at + self.window_seconds else window.used

    def _window(self, windows: OrderedDict[str, _Window], name: str, now: float) -> _Window:
        window = windows.get(name)
        if window is None or now >= window.started_at + self.window_seconds:
            window = windows[name] = _Window(now)
        windows.move_to_end(name)
        if len(windows) > self.max_windows:
            windows.popitem(last=False)
        return window

    def _verdict(self, used: int, account_used: int, *, retry_after_seconds: float | None = None) -> Verdict:
        return Verdict(
            limit=self.limit,
            remaining=max(0, self.limit - used),
            window_milliseconds=round(self.window_seconds * 1000),
            account_limit=self.account_limit,
            account_remaining=max(0, self.account_limit - account_used),
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
            "counts": [
                {"method": method, "kind": kind, "status": status, "count": number}
                for (method, kind, status), number in sorted(self._counts.items())
            ],
        }
