"""What group commit is made of, whichever database does it: batch functions, items that wait, and one transaction.

A write is a *batch function* and one item; a batch function is handed all of its items of a group, so a hundred marks
are a few statements, not hundreds.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DataError, SQLAlchemyError

from relay.errors import StoreError, ValueRefused

Item = TypeVar("Item")
Result = TypeVar("Result")

Batch = Callable[[Connection, Sequence[Item]], Sequence[Result | Exception]]
"""Does the work of all `items` in one transaction; returns a result for each, or the error that only it is to have.
What the database refuses it lets through: the transaction may be over by then."""

Function = TypeVar("Function", bound=Callable[..., Any])

REFUSALS = (SQLAlchemyError, sqlite3.Error)
"""What says that a database refuses something: SQLite's driver is asked without SQLAlchemy, too."""

MAX_GROUP_ITEMS = 500
MAX_WAITING_ITEMS = 5_000


def quick(batch: Function) -> Function:
    """Marks a batch function that touches few rows for each item and waits for nothing."""
    batch.is_quick = True  # type: ignore[attr-defined]
    return batch


class Waiting:
    """An item that waits for its commit, and what came of it."""

    __slots__ = ("batch", "future", "item", "result")

    def __init__(self, batch: Batch[Any, Any], item: Any, future: "asyncio.Future[Any]") -> None:
        self.batch = batch
        self.item = item
        self.future = future
        self.result: Any = None


def are_quick(group: Iterable[Waiting]) -> bool:
    """Whether none of these takes long."""
    return all(getattr(waiting.batch, "is_quick", False) for waiting in group)


def run_group(connection: Connection, group: Sequence[Waiting]) -> None:
    """Hands each batch function all of its items, in the open transaction, and notes their results."""
    by_batch: dict[Batch[Any, Any], list[Waiting]] = {}
    for waiting in group:
        by_batch.setdefault(waiting.batch, []).append(waiting)
    for batch, members in by_batch.items():
        results = batch(connection, [member.item for member in members])
        for member, result in zip(members, results, strict=True):
            member.result = result


def resolve(group: Sequence[Waiting]) -> None:
    """Gives each caller its result or its error; to be called in the callers' loop."""
    for waiting in group:
        if waiting.future.done():
            continue
        if isinstance(waiting.result, Exception):
            waiting.future.set_exception(waiting.result)
        else:
            waiting.future.set_result(waiting.result)


def as_store_error(error: Exception) -> Exception:
    """What callers see of a driver's error; any other stays what it is."""
    if not isinstance(error, REFUSALS):
        return error
    original = getattr(error, "orig", None) or error
    kind = ValueRefused if _is_of_a_value(error, original) else StoreError
    made = kind(f"the database refused a write or a read: {str(original).splitlines()[0]}")
    made.__cause__ = error
    return made


def _is_of_a_value(error: Exception, original: BaseException) -> bool:
    """Whether it would be the same for ever: SQLSTATE 22 is PostgreSQL's “data exception”, asyncpg has one of its own
    for what it can not encode."""
    state = str(getattr(original, "sqlstate", None) or "")
    told = str(original)
    return (
        isinstance(error, DataError | sqlite3.DataError | sqlite3.InterfaceError)
        or state.startswith("22")
        or "asyncpg.exceptions.DataError" in told
    )
