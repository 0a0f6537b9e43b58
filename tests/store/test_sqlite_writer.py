"""The thread that writes to SQLite: groups are limited, callers get their own results, a bad item fails alone."""

import asyncio
import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError

from relay.errors import StoreError
from relay.store.databases.group_commit import Waiting, collected, quick
from relay.store.databases.sqlite_writer import MAX_GROUP_ITEMS, MAX_WAITING_ITEMS, SMALL_GROUP_ITEMS, Turn, Writer


class FakeDatabase:
    """Counts; fails at begin or commit on request."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.info: dict[str, Any] = {}
        self.begin_error: Exception | None = None
        self.commit_error: Exception | None = None

    def begin(self, *, patient: bool = True) -> Any:
        if self.begin_error is not None:
            self.log.append("begin failed")
            raise self.begin_error
        self.log.append("begin")
        return SimpleNamespace(info=self.info)

    def commit(self) -> None:
        error, self.commit_error = self.commit_error, None
        if error is not None:
            raise error
        self.log.append("commit")

    def rollback(self) -> None:
        self.log.append("rollback")


def echo(connection: Connection, items: Sequence[Any]) -> list[Any]:
    return list(items)


def refuse_negative(connection: Connection, items: Sequence[int]) -> list[int]:
    if any(item < 0 for item in items):
        raise ValueError("negative")
    return list(items)


@quick
def where(connection: Connection, items: Sequence[Any]) -> list[str]:
    """The thread in which each item is written."""
    return [threading.current_thread().name] * len(items)


class Gate:
    """A write that blocks the writer's thread until it is released."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

    def batch(self, connection: Connection, items: Sequence[Any]) -> list[Any]:
        self.entered.set()
        assert self.opened.wait(30)
        return list(items)

    async def hold(self, writer: Writer) -> "asyncio.Task[Any]":
        task = asyncio.ensure_future(writer.write(self.batch, None))
        await asyncio.get_running_loop().run_in_executor(None, self.entered.wait, 30)
        return task


@pytest.fixture
def transactions() -> FakeDatabase:
    return FakeDatabase()


@pytest.fixture
async def writer(transactions: FakeDatabase) -> Any:
    made = Writer(transactions)
    made.start()
    yield made
    await made.close()


async def test_a_group_has_a_limit(writer: Writer, transactions: FakeDatabase) -> None:
    gate = Gate()
    holder = await gate.hold(writer)
    writes = [asyncio.ensure_future(writer.write(echo, nth)) for nth in range(MAX_GROUP_ITEMS + 1)]
    await asyncio.sleep(0)
    gate.opened.set()
    await holder
    assert await asyncio.gather(*writes) == list(range(MAX_GROUP_ITEMS + 1))
    assert writer.commit_count == 3
    assert transactions.log == ["begin", "commit"] * 3


async def test_queue_never_exceeds_its_limit(writer: Writer) -> None:
    gate = Gate()
    holder = await gate.hold(writer)
    writes = [asyncio.ensure_future(writer.write(echo, nth)) for nth in range(MAX_WAITING_ITEMS + 50)]
    await asyncio.sleep(0)
    assert len(writer._waiting) == MAX_WAITING_ITEMS - 1  # the one that holds the thread has a place as well
    for write in writes[:100]:
        write.cancel()
    await asyncio.wait(writes[:100])
    assert len(writer._waiting) == MAX_WAITING_ITEMS - 1  # what was cancelled is written all the same
    gate.opened.set()
    await holder
    assert await asyncio.gather(*writes[100:]) == list(range(100, MAX_WAITING_ITEMS + 50))


async def test_a_bad_item_fails_alone_and_the_others_are_committed(writer: Writer, transactions: FakeDatabase) -> None:
    gate = Gate()
    holder = await gate.hold(writer)
    writes = [asyncio.ensure_future(writer.write(refuse_negative, nth)) for nth in (1, -2, 3)]
    await asyncio.sleep(0)
    gate.opened.set()
    await holder
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert [repr(result) for result in results] == ["1", "ValueError('negative')", "3"]
    assert transactions.log == [
        *("begin", "commit"),
        *("begin", "rollback"),
        *("begin", "commit", "begin", "rollback", "begin", "commit"),
    ]


async def test_caller_hears_of_an_error_that_no_future_takes(writer: Writer) -> None:
    def empty(connection: Connection, items: Sequence[Any]) -> list[Any]:
        return [next(iter(())) for _ in items]

    with pytest.raises(RuntimeError, match="StopIteration"):
        async with asyncio.timeout(10):
            await writer.write(empty, 1)
    assert await writer.write(echo, 2) == 2


