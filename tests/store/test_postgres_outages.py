"""Server outages: queued writes are committed after recovery, no acknowledged write is lost, none is written twice."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError

from relay.core.records import StoredAnswer
from relay.errors import StaleSequence, StoreError
from relay.store.databases import postgres_writer
from relay.store.databases.probe import WriteProbe
from relay.store.schema import migrations
from relay.store.store import Store, open_store
from tests.support.postgres_server import PostgresServer
from tests.support.store_databases import call_in_transaction
from tests.support.store_kit import (
    NOW,
    ReversingCipher,
    claim,
    counts,
    lease,
    poll,
    record_one,
    registration,
    relay_event,
    result_of,
    rows,
    states,
    subscription,
    together,
    track,
    until,
)

pytestmark = pytest.mark.verify

MAX_CONNECTIONS = 12
POOL_SIZE = 3
KILL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'revor-relay'"
ALL_TYPES = ("ai.revor.job.queued", "ai.revor.job.running", "relay.source.down")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of our own, to be stopped, killed and filled."""
    with PostgresServer(max_connections=MAX_CONNECTIONS) as made:
        made.create_database("template")
        migrations.upgrade(made.url("template"))
        yield made


@pytest.fixture
def url(server: PostgresServer) -> Iterator[str]:
    """A new database on it, independent of earlier tests."""
    if server.pid is None:
        server.start()
    server.execute("ALTER SYSTEM RESET ALL")
    server.execute("SELECT pg_reload_conf()")
    server.clone("template", "relay")
    yield server.url("relay")
    if server.pid is None:
        server.start()
    server.drop_database("relay")


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    made = await open_store(url, ReversingCipher(), now=NOW, pool_size=POOL_SIZE)
    yield made
    await made.close()


async def aside(work: Callable[..., Any], *arguments: Any) -> Any:
    """Runs a blocking call in a thread."""
    return await asyncio.get_running_loop().run_in_executor(None, work, *arguments)


