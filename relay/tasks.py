"""Tasks that go on by themselves after whoever started them has gone on, until all are asked to end."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Tasks:
    """asyncio keeps no hold of a task; this does, until it has ended."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Begins one."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def drain(self) -> None:
        """Waits until none is left."""
        while self._running:
            await asyncio.wait(list(self._running))

    def cancel(self) -> None:
        """Asks all to end now."""
        for task in list(self._running):
            task.cancel()

    async def finish(self, timeout_seconds: float) -> None:
        """Lets all end within the time, and cancels the rest."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + timeout_seconds
        while self._running and (left := ends_at - loop.time()) > 0:  # one that ends may have started another
            await asyncio.wait(list(self._running), timeout=left)
        while self._running:
            self.cancel()
            await asyncio.wait(list(self._running))
