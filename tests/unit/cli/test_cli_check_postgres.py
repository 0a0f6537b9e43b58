"""`relay check` with a PostgreSQL URL, and URLs that are refused without a connection."""

import json
import re
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.cli import run
from relay.config.keyring import MAKE_KEY, new_key
from relay.installation import install_command
from relay.node.local_token import new_token
from relay.sources.client import PollResult, UpstreamClient
from relay.store.databases.postgres import PostgresDatabase
from relay.store.schema.migrations import newest_revision
from tests.support.old_postgres import postgres_that_says
from tests.support.postgres_server import shared_server

pytestmark = pytest.mark.verify

PASSWORD = "not-for-anybody"


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of an empty database, to which the settings point."""
    name = f"relay_check_{secrets.token_hex(6)}"

    async def list_accounts(self: UpstreamClient, api_key: str) -> PollResult:
        return PollResult(kind="observed", sent_at=0, received_at=0, duration_ms=1, detail="")

    shared_server().create_database(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(UpstreamClient, "list_accounts", list_accounts)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("REVOR_API_KEY", "sk-revor-default")
    monkeypatch.setenv("RELAY_ENCRYPTION_KEY", new_key())
    (tmp_path / "relay.token").write_text(new_token())
    monkeypatch.setenv("RELAY_TOKEN_FILE", "relay.token")
    monkeypatch.setenv("DATABASE_URL", url_of(name))
    yield name
    shared_server().drop_database(name)


def url_of(database: str, user: str = "postgres") -> str:
    """The URL with a password, which this server does not require."""
    return shared_server().url(database).replace("//postgres@", f"//{user}:{PASSWORD}@")


class Checks:
    """The findings of `relay check` by name. Asserts that they do not contain the password."""

    def __init__(self, capsys: pytest.CaptureFixture[str], code: int) -> None:
        capsys.readouterr()
        assert run(["check", "--json"]) == code
        said = capsys.readouterr()
        assert PASSWORD not in said.out + said.err
        assert said.err == ""
        self._found = {check["name"]: check for check in json.loads(said.out)["checks"]}

    def detail(self, name: str, state: str) -> str:
        found = self._found[name]
        assert found["state"] == state, found
        return str(found["detail"])


def test_check_passes_on_postgresql(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["migrate"]) == 0
    found = Checks(capsys, 0)
    detail = found.detail("database", "ok")
    assert re.search(rf"/{database}\b.*, PostgreSQL \d+\.\d+, schema {newest_revision()}$", detail)
    assert found.detail("encryption key", "ok") == "1 configured"
    assert found.detail("sinks", "ok") == "0 subscriptions, all allowed"


def test_check_reports_a_server_that_is_too_old(
    database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgres_that_says("9.6.24") as url:
        monkeypatch.setenv("DATABASE_URL", url)
        detail = Checks(capsys, 2).detail("database", "problem")
    assert detail.endswith("/relay is PostgreSQL 9.6.24: upgrade it to PostgreSQL 15 or newer")


def test_check_leaves_an_empty_database_empty(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        found = Checks(capsys, 2)
        detail = found.detail("database", "problem")
        assert "no schema yet" in detail
        assert "relay migrate" in detail
        assert found.detail("sinks", "skipped")


@pytest.mark.parametrize(
    ("older", "words"),
    [
        (None, "no schema of revor-relay, so it belongs to another program"),
        ("0025", "the first one that this program updates: run `relay migrate` of revor-relay's commit"),
    ],
)
def test_older_schema_is_a_problem(
    older: str | None, words: str, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["migrate"]) == 0
    shared_server().execute("DELETE FROM alembic_version", database)
    if older is not None:
        shared_server().execute(f"INSERT INTO alembic_version VALUES ('{older}')", database)
    assert words in Checks(capsys, 2).detail("database", "problem")


def test_unreachable_server_is_a_problem(
    database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://relay:{PASSWORD}@127.0.0.1:1/relay")
    found = Checks(capsys, 2)
    assert "127.0.0.1:1/relay" in found.detail("database", "problem")
    assert found.detail("encryption key", "ok")
    assert found.detail("sinks", "skipped")


def test_missing_driver_is_a_problem(
    database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    assert install_command("postgres") in Checks(capsys, 2).detail("database", "problem")


def test_read_only_database_is_a_problem(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["migrate"]) == 0
    shared_server().execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    assert "read-only" in Checks(capsys, 2).detail("database", "problem")


def test_missing_encryption_key_is_a_problem(
    database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["migrate"]) == 0
    monkeypatch.delenv("RELAY_ENCRYPTION_KEY")
    found = Checks(capsys, 2)
    assert found.detail("database", "ok")
    assert found.detail("encryption key", "problem").endswith(MAKE_KEY)
    assert found.detail("sinks", "skipped")
    assert not (tmp_path / "state").exists()  # no key file, of which another node would not know


@pytest.mark.parametrize("port", ["many", "0", "65536", "1:2", "5432,5433"])
def test_invalid_port_is_refused(
    port: str, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://relay:{PASSWORD}@127.0.0.1:{port}/relay")
    assert "port from 1 to 65535" in Checks(capsys, 2).detail("settings", "problem")


@pytest.mark.parametrize("parameters", ["ssl=require", "nonsense=", f"host=/tmp&{PASSWORD}=1"])
def test_unsupported_url_parameters_are_refused(
    parameters: str, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://relay:{PASSWORD}@127.0.0.1/relay?{parameters}")
    assert "takes no parameters but host" in Checks(capsys, 2).detail("settings", "problem")


@pytest.mark.parametrize("mode", ["disable", "prefer"])
async def test_sslmode_works_as_in_psql(mode: str) -> None:
    database = PostgresDatabase(f"{shared_server().url()}&sslmode={mode}")
    await database.open()
    await database.close()
