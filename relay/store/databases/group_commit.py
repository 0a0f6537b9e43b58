"""Group commit, for either database: batch functions, queued items, and running one group.

A write is a *batch function* and one item. A batch function receives all its items of a group, so a hundred attempt
results take a few statements, not hundreds.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from functools import update_wrapper
from typing import Any, TypeVar

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DataError, SQLAlchemyError

from relay.errors import StoreError, ValueRefused
from relay.store.databases.locks import take_all

Item = TypeVar("Item")
Result = TypeVar("Result")

Batch = Callable[[Connection, Sequence[Item]], Sequence[Result | Exception]]
"""Processes `items` in one transaction. Returns a result per item, or the error of that item alone. Database errors
must propagate, because they may have ended the transaction."""

Function = TypeVar("Function", bound=Callable[..., Any])

REFUSALS = (SQLAlchemyError, sqlite3.Error)
"""Errors of the database. SQLite's driver is also used without SQLAlchemy."""

_COLLECTED = "relay_collected"
MAX_GROUP_ITEMS = 500
MAX_WAITING_ITEMS = 5_000


def quick(batch: Function) -> Function:
    """Marks a batch function that touches few rows per item and waits for nothing."""
    batch.is_quick = True  # type: ignore[attr-defined]
    return batch


def single(query: Function) -> Function:
    """Marks a query for `Database.read` that is one statement. On PostgreSQL it needs no transaction, whose beginning
    and end are round trips."""
    query.is_single = True  # type: ignore[attr-defined]
    return query


def alone(most_items: int = 1) -> Callable[[Function], Function]:
    """Marks a batch function that locks rows of several tables. On PostgreSQL it runs in a separate transaction of at
    most `most_items` items, because its locks would break the lock order of others. See `locks`."""

    def mark(batch: Function) -> Function:
        batch.most_items_alone = most_items  # type: ignore[attr-defined]
        return batch

    return mark


def each(one: Callable[[Connection, Item], Result | Exception]) -> Batch[Item, Result]:
    """A batch function that runs `one` for each item."""

    def batch(connection: Connection, items: Sequence[Item]) -> Sequence[Result | Exception]:
        return [one(connection, item) for item in items]

    return update_wrapper(batch, one)


def in_order_of(
    key: Callable[[Any], Any],
) -> Callable[[Callable[[Connection, Item], Result | Exception]], Batch[Item, Result]]:
    """Like `each`, in key order, so that nodes that lock the same rows never deadlock."""

    def decorate(one: Callable[[Connection, Item], Result | Exception]) -> Batch[Item, Result]:
        def batch(connection: Connection, items: Sequence[Item]) -> Sequence[Result | Exception]:
            places = sorted(range(len(items)), key=lambda place: key(items[place]))
            results = {place: one(connection, items[place]) for place in places}
            return [results[place] for place in range(len(items))]

        return update_wrapper(batch, one)

    return decorate


class Waiting:
    """An item that waits for its commit, and its result."""

    __slots__ = ("batch", "future", "item", "result")

    def __init__(self, batch: Batch[Any, Any], item: Any, future: "asyncio.Future[Any]") -> None:
        self.batch = batch
        self.item = item
        self.future = future
        self.result: Any = None


def next_group(waiting: deque[Waiting]) -> list[Waiting]:
    """Removes the next group from a queue: items of one `alone` batch function, or items of all others."""
    first = waiting[0].batch
    most = getattr(first, "most_items_alone", None)
    group: list[Waiting] = []
    later: list[Waiting] = []
    while waiting and len(group) < (most or MAX_GROUP_ITEMS):
        one = waiting.popleft()
        belongs = one.batch == first if most else not hasattr(one.batch, "most_items_alone")
        (group if belongs else later).append(one)
    waiting.extendleft(reversed(later))
    return group


def collected(connection: Connection, work: Callable[[Connection, list[Any]], None]) -> list[Any]:
    """The open transaction's list of items for `work`, which runs once with them after the statements of the whole
    group. Works run in the order of their names, and may collect items for later ones. They take contended locks: late,
    and in one order."""
    found: list[Any] = connection.info.setdefault(_COLLECTED, {}).setdefault(work, [])
    return found


def run_group(connection: Connection, group: Sequence[Waiting]) -> None:
    """Runs each batch function with all its items in the open transaction and stores the results, then runs the
    collected work. The order of locks is in `locks`."""
    connection.info.pop(_COLLECTED, None)  # left by a failed group
    by_batch: dict[Batch[Any, Any], list[Waiting]] = {}
    for waiting in group:
        by_batch.setdefault(waiting.batch, []).append(waiting)
    take_all(connection, ((batch, [one.item for one in members]) for batch, members in by_batch.items()))
    for batch, members in sorted(by_batch.items(), key=_name_of):
        results = batch(connection, [member.item for member in members])
        for member, result in zip(members, results, strict=True):
            member.result = result
    while works := connection.info.get(_COLLECTED):  # work may collect items for later work
        work = min(works, key=_place_of)
        work(connection, works.pop(work))


def _name_of(work: tuple[Batch[Any, Any], object]) -> tuple[str, str]:
    return _place_of(work[0])


def _place_of(function: Callable[..., Any]) -> tuple[str, str]:
    return function.__module__, function.__qualname__


def resolve(group: Sequence[Waiting]) -> None:
    """Sets each caller's result or error. Call it in the callers' event loop."""
    for waiting in group:
        if waiting.future.done():
            continue
        if isinstance(waiting.result, StopIteration):  # a future rejects it, and its caller would never return
            waiting.future.set_exception(RuntimeError("a batch function raised StopIteration"))
        elif isinstance(waiting.result, Exception):
            waiting.future.set_exception(waiting.result)
        else:
            waiting.future.set_result(waiting.result)


def as_store_error(error: Exception) -> Exception:
    """A driver's error as StoreError or ValueRefused; other errors unchanged."""
    if not isinstance(error, REFUSALS):
        return error
    original = getattr(error, "orig", None) or error
    kind = ValueRefused if _is_of_a_value(error, original) else StoreError
    made = kind(f"the database refused a write or a read: {str(original).splitlines()[0]}")
    made.__cause__ = error
    return made


def _is_of_a_value(error: Exception, original: BaseException) -> bool:
    """True if the value itself is refused, so that a retry is useless: SQLSTATE 22, PostgreSQL's "data exception",
    or asyncpg's own error for values it cannot encode."""
    state = str(getattr(original, "sqlstate", None) or "")
    message = str(original)
    return (
        isinstance(error, DataError | sqlite3.DataError | sqlite3.InterfaceError)
        or state.startswith("22")
        or "asyncpg.exceptions.DataError" in message
    )
