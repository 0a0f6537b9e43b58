"""Group reads: keys that are asked for at once, or while a read is under way, are read together in the next one.

A read costs a thread or a server's round trip some ten hand-overs of the interpreter, one row or many. Like group
commit it needs no timer, and alone nobody waits for others.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from sqlalchemy.engine import Connection

from relay.errors import StoreError
from relay.store.database import Database
from relay.tasks import Tasks

MAX_KEYS = 500
FEW_KEYS = 16
"""So many are read without waiting for anybody, where the database can do that."""
PATIENCE_SECONDS = 1.0
"""A read that takes longer is not waited for by the next."""

Value = TypeVar("Value")
Asked = tuple[str, asyncio.Future[Value | None]]


class Lookup(Generic[Value]):
    """Values by key. `query` reads what it finds of some keys."""

    def __init__(self, database: Database, query: Callable[[Connection, Sequence[str]], Mapping[str, Value]]) -> None:
        self._database = database
        self._query = query
        self._waiting: list[Asked[Value]] = []
        self._tasks = Tasks()
        self._reading = False

    async def get(self, key: str) -> Value | None:
        """The value as every write that has returned left it; None where there is none. Raises StoreError."""
        future: asyncio.Future[Value | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, future))
        if not self._reading:
            self._reading = True
            self._tasks.start(self._read())  # not in the caller's task, who may be cancelled
        return await future

    async def _read(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:MAX_KEYS], self._waiting[MAX_KEYS:]
                if len(group) <= FEW_KEYS and self._glance(group):
                    continue
                answering = self._tasks.start(self._answer(group))
                await asyncio.wait([answering], timeout=PATIENCE_SECONDS)  # a dead connection holds up its own group
        finally:
            self._reading = False

    def _glance(self, group: Sequence[Asked[Value]]) -> bool:
        try:
            found = self._database.glance(self._query, [key for key, _ in group])
        except Exception:  # a row that can not be understood: each is read again
            return False
        if found is not None:
            _give(group, found)
        return found is not None

    async def _answer(self, group: Sequence[Asked[Value]]) -> None:
        try:
            found = await self._database.read(self._query, [key for key, _ in group])
        except Exception as error:
            if len(group) > 1 and not isinstance(error, StoreError):  # one row that can not be understood, say
                for one in group:
                    await self._answer([one])
                return
            for _, future in group:
                if not future.done():
                    future.set_exception(error)
        else:
            _give(group, found)


def _give(group: Sequence[Asked[Value]], found: Mapping[str, Value]) -> None:
    for key, future in group:
        if not future.done():
            future.set_result(found.get(key))
