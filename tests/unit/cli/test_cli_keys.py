"""`relay keys`: against a stub server, and on a SQLite file of its own."""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from relay.cli import run
from relay.clock import wall_clock
from relay.config.keyring import KeyFile, Keyring, key_id, new_key
from relay.core.subscriptions.signing import parse_public_key, parse_secret
from relay.node.opening import ensure_secrets
from relay.store.databases.sqlite import SqliteDatabase
from relay.store.store import Store, open_store
from tests.support.store_databases import emptied_postgres
from tests.support.store_kit import subscription
from tests.unit.cli.test_cli_client import Stub, stub

__all__ = ["stub"]

PATH = "POST /v1/keys/encryption/rotate"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a folder without a database."""
    monkeypatch.chdir(tmp_path)


def part(done: int = 0, left: int = 0, **changes: Any) -> dict[str, Any]:
    return {"key": "0c1d2e3f", "done": done, "left": left, "unused": [], "problem": None, **changes}


def test_generate_prints_a_key_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["keys", "generate"]) == 0
    out, err = capsys.readouterr()
    key = out.removesuffix("\n")
    Keyring([key])
    assert f"Its id is {key_id(key)}" in err
    assert "encrypts the secrets in the database" in err
    assert key not in err
    assert run(["keys", "generate", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["id"] == key_id(made["key"])
    assert made["key"] != key


@pytest.fixture
def says_parts(stub: Stub) -> Callable[..., None]:
    def says(*parts: dict[str, Any]) -> None:
        stub.says("GET /v1/keys", {"encryption": {"ids": ["0c1d2e3f"], "place": "encryption.keys"}, "signing": []})
        for one in parts:
            stub.says(PATH, one)

    return says


def test_rotation_goes_on_until_nothing_is_left(
    says_parts: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    says_parts(part(600, 600), part(590, 10), part(10, unused=["8a9b0c1d"]))
    assert run(["keys", "rotate"]) == 0
    out, err = capsys.readouterr()
    assert out == (
        "1,200 secrets encrypted again with the key 0c1d2e3f, 0 left. No longer used: 8a9b0c1d. Remove it from "
        "encryption.keys once you need no backup from before\n"
    )
    assert [line.removeprefix("relay: ") for line in err.splitlines()] == [
        "600 secrets encrypted again, 600 left",
        "1,190 secrets encrypted again, 10 left",
    ]


def test_rotation_says_what_cannot_be_decrypted(
    says_parts: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    stuck = part(0, 2, problem="the secret of sub_1 was modified")
    says_parts(part(7, 2, problem="the secret of sub_1 was modified"), stuck)
    assert run(["keys", "rotate", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {**stuck, "done": 7}


# --- on the database


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A SQLite file with a subscription; its key is in a key file."""
    for name in ("RELAY_URL", "RELAY_TOKEN", "RELAY_ENCRYPTION_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'relay.db'}")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    asyncio.run(on(tmp_path, fill))
    return tmp_path


def key_file(folder: Path) -> KeyFile:
    return KeyFile(folder / "state" / "revor-relay")


async def on(folder: Path, work: Any) -> Any:
    keyring = Keyring(key_file(folder).read_or_create())
    store = await open_store(f"sqlite:///{folder / 'relay.db'}", keyring, now=wall_clock())
    try:
        return await work(store)
    finally:
        await store.close()


async def fill(store: Store) -> None:
    await ensure_secrets(store, wall_clock())
    await store.subscriptions.create(subscription("sub_1"))


async def read(store: Store) -> Any:
    return await store.subscriptions.all(), await store.secrets.own_secrets()


def test_without_a_running_relay_the_file_is_rotated(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = asyncio.run(on(database, read))
    (old,) = key_file(database).read()
    assert run(["keys", "rotate", "--json"]) == 0
    ended = json.loads(capsys.readouterr().out)
    assert (ended["left"], ended["done"], ended["unused"]) == (0, 4, [key_id(old)])  # with the audit's key
    new, kept = key_file(database).read()
    assert (key_id(new), kept) == (ended["key"], old)
    assert asyncio.run(on(database, read)) == before
    with closing(sqlite3.connect(database / "relay.db")) as connection:
        sealed = connection.execute("SELECT sealed FROM subscriptions UNION ALL SELECT ciphertext FROM secrets")
        assert {row[0][1:5].hex() for row in sealed} == {key_id(new)}


def test_configured_keys_are_rotated_without_the_file(
    database: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (old,), new = key_file(database).read(), new_key()
    monkeypatch.setenv("RELAY_ENCRYPTION__KEYS", json.dumps([new, old]))
    assert run(["keys", "rotate"]) == 0
    out = capsys.readouterr().out
    assert f"encrypted again with the key {key_id(new)}, 0 left. No longer used: {key_id(old)}." in out
    assert "from encryption.keys" in out
    assert key_file(database).read() == (old,)
    monkeypatch.setenv("RELAY_ENCRYPTION__KEYS", json.dumps([old]))
    assert run(["keys", "rotate"]) == 2
    assert f"encrypted with the key {key_id(new)}, which is not one of the 1" in capsys.readouterr().err


def test_signing_keys_and_callback_secrets_are_rotated_in_the_file(
    database: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["keys", "rotate", "signing", "--overlap", "60", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    parse_public_key(answer["key"]["public_key"])
    assert "whsk_" not in json.dumps(answer)
    assert run(["keys", "rotate", "callback-secret", "--json"]) == 0
    secret = json.loads(capsys.readouterr().out)["secret"]
    parse_secret(secret)
    callback_secrets, signing = asyncio.run(on(database, lambda store: store.secrets.own_secrets()))
    assert callback_secrets[0].value == secret
    assert (len(callback_secrets), len(signing)) == (2, 2)
    assert [one.expires_at is None for one in signing] == [True, False]
    monkeypatch.setenv("RELAY_DELIVERY__CALLBACK_SECRET", secret)
    assert run(["keys", "rotate", "callback-secret"]) == 2
    assert "Give it a list with the new secret and the old one" in capsys.readouterr().err


def test_with_postgresql_the_command_works_beside_nodes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, url = new_key(), new_key(), emptied_postgres()
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("RELAY_URL", "http://127.0.0.1:1")  # on PostgreSQL this machine's node need not be asked

    async def begin(*given: str) -> None:
        store = await open_store(url, Keyring(given), now=wall_clock())
        await fill(store)
        await store.close()

    asyncio.run(begin(old, new))
    monkeypatch.setenv("RELAY_ENCRYPTION__KEYS", json.dumps([new, old]))
    assert run(["keys", "rotate"]) == 0
    assert f"No longer used: {key_id(old)}. Remove it from encryption.keys" in capsys.readouterr().out


def test_a_missing_database_is_not_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RELAY_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'none.db'}")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("RELAY_SERVER__PORT", "9")  # where no relay answers
    assert run(["keys", "rotate"]) == 2
    assert "there is no database at" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_held_file_is_rotated_through_its_node(
    database: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port, stub.prefix = stub.server_address[1], ""  # the settings say where it listens, which has no path
    monkeypatch.delenv("RELAY_URL")
    monkeypatch.setenv("RELAY_SERVER__PORT", str(port))
    stub.says("POST /v1/keys/signing/rotate", {"key": {"public_key": "whpk_x"}, "old_key_expires_at": "2026-05-21"})
    holder = SqliteDatabase(f"sqlite:///{database / 'relay.db'}")
    holder._lock.acquire()
    try:
        assert run(["keys", "rotate", "signing"]) == 0
    finally:
        holder._lock.release()
    assert "whpk_x" in capsys.readouterr().out
