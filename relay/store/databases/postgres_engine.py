"""Connections to PostgreSQL: URLs, engines, and the meaning of driver errors."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from secrets import token_hex
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from relay.errors import ServerTooOld, SettingsError, StoreError
from relay.installation import install_command
from relay.store.databases.group_commit import as_store_error

OLDEST_SERVER = 15
"""The oldest major version of PostgreSQL on which the store's tests run."""
APPLICATION = "revor-relay"
"""The name of all connections on the server."""
CONNECT_TIMEOUT_SECONDS = 5.0
STATEMENT_TIMEOUT_SECONDS = 30.0
POOL_TIMEOUT_SECONDS = 5.0
MAX_AGE_SECONDS = 240
"""Age at which a connection is replaced when it is next taken: networks drop idle ones without a word."""
# Every statement reads few rows by index. With statistics from when the tables were small, the planner may choose to
# scan a table or all open rows to join them with a short list, at a thousand times the cost. Starting parallel workers
# for a page, whose limit a prepared statement does not know, costs 20 ms.
SEEKS = {
    **{"enable_hashjoin": "off", "enable_mergejoin": "off", "enable_seqscan": "off", "enable_bitmapscan": "off"},
    **{"random_page_cost": "1.1", "jit": "off", "max_parallel_workers_per_gather": "0"},
}

# SQLSTATE (PostgreSQL, appendix A): errors that a retry can cure. 23505, a duplicate key: another node was first, and
# the retry finds its row.
CONFLICTS = frozenset({"40001", "40P01", "55P03", "23505"})
UNAVAILABLE = ("08", "53", "57P", "25006")


def postgres_url(url: str) -> URL:
    """The parsed URL, with our driver. Raises SettingsError for any other URL."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise SettingsError("database.url is not a database URL: write it like postgresql://user@host/relay") from error
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise SettingsError(f"database.url: {parsed.drivername} is not supported here")
    return parsed.set(drivername="postgresql+asyncpg")


def is_postgres(url: str) -> bool:
    """True if a database URL is PostgreSQL's."""
    return url.partition("://")[0].partition("+")[0] in ("postgresql", "postgres")


def make_engine(
    url: URL, *, pool_size: int, statement_seconds: float | None = STATEMENT_TIMEOUT_SECONDS
) -> AsyncEngine:
    """An engine with at most `pool_size` connections. Every wait has a time limit; `statement_seconds=None` lifts it
    for statements.

    Raises SettingsError if the driver is not installed.
    """
    if find_spec("asyncpg") is None:
        raise SettingsError(f"PostgreSQL needs the extra postgres: {install_command('postgres')}")
    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=partial(connect, url, statement_seconds),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_SECONDS,
        pool_use_lifo=True,  # the last one used has its plans, and the processor's caches its server process
        pool_recycle=MAX_AGE_SECONDS,
    )


async def connect(url: URL, statement_seconds: float | None = STATEMENT_TIMEOUT_SECONDS) -> Any:
    """A raw asyncpg connection. asyncpg, unlike SQLAlchemy, interprets libpq's URL parameters such as `sslmode`.

    Raises ServerTooOld.
    """
    import asyncpg

    connection = await asyncpg.connect(
        url.set(drivername="postgresql").render_as_string(hide_password=False),
        timeout=CONNECT_TIMEOUT_SECONDS,
        command_timeout=statement_seconds,
        server_settings={"application_name": APPLICATION, **SEEKS},
    )
    if connection.get_server_version().major < OLDEST_SERVER:
        found = connection.get_settings().server_version
        connection.terminate()
        raise ServerTooOld(
            f"the server of {shown(url)} is PostgreSQL {found}: upgrade it to PostgreSQL {OLDEST_SERVER} or newer"
        )
    return connection


def sqlstate_of(error: BaseException | None) -> str:
    """The SQLSTATE of an error or of its cause; empty if there is none."""
    while error is not None:
        for candidate in (error, getattr(error, "orig", None)):
            state = getattr(candidate, "sqlstate", None) or getattr(candidate, "pgcode", None)
            if isinstance(state, str):
                return state
        error = error.__cause__
    return ""


def is_conflict(error: Exception) -> bool:
    """True if the error is a conflict with another transaction."""
    return sqlstate_of(error) in CONFLICTS


def is_unavailable(error: Exception) -> bool:
    """True if the server, not the statement, caused the error."""
    if isinstance(error, OSError | TimeoutError | PoolTimeout):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    if sqlstate_of(error).startswith(UNAVAILABLE):
        return True
    message = str(
        getattr(error, "orig", type(error))
    )  # what asyncpg raises for a connection lost in the middle of an operation
    return any(f"asyncpg.exceptions._base.{name}" in message for name in ("InterfaceError", "InternalClientError"))


def as_ours(error: Exception) -> Exception:
    """A driver's error as StoreError; other errors unchanged."""
    if isinstance(error, SQLAlchemyError):
        return as_store_error(error)
    if is_unavailable(error):
        made = StoreError(f"the database cannot be reached: {reason_of(error)}")
        made.__cause__ = error
        return made
    return error


def reason_of(error: BaseException) -> str:
    """One line for people."""
    original = getattr(error, "orig", None) or error
    lines = str(original).splitlines()
    message = lines[0] if lines else type(original).__name__
    return message.partition(">: ")[2] or message  # "<class 'asyncpg.…Error'>: message"


def shown(url: URL) -> str:
    """A database URL for display, without the password."""
    return url.set(drivername="postgresql").render_as_string(hide_password=True)


@asynccontextmanager
async def scratch_database(url: str) -> AsyncIterator[str]:
    """A new, empty database on the server of `url`, dropped at the end. Raises StoreError if it cannot be created."""
    beside = postgres_url(url)
    name = f"relay_demo_{token_hex(6)}"
    engine = make_engine(beside, pool_size=1)
    try:
        await _outside_a_transaction(engine, f"CREATE DATABASE {name}")
        try:
            yield beside.set(drivername="postgresql", database=name).render_as_string(hide_password=False)
        finally:
            await _outside_a_transaction(engine, f"DROP DATABASE {name} WITH (FORCE)")
    except (SQLAlchemyError, OSError) as error:
        raise StoreError(f"cannot create a database beside {shown(beside)}: {reason_of(error)}") from error
    finally:
        await engine.dispose()


async def _outside_a_transaction(engine: AsyncEngine, statement: str) -> None:
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text(statement))
