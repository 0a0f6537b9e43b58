"""Group commit for SQLite: all waiting writes share one transaction, which begins as soon as the previous one ends.

There is no timer. A lone write is committed at once; under load a group holds what arrived during the last commit. The
statements of a small group run in the event loop, where the driver need not wait for the interpreter at each step; the
commit, which waits for the disk, and large groups run in the writer's thread.
"""

import asyncio
import threading
from collections import deque
from typing import Protocol

from sqlalchemy.engine import Connection

from relay.errors import StoreError
from relay.store.group_commit import (
    MAX_GROUP_ITEMS,
    MAX_WAITING_ITEMS,
    Batch,
    Item,
    Result,
    Waiting,
    are_quick,
    as_store_error,
    resolve,
    run_group,
)

SMALL_GROUP_ITEMS = 48


class Transactions(Protocol):
    """What the writer needs of a database."""

    def begin(self, *, patient: bool = True) -> Connection:
        """Opens a write transaction. Waits for another program's transaction if `patient`. Raises StoreError."""

    def commit(self) -> None:
        """Commits durably."""

    def rollback(self) -> None:
        """Undoes the transaction. Never raises."""


class Writer:
    """Who has the turn has the writing connection: the thread, or the loop for the statements of a small group.

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
        self._taken = False
        """Whether somebody has the turn."""
        self._invited: asyncio.AbstractEventLoop | None = None
        """The loop that is to take the next turn, as it will do as soon as it comes to it."""
        self._for_thread = False
        """Whether what waits is the thread's to take: a group that is not small."""
        self._handed: tuple[list[Waiting], bool] | None = None
        """A group that the loop leaves to the thread, with the turn, and whether its statements have run."""
        self.commit_count = 0
        self.item_count = 0

    def start(self) -> None:
        """Starts the thread."""
        self._started = True
        self._thread.start()

    @property
    def waiting_count(self) -> int:
        """Number of items waiting for the next group."""
        return len(self._waiting)

    async def write(self, batch: Batch[Item, Result], item: Item) -> Result:
        """Runs `batch` with `item` in the next group and returns its result after the commit.

        Raises what the batch function returned or raised for this item, or StoreError if the database refuses the write
        or the store is closing. Cancelling the caller does not undo the write.
        """
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        waiting = Waiting(batch, item, loop.create_future())
        with self._condition:
            accepted = self._started and not self._closing
            if accepted:
                self._waiting.append(waiting)
                if self._invited is not None and self._invited.is_closed():
                    self._invited = None
                if not (self._taken or self._invited or self._for_thread):
                    self._invited = loop
                    loop.call_soon(self._take_turn)
        if not accepted:
            self._places.release()
            raise StoreError("the database is closing: no more writes are accepted")
        result: Result = await waiting.future
        return result

    async def close(self) -> None:
        """Commits what still waits, then ends the thread."""
        with self._condition:
            self._closing = True
            self._invited = None
            self._condition.notify()
        if self._started:
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    def _take_turn(self) -> None:
        """Runs the statements of what waits, if that is a small group."""
        with self._condition:
            self._invited = None
            if self._taken or not self._waiting:
                return
            if not self._is_small():
                self._for_thread = True
                self._condition.notify()
                return
            self._taken = True
            group = self._group()
        executed = False
        try:
            executed = self._execute(group)
        finally:
            with self._condition:
                self._handed = (group, executed)
                self._condition.notify()

    def _execute(self, group: list[Waiting]) -> bool:
        """False if a statement fails: the thread then finds out which item is at fault."""
        try:
            connection = self._transactions.begin(patient=False)
        except Exception:
            return False
        try:
            run_group(connection, group)
        except Exception:
            self._transactions.rollback()
            return False
        except BaseException:  # the process is being interrupted
            self._transactions.rollback()
            raise
        return True

    def _is_small(self) -> bool:
        return len(self._waiting) <= SMALL_GROUP_ITEMS and are_quick(self._waiting) and not self._closing

    def _group(self) -> list[Waiting]:
        return [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_GROUP_ITEMS))]

    # --- in the thread

    def _run(self) -> None:
        while True:
            with self._condition:
                while not (self._handed or self._may_begin() or self._has_ended()):
                    self._condition.wait()
                if self._has_ended():
                    return
                if self._handed:
                    (group, executed), self._handed = self._handed, None
                else:
                    self._taken, self._for_thread = True, False
                    group, executed = self._group(), False
            if not (executed and self._end(group)):
                self._commit(group)
            with self._condition:
                self._taken = False
                if self._waiting:
                    self._for_thread = not self._is_small()
                    self._invited = None if self._for_thread else group[-1].future.get_loop()
            self._resolve(group)

    def _may_begin(self) -> bool:
        return bool(self._waiting) and not self._taken and (self._for_thread or not self._invited)

    def _has_ended(self) -> bool:
        return self._closing and not (self._waiting or self._taken)

    def _end(self, group: list[Waiting]) -> bool:
        """Commits what the loop has executed. False if that failed: each item is then tried alone."""
        try:
            self._transactions.commit()
        except BaseException:
            self._transactions.rollback()
            return False
        self._count(group)
        return True

    def _commit(self, group: list[Waiting]) -> None:
        try:
            connection = self._transactions.begin()
        except Exception as error:  # each item alone would wait just as long for the database, and fail as well
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
        self._count(group)

    def _count(self, group: list[Waiting]) -> None:
        self.commit_count += 1
        self.item_count += len(group)

    def _resolve(self, group: list[Waiting]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[Waiting]] = {}
        for waiting in group:
            by_loop.setdefault(waiting.future.get_loop(), []).append(waiting)
        for loop, members in by_loop.items():
            try:
                loop.call_soon_threadsafe(self._set_results, members)
            except RuntimeError:  # the loop was closed: no caller is left
                with self._condition:
                    self._invited = None

    def _set_results(self, members: list[Waiting]) -> None:
        for _ in members:
            self._places.release()
        resolve(members)
        if self._invited is not None:
            self._take_turn()
