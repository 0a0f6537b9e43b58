"""docs/operate/production.md, typed as it is written: install, tokens, backup, restore and upgrade.

The paths are below a folder of the test, and what needs root or systemd is done by stand-ins: `systemctl` starts and
stops the relay as `deploy/systemd` says (`tests/support/systemd_unit.py`).
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.test_wheel import closure, link, with_linked_pip
from tests.support.process_world import Start, processes
from tests.support.scale import SOAK, soak_only
from tests.support.systemd_unit import ROOT, UnitRunner, below, can_confine
from tests.support.typed import blocks, prompts, section
from tests.support.wire import Client, request

DOCUMENT = "docs/operate/production.md"
API_KEY = "sk-revor-default"
STUBS = {
    "useradd": 'test "$1" = --system',
    "nginx": 'test "$*" = -t',
    "runuser": 'test "$1 $2 $3" = "-u revor-relay --"; shift 3; exec "$@"',
    # only root may give a file away, and this user does not exist here
    "install": 'set -- "${@/#revor-relay/}"; exec /usr/bin/install $(printf "%s\\n" "$@" | sed "/^-o$/d;/^$/d")',
}

pytestmark = [
    pytest.mark.xdist_group("wheel"),
    pytest.mark.skipif(
        not can_confine(), reason="PRODUCTION GUIDE NOT RUN: systemd-analyze and libseccomp are not both here"
    ),
]


class Machine:
    """A machine on which the guide is typed: a clone of the repository, a folder for its root, a service manager."""

    def __init__(self, start: Start, folder: Path) -> None:
        self.root = folder / "root"
        self.clone = folder / "clone"
        self.home = folder / "home"
        self.runner = UnitRunner(start, self.root)
        self.done: list[str] = []
        self._tools = folder / "tools"
        for place in (self.home, self._tools, *map(self._at, ("/opt", "/etc/systemd/system", "/etc/nginx/conf.d"))):
            place.mkdir(parents=True, exist_ok=True)
        self._packages = folder / "packages"
        self._packages.mkdir()
        link(closure([*requirements_of_project(), "asyncpg", "hatchling", "pip"]).values(), self._packages)
        for name, does in STUBS.items():
            (self._tools / name).write_text(f"#!/usr/bin/env bash\nset -e\n{does}\n")
            (self._tools / name).chmod(0o755)
        tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True)
        for name in filter(None, tracked.stdout.decode().split("\0")):
            if (ROOT / name).is_file() and not name.startswith("tests/"):
                (self.clone / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.clone / name)

    def _at(self, path: str) -> Path:
        return Path(below(self.root, f"{path}/"))

    async def type(self, title: str) -> str:
        """Types all commands of a section. Returns what they print."""
        printed = ""
        for block in blocks(section(DOCUMENT, title), "console"):
            lines: list[str] = []
            for line in prompts(block):
                if line.startswith("systemctl "):
                    printed += await self._run(lines)
                    lines = [each for each in lines if each.startswith("export ")]
                    await self._systemctl(line.split()[1:])
                else:
                    lines.append(line)
            printed += await self._run(lines)
        return printed

    async def _run(self, lines: list[str]) -> str:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "REVOR_", "PY"))}
        environ |= {"PATH": f"{self._tools}:{environ['PATH']}", "HOME": str(self.home), "REVOR_API_KEY": API_KEY}
        if self.runner.is_open:
            environ["RELAY_URL"] = self.runner.url
        ran = await asyncio.to_thread(
            subprocess.run,
            ["bash", "-ec", "\n".join(self._here(line) for line in lines)],
            cwd=self.clone,
            env=environ,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ran.returncode == 0, (lines, ran.stdout[-2000:], ran.stderr[-4000:])
        self.done += lines
        return ran.stdout

    def _here(self, line: str) -> str:
        """The command with paths and addresses of this machine; packages come from the tests' environment."""
        line = below(self.root, line)
        if self.runner.is_open:
            line = line.replace("http://127.0.0.1:8080", self.runner.url)
        venv = re.search(r"(\S+)/bin/pip install --require-hashes", line)
        if venv is not None and not SOAK:
            return f"cp -an '{self._packages}'/. {venv[1]}/lib/python3*/site-packages/"
        if " -m venv " in line and not SOAK:
            return with_linked_pip(line)
        return f"PIP_NO_INDEX=1 PIP_NO_COMPILE=1 {line}" if "pip install --no-deps" in line else line

    async def _systemctl(self, words: list[str]) -> None:
        verb, units = words[0], [word for word in words[1:] if not word.startswith("-")]
        service, socket = "revor-relay.service" in units, "revor-relay.socket" in units
        if verb in ("restart", "stop") and service:
            assert await asyncio.to_thread(self.runner.end) == 0
        if verb == "stop" and socket:
            self.runner.close_socket()
        if verb in ("enable", "start", "restart") and service:
            await asyncio.to_thread(self.runner.begin, REVOR_BASE_URL="http://127.0.0.1:9")
        assert verb in ("daemon-reload", "enable", "start", "restart", "stop", "reload"), words
        self.done.append(f"systemctl {verb}")


