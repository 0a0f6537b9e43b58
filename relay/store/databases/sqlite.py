"""The SQLite database: one connection that writes, a pool of threads that read, one process at a time.

WAL mode with `synchronous=FULL`: a commit survives a power loss (SQLite, "PRAGMA synchronous").
"""

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from relay.clock import Clock, FollowedClock, steady_clock
from relay.errors import DatabaseHeld, SettingsError, StoreError, refusal
from relay.private_files import PRIVATE, make_empty, narrow
from relay.store.databases.group_commit import REFUSALS, Batch, Item, Result, as_store_error
from relay.store.databases.sqlite_writer import Writer
from relay.store.databases.statements import driver_of

READER_COUNT = 4
BUSY_TIMEOUT_MS = 5_000
BUSY_RETRY_SECONDS = 0.01
WAL_AUTOCHECKPOINT_PAGES = 10_000
WAL_BYTES = 64 * 1024 * 1024
"""Above this size the log is truncated, which waits for readers."""
WAL_READER_WAIT_MS = 100
WAL_RETRY_SECONDS = 1.0


def sqlite_url(url: str) -> URL:
    """The parsed URL of a SQLite file. Raises SettingsError for any other URL."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise SettingsError("database.url is not a database URL: write it like sqlite:///relay.db") from error
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        raise SettingsError(
            f"database.url: {parsed.drivername} is not supported here: write it like sqlite:///relay.db"
        )
    if "\N{REPLACEMENT CHARACTER}" in parsed.database:
        raise SettingsError("database.url: write a percent sign in a path as %25")
    return parsed.set(drivername="sqlite")


def url_of(path: Path) -> str:
    """The URL of a SQLite file; any characters in the path are escaped."""
    return URL.create("sqlite", database=str(path)).render_as_string()


def lock_path(url: URL) -> Path:
    """The lock file of a database: beside the real file, with links resolved."""
    path = Path(os.path.realpath(str(url.database)))
    return path.with_name(path.name + ".lock")


def check_place(path: Path) -> None:
    """Raises StoreError if the folder of a database does not exist, or `path` is a folder itself."""
    if path.is_dir():
        raise StoreError(f"database.url names the folder {path}. Name a file in it: {url_of(path / 'relay.db')}")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise StoreError(f"the folder {folder} of the database does not exist. Create it, or set database.url")


class SqliteDatabase:
    """A SQLite file, held by this process alone.

    `open()` raises DatabaseHeld with the other process's id if the file is held. `write()` and `read()` take plain
    functions of a SQLAlchemy Connection, which run in the database's own threads.
    """

    def __init__(self, url: str) -> None:
        self.url = sqlite_url(url)
        self.path = Path(str(self.url.database))
        self._lock = HolderLock(lock_path(self.url))
        self._engine: Engine | None = None
        self._connection: Connection | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._reader_connections: list[Connection] = []
        self._quick_reader: Connection | None = None
        self._local = threading.local()
        self._after_commit: list[Callable[[], None]] = []
        self._after_rollback: list[Callable[[], None]] = []
        self._truncate_wal_at = 0.0
        self.writer = Writer(self)
        self.trouble: str | None = None

    def on_end(self, *, commit: Callable[[], None], rollback: Callable[[], None]) -> None:
        """Registers functions that the writer's thread calls at the end of every transaction."""
        self._after_commit.append(commit)
        self._after_rollback.append(rollback)

    def open(self) -> None:
        """Locks the file and starts the writer. The schema must exist already (see `migrations`)."""
        self._lock.acquire()
        make_empty(real_path(self.url))
        try:
            self._engine = make_engine(self.url)
            with self._engine.connect() as connection:
                connection.exec_driver_sql("SELECT 1")
        except SQLAlchemyError as error:
            self._lock.release()
            raise StoreError(f"cannot open the database {self.path}: {_reason(error)}") from error
        self._readers = ThreadPoolExecutor(READER_COUNT, thread_name_prefix="store-reader")
        self.writer.start()

    async def close(self) -> None:
        """Commits queued writes, closes every connection and releases the lock."""
        await self.writer.close()
        if self._readers is not None:
            readers, self._readers = self._readers, None
            await asyncio.get_running_loop().run_in_executor(None, readers.shutdown)
        for connection in self._reader_connections:
            connection.close()
        self._reader_connections.clear()
        self._quick_reader = None
        if self._connection is not None:
            with contextlib.suppress(SQLAlchemyError):
                self._connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            self._connection.close()
            self._connection = None
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
        self._lock.release()

    @property
    def commit_count(self) -> int:
        """Number of committed write transactions."""
        return self.writer.commit_count

    @property
    def item_count(self) -> int:
        """Number of writes in those transactions."""
        return self.writer.item_count

    shared = False
    """True if several nodes can have it open."""

    async def listen(self, on_notice: Callable[[str], None], on_name: Callable[[str | None], None]) -> None:
        """Returns at once: a SQLite file has no other nodes."""

    def clock(self, clock: Clock) -> Clock:
        """`clock` itself."""
        return clock

    def lease_clock(self, clock: Clock) -> Clock:
        """A steady clock that starts at the present time and ignores later changes of the system clock. All leases
        belong to this process."""
        followed, moment = FollowedClock(), steady_clock()
        followed.read(clock(), moment, moment)
        return followed.now

    async def write(self, batch: Batch[Item, Result], item: Item) -> Result:
        """See `Writer.write`."""
        return await self.writer.write(batch, item)

    async def call(self, batch: Batch[Item, Result | None], item: Item) -> Result | None:
        """None: SQLite has no procedures."""
        return None

    async def read(self, query: Callable[..., Result], *arguments: Any) -> Result:
        """Runs `query(connection, *arguments)` in a reader thread. It sees every write that has returned."""
        if self._readers is None:
            raise StoreError("the database is not open")
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, query, arguments)

    async def read_beside(self, query: Callable[..., Result], *arguments: Any) -> Result:
        """The same as `read`: there are no other nodes whose changes it would have to be in time for."""
        return await self.read(query, *arguments)

    def try_read(self, query: Callable[..., Result], *arguments: Any) -> Result | None:
        """Runs a query of a few rows by key in the caller's thread, which is faster than handing it to another. None
        if it would have to wait."""
        if self._readers is None:
            return None
        try:
            if self._quick_reader is None:
                self._quick_reader = self._reader(wait_ms=0)
            try:
                return query(self._quick_reader, *arguments)
            finally:
                self._quick_reader.rollback()
        except (*REFUSALS, StoreError):  # `read` reports the reason
            return None

    def _reader(self, wait_ms: int = BUSY_TIMEOUT_MS) -> Connection:
        assert self._engine is not None
        try:
            connection = self._engine.connect()
            for pragma in ("query_only=ON", f"busy_timeout={wait_ms}"):
                connection.exec_driver_sql(f"PRAGMA {pragma}")
            connection.commit()
        except SQLAlchemyError as error:  # for example: no file descriptor left
            raise as_store_error(error) from error
        self._reader_connections.append(connection)
        return connection

    def _read(self, query: Callable[..., Result], arguments: Sequence[Any]) -> Result:
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None or connection.closed:
            connection = self._local.connection = self._reader()
        try:
            connection.exec_driver_sql("BEGIN")  # all statements of one query see the same snapshot
            return query(connection, *arguments)
        except REFUSALS as error:
            raise as_store_error(error) from error
        finally:
            with contextlib.suppress(SQLAlchemyError):
                connection.rollback()

    async def size_bytes(self) -> int:
        """Bytes on disk, with the log."""
        return sum(_size(f"{self.path}{end}") for end in ("", "-wal", "-shm"))

    async def compact(self) -> None:
        """Moves the log into the file, so that deleted rows are in neither. A reader can prevent it: the next
        checkpoint then does it."""
        await asyncio.get_running_loop().run_in_executor(None, self._checkpoint)

    def _checkpoint(self) -> None:
        assert self._engine is not None
        with contextlib.suppress(SQLAlchemyError), self._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").close()

    # --- for the writer

    def begin(self, *, patient: bool = True) -> Connection:
        """Opens a write transaction on the writing connection. Raises StoreError. If another program is writing, it
        waits up to BUSY_TIMEOUT_MS, or not at all unless `patient`."""
        ends_at = time.monotonic() + (BUSY_TIMEOUT_MS / 1000 if patient else 0.0)
        while True:
            try:
                if self._connection is None:
                    assert self._engine is not None
                    self._connection = self._engine.connect()
                    # SQLite itself must not block the event loop
                    driver_of(self._connection).execute("PRAGMA busy_timeout=0").close()
                driver_of(self._connection).execute("BEGIN IMMEDIATE")
            except REFUSALS as error:
                self.rollback()
                if not _is_busy(error) or time.monotonic() >= ends_at:
                    raise as_store_error(error) from error
                time.sleep(BUSY_RETRY_SECONDS)
            else:
                return self._connection

    def commit(self) -> None:
        """Commits the open transaction durably."""
        assert self._connection is not None
        if self._connection.in_transaction():  # SQLAlchemy ran a statement
            self._connection.commit()
        else:
            driver_of(self._connection).commit()
        for call in self._after_commit:
            call()
        if _size(f"{self.path}-wal") > WAL_BYTES and time.monotonic() >= self._truncate_wal_at:
            self._truncate_wal()

    def _truncate_wal(self) -> None:
        """SQLite restarts its log only when there is no reader, which may never happen (SQLite, "Write-Ahead
        Logging", "checkpoint starvation"). This waits briefly for the current readers, and is tried again later."""
        assert self._connection is not None
        self._truncate_wal_at = time.monotonic() + WAL_RETRY_SECONDS
        with contextlib.suppress(sqlite3.Error):  # the commit has succeeded already
            cursor = self._connection.connection.cursor()
            (wait_ms,) = cursor.execute("PRAGMA busy_timeout").fetchone()
            cursor.execute(f"PRAGMA busy_timeout={WAL_READER_WAIT_MS}").fetchall()
            try:
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                cursor.execute(f"PRAGMA busy_timeout={wait_ms}").fetchall()
                cursor.close()

    def rollback(self) -> None:
        """Undoes the open transaction. Never raises."""
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(*REFUSALS):
                connection.rollback()
            if connection.invalidated:  # SQLAlchemy was interrupted: the next transaction uses a new connection
                self._connection = None
            else:
                with contextlib.suppress(*REFUSALS):
                    driver_of(connection).rollback()
        for call in self._after_rollback:
            call()


