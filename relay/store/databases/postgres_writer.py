"""Group commit for PostgreSQL: a task with the guarantees of `relay.store.databases.sqlite_writer`, over a network
that can fail."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from relay.errors import StoreError
from relay.store.databases.group_commit import (
    MAX_WAITING_ITEMS,
    Batch,
    Item,
    Result,
    Waiting,
    next_group,
    resolve,
)
from relay.store.databases.postgres_engine import as_ours, is_conflict, is_unavailable, reason_of

PATIENCE_SECONDS = 30.0
FIRST_PAUSE_SECONDS = 0.05
LAST_PAUSE_SECONDS = 1.0
MAX_CONFLICTS = 5

log = structlog.get_logger("relay.store")


class AsyncWriter:
    """Group commit in a task. See `relay.store.databases.sqlite_writer` for its guarantees.

    transaction    opens a write transaction; runs a group in it and returns its id (None: nothing was written)
    was_committed  whether the transaction with an id was committed
    """

    def __init__(self, transaction: Callable[[], Any], was_committed: Callable[[str], Awaitable[bool]]) -> None:
        self._transaction = transaction
        self._was_committed = was_committed
        self._waiting: deque[Waiting] = deque()
        self._places = asyncio.Semaphore(MAX_WAITING_ITEMS)
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._trouble_since = 0.0
        self.trouble: str | None = None
        self.commit_count = 0
        self.item_count = 0

    def start(self) -> None:
        """Starts the task."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def write(self, batch: Batch[Item, Result], item: Item) -> Result:
        """Runs `batch` with `item` in the next group and returns its result after the commit.

        Raises the error that the batch function returned or raised for this item. Raises StoreError if the database
        refuses the write, is unreachable for PATIENCE_SECONDS, or is closing. Cancelling the caller does not undo the
        write.
        """
        await self._places.acquire()
        if self._task is None or self._closing:
            self._places.release()
            raise StoreError("the database is closing: no more writes are accepted")
        waiting = Waiting(batch, item, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._wake.set()
        result: Result = await waiting.future
        return result

    async def close(self) -> None:
        """Commits the waiting items, then ends the task."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        while self._waiting or not self._closing:
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
                continue
            group = next_group(self._waiting)
            await self._commit(group)
            for _ in group:
                self._places.release()
            resolve(group)

    async def _commit(self, group: list[Waiting]) -> None:
        pause_seconds, conflicts = FIRST_PAUSE_SECONDS, 0
        transaction: str | None = None  # whose outcome is unknown
        while True:
            try:
                if transaction is None or not await self._was_committed(transaction):
                    transaction = None
                    async with self._transaction() as run:
                        transaction = await run(group)
            except Exception as error:
                if is_conflict(error) and conflicts < MAX_CONFLICTS:
                    transaction = None
                    conflicts += 1
                elif is_unavailable(error):
                    if not self._waits(error):
                        break
                    await asyncio.sleep(pause_seconds)
                    pause_seconds = min(2 * pause_seconds, LAST_PAUSE_SECONDS)
                elif len(group) == 1:
                    group[0].result = as_ours(error)
                    return
                else:
                    for waiting in group:
                        await self._commit([waiting])
                    return
            else:
                self._recovered()
                self.commit_count += 1
                self.item_count += len(group)
                return
        for waiting in group:
            waiting.result = StoreError(f"the database cannot be written: {self.trouble}")

    def _waits(self, error: Exception) -> bool:
        """Records the trouble. Returns whether the group should be tried again."""
        now = time.monotonic()
        if self.trouble is None:
            self._trouble_since = now
            log.warning("database_unavailable", error=reason_of(error))
        self.trouble = reason_of(error)
        return not self._closing and now - self._trouble_since < PATIENCE_SECONDS

    def _recovered(self) -> None:
        if self.trouble is not None:
            log.info("database_available", after_seconds=round(time.monotonic() - self._trouble_since, 1))
            self.trouble = None
