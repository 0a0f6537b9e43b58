"""Migrations: a fresh upgrade matches the tables exactly; a newer database is left unchanged."""

import asyncio
import resource
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text
from sqlalchemy.engine import Connection
from sqlmodel import SQLModel

import relay.store.schema.tables  # noqa: F401 - fills the metadata
from relay import resources
from relay.core.jobs.job import indexed
from relay.errors import DatabaseHeld, SchemaTooNew, SchemaTooOld, SchemaUnsupported, StoreError
from relay.store.databases.postgres_engine import is_postgres
from relay.store.databases.sqlite import url_of
from relay.store.schema import migrations
from relay.store.store import open_store
from tests.support.postgres_server import shared_server
from tests.support.store_kit import (
    NOW,
    ReversingCipher,
    track,
)

# The catalogue of PostgreSQL itself says more than an inspector: all of it has to be the same.
POSTGRES_COLUMNS = """
SELECT c.relname || '.' || a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity::text,
  a.attgenerated::text, pg_get_expr(d.adbin, d.adrelid)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_attrdef d ON d.adrelid = c.oid
  AND d.adnum = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
"""
POSTGRES_INDEXES = "SELECT tablename || '.' || indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
POSTGRES_CONSTRAINTS = """
SELECT conrelid::regclass || '.' || conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace
"""
POSTGRES_SEQUENCES = """
SELECT c.relname || '.sequence', s.seqtypid::regtype::text, s.seqstart, s.seqincrement, s.seqcycle
FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid
"""
POSTGRES_TRIGGERS = """
SELECT tgrelid::regclass || '.' || tgname, pg_get_triggerdef(oid), pg_get_functiondef(tgfoid)
FROM pg_trigger WHERE NOT tgisinternal
"""
POSTGRES_OPTIONS = """
SELECT relname || '.options', reloptions FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND reloptions IS NOT NULL
"""
POSTGRES_CATALOGUE = (
    *(POSTGRES_TRIGGERS, POSTGRES_COLUMNS, POSTGRES_INDEXES, POSTGRES_CONSTRAINTS, POSTGRES_SEQUENCES),
    POSTGRES_OPTIONS,
)
OLDEST_BESIDE_THE_NEWEST = "0029"
"""The oldest schema whose nodes may run beside those of the newest one (docs/operate/production.md#upgrade)."""
_numbers = count(1)


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Creates databases without a schema."""
    made: list[str] = []

    def make() -> str:
        made.append(f"migrations_{next(_numbers)}")
        if request.param == "sqlite":
            return url_of(tmp_path / f"{made[-1]}.db")
        shared_server().create_database(made[-1])
        return shared_server().url(made[-1])

    yield make
    if request.param == "postgresql":
        for name in made:
            shared_server().drop_database(name)


@pytest.fixture
def database_url(new_url: Callable[[], str]) -> str:
    """A database without a schema."""
    return new_url()


@pytest.fixture
def migrated(database_url: str) -> str:
    """A database migrated from the first revision to the newest."""
    on(database_url, migrations.run_migrations)
    return database_url


def on(url: str, work: Callable[[Connection], Any]) -> Any:
    """The result of `work`; its changes are committed."""
    return migrations._with_connection(url, work, "try")


def change(url: str, *statements: str) -> None:
    on(url, lambda connection: [connection.execute(text(statement)) for statement in statements])


def table_names(url: str) -> list[str]:
    return sorted(on(url, lambda connection: inspect(connection).get_table_names()))


def description(url: str) -> dict[str, Any]:
    """Everything the database's catalogue says about its tables, except Alembic's."""
    found = on(url, _of_postgres if is_postgres(url) else _of_sqlite)
    return {name: value for name, value in found.items() if not name.startswith("alembic_version")}


def _of_postgres(connection: Connection) -> dict[str, Any]:
    return {row[0]: tuple(row[1:]) for query in POSTGRES_CATALOGUE for row in connection.exec_driver_sql(query)}


def _of_sqlite(connection: Connection) -> dict[str, Any]:
    """Everything an inspector reports about each table, and the conditions of its indexes."""
    inspector = inspect(connection)
    made = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'index'"))
    conditions = {row.name: (row.sql or "").partition(" WHERE ")[2] for row in made}
    triggers = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"))
    found: dict[str, Any] = {row.name: row.sql for row in triggers}
    for table in sorted(inspector.get_table_names()):
        for column in inspector.get_columns(table):
            found[f"{table}.{column['name']}"] = {**column, "type": repr(column["type"])}
        for index in inspector.get_indexes(table):
            where = conditions[str(index["name"])]
            found[f"{table}.{index['name']}"] = index["column_names"], index["unique"], where
        found[f"{table}.primary key"] = inspector.get_pk_constraint(table)
        found[f"{table}.unique"] = sorted(inspector.get_unique_constraints(table), key=repr)
        found[f"{table}.foreign keys"] = inspector.get_foreign_keys(table)
        found[f"{table}.checks"] = inspector.get_check_constraints(table)
    return found


def differences(connection: Connection) -> list[Any]:
    """The differences for which autogenerate would write a migration. The column that only PostgreSQL has is not in
    the metadata."""
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    found = compare_metadata(context, SQLModel.metadata)
    return [one for one in found if getattr(one[-1], "name", None) not in ("xid", "ix_events_xid")]


def test_a_fresh_upgrade_is_what_the_tables_describe(migrated: str, new_url: Callable[[], str]) -> None:
    made = new_url()
    migrations.migrate(made)
    expected, found = description(made), description(migrated)
    assert table_names(migrated) == sorted([*SQLModel.metadata.tables, "alembic_version"])
    assert sorted(found) == sorted(expected)
    for name in expected:
        assert found[name] == expected[name], name
    assert "state = 'pending'" in str(found["deliveries.ix_deliveries_due"])
    columns = sum(len(table.columns) for table in SQLModel.metadata.tables.values())
    indexes = sum(len(table.indexes) for table in SQLModel.metadata.tables.values())
    assert len(found) > columns + indexes


def test_with_postgresql_an_event_knows_its_transaction(migrated: str) -> None:
    found = description(migrated)
    if is_postgres(migrated):
        assert found["events.xid"] == ("xid8", True, "", "", "pg_current_xact_id()")
        assert '(xid, "position")' in str(found["events.ix_events_xid"])
    else:
        assert "events.xid" not in found


@pytest.mark.filterwarnings("ignore:Did not recognize type 'xid8'")
def test_autogenerate_finds_no_difference(migrated: str) -> None:
    assert on(migrated, differences) == []


@pytest.mark.filterwarnings("ignore:Did not recognize type 'xid8'")
def test_autogenerate_detects_a_difference(migrated: str) -> None:
    change(migrated, "DROP INDEX ix_deliveries_due")
    assert [found[0] for found in on(migrated, differences)] == ["add_index"]


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE jobs ADD COLUMN another TEXT",
        "DROP INDEX ix_jobs_open",
        "CREATE INDEX ix_new ON jobs (action)",
        "ALTER TABLE jobs RENAME COLUMN action TO act",
    ],
)
def test_schema_difference_is_detected(migrated: str, statement: str) -> None:
    before = description(migrated)
    change(migrated, statement)
    assert description(migrated) != before


def test_migrating_twice_changes_nothing(migrated: str) -> None:
    before = description(migrated)
    assert migrations.migrate(migrated) == migrations.newest_revision()
    assert description(migrated) == before
    migrations.check(migrated)


def test_searchable_values_are_written_again_in_another_form(migrated: str) -> None:
    documents = {
        "job_1": ('{"deal": "Ada L", "n": 4.5}', None),
        "job_2": ('{"deal": 42}', '{"metadata": {"deal": true}}'),
        "job_3": ('{"deal": "other"}', "[1"),
        "job_4": ("{", '{"metadata": "deal"}'),
    }
    texts = {"Ada L": ("job_1", "deal"), "4.5": ("job_1", "n"), "42": ("job_2", "deal"), "true": ("job_2", "deal")}
    gone = {"before": ("job_3", "deal"), "unread": ("job_4", "deal"), "of no job": ("job_5", "deal")}

    def fill(connection: Connection) -> None:
        for uid, (metadata, request) in documents.items():
            values = {"uid": uid, "metadata": metadata.encode(), "request": request and request.encode()}
            connection.execute(
                text(
                    "INSERT INTO jobs (uid, source, account, external_id, sequence, retry_count, running_sent, overdue,"
                    " attempt_count, weight, tracked_at, poll_count, failure_count, missing_count, metadata, request)"
                    " VALUES (:uid, 'revor', 'default', :uid, 1, 0, 0, 0, 1, 1, 1, 1, 0, 0, :metadata, :request)"
                ),
                values,
            )
        for value, (uid, key) in {**texts, **gone}.items():
            row = {"key": key, "digest": sha256(value.encode()).digest()[:16], "uid": uid}
            connection.execute(text("INSERT INTO job_search (key, digest, job_uid) VALUES (:key, :digest, :uid)"), row)

    def found(connection: Connection) -> set[tuple[str, str, bytes]]:
        rows = connection.execute(text("SELECT job_uid, key, digest FROM job_search"))
        return {(row.job_uid, row.key, bytes(row.digest)) for row in rows}

    migrations.go_back(migrated, "0028")
    on(migrated, fill)
    on(migrated, migrations.run_migrations)
    assert on(migrated, found) == {(*place, indexed(value)) for value, place in texts.items()}
    migrations.go_back(migrated, "0028")
    assert on(migrated, found) == {(*place, sha256(value.encode()).digest()[:16]) for value, place in texts.items()}


@pytest.mark.filterwarnings("ignore:Did not recognize type 'xid8'")
def test_migration_of_resources_is_undone_and_done_again(migrated: str) -> None:
    job = (
        "INSERT INTO jobs (uid, source, account, external_id, status, sequence, retry_count, running_sent, overdue,"
        " attempt_count, weight, tracked_at, poll_count, failure_count, missing_count, metadata%s)"
        " VALUES ('job_%d', 'revor', 'default', 'a', 'failed', 1, 0, 0, 0, 1, 1, 1, 1, 0, 0, '{}'%s)"
    )
    change(migrated, job % ("", 1, ""), job % (", resource", 2, ", 'websets'"))
    assert jobs_of(migrated) == [("job_1", "a", ""), ("job_2", "a", "websets")]
    change(migrated, "UPDATE jobs SET trace = 'a', status_url = '/a'")
    before = description(migrated)
    assert migrations.go_back(migrated, "0029") == {"trace contexts": 2}
    assert migrations.go_back(migrated, "0027") == {"jobs of further resources": 1, "status URLs of jobs": 1}
    added = {
        *("jobs.resource", "jobs.status_url", "jobs.told", "jobs.ix_jobs_status_url", "intents.resource"),
        "accounts.credits_low_since",
    }
    assert set(before) - set(description(migrated)) >= added
    assert on(migrated, differences) != []
    with pytest.raises(StoreError, match=r"(?i)unique"):
        change(migrated, job % ("", 3, ""))
    on(migrated, migrations.run_migrations)
    assert description(migrated) == before
    assert jobs_of(migrated) == [("job_1", "a", "")], "the program before knows jobs of the first resource only"


def test_old_file_can_shrink_once_it_is_migrated_by_command(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    old_file(path)
    migrations.migrate(url_of(path))
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,), "incremental"


def old_file(path: Path) -> None:
    """Makes a file as it was made before incremental vacuum."""
    migrations.migrate(url_of(path))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA auto_vacuum=NONE")
        connection.execute("VACUUM")
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (0,)


def test_file_that_cannot_be_rewritten_has_the_newest_schema(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    old_file(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2, limits[1]))
    try:
        with pytest.raises(
            StoreError, match=r"has the newest schema, but cannot be rewritten to shrink: .+"
        ) as refused:
            migrations.migrate(url_of(path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(refused.value)
    migrations.check(url_of(path))


def test_way_back_rewrites_no_file(tmp_path: Path) -> None:
    """On a full disk it would fail after the schema has changed."""
    path = tmp_path / "relay.db"
    old_file(path)
    migrations.go_back(url_of(path), "0029")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (0,)


@pytest.mark.filterwarnings("ignore:Did not recognize type 'xid8'")
def test_every_schema_can_be_gone_back_to(migrated: str) -> None:
    before, known = description(migrated), migrations.known_revisions()
    change(migrated, "INSERT INTO versions (name, number) VALUES ('kept', 7)")
    for revision in (*reversed(known), known[0]):
        assert migrations.go_back(migrated, revision) == {}
        assert on(migrated, migrations.current_revision) == revision
    assert on(migrated, differences) != []
    assert migrations.migrate(migrated) == known[-1]
    assert description(migrated) == before
    assert on(migrated, lambda connection: connection.scalar(text("SELECT number FROM versions"))) == 7


def test_database_without_a_schema_cannot_go_back(database_url: str) -> None:
    with pytest.raises(SchemaUnsupported, match="has no schema yet: it cannot go back"):
        migrations.go_back(database_url, "0029")


@pytest.mark.parametrize("to", ["0025", "9999", "26", "head", "-1", ""])
def test_a_schema_that_the_database_never_had_is_refused(migrated: str, to: str) -> None:
    before = description(migrated)
    with pytest.raises(SchemaUnsupported, match=rf"can go back to a schema from 0026 to \d+, not to '{to}'$"):
        migrations.go_back(migrated, to)
    migrations.go_back(migrated, "0026")
    with pytest.raises(SchemaUnsupported, match=r"has schema 0026: .+ from 0026 to 0026, not to '0027'$"):
        migrations.go_back(migrated, "0027")
    migrations.migrate(migrated)
    assert description(migrated) == before


async def test_no_schema_is_gone_back_to_while_a_node_runs(migrated: str) -> None:
    run = asyncio.get_running_loop().run_in_executor
    store = await open_store(migrated, ReversingCipher(), now=NOW)
    try:
        with pytest.raises(DatabaseHeld):
            await run(None, migrations.go_back, migrated, "0026")
        assert (await track(store)).startswith("job_")
    finally:
        await store.close()


@pytest.mark.parametrize("step", ["check", "connect"])
@pytest.mark.parametrize("new_url", ["postgresql"], indirect=True)
def test_no_schema_is_gone_back_to_while_a_node_starts(
    migrated: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A node reads its schema, ends that connection and opens others. It could read the schema from before."""
    before, run_migrations = description(migrated), migrations.run_migrations
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    async def is_waiting() -> bool:
        connection = await asyncpg.connect(migrated)
        try:
            return bool(await connection.fetchval(waiting))
        finally:
            await connection.close()

    with ThreadPoolExecutor(2) as threads:
        steps: list[Future[Any]] = []

        def run(connection: Connection, to: str | None = None) -> None:
            run_migrations(connection, to)
            work = migrations.check if step == "check" else jobs_of
            steps.append(threads.submit(work, migrated))
            while not steps[0].done() and not threads.submit(asyncio.run, is_waiting()).result(60):
                pass

        monkeypatch.setattr(migrations, "run_migrations", run)
        with pytest.raises(DatabaseHeld, match="stop them first"):
            migrations.go_back(migrated, "0029")
        steps[0].result(60)
    assert description(migrated) == before


