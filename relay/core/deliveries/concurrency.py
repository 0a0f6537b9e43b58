"""Adaptive concurrency of one subscription: as many requests in flight as its sink can use.

Each timeout removes a slot, so a dead sink keeps one. Each success while all slots are in use adds to them, as long as
responses are about as fast as to a single request; if they are slower, requests queue at the sink and the window
shrinks. The first is TCP's additive increase (Chiu and Jain 1989), the second its delay-based form, Vegas (Brakmo and
Peterson 1995).
"""

import math
from dataclasses import dataclass

START = 8
QUEUEING = 2.0
"""A response this many times slower than one to a single request has queued at the sink."""
PROMPT_SECONDS = 0.01
"""Responses within this time have not queued at the sink: any wait was in the relay."""
DRIFT = 1.1


@dataclass(slots=True)
class Concurrency:
    """The concurrency window of one subscription; `ceiling` is its maximum."""

    ceiling: int
    _window: float = START
    _alone_seconds: float = math.inf
    _doubles: bool = True
    """True until the first timeout or queueing: each round doubles the window. After that it adds one."""

    @property
    def limit(self) -> int:
        """Maximum requests in flight, from 1 to the ceiling."""
        return max(1, min(int(self._window), self.ceiling))

    @property
    def alone_seconds(self) -> float:
        """Response time of the sink to a single request; inf before the first response."""
        return self._alone_seconds

    def succeeded(self, duration_seconds: float, *, in_flight: int, full: bool) -> None:
        """Records a response to a request sent as one of `in_flight`.

        full  all slots were in use at some moment until then; otherwise the window does not grow (RFC 7661 for TCP)
        """
        if in_flight == 1 or duration_seconds < self._alone_seconds:
            # Rises slowly: a long time may be the relay's own delay rather than the sink's.
            self._alone_seconds = min(duration_seconds, DRIFT * self._alone_seconds)
        if not full:
            return
        if duration_seconds <= max(QUEUEING * self._alone_seconds, PROMPT_SECONDS):
            self._window = min(self._window + (1 if self._doubles else 1 / self._window), self.ceiling)
        else:
            self._doubles = False
            self._window = max(self._window - 1 / self._window, min(self._window, START))

    def timed_out(self) -> None:
        """Records a timeout."""
        self._doubles = False
        self._window = max(min(self._window, self.ceiling) - 1, 1)
