"""Migrates a database to this program's schema with Alembic, configured in code."""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import inspect, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import SQLModel

import relay.store.schema.tables  # noqa: F401 (fills the metadata)
from relay import resources
from relay.core.events.sentences import enumerated
from relay.errors import DatabaseHeld, SchemaTooNew, SchemaTooOld, SchemaUnsupported, StoreError
from relay.private_files import make_empty
from relay.store.databases import postgres_engine as postgres
from relay.store.databases.locks import Key
from relay.store.databases.postgres_engine import is_postgres
from relay.store.databases.sqlite import HolderLock, lock_path, make_engine, narrow_files, real_path, sqlite_url
from relay.store.databases.statements import SQLITE

if TYPE_CHECKING:
    from alembic.config import Config

COMMIT_OF_OLDER_SCHEMAS = "7480739f"
"""A commit of this repository that migrates schemas older than the first one of this program."""
UPGRADE_WAIT_MS = 60_000
"""Maximum wait of an upgrade of SQLite for another one."""
LOCK_SECONDS = 1.5
"""Maximum wait of a PostgreSQL migration for a table lock. Queries of all nodes queue behind it: no request
(`POOL_TIMEOUT_SECONDS`) and no /readyz (`PATIENCE_SECONDS` of `probe`) fails in this time."""
LOCK_ATTEMPTS = 12
LOCK_PAUSE_SECONDS = 3.0
"""Pause between two attempts, in which the queued queries run."""
MIGRATE = "migrate"
Result = TypeVar("Result")


_REVISION = re.compile(r"[0-9]{4}", re.ASCII)
_CREATE_VERSION = (  # as Alembic creates it
    "CREATE TABLE IF NOT EXISTS alembic_version "
    "(version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
)
ADVISORY_LOCK = f"SELECT pg_advisory_xact_lock({Key.MIGRATION})"
OTHERS = (
    "SELECT count(*) FROM pg_stat_activity"
    f" WHERE datname = current_database() AND application_name = '{postgres.APPLICATION}' AND pid <> pg_backend_pid()"
)
"""Connections of nodes and commands."""
LOCK_VERSION = "LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE"
"""A node that starts meanwhile reads its schema when the migration has ended."""
LOCKED, DEADLOCK = "55P03", "40P01"


def migrate(url: str) -> str:
    """Upgrades the database to the newest schema and returns its revision. A SQLite file must not be held by a
    running node. A file from before incremental vacuum is rewritten, which needs its size again in free disk space.

    Raises DatabaseHeld, SchemaTooNew, SchemaUnsupported, StoreError, SettingsError.
    """
    with _held(url):
        revision = _migrated(url, _upgrade)
        if not is_postgres(url):
            _let_shrink(url)
        return revision


def go_back(url: str, to: str) -> dict[str, int]:
    """Goes back to an older schema. No node may run. Returns what that schema lacks, with the number of its rows that
    were removed.

    Raises as `migrate`.
    """
    with _held(url):
        return _migrated(url, partial(_downgrade, to))


@contextmanager
def _held(url: str) -> Iterator[None]:
    """Holds a SQLite file, which is created if there is none."""
    if is_postgres(url):
        yield
        return
    lock = HolderLock(lock_path(sqlite_url(url)))
    lock.acquire()
    try:
        make_empty(real_path(sqlite_url(url)))
        yield
    finally:
        lock.release()


def upgrade(url: str) -> str:
    """Like `migrate`, for the process that holds the database already. If several start at once, one migrates and
    the others wait. Do not call it in a running event loop."""
    return _migrated(url, _upgrade)


def _migrated(url: str, work: Callable[[Connection], Result]) -> Result:
    result = _with_connection(url, work, MIGRATE)
    if not is_postgres(url):
        narrow_files(sqlite_url(url))
    return result


def create(url: str) -> None:
    """Creates the schema in an empty database; like `check` for any other. Do not call it in a running event loop."""
    if _with_connection(url, current_revision, "read") is None:
        upgrade(url)
    check(url)


