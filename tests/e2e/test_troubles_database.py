"""What can go wrong with the database of a real node: on a full disk, in a bad place, held, foreign, of another key."""

import asyncio
import contextlib
import os
import resource
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from relay.config.keyring import new_key
from relay.store.schema.migrations import newest_revision
from tests.support.process_world import WITHOUT_BYTE_CODE
from tests.support.relay_world import RelayWorld, open_relay_world

LIMIT_BYTES = 16_384
"""Less than the database and its log have already: nothing can be written to them any more."""

Disk = tuple[Path, Callable[[RelayWorld], None], Callable[[RelayWorld], None]]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RelayWorld]:
    async with open_relay_world(tmp_path) as world:
        yield world


@pytest.fixture(params=["small disk", "limited files"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A folder on a disk, what fills that and what makes room: a disk of 3 MiB, or a limit of the process."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "limited files":
        kind = resource.RLIMIT_FSIZE
        yield folder, lambda world: _limit(world, kind, LIMIT_BYTES), lambda world: _limit(world, kind, None)
        return
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"NO SMALL DISK: only root may mount one ({mounted.stderr.decode().strip()[:200]})")
    filler = folder / "filler"
    try:
        yield folder, lambda _world: _fill(filler), lambda _world: filler.unlink()
    finally:
        subprocess.run(["umount", folder], check=True)


def _limit(world: RelayWorld, kind: int, most: int | None) -> None:
    assert world.relay is not None
    world.relay.limit(kind, resource.RLIM_INFINITY if most is None else most)


def _fill(filler: Path) -> None:
    with filler.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(4096))


async def refusal(world: RelayWorld, acknowledged: list[str]) -> tuple[str, dict[str, Any]]:
    """Registers jobs until one is refused: its id, and the problem."""
    for _ in range(50):
        job_id = await world.upstream_job()
        status, document = await world.call("POST", "/v1/jobs", {"id": job_id})
        if status == 503:
            return job_id, document
        assert status == 201, document
        acknowledged.append(job_id)
    raise AssertionError("nothing is refused")


async def test_a_full_disk(disk: Disk, tmp_path: Path) -> None:
    folder, fill, make_room = disk
    async with open_relay_world(tmp_path) as world:
        at_the_sink, go_on = asyncio.Event(), asyncio.Event()
        await world.serve(DATABASE_URL=f"sqlite:///{folder / 'relay.db'}", **WITHOUT_BYTE_CODE)
        await world.subscribe("ai.revor.job.succeeded", "ai.revor.job.running")
        acknowledged = [await world.job() for _ in range(3)]
        await world.until_delivered(acknowledged)
        acknowledged += [await world.job(run_seconds=200) for _ in range(3)]  # a second each

        async def slowly(_request: Request) -> Response:
            at_the_sink.set()
            await go_on.wait()
            return PlainTextResponse("ok")

        world.answering = slowly
        under_way = await world.job()
        await at_the_sink.wait()
        fill(world)
        go_on.set()  # it is delivered, and the result cannot be recorded

        refused, problem = await refusal(world, acknowledged)
        assert (problem["code"], problem["status"], problem["title"]) == ("store", 503, "Database unavailable")
        assert "database or disk is full" in problem["detail"] or "disk I/O error" in problem["detail"]
        await world.until_not_ready()  # it may have written a moment before
        _, document = await world.call("GET", "/readyz")
        assert document["checks"]["database"] == "failing"
        assert document["problems"][0].startswith("database: the database refused a write")
        assert (await world.get("/livez"))["status"] == "ok"
        assert (await world.get(f"/v1/jobs/{acknowledged[-1]}"))["open"]  # what is read is answered
        await world.said("the database refused.*job_poll_failed")

        make_room(world)
        await world.until_ready()
        await world.until_delivered([*acknowledged, under_way])
        assert (await world.call("GET", f"/v1/jobs/{refused}"))[0] == 404  # what was refused was not kept
        assert (await world.call("POST", "/v1/jobs", {"id": refused}))[0] == 201
        await world.until_delivered([refused])
        came = [event["id"] for event in world.received]
        assert len(came) == len(set(came)), "an event came twice, without a crash"
        assert await world.end() == 0
        assert [line for line in world.lines if "Traceback" in line] == []
        assert world.logged("api_request_failed")


async def test_a_disk_that_is_full_at_the_start(disk: Disk, tmp_path: Path) -> None:
    folder, _, _ = disk
    url = f"sqlite:///{folder / 'relay.db'}"
    async with open_relay_world(tmp_path) as world:
        limits = ""
        if folder.is_mount():
            _fill(folder / "filler")
        else:
            limits = f"RLIMIT_FSIZE={LIMIT_BYTES}"
        line = await world.refused(limits=limits, DATABASE_URL=url)
        assert "full" in line or "I/O error" in line or "No space left" in line
        assert str(folder) in line
        if folder.is_mount():
            (folder / "filler").unlink()
        await world.serve(DATABASE_URL=url)  # nothing half made is in the way
        await world.until_ready()