@pytest.mark.parametrize("new_url", ["postgresql"], indirect=True)
def test_nodes_of_older_versions_can_use_the_newest_schema(migrated: str) -> None:
    """Nodes are upgraded one after the other: the statements of those that are left must still work."""
    after = description(migrated)
    migrations.go_back(migrated, OLDEST_BESIDE_THE_NEWEST)
    before = description(migrated)
    tables = {name.partition(".")[0] for name in before}
    assert {name: after.get(name) for name in before} == before
    for name in after.keys() - before.keys():
        if name.partition(".")[0] in tables:
            _type, needs_value, _identity, _generated, default = after[name]  # a column, no index and no constraint
            assert not needs_value or default, name


@pytest.mark.parametrize("new_url", ["postgresql"], indirect=True)
def test_a_migration_gives_up_a_table_that_it_cannot_lock(migrated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it waits, everything that nodes read and write waits behind it."""
    monkeypatch.setattr(migrations, "LOCK_SECONDS", 0.05)
    monkeypatch.setattr(migrations, "LOCK_ATTEMPTS", 2)
    monkeypatch.setattr(migrations, "LOCK_PAUSE_SECONDS", 0.0)
    migrations.go_back(migrated, "0029")
    before = description(migrated)
    with ThreadPoolExecutor(1) as thread, reading(migrated):
        with pytest.raises(StoreError, match="another transaction has locked a table: end it") as refused:
            thread.submit(migrations.migrate, migrated).result(60)
        assert "\n" not in str(refused.value)
        assert jobs_of(migrated) == []
    assert description(migrated) == before
    migrations.migrate(migrated)


@pytest.mark.parametrize("new_url", ["postgresql"], indirect=True)
def test_a_migration_tries_again_until_a_table_is_free(migrated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "LOCK_SECONDS", 0.05)
    monkeypatch.setattr(migrations, "LOCK_ATTEMPTS", 1_000_000)
    monkeypatch.setattr(migrations, "LOCK_PAUSE_SECONDS", 0.0)
    migrations.go_back(migrated, "0029")
    tried = threading.Semaphore(0)

    def run(connection: Connection) -> None:
        tried.release()
        run_migrations(connection)

    run_migrations = migrations.run_migrations
    monkeypatch.setattr(migrations, "run_migrations", run)
    with ThreadPoolExecutor(1) as thread:
        with reading(migrated):
            migration = thread.submit(migrations.migrate, migrated)
            for _ in range(3):
                assert tried.acquire(timeout=60)
        assert migration.result(60) == migrations.newest_revision()


@pytest.mark.parametrize(("code", "attempts"), [("40P01", 2), ("42P07", 1)])
@pytest.mark.parametrize("new_url", ["postgresql"], indirect=True)
def test_a_migration_that_deadlocks_with_a_node_is_tried_again(
    migrated: str, monkeypatch: pytest.MonkeyPatch, code: str, attempts: int
) -> None:
    monkeypatch.setattr(migrations, "LOCK_ATTEMPTS", 2)
    monkeypatch.setattr(migrations, "LOCK_PAUSE_SECONDS", 0.0)
    migrations.go_back(migrated, "0029")
    made: list[Connection] = []

    def run(connection: Connection) -> None:
        made.append(connection)
        connection.execute(text(f"DO $$ BEGIN RAISE EXCEPTION 'as a server says' USING ERRCODE = '{code}'; END $$"))

    monkeypatch.setattr(migrations, "run_migrations", run)
    with pytest.raises(StoreError, match=r"cannot migrate the database .*: as a server says$"):
        migrations.migrate(migrated)
    assert len(made) == attempts


@contextmanager
def reading(url: str) -> Iterator[None]:
    """An open transaction of another program that has read the jobs, as pg_dump's."""
    ended, begun = threading.Event(), threading.Event()

    async def read() -> None:
        connection = await asyncpg.connect(url)
        async with connection.transaction():
            await connection.fetch("SELECT * FROM jobs")
            begun.set()
            await asyncio.to_thread(ended.wait)
        await connection.close()

    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(asyncio.run, read())
        try:
            assert begun.wait(60)
            yield
        finally:
            ended.set()
            done.result(60)


def jobs_of(url: str) -> list[tuple[str, ...]]:
    wanted = text("SELECT uid, external_id, resource FROM jobs ORDER BY uid")
    return [tuple(row) for row in on(url, lambda connection: connection.execute(wanted).all())]


def test_a_database_without_a_schema_is_too_old(database_url: str) -> None:
    with pytest.raises(SchemaTooOld, match=r"no schema yet.*run `relay migrate`") as refused:
        migrations.check(database_url)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("revision", ["0001", "0025"])
def test_a_schema_from_before_the_first_one_names_the_commit_to_pass_through(migrated: str, revision: str) -> None:
    change(migrated, f"UPDATE alembic_version SET version_num = '{revision}'")
    before = description(migrated)
    for call in (migrations.migrate, migrations.upgrade, migrations.check):
        words = f"has schema {revision}, older than 0026.*run `relay migrate` of .* commit [0-9a-f]{{8}} first"
        with pytest.raises(SchemaUnsupported, match=words) as refused:
            call(migrated)
        assert "\n" not in str(refused.value)
        assert refused.value.exit_code == 2
    assert description(migrated) == before


@pytest.mark.parametrize("revision", ["", "ae1027a6acf", "26", "0026-beta", "\N{FULLWIDTH DIGIT ZERO}026"])
def test_a_schema_of_another_program_is_refused_and_left_alone(migrated: str, revision: str) -> None:
    change(migrated, f"UPDATE alembic_version SET version_num = '{revision}'")
    before = description(migrated)
    for call in (migrations.migrate, migrations.upgrade, migrations.check, migrations.create):
        with pytest.raises(SchemaUnsupported, match=r"belongs to another program: set database\.url") as refused:
            call(migrated)
        assert "\n" not in str(refused.value)
        assert refused.value.exit_code == 2
    assert description(migrated) == before


def test_a_backup_that_was_restored_over_a_newer_database_is_refused_and_left_alone(migrated: str) -> None:
    change(migrated, "INSERT INTO alembic_version VALUES ('0026')")
    before = description(migrated)
    words = r"has the schemas 0026 and \d{4} at once.*restore the backup into an empty database"
    for call in (migrations.migrate, migrations.upgrade, migrations.check, migrations.create):
        with pytest.raises(SchemaUnsupported, match=words):
            call(migrated)
    assert description(migrated) == before


def test_tables_of_another_program_are_left_alone(database_url: str) -> None:
    change(database_url, "CREATE TABLE jobs (id INTEGER, name TEXT)")
    before = description(database_url)
    for call in (migrations.migrate, migrations.upgrade, migrations.check, migrations.create):
        with pytest.raises(SchemaUnsupported, match="has a table `jobs`, but no schema of revor-relay"):
            call(database_url)
    assert description(database_url) == before


def test_tables_of_other_names_are_not_in_the_way(database_url: str) -> None:
    change(database_url, "CREATE TABLE spatial_ref_sys (id INTEGER)")
    assert migrations.migrate(database_url) == migrations.newest_revision()
    migrations.check(database_url)


@pytest.mark.parametrize("new_url", ["postgresql"], indirect=True)
def test_tables_of_another_schema_on_the_path_are_not_in_the_way(database_url: str) -> None:
    name = database_url.rpartition("@/")[2].partition("?")[0]
    change(database_url, "CREATE TABLE public.events (id INTEGER)")
    change(database_url, "CREATE SCHEMA relay")
    change(database_url, f'ALTER DATABASE "{name}" SET search_path = relay, public')
    assert migrations.migrate(database_url) == migrations.newest_revision()
    migrations.check(database_url)


def test_an_older_schema_is_named(migrated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = migrations.newest_revision()
    monkeypatch.setattr(migrations, "known_revisions", lambda: (newest, "9000"))
    with pytest.raises(SchemaTooOld, match=f"has schema {newest}, this program needs 9000: run `relay migrate`"):
        migrations.check(migrated)


async def test_store_needs_a_schema_or_auto_migrate(database_url: str) -> None:
    if is_postgres(database_url):  # the tables of a file belong to its only node, which makes them
        with pytest.raises(SchemaTooOld, match="relay migrate"):
            await open_store(database_url, ReversingCipher(), now=NOW)
    store = await open_store(database_url, ReversingCipher(), now=NOW, auto_migrate=True)
    try:
        assert (await track(store)).startswith("job_")
    finally:
        await store.close()


def test_a_newer_database_is_left_alone(migrated: str) -> None:
    change(migrated, "UPDATE alembic_version SET version_num = '9999'")
    before = description(migrated)
    for call in (migrations.migrate, migrations.upgrade, migrations.check):
        with pytest.raises(SchemaTooNew, match="9999") as refused:
            call(migrated)
        assert "\n" not in str(refused.value)
    assert description(migrated) == before


async def test_newer_database_is_released_again(database_url: str) -> None:
    run = asyncio.get_running_loop().run_in_executor
    await run(None, migrations.migrate, database_url)
    await run(None, change, database_url, "UPDATE alembic_version SET version_num = '9999'")
    for auto_migrate in (False, True):
        with pytest.raises(SchemaTooNew):
            await open_store(database_url, ReversingCipher(), now=NOW, auto_migrate=auto_migrate)


def test_upgrades_at_the_same_time_are_safe(database_url: str) -> None:
    start = threading.Barrier(4)
    results: list[Any] = []

    def upgrade() -> None:
        start.wait(30)
        try:
            results.append(migrations.upgrade(database_url))
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=upgrade) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [migrations.newest_revision()] * 4
    migrations.check(database_url)


def test_an_upgrade_that_fails_leaves_nothing(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "migrations"
    shutil.copytree(resources.migrations_dir(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    script = next((folder / "versions").glob("0026*.py"))
    body = script.read_text()
    script.write_text(f"{body}    raise ValueError('half way')\n")
    monkeypatch.setattr(resources, "migrations_dir", lambda: folder)
    with pytest.raises(ValueError, match="half way"):
        on(database_url, migrations.run_migrations)
    assert table_names(database_url) == []
    script.write_text(body)
    on(database_url, migrations.run_migrations)


@pytest.mark.parametrize("name", ["a folder", "per%cent", "a%(here)s", "ключ"])
def test_migrations_are_found_on_any_path(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / name / "migrations"
    shutil.copytree(resources.migrations_dir(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(resources, "migrations_dir", lambda: folder)
    path = tmp_path / name / "relay.db"
    on(url_of(path), migrations.run_migrations)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (
            migrations.newest_revision(),
        )


def test_migrations_are_numbered_by_their_files() -> None:
    folder = resources.migrations_dir() / "versions"
    assert migrations.known_revisions() == tuple(sorted(path.name[:4] for path in folder.glob("0*.py")))
    for path in folder.glob("0*.py"):
        assert f"revision = '{path.name[:4]}'" in path.read_text()