def _let_shrink(url: str) -> None:
    engine = make_engine(sqlite_url(url))
    try:
        with engine.connect() as connection:
            if connection.exec_driver_sql("PRAGMA auto_vacuum").scalar_one() == 0:
                connection.exec_driver_sql("PRAGMA auto_vacuum=INCREMENTAL")
                connection.exec_driver_sql("VACUUM")
    except SQLAlchemyError as error:
        path, reason = engine.url.database, _reason(error)
        raise StoreError(
            f"the database {path} has the newest schema, but cannot be rewritten to shrink: {reason}"
        ) from error
    finally:
        engine.dispose()


def check(url: str) -> None:
    """Raises SchemaTooOld, SchemaTooNew or SchemaUnsupported unless the database has exactly this program's schema. Do
    not call it in a running event loop."""
    current = _with_connection(url, current_revision, "read")
    _check_known(current)
    newest = newest_revision()
    if current != newest:
        found = "no schema yet" if current is None else f"schema {current}"
        raise SchemaTooOld(f"the database has {found}, this program needs {newest}: run `relay migrate`")


def _with_connection(url: str, work: Callable[[Connection], Result], what: str) -> Result:
    if is_postgres(url):
        return asyncio.run(_with_postgres(url, work, what))
    engine = make_engine(sqlite_url(url))
    try:
        with engine.connect() as connection:
            if what == MIGRATE:  # another process may be upgrading it
                connection.exec_driver_sql(f"PRAGMA busy_timeout={UPGRADE_WAIT_MS}")
            connection.exec_driver_sql("BEGIN IMMEDIATE" if what == MIGRATE else "BEGIN")
            result = work(connection)
            connection.commit()
            return result
    except SQLAlchemyError as error:
        raise StoreError(f"cannot {what} the database {engine.url.database}: {_reason(error)}") from error
    finally:
        engine.dispose()


async def _with_postgres(url: str, work: Callable[[Connection], Result], what: str) -> Result:
    engine = postgres.make_engine(postgres.postgres_url(url), pool_size=1, statement_seconds=None)
    try:
        attempts = 0
        while True:
            attempts += 1
            try:
                async with engine.begin() as connection:
                    if what == MIGRATE:
                        await connection.execute(text(ADVISORY_LOCK))
                        await connection.execute(text(f"SET LOCAL lock_timeout = {round(1000 * LOCK_SECONDS)}"))
                    return await connection.run_sync(work)
            except SQLAlchemyError as error:
                if attempts >= LOCK_ATTEMPTS or postgres.sqlstate_of(error) not in (LOCKED, DEADLOCK):
                    raise
            await asyncio.sleep(LOCK_PAUSE_SECONDS)
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        reason = postgres.reason_of(error)
        if postgres.sqlstate_of(error) == LOCKED:
            reason = "another transaction has locked a table: end it (see pg_stat_activity), then migrate again"
        raise StoreError(
            f"cannot {what} the database {postgres.shown(postgres.postgres_url(url))}: {reason}"
        ) from error
    finally:
        await engine.dispose()


def _upgrade(connection: Connection) -> str:
    current, newest = current_revision(connection), newest_revision()
    _check_known(current)
    if current is None:
        _create(connection, newest)
    elif current != newest:
        run_migrations(connection)
    return newest


def _downgrade(to: str, connection: Connection) -> dict[str, int]:
    current, known = current_revision(connection), known_revisions()
    _check_known(current)
    if current is None:
        raise SchemaUnsupported("the database has no schema yet: it cannot go back to another")
    if to not in known or to > current:
        why = f"it can go back to a schema from {known[0]} to {current}, not to {to!r}"
        raise SchemaUnsupported(f"the database has schema {current}: {why}")
    if connection.dialect.name != SQLITE:
        connection.execute(text(LOCK_VERSION))
        _check_alone(connection)
    if to == current:
        return {}
    removed = _count_removed(connection, current, to)
    run_migrations(connection, to)
    if connection.dialect.name != SQLITE:
        connection.execute(text("SELECT pg_stat_clear_snapshot()"))
        _check_alone(connection)  # a node may have read its schema before, and connected meanwhile
    return removed


