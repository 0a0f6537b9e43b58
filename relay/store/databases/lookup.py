"""Group reads: keys requested at the same time, or during a read, are read together by the next one.

One read costs a thread switch or a server round trip, whether it reads one row or many. Like group commit it needs no
timer, and a single request does not wait.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from sqlalchemy.engine import Connection

from relay.errors import StoreError
from relay.store.databases.database import Database
from relay.store.databases.group_commit import single
from relay.tasks import Tasks

MAX_KEYS = 500
FEW_KEYS = 64
"""Up to this many keys are read in the caller's thread, if the database supports that: the polls that an account starts
at once."""
PATIENCE_SECONDS = 1.0
"""The next read does not wait for one that takes longer."""

Value = TypeVar("Value")
Asked = tuple[str, asyncio.Future[Value | None]]


class Lookup(Generic[Value]):
    """Values by key. `query` reads the values of several keys in one statement."""

    def __init__(self, database: Database, query: Callable[[Connection, Sequence[str]], Mapping[str, Value]]) -> None:
        self._database = database
        self._query = single(query)
        self._waiting: list[Asked[Value]] = []
        self._tasks = Tasks()
        self._reading = False

    async def get(self, key: str) -> Value | None:
        """The value after every write that has returned; None if there is none. Raises StoreError."""
        future: asyncio.Future[Value | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, future))
        if not self._reading:
            self._reading = True
            self._tasks.start(self._read())  # not in the caller's task, which may be cancelled
        return await future

    async def _read(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:MAX_KEYS], self._waiting[MAX_KEYS:]
                if len(group) <= FEW_KEYS and self._try_read(group):
                    continue
                answering = self._tasks.start(self._answer(group))
                await asyncio.wait([answering], timeout=PATIENCE_SECONDS)  # a dead connection delays only its own group
        finally:
            self._reading = False

    def _try_read(self, group: Sequence[Asked[Value]]) -> bool:
        try:
            found = self._database.try_read(self._query, [key for key, _ in group])
        except Exception:  # a row cannot be decoded: read each key alone
            return False
        if found is not None:
            _give(group, found)
        return found is not None

    async def _answer(self, group: Sequence[Asked[Value]]) -> None:
        try:
            found = await self._database.read(self._query, [key for key, _ in group])
        except Exception as error:
            if len(group) > 1 and not isinstance(error, StoreError):  # for example, one row that cannot be decoded
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