def make_engine(url: URL) -> Engine:
    """An engine whose connections have our pragmas and never begin a transaction by themselves."""
    engine = create_engine(
        url, poolclass=NullPool, connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_MS / 1000}
    )

    @event.listens_for(engine, "connect")
    def _configure(dbapi_connection: Any, _record: Any) -> None:
        dbapi_connection.isolation_level = None  # BEGIN IMMEDIATE is sent explicitly
        cursor = dbapi_connection.cursor()
        # Only possible before the first page; see `upkeep.give_back`.
        if cursor.execute("PRAGMA page_count").fetchone()[0] == 0:
            cursor.execute("PRAGMA auto_vacuum=INCREMENTAL")
        _use_wal(cursor)
        for pragma in (
            "synchronous=FULL",
            f"busy_timeout={BUSY_TIMEOUT_MS}",
            f"wal_autocheckpoint={WAL_AUTOCHECKPOINT_PAGES}",
            f"journal_size_limit={WAL_BYTES}",
            "foreign_keys=OFF",
            "temp_store=MEMORY",
            "secure_delete=ON",  # what is erased is overwritten; some builds of SQLite do so by themselves
            "cache_size=-32768",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine


def _use_wal(cursor: sqlite3.Cursor) -> None:
    """Turns the write-ahead log on. While another connection does so in a new file, SQLite says `database is locked`
    at once: it asks its busy handler only for other locks."""
    ends_at = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() >= ends_at:
                raise
        time.sleep(BUSY_RETRY_SECONDS)


def real_path(url: URL) -> Path:
    """The database's file, with links resolved. Created beforehand, so that SQLite gives its log and index the same
    mode."""
    return Path(os.path.realpath(str(url.database)))


def narrow_files(url: URL) -> None:
    """Makes the database readable by its owner only. Call it once the file is known to be a database."""
    path = real_path(url)
    for suffix in ("", "-wal", "-shm", "-journal"):
        narrow(path.with_name(path.name + suffix))


class HolderLock:
    """A lock file beside the database that names the process which holds it.

    The lock is the kernel's (flock): it ends with the process, however the process ends.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def acquire(self) -> None:
        """Takes the lock. Raises DatabaseHeld with the holder's process id, or StoreError if the folder cannot be
        written."""
        check_place(self.path.with_name(self.path.name.removesuffix(".lock")))
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
        except OSError as error:
            raise StoreError(f"cannot open the database's lock file {self.path}: {refusal(error)}") from error
        with contextlib.suppress(OSError):  # the file belongs to another user
            os.fchmod(handle, PRIVATE)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(handle)
            database = self.path.name.removesuffix(".lock")
            if holder == str(os.getpid()):
                holder += " of another container"
            raise DatabaseHeld(
                f"the database {database} is held by the process with pid {holder}: stop that one first, "
                "or give this one a database of its own with DATABASE_URL"
            ) from error
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
        except OSError as error:  # the disk is full
            os.close(handle)
            raise StoreError(f"cannot write the database's lock file {self.path}: {error.strerror}") from error
        self._file = handle

    def release(self) -> None:
        """Releases the lock. The file stays, empty."""
        if self._file is not None:
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = None


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # the file does not exist
        return 0


def _is_busy(error: Exception) -> bool:
    code = getattr(getattr(error, "orig", error), "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_BUSY  # the low byte: busy has several extended codes


def _reason(error: SQLAlchemyError) -> str:
    original = getattr(error, "orig", None)
    return str(original or error).splitlines()[0]
