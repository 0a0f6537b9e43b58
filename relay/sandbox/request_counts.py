"""Counts the requests to /api/v1, so that the demo can report what polling cost. Pure."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

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
