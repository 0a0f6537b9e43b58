"""Access to a relay process: the token of the first start, `--dev`, RELAY_TOKEN_FILE."""

import json
import signal
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.process_world import Start


class World:
    """A relay with an unreachable upstream, and commands against it."""

    def __init__(self, start: Start, *arguments: str, **variables: str) -> None:
        self.start = start
        variables = {"REVOR_BASE_URL": "http://127.0.0.1:9", "REVOR_API_KEY": "sk-revor-default", **variables}
        self.relay = start("serve", "--port", "0", *arguments, **variables)
        self.url = self.relay.until(r"serving (http://\S+)")

    def run(self, *arguments: str, **variables: str) -> tuple[int, list[str]]:
        process = self.start(*arguments, **{"RELAY_URL": self.url, **variables})
        return process.close(), process.lines

    def json(self, *arguments: str) -> Any:
        code, lines = self.run(*arguments, "--json")
        assert code == 0, lines
        return json.loads(lines[0])


async def ask(url: str, path: str = "/v1/jobs", **headers: str) -> int:
    async with aiohttp.ClientSession(url) as session, session.get(path, headers=headers) as response:
        return response.status


async def test_first_start_creates_a_token_and_says_where(start: Start, tmp_path: Path) -> None:
    world = World(start)
    path = Path(world.relay.until(r"accepts the token in (\S+)\. "))
    assert path == tmp_path / "state" / "revor-relay" / "token"
    token = path.read_text().strip()
    for where in ("/v1/jobs", "/metrics", "/v1/signing-secret"):
        assert await ask(world.url, where) == 401
        assert await ask(world.url, where, Authorization=f"Bearer {token}") == 200
        assert await ask(world.url, where, Authorization=f"Bearer {token}x") == 401
    assert world.json("jobs", "list") == []  # the command found it
    code, lines = world.run("jobs", "list", XDG_STATE_HOME="/nowhere")
    assert (code, "RELAY_TOKEN" in lines[0]) == (2, True)
    assert world.relay.end() == 0
    assert token not in "\n".join(world.relay.lines)
    again = World(start)
    again.relay.until(r"accepts the token in (\S+)\. ")
    assert path.read_text().strip() == token
    assert await ask(again.url, Authorization=f"Bearer {token}") == 200


async def test_dev_needs_no_token_on_this_machine(start: Start, tmp_path: Path) -> None:
    tokens = '[{"name": "crm", "token": "rl_crm_0123456789abcdefghijklmnopqrstuvw", "scopes": ["read"]}]'
    world = World(start, "--dev", RELAY_AUTH__TOKENS=tokens)
    assert await ask(world.url) == 200
    assert await ask(world.url, Authorization="Bearer rl_another") == 401
    assert await ask(world.url, Via="1.1 proxy.example") == 403
    assert world.json("jobs", "list") == []
    assert not (tmp_path / "state" / "revor-relay" / "token").exists()


