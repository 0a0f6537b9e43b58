"""The thread that writes to SQLite: groups have a limit, results find their callers, a bad item fails alone."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError

from relay.errors import RelayError, StoreError
from relay.store.writer import MAX_GROUP_ITEMS, MAX_WAITING_ITEMS, Writer


class FakeTransactions:
    """Counts; fails at begin or commit as told."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.begin_error: Exception | None = None
        self.commit_error: Exception | None = None

    def begin(self) -> Any:
        if self.begin_error is not None:
            self.log.append("begin failed")
            raise self.begin_error
        self.log.append("begin")
        return None

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


class Gate:
    """A write that holds the writer's thread until it is opened."""

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
def transactions() -> FakeTransactions:
    return FakeTransactions()


@pytest.fixture
async def writer(transactions: FakeTransactions) -> Any:
    made = Writer(transactions)
    made.start()
    yield made
    await made.close()


async def test_a_group_has_a_limit(writer: Writer, transactions: FakeTransactions) -> None:
    gate = Gate()
    holder = await gate.hold(writer)
    writes = [asyncio.ensure_future(writer.write(echo, nth)) for nth in range(MAX_GROUP_ITEMS + 1)]
    await asyncio.sleep(0)
    gate.opened.set()
    await holder
    assert await asyncio.gather(*writes) == list(range(MAX_GROUP_ITEMS + 1))
    assert writer.commit_count == 3
    assert transactions.log == ["begin", "commit"] * 3


async def test_no_more_than_the_limit_ever_wait(writer: Writer) -> None:
    gate = Gate()
    holder = await gate.hold(writer)
    writes = [asyncio.ensure_future(writer.write(echo, nth)) for nth in range(MAX_WAITING_ITEMS + 50)]
    await asyncio.sleep(0)
    assert writer.waiting_count == MAX_WAITING_ITEMS - 1  # the one that holds the thread has a place as well
    for write in writes[:100]:
        write.cancel()
    await asyncio.wait(writes[:100])
    assert writer.waiting_count == MAX_WAITING_ITEMS - 1  # what was cancelled is written all the same
    gate.opened.set()
    await holder
    assert await asyncio.gather(*writes[100:]) == list(range(100, MAX_WAITING_ITEMS + 50))


async def test_results_come_to_their_own_callers(writer: Writer) -> None:
    gate = Gate()
    holder = await gate.hold(writer)

    def doubled(connection: Connection, items: Sequence[int]) -> list[int | Exception]:
        return [item * 2 if item != 3 else RelayError("three") for item in items]

    writes = [asyncio.ensure_future(writer.write(doubled if nth % 2 else echo, nth)) for nth in range(6)]
    await asyncio.sleep(0)
    gate.opened.set()
    await holder
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert [str(result) for result in results] == ["0", "2", "2", "three", "4", "10"]
    assert writer.commit_count == 2


async def test_a_bad_item_fails_alone_and_the_others_are_committed(
    writer: Writer, transactions: FakeTransactions
) -> None:
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


async def test_a_commit_that_fails_is_tried_again_item_by_item(writer: Writer, transactions: FakeTransactions) -> None:
    transactions.commit_error = OperationalError("COMMIT", None, Exception("disk I/O error"))
    gate = Gate()
    holder = await gate.hold(writer)
    writes = [asyncio.ensure_future(writer.write(echo, nth)) for nth in range(2)]
    await asyncio.sleep(0)
    gate.opened.set()
    with pytest.raises(StoreError, match="disk I/O error"):
        await holder
    assert await asyncio.gather(*writes) == [0, 1]


async def test_a_database_that_can_not_be_written_fails_the_whole_group_at_once(
    writer: Writer, transactions: FakeTransactions
) -> None:
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


async def test_a_writer_that_was_never_started_refuses(transactions: FakeTransactions) -> None:
    writer = Writer(transactions)
    with pytest.raises(StoreError):
        await writer.write(echo, 1)
    await writer.close()


def test_a_loop_that_ended_before_its_write_does_not_stop_the_writer(transactions: FakeTransactions) -> None:
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
