"""Group commit for SQLite: all waiting writes share one transaction, which begins as soon as the previous one ends.

There is no timer. A lone write is committed at once; under load a group holds the items that arrived during the last
commit. The statements of a small group run in the event loop, where the driver need not wait for the interpreter at
each step; the commit, which waits for the disk, and large groups run in the writer's thread.
"""

import asyncio
import threading
from collections import deque
from enum import Enum, auto
from typing import TYPE_CHECKING

from sqlalchemy.engine import Connection

from relay.errors import StoreError
from relay.store.databases.group_commit import (
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

if TYPE_CHECKING:
    from relay.store.databases.sqlite import SqliteDatabase

SMALL_GROUP_ITEMS = 48


class Turn(Enum):
    """The user of the writing connection, present or next. Transitions:

    IDLE         -> LOOP_NEXT    a write arrives
    LOOP_NEXT    -> LOOP         the event loop takes a small group
                 -> THREAD_NEXT  the group is large or slow, the writer is closing, or the loop was closed
    LOOP         -> HANDED       the group's statements have run, or one failed
    HANDED       -> THREAD       the thread commits the group, or runs its items again
    THREAD_NEXT  -> THREAD       the thread takes the group
    THREAD       -> IDLE         nothing waits
                 -> LOOP_NEXT    a small group waits
                 -> THREAD_NEXT  any other group waits
    """

    IDLE = auto()
    LOOP_NEXT = auto()
    LOOP = auto()
    HANDED = auto()
    THREAD_NEXT = auto()
    THREAD = auto()


IDLE, LOOP_NEXT, LOOP, HANDED, THREAD_NEXT, THREAD = Turn  # faster than attributes of the Enum


class Writer:
    """Runs groups of writes, in turn in the event loop and in a thread (see `Turn`).

    `write()` returns after the commit that made its item durable; reads that begin later see it. If a group fails, each
    of its items is run again in a transaction of its own, so a bad item fails alone. At most MAX_WAITING_ITEMS are
    queued; further callers wait for a place.
    """

    def __init__(self, database: "SqliteDatabase") -> None:
        self._database = database
        self._condition = threading.Condition()
        """Guards the queue and the turn."""
        self._waiting: deque[Waiting] = deque()
        self._places = asyncio.Semaphore(MAX_WAITING_ITEMS)
        self._open = False
        """True while writes are accepted: from `start()` to `close()`."""
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._turn = IDLE
        self._next_loop: asyncio.AbstractEventLoop | None = None
        """The loop that takes the next turn, in LOOP_NEXT."""
        self._handed: tuple[list[Waiting], bool] = ([], False)
        """The group that the loop left to the thread, in HANDED, and whether its statements have run."""
        self.commit_count = 0
        self.item_count = 0

    def start(self) -> None:
        """Starts the thread."""
        self._open = True
        self._thread.start()

    async def write(self, batch: Batch[Item, Result], item: Item) -> Result:
        """Runs `batch` with `item` in the next group and returns its result after the commit.

        Raises what the batch function returned or raised for this item, or StoreError if the database refuses the write
        or the store is closing. Cancelling the caller does not undo the write.
        """
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        waiting = Waiting(batch, item, loop.create_future())
        with self._condition:
            accepted = self._open
            if accepted:
                self._waiting.append(waiting)
                if self._turn is IDLE or (self._turn is LOOP_NEXT and self._loop_is_closed()):
                    self._turn, self._next_loop = LOOP_NEXT, loop
                    loop.call_soon(self._take_turn)
        if not accepted:
            self._places.release()
            raise StoreError("the database is closing: no more writes are accepted")
        result: Result = await waiting.future
        return result

    async def close(self) -> None:
        """Commits the waiting items, then ends the thread."""
        with self._condition:
            self._open = False
            self._leave_to_thread()
            self._condition.notify()
        if self._thread.is_alive():
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    # --- in the event loop

    def _take_turn(self) -> None:
        """Runs the statements of a small group, or leaves the group to the thread."""
        with self._condition:
            if self._turn is not LOOP_NEXT:
                return
            if not self._is_small():
                self._leave_to_thread()
                self._condition.notify()
                return
            self._turn = LOOP
            group = self._group()
        executed = False
        try:
            executed = self._execute(group)
        finally:
            with self._condition:
                self._turn, self._handed = HANDED, (group, executed)
                self._condition.notify()

    def _leave_to_thread(self) -> None:
        if self._turn is LOOP_NEXT:
            self._turn, self._next_loop = THREAD_NEXT, None

    def _loop_is_closed(self) -> bool:
        return self._next_loop is not None and self._next_loop.is_closed()

    def _execute(self, group: list[Waiting]) -> bool:
        """False if a statement fails: the thread then finds out which item is at fault."""
        try:
            connection = self._database.begin(patient=False)
        except Exception:
            return False
        try:
            run_group(connection, group)
        except Exception:
            self._database.rollback()
            return False
        except BaseException:  # the process is being interrupted
            self._database.rollback()
            raise
        return True

    def _is_small(self) -> bool:
        if len(self._waiting) > SMALL_GROUP_ITEMS or not self._open:
            return False
        return all(getattr(waiting.batch, "is_quick", False) for waiting in self._waiting)

    def _group(self) -> list[Waiting]:
        return [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_GROUP_ITEMS))]

    # --- in the thread

    def _run(self) -> None:
        while True:
            with self._condition:
                while self._turn not in (HANDED, THREAD_NEXT):
                    if not self._open and self._turn is IDLE:
                        return
                    self._condition.wait()
                group, executed = self._handed if self._turn is HANDED else (self._group(), False)
                self._turn, self._handed = THREAD, ([], False)
            if not (executed and self._end(group)):
                self._commit(group)
            with self._condition:
                if not self._waiting:
                    self._turn = IDLE
                elif self._is_small():
                    self._turn, self._next_loop = LOOP_NEXT, group[-1].future.get_loop()
                else:
                    self._turn = THREAD_NEXT
            self._resolve(group)

    def _end(self, group: list[Waiting]) -> bool:
        """Commits the statements that the loop has executed. False if that failed: each item is then tried alone."""
        try:
            self._database.commit()
        except BaseException:
            self._database.rollback()
            return False
        self._count(group)
        return True

    def _commit(self, group: list[Waiting]) -> None:
        try:
            connection = self._database.begin()
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
            self._database.commit()
        except BaseException:
            self._database.rollback()
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
                    self._leave_to_thread()

    def _set_results(self, members: list[Waiting]) -> None:
        for _ in members:
            self._places.release()
        resolve(members)
        if self._turn is LOOP_NEXT:
            self._take_turn()
