"""The systemd units in `deploy/`: how exposed systemd says they are, and the relay under what they forbid."""

import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.config.keyring import new_key
from relay.config.settings import Settings
from relay.core.values import TURN_SECONDS
from tests.support.peer import open_peer
from tests.support.process_world import Start
from tests.support.systemd_unit import CREDENTIALS, ROOT, SERVICE, SOCKET, UnitRunner, below, can_confine, directives
from tests.support.wire import Client, answer, read_head, request

MAX_EXPOSURE = 2.0
ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="SYSTEMD UNITS NOT CHECKED: systemd-analyze is not here")
needs_confinement = pytest.mark.skipif(
    not can_confine(), reason="SYSTEMD'S CONFINEMENT NOT CHECKED: systemd-analyze and libseccomp are not both here"
)


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(min|s)?", text).groups()  # type: ignore[union-attr]
    return int(number) * (60 if unit == "min" else 1)


@needs_systemd
def test_systemd_rates_the_service_as_little_exposed() -> None:
    command = (ANALYZE or "", "security", "--offline=true", "--no-pager", str(SERVICE))
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    (exposure,) = re.findall(r"Overall exposure level for revor-relay\.service: ([\d.]+)", ran.stdout)
    assert float(exposure) <= MAX_EXPOSURE, ran.stdout
    said = (ROOT / "docs" / "operate" / "production.md").read_text(encoding="utf-8")
    assert re.search(r"`systemd-analyze security revor-relay.service` rates it ([\d.]+)", said)[1] == exposure  # type: ignore[index]


@needs_systemd
def test_systemd_finds_no_fault_in_the_units(tmp_path: Path) -> None:
    for unit in (SERVICE, SOCKET):
        there = unit.read_text().replace("/opt/revor-relay/bin/relay", shutil.which("true") or "")
        (tmp_path / unit.name).write_text(there)
    units = [str(tmp_path / unit.name) for unit in (SERVICE, SOCKET)]
    ran = subprocess.run([ANALYZE or "", "verify", *units], capture_output=True, text=True, timeout=60)
    assert [line for line in ran.stderr.splitlines() if "revor-relay" in line] == []


def test_times_of_the_unit_fit_the_relay() -> None:
    service = directives(SERVICE)
    defaults = Settings()
    assert seconds(service["TimeoutStopSec"][0]) > 3 * defaults.server.shutdown_seconds
    assert seconds(service["WatchdogSec"][0]) < TURN_SECONDS
    assert service["Restart"] == ["always"]
    assert directives(SERVICE)["StartLimitIntervalSec"] == ["0"], "it never gives up"
    assert service["Type"] == ["notify"]


def test_files_in_deploy_agree_with_each_other() -> None:
    service = directives(SERVICE)
    settings = (ROOT / "deploy" / "relay.yaml").read_text(encoding="utf-8")
    named = set(re.findall(rf"{re.escape(CREDENTIALS)}/([\w-]+)", settings))
    assert named == {value.partition(":")[0] for value in service["LoadCredential"]}
    (listens,) = directives(SOCKET)["ListenStream"]
    nginx = (ROOT / "deploy" / "nginx" / "revor-relay.conf").read_text(encoding="utf-8")
    assert f"server {listens};" in nginx
    assert "server_name relay.example.com;" in nginx
    assert "public_url: https://relay.example.com\n" in settings
    assert f"{service['WorkingDirectory'][0]}/relay.db" in settings


@pytest.fixture
def runner(start: Start, tmp_path: Path) -> Iterator[UnitRunner]:
    """The unit, its settings and its credentials where `docs/operate/production.md` puts them."""
    made = UnitRunner(start, tmp_path / "root")
    place = Path(below(made.folder, "/etc/revor-relay"))
    (place / "credentials").mkdir(parents=True, mode=0o700)
    (place / "credentials" / "revor-api-key").write_text("sk-revor-default\n")
    (place / "credentials" / "encryption-key").write_text(f"{new_key()}\n")
    more = 'security: {allow_http: true, allow_networks: ["127.0.0.0/8"]}\n'
    (place / "relay.yaml").write_text((ROOT / "deploy" / "relay.yaml").read_text() + more)
    program = Path(below(made.folder, "/opt/revor-relay/bin/relay"))
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m relay "$@"\n')
    program.chmod(0o755)
    yield made
    made.close_socket()


@needs_confinement
async def test_relay_works_under_everything_that_the_unit_forbids(runner: UnitRunner) -> None:
    events: list[bytes] = []

    async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        events.append(await reader.readexactly(head.length or 0))
        writer.write(answer(200, [("Connection", "close")]))
        await writer.drain()

    async with open_peer(sink) as port:
        relay = await asyncio.to_thread(runner.begin, REVOR_BASE_URL="http://127.0.0.1:9")
        token = Path(below(runner.folder, "/var/lib/revor-relay/token"))
        bearer = ("Authorization", f"Bearer {token.read_text().strip()}")
        json_type = ("Content-Type", "application/json")
        status = Path(f"/proc/{relay.popen.pid}/status").read_text()
        assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
        assert re.search(r"^Seccomp:\t2$", status, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
        async with Client(runner.url) as client:
            assert (await client.exchange(request("GET", "/readyz"))).status == 200
            sub = json.dumps({"sink": f"http://127.0.0.1:{port}/hook"}).encode()
            made = await client.exchange(request("POST", "/v1/subscriptions", [bearer, json_type], sub))
            assert made.status == 201
            test = f"/v1/subscriptions/{made.json['id']}/test"
            tried = await client.exchange(request("POST", test, [bearer, json_type], b"{}"))
            assert tried.json["attempt"]["status_code"] == 200
            job = await client.exchange(request("POST", "/v1/jobs", [bearer, json_type], b'{"id": "j"}'))
            assert job.status == 201
            assert (await client.exchange(request("GET", "/metrics", [bearer]))).status == 200
        assert len(events) == 1
        runner.reload()
        await asyncio.to_thread(relay.until, "settings_read_again")
        files = list(Path(below(runner.folder, "/var/lib/revor-relay")).iterdir())
        assert {path.name for path in files} >= {"relay.db", "token"}
        assert {path.stat().st_mode & 0o077 for path in files} == {0}
        assert await asyncio.to_thread(runner.end) == 0
    assert not any("Traceback" in line for line in relay.lines)


@needs_confinement
async def test_killed_relay_starts_again_on_the_same_socket(runner: UnitRunner) -> None:
    """The kernel keeps the queue: a connection made while no process is there is answered by the next."""
    relay = await asyncio.to_thread(runner.begin, REVOR_BASE_URL="http://127.0.0.1:9")
    assert await asyncio.to_thread(relay.end, signal.SIGKILL) != 0
    async with Client(runner.url) as client:
        client.writer.write(request("GET", "/livez"))
        await asyncio.to_thread(runner.begin, REVOR_BASE_URL="http://127.0.0.1:9")
        assert (await client.answer()).status == 200
    assert await asyncio.to_thread(runner.end) == 0
