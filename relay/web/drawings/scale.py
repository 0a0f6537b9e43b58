"""A scale of time: from seconds to places on a drawing, with round marks."""

from collections.abc import Sequence
from dataclasses import dataclass

_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400)
_DAY = 86_400
_MOST_TICKS = 6


@dataclass(frozen=True, slots=True)
class Scale:
    """Places from `left` to `right` for times from `began` to `ended`, in seconds."""

    began: float
    ended: float
    left: float
    right: float

    def at(self, time: float) -> float:
        """The place of a time; times outside are at the edge."""
        share = (time - self.began) / max(self.ended - self.began, 1e-9)
        return self.left + min(max(share, 0.0), 1.0) * (self.right - self.left)

    def ticks(self, zero: float) -> Sequence[float]:
        """Round times to mark, at most seven, as seconds after `zero`."""
        span = self.ended - self.began
        step = next((one for one in _STEPS if span / one <= _MOST_TICKS), None)
        if step is None:
            step = _DAY
            while span / step > _MOST_TICKS:
                step *= 2
        first = -int((zero - self.began) / step)
        return [number * step for number in range(first, int((self.ended - zero) / step) + 1)]
