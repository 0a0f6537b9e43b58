"""How PostgreSQL is reached: URLs, connections, and what an error of its driver means."""

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

from relay.errors import SettingsError, StoreError
from relay.store.groups import as_store_error

CONNECT_TIMEOUT_SECONDS = 5.0
STATEMENT_TIMEOUT_SECONDS = 30.0
POOL_TIMEOUT_SECONDS = 5.0
# Every statement of ours takes some rows by index. Where the statistics are of yesterday's few rows, a plan that reads
# a table, or all that is open, to join it with a short list would cost a thousand times as much today.
SEEKS = {
    **{"enable_hashjoin": "off", "enable_mergejoin": "off", "enable_seqscan": "off", "enable_bitmapscan": "off"},
    **{"random_page_cost": "1.1", "jit": "off"},
}

# SQLSTATE (PostgreSQL, appendix A): what another try may cure, at once or when the server is itself again.
# A key that is there already (23505): another node was quicker, and the next try finds what it wrote.
CONFLICTS = frozenset({"40001", "40P01", "55P03", "23505"})
UNAVAILABLE = ("08", "53", "57P", "25006")


def postgres_url(url: str) -> URL:
    """The parsed URL, with the driver that we use. Raises SettingsError for anything else."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise SettingsError("database.url is no database URL: write it like postgresql://user@host/relay") from error
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise SettingsError(f"database.url: {parsed.drivername} is not supported here")
    return parsed.set(drivername="postgresql+asyncpg")


def is_postgres(url: str) -> bool:
    """Whether a database URL is one of PostgreSQL."""
    return url.partition("://")[0].partition("+")[0] in ("postgresql", "postgres")


def make_engine(
    url: URL, *, pool_size: int, statement_seconds: float | None = STATEMENT_TIMEOUT_SECONDS
) -> AsyncEngine:
    """An engine with at most so many connections; every wait ends, but that for a statement with None.

    Raises SettingsError without the driver.
    """
    if find_spec("asyncpg") is None:
        raise SettingsError("PostgreSQL needs one package more: pip install 'revor-relay[postgres]'")
    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=partial(connect, url, statement_seconds),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_SECONDS,
    )


async def connect(url: URL, statement_seconds: float | None = STATEMENT_TIMEOUT_SECONDS) -> Any:
    """A connection of the driver's own; what the URL's parameters mean (`sslmode` and so on) is libpq's business, which
    the driver knows and SQLAlchemy does not."""
    import asyncpg

    return await asyncpg.connect(
        url.set(drivername="postgresql").render_as_string(hide_password=False),
        timeout=CONNECT_TIMEOUT_SECONDS,
        command_timeout=statement_seconds,
        server_settings={"application_name": "revor-relay", **SEEKS},
    )


def sqlstate_of(error: BaseException | None) -> str:
    """The SQLSTATE in an error or in what caused it; empty when there is none."""
    while error is not None:
        for candidate in (error, getattr(error, "orig", None)):
            state = getattr(candidate, "sqlstate", None) or getattr(candidate, "pgcode", None)
            if isinstance(state, str):
                return state
        error = error.__cause__
    return ""


def is_conflict(error: Exception) -> bool:
    """Whether another transaction was in the way."""
    return sqlstate_of(error) in CONFLICTS


def is_unavailable(error: Exception) -> bool:
    """Whether the server, not the statement, is the reason."""
    if isinstance(error, OSError | TimeoutError | PoolTimeout):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    if sqlstate_of(error).startswith(UNAVAILABLE):
        return True
    told = str(getattr(error, "orig", type(error)))  # one that is gone in the middle of something is misused, it says
    return any(f"asyncpg.exceptions._base.{name}" in told for name in ("InterfaceError", "InternalClientError"))


def as_ours(error: Exception) -> Exception:
    """What callers see of an error of the driver; any other stays what it is."""
    if isinstance(error, SQLAlchemyError):
        return as_store_error(error)
    if is_unavailable(error):
        made = StoreError(f"the database can not be reached: {reason_of(error)}")
        made.__cause__ = error
        return made
    return error


def reason_of(error: BaseException) -> str:
    """One line for a person."""
    original = getattr(error, "orig", None) or error
    lines = str(original).splitlines()
    said = lines[0] if lines else type(original).__name__
    return said.partition(">: ")[2] or said  # "<class 'asyncpg.…Error'>: what it says"


def shown(url: URL) -> str:
    """A database URL to show: no password."""
    return url.set(drivername="postgresql").render_as_string(hide_password=True)


@asynccontextmanager
async def scratch_database(url: str) -> AsyncIterator[str]:
    """A new, empty database beside the one of `url`, dropped at the end. Raises StoreError when there can be none."""
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
        raise StoreError(f"no database can be made beside {shown(beside)}: {reason_of(error)}") from error
    finally:
        await engine.dispose()


async def _outside_a_transaction(engine: AsyncEngine, statement: str) -> None:
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text(statement))