async def test_folder_that_cannot_be_written(world: RelayWorld, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o555)
    url = f"sqlite:///{folder / 'relay.db'}"
    line = await world.refused(limits="UNPRIVILEGED", DATABASE_URL=url)
    assert f"Permission denied for user {os.geteuid()}" in line
    assert str(folder) in line
    folder.chmod(0o755)
    await world.serve(limits="UNPRIVILEGED", DATABASE_URL=url)


async def test_file_that_cannot_be_written(world: RelayWorld, tmp_path: Path) -> None:
    await world.serve()
    assert await world.end() == 0
    (tmp_path / "relay.db").chmod(0o400)
    line = await world.refused(limits="UNPRIVILEGED")
    assert "attempt to write a readonly database" in line
    for file in tmp_path.glob("relay.db*"):  # SQLite made the others like the first
        file.chmod(0o600)
    await world.serve(limits="UNPRIVILEGED")


async def test_a_folder_that_is_not_there(world: RelayWorld, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'nowhere' / 'relay.db'}"
    line = await world.refused(DATABASE_URL=url)
    assert "does not exist. Create it" in line
    code, lines = await world.run("check", REVOR_API_KEY="sk-revor-test", DATABASE_URL=url)
    assert code == 2
    assert any("Create it, or set database.url" in line for line in lines)


async def test_a_file_that_is_no_database(world: RelayWorld, tmp_path: Path) -> None:
    file = tmp_path / "relay.db"
    file.write_bytes(b"a letter, not a database\n" * 100)
    line = await world.refused()
    assert "relay.db" in line
    assert "file is not a database" in line
    assert file.read_bytes() == b"a letter, not a database\n" * 100
    file.unlink()
    await world.serve()


async def test_a_schema_that_is_newer_than_the_program(world: RelayWorld, tmp_path: Path) -> None:
    await world.serve()
    job_id = await world.job()
    assert await world.end() == 0
    _write(tmp_path / "relay.db", "UPDATE alembic_version SET version_num = '9999'")
    line = await world.refused()
    assert "9999" in line
    assert "newer revor-relay; install that version again" in line
    code, lines = await world.run("check", REVOR_API_KEY="sk-revor-test", REVOR_BASE_URL=world.sandbox_url)
    assert code == 2
    assert any("9999" in line for line in lines)
    _write(tmp_path / "relay.db", f"UPDATE alembic_version SET version_num = '{newest_revision()}'")
    await world.serve()
    assert (await world.get(f"/v1/jobs/{job_id}"))["id"] == job_id


async def test_a_schema_that_is_older_than_the_program_updates(world: RelayWorld, tmp_path: Path) -> None:
    await world.serve()
    assert await world.end() == 0
    _write(tmp_path / "relay.db", "UPDATE alembic_version SET version_num = '0025'")
    assert "has schema 0025, older than 0026, the first one that this program updates" in await world.refused()
    code, lines = await world.run("check", REVOR_API_KEY="sk-revor-test", REVOR_BASE_URL=world.sandbox_url)
    assert (code, any("has schema 0025" in line for line in lines)) == (2, True)


async def test_a_schema_that_is_older_than_the_program(world: RelayWorld, tmp_path: Path) -> None:
    _write(tmp_path / "relay.db", "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
    code, lines = await world.run("check", REVOR_API_KEY="sk-revor-test", REVOR_BASE_URL=world.sandbox_url)
    assert (code, any("an older schema" in line for line in lines)) == (0, True)
    await world.serve()
    await world.until_ready()


async def test_another_encryption_key(world: RelayWorld) -> None:
    first, second = new_key(), new_key()
    await world.serve(RELAY_ENCRYPTION_KEY=first)
    await world.subscribe()
    assert await world.end() == 0
    line = await world.refused(RELAY_ENCRYPTION_KEY=second)
    assert "add it to encryption.keys, or restore the key file" in line
    assert first not in line
    assert second not in line
    # The secret of callbacks may be given, so that nothing of it has to be decrypted: the subscriptions' still do.
    callback_secret = "whsec_" + "A" * 32
    line = await world.refused(RELAY_ENCRYPTION_KEY=second, RELAY_DELIVERY__CALLBACK_SECRET=callback_secret)
    assert "add it to encryption.keys" in line

    await world.serve(RELAY_ENCRYPTION__KEYS=f'["{second}", "{first}"]')
    await world.until_delivered([await world.job()])


async def test_somebody_else_writes_to_the_file(world: RelayWorld, tmp_path: Path) -> None:
    await world.serve()
    await world.subscribe()
    with contextlib.closing(sqlite3.connect(tmp_path / "relay.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        status, document = await world.call("GET", "/readyz")
        assert status == 503
        assert "the database has not taken a write for 2 s" in document["problems"][0]
        other.execute("ROLLBACK")
    await world.until_ready()
    await world.until_delivered([await world.job()])


def _write(path: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)
    assert os.path.exists(path)
