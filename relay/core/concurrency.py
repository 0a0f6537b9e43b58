"""How many deliveries of one subscription may be out at once: as many as its sink has use for.

Each time-out takes away the slot that it held, so a dead sink is left with one. Each success while all slots were in
use adds to them as long as answers come about as soon as they do alone; where they come later, more at once would only
wait in a longer line, and what was added goes again. The first is the additive increase of TCP (Chiu and Jain 1989),
the second its delay-based form, Vegas (Brakmo and Peterson 1995).
"""

import math
from dataclasses import dataclass

START = 8
QUEUEING = 2.0
"""An answer that takes so many times longer than one alone has stood in a line."""
PROMPT_SECONDS = 0.01
"""An answer that comes within this time has not: what it waited for is us."""
DRIFT = 1.1


@dataclass(slots=True)
class Concurrency:
    """One subscription's; `ceiling` is the most that it may reach."""

    ceiling: int
    _window: float = START
    _alone_seconds: float = math.inf
    _doubles: bool = True
    """A round adds as many as there are, until the first time-out or line; from then on one."""

    @property
    def limit(self) -> int:
        """How many may be out now: from 1 to the ceiling."""
        return max(1, min(int(self._window), self.ceiling))

    @property
    def alone_seconds(self) -> float:
        """How long the sink takes for one request by itself; inf where it has answered none."""
        return self._alone_seconds

    def succeeded(self, duration_seconds: float, *, in_flight: int, full: bool) -> None:
        """An answer came after that time to a request that went out as one of `in_flight`. `full`: at some moment
        until then all slots were in use, so that more of them would have been (RFC 7661 for TCP)."""
        if in_flight == 1 or duration_seconds < self._alone_seconds:
            # Upward only slowly: what took long may have waited for us, not for the sink.
            self._alone_seconds = min(duration_seconds, DRIFT * self._alone_seconds)
        if not full:
            return
        if duration_seconds <= max(QUEUEING * self._alone_seconds, PROMPT_SECONDS):
            self._window = min(self._window + (1 if self._doubles else 1 / self._window), self.ceiling)
        else:
            self._doubles = False
            self._window = max(self._window - 1 / self._window, min(self._window, START))

    def timed_out(self) -> None:
        """No answer came in time."""
        self._doubles = False
        self._window = max(min(self._window, self.ceiling) - 1, 1)
