"""Migrations: a fresh upgrade is exactly the tables that the program describes; a newer database is left alone."""

import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.pool import NullPool
from sqlmodel import SQLModel

import relay.store.tables  # noqa: F401 - fills the metadata
from relay import resources
from relay.errors import SchemaTooNew, SchemaTooOld
from relay.store import migrations
from relay.store.database import url_of
from relay.store.store import open_store
from tests.store_kit import NOW, ReversingCipher


def engine_of(url: str) -> Engine:
    return create_engine(url, poolclass=NullPool)


def description(engine: Engine) -> dict[str, Any]:
    """All that an inspector tells of each table, and the conditions of its indexes."""
    inspector = inspect(engine)
    found: dict[str, Any] = {}
    with engine.connect() as connection:
        made = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'index'"))
        conditions = {row.name: row.sql for row in made}
    for table in sorted(set(inspector.get_table_names()) - {"alembic_version"}):
        found[table] = {
            "columns": [{**column, "type": repr(column["type"])} for column in inspector.get_columns(table)],
            "primary key": inspector.get_pk_constraint(table),
            "unique": sorted(inspector.get_unique_constraints(table), key=repr),
            "foreign keys": inspector.get_foreign_keys(table),
            "checks": inspector.get_check_constraints(table),
            "indexes": {
                index["name"]: {
                    "columns": index["column_names"],
                    "unique": index["unique"],
                    "where": (conditions[index["name"]] or "").partition(" WHERE ")[2],
                }
                for index in inspector.get_indexes(table)
            },
        }
    return found


@pytest.fixture
def migrated(database_url: str) -> Engine:
    migrations.migrate(database_url)
    return engine_of(database_url)


def test_a_fresh_upgrade_is_what_the_tables_describe(migrated: Engine, tmp_path: Path) -> None:
    made = engine_of(f"sqlite:///{tmp_path / 'made.db'}")
    SQLModel.metadata.create_all(made)
    expected, found = description(made), description(migrated)
    assert sorted(found) == sorted(SQLModel.metadata.tables)
    for table in expected:
        assert found[table] == expected[table], table
    assert found["deliveries"]["indexes"]["ix_deliveries_due"]["where"] == "state = 'pending'"


def test_autogenerate_finds_no_difference(migrated: Engine) -> None:
    with migrated.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, SQLModel.metadata) == []


def test_autogenerate_would_find_one(migrated: Engine) -> None:
    with migrated.begin() as connection:
        connection.execute(text("DROP INDEX ix_deliveries_due"))
        context = MigrationContext.configure(connection)
        assert [change[0] for change in compare_metadata(context, SQLModel.metadata)] == ["add_index"]


def test_migrating_twice_changes_nothing(migrated: Engine, database_url: str) -> None:
    before = description(migrated)
    assert migrations.migrate(database_url) == migrations.newest_revision()
    assert description(migrated) == before
    migrations.check(database_url)


def test_a_database_without_a_schema_is_too_old(database_url: str) -> None:
    with pytest.raises(SchemaTooOld, match="relay migrate"):
        migrations.check(database_url)


def test_a_newer_database_is_left_alone(migrated: Engine, database_url: str) -> None:
    with migrated.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    before = description(migrated)
    for call in (migrations.migrate, migrations.upgrade, migrations.check):
        with pytest.raises(SchemaTooNew, match="9999") as refused:
            call(database_url)
        assert "\n" not in str(refused.value)
    assert description(migrated) == before


async def test_a_newer_database_is_let_go_again(database_url: str) -> None:
    migrations.migrate(database_url)
    with engine_of(database_url).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for _ in range(2):
        with pytest.raises(SchemaTooNew):
            await open_store(database_url, ReversingCipher(), now=NOW)


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
        migrations.migrate(database_url)
    assert inspect(engine_of(database_url)).get_table_names() == []
    script.write_text(body)
    migrations.migrate(database_url)


@pytest.mark.parametrize("name", ["a folder", "per%cent", "a%(here)s", "ключ"])
def test_migrations_are_found_on_any_path(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / name / "migrations"
    shutil.copytree(resources.migrations_dir(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(resources, "migrations_dir", lambda: folder)
    path = tmp_path / name / "relay.db"
    migrations.migrate(url_of(path))
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("0001",)


def test_migrations_are_numbered_by_their_files() -> None:
    folder = resources.migrations_dir() / "versions"
    assert migrations.known_revisions() == tuple(sorted(path.name[:4] for path in folder.glob("0*.py")))
    for path in folder.glob("0*.py"):
        assert f"revision = '{path.name[:4]}'" in path.read_text()


def test_a_downgrade_takes_everything_away(migrated: Engine, make_config: Callable[[Any], Any]) -> None:
    from alembic import command

    with migrated.begin() as connection:
        command.downgrade(make_config(connection), "base")
    assert inspect(migrated).get_table_names() == ["alembic_version"]


@pytest.fixture
def make_config() -> Callable[[Any], Any]:
    from alembic.config import Config

    def make(connection: Any) -> Config:
        config = Config()
        config.set_main_option("script_location", str(resources.migrations_dir()).replace("%", "%%"))
        config.attributes["connection"] = connection
        return config

    return make
