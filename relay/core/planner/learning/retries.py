"""How often the attempts of a job class are retried, and how long the pauses last, by attempt number.

Polls do not need this: a job says when its next attempt is. A forecast does (`job_times.py`): a retry delays the end of
its job, and in a lane all jobs behind it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

MAX_ATTEMPTS = 8
"""Later attempts count as this one."""
MAX_PAUSES = 32
"""Number of pauses kept per attempt number, the latest ones."""
MEMORY_ATTEMPTS = 800
PSEUDO_ATTEMPTS = 50.0
"""Weight of all classes in the estimate of one; `ROOT_PSEUDO_ATTEMPTS`: of the prior in that of all classes."""
ROOT_PSEUDO_ATTEMPTS = 2.0
PRIOR = 0.02
"""Share of attempts that are retried, before any has ended."""
LARGEST = 1e9


class Retries:
    """Attempts that ended and those among them that were retried, by number, with exponential forgetting. Pauses are in
    units."""

    __slots__ = ("_ended", "_pauses", "_retried")

    def __init__(self) -> None:
        self._ended = [0.0] * MAX_ATTEMPTS
        self._retried = [0.0] * MAX_ATTEMPTS
        self._pauses: list[list[float]] = [[] for _ in range(MAX_ATTEMPTS)]

    def record_end(self, attempts: int) -> None:
        """Records a job that ended with this attempt: all earlier ones were retried."""
        kept = 1 - 1 / MEMORY_ATTEMPTS
        last = min(attempts, MAX_ATTEMPTS) - 1
        for at in range(last + 1):
            self._ended[at] = self._ended[at] * kept + 1
            self._retried[at] = self._retried[at] * kept + (at < last)

    def record_pause(self, attempt: int, units: float) -> None:
        """Records the pause after a failed attempt (1 is the first)."""
        pauses = self._pauses[min(max(attempt, 1), MAX_ATTEMPTS) - 1]
        pauses.append(units)
        del pauses[:-MAX_PAUSES]

    def chance(self, attempt: int, parent: Retries | None) -> float:
        """Probability that an attempt is retried, with the parent's as the prior. 0 after the last attempt known."""
        if attempt >= MAX_ATTEMPTS:
            return 0.0
        at = max(attempt, 1) - 1
        if parent is None:
            return (self._retried[at] + ROOT_PSEUDO_ATTEMPTS * PRIOR) / (self._ended[at] + ROOT_PSEUDO_ATTEMPTS)
        before = parent.chance(attempt, None)
        return (self._retried[at] + PSEUDO_ATTEMPTS * before) / (self._ended[at] + PSEUDO_ATTEMPTS)

    def pauses(self, attempt: int, parent: Retries | None) -> Sequence[float]:
        """Pauses seen after an attempt of this number, by the class or all classes; else after an earlier one."""
        for at in range(min(max(attempt, 1), MAX_ATTEMPTS) - 1, -1, -1):
            found = self._pauses[at] or (() if parent is None else parent._pauses[at])
            if found:
                return found
        return ()

    def dump(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {"ended": self._ended, "retried": self._retried, "pauses": self._pauses}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Loads the values of `dump`. Raises ValueError, TypeError or KeyError for others."""
        ended, retried = ([float(count) for count in saved[name]] for name in ("ended", "retried"))
        pauses = [[float(units) for units in each] for each in saved["pauses"]]
        if not len(ended) == len(retried) == len(pauses) == MAX_ATTEMPTS or max(map(len, pauses)) > MAX_PAUSES:
            raise ValueError("the retries of another version")
        numbers = (*ended, *retried, *(units for each in pauses for units in each))
        if not all(math.isfinite(number) and 0 <= number <= LARGEST for number in numbers):
            raise ValueError("counts and pauses must be finite and not negative")
        if any(some > every for some, every in zip(retried, ended, strict=True)):
            raise ValueError("more attempts were retried than ended")
        self._ended, self._retried, self._pauses = ended, retried, pauses
