"""The task that writes to PostgreSQL: groups are limited, callers get their own results, a bad item fails alone."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from relay.errors import StoreError
from relay.store.databases import postgres_writer
from relay.store.databases.group_commit import Waiting, alone, run_group
from relay.store.databases.postgres_writer import AsyncWriter
from tests.support.store_kit import until


class FakeTransactions:
    """Counts; waits until released; fails at the end of a transaction on request."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.info: dict[str, Any] = {}
        self.free = asyncio.Event()
        self.free.set()
        self.errors: list[Exception] = []
        self.ends: dict[str, bool] = {}

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        await self.free.wait()
        self.log.append("begin")

        async def run(group: Sequence[Waiting]) -> str:
            connection: Any = SimpleNamespace(info=self.info)
            run_group(connection, group)
            return str(len(self.log))

        try:
            yield run
            if self.errors:
                raise self.errors.pop(0)
        except BaseException:
            self.log.append("rollback")
            raise
        self.log.append("commit")

    async def was_committed(self, transaction: str) -> bool:
        self.log.append(f"end of {transaction}?")
        return self.ends.get(transaction, False)


def echo(connection: Connection, items: Sequence[Any]) -> list[Any]:
    return list(items)


def refuse_negative(connection: Connection, items: Sequence[int]) -> list[int]:
    if any(item < 0 for item in items):
        raise ValueError("negative")
    return list(items)


def with_state(sqlstate: str, *, lost: bool = False) -> DBAPIError:
    cause = Exception(f"said by the server: {sqlstate}")
    cause.sqlstate = sqlstate  # type: ignore[attr-defined]
    return DBAPIError("COMMIT", {}, cause, connection_invalidated=lost)


@pytest.fixture
async def transactions() -> FakeTransactions:
    return FakeTransactions()


@pytest.fixture
async def writer(transactions: FakeTransactions, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncWriter]:
    monkeypatch.setattr(postgres_writer, "FIRST_PAUSE_SECONDS", 0.001)
    made = AsyncWriter(transactions.transaction, transactions.was_committed)
    made.start()
    yield made
    await made.close()


async def held(writer: AsyncWriter, transactions: FakeTransactions) -> "asyncio.Future[Any]":
    """A write that waits in its transaction until `transactions.free` is set."""
    transactions.free.clear()
    task = asyncio.ensure_future(writer.write(echo, None))
    await asyncio.sleep(0)
    await until(lambda: len(writer._waiting) == 0)
    return task


async def test_batch_function_that_is_alone_shares_no_transaction_with_others(
    writer: AsyncWriter, transactions: FakeTransactions
) -> None:
    groups: list[list[Any]] = []

    def noted(_connection: Connection, items: Sequence[Any]) -> list[Any]:
        groups.append(list(items))
        return list(items)

    by_itself = alone(2)(lambda connection, items: noted(connection, items))
    holder = await held(writer, transactions)
    batches = {"a": noted, "A": by_itself}
    writes = [asyncio.ensure_future(writer.write(batches[one[0]], one)) for one in ("a1", "A1", "a2", "A2", "A3", "a3")]
    await asyncio.sleep(0)
    transactions.free.set()
    await holder
    assert await asyncio.gather(*writes) == ["a1", "A1", "a2", "A2", "A3", "a3"]
    assert groups == [["a1", "a2", "a3"], ["A1", "A2"], ["A3"]]
    assert transactions.log == ["begin", "commit"] * 4


async def test_a_bad_item_fails_alone_and_the_others_are_committed(
    writer: AsyncWriter, transactions: FakeTransactions
) -> None:
    results = await asyncio.gather(*(writer.write(refuse_negative, n) for n in (1, -2, 3)), return_exceptions=True)
    assert [repr(result) for result in results] == ["1", "ValueError('negative')", "3"]
    assert transactions.log == [
        *("begin", "rollback"),
        *("begin", "commit", "begin", "rollback", "begin", "commit"),
    ]


async def test_lasting_conflict_is_given_up(writer: AsyncWriter, transactions: FakeTransactions) -> None:
    transactions.errors = [with_state("40P01")] * (postgres_writer.MAX_CONFLICTS + 1)
    with pytest.raises(StoreError, match="40P01"):
        await writer.write(echo, 1)
    assert transactions.log.count("begin") == postgres_writer.MAX_CONFLICTS + 1
    assert await writer.write(echo, 2) == 2


@pytest.mark.parametrize("sqlstate", ["08006", "53300", "57P01", "57P03", "25006"])
async def test_unavailable_server_is_waited_for(
    writer: AsyncWriter, transactions: FakeTransactions, sqlstate: str
) -> None:
    transactions.errors = [with_state(sqlstate)] * 3
    assert await writer.write(echo, 1) == 1
    assert transactions.log.count("begin") == 4
    assert writer.trouble is None


@pytest.mark.parametrize("committed", [True, False])
async def test_group_committed_without_a_response_is_not_run_again(
    writer: AsyncWriter, transactions: FakeTransactions, committed: bool
) -> None:
    transactions.ends = {"1": committed}
    transactions.errors = [with_state("", lost=True)]
    assert await writer.write(echo, 1) == 1
    again = [] if committed else ["begin", "commit"]
    assert transactions.log == ["begin", "rollback", "end of 1?", *again]
