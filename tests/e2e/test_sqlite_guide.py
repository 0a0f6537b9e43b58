"""docs/operate/sqlite.md, typed as it is written: a backup of a running relay, its restore, an upgrade, and back."""

import asyncio
import os
import re
import sqlite3
import subprocess
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from relay.store.schema.migrations import newest_revision
from tests.support.relay_world import API_KEY, RelayWorld, open_relay_world
from tests.support.typed import blocks, prompts, section, shell_path

DOCUMENT = "docs/operate/sqlite.md"
NEWER = "9999"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RelayWorld]:
    async with asyncio.timeout(300), open_relay_world(tmp_path) as world:
        yield world


def commands(title: str) -> list[str]:
    """What a section says to type, without `relay serve`: the test starts that one."""
    typed = [line for block in blocks(section(DOCUMENT, title), "console") for line in prompts(block)]
    return [line for line in typed if line != "relay serve"]


async def typed(world: RelayWorld, lines: list[str]) -> str:
    """Types them into one shell in the relay's folder; each has to succeed."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "REVOR_"))}
    environ |= {
        **{"PATH": shell_path(world.folder), "PYTHONPATH": os.getcwd(), "XDG_STATE_HOME": str(world.folder / "state")},
        **{"REVOR_API_KEY": API_KEY, "REVOR_BASE_URL": world.sandbox_url},
    }
    ran = await asyncio.to_thread(
        subprocess.run,
        ["bash", "-ec", "\n".join(lines)],
        cwd=world.folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, (lines, ran.stdout, ran.stderr)
    return ran.stdout


async def backed_up(world: RelayWorld) -> str:
    """A relay that runs, with a job in its backup: the job's id."""
    await world.serve()
    await world.subscribe()
    job_id = await world.job()
    await world.until_delivered([job_id])
    said = await typed(world, commands("Back up"))
    assert re.search(r"^database\W+ok\b", said, re.MULTILINE), said
    assert re.search(r"^sinks\W+ok\W+1 subscription\b", said, re.MULTILINE), said
    assert [(world.folder / f"relay-backup.{end}").stat().st_mode & 0o777 for end in ("db", "key")] == [0o600] * 2
    return job_id


async def test_a_backup_of_a_relay_that_runs_is_restored(world: RelayWorld) -> None:
    kept = await backed_up(world)
    later = await world.job()
    await world.until_delivered([later])
    assert await world.end() == 0
    key = world.folder / "state" / "revor-relay" / "key"
    key.write_bytes((world.folder / "relay-backup.key").read_bytes())

    await typed(world, commands("Restore"))
    await world.serve()
    assert (await world.get(f"/v1/jobs/{kept}"))["outcome"] == "succeeded"
    assert (await world.call("GET", f"/v1/jobs/{later}"))[0] == 404
    await world.until_delivered([await world.job()])
    assert (world.folder / "relay.db").stat().st_mode & 0o777 == 0o600


def migrated_to(world: RelayWorld, revision: str) -> None:
    """Says that the database has another schema, as a newer version does."""
    with closing(sqlite3.connect(world.folder / "relay.db")) as database:
        database.execute(f"UPDATE alembic_version SET version_num = '{revision}'")
        database.commit()


async def test_an_upgrade_and_the_way_back(world: RelayWorld) -> None:
    kept = await backed_up(world)
    assert await world.end() == 0
    said = await typed(world, commands("Upgrade"))
    assert f"the database has the newest schema, {newest_revision()}" in said
    await world.serve()
    assert await world.end() == 0

    migrated_to(world, NEWER)
    line = await world.refused()
    (example,) = blocks(section(DOCUMENT, "Roll back"), "text")
    assert line == re.sub(r"\b00\d\d\b", newest_revision(), example.strip())
    migrated_to(world, newest_revision())
    assert await typed(world, commands("Roll back")) == "the database has schema 0029\n"
    await world.serve()
    assert (await world.get(f"/v1/jobs/{kept}"))["outcome"] == "succeeded"
    assert await world.end() == 0
    await typed(world, commands("Restore"))
    await world.serve()
    assert (await world.get(f"/v1/jobs/{kept}"))["outcome"] == "succeeded"
