"""Counts of the requests that came to /api/v1, so that a demo can say what a poller cost. Pure."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@dataclass(kw_only=True)
class RequestCounts:
    """Requests by (method, kind of path, HTTP status); status 0 is a request that got no answer (a time-out fault)."""

    _counts: Counter[tuple[str, str, int]] = field(default_factory=Counter, init=False)

    def count(self, method: str, kind: str, status: int) -> None:
        """One request more."""
        self._counts[method if method in _METHODS else "other", kind, status] += 1

    def clear(self) -> None:
        """Begins again at nothing."""
        self._counts.clear()

    @property
    def job_reads(self) -> int:
        """Reads of jobs, whatever was answered, 429 included."""
        return sum(n for (method, kind, _), n in self._counts.items() if (method, kind) == ("GET", "job"))

    def shown(self) -> dict[str, Any]:
        """As `GET /_sandbox/requests` shows it."""
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
