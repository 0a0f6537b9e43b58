"""The PostgreSQL database: shared by several nodes, over a network that can fail.

One connection writes in groups, as SQLite's thread does; one runs single-statement writes beside it; a pool reads; one
more is for queries that must not wait for long reads: notices to other nodes, and the check for revoked tokens.
While the server is unreachable, read-only or out of connections, queued writes are retried and `trouble` holds the
reason. If the response to a commit is lost, the server is asked for the transaction's outcome, so nothing is written
twice.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from secrets import token_hex
from typing import Any

import structlog
from sqlalchemy import text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.util import greenlet_spawn

from relay.clock import Clock, FollowedClock, steady_clock
from relay.errors import StoreError
from relay.lease_owner import new_name
from relay.store.databases.group_commit import Batch, Item, Result, Waiting, run_group
from relay.store.databases.lease_owners import BIND
from relay.store.databases.notices import ALL, payload, take_notices
from relay.store.databases.postgres_engine import (
    CONNECT_TIMEOUT_SECONDS,
    STATEMENT_TIMEOUT_SECONDS,
    as_ours,
    connect,
    make_engine,
    postgres_url,
    reason_of,
    shown,
    sqlstate_of,
)
from relay.store.databases.postgres_writer import AsyncWriter
from relay.store.databases.procedures import Procedure, define
from relay.store.databases.statements import fetch

CHANNEL = "relay"
NOTIFY = f"SELECT pg_notify('{CHANNEL}', :message)"
NOTIFY_DRIVER = f"SELECT pg_notify('{CHANNEL}', $1)"
NOW = text("SELECT extract(epoch FROM clock_timestamp())::double precision")
AUTOCOMMIT: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"}
SNAPSHOT: dict[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
LIVENESS_SECONDS = 3.0
NOTIFY_RETRY_SECONDS = 1.0
TRANSACTION = "SELECT CAST(pg_current_xact_id_if_assigned() AS text)"
END_OF = text("SELECT pg_xact_status(CAST(CAST(:transaction AS text) AS xid8))")
END_PAUSE_SECONDS = 0.05
UNKNOWN_TRANSACTION = "22023"  # a replica that lacks the transaction took over

log = structlog.get_logger("relay.store")


class PostgresDatabase:
    """The same interface as `SqliteDatabase`: `write()` and `read()` take plain functions of a SQLAlchemy
    Connection."""

    def __init__(self, url: str, procedures: Sequence[Procedure] = (), *, pool_size: int = 10) -> None:
        self.url = postgres_url(url)
        self.name = token_hex(8)
        self._procedures = procedures
        self._pool_size = pool_size
        self._engine: AsyncEngine | None = None
        self._writing: AsyncEngine | None = None
        self._calling: AsyncEngine | None = None
        self._beside: AsyncEngine | None = None
        self._kept: dict[AsyncEngine, AsyncConnection] = {}
        self._time = FollowedClock()
        self._unsent: set[str] = set()
        self._has_unsent = asyncio.Event()
        self._notifying: asyncio.Task[None] | None = None
        self._after_commit: list[Callable[[], None]] = []
        self._after_rollback: list[Callable[[], None]] = []
        self.writer = AsyncWriter(self.transaction, self.was_committed)
        self.caller = AsyncWriter(self.single_statement, self.was_committed)

    def on_end(self, *, commit: Callable[[], None], rollback: Callable[[], None]) -> None:
        """Registers functions that are called at the end of every transaction."""
        self._after_commit.append(commit)
        self._after_rollback.append(rollback)

    @property
    def trouble(self) -> str | None:
        """The reason why writes fail at present; None if they do not."""
        return self.writer.trouble or self.caller.trouble

    async def open(self) -> None:
        """Connects and starts the writers. The schema must exist already (see `migrations`). Raises StoreError."""
        self._engine = make_engine(self.url, pool_size=self._pool_size)
        self._writing = make_engine(self.url, pool_size=1)
        self._calling = make_engine(self.url, pool_size=1)
        self._beside = make_engine(self.url, pool_size=1)
        define(self._calling, self._procedures)
        try:
            await self.read_clock()
        except Exception as error:
            await self._dispose()
            raise StoreError(f"cannot reach the database {shown(self.url)}: {reason_of(error)}") from error
        self.writer.start()
        self.caller.start()
        self._notifying = asyncio.get_running_loop().create_task(self._notify_others())

    async def close(self) -> None:
        """Commits queued writes and closes every connection."""
        await self.caller.close()  # it hands the rest to the writer
        await self.writer.close()
        if self._notifying is not None:
            self._notifying.cancel()
            await asyncio.wait([self._notifying])
        await self._dispose()

    async def _dispose(self) -> None:
        while self._kept:
            await self._kept.popitem()[1].close()
        for engine in (self._engine, self._writing, self._calling, self._beside):
            if engine is not None:
                await engine.dispose()
        self._engine = self._writing = self._calling = self._beside = None

    @property
    def commit_count(self) -> int:
        """Number of committed write transactions."""
        return self.writer.commit_count + self.caller.commit_count

    @property
    def item_count(self) -> int:
        """Number of writes in those transactions."""
        return self.writer.item_count + self.caller.item_count

    shared = True
    """True if several nodes can have it open."""

    def clock(self, clock: Clock) -> Clock:
        """The server's clock, which all nodes use for leases. `clock`, the node's own, may be wrong and is not read."""
        return self._time.now

    def lease_clock(self, clock: Clock) -> Clock:
        """The server's clock."""
        return self._time.now

    async def read_clock(self) -> None:
        """Reads the server's time."""
        assert self._engine is not None
        async with self._engine.connect() as connection:
            before = steady_clock()
            answer = await connection.execute(NOW)
            after = steady_clock()
        self._time.read(answer.scalar_one(), before, after)

    async def write(self, batch: Batch[Item, Result], item: Item) -> Result:
        """See `AsyncWriter.write`."""
        return await self.writer.write(batch, item)

    async def call(self, batch: Batch[Item, Result | None], item: Item) -> Result | None:
        """`write` for a batch function that is a single procedure call. It is a transaction by itself, without round
        trips for BEGIN and COMMIT, and runs beside other writes."""
        return await self.caller.write(batch, item)

    def try_read(self, query: Callable[..., Result], *arguments: Any) -> Result | None:
        """None: reading from the server always waits."""
        return None

    async def read(self, query: Callable[..., Result], *arguments: Any) -> Result:
        """Runs `query(connection, *arguments)` on a pooled connection. It sees every write that has returned."""
        return await self._read(self._engine, query, arguments)

    async def read_beside(self, query: Callable[..., Result], *arguments: Any) -> Result:
        """As `read`, for a short query that must not wait while long ones have the whole pool."""
        return await self._read(self._beside, query, arguments)

    async def _read(self, engine: AsyncEngine | None, query: Callable[..., Result], arguments: Sequence[Any]) -> Result:
        options = AUTOCOMMIT if getattr(query, "is_single", False) else SNAPSHOT
        try:
            try:
                return await _run_once(engine, query, *arguments, **options)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
            # The connection and its whole pool were dead: once more.
            return await _run_once(engine, query, *arguments, **options)
        except PoolTimeout as error:
            raise StoreError(
                f"all {self._pool_size} connections to the database are in use: raise database.pool_size"
            ) from error
        except Exception as error:
            raise as_ours(error) from error

    async def size_bytes(self) -> int:
        """Bytes on the server's disk, without the server's log."""

        def query(connection: Connection) -> int:
            return int(connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one())

        return await self.read(query)

    async def compact(self) -> None:
        """Nothing: autovacuum reuses the space of deleted rows."""

    async def listen(self, on_notice: Callable[[str], None], on_name: Callable[[str | None], None]) -> None:
        """Calls `on_notice` with each notice of other nodes until cancelled, and with `all` after connecting,
        because notices may have been missed. Raises if the connection cannot be made or is lost.

        Calls `on_name` with the name that is bound to the connection (see `relay.store.databases.lease_owners`), and
        with None once that has ended. No name can be bound behind a pooler, whose connection outlives this one.
        """
        ended = asyncio.Event()
        connection = await connect(self.url)
        bound = False

        def received(_connection: Any, _pid: int, _channel: str, message: str) -> None:
            sender, *notices = message.split("\n")
            if sender != self.name:
                for notice in notices:
                    on_notice(notice)

        def lost(_connection: Any = None) -> None:
            nonlocal bound
            ended.set()
            if bound:
                bound = False
                on_name(None)

        try:
            connection.add_termination_listener(lost)
            if connection.get_server_pid() == await connection.fetchval("SELECT pg_backend_pid()"):
                name = await connection.fetchval(BIND, new_name())
                bound = name is not None and not ended.is_set()
                if bound:
                    on_name(name)
                    await connection.execute(NOTIFY_DRIVER, payload(self.name, [f"node {name}"]))
            else:
                log.info("no_bound_name", reason="a pooler is between this node and the database")
            await connection.add_listener(CHANNEL, received)
            on_notice(ALL)
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LIVENESS_SECONDS):
                        await ended.wait()
                before = steady_clock()
                seconds = await connection.fetchval(NOW.text, timeout=CONNECT_TIMEOUT_SECONDS)
                self._time.read(seconds, before, steady_clock())
        finally:
            lost()
            connection.terminate()

    # --- for the writer

    @asynccontextmanager
    async def kept(self, engine: AsyncEngine, **options: Any) -> AsyncIterator[AsyncConnection]:
        """The connection of an engine that has one. It is given back to the pool only after an error: that and taking
        it again cost more than a statement."""
        connection = self._kept.pop(engine, None) or await (await engine.connect()).execution_options(**options)
        try:
            yield connection
        except BaseException:
            await connection.close()
            raise
        self._kept[engine] = connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Callable[[Sequence[Waiting]], Any]]:
        """A write transaction that ends with the block. Yields a function that runs a group in it."""
        assert self._writing is not None
        notices: set[str] = set()
        try:
            async with self.kept(self._writing) as connection, connection.begin():

                async def run(group: Sequence[Waiting]) -> str | None:
                    transaction, new = await connection.run_sync(_run_whole, group)
                    notices.update(new)
                    return transaction

                yield run
        except BaseException:
            for call in self._after_rollback:
                call()
            raise
        for call in self._after_commit:
            call()
        if notices:
            self._unsent |= notices
            self._has_unsent.set()

    @asynccontextmanager
    async def single_statement(self) -> AsyncIterator[Callable[[Sequence[Waiting]], Any]]:
        """Yields a function that runs a group of one statement, in autocommit. If its response is lost it runs
        again, so the statement must recognize its own earlier work."""
        assert self._calling is not None
        async with self.kept(self._calling, **AUTOCOMMIT) as connection:

            async def run(group: Sequence[Waiting]) -> None:
                await connection.run_sync(run_group, group)

            yield run

    async def _notify_others(self) -> None:
        """Sends notices outside the writing transactions, because PostgreSQL serializes commits that notify across
        the server. Other nodes find a lost notice by their scans."""
        while True:
            await self._has_unsent.wait()
            self._has_unsent.clear()
            notices, self._unsent = self._unsent, set()
            try:
                await _run_once(self._beside, _notify, payload(self.name, notices), **AUTOCOMMIT)
            except Exception as error:
                log.warning("others_not_told", notices=len(notices), error=reason_of(error))
                self._unsent.add(ALL)
                self._has_unsent.set()
                await asyncio.sleep(NOTIFY_RETRY_SECONDS)

    async def was_committed(self, transaction: str) -> bool:
        """True if a transaction whose response was lost was committed. Waits while it is in progress."""
        assert self._writing is not None
        try:
            async with (
                self.kept(self._writing) as connection,
                connection.begin(),
                asyncio.timeout(STATEMENT_TIMEOUT_SECONDS),
            ):
                while True:
                    end = (await connection.execute(END_OF, {"transaction": transaction})).scalar_one()
                    if end != "in progress":
                        return bool(end == "committed")
                    await asyncio.sleep(END_PAUSE_SECONDS)
        except DBAPIError as error:
            if sqlstate_of(error) == UNKNOWN_TRANSACTION:
                return False
            raise


def _run_whole(connection: Connection, group: Sequence[Waiting]) -> tuple[str | None, set[str]]:
    """The transaction's id and its notices, after the group."""
    run_group(connection, group)
    notices = take_notices(connection)
    ((transaction,),) = fetch(connection, TRANSACTION)
    return transaction, notices


def _notify(connection: Connection, message: str) -> None:
    fetch(connection, NOTIFY, message=message)


async def _run_once(
    engine: AsyncEngine | None, query: Callable[..., Result], *arguments: Any, **options: Any
) -> Result:
    """Runs it on a connection from the pool. SQLAlchemy's own AsyncConnection takes three times the steps."""
    if engine is None:
        raise StoreError("the database is not open")

    def run(pooled: Engine) -> Result:
        with pooled.connect() as connection:
            connection.execution_options(**options)
            return query(connection, *arguments)

    return await greenlet_spawn(run, engine.sync_engine)
