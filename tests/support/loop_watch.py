"""How much processor time something takes, and how long an event loop serves no other task, watched from inside.

Processor time of one thread, so that neither a busy machine nor the other threads of a test count. The collection of
garbage that other tests have left does not count either.
"""

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

BEAT_SECONDS = 0.005


def forget_earlier_objects() -> None:
    """From here on the garbage collector goes through new objects only: a collection after thousands of tests takes
    as long as the stalls that are looked for."""
    gc.collect()
    gc.freeze()


@contextmanager
def processor_seconds(limit: float) -> Iterator[None]:
    """Fails if this thread computes for longer."""
    gc.disable()
    began = time.thread_time()
    try:
        yield
    finally:
        took = time.thread_time() - began
        gc.enable()
    assert took < limit


class LoopWatch:
    """An async context manager that notes the longest turn of the loop inside it.

    longest_cpu_seconds   processor time of this thread: what a stall costs, whatever else the machine does
    longest_wall_seconds  the same by the clock
    """

    def __init__(self) -> None:
        self.longest_cpu_seconds = 0.0
        self.longest_wall_seconds = 0.0

    async def __aenter__(self) -> Self:
        forget_earlier_objects()
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