class Traffic:
    """Polls of jobs one after the other, and relay events, during an outage."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.acknowledged: dict[str, int] = {}
        self.events: list[str] = []
        self.refused = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._ending = False

    async def start(self, count: int = 8) -> None:
        for nth in range(count):
            uid = await track(self.store, f"job {nth}")
            self.acknowledged[uid] = 0
            self._tasks.append(asyncio.ensure_future(self._poll(uid)))
        self._tasks.append(asyncio.ensure_future(self._say()))

    async def _poll(self, uid: str) -> None:
        sequence = 0
        while not self._ending:
            try:
                await self.store.jobs.record(poll(uid, sequence, "running"))
            except StaleSequence:  # it was written, whatever was said of it
                pytest.fail(f"{uid} is past {sequence}, and no call returned that")
            except StoreError:
                self.refused += 1
                continue
            sequence += 1
            self.acknowledged[uid] = sequence

    async def _say(self) -> None:
        while not self._ending:
            event = relay_event()
            with contextlib.suppress(StoreError):
                await self.store.events.record(event)
                self.events.append(event.id)

    async def goes_on(self, writes: int = 40) -> None:
        """Waits until this many more writes were acknowledged."""
        before = self.total
        await until(lambda: self.total >= before + writes or any(task.done() for task in self._tasks), 60)

    @property
    def total(self) -> int:
        return sum(self.acknowledged.values()) + len(self.events)

    async def end(self) -> None:
        """Stops, and compares the acknowledged writes with the stored ones."""
        self._ending = True
        await asyncio.gather(*self._tasks)
        found = await rows(
            self.store,
            "SELECT j.uid, j.sequence, COUNT(e.id) AS events, MAX(e.sequence) AS last FROM jobs j "
            "LEFT JOIN events e ON e.job_uid = j.uid GROUP BY j.uid",
        )
        assert {row["uid"]: row["sequence"] for row in found} == self.acknowledged
        assert all(row["events"] == row["sequence"] == (row["last"] or 0) for row in found)
        said = await rows(self.store, "SELECT id FROM events WHERE job_uid IS NULL ORDER BY position")
        assert [row["id"] for row in said] == self.events
        deliveries = await rows(self.store, "SELECT COUNT(*) AS n FROM deliveries")
        assert deliveries[0]["n"] == self.total
        assert self.store.database.trouble is None


@asynccontextmanager
async def traffic(store: Store) -> AsyncIterator[Traffic]:
    """Writes during the block. At its end every acknowledged write is stored once, and nothing else."""
    await store.subscriptions.create(subscription("sub_1", types=ALL_TYPES))
    made = Traffic(store)
    await made.start()
    await made.goes_on()
    yield made
    await made.goes_on()
    await made.end()


async def test_killed_connections_lose_no_write(server: PostgresServer, store: Store) -> None:
    async with traffic(store) as running:
        for _ in range(6):
            await aside(server.execute, KILL)
            await running.goes_on(15)
    assert running.refused == 0


@pytest.mark.parametrize("mode", ["fast", "immediate", "kill"])
async def test_server_restart_during_writes_loses_no_write(server: PostgresServer, store: Store, mode: Any) -> None:
    async with traffic(store) as running:
        if mode == "kill":
            await aside(server.kill)
            await aside(server.start)
        else:
            await aside(server.restart, mode)
        await running.goes_on()
    assert running.refused == 0


async def test_writes_wait_while_the_server_is_unreachable_and_the_reason_is_reported(
    server: PostgresServer, store: Store
) -> None:
    uid = await track(store)
    await aside(server.stop)
    task = asyncio.ensure_future(store.jobs.record(poll(uid, 0, "running")))
    await until(lambda: store.database.trouble is not None)
    assert store.database.trouble
    assert "\n" not in store.database.trouble
    with pytest.raises(StoreError, match="cannot be reached"):
        await store.jobs.get(uid)
    assert not task.done()
    await aside(server.start)
    await task
    assert store.database.trouble is None
    assert [event.sequence for event in await store.events.of_job(uid)] == [1]


async def test_write_after_a_timeout_does_not_wait_again(
    server: PostgresServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_writer, "PATIENCE_SECONDS", 0.2)
    await aside(server.stop)
    for _ in range(3):
        async with asyncio.timeout(10):
            with pytest.raises(StoreError, match="cannot be written") as refused:
                await store.jobs.register(registration("a job"))
        assert "\n" not in str(refused.value)
    assert store.database.trouble is not None
    probe = WriteProbe(store.database)
    with pytest.raises(StoreError):
        await probe.check(NOW)
    await aside(server.start)
    await probe.check(NOW + 2)
    assert store.database.trouble is None
    assert (await track(store)).startswith("job_")


async def test_replica_is_read_while_writes_wait(server: PostgresServer, store: Store) -> None:
    """As after a failover to a server that is not promoted yet: it accepts reads and refuses writes."""
    uid = await track(store)
    await aside(server.execute, "ALTER DATABASE relay SET default_transaction_read_only = on")
    await aside(server.execute, KILL)
    task = asyncio.ensure_future(store.jobs.record(poll(uid, 0, "running")))
    await until(lambda: "read-only" in (store.database.trouble or ""))
    found = await store.jobs.get(uid)
    assert found is not None
    assert not task.done()
    await aside(server.execute, "ALTER DATABASE relay RESET default_transaction_read_only")
    await aside(server.execute, KILL)
    await task
    assert store.database.trouble is None
    assert [event.sequence for event in await store.events.of_job(uid)] == [1]


async def test_writes_wait_for_a_server_without_free_connections(server: PostgresServer, store: Store) -> None:
    uid = await track(store)
    others: list[Any] = []
    await aside(server.execute, KILL)
    try:
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            while True:
                others.append(await asyncpg.connect(server.url("relay")))
        task = asyncio.ensure_future(store.jobs.record(poll(uid, 0, "running")))
        await until(lambda: "too many" in (store.database.trouble or ""))
        assert not task.done()
    finally:
        for other in others:
            await other.close()
    await task
    assert store.database.trouble is None


async def test_first_read_after_a_lost_connection_succeeds(server: PostgresServer, store: Store) -> None:
    uid = await track(store)
    for _ in range(3):
        await asyncio.gather(*(store.jobs.get(uid) for _ in range(POOL_SIZE)))
        await aside(server.execute, KILL)
        found = await asyncio.gather(*(store.jobs.get(uid) for _ in range(POOL_SIZE)))
        assert [job and job.uid for job in found] == [uid] * POOL_SIZE


# --- a commit whose answer is lost


@asynccontextmanager
async def lost_answer(store: Store, *, committed: bool) -> AsyncIterator[None]:
    """The connection breaks at the next COMMIT, after or before the server has run it; the client cannot tell which."""
    database: Any = store.database
    before = {writer: writer._transaction for writer in (database.writer, database.caller)}
    once = [True]
    error = DBAPIError("COMMIT", {}, ConnectionError("connection was lost"), connection_invalidated=True)

    def breaking(transaction: Callable[[], Any]) -> Callable[[], Any]:
        @asynccontextmanager
        async def broken() -> AsyncIterator[Any]:
            if not once:
                async with transaction() as run:
                    yield run
                return
            once.clear()
            with contextlib.suppress(_Undone):
                async with transaction() as run:
                    yield run
                    if not committed:
                        raise _Undone
            if committed:  # for the node it is no different from one that was undone
                for call in database._after_rollback:
                    call()
            raise error

        return broken

    database.writer._transaction = breaking(database.writer._transaction)
    database.caller._transaction = breaking(
        database.caller._transaction if committed else partial(call_in_transaction, database)
    )
    yield
    for writer, transaction in before.items():
        writer._transaction = transaction
    assert not once


class _Undone(Exception):
    pass


@pytest.mark.parametrize("committed", [True, False])
async def test_every_write_happens_once_when_its_response_is_lost(store: Store, committed: bool) -> None:
    def lost() -> Any:
        return lost_answer(store, committed=committed)

    async with lost():
        await store.subscriptions.create(subscription("sub_1", types=ALL_TYPES))
    version = store.subscriptions.version
    async with lost():
        registered = await store.jobs.register(registration("a job"))
    assert registered.created
    uid = registered.job.uid
    async with lost():
        await store.jobs.record(poll(uid, 0, "queued", "running"))
    async with lost():
        (one,) = await claim(store, "sub_1")
    async with lost():
        assert (await store.deliveries.record(result_of(one)))[0].kept
    async with lost():
        await store.events.record(relay_event())
    async with lost():
        await store.secrets.add_secret("sub_1", "whsec_1", NOW)
    async with lost():
        assert await store.idempotency.begin("key", "digest", "holder", NOW, 0.0) == NOW
    assert await store.idempotency.begin("key", "digest", "holder", NOW, 0.0) == StoredAnswer(body_digest="digest")
    found = await counts(store)
    assert {name: found[name] for name in ("jobs", "events", "deliveries", "attempts", "secrets")} == {
        **{"jobs": 1, "events": 3, "deliveries": 3, "attempts": 1, "secrets": 1}
    }
    assert sorted(await states(store)) == ["delivered", "pending", "pending"]
    await store.events.record(relay_event())
    assert store.subscriptions.version > version
    assert store.database.trouble is None


@pytest.mark.parametrize("committed", [True, False])
async def test_claims_of_a_recorded_result_survive_a_lost_response(store: Store, committed: bool) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    batch = [registration(f"job {nth}") for nth in range(6)]
    await store.jobs.register_many(batch)
    await together(store, *(store.jobs.record(poll(one.job.uid, 0, "queued")) for one in batch))
    one, two = await claim(store, "sub_1", 2)
    async with lost_answer(store, committed=committed):
        results = await asyncio.gather(
            record_one(store, result_of(one, next_lease=lease(token="next of one"), next_count=2)),
            record_one(store, result_of(two, next_lease=lease(token="next of two"))),
        )
    assert [result.kept for result in results] == [True, True]
    taken = [claimed.id for result in results for claimed in result.next]
    assert len(set(taken)) == len(taken) == 3
    assert (await counts(store))["attempts"] == 2
    assert not (await store.deliveries.record(result_of(one, now=NOW + 1)))[
        0
    ].kept  # another attempt: its lease is gone


async def test_transaction_still_in_progress_is_waited_for(server: PostgresServer, store: Store) -> None:
    other = await asyncpg.connect(server.url("relay"))
    try:
        ended = other.transaction()
        await ended.start()
        number = await other.fetchval("SELECT CAST(pg_current_xact_id() AS text)")
        task = asyncio.ensure_future(store.database.was_committed(number))  # type: ignore[attr-defined]
        undone = await asyncpg.connect(server.url("relay"))
        await asyncio.wait([task], timeout=0.2)
        assert not task.done()
        await ended.commit()
        assert await task
        rollback = undone.transaction()
        await rollback.start()
        number = await undone.fetchval("SELECT CAST(pg_current_xact_id() AS text)")
        await rollback.rollback()
        await undone.close()
        assert not await store.database.was_committed(number)  # type: ignore[attr-defined]
        assert not await store.database.was_committed(str(int(number) + 1_000_000))  # type: ignore[attr-defined]
    finally:
        await other.close()
