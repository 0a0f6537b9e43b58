"""The databases of the tests of the store and of the API."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from relay.store.databases.database import Cipher
from relay.store.databases.group_commit import run_group
from relay.store.databases.postgres import AUTOCOMMIT, PostgresDatabase
from relay.store.databases.sqlite import SqliteDatabase, url_of
from relay.store.schema import migrations
from relay.store.store import Store, open_store
from tests.support.postgres_server import shared_server
from tests.support.store_kit import ReversingCipher

POSTGRES_DATABASE = "relay_store"
TEMPLATE = "relay_store_template"
SMALL_BYTES = 64 * 1024
"""Larger tables are truncated. A planner takes a small one for as large as an empty one: of ten pages."""
EMPTY_IT = f"""
DO $$ DECLARE one record; every text; large text; BEGIN
  PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
  WHERE datname = current_database() AND pid <> pg_backend_pid();
  PERFORM set_config('session_replication_role', 'replica', true);  -- without the audit's triggers
  SELECT string_agg(quote_ident(relname), ', ') INTO every
  FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname <> 'alembic_version';
  EXECUTE 'LOCK TABLE ' || every;  -- a connection that is being ended may commit until then
  FOR one IN
    SELECT relname AS name, pg_relation_size(oid) AS bytes
    FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname <> 'alembic_version'
  LOOP
    IF one.bytes > {SMALL_BYTES} THEN large := concat_ws(', ', large, quote_ident(one.name));
    ELSIF one.bytes > 0 THEN EXECUTE format('DELETE FROM %I', one.name);  -- truncating it makes a file for each index
    END IF;
  END LOOP;
  IF large IS NOT NULL THEN EXECUTE 'TRUNCATE ' || large; END IF;
  PERFORM setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false)
  FROM pg_sequences WHERE schemaname = 'public' AND last_value IS NOT NULL;
END $$
"""


@lru_cache(maxsize=1)
def postgres_url() -> str:
    """A database with the schema, created once per process: emptying it takes a tenth of the time of creating one."""
    server = shared_server()
    server.create_database(TEMPLATE)
    migrations.upgrade(server.url(TEMPLATE))
    server.clone(TEMPLATE, POSTGRES_DATABASE)
    return server.url(POSTGRES_DATABASE)


def emptied_postgres() -> str:
    """The URL of a database with the schema and no rows. Existing connections are ended."""
    url = postgres_url()
    shared_server().execute(EMPTY_IT, POSTGRES_DATABASE)
    return url


@asynccontextmanager
async def call_in_transaction(database: PostgresDatabase) -> AsyncIterator[Any]:
    """What `PostgresDatabase.single_statement` yields, but the call is committed when the block ends, or undone."""
    assert database._calling is not None
    async with database.kept(database._calling) as connection:
        await connection.execution_options(isolation_level="READ COMMITTED")
        async with connection.begin():
            yield lambda group: connection.run_sync(run_group, group)
        await connection.execution_options(**AUTOCOMMIT)


@cache
def _empty_file() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "relay.db"
        migrations.upgrade(url_of(path))
        return path.read_bytes()


def new_file(path: Path) -> Path:
    """A SQLite file with the schema and nothing else. Copying it takes a hundredth of the time of making it."""
    path.touch(0o600)
    path.write_bytes(_empty_file())
    return path


async def open_new(path: Path, cipher: Cipher | None = None, search_keys: Sequence[str] = ()) -> Store:
    """Like `open_store`, for a file that has just been made with the schema: nothing has to be migrated, and there was
    no crash. Both take longer than the rest."""
    database = SqliteDatabase(url_of(path))
    database.open()
    return Store(database, cipher or ReversingCipher(), search_keys)


async def open_file(path: Path, cipher: Cipher, *, now: float) -> Store:
    """The store of a SQLite file, which is made if there is none."""
    if path.exists():
        return await open_store(url_of(path), cipher, now=now)
    return await open_new(new_file(path), cipher)
