"""The database when it is PostgreSQL: shared by many nodes, reached over a network that can break.

One connection of its own writes, with the same group commit as SQLite's thread; another one runs what is a single
statement, beside it; a pool reads. While the server can not be reached (or only as a read-only replica, or has no
connection left) what waits to be written goes on waiting and is tried again; `trouble` says why. Where the answer to a
commit was lost, the server is asked how that ended: nothing is written twice.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from secrets import token_hex
from typing import Any

import structlog
from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine

from relay.clock import Clock, FollowedClock, steady_clock
from relay.errors import StoreError
from relay.holder import new_name
from relay.store.groups import Batch, Item, Result, Waiting, run_group
from relay.store.holders import BIND
from relay.store.notices import ALL, payload, taken
from relay.store.postgres_engine import (
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
from relay.store.postgres_writer import AsyncWriter
from relay.store.procedures import Procedure, define

CHANNEL = "relay"
NOTIFY = text(f"SELECT pg_notify('{CHANNEL}', :said)")
SAY = f"SELECT pg_notify('{CHANNEL}', $1)"
NOW = text("SELECT extract(epoch FROM clock_timestamp())::double precision")
LIVENESS_SECONDS = 3.0
UNTOLD_PAUSE_SECONDS = 1.0
TRANSACTION = text("SELECT CAST(pg_current_xact_id_if_assigned() AS text)")
END_OF = text("SELECT pg_xact_status(CAST(CAST(:transaction AS text) AS xid8))")
END_PAUSE_SECONDS = 0.05
UNKNOWN_TRANSACTION = "22023"  # a replica that has not heard of it took over

log = structlog.get_logger("relay.store")


class PostgresDatabase:
    """The same face as `SqliteDatabase`: `write()` and `read()` take plain functions of a SQLAlchemy Connection."""

    def __init__(self, url: str, procedures: Sequence[Procedure] = (), *, pool_size: int = 10) -> None:
        self.url = postgres_url(url)
        self.name = token_hex(8)
        self._procedures = procedures
        self._pool_size = pool_size
        self._engine: AsyncEngine | None = None
        self._writing: AsyncEngine | None = None
        self._calling: AsyncEngine | None = None
        self._time = FollowedClock()
        self._unsaid: set[str] = set()
        self._something_to_say = asyncio.Event()
        self._saying: asyncio.Task[None] | None = None
        self._after_commit: list[Callable[[], None]] = []
        self._after_rollback: list[Callable[[], None]] = []
        self.writer = AsyncWriter(self.transaction, self.was_committed)
        self.caller = AsyncWriter(self.single_statement, self.was_committed)

    def on_end(self, *, commit: Callable[[], None], rollback: Callable[[], None]) -> None:
        """Has one of these called at the end of every transaction."""
        self._after_commit.append(commit)
        self._after_rollback.append(rollback)

    @property
    def trouble(self) -> str | None:
        """Why nothing can be written just now."""
        return self.writer.trouble or self.caller.trouble

    # --- life

    async def open(self) -> None:
        """Connects and starts the writer. The schema must be there (see `migrations`). Raises StoreError."""
        self._engine = make_engine(self.url, pool_size=self._pool_size)
        self._writing = make_engine(self.url, pool_size=1)
        self._calling = make_engine(self.url, pool_size=1)
        define(self._calling, self._procedures)
        try:
            await self.read_clock()
        except Exception as error:
            await self._dispose()
            raise StoreError(f"cannot reach the database {shown(self.url)}: {reason_of(error)}") from error
        self.writer.start()
        self.caller.start()
        self._saying = asyncio.get_running_loop().create_task(self._say())

    async def close(self) -> None:
        """Writes what waits and closes every connection."""
        await self.caller.close()  # what it does not do goes to the writer
        await self.writer.close()
        if self._saying is not None:
            self._saying.cancel()
            await asyncio.wait([self._saying])
        await self._dispose()

    async def _dispose(self) -> None:
        for engine in (self._engine, self._writing, self._calling):
            if engine is not None:
                await engine.dispose()
        self._engine = self._writing = self._calling = None

    # --- for the rooms

    @property
    def commit_count(self) -> int:
        """How many transactions have written something, or would have."""
        return self.writer.commit_count + self.caller.commit_count

    @property
    def item_count(self) -> int:
        """How many writes those were."""
        return self.writer.item_count + self.caller.item_count

    shared = True
    """Whether several nodes can have it open."""

    def clock(self, clock: Clock) -> Clock:
        """The server's, by which the leases of all nodes run. `clock`, a node's own, may be set at any time: it is not
        read."""
        return self._time.now

    def lease_clock(self, clock: Clock) -> Clock:
        """The same."""
        return self._time.now

    async def read_clock(self) -> None:
        """Asks the server for the time."""
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
        """`write` for a batch function that is one call of a procedure: that is a transaction by itself, with no round
        trips for its beginning and end, and other writes go on meanwhile."""
        return await self.caller.write(batch, item)

    def glance(self, query: Callable[..., Result], *arguments: Any) -> Result | None:
        """The server is always waited for."""
        return None

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

    async def size_bytes(self) -> int:
        """What it takes on the server's disk, without the server's own log."""

        def query(connection: Connection) -> int:
            return int(connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one())

        return await self.read(query)

    async def listen(self, heard: Callable[[str], None], named: Callable[[str | None], None]) -> None:
        """Calls `heard` with each notice of the other nodes, until it is cancelled; with `all` after each connection,
        since something may have been missed. Raises when the connection is lost or can not be made.

        Calls `named` with the name that is bound to the connection (see `relay.store.holders`), and with None as soon
        as that has ended. Behind a pooler no name can be bound: the pooler's connection outlives ours.
        """
        ended = asyncio.Event()
        connection = await connect(self.url)
        bound = False

        def received(_connection: Any, _pid: int, _channel: str, said: str) -> None:
            sender, *notices = said.split("\n")
            if sender != self.name:
                for notice in notices:
                    heard(notice)

        def lost(_connection: Any = None) -> None:
            nonlocal bound
            ended.set()
            if bound:
                bound = False
                named(None)

        try:
            connection.add_termination_listener(lost)
            if connection.get_server_pid() == await connection.fetchval("SELECT pg_backend_pid()"):
                name = await connection.fetchval(BIND, new_name())
                bound = name is not None and not ended.is_set()
                if bound:
                    named(name)
                    await connection.execute(SAY, payload(self.name, [f"node {name}"]))
            else:
                log.info("no_bound_name", reason="a pooler is between this node and the database")
            await connection.add_listener(CHANNEL, received)
            heard(ALL)
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LIVENESS_SECONDS):
                        await ended.wait()
                before = steady_clock()
                told = await connection.fetchval(NOW.text, timeout=CONNECT_TIMEOUT_SECONDS)
                self._time.read(told, before, steady_clock())
        finally:
            lost()
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

    @asynccontextmanager
    async def single_statement(self) -> AsyncIterator[Callable[[Sequence[Waiting]], Any]]:
        """What is yielded runs a group that is one statement. Where its answer is lost it is run again: it has to find
        by itself what it has done already."""
        assert self._calling is not None
        async with self._calling.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")

            async def run(group: Sequence[Waiting]) -> None:
                await connection.run_sync(run_group, group)

            yield run

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
                await asyncio.sleep(UNTOLD_PAUSE_SECONDS)

    async def was_committed(self, transaction: str) -> bool:
        """Whether a transaction was committed whose end we did not hear of; where it goes on, its end is waited for."""
        assert self._writing is not None
        try:
            async with self._writing.connect() as connection, asyncio.timeout(STATEMENT_TIMEOUT_SECONDS):
                while True:
                    end = (await connection.execute(END_OF, {"transaction": transaction})).scalar_one()
                    if end != "in progress":
                        return bool(end == "committed")
                    await asyncio.sleep(END_PAUSE_SECONDS)
        except DBAPIError as error:
            if sqlstate_of(error) == UNKNOWN_TRANSACTION:
                return False
            raise
