"""The SQLite file: one holder at a time, whatever happens to it; committed data is kept."""

import asyncio
import gc
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event as sqlalchemy_event

from relay.config.settings import RetentionSettings
from relay.core.records import PollNote
from relay.errors import DatabaseHeld, SettingsError, StoreError
from relay.metrics import Metrics
from relay.node.upkeep import DAY_SECONDS, Retention
from relay.store.databases.sqlite import SqliteDatabase, url_of
from relay.store.schema import migrations
from relay.store.store import Store, open_store
from tests.support.store_kit import (
    NOW,
    ReversingCipher,
    deliver_all,
    poll,
    registration,
    rows,
    subscription,
    track,
)

ROOT = Path(__file__).parents[2]
PAGE_BYTES = 4096
HOLDER = """
import asyncio, sys
from tests.support.store_kit import ReversingCipher, registration
from relay.store.store import open_store

async def main():
    store = await open_store(sys.argv[1], ReversingCipher(), now=1.0)
    await store.jobs.register(registration("before the end"))
    print("held", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """SQLite only."""
    return url_of(tmp_path / "relay.db")


@contextmanager
def other_process(url: str) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the database until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, url],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


async def test_second_open_is_refused_with_the_pid(store: Store, database_url: str) -> None:
    with pytest.raises(DatabaseHeld, match=rf"pid {os.getpid()}\b") as refused:
        await open_store(database_url, ReversingCipher(), now=NOW)
    assert "\n" not in str(refused.value)
    with pytest.raises(DatabaseHeld, match=rf"pid {os.getpid()}\b"):
        migrations.migrate(database_url)
    assert (await track(store)).startswith("job_")


async def test_another_process_is_refused_until_the_holder_is_killed(database_url: str) -> None:
    with other_process(database_url) as process:
        with pytest.raises(DatabaseHeld, match=rf"pid {process.pid}\b"):
            await open_store(database_url, ReversingCipher(), now=NOW)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        store = await open_store(database_url, ReversingCipher(), now=NOW)
        try:
            assert len(await store.jobs.find("before the end")) == 1
        finally:
            await store.close()


@pytest.mark.verify
async def test_copy_made_at_any_moment_opens_and_is_consistent(store: Store, tmp_path: Path) -> None:
    """As after a power loss: the file and its log as they are on disk during writes."""
    await store.subscriptions.create(subscription("sub_1"))
    uids = [await track(store, f"job {n}") for n in range(20)]
    draw = random.Random(7)
    copies: list[Path] = []
    done = [0]

    async def write() -> None:
        for nth in range(15):
            await asyncio.gather(*(store.jobs.record(poll(uid, nth * 2, "running", "retrying")) for uid in uids))
            await deliver_all(store, "sub_1")
            done[0] = nth + 1

    def copy(number: int) -> tuple[int, Path]:
        folder = tmp_path / f"copy {number}"
        folder.mkdir()
        written = done[0]
        for name in ("relay.db-wal", "relay.db"):  # no checkpoint runs so early, so the log belongs to the file
            shutil.copy(store.database.path.with_name(name), folder / name)
        log = folder / "relay.db-wal"
        torn = draw.randrange(0, 4096)
        with log.open("r+b") as file:
            file.truncate(max(0, log.stat().st_size - torn) if torn % 2 else log.stat().st_size)
        return written if torn % 2 == 0 else 0, folder

    task = asyncio.ensure_future(write())
    taken: list[tuple[int, Path]] = []
    while not task.done():
        taken.append(await asyncio.get_running_loop().run_in_executor(None, copy, len(taken)))
    await task
    assert len(taken) > 3
    for written, folder in taken[:40]:
        copies.append(folder)
        again = await open_store(f"sqlite:///{folder / 'relay.db'}", ReversingCipher(), now=NOW)
        try:
            events = await rows(again, "SELECT job_uid, MAX(sequence) AS last, COUNT(*) AS n FROM events GROUP BY 1")
            jobs = {row["uid"]: row["sequence"] for row in await rows(again, "SELECT uid, sequence FROM jobs")}
            assert all(row["last"] == row["n"] == jobs[row["job_uid"]] for row in events)
            assert all(sequence >= written * 2 for sequence in jobs.values())
            deliveries = await rows(again, "SELECT COUNT(*) AS n FROM deliveries")
            assert deliveries[0]["n"] == sum(row["n"] for row in events)
            attempts = await rows(
                again, "SELECT (SELECT COUNT(*) FROM attempts) - (SELECT SUM(made_count) FROM deliveries) AS too_many"
            )
            assert attempts[0]["too_many"] in (0, None)
            check = await rows(again, "PRAGMA integrity_check")
            assert check == [{"integrity_check": "ok"}]
        finally:
            await again.close()


async def test_commits_are_flushed_to_the_disk(store: Store) -> None:
    names = ("journal_mode", "synchronous", "busy_timeout", "query_only")
    found = {name: next(iter((await rows(store, f"PRAGMA {name}"))[0].values())) for name in names}
    assert found == {"journal_mode": "wal", "synchronous": 2, "busy_timeout": 5000, "query_only": 1}


async def test_file_locked_by_another_program_is_refused_after_a_wait(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await track(store)
    monkeypatch.setattr("relay.store.databases.sqlite.BUSY_TIMEOUT_MS", 1)
    with closing(sqlite3.connect(store.database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        results = await asyncio.gather(
            *(store.jobs.register(registration(f"job {n}")) for n in range(3)), return_exceptions=True
        )
        assert all(isinstance(result, StoreError) and "locked" in str(result) for result in results)
        other.execute("ROLLBACK")
    await track(store, "afterwards")


async def test_only_the_write_waits_for_another_program(store: Store) -> None:
    uid = await track(store)
    with closing(sqlite3.connect(store.database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        write = asyncio.ensure_future(store.jobs.note(PollNote(job_uid=uid, next_poll_at=NOW + 5)))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not write.done(), "and this loop has gone on all the while"
        other.execute("ROLLBACK")
    await write
    job = await store.jobs.get(uid)
    assert job is not None
    assert job.next_poll_at == NOW + 5


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "postgresql://localhost/relay", "mysql://h/d", "relay.db", ""]
)
def test_other_database_urls_are_refused(url: str) -> None:
    with pytest.raises(SettingsError, match=r"sqlite:///relay\.db"):
        SqliteDatabase(url)


async def test_file_that_is_not_a_database_is_reported_in_one_line_and_released(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    path.write_bytes(b"no database at all" * 100)
    for _ in range(2):
        with pytest.raises(StoreError, match="not a database") as refused:
            await open_store(f"sqlite:///{path}", ReversingCipher(), now=NOW)
        assert "\n" not in str(refused.value)
    with pytest.raises(StoreError, match="not a database"):
        migrations.check(f"sqlite:///{path}")


# --- how large it becomes


async def ended(store: Store, count: int) -> None:
    """Closed jobs with one event each."""
    batch = [registration(f"job {n}") for n in range(count)]
    await store.jobs.register_many(batch)
    await asyncio.gather(*(store.jobs.record(poll(one.job.uid, 0, "succeeded", outcome="succeeded")) for one in batch))


async def pages(store: Store) -> tuple[int, int]:
    """The file's pages, and its free pages."""
    found = await rows(store, "SELECT page_count, freelist_count FROM pragma_page_count, pragma_freelist_count")
    return found[0]["page_count"], found[0]["freelist_count"]


