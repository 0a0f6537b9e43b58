"""The database when it is PostgreSQL: shared by many nodes, reached over a network that can break.

One connection of its own writes, with the same group commit as SQLite's thread; a pool reads. While the server can not
be reached (or only as a read-only replica, or has no connection left) what waits to be written goes on waiting and is
tried again; `trouble` says why. Where the answer to a commit was lost, the server is asked how that ended: nothing is
written twice.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from secrets import token_hex
from typing import Any

import structlog
from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from relay.clock import Clock, wall_clock
from relay.errors import SettingsError, StoreError
from relay.store.groups import (
    MAX_GROUP_ITEMS,
    MAX_WAITING_ITEMS,
    Batch,
    Item,
    Result,
    Waiting,
    as_store_error,
    resolve,
    run_group,
)
from relay.store.notices import ALL, payload, taken

CONNECT_TIMEOUT_SECONDS = 5.0
STATEMENT_TIMEOUT_SECONDS = 30.0
POOL_TIMEOUT_SECONDS = 5.0
PATIENCE_SECONDS = 30.0
FIRST_PAUSE_SECONDS = 0.05
LAST_PAUSE_SECONDS = 1.0
MAX_CONFLICTS = 5
CHANNEL = "relay"
NOTIFY = text(f"SELECT pg_notify('{CHANNEL}', :said)")
LIVENESS_SECONDS = 10.0
# Every statement of ours takes some rows by index. Where the statistics are of yesterday's few rows, a plan that reads
# a table, or all that is open, to join it with a short list would cost a thousand times as much today.
SEEKS = {
    **{"enable_hashjoin": "off", "enable_mergejoin": "off", "enable_seqscan": "off"},
    **{"random_page_cost": "1.1", "jit": "off"},
}
TRANSACTION = text("SELECT CAST(pg_current_xact_id_if_assigned() AS text)")
END_OF = text("SELECT pg_xact_status(CAST(CAST(:transaction AS text) AS xid8))")
UNKNOWN_TRANSACTION = "22023"  # a replica that has not heard of it took over

# SQLSTATE (PostgreSQL, appendix A): what another try may cure, at once or when the server is itself again.
# A key that is there already (23505): another node was quicker, and the next try finds what it wrote.
CONFLICTS = frozenset({"40001", "40P01", "55P03", "23505"})
UNAVAILABLE = ("08", "53", "57P", "25006")

log = structlog.get_logger("relay.store")


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


class PostgresDatabase:
    """The same face as `SqliteDatabase`: `write()` and `read()` take plain functions of a SQLAlchemy Connection."""

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        self.url = postgres_url(url)
        self.name = token_hex(8)
        self._pool_size = pool_size
        self._engine: AsyncEngine | None = None
        self._writing: AsyncEngine | None = None
        self._ahead_seconds = 0.0
        self._unsaid: set[str] = set()
        self._something_to_say = asyncio.Event()
        self._saying: asyncio.Task[None] | None = None
        self._after_commit: list[Callable[[], None]] = []
        self._after_rollback: list[Callable[[], None]] = []
        self.writer = AsyncWriter(self.transaction, self.was_committed)

    def on_end(self, *, commit: Callable[[], None], rollback: Callable[[], None]) -> None:
        """Has one of these called at the end of every transaction."""
        self._after_commit.append(commit)
        self._after_rollback.append(rollback)

    @property
    def trouble(self) -> str | None:
        """Why nothing can be written just now."""
        return self.writer.trouble

    # --- life

    async def open(self) -> None:
        """Connects and starts the writer. The schema must be there (see `migrations`). Raises StoreError."""
        self._engine = make_engine(self.url, pool_size=self._pool_size)
        self._writing = make_engine(self.url, pool_size=1)
        try:
            await self.compare_clocks(wall_clock)
        except Exception as error:
            await self._dispose()
            raise StoreError(f"cannot reach the database {shown(self.url)}: {reason_of(error)}") from error
        self.writer.start()
        self._saying = asyncio.get_running_loop().create_task(self._say())

    async def close(self) -> None:
        """Writes what waits and closes every connection."""
        await self.writer.close()
        if self._saying is not None:
            self._saying.cancel()
            await asyncio.wait([self._saying])
        await self._dispose()

    async def _dispose(self) -> None:
        for engine in (self._engine, self._writing):
            if engine is not None:
                await engine.dispose()
        self._engine = self._writing = None

    # --- for the rooms

    shared = True
    """Whether several nodes can have it open."""

    def clock(self, clock: Clock) -> Clock:
        """The database's, as far as it was ahead of `clock` when they were compared: leases of all nodes run by it."""
        return lambda: clock() + self._ahead_seconds

    async def compare_clocks(self, clock: Clock) -> None:
        """Asks the server for the time; half of the way there and back is taken for the way back."""
        assert self._engine is not None
        async with self._engine.connect() as connection:
            before = clock()
            answer = await connection.execute(text("SELECT extract(epoch FROM clock_timestamp())::double precision"))
            after = clock()
        self._ahead_seconds = answer.scalar_one() - (before + after) / 2

    async def write(self, batch: Batch[Item, Result], item: Item) -> Result:
        """See `AsyncWriter.write`."""
        return await self.writer.write(batch, item)

    async def read(self, query: Callable[..., Result], *arguments: Any) -> Result:
        """Runs `query(connection, *arguments)` on a reader; it sees every write that has returned."""
        try:
            try:
                return await self._read(query, arguments)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
            return await self._read(query, arguments)  # the connection was dead, and with it the whole pool: once more
        except PoolTimeout as error:
            raise StoreError(
                f"all {self._pool_size} connections to the database are in use: raise database.pool_size"
            ) from error
        except Exception as error:
            raise as_ours(error) from error

    async def _read(self, query: Callable[..., Result], arguments: Sequence[Any]) -> Result:
        if self._engine is None:
            raise StoreError("the database is not open")
        async with self._engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            return await connection.run_sync(query, *arguments)

    async def listen(self, heard: Callable[[str], None]) -> None:
        """Calls `heard` with each notice of the other nodes, until it is cancelled; with `all` after each connection,
        since something may have been missed. Raises when the connection is lost or can not be made."""
        ended = asyncio.Event()
        connection = await connect(self.url)

        def received(_connection: Any, _pid: int, _channel: str, said: str) -> None:
            sender, *notices = said.split("\n")
            if sender != self.name:
                for notice in notices:
                    heard(notice)

        try:
            connection.add_termination_listener(lambda _connection: ended.set())
            await connection.add_listener(CHANNEL, received)
            heard(ALL)
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LIVENESS_SECONDS):
                        await ended.wait()
                await connection.execute("SELECT 1", timeout=CONNECT_TIMEOUT_SECONDS)
                await self.compare_clocks(wall_clock)
        finally:
            connection.terminate()

    # --- for the writer

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Callable[[Sequence[Waiting]], Any]]:
        """A write transaction: what is yielded runs a group in it. It ends with the block."""
        assert self._writing is not None
        notices: set[str] = set()
        try:
            async with self._writing.begin() as connection:

                async def run(group: Sequence[Waiting]) -> str | None:
                    await connection.run_sync(run_group, group)
                    notices.update(await connection.run_sync(taken))
                    transaction: str | None = (await connection.execute(TRANSACTION)).scalar_one()
                    return transaction

                yield run
        except BaseException:
            for call in self._after_rollback:
                call()
            raise
        for call in self._after_commit:
            call()
        if notices:
            self._unsaid |= notices
            self._something_to_say.set()

    async def _say(self) -> None:
        """Tells the other nodes, outside of the transactions that write: commits that notify wait for each other, all
        over the server. What is lost here is found by a scan."""
        while True:
            await self._something_to_say.wait()
            self._something_to_say.clear()
            notices, self._unsaid = self._unsaid, set()
            try:
                assert self._engine is not None
                async with self._engine.begin() as connection:
                    await connection.execute(NOTIFY, {"said": payload(self.name, notices)})
            except Exception as error:
                log.warning("others_not_told", notices=len(notices), error=reason_of(error))
                self._unsaid.add(ALL)
                self._something_to_say.set()
                await asyncio.sleep(LAST_PAUSE_SECONDS)

    async def was_committed(self, transaction: str) -> bool:
        """Whether a transaction was committed whose end we did not hear of; where it goes on, its end is waited for."""
        assert self._writing is not None
        try:
            async with self._writing.connect() as connection, asyncio.timeout(STATEMENT_TIMEOUT_SECONDS):
                while True:
                    end = (await connection.execute(END_OF, {"transaction": transaction})).scalar_one()
                    if end != "in progress":
                        return bool(end == "committed")
                    await asyncio.sleep(FIRST_PAUSE_SECONDS)
        except DBAPIError as error:
            if sqlstate_of(error) == UNKNOWN_TRANSACTION:
                return False
            raise


