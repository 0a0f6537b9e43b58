"""docs/operate/upgrading.md: a database that 0.1 left, with the wheel of this version.

`tests/fixtures/database-0.1` has dumps with the first schema, 0026. That relay tracked three jobs of the sandbox, one
of which is open, took an event of another program, and has a subscription whose program has pulled nothing.
"""

import asyncio
import json
import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import asyncpg
import pytest

import relay
from tests.packaging.test_wheel import closure, link, requirements_of, run, site_packages, wheel
from tests.support.lock import ROOT
from tests.support.postgres_server import shared_server
from tests.support.process_world import API_TOKEN, Start

__all__ = ["wheel"]

DUMPS = ROOT / "tests" / "fixtures" / "database-0.1"
KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
JOBS = {
    "e8fa2556-08c3-4ba7-b8ca-1a52b38f0e68": ("succeeded", "succeeded"),
    "0e55f757-b845-4dd9-936f-df80fd422fb5": ("failed", "failed"),
    "e25aab56-d56b-4784-80a3-054f405cfd6a": ("running", None),
}
TYPES = ["ai.revor.job.failed", *["ai.revor.job.running"] * 3, "ai.revor.job.succeeded", "com.example.order.paid"]

pytestmark = pytest.mark.xdist_group("wheel")


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command `relay` of the wheel."""
    venv = tmp_path_factory.mktemp("new version") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    link(closure([*requirements_of(wheel), "asyncpg"]).values(), site_packages(venv))
    pip = (sys.executable, "-m", "pip", "--python", venv / "bin" / "python", "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-compile", "--no-index", wheel)
    return venv / "bin" / "relay"


@pytest.fixture(params=["sqlite", "postgresql"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database of 0.1."""
    script = (DUMPS / f"{request.param}.sql").read_text(encoding="utf-8")
    if request.param == "sqlite":
        path = tmp_path / "relay.db"
        with closing(sqlite3.connect(path)) as database:
            database.executescript(script)
        yield f"sqlite:///{path}"
        return
    name = "of_0_1"
    shared_server().create_database(name)

    async def restore(url: str) -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(script)
        await connection.close()

    asyncio.run(restore(shared_server().url(name)))
    yield shared_server().url(name)
    shared_server().drop_database(name)


def test_database_of_0_1_is_upgraded_with_all_that_it_has(
    old: str, program: Path, start: Start, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text(API_TOKEN)
    variables = {
        "PYTHONPATH": "",
        "DATABASE_URL": old,
        "RELAY_ENCRYPTION_KEY": KEY,
        "RELAY_TOKEN_FILE": str(token),
        "REVOR_API_KEY": "sk-revor-default",
        "REVOR_BASE_URL": "http://127.0.0.1:9",
        **{f"RELAY_RETENTION__{name}_DAYS": "36500" for name in ("EVENTS", "ATTEMPTS", "JOBS", "AUDIT")},
    }

    def command(*arguments: str) -> Any:
        return start(*arguments, program=[str(program)], **variables)

    command("--version").until(rf"^relay {re.escape(relay.__version__)} ")
    migrated = command("migrate")
    migrated.until("the database has the newest schema")
    assert migrated.close() == 0

    base = command("serve", "--port", "0").until(r"relay: serving (http\S+)")

    def ask(path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {API_TOKEN}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(base + path, data, headers)) as answer:
            return json.loads(answer.read())

    jobs = ask("/v1/jobs")["items"]
    assert {job["id"]: (job["status"], job["outcome"]) for job in jobs} == JOBS
    assert [job["metadata"] for job in jobs] == [{"deal": "42"}] * len(JOBS)
    events = ask("/v1/events")["items"]
    assert sorted(event["type"] for event in events if not event["type"].startswith("ai.revor.relay.")) == TYPES
    (subscription,) = ask("/v1/subscriptions")["items"]
    pulled = ask(f"/v1/subscriptions/{subscription['id']}/pull", {"max": 10})["items"]
    assert sorted(one["event"]["type"] for one in pulled) == [name for name in TYPES if name.startswith("ai.revor.")]
