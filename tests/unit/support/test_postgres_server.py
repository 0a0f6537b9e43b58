"""The server that the database tests stand on: it starts, it crashes on request, and leaves nothing behind."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.support import postgres_server
from tests.support.postgres_server import MEMORY_LINE, PostgresError, PostgresServer, StopMode, is_gone

ROOT = Path(__file__).resolve().parents[3]
SYSTEM_V_MEMORY = Path("/proc/sysvipc/shm")
DEADLINE_SECONDS = 30.0
OWNER = """
import sys
from tests.support.postgres_server import PostgresServer
server = PostgresServer()
server.start()
print(server.pid, server.folder, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(tcp=True, max_connections=20, settings={"deadlock_timeout": "50ms"}) as started:
        yield started


async def ask(url: str, question: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


async def tell(url: str, *statements: str) -> None:
    for statement in statements:
        await ask(url, statement)


def family_of(server: PostgresServer) -> list[psutil.Process]:
    assert server.pid is not None
    postmaster = psutil.Process(server.pid)
    return [postmaster, *postmaster.children(recursive=True)]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_it_is_postgresql_over_both_ways_and_through_sqlalchemy(server: PostgresServer) -> None:
    for url in (server.url(), server.url(tcp=True)):
        assert str(await ask(url, "SELECT version()")).startswith("PostgreSQL ")
        engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
        async with engine.connect() as connection:
            assert await connection.scalar(text("SELECT current_database()")) == "postgres"
        await engine.dispose()


async def test_its_settings_are_those_asked_for(server: PostgresServer) -> None:
    wanted = {
        "listen_addresses": "127.0.0.1",
        "max_connections": "20",
        "fsync": "off",
        "deadlock_timeout": "50ms",
        "server_encoding": "UTF8",
        "lc_messages": "C",
        "TimeZone": "UTC",
    }
    assert {name: await ask(server.url(), f"SHOW {name}") for name in wanted} == wanted


async def test_a_clone_has_what_its_template_has_and_is_its_own(server: PostgresServer) -> None:
    server.create_database("pattern")
    await tell(server.url("pattern"), "CREATE TABLE t AS SELECT 7 AS n")
    server.clone("pattern", 'a "clone"/1')
    await tell(server.url('a "clone"/1'), "UPDATE t SET n = 8")
    assert await ask(server.url("pattern"), "SELECT n FROM t") == 7
    assert await ask(server.url('a "clone"/1'), "SELECT n FROM t") == 8

    left_open = await asyncpg.connect(server.url('a "clone"/1'))
    server.drop_database('a "clone"/1')
    server.drop_database('a "clone"/1')
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(server.url('a "clone"/1'))
    left_open.terminate()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_keeps_port_and_data(server: PostgresServer, mode: StopMode) -> None:
    await tell(server.url(), f"CREATE TABLE over_{mode} (n int)", f"INSERT INTO over_{mode} VALUES (1)")
    before = (server.pid, server.url(tcp=True))

    server.restart(mode)

    assert server.pid != before[0]
    assert server.url(tcp=True) == before[1]
    assert await ask(server.url(tcp=True), f"SELECT count(*) FROM over_{mode}") == 1


async def test_a_kill_takes_the_whole_server_and_no_commit(server: PostgresServer) -> None:
    await tell(server.url(), "CREATE TABLE over_kill (n int)")
    busy = await asyncpg.connect(server.url())
    await busy.execute("INSERT INTO over_kill VALUES (1)")
    await busy.execute("BEGIN; INSERT INTO over_kill VALUES (2)")
    family = family_of(server)
    assert len(family) > 3

    server.kill()

    assert server.pid is None
    assert all(map(is_gone, family))
    with pytest.raises(ConnectionRefusedError):
        await asyncpg.connect(server.url(tcp=True))
    server.start()
    assert await ask(server.url(tcp=True), "SELECT count(*) FROM over_kill") == 1
    busy.terminate()


def test_it_is_not_started_twice(server: PostgresServer) -> None:
    with pytest.raises(PostgresError, match="running already"):
        server.start()


@pytest.mark.parametrize("end", ["close", "kill"])
async def test_nothing_stays_after_the_end(end: str) -> None:
    server = PostgresServer(fsync=True)
    server.start()
    assert await ask(server.url(), "SHOW fsync") == "on"
    with pytest.raises(PostgresError, match="no TCP port"):
        server.url(tcp=True)
    folder, family = server.folder, family_of(server)
    memory = (folder / "data" / "postmaster.pid").read_text(encoding="utf-8").splitlines()[MEMORY_LINE].split()[1]

    if end == "kill":
        server.kill()
    server.close()
    server.close()

    assert all(map(is_gone, family))
    assert not folder.exists()
    if SYSTEM_V_MEMORY.exists():
        rows = SYSTEM_V_MEMORY.read_text(encoding="utf-8").splitlines()[1:]
        assert memory not in {row.split()[1] for row in rows}


@pytest.mark.parametrize("end", ["exit", "SIGKILL"])
def test_nothing_stays_when_the_tests_end_without_a_word(end: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdin is not None
        assert owner.stdout is not None
        pid, folder = owner.stdout.readline().split()
        postmaster = psutil.Process(int(pid))
        assert not is_gone(postmaster)
        if end == "SIGKILL":
            owner.kill()
        owner.stdin.close()
        owner.wait(DEADLINE_SECONDS)

    wait_for(lambda: is_gone(postmaster) and not Path(folder).exists())


def test_a_port_that_another_was_quicker_to_take(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    free = postgres_server._free_port()
    ports = iter([server.port, free])
    monkeypatch.setattr(postgres_server, "_free_port", lambda: next(ports))
    with PostgresServer(tcp=True) as another:
        assert another.port == free


def test_a_start_that_fails_says_why_and_leaves_nothing() -> None:
    server = PostgresServer(settings={"no_such_setting": "1"})
    with pytest.raises(PostgresError, match="no_such_setting"):
        server.start()
    with pytest.raises(PostgresError, match="never started, or is closed"):
        _ = server.folder