class AsyncWriter:
    """Group commit in a task: see `relay.store.writer`, whose promises it keeps.

    transaction    opens a write transaction; runs a group in it and returns its id (None: nothing was written)
    was_committed  tells of an id whether that transaction was committed
    """

    def __init__(self, transaction: Callable[[], Any], was_committed: Callable[[str], Awaitable[bool]]) -> None:
        self._transaction = transaction
        self._was_committed = was_committed
        self._waiting: deque[Waiting] = deque()
        self._places = asyncio.Semaphore(MAX_WAITING_ITEMS)
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._trouble_since = 0.0
        self.trouble: str | None = None
        self.commit_count = 0
        self.item_count = 0

    def start(self) -> None:
        """Starts the task."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def waiting_count(self) -> int:
        """How many items wait for the next group."""
        return len(self._waiting)

    async def write(self, batch: Batch[Item, Result], item: Item) -> Result:
        """Runs `batch` with `item` in the next group and returns its result once that is committed.

        Raises what the batch function returned or raised for this item; StoreError when the database refuses it, can
        not be reached for PATIENCE_SECONDS, or is closing. Cancelling the caller does not undo the write.
        """
        await self._places.acquire()
        if self._task is None or self._closing:
            self._places.release()
            raise StoreError("the database is closing: nothing more is written")
        waiting = Waiting(batch, item, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._wake.set()
        result: Result = await waiting.future
        return result

    async def close(self) -> None:
        """Writes what still waits, then ends the task."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        while self._waiting or not self._closing:
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
                continue
            group = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_GROUP_ITEMS))]
            await self._commit(group)
            for _ in group:
                self._places.release()
            resolve(group)

    async def _commit(self, group: list[Waiting]) -> None:
        pause_seconds, conflicts = FIRST_PAUSE_SECONDS, 0
        transaction: str | None = None  # whose end is not known
        while True:
            try:
                if transaction is None or not await self._was_committed(transaction):
                    transaction = None
                    async with self._transaction() as run:
                        transaction = await run(group)
            except Exception as error:
                if is_conflict(error) and conflicts < MAX_CONFLICTS:
                    transaction = None
                    conflicts += 1
                elif is_unavailable(error):
                    if not self._waits(error):
                        break
                    await asyncio.sleep(pause_seconds)
                    pause_seconds = min(2 * pause_seconds, LAST_PAUSE_SECONDS)
                elif len(group) == 1:
                    group[0].result = as_ours(error)
                    return
                else:
                    for waiting in group:
                        await self._commit([waiting])
                    return
            else:
                self._recovered()
                self.commit_count += 1
                self.item_count += len(group)
                return
        for waiting in group:
            waiting.result = StoreError(f"the database can not be written: {self.trouble}")

    def _waits(self, error: Exception) -> bool:
        """Notes the trouble. Whether it is worth while to try again before giving the group up."""
        now = time.monotonic()
        if self.trouble is None:
            self._trouble_since = now
            log.warning("database_unavailable", error=reason_of(error))
        self.trouble = reason_of(error)
        return not self._closing and now - self._trouble_since < PATIENCE_SECONDS

    def _recovered(self) -> None:
        if self.trouble is not None:
            log.info("database_available", after_seconds=round(time.monotonic() - self._trouble_since, 1))
            self.trouble = None


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
    return "asyncpg.exceptions._base.InterfaceError" in str(getattr(error, "orig", type(error)))


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
