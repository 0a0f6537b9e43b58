"""Group commit: everything that waits to be written shares one transaction, as soon as the one before has ended.

There is no timer: a lone write is committed at once, and under load a group grows by itself to what came in during
the last commit.
"""

import asyncio
import contextlib
import threading
from collections import deque
from typing import Protocol

from sqlalchemy.engine import Connection

from relay.errors import StoreError
from relay.store.groups import (
    MAX_GROUP_ITEMS,
    MAX_WAITING_ITEMS,
    Batch,
    Item,
    Result,
    Waiting,
    as_store_error,
    resolve,
    run_group,
)


class Transactions(Protocol):
    """What the writer thread needs of a database."""

    def begin(self) -> Connection:
        """Opens a write transaction. Raises StoreError when the database does not let us."""

    def commit(self) -> None:
        """Makes it durable."""

    def rollback(self) -> None:
        """Undoes it. Never raises."""


class Writer:
    """One thread that owns the writing connection.

    `write()` returns after the commit that made its item durable; reads that begin later see it. When a group fails,
    each of its items is run again in a transaction of its own, so one bad item fails alone. At most MAX_WAITING_ITEMS
    wait; whoever comes then waits for a place first.
    """

    def __init__(self, transactions: Transactions, *, name: str = "store-writer") -> None:
        self._transactions = transactions
        self._condition = threading.Condition()
        self._waiting: deque[Waiting] = deque()
        self._places = asyncio.Semaphore(MAX_WAITING_ITEMS)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._started = False
        self.commit_count = 0
        self.item_count = 0

    def start(self) -> None:
        """Starts the thread."""
        self._started = True
        self._thread.start()

    @property
    def waiting_count(self) -> int:
        """How many items wait for the next group."""
        return len(self._waiting)

    async def write(self, batch: Batch[Item, Result], item: Item) -> Result:
        """Runs `batch` with `item` in the next group and returns its result once that is committed.

        Raises what the batch function returned or raised for this item, StoreError when the database refuses it or the
        store is closing. Cancelling the caller does not undo the write.
        """
        await self._places.acquire()
        waiting = Waiting(batch, item, asyncio.get_running_loop().create_future())
        with self._condition:
            accepted = self._started and not self._closing
            if accepted:
                self._waiting.append(waiting)
                self._condition.notify()
        if not accepted:
            self._places.release()
            raise StoreError("the database is closing: nothing more is written")
        result: Result = await waiting.future
        return result

    async def close(self) -> None:
        """Writes what still waits, then ends the thread."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        if self._started:
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._waiting and not self._closing:
                    self._condition.wait()
                if not self._waiting:
                    return
                group = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_GROUP_ITEMS))]
            self._commit(group)
            self._resolve(group)

    def _commit(self, group: list[Waiting]) -> None:
        try:
            connection = self._transactions.begin()
        except Exception as error:  # one by one, each would wait just as long for the database and fail as well
            for waiting in group:
                waiting.result = error
            return
        try:
            self._transact(connection, group)
        except Exception as error:
            if len(group) == 1:
                group[0].result = as_store_error(error)
                return
            for waiting in group:
                self._commit([waiting])

    def _transact(self, connection: Connection, group: list[Waiting]) -> None:
        try:
            run_group(connection, group)
            self._transactions.commit()
        except BaseException:
            self._transactions.rollback()
            raise
        self.commit_count += 1
        self.item_count += len(group)

    def _resolve(self, group: list[Waiting]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[Waiting]] = {}
        for waiting in group:
            by_loop.setdefault(waiting.future.get_loop(), []).append(waiting)
        for loop, members in by_loop.items():
            with contextlib.suppress(RuntimeError):  # a loop that was closed meanwhile has nobody left who waits
                loop.call_soon_threadsafe(self._set_results, members)

    def _set_results(self, members: list[Waiting]) -> None:
        for _ in members:
            self._places.release()
        resolve(members)