def requirements_of_project() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return list(project["dependencies"])


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with processes(tmp_path) as start:
        made = Machine(start, tmp_path)
        yield made
        made.runner.close_socket()


async def jobs(machine: Machine, token: str, *ids: str) -> set[str]:
    """Registers jobs, and returns the ids of all."""
    bearer, json_type = ("Authorization", f"Bearer {token}"), ("Content-Type", "application/json")
    async with Client(machine.runner.url) as client:
        for job_id in ids:
            body = json.dumps({"id": job_id}).encode()
            assert (await client.exchange(request("POST", "/v1/jobs", [bearer, json_type], body))).status == 201
        listed = await client.exchange(request("GET", "/v1/jobs", [bearer]))
        assert listed.status == 200
        return {job["id"] for job in listed.json["items"]}


@soak_only
async def test_guide_works_as_it_is_written(machine: Machine) -> None:
    printed = await machine.type("Install")
    assert printed.splitlines()[-1] == '{"status":"ok"}'
    modes = {path.name: path.stat().st_mode & 0o777 for path in machine._at("/etc/revor-relay/credentials").iterdir()}
    assert modes == {"revor-api-key": 0o600, "encryption-key": 0o600}
    where = await machine._run(["/opt/revor-relay/bin/python -P -c 'import relay; print(relay.__file__)'"])
    assert str(machine.root) in where

    await machine.type("TLS")
    assert machine._at("/etc/nginx/conf.d").joinpath("revor-relay.conf").is_file()

    printed = await machine.type("Tokens")
    admin = machine._at("/var/lib/revor-relay").joinpath("token").read_text().strip()
    assert '{"items":[]' in printed, "the new token was taken"
    crm = re.findall(r"^rl_\S+$", printed, re.MULTILINE)[0]
    async with Client(machine.runner.url) as client:
        refused = await client.exchange(request("GET", "/v1/jobs", [("Authorization", f"Bearer {crm}")]))
        assert refused.status == 401, "it is revoked at the end"

    assert await jobs(machine, admin, "before") == {"before"}
    await machine.type("Back up")
    assert await jobs(machine, admin, "after") == {"before", "after"}
    await machine.type("Restore")
    assert await jobs(machine, admin) == {"before"}

    await machine.type("Upgrade")
    assert await jobs(machine, admin, "upgraded") == {"before", "upgraded"}
    assert os.readlink(machine._at("/opt").joinpath("revor-relay")).endswith("revor-relay-0.2.0")
    assert "the database has schema 0029" in await machine.type("Go back")
    assert await jobs(machine, admin, "back") == {"before", "upgraded", "back"}
    assert await asyncio.to_thread(machine.runner.end) == 0


def test_every_command_of_the_guide_is_typed_by_this_test() -> None:
    typed = {"Install", "TLS", "Tokens", "Back up", "Restore", "Upgrade", "Go back"}
    text = (ROOT / DOCUMENT).read_text(encoding="utf-8")
    titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
    with_commands = {title for title in titles if blocks(section(DOCUMENT, title), "console")}
    assert with_commands == typed
