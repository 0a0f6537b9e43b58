"""A time that never runs backwards, made from a clock that may."""

import math

STEP_SECONDS = 5.0
"""A clock that goes back by less is one whose readings arrive out of order; by more, one that was set."""

SLACK_SECONDS = 1e-6
"""Two times closer than this are the same: epoch seconds as floats can not tell more apart."""


class Timeline:
    """Translates between the caller's clock and the planner's own time, in seconds.

    The two are equal until the clock is set back. Then the planner's time goes on from where it was, so that nothing
    which was due soon has to wait until the clock has come round again.
    """

    __slots__ = ("last", "offset")

    def __init__(self) -> None:
        self.offset = 0.0
        """What the planner's time is ahead of the clock."""
        self.last: float | None = None
        """The latest moment that was given out."""

    def at(self, now: float) -> float:
        """The planner's time at the clock's `now`; never less than at the call before."""
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
        """The planner's time of a moment on the clock, past or future."""
        return clock + self.offset

    def clock(self, inner: float) -> float:
        """What the clock shows at a moment of the planner's time."""
        return inner - self.offset

    def skip(self, seconds: float) -> float:
        """Moves the planner's time forward against the clock, and returns it."""
        self.offset += seconds
        self.last = (self.last or 0.0) + seconds
        return self.last
