"""How many deliveries of one subscription may be out at once: as many as its sink has use for.

Each time-out takes away the slot that it held, so a dead sink is left with one. Each success while all slots are in use
adds to them as long as answers come about as soon as they do alone: where they come later, more at once would only wait
in a longer line. The first is the additive increase of TCP (Chiu and Jain 1989), the second its delay-based form, Vegas
(Brakmo and Peterson 1995).
"""

import math
from dataclasses import dataclass

START = 8
QUEUEING = 2.0
"""An answer that takes so many times longer than one alone has stood in a line."""


@dataclass(slots=True)
class Concurrency:
    """One subscription's; `ceiling` is the most that it may reach."""

    ceiling: int
    _window: float = START
    _alone_seconds: float = math.inf
    _has_timed_out: bool = False

    @property
    def limit(self) -> int:
        """How many may be out now: from 1 to the ceiling."""
        return max(1, min(int(self._window), self.ceiling))

    def succeeded(self, duration_seconds: float, *, in_flight: int, limit: int) -> None:
        """An answer came after that time to a request that went out as one of `in_flight`, of `limit` at most then."""
        if in_flight == 1 or duration_seconds < self._alone_seconds:
            self._alone_seconds = duration_seconds
        if in_flight >= limit and duration_seconds <= QUEUEING * self._alone_seconds:
            # Before the first time-out by one for each success, which doubles it a round, then by one a round.
            self._window = min(self._window + (1 / self._window if self._has_timed_out else 1), self.ceiling)

    def timed_out(self) -> None:
        """No answer came in time."""
        self._has_timed_out = True
        self._window = max(min(self._window, self.ceiling) - 1, 1)
