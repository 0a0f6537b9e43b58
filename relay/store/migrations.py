"""Brings a database to this program's schema with Alembic, whose configuration is built here in code."""

from sqlalchemy import inspect, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from relay import resources
from relay.errors import SchemaTooNew, SchemaTooOld, StoreError
from relay.store.database import HolderLock, lock_path, make_engine, sqlite_url


def migrate(url: str) -> str:
    """Brings the database to the newest schema and returns its revision. It must not be held by a running node.

    Raises DatabaseHeld, SchemaTooNew, StoreError.
    """
    lock = HolderLock(lock_path(sqlite_url(url)))
    lock.acquire()
    try:
        return upgrade(url)
    finally:
        lock.release()


def upgrade(url: str) -> str:
    """Like `migrate`, for the process that holds the database already."""
    engine = make_engine(sqlite_url(url))
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            current = current_revision(connection)
            newest = newest_revision()
            if current not in (None, newest) and current not in known_revisions():
                raise SchemaTooNew(
                    f"the database has schema {current}, which this program (schema {newest}) does not know: "
                    "it was migrated by a newer revor-relay; install that version again"
                )
            if current != newest:
                from alembic import command  # costs 0.3 s, which a start with the newest schema should not pay
                from alembic.config import Config

                config = Config()
                config.set_main_option("script_location", str(resources.migrations_dir()).replace("%", "%%"))
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
            connection.commit()
            return newest
    except SQLAlchemyError as error:
        raise StoreError(f"cannot migrate the database {engine.url.database}: {_reason(error)}") from error
    finally:
        engine.dispose()


def check(url: str) -> None:
    """Raises SchemaTooOld or SchemaTooNew unless the database has exactly this program's schema."""
    engine = make_engine(sqlite_url(url))
    try:
        with engine.connect() as connection:
            current = current_revision(connection)
    except SQLAlchemyError as error:
        raise StoreError(f"cannot read the database {engine.url.database}: {_reason(error)}") from error
    finally:
        engine.dispose()
    newest = newest_revision()
    if current == newest:
        return
    if current is None or current in known_revisions():
        raise SchemaTooOld(f"the database has schema {current}, this program needs {newest}: run `relay migrate`")
    raise SchemaTooNew(f"the database has schema {current}, which this program (schema {newest}) does not know")


def current_revision(connection: Connection) -> str | None:
    """The schema that the database has, None for an empty one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def known_revisions() -> tuple[str, ...]:
    """The revisions that this program has, oldest first: migrations are named by their number, `0001_…py`."""
    names = sorted(path.stem for path in (resources.migrations_dir() / "versions").glob("[0-9]*.py"))
    return tuple(name.partition("_")[0] for name in names)


def newest_revision() -> str:
    """The schema of this program."""
    return known_revisions()[-1]


def _reason(error: SQLAlchemyError) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0]