async def test_sighup_reloads_the_token_file(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "relay.token"
    path.write_text("rl_first_0123456789abcdefghijklmnopqrstuvw\n")
    world = World(start, RELAY_TOKEN_FILE=str(path))
    assert await ask(world.url, Authorization="Bearer rl_first_0123456789abcdefghijklmnopqrstuvw") == 200
    path.write_text("rl_second_0123456789abcdefghijklmnopqrstuvw\n")
    world.relay.popen.send_signal(signal.SIGHUP)
    world.relay.until("settings_read_again")
    assert await ask(world.url, Authorization="Bearer rl_first_0123456789abcdefghijklmnopqrstuvw") == 401
    assert await ask(world.url, Authorization="Bearer rl_second_0123456789abcdefghijklmnopqrstuvw") == 200
    assert not (tmp_path / "state" / "revor-relay" / "token").exists()


def secret_of(lines: list[str]) -> str:
    (secret,) = [line for line in lines if line.startswith("rl_")]
    return secret


async def test_first_token_is_created_before_the_first_start(start: Start, tmp_path: Path) -> None:
    assert start("migrate").close() == 0
    created = start("tokens", "create", "ops", "--scopes", "admin", "--json")
    assert created.close() == 0
    made = json.loads(created.lines[0])
    world = World(start)
    assert await ask(world.url, Authorization=f"Bearer {made['token']}") == 200
    assert await ask(world.url) == 401
    assert not (tmp_path / "state" / "revor-relay" / "token").exists()  # the relay has a token, and makes no other
    assert world.relay.end() == 0
    assert made["token"] not in "\n".join(world.relay.lines)
    for path in tmp_path.glob("relay.db*"):
        assert made["token"].encode() not in path.read_bytes()


async def test_commands_in_another_folder_ask_the_relay_and_make_no_database(start: Start, tmp_path: Path) -> None:
    world = World(start)
    elsewhere = {"DATABASE_URL": f"sqlite:///{tmp_path}/elsewhere.db", "RELAY_URL": ""}
    here = {**elsewhere, "RELAY_SERVER__PORT": world.url.rpartition(":")[2]}
    for variables in (here, {**elsewhere, "RELAY_URL": world.url}):
        code, lines = world.run("tokens", "create", "crm", "--scopes", "read,jobs:write", **variables)
        assert code == 0, lines
        assert await ask(world.url, Authorization=f"Bearer {secret_of(lines)}") == 200
        assert "crm" in "".join(world.run("tokens", "list", **variables)[1])
        assert world.run("tokens", "revoke", "crm", **variables)[0] == 0
        assert await ask(world.url, Authorization=f"Bearer {secret_of(lines)}") == 401
        for command in ("audit", "keys rotate", "apply", "export"):
            assert world.run(*command.split(), **variables)[0] == 0, command
    assert not (tmp_path / "elsewhere.db").exists()


async def test_command_with_another_encryption_key_changes_nothing(start: Start) -> None:
    """What it encrypts no node could decrypt: the relay would not start again."""
    assert World(start).relay.end() == 0
    refused = start("tokens", "create", "crm", "--scopes", "read", RELAY_ENCRYPTION_KEY="A" * 43 + "=")
    assert (refused.close(), "which is not one of the 1 configured" in refused.lines[0]) == (2, True), refused.lines
    again = World(start)
    assert again.json("tokens", "list") == []


async def test_tokens_of_a_running_relay(start: Start, tmp_path: Path) -> None:
    """The node holds the SQLite file: the commands ask it, with this machine's token."""
    world = World(start)
    code, lines = world.run("tokens", "create", "crm", "--scopes", "read", "--requests-per-minute", "5")
    assert code == 0, lines
    bearer = {"Authorization": f"Bearer {secret_of(lines)}"}
    assert await ask(world.url, **bearer) == 200
    assert await ask(world.url, "/v1/tokens", **bearer) == 403
    (listed,) = world.json("tokens", "list")
    assert (listed["name"], listed["created_by"], listed["requests_per_minute"]) == ("crm", "token file", 5)
    assert listed["last_used_at"] is not None
    code, lines = world.run("tokens", "create", "crm", "--scopes", "read")
    assert (code, lines) == (2, ["relay: there is a token named crm already: choose another name, or revoke it"])

    async with (
        aiohttp.ClientSession(world.url, headers=bearer) as session,
        session.get("/v1/events/stream") as stream,
    ):
        assert (await stream.content.readline()) == b": connected\n"
        assert world.run("tokens", "revoke", "crm")[0] == 0
        assert await stream.content.read() == b"\n"  # to its end, before the first heartbeat
    assert await ask(world.url, **bearer) == 401
    assert world.json("tokens", "list") == []

    code, lines = world.run("tokens", "create", "later", "--scopes", "read")
    later = secret_of(lines)
    world.relay.popen.send_signal(signal.SIGHUP)
    world.relay.until("settings_read_again")
    assert await ask(world.url, Authorization=f"Bearer {later}") == 200
    assert world.relay.end() == 0
    again = World(start)  # this machine's token goes on working: it is the only admin
    assert await ask(again.url, Authorization=f"Bearer {later}") == 200
    assert [token["name"] for token in again.json("tokens", "list")] == ["later"]
    assert again.json("tokens", "list")[0]["last_used_at"] is not None  # stored at the stop
    assert later not in "\n".join([*world.relay.lines, *again.relay.lines])


async def test_reload_ends_streams_of_a_removed_token(start: Start, tmp_path: Path) -> None:
    settings = tmp_path / "relay.yaml"
    one = "{name: a, token: rl_a_0123456789abcdefghijklmnopqrstuvw, scopes: [read]}"
    other = "{name: b, token: rl_b_0123456789abcdefghijklmnopqrstuvw, scopes: [read]}"
    settings.write_text(f"auth: {{tokens: [{one}, {other}]}}\n")
    world = World(start)
    async with aiohttp.ClientSession(world.url) as session:
        streams = [
            await session.get(
                "/v1/events/stream", headers={"Authorization": f"Bearer rl_{name}_0123456789abcdefghijklmnopqrstuvw"}
            )
            for name in "ab"
        ]
        for stream in streams:
            assert (await stream.content.readline()) == b": connected\n"
        changed = other.replace("[read]", "[admin]")  # other permissions: it has to ask again
        settings.write_text(f"auth: {{tokens: [{one}, {changed}]}}\n")
        world.relay.popen.send_signal(signal.SIGHUP)
        assert await streams[1].content.read() == b"\n"  # to its end, before the first heartbeat
        settings.write_text(f"auth: {{tokens: [{other}]}}\n")
        world.relay.popen.send_signal(signal.SIGHUP)
        await streams[0].content.read()
