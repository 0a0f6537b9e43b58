"""Turns: long computations yield to other tasks of the event loop."""

import asyncio
import time

TURN_SECONDS = 0.01
"""Maximum computing time before a yield."""


class Turns:
    """Lets one long computation yield to other tasks."""

    def __init__(self) -> None:
        self._until = time.perf_counter() + TURN_SECONDS

    @property
    def over(self) -> bool:
        """True once it is time to yield. Check it after each step."""
        return time.perf_counter() >= self._until

    async def next(self) -> None:
        """Yields to other tasks, then starts a new turn."""
        await asyncio.sleep(0)
        self._until = time.perf_counter() + TURN_SECONDS
