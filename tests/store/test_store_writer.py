"""Group commit: many writes share one, a lone one waits for nobody, a bad one fails alone."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError

from relay.errors import RelayError, StoreError
from relay.store.store import Store
from relay.store.writer import MAX_GROUP_ITEMS, MAX_WAITING_ITEMS, Writer
from tests.store_kit import NOW, counts, look, registration, subscription, together, track


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


async def test_a_write_alone_is_committed_at_once(store: Store) -> None:
    before = store.database.writer.commit_count
    for nth in range(5):
        await track(store, f"job {nth}")
    assert store.database.writer.commit_count == before + 5


async def test_five_hundred_concurrent_writes_need_far_fewer_commits(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    before = store.database.writer.commit_count, store.database.writer.item_count
    results = await asyncio.gather(*(store.jobs.register(registration(f"job {n}")) for n in range(500)))
    assert all(result.created for result in results)
    assert store.database.writer.commit_count - before[0] <= 50
    assert store.database.writer.item_count - before[1] == 500


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


async def test_cancelling_a_caller_does_not_lose_the_write(store: Store) -> None:
    uid = await track(store)
    task: list[asyncio.Future[Any]] = []

    async def cancelled_while_it_waits() -> None:
        task.append(asyncio.ensure_future(store.jobs.record(look(uid, 0, "queued"))))
        await asyncio.sleep(0)
        task[0].cancel()

    gate = Gate()
    holder = await gate.hold(store.database.writer)
    await cancelled_while_it_waits()
    with pytest.raises(asyncio.CancelledError):
        await task[0]
    gate.opened.set()
    await holder
    await track(store, "another")
    assert (await counts(store))["events"] == 1


async def test_a_cancelled_change_of_a_subscription_is_announced_all_the_same(store: Store) -> None:
    version = store.subscriptions.version
    gate = Gate()
    holder = await gate.hold(store.database.writer)
    task = asyncio.ensure_future(store.subscriptions.create(subscription("sub_1")))
    await asyncio.sleep(0)
    task.cancel()
    gate.opened.set()
    await holder
    await track(store)
    assert store.subscriptions.version > version
    assert await store.subscriptions.get("sub_1") is not None


async def test_close_writes_what_waits(store: Store, open_again: Callable[..., Awaitable[Store]]) -> None:
    gate = Gate()
    holder = await gate.hold(store.database.writer)
    writes = [asyncio.ensure_future(store.jobs.register(registration(f"job {n}"))) for n in range(20)]
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(store.close())
    await asyncio.sleep(0)
    gate.opened.set()
    await asyncio.gather(holder, closing, *writes)
    again = await open_again()
    assert (await counts(again))["jobs"] == 20


async def test_nothing_is_read_or_written_after_close(store: Store) -> None:
    await store.close()
    with pytest.raises(StoreError, match="closing"):
        await store.jobs.untrack("job_1", NOW)
    with pytest.raises(StoreError, match="not open"):
        await store.jobs.get("job_1")
    await store.close()


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


async def test_a_read_sees_one_moment_however_many_statements_it_has(store: Store) -> None:
    reading, written = threading.Event(), threading.Event()

    def twice(connection: Connection) -> tuple[int, int]:
        count = text("SELECT COUNT(*) FROM jobs")
        first = connection.execute(count).scalar_one()
        reading.set()
        assert written.wait(30)
        return first, connection.execute(count).scalar_one()

    task = asyncio.ensure_future(store.database.read(twice))
    await asyncio.get_running_loop().run_in_executor(None, reading.wait, 30)
    await track(store)
    written.set()
    assert await task == (0, 0)
    assert (await counts(store))["jobs"] == 1


async def test_readers_can_not_write(store: Store) -> None:
    def sneaky(connection: Connection) -> None:
        connection.execute(text("DELETE FROM jobs"))

    with pytest.raises(StoreError, match="readonly"):
        await store.database.read(sneaky)


async def test_a_failed_read_leaves_its_reader_usable(store: Store) -> None:
    def broken(connection: Connection) -> None:
        connection.execute(text("SELECT a FROM nowhere"))

    for _ in range(10):
        with pytest.raises(StoreError, match="nowhere"):
            await store.database.read(broken)
    assert (await counts(store))["jobs"] == 0


async def test_writes_of_different_kinds_share_a_group(store: Store) -> None:
    uid = await track(store)
    before = store.database.writer.commit_count
    await together(
        store,
        store.jobs.record(look(uid, 0, "queued")),
        store.jobs.register(registration("other")),
        store.subscriptions.create(subscription("sub_1")),
        store.idempotency.forget("none"),
    )
    assert store.database.writer.commit_count == before + 2  # the one that held the thread, then one for all
