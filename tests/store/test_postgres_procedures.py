"""PostgreSQL's procedures: their steps are statements of the catalogue, they run beside other writes, and without
them the same happens statement by statement."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from secrets import token_hex
from typing import Any

import pytest
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_cursor
from sqlalchemy.engine import Connection

from relay.core.records import Registered
from relay.errors import StoreError
from relay.store.databases.group_commit import single
from relay.store.databases.postgres import PostgresDatabase
from relay.store.databases.statements import fetch, sql
from relay.store.outbox import recording as outbox
from relay.store.store import PROCEDURES, Store, open_store
from tests.support.postgres_server import SUPERUSER, shared_server
from tests.support.store_catalogue import CATALOGUE
from tests.support.store_databases import TEMPLATE, emptied_postgres, postgres_url
from tests.support.store_kit import (
    NOW,
    ReversingCipher,
    claim,
    execute,
    lease,
    poll,
    record_one,
    registration,
    result_of,
    subscription,
    together,
)


def test_every_statement_of_a_procedure_is_in_the_catalogue() -> None:
    polled_at = [*(case.statement for case in CATALOGUE), outbox.LOCK_JOBS, outbox.LOCK_STREAMS]  # only PostgreSQL
    for procedure in PROCEDURES:
        assert [statement for statement in procedure.statements if statement not in polled_at] == []


@pytest.fixture(params=["allowed", "revoked"])
def role_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database as a role that may, or may not, create temporary objects."""
    postgres_url()
    server, name = shared_server(), f"procedures_{request.param}_{token_hex(4)}"
    server.clone(TEMPLATE, name)
    if request.param == "revoked":
        server.execute(f'REVOKE TEMP ON DATABASE "{name}" FROM PUBLIC', name)
    server.execute(f"CREATE ROLE {name} LOGIN", name)
    server.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}", name)
    server.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {name}", name)
    yield server.url(name).replace(f"//{SUPERUSER}@", f"//{name}@")
    server.drop_database(name)
    server.execute(f"DROP ROLE {name}")


@pytest.fixture
async def store(role_url: str) -> AsyncIterator[Store]:
    """A store opened by that role."""
    opened = await open_store(role_url, ReversingCipher(), now=NOW)
    yield opened
    await opened.close()


async def test_results_are_the_same_with_and_without_the_procedure(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    batch = [registration(f"job {nth}") for nth in range(5)]
    await store.jobs.register_many(batch)
    await together(store, *(store.jobs.record(poll(one.job.uid, 0, "queued", "running")) for one in batch))
    one, two = await claim(store, "sub_1", 2)
    database = store.database
    assert isinstance(database, PostgresDatabase)
    before = database.writer.commit_count
    first, second = await asyncio.gather(
        record_one(store, result_of(one, next_lease=lease(token="one"), next_count=2)),
        record_one(store, result_of(two, "dead", next_lease=lease(token="two"), reason="http_400")),
    )
    assert (first.kept, second.kept) == (True, True)
    taken = [*first.next, *second.next]
    assert {(claimed.order_key, claimed.event.sequence) for claimed in taken} == {
        *((one.order_key, 2), (two.order_key, 2), (batch[2].job.uid, 1))
    }
    assert {claimed.lease_token for claimed in taken} == {"one"}
    assert database.writer.commit_count - before == (1 if "revoked" in str(database.url.database) else 0)


@pytest.fixture
def empty_url() -> str:
    return emptied_postgres()


async def test_reads_of_one_statement_are_no_transactions(empty_url: str) -> None:
    """Their BEGIN and ROLLBACK would be two more round trips."""
    store = await open_store(empty_url, ReversingCipher(), now=NOW, pool_size=1)
    (one,) = await store.jobs.register_many([registration("job 1")])
    assert isinstance(one, Registered)
    sent: list[str] = []  # prepared statements are not logged
    database: Any = store.database
    for engine in (database._engine, database._beside):
        async with engine.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
        driver.add_query_logger(lambda logged: sent.append(logged.query))
    assert await store.jobs.get(one.job.uid) == one.job
    assert await store.deliveries.backlog() == []
    assert await store.tokens.version() == 0
    await store.close()
    assert sent == []


COLUMN = sql("SELECT number FROM versions WHERE name = :name")


@single
def _column(connection: Connection, name: str) -> Sequence[Sequence[Any]]:
    return fetch(connection, COLUMN, name=name)


def _column_of_each(connection: Connection, names: Sequence[str]) -> list[Sequence[Sequence[Any]]]:
    return [_column(connection, name) for name in names]


@pytest.mark.parametrize("way", ["write", "read", "read alone"])
async def test_prepared_statement_is_made_again_after_a_migration(empty_url: str, way: str) -> None:
    """PostgreSQL refuses a prepared statement whose result has changed its type."""
    store = await open_store(empty_url, ReversingCipher(), now=NOW, pool_size=1)

    async def again() -> object:
        if way == "write":
            return await store.database.write(_column_of_each, "subscriptions")
        query = _column if way == "read alone" else partial(_column)
        return await store.database.read(query, "subscriptions")

    before = await again()
    other = await open_store(empty_url, ReversingCipher(), now=NOW)
    await execute(other, "ALTER TABLE versions ALTER COLUMN number TYPE bigint")
    await other.close()
    with contextlib.suppress(StoreError):  # the statement that finds out
        await again()
    assert await again() == before
    await store.close()


async def test_error_of_a_network_stays_what_it_is(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no error of the statement, which the writer would give up."""
    store = await open_store(empty_url, ReversingCipher(), now=NOW, pool_size=1)

    def cut(*_arguments: object) -> None:
        raise ConnectionResetError("cut")

    monkeypatch.setattr(AsyncAdapt_asyncpg_cursor, "execute", cut)
    with pytest.raises(StoreError, match="cannot be reached: cut"):
        await store.database.read(_column, "subscriptions")
    monkeypatch.undo()
    await store.close()


async def test_reads_go_to_the_connection_that_was_used_last(empty_url: str) -> None:
    """It has the plans of their statements."""
    store = await open_store(empty_url, ReversingCipher(), now=NOW, pool_size=3)

    def server_process(connection: Connection) -> int:
        return int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())

    await asyncio.gather(*(store.database.read(server_process) for _ in range(3)))
    used = {await store.database.read(server_process) for _ in range(6)}
    await store.close()
    assert len(used) == 1
