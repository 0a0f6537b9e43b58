"""`relay serve` and `relay migrate` with a PostgreSQL URL, as processes: the error for each missing part."""

import json
import re
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relay.config.keyring import new_key
from relay.store.schema.migrations import newest_revision
from tests.support.old_postgres import postgres_that_says
from tests.support.postgres_server import shared_server
from tests.support.process_world import API_TOKEN, DEADLINE_SECONDS, Process, Start

PASSWORD = "not-for-anybody"
NOBODY_LISTENS = f"postgresql://relay:{PASSWORD}@127.0.0.1:1/relay"


@pytest.fixture
def database() -> Iterator[str]:
    """An empty database, by its name."""
    name = f"relay_cli_{secrets.token_hex(6)}"
    shared_server().create_database(name)
    yield name
    shared_server().drop_database(name)


def url_of(database: str, *, user: str = "postgres", password: str = PASSWORD) -> str:
    """With a password, for which this server does not ask."""
    return shared_server().url(database).replace("//postgres@", f"//{user}:{password}@")


@pytest.fixture
def here(start: Start, database: str, tmp_path: Path) -> "Here":
    (tmp_path / "relay.token").write_text(API_TOKEN)
    return Here(start, database)


def ask(url: str, token: str) -> int:
    """The status of a request with this token."""
    request = urllib.request.Request(f"{url}/v1/jobs", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


class Here:
    """Runs commands on the database."""

    def __init__(self, start: Start, database: str) -> None:
        self.start = start
        self.database = database
        self.variables = {
            "DATABASE_URL": url_of(database),
            "RELAY_ENCRYPTION_KEY": new_key(),
            "REVOR_API_KEY": "sk-revor-default",
            "REVOR_BASE_URL": "http://127.0.0.1:9",
            "RELAY_TOKEN_FILE": "relay.token",
        }

    def begin(self, *arguments: str, **variables: str) -> Process:
        return self.start(*arguments, **{**self.variables, **variables})

    def run(self, *arguments: str, **variables: str) -> tuple[int, list[str]]:
        """Its exit code and lines, which hold neither the password nor a traceback."""
        process = self.begin(*arguments, **variables)
        code = process.close()
        said = "\n".join(process.lines)
        assert PASSWORD not in said
        assert "Traceback" not in said
        assert "unexpected error" not in said
        return code, process.lines

    def json(self, *arguments: str, **variables: str) -> Any:
        """The JSON that it prints."""
        code, lines = self.run(*arguments, "--json", **variables)
        assert code == 0, lines
        return json.loads(lines[0])

    def refused(self, *arguments: str, **variables: str) -> str:
        """The one line with which it ends at once."""
        code, lines = self.run(*arguments, **variables)
        assert (code, len(lines)) == (2, 1), lines
        return lines[0]


SERVE = ("serve", "--port", "0")
COMMANDS = (SERVE, ("migrate",))


@pytest.mark.parametrize("command", COMMANDS)
def test_unreachable_server_is_reported(here: Here, command: tuple[str, ...]) -> None:
    line = here.refused(*command, DATABASE_URL=NOBODY_LISTENS)
    assert re.search(r"cannot (read|migrate) the database postgresql://\S+@127\.0\.0\.1:1/relay: ", line)


@pytest.mark.parametrize("command", [*COMMANDS, ("tokens", "list")])
def test_server_that_is_too_old_is_refused(here: Here, command: tuple[str, ...]) -> None:
    with postgres_that_says("14.11 (Debian 14.11-1)") as url:
        line = here.refused(*command, DATABASE_URL=url)
    assert "/relay is PostgreSQL 14.11 (Debian 14.11-1): upgrade it to PostgreSQL 15 or newer" in line


def test_serve_requires_a_token_and_says_how_to_create_one(here: Here, tmp_path: Path) -> None:
    here.run("migrate")
    line = here.refused(*SERVE, RELAY_TOKEN_FILE="")
    assert "RELAY_TOKEN_FILE" in line
    assert not (tmp_path / "state").exists()  # no token of this machine, of which another node would not know
    assert "`relay tokens add NAME --scopes admin`" in line
    made = here.json("tokens", "create", "ops", "--scopes", "admin", RELAY_TOKEN_FILE="")
    assert not (tmp_path / "state").exists()
    node = here.begin(*SERVE, RELAY_TOKEN_FILE="")
    url = node.until(r"serving (http://\S+)")
    assert here.run("jobs", "list", RELAY_URL=url, RELAY_TOKEN=made["token"])[0] == 0
    assert here.run("jobs", "list", RELAY_URL=url, RELAY_TOKEN="rl_another")[0] == 2
    # directly on the database, beside the node
    assert here.run("tokens", "revoke", "ops", RELAY_TOKEN_FILE="")[0] == 0
    deadline = time.monotonic() + DEADLINE_SECONDS
    while ask(url, made["token"]) != 401:
        assert time.monotonic() < deadline
    assert node.end() == 0
    assert made["token"] not in "\n".join(node.lines)


def test_serve_requires_the_newest_schema(here: Here) -> None:
    assert "no schema yet" in (line := here.refused(*SERVE))
    assert line.endswith("run `relay migrate`")
    assert here.run("migrate", RELAY_ENCRYPTION_KEY="") == (
        0,
        [f"the database has the newest schema, {newest_revision()}"],
    )
    node = here.begin(*SERVE)
    node.until(r"serving (http://\S+)")
    assert here.run("migrate")[0] == 0  # beside a node that runs
    assert node.end() == 0


def test_auto_migrate_updates_the_schema_and_then_requires_the_same_key(here: Here) -> None:
    node = here.begin(*SERVE, "--auto-migrate")
    node.until(r"serving (http://\S+)")
    assert node.end() == 0
    assert "encryption.keys" in here.refused(*SERVE, RELAY_ENCRYPTION_KEY=new_key())