async def test_retention_shrinks_the_file_when_less_is_kept(store: Store) -> None:
    await ended(store, 1_000)
    before, _ = await pages(store)
    at = NOW + 31 * DAY_SECONDS
    retention = Retention(store.upkeep, Metrics(), lambda: at, RetentionSettings())
    assert await retention.run_once() == 2_000
    after, free = await pages(store)
    assert after < before / 2
    assert free <= after / 10


@pytest.mark.verify
async def test_continuous_readers_do_not_let_the_log_grow_without_limit(
    monkeypatch: pytest.MonkeyPatch, open_again: Callable[[], Awaitable[Store]]
) -> None:
    """Each reader stays until the next has begun, so the log never restarts by itself."""
    monkeypatch.setattr("relay.store.databases.sqlite.WAL_AUTOCHECKPOINT_PAGES", 10)
    monkeypatch.setattr("relay.store.databases.sqlite.WAL_BYTES", 100 * PAGE_BYTES)
    monkeypatch.setattr("relay.store.databases.sqlite.WAL_RETRY_SECONDS", 0.0)
    store = await open_again()
    log = store.database.path.with_name("relay.db-wal")
    monkeypatch.setattr("relay.store.databases.sqlite.WAL_READER_WAIT_MS", 5_000)
    begun: dict[int, threading.Event] = {}
    ended_at: list[int] = []

    def reading(connection: Any, nth: int) -> None:
        connection.exec_driver_sql("SELECT COUNT(*) FROM jobs").scalar_one()
        begun.setdefault(nth, threading.Event()).set()
        assert ended_at or begun.setdefault(nth + 1, threading.Event()).wait(30)

    async def read_on(nth: int) -> None:
        while not ended_at:
            await store.database.read(reading, nth)
            nth += 2

    readers = [asyncio.ensure_future(read_on(nth)) for nth in (0, 1)]
    largest = written = 0
    try:
        for nth in range(150):
            await track(store, f"job {nth}", metadata={"much": "x" * 8 * PAGE_BYTES})
            size = log.stat().st_size
            largest, written = max(largest, size), written + 9 * PAGE_BYTES
    finally:
        ended_at.append(1)
        for one in list(begun.values()):
            one.set()
        await asyncio.gather(*readers)
    assert written > 1_000 * PAGE_BYTES
    assert largest < 300 * PAGE_BYTES, f"{largest / PAGE_BYTES:.0f} pages"


