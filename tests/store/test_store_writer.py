"""Group commit: many writes share a commit, a lone one does not wait, none is lost."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import Connection

from relay.errors import StoreError
from relay.store.databases.sqlite import SqliteDatabase
from relay.store.store import Store
from tests.support.store_kit import (
    NOW,
    claim,
    counts,
    held_writer,
    poll,
    record_one,
    registration,
    result_of,
    subscription,
    track,
    until,
)


async def test_five_hundred_concurrent_writes_need_far_fewer_commits(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    counted = [await commits(store)]

    results = await asyncio.gather(*(store.jobs.register(registration(f"job {n}")) for n in range(500)))
    counted.append(await commits(store))
    assert all(result.created for result in results)

    await asyncio.gather(*(store.jobs.record(poll(result.job.uid, 0, "queued", "running")) for result in results))
    counted.append(await commits(store))

    claimed = await claim(store, "sub_1", 500)
    assert len(claimed) == 500
    counted.append(await commits(store))
    marks = await asyncio.gather(*(record_one(store, result_of(one)) for one in claimed))
    counted.append(await commits(store))
    assert all(mark.kept for mark in marks)
    assert (await counts(store))["attempts"] == 500

    for nth in (1, 2, 4):
        before, after = counted[nth - 1], counted[nth]
        assert after.items - before.items == 500 + 1
        assert after.groups - before.groups <= 50
        # What the database itself has counted: beside the groups, reads of one statement and notices, some of them
        # from before, which it adds up once a second. A commit for each write would be 500 more.
        assert after.seen - before.seen <= after.groups - before.groups + 100


@dataclass(frozen=True)
class Commits:
    """Commits so far: groups and items as counted by the writer, transactions as counted by the database."""

    groups: int
    items: int
    seen: int


async def commits(store: Store) -> Commits:
    """This query is a transaction too."""
    await store.database.write(flush, None)
    groups, items = store.database.commit_count, store.database.item_count
    if isinstance(store.database, SqliteDatabase):
        return Commits(groups, items, groups)  # it counts none
    ((seen,),) = await aside(store, "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
    return Commits(groups, items, int(seen))


def flush(connection: Connection, items: Sequence[None]) -> list[None]:
    """Makes PostgreSQL update its statistics of this connection, which it otherwise does once a second."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
    return [None] * len(items)


async def aside(store: Store, query: str) -> list[Any]:
    """Rows as another connection sees them."""
    connection = await asyncpg.connect(store.database.url.set(drivername="postgresql").render_as_string())
    try:
        found: list[Any] = await connection.fetch(query)
        return found
    finally:
        await connection.close()


async def test_cancelling_a_caller_does_not_lose_the_write(store: Store) -> None:
    uid = await track(store)
    async with held_writer(store):
        task = asyncio.ensure_future(store.jobs.record(poll(uid, 0, "queued")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await track(store, "another")
    assert (await counts(store))["events"] == 1


async def test_nothing_is_read_or_written_after_close(store: Store) -> None:
    await store.close()
    with pytest.raises(StoreError, match="closing"):
        await store.jobs.untrack("job_1", NOW)
    with pytest.raises(StoreError, match="not open"):
        await store.jobs.get("job_1")
    await store.close()


async def test_read_sees_one_snapshot_for_all_its_statements(store: Store) -> None:
    reading, written = threading.Event(), threading.Event()

    def twice(connection: Connection) -> tuple[int, int]:
        count = text("SELECT COUNT(*) FROM jobs")
        first = connection.execute(count).scalar_one()
        reading.set()
        while not written.wait(0.001):  # with PostgreSQL this runs in the loop, which the sleep lets go on
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_sleep(0.001)"))
        return first, connection.execute(count).scalar_one()

    task = asyncio.ensure_future(store.database.read(twice))
    await until(reading.is_set)
    await track(store)
    written.set()
    assert await task == (0, 0)
    assert (await counts(store))["jobs"] == 1
