"""Migrations: a fresh upgrade matches the tables exactly; a newer database is left unchanged."""

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text
from sqlalchemy.engine import Connection
from sqlmodel import SQLModel

import relay.store.schema.tables  # noqa: F401 - fills the metadata
from relay import resources
from relay.core.records import StoredAnswer
from relay.core.subscriptions.subscription import Incidents
from relay.errors import SchemaTooNew, SchemaTooOld
from relay.store.databases.postgres_engine import is_postgres
from relay.store.databases.sqlite import url_of
from relay.store.schema import migrations
from relay.store.store import open_store
from subscribers.registry import kind_named
from tests.support.postgres_server import shared_server
from tests.support.store_kit import (
    NOW,
    PUBLISHED_TYPE,
    ReversingCipher,
    claim,
    poll,
    publication,
    result_of,
    seen,
    subscription,
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
POSTGRES_CATALOGUE = (POSTGRES_COLUMNS, POSTGRES_INDEXES, POSTGRES_CONSTRAINTS, POSTGRES_SEQUENCES)
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
    found: dict[str, Any] = {}
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


async def test_answers_kept_by_the_first_schema_are_replayed_and_requests_that_it_left_open_are_free(
    database_url: str,
) -> None:
    answer = ReversingCipher().encrypt(b'{"body": "yes", "headers": {}}', context="answered").hex()
    blob = f"decode('{answer}', 'hex')" if is_postgres(database_url) else f"x'{answer}'"
    insert = "INSERT INTO idempotency_keys (id, body_digest, status_code, ciphertext, created_at) VALUES"
    await asyncio.to_thread(to_first_schema, database_url)
    await asyncio.to_thread(
        change,
        database_url,
        f"{insert} ('answered', 'digest', 201, {blob}, {NOW})",
        f"{insert} ('open', 'digest', NULL, NULL, {NOW})",
    )
    store = await open_store(database_url, ReversingCipher(), now=NOW, auto_migrate=True)
    try:
        answered, opened = [await store.idempotency.begin(id, "digest", "h", NOW, 0.0) for id in ("answered", "open")]
    finally:
        await store.close()
    assert (answered, opened) == (StoredAnswer(body_digest="digest", status_code=201, body=b"yes"), NOW)


async def test_a_job_of_an_older_schema_is_overdue_when_it_was_and_follows_its_schedule(database_url: str) -> None:
    columns = "uid, source, account, external_id, tracked_at, deadline_at, metadata, sequence, retry_count"
    columns += ", running_sent, overdue, attempt_count, poll_count, failure_count, missing_count, weight"
    empty = "decode('7b7d', 'hex')" if is_postgres(database_url) else "x'7b7d'"
    values = f"'job_1', 'revor', 'default', 'a', {NOW}, {NOW + 60}, {empty}, {', '.join('0' * 8)}, 1.0"
    await asyncio.to_thread(to_first_schema, database_url)
    await asyncio.to_thread(change, database_url, f"INSERT INTO jobs ({columns}) VALUES ({values})")
    store = await open_store(database_url, ReversingCipher(), now=NOW, auto_migrate=True)
    try:
        assert await store.jobs.past_deadline("revor", "default", NOW + 61) == [(NOW + 60, "job_1")]
        shown = seen("scheduled", scheduled_at=NOW + 500)
        await store.jobs.record(poll("job_1", 0, "scheduled", seen=shown))
        assert await store.jobs.past_deadline("revor", "default", NOW + 561) == [(NOW + 560, "job_1")]
    finally:
        await store.close()


OLD_CHAT_TYPES = (
    *("ai.revor.job.failed", "ai.revor.job.overdue", "ai.revor.job.not_found"),
    *("relay.source.unauthorized", "relay.source.down", "relay.source.recovered", "relay.create.unknown"),
)


@pytest.mark.locks_itself  # no relay runs while the schema changes
async def test_an_existing_chat_subscription_gets_the_new_defaults_and_keeps_types_of_its_own(migrated: str) -> None:
    chosen = ("ai.revor.job.failed", "ai.revor.job.succeeded")
    given: dict[str, tuple[str, tuple[str, ...] | None]] = {
        "sub_1": ("slack", OLD_CHAT_TYPES),
        "sub_2": ("slack", OLD_CHAT_TYPES[:-1]),
        "sub_3": ("slack", chosen),
        "sub_4": ("webhook", OLD_CHAT_TYPES),
        "sub_5": ("webhook", None),
    }
    store = await open_store(migrated, ReversingCipher(), now=NOW)
    try:
        for id, (kind, types) in given.items():
            incidents: Incidents = "collapse" if kind == "slack" else "off"
            await store.subscriptions.create(subscription(id, kind=kind, types=types, incidents=incidents))
    finally:
        await store.close()
    await asyncio.to_thread(to_revision, migrated, "0014")
    assert "incidents" not in await asyncio.to_thread(
        text_of, migrated, "SELECT config FROM subscriptions WHERE id='sub_1'"
    )
    store = await open_store(migrated, ReversingCipher(), now=NOW, auto_migrate=True)
    try:
        after = {one.id: one for one in await store.subscriptions.all()}
    finally:
        await store.close()
    defaults = kind_named("slack").default_types(["ai.revor.job"])
    assert defaults is not None
    assert set(after["sub_1"].types or ()) == set(after["sub_2"].types or ()) == set(defaults)
    assert [after[id].types for id in ("sub_3", "sub_4", "sub_5")] == [chosen, OLD_CHAT_TYPES, None]
    assert {id: one.incidents for id, one in after.items()} == {
        **dict.fromkeys(("sub_1", "sub_2", "sub_3"), "collapse"),
        **dict.fromkeys(("sub_4", "sub_5"), "off"),
    }


@pytest.mark.locks_itself  # no relay runs while the schema changes
async def test_downgrade_lists_uncertain_deliveries_as_dead_and_takes_back_what_chats_are_told(migrated: str) -> None:
    defaults = kind_named("slack").default_types(["ai.revor.job", "other.job"])
    assert defaults is not None
    store = await open_store(migrated, ReversingCipher(), now=NOW)
    try:
        await store.subscriptions.create(subscription("sub_1", kind="teams", types=defaults, incidents="collapse"))
        await store.subscriptions.create(subscription("sub_2"))
        uid = await track(store)
        await store.jobs.record(poll(uid, 0, "queued"))
        (held,) = await claim(store, "sub_2")
        await store.deliveries.record_attempt(result_of(held, "uncertain", reason="timeout"))
    finally:
        await store.close()
    await asyncio.to_thread(to_revision, migrated, "0018")
    stored = await asyncio.to_thread(text_of, migrated, "SELECT types FROM subscriptions WHERE id = 'sub_1'")
    assert "relay.delivery.expired" in stored
    assert "uncertain" not in stored
    assert await asyncio.to_thread(text_of, migrated, "SELECT state FROM deliveries") == "dead"
    store = await open_store(migrated, ReversingCipher(), now=NOW, auto_migrate=True)
    try:
        after = await store.subscriptions.get("sub_1")
        assert after is not None
        assert set(after.types or ()) == set(defaults)
    finally:
        await store.close()


@pytest.mark.locks_itself  # no relay runs while the schema changes
async def test_downgrade_frees_published_events_from_the_order_of_their_stream(migrated: str) -> None:
    store = await open_store(migrated, ReversingCipher(), now=NOW)
    try:
        await store.subscriptions.create(subscription("sub_1", types=(PUBLISHED_TYPE, "ai.revor.job.queued")))
        uid = await track(store)
        await store.jobs.record(poll(uid, 0, "queued", "scheduled", "queued"))
        await store.published.record([publication(str(n), key="a") for n in range(3)])
    finally:
        await store.close()
    await asyncio.to_thread(to_revision, migrated, "0019")
    of_jobs = "SELECT COUNT(*) FROM deliveries WHERE state = 'blocked' AND job_uid IS NOT NULL"
    free = "SELECT COUNT(*) FROM deliveries WHERE state = 'pending' AND job_uid IS NULL AND sequence IS NULL"
    assert await asyncio.to_thread(text_of, migrated, of_jobs) == "1"
    assert await asyncio.to_thread(text_of, migrated, free) == "3"
    store = await open_store(migrated, ReversingCipher(), now=NOW, auto_migrate=True)
    try:
        (first,) = await store.published.record([publication("new", key="a")])
        assert not first.known
        found = await claim(store, "sub_1", 10)
        assert sorted(one.event.document().get("id", "") for one in found if one.job_uid != uid) == [
            "0",
            "1",
            "2",
            "new",
        ]
    finally:
        await store.close()


def text_of(url: str, statement: str) -> str:
    found: list[str] = []
    on(url, lambda connection: found.append(str(connection.execute(text(statement)).scalar_one())))
    return found[0]


def to_revision(url: str, revision: str) -> None:
    """An existing database at an older revision."""

    def downgrade(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(resources.migrations_dir()).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.downgrade(config, revision)

    on(url, downgrade)


def to_first_schema(url: str) -> None:
    """A new database at the first revision."""

    def upgrade(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(resources.migrations_dir()).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")

    on(url, upgrade)


def test_a_database_without_a_schema_is_too_old(database_url: str) -> None:
    with pytest.raises(SchemaTooOld, match=r"no schema yet.*run `relay migrate`") as refused:
        migrations.check(database_url)
    assert "\n" not in str(refused.value)


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
    script = next((folder / "versions").glob("0001*.py"))
    body = script.read_text()
    script.write_text(body.replace("def downgrade", "    raise ValueError('half way')\n\n\ndef downgrade"))
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


@pytest.mark.locks_itself  # no relay runs while the schema changes
def test_a_downgrade_takes_everything_away(migrated: str) -> None:
    from alembic import command
    from alembic.config import Config

    def down(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(resources.migrations_dir()).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.downgrade(config, "base")

    on(migrated, down)
    assert table_names(migrated) == ["alembic_version"]
    assert migrations.migrate(migrated) == migrations.newest_revision()
