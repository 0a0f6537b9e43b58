"""Watches an event loop from inside: how long did it serve nobody else?"""

import asyncio
import time
from types import TracebackType
from typing import Self

BEAT_SECONDS = 0.005


class LoopWatch:
    """An async context manager that notes the longest turn of the loop inside it.

    longest_cpu_seconds   processor time of this thread: what a stall costs, whatever else the machine does
    longest_wall_seconds  the same by the clock
    """

    def __init__(self) -> None:
        self.longest_cpu_seconds = 0.0
        self.longest_wall_seconds = 0.0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            cpu, wall = time.thread_time(), time.perf_counter()
            await asyncio.sleep(BEAT_SECONDS)
            self.longest_cpu_seconds = max(self.longest_cpu_seconds, time.thread_time() - cpu)
            self.longest_wall_seconds = max(self.longest_wall_seconds, time.perf_counter() - wall - BEAT_SECONDS)
