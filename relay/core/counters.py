"""Counts of frequent actions, aggregated in memory: per key and window of time, with a bound on both."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

MAX_ENDED = 60
"""Windows kept while they cannot be written. Then the two oldest become one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window(Generic[Key]):
    """The counts of one window. `began_at`: epoch seconds; `other_count`: of keys that are not listed."""

    began_at: float
    counts: dict[Key, int]
    other_count: int = 0

    def joined(self, later: "Window[Key]", max_keys: int) -> "Window[Key]":
        """This window and the next one as one."""
        counts, other = dict(self.counts), self.other_count + later.other_count
        for key, count in later.counts.items():
            if key in counts or len(counts) < max_keys:
                counts[key] = counts.get(key, 0) + count
            else:
                other += count
        return Window(began_at=self.began_at, counts=counts, other_count=other)

    def largest(self, limit: int) -> "Window[Key]":
        """The same counts with only the `limit` largest by key."""
        if len(self.counts) <= limit:
            return self
        order = sorted(self.counts.items(), key=lambda pair: pair[1], reverse=True)
        other = self.other_count + sum(count for _, count in order[limit:])
        return Window(began_at=self.began_at, counts=dict(order[:limit]), other_count=other)


class Counters(Generic[Key]):
    """Adds counts to the present window. `add` costs a dictionary access."""

    def __init__(self, window_seconds: float, max_keys: int) -> None:
        self._seconds = window_seconds
        self._max_keys = max_keys
        self._began_at = self._ends_at = 0.0
        self._counts: dict[Key, int] = {}
        self._other_count = 0
        self._ended: list[Window[Key]] = []

    def add(self, key: Key, now: float, count: int = 1) -> None:
        """Counts at this time."""
        if not self._began_at <= now < self._ends_at:  # the clock may have been set back
            self._turn(now)
        counts = self._counts
        if key in counts:
            counts[key] += count
        elif len(counts) < self._max_keys:
            counts[key] = count
        else:
            self._other_count += count

    def take_ended(self, now: float) -> list[Window[Key]]:
        """Removes and returns the windows that have ended."""
        if not self._began_at <= now < self._ends_at:  # the clock may have been set back
            self._turn(now)
        ended, self._ended = self._ended, []
        return ended

    def take_all(self, now: float) -> list[Window[Key]]:
        """Removes and returns all windows, the present one included."""
        self._end()
        return self.take_ended(now)

    def give_back(self, windows: list[Window[Key]]) -> None:
        """Puts windows back that could not be written."""
        self._ended = [*windows, *self._ended]
        self._bound()

    def _turn(self, now: float) -> None:
        self._end()
        self._began_at = now // self._seconds * self._seconds
        self._ends_at = self._began_at + self._seconds

    def _end(self) -> None:
        if self._counts:
            self._ended.append(Window(began_at=self._began_at, counts=self._counts, other_count=self._other_count))
            self._counts, self._other_count = {}, 0
            self._bound()

    def _bound(self) -> None:
        while len(self._ended) > MAX_ENDED:
            first, second, *rest = self._ended
            self._ended = [first.joined(second, self._max_keys), *rest]