async def test_log_that_cannot_be_truncated_fails_no_write(
    monkeypatch: pytest.MonkeyPatch, open_again: Callable[[], Awaitable[Store]]
) -> None:
    """A reader of another program that stays open, such as a shell: the log grows, and each write happens once."""
    monkeypatch.setattr("relay.store.databases.sqlite.WAL_BYTES", 10 * PAGE_BYTES)
    monkeypatch.setattr("relay.store.databases.sqlite.WAL_READER_WAIT_MS", 1)
    monkeypatch.setattr("relay.store.databases.sqlite.WAL_RETRY_SECONDS", 0.0)
    store = await open_again()
    await ended(store, 10)
    with closing(sqlite3.connect(store.database.path, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT COUNT(*) FROM jobs").fetchall()
        for nth in range(10, 20):
            await track(store, f"job {nth}")
        assert store.database.path.with_name("relay.db-wal").stat().st_size > 10 * PAGE_BYTES
    await track(store, "the last")
    assert store.database.path.with_name("relay.db-wal").stat().st_size == 0
    assert (await rows(store, "SELECT COUNT(*) AS n FROM jobs"))[0]["n"] == 21
    assert await store.database.write(lambda connection, items: [_patience(connection)] * len(items), None) == 0


def _patience(connection: Any) -> Any:
    return connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one()


async def test_interrupted_statement_does_not_affect_the_next(tmp_path: Path) -> None:
    """SQLAlchemy then drops the connection in the middle of its transaction."""
    database = SqliteDatabase(url_of(tmp_path / "relay.db"))
    database.open()
    connection = database.begin()
    connection.exec_driver_sql("CREATE TABLE things (name TEXT)")
    with pytest.raises(KeyboardInterrupt):
        _interrupted_in(connection)
    database.rollback()
    gc.collect()  # the cursor, which keeps the lock until it goes with the traceback
    for nth in range(2):
        connection = database.begin(patient=False)
        assert _patience(connection) == 0
        connection.exec_driver_sql(f"CREATE TABLE things_{nth} (name TEXT)")
        database.commit()
    await database.close()
    with closing(sqlite3.connect(tmp_path / "relay.db")) as other:
        tables = [name for (name,) in other.execute("SELECT name FROM sqlite_master")]
    assert tables == ["things_0", "things_1"]


def _interrupted_in(connection: Any) -> None:
    def interrupt(*_arguments: Any) -> None:
        raise KeyboardInterrupt

    sqlalchemy_event.listen(connection, "after_cursor_execute", interrupt)
    try:
        connection.exec_driver_sql("SELECT 1")
    finally:
        sqlalchemy_event.remove(connection, "after_cursor_execute", interrupt)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777], ids=oct)
async def test_only_the_owner_can_read_the_database_under_any_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        store = await open_store(url_of(tmp_path / "relay.db"), ReversingCipher(), now=NOW)
        try:
            await track(store, "job")
            modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        finally:
            await store.close()
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("relay.db", "relay.db-wal", "relay.db-shm", "relay.db.lock"), 0o600)


async def test_readable_database_and_log_are_restricted_to_the_owner(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    store = await open_store(url_of(tmp_path / "relay.db"), ReversingCipher(), now=NOW)
    await track(store, "job")
    names = ("relay.db", "relay.db-wal", "relay.db-shm", "relay.db.lock")
    for name in names:
        shutil.copy(tmp_path / name, crashed / name)  # as a kill leaves them
        (crashed / name).chmod(0o644)
    await store.close()
    (tmp_path / "link.db").symlink_to(crashed / "relay.db")
    caplog.clear()
    store = await open_store(url_of(tmp_path / "link.db"), ReversingCipher(), now=NOW)
    try:
        modes = {path.name: path.stat().st_mode & 0o777 for path in crashed.iterdir()}
        assert modes == dict.fromkeys(names, 0o600)
        assert f"{crashed / 'relay.db'} was open to others (0644): now only its owner" in caplog.text
    finally:
        await store.close()
