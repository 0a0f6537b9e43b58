"""Access to a relay process: the token of the first start, `--dev`, RELAY_TOKEN_FILE."""

import asyncio
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
    assert (code, "RELAY_TOKEN" in lines[0]) == (1, True)
    assert world.relay.end() == 0
    assert token not in "\n".join(world.relay.lines)
    again = World(start)
    again.relay.until(r"accepts the token in (\S+)\. ")
    assert path.read_text().strip() == token
    assert await ask(again.url, Authorization=f"Bearer {token}") == 200


async def test_dev_needs_no_token_on_this_machine(start: Start, tmp_path: Path) -> None:
    tokens = '[{"name": "crm", "token": "rl_crm_0123456789abcdef", "scopes": ["read"]}]'
    world = World(start, "--dev", RELAY_AUTH__TOKENS=tokens)
    assert await ask(world.url) == 200
    assert await ask(world.url, Authorization="Bearer rl_another") == 401
    assert await ask(world.url, Via="1.1 proxy.example") == 403
    assert world.json("jobs", "list") == []
    assert not (tmp_path / "state" / "revor-relay" / "token").exists()


async def test_dev_checks_the_host_in_an_absolute_request_target(start: Start) -> None:
    """RFC 9112, 3.2.2: the host in the request target overrides the Host header."""
    world = World(start, "--dev")
    port = int(world.url.rpartition(":")[2])
    for host, status in (("127.0.0.1", b"200"), ("attacker.example", b"403"), ("127.0.0.1@attacker.example", b"403")):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"GET http://{host}/v1/jobs HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode())
        answer = await reader.read()
        writer.close()
        assert answer.split(b" ", 2)[1] == status, (host, answer)


async def test_sighup_reloads_the_token_file(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "relay.token"
    path.write_text("rl_first_0123456789abcdef\n")
    world = World(start, RELAY_TOKEN_FILE=str(path))
    assert await ask(world.url, Authorization="Bearer rl_first_0123456789abcdef") == 200
    path.write_text("rl_second_0123456789abcdef\n")
    world.relay.popen.send_signal(signal.SIGHUP)
    world.relay.until("settings_read_again")
    assert await ask(world.url, Authorization="Bearer rl_first_0123456789abcdef") == 401
    assert await ask(world.url, Authorization="Bearer rl_second_0123456789abcdef") == 200
    assert not (tmp_path / "state" / "revor-relay" / "token").exists()
