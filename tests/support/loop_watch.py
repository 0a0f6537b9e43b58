"""How much processor time something takes, and how long an event loop serves no other task, watched from inside.

Processor time of one thread, so that neither a busy machine nor the other threads of a test count. The collection of
garbage that other tests have left does not count either.
"""

import asyncio
import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

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


@contextmanager
def counted_calls() -> Iterator[Callable[[], int]]:
    """Counts the calls of functions, Python's and C's: work that no other program on the machine changes. The result
    is how many there were so far."""
    calls, before = 0, sys.getprofile()

    def note(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event.endswith("call")

    sys.setprofile(note)
    try:
        yield lambda: calls
    finally:
        sys.setprofile(before)


async def most_calls_of_a_turn(work: Callable[[], Any]) -> int:
    """Awaits `work()`, and returns how many functions were called in the busiest turn of the loop meanwhile."""
    most, ended = 0, False

    async def watch(calls: Callable[[], int]) -> None:
        nonlocal most
        while not ended:
            before = calls()
            await asyncio.sleep(0)
            most = max(most, calls() - before)

    with counted_calls() as calls:
        watching = asyncio.create_task(watch(calls))
        await asyncio.sleep(0)
        try:
            await work()
        finally:
            ended = True
            await watching
    return most


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