async def test_failed_commit_is_retried_item_by_item(writer: Writer, transactions: FakeDatabase) -> None:
    transactions.commit_error = OperationalError("COMMIT", None, Exception("disk I/O error"))
    gate = Gate()
    holder = await gate.hold(writer)
    writes = [asyncio.ensure_future(writer.write(echo, nth)) for nth in range(2)]
    await asyncio.sleep(0)
    gate.opened.set()
    with pytest.raises(StoreError, match="disk I/O error"):
        await holder
    assert await asyncio.gather(*writes) == [0, 1]


async def test_unwritable_database_fails_the_whole_group_at_once(writer: Writer, transactions: FakeDatabase) -> None:
    gate = Gate()
    holder = await gate.hold(writer)
    transactions.begin_error = StoreError("the database is locked")
    writes = [asyncio.ensure_future(writer.write(echo, nth)) for nth in range(3)]
    await asyncio.sleep(0)
    gate.opened.set()
    await holder
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert all(isinstance(result, StoreError) for result in results)
    assert transactions.log.count("begin failed") == 1
    transactions.begin_error = None
    assert await writer.write(echo, 4) == 4


def test_loop_closed_before_its_write_does_not_stop_the_writer(transactions: FakeDatabase) -> None:
    writer = Writer(transactions)
    writer.start()
    gate = Gate()

    async def leaves() -> None:
        asyncio.ensure_future(writer.write(gate.batch, None))  # noqa: RUF006 - abandoned on purpose
        await asyncio.get_running_loop().run_in_executor(None, gate.entered.wait, 30)

    asyncio.run(leaves())
    gate.opened.set()

    async def goes_on() -> None:
        assert await writer.write(echo, 1) == 1
        await writer.close()

    asyncio.run(goes_on())


async def test_the_statements_of_a_small_group_run_in_the_loop_and_its_commit_in_the_thread(
    writer: Writer, transactions: FakeDatabase
) -> None:
    here, commits = threading.current_thread().name, []
    commit = transactions.commit

    def noting() -> None:
        commits.append(threading.current_thread().name)
        commit()

    transactions.commit = noting  # type: ignore[method-assign]
    assert (
        await asyncio.gather(*(writer.write(where, n) for n in range(SMALL_GROUP_ITEMS))) == [here] * SMALL_GROUP_ITEMS
    )
    assert commits == ["store-writer"]
    assert (writer.commit_count, writer.item_count) == (1, SMALL_GROUP_ITEMS)
    assert await writer.write(where, 1) == here


async def test_interrupt_in_a_small_group_releases_the_turn(writer: Writer, transactions: FakeDatabase) -> None:
    interrupts = [KeyboardInterrupt()]

    @quick
    def interrupted(connection: Connection, items: Sequence[Any]) -> list[Any]:
        if interrupts:
            raise interrupts.pop()
        return list(items)

    writer._waiting.append(Waiting(interrupted, 1, asyncio.get_running_loop().create_future()))
    writer._turn = Turn.LOOP_NEXT
    with pytest.raises(KeyboardInterrupt):
        writer._take_turn()
    assert await writer.write(where, None) == threading.current_thread().name
    assert transactions.log[:4] == ["begin", "rollback", "begin", "commit"]


async def test_group_of_the_thread_runs_although_the_loop_keeps_writing(writer: Writer) -> None:
    long, others = asyncio.ensure_future(writer.write(echo, 1)), []
    while not long.done():
        assert len(others) < MAX_WAITING_ITEMS - 1, "no other write began"
        others.append(asyncio.ensure_future(writer.write(where, None)))
        await asyncio.sleep(0)
        time.sleep(0.001)  # noqa: ASYNC251 - as long as a turn takes that does something
    assert await long == 1
    await asyncio.gather(*others)


async def test_what_a_failed_group_has_collected_is_dropped() -> None:
    """Its items run again, each in a transaction of its own, and collect it again."""
    database = FakeDatabase()
    writer = Writer(database)  # type: ignore[arg-type]
    writer.start()
    applied: list[list[str]] = []

    def apply(_connection: Any, items: list[str]) -> None:
        applied.append(list(items))

    def batch(connection: Any, items: Sequence[str]) -> list[None]:
        for item in items:
            collected(connection, apply).append(item)
        if "bad" in items:
            raise ValueError("bad")
        return [None] * len(items)

    results = await asyncio.gather(*(writer.write(batch, item) for item in ("a", "bad", "b")), return_exceptions=True)
    assert [isinstance(result, ValueError) for result in results] == [False, True, False]
    assert applied == [["a"], ["b"]]
    await writer.write(batch, "c")
    assert applied == [["a"], ["b"], ["c"]]
    await writer.close()
