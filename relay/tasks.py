"""Background tasks that outlive the call that started them and are ended together, and long computations that yield."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any


class Tasks:
    """A set of running tasks. asyncio itself keeps only weak references to them."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Starts a task."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def drain(self) -> None:
        """Waits until all have ended."""
        while self._running:
            await asyncio.wait(list(self._running))

    def cancel(self) -> None:
        """Cancels all; does not wait."""
        for task in list(self._running):
            task.cancel()

    async def finish(self, timeout_seconds: float) -> None:
        """Waits for all, then cancels those that still run after the timeout."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + timeout_seconds
        while self._running and (left := ends_at - loop.time()) > 0:  # a task may start another before it ends
            await asyncio.wait(list(self._running), timeout=left)
        while self._running:
            self.cancel()
            await asyncio.wait(list(self._running))


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