def _check_alone(connection: Connection) -> None:
    if connection.execute(text(OTHERS)).scalar_one() > 0:
        raise DatabaseHeld("nodes or commands of revor-relay are connected to the database: stop them first")


def _count_removed(connection: Connection, current: str, to: str) -> dict[str, int]:
    """Rows that the way back removes, by `REMOVED` of its migrations."""
    from alembic.script import ScriptDirectory

    counts: dict[str, int] = {}
    for script in ScriptDirectory.from_config(_config(connection)).iterate_revisions(current, to):
        removed: Mapping[str, str] = getattr(script.module, "REMOVED", {})
        for noun, rows in removed.items():
            counts[noun] = connection.execute(text(f"SELECT count(*) FROM {rows}")).scalar_one()
    return {noun: count for noun, count in counts.items() if count > 0}


def _create(connection: Connection, revision: str) -> None:
    """Creates every table in an empty database. A test compares the result with that of the migrations. It needs no
    Alembic, whose import takes a tenth of the first start."""
    SQLModel.metadata.create_all(connection, checkfirst=False)
    connection.execute(text(_CREATE_VERSION))
    connection.execute(text("INSERT INTO alembic_version (version_num) VALUES (:revision)"), {"revision": revision})


def run_migrations(connection: Connection, back_to: str | None = None) -> None:
    """Runs the migrations that this database lacks, or undoes those after `back_to`."""
    from alembic import command  # slow to import, and only an old database needs it

    config = _config(connection)
    if back_to is None:
        command.upgrade(config, "head")
    else:
        command.downgrade(config, back_to)


def _config(connection: Connection) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(resources.migrations_dir()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _check_known(current: str | None) -> None:
    """Raises SchemaTooNew or SchemaUnsupported for a schema that this program has no migration for."""
    known = known_revisions()
    if current is None or current in known:
        return
    if current < known[0]:
        raise SchemaUnsupported(
            f"the database has schema {current}, older than {known[0]}, the first one that this program updates: run "
            f"`relay migrate` of revor-relay's commit {COMMIT_OF_OLDER_SCHEMAS} first"
        )
    raise SchemaTooNew(
        f"the database has schema {current}, which this program (schema {known[-1]}) does not know: "
        "it was migrated by a newer revor-relay; install that version again, or run its "
        f"`relay migrate --to {known[-1]}`"
    )


def current_revision(connection: Connection) -> str | None:
    """The database's schema revision; None for a database without one. Raises SchemaUnsupported if it has that of
    another program, several, or none and a table with the name of one of ours where ours would be created."""
    inspector = inspect(connection)
    tables = set(inspector.get_table_names())
    found: Sequence[object] = ()
    if "alembic_version" in tables:
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    revisions = sorted(one for one in found if isinstance(one, str) and _REVISION.fullmatch(one) is not None)
    if len(found) == 1 and revisions:
        return revisions[0]
    if found and len(found) == len(revisions):
        raise SchemaUnsupported(
            f"the database has the schemas {enumerated(revisions)} at once, as when a backup was restored over it: "
            "restore the backup into an empty database"
        )
    own = inspector.get_table_names(schema=inspector.default_schema_name)  # a search_path may show those of others
    taken = sorted(set(own) & set(SQLModel.metadata.tables))
    if not found and not taken:
        return None
    has = f"schema {', '.join(map(repr, found)):.100}" if found else f"a table `{taken[0]}`"
    raise SchemaUnsupported(
        f"the database has {has}, but no schema of revor-relay, so it belongs to another program: set database.url to "
        "another one"
    )


def known_revisions() -> tuple[str, ...]:
    """The revisions of this program, oldest first. Migration files are named by number, `0001_…py`."""
    names = sorted(path.stem for path in (resources.migrations_dir() / "versions").glob("[0-9]*.py"))
    return tuple(name.partition("_")[0] for name in names)


def newest_revision() -> str:
    """The schema revision of this program."""
    return known_revisions()[-1]


def _reason(error: SQLAlchemyError) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0]
