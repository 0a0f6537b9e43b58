"""Planner time: a time that never goes backwards, derived from a clock that may."""

import math

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

    def skip(self, seconds: float) -> float:
        """Moves planner time forward relative to the clock, and returns it."""
        self.offset += seconds
        self.last = (self.last or 0.0) + seconds
        return self.last
