"""Wrong settings, key files and commands give exit code 2 and one line with place and remedy."""

import os
import re
import shutil
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.config.keyring import new_key
from tests.support.process_world import API_TOKEN, Start
from tests.support.relay_world import SETTINGS, RelayWorld, open_relay_world

SOMEBODY_ELSE = 12_345
DENIED = f"Permission denied for user {os.geteuid()}"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RelayWorld]:
    async with open_relay_world(tmp_path) as world:
        yield world


WRONG = {
    # relay.yaml, where it is said to be wrong, and how
    "unknown key": ("delivery:\n  per_hsot: 8\n", "relay.yaml:2: unknown key delivery.per_hsot", "did you mean"),
    "bad YAML": ("server: {port: 8080\nauth: [\n", "relay.yaml:", "not YAML"),
    "wrong value": ("server:\n  port: many\n", "relay.yaml:2: server.port", "many"),
    "variable": ("auth:\n  tokens: [{name: a, token: '${UNSET}'}]\n", "relay.yaml:2:", "UNSET, which is not set"),
    "secret file": ("encryption: {keys: ['${file:/nowhere/key}']}\n", "/nowhere/key, which", "does not exist"),
    "weak token": (
        "auth: {tokens: [{name: a, token: short, scopes: [read]}]}\n",
        "relay.yaml:1",
        "openssl rand -hex 32",
    ),
    "itself": ("server: {port: 18080}\nsources: {revor: {base_url: 'http://127.0.0.1:18080'}}\n", "base_url", "relay"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_settings(start: Start, tmp_path: Path, what: str) -> None:
    text, where, hint = WRONG[what]
    (tmp_path / "relay.yaml").write_text(text)
    process = start("serve")
    assert process.close() == 2
    (line,) = process.lines
    assert where in line
    assert hint in line
    assert not list(tmp_path.glob("relay.db*"))  # nothing was begun


async def test_plain_http_upstream_elsewhere(world: RelayWorld) -> None:
    world.settings()
    elsewhere = {"REVOR_BASE_URL": "http://upstream.invalid:9000"}
    line = await world.refused(**elsewhere)
    assert "REVOR_BASE_URL: sources.revor.base_url (http://upstream.invalid:9000) is plain http" in line
    assert "allow it with sources.revor.allow_http: true" in line
    code, lines = await world.run("check", **elsewhere)
    assert code == 2
    assert any("settings" in one and "is plain http" in one for one in lines), lines
    await world.serve(RELAY_SOURCES__REVOR__ALLOW_HTTP="true", **elsewhere)
    assert await world.end() == 0


def test_unreadable_settings(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "relay.yaml"
    file.write_text(SETTINGS)
    file.chmod(0o000)
    process = start("serve", limits="UNPRIVILEGED")
    assert process.close() == 2
    assert process.lines == [
        f"relay: relay.yaml: the settings file cannot be read ({DENIED}): choose another with --config, "
        "or create one with `relay init`"
    ]
    process = start("serve", "--config", "elsewhere.yaml")
    assert process.close() == 2
    assert "elsewhere.yaml: the settings file cannot be read (No such file or directory)" in process.lines[0]


def test_unreadable_secret(start: Start, tmp_path: Path) -> None:
    key, token = tmp_path / "key", tmp_path / "token"
    (tmp_path / "relay.yaml").write_text(f"encryption: {{keys: ['${{file:{key}}}']}}\n")
    for path in (key, token):
        path.write_text(new_key())
        path.chmod(0o000)
    process = start("serve", limits="UNPRIVILEGED")
    assert process.close() == 2
    assert process.lines == [
        f"relay: relay.yaml:1: encryption.keys[0] refers to the file {key}, which cannot be read ({DENIED})"
    ]
    key.chmod(0o400)
    for command in ("serve", "status"):
        process = start(command, limits="UNPRIVILEGED", RELAY_TOKEN_FILE=str(token))
        assert process.close() == 2
        assert process.lines == [f"relay: RELAY_TOKEN_FILE: {token} cannot be read ({DENIED})"]


@pytest.mark.skipif(os.geteuid() != 0, reason="ONLY ROOT CAN CHANGE A FILE'S OWNER")
def test_settings_and_key_of_another_owner(start: Start, tmp_path: Path) -> None:
    file, key = tmp_path / "relay.yaml", tmp_path / "state" / "revor-relay" / "key"
    file.write_text("")
    os.chown(file, SOMEBODY_ELSE, SOMEBODY_ELSE)
    file.chmod(0o600)
    process = start("serve", "--port", "0", limits="UNPRIVILEGED")
    assert process.close() == 2
    assert f"relay.yaml: the settings file cannot be read ({DENIED})" in process.lines[0]
    file.chmod(0o644)
    key.parent.mkdir(parents=True)
    key.write_text("its content cannot be read")
    os.chown(key, SOMEBODY_ELSE, SOMEBODY_ELSE)
    key.chmod(0o600)
    process = start("serve", "--port", "0", limits="UNPRIVILEGED")
    assert process.close() == 2
    assert f"{key}: the key file cannot be read ({DENIED})" in process.lines[0]


async def test_key_file_readable_by_others(world: RelayWorld, tmp_path: Path) -> None:
    key = tmp_path / "state" / "revor-relay" / "key"
    await world.serve()
    assert await world.end() == 0
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.chmod(0o644)
    line = await world.refused()
    assert f"others may read the key file {key} (0644): chmod 600 '{key}'" in line
    key.chmod(0o600)
    await world.serve()


async def test_lost_or_corrupt_key_file(world: RelayWorld, tmp_path: Path) -> None:
    key = tmp_path / "state" / "revor-relay" / "key"
    await world.serve()
    made = await world.subscribe()
    assert await world.end() == 0
    copy = key.read_bytes()

    key.write_text("half a k")
    line = await world.refused()
    assert f"{key}: the key file does not contain 32 bytes as URL-safe base64: restore a copy of it" in line
    assert "half a k" not in line
    key.unlink()
    line = await world.refused()
    assert "restore the key file" in line

    key.write_bytes(copy)
    key.chmod(0o600)
    await world.serve()
    await world.until_delivered([await world.job()])
    assert (await world.get(f"/v1/subscriptions/{made['id']}"))["state"] == "enabled"


async def test_no_place_for_a_token_or_a_key_file(world: RelayWorld, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    shutil.rmtree(folder)
    folder.mkdir(mode=0o555)
    line = await world.refused(limits="UNPRIVILEGED")
    assert f"key: the key file cannot be created or read ({DENIED}): set RELAY_ENCRYPTION_KEY instead" in line
    assert not list(tmp_path.glob("relay.db*"))
    line = await world.refused(limits="UNPRIVILEGED", RELAY_ENCRYPTION_KEY=new_key())
    assert "the API token cannot be stored in" in line
    assert line.endswith(f"({DENIED}): set RELAY_TOKEN_FILE or auth.tokens")


async def test_wrong_settings_at_sighup_change_nothing(world: RelayWorld, tmp_path: Path) -> None:
    await world.serve()
    await world.subscribe()
    for text, said in (
        ("delivery: {per_host: many}\n", "per_host"),
        ("delivery: [", "not YAML"),
        ("delivry: {}\n", "delivery"),
    ):
        world.settings(text)
        world.hang_up()
        assert said in await world.said(r'(.*"event":"settings_refused".*)')
    (tmp_path / "relay.yaml").unlink()  # it was there at the start
    world.hang_up()
    assert "cannot be read" in await world.said(r'(.*"event":"settings_refused".*)')
    await world.until_delivered([await world.job()])
    world.settings(more="retention: {jobs_days: 7}\n")
    world.hang_up()
    await world.said("retention.jobs_days.*settings_need_a_restart")
    await world.until_ready()
    assert await world.end() == 0


def test_interrupted_demo(start: Start) -> None:
    process = start("demo", "--jobs", "100", "--speed", "600", "--json", limits="RLIMIT_FSIZE=700000")  # a full disk
    assert process.close() == 1
    assert re.match(r"relay: POST http://127\.0\.0\.1:\d+/v1/jobs answered 503: .*disk I/O error", process.lines[-1])
    assert not any("Traceback" in line for line in process.lines)


async def test_token_file_readable_by_others(world: RelayWorld, tmp_path: Path) -> None:
    token = tmp_path / "state" / "revor-relay" / "token"
    token.chmod(0o644)
    line = await world.refused()
    assert f"others may read the token file {token} (0644): chmod 600 '{token}'" in line
    token.chmod(0o600)
    await world.serve()
    token.chmod(0o644)
    code, lines = await world.run("jobs", "list")
    assert (code, lines) == (2, [f"relay: others may read the token file {token} (0644): chmod 600 '{token}'"])
    code, lines = await world.run("jobs", "list", RELAY_TOKEN=API_TOKEN)
    assert (code, lines) == (0, ["no jobs. Track one with `relay jobs add ID`"])
