"""The image: what it says of itself, and the relay in it, which may write to its volume and /tmp alone; and
docs/operate/container.md, typed as it is written.

`tests/support/image.py` builds it. The containers share the machine's network, as nothing else reaches the sandbox and
the sink on loopback.
"""

import asyncio
import contextlib
import functools
import io
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import tarfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import relay
from relay.config.keyring import new_key
from tests.support.environments import artefacts_python
from tests.support.image import CONFINED, LIMITS, NAME, PLACE, image, podman, run, sizes, started, volume
from tests.support.kill_world import free_port
from tests.support.lock import ROOT
from tests.support.postgres_server import PostgresServer
from tests.support.process_world import API_TOKEN
from tests.support.relay_world import API_KEY, RelayWorld, open_relay_world
from tests.support.typed import blocks, prompts, section, with_places

MAX_BYTES = 120_000_000
STOP_SECONDS = 60
"""More than a relay takes that has nothing in flight, less than the end of the test."""
STATE = "/var/lib/revor-relay"
HERE = {
    "RELAY_SERVER__HOST": "127.0.0.1",
    "RELAY_SECURITY__ALLOW_HTTP": "true",
    "RELAY_SECURITY__ALLOW_NETWORKS": '["127.0.0.0/8"]',
    "RELAY_DELIVERY__RETRY_SCHEDULE": json.dumps(["0.1s", "0.2s", *["1s"] * 20]),
    "RELAY_SOURCES__REVOR__POLLING": json.dumps(
        {"min_interval_seconds": 0.02, "max_interval_seconds": 0.5, "max_requests_per_second": 200}
    ),
}
EXTRAS = "aiokafka, aiormq, asyncpg, liquid, nats, nkeys, opentelemetry.exporter.otlp.proto.http.trace_exporter"
IMPORT_ALL = f"""\
import os, sys, uvloop, relay.cli, relay.node.opening, relay.server.http_server
compiled = [getattr(one, "__cached__", None) for one in sys.modules.values()]
print([path for path in compiled if path and not os.path.exists(path)])
import importlib, pkgutil, subscribers, {EXTRAS}
for package in (relay, subscribers):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
"""


GUIDE = "docs/operate/container.md"
DOCKER = """\
#!/usr/bin/env bash
# docker, as podman has it here: on the machine's network, as nothing can be published
set -e
verb=$1 given=() rest=()
shift
if [ "$verb" = run ]; then given=(--network=host OPTIONS); fi
while [ $# -gt 0 ]; do
    if [ "$1" = --publish ]; then shift 2; else rest+=("$1"); shift; fi
done
exec PODMAN "$verb" "${given[@]}" "${rest[@]}"
"""


def inspected() -> dict[str, Any]:
    (found,) = json.loads(run("image", "inspect", image()))
    config: dict[str, Any] = found["Config"]
    return {**config, "HealthCheck": found.get("HealthCheck") or config.get("Healthcheck")}


def in_container(name: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(podman("exec", name, *command), capture_output=True, text=True, check=False, timeout=120)


def once(*arguments: str, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """One command in a container of its own."""
    line = started("--no-healthcheck", *options, image(), *arguments, name=f"revor-relay-{secrets.token_hex(6)}")
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)


@contextlib.contextmanager
def named() -> Iterator[str]:
    """The name of a container, which is removed at the end."""
    name = f"revor-relay-{secrets.token_hex(6)}"
    try:
        yield name
    finally:
        subprocess.run(podman("rm", "--force", "--time=0", name), capture_output=True, check=False)


def lives(world: RelayWorld) -> Callable[[], Awaitable[bool]]:
    """Whether /livez answers."""

    async def answers() -> bool:
        with contextlib.suppress(OSError):
            return (await world.call("GET", "/livez"))[0] == 200
        return False

    return answers


async def serve(world: RelayWorld, name: str, *options: str, token: str = "", **variables: str) -> float:
    """Starts a container and waits for /livez. Returns the seconds that took."""
    given = {**HERE, "REVOR_BASE_URL": world.sandbox_url, "RELAY_SERVER__PORT": str(free_port()), **variables}
    line = started(*options, *(f"--env={key}={value}" for key, value in given.items()), image(), name=name)
    began = time.monotonic()
    world.relay = world.start(program=line)
    world.url = f"http://127.0.0.1:{given['RELAY_SERVER__PORT']}"

    await world.until(lives(world), "/livez does not answer")
    seconds = time.monotonic() - began
    token = token or in_container(name, "cat", f"{STATE}/token").stdout.strip()
    world.session.headers["Authorization"] = f"Bearer {token}"
    return seconds


async def stop(world: RelayWorld, name: str) -> int:
    """Ends the container as `docker stop` does. Returns its exit code."""
    await asyncio.to_thread(run, "stop", f"--time={STOP_SECONDS}", name)
    return await world.ended()


def test_hadolint_finds_nothing() -> None:
    hadolint = artefacts_python().with_name("hadolint")
    ran = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "")


def test_image_says_what_it_is() -> None:
    found = inspected()
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in found["Labels"].items()}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert labels.items() >= {"title": "revor-relay", "licenses": "Apache-2.0", "version": relay.__version__}.items()
    assert labels["source"] == "https://github.com/revor-relay/revor-relay"
    assert labels["revision"] == commit
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", labels["created"])
    assert (found["User"], found["WorkingDir"]) == ("65532:65532", "/etc/revor-relay")
    assert (found["Entrypoint"], found["Cmd"], found["StopSignal"]) == (["relay"], ["serve"], "SIGTERM")
    assert (list(found["Volumes"]), list(found["ExposedPorts"])) == ([STATE], ["8080/tcp"])
    kept = json.dumps(found) + run("history", "--no-trunc", "--format={{.CreatedBy}}", image())
    assert not re.search(r"PIP_(?!DISABLE|NO_COMPILE)|index-url|pip\.conf", kept), "this machine's settings of pip"


def test_version_names_the_commit() -> None:
    commit = inspected()["Labels"]["org.opencontainers.image.revision"]
    assert f"commit {commit[:8]}" in once("--version").stdout


def test_layers_above_the_base_are_small() -> None:
    of_base, own = sizes()
    layers = run("history", "--human=false", "--format={{.Size}} {{.CreatedBy}}", image())
    for line in (line for line in layers.splitlines() if not line.startswith("0 ")):
        print(line[:110])
    print(f"base {of_base / 1e6:.1f} MB, above it {own / 1e6:.1f} MB")
    assert own < MAX_BYTES


def test_every_module_is_there_and_what_a_node_imports_is_compiled() -> None:
    """The build removes parts of packages, and strips libraries."""
    ran = once("-c", IMPORT_ALL, options=["--entrypoint=python3"])
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "[]\n", "of these there is no byte code"


def test_health_check_fails_where_nothing_listens() -> None:
    with named() as name:
        line = started("--detach", "--entrypoint=sleep", f"--env=RELAY_SERVER__PORT={free_port()}", name=name)
        subprocess.run([*line, image(), "600"], check=True, capture_output=True, timeout=120)
        assert subprocess.run(podman("healthcheck", "run", name), capture_output=True, check=False).returncode == 1


async def test_serves_from_a_read_only_file_system(tmp_path: Path) -> None:
    with named() as name, volume() as state:
        async with open_relay_world(tmp_path) as world:
            seconds = await serve(world, name, f"--volume={state}:{STATE}", REVOR_API_KEY=API_KEY)
            status = in_container(name, "cat", "/proc/1/status").stdout
            (idle,) = re.findall(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
            print(f"/livez after {seconds:.1f} s, memory when idle: {int(idle) / 1024:.0f} MiB")
            assert re.search(r"^Uid:(\s+65532){4}$", status, re.MULTILINE)
            assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
            assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
            assert in_container(name, "touch", "/etc/revor-relay/here").returncode != 0
            assert subprocess.run(podman("healthcheck", "run", name), capture_output=True).returncode == 0
            assert (await world.call("GET", "/v1/jobs"))[0] == 200
            second = await asyncio.to_thread(once, options=[f"--volume={state}:{STATE}"])
            assert second.returncode == 2
            assert "is held by the process with pid 1 of another container: stop that one first" in second.stderr

            await world.subscribe()
            await world.subscribe(config={"template": {"subject": "of {{ event.subject }}"}})
            job = await world.job()
            await world.until_delivered([job])
            await world.until(lambda: any(event.get("subject") == f"of {job}" for event in world.received))
            assert in_container(name, "find", STATE, "-perm", "/077").stdout == "", "only the relay reads its files"

            del world.session.headers["Authorization"]
            assert (await world.call("GET", "/v1/jobs"))[0] == 401
            assert await stop(world, name) == 0
            assert world.logged("stopped")


async def test_killed_container_loses_nothing_and_repeats_no_event(tmp_path: Path) -> None:
    with named() as name, volume() as state:
        async with open_relay_world(tmp_path) as world:
            await serve(world, name, f"--volume={state}:{STATE}", REVOR_API_KEY=API_KEY)
            await world.subscribe()
            jobs = [await world.job() for _ in range(5)]
            jobs += [await world.job(run_seconds=300 + 40 * number, attempt_failures=1) for number in range(20)]
            await world.until_delivered(jobs[:5])
            await asyncio.to_thread(run, "kill", "--signal=KILL", name)
            assert await world.ended() == 137
            assert any("succeeded" not in world.kinds(job) for job in jobs), "some are still to come"

            await serve(world, name, f"--volume={state}:{STATE}", REVOR_API_KEY=API_KEY)
            await world.until_delivered(jobs)
            assert await stop(world, name) == 0


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer(tcp=True) as server:
        yield server


async def test_serves_on_postgresql_once_it_is_migrated(tmp_path: Path, postgres: PostgresServer) -> None:
    """The settings and the secrets of compose.yaml."""
    values = {"database-url": postgres.url(tcp=True), "encryption-key": new_key(), "relay-token": API_TOKEN}
    values |= {"metrics-token": "rl_of_prometheus_0123456789abcdef", "revor-api-key": API_KEY}
    (tmp_path / "secrets").mkdir()
    for key, value in values.items():
        (tmp_path / "secrets" / key).write_text(f"{value}\n")
    options = [f"--volume={tmp_path / 'secrets'}:/run/secrets:ro"]
    options.append(f"--volume={ROOT / 'deploy' / 'compose' / 'relay.yaml'}:/etc/revor-relay/relay.yaml:ro")
    options.append("--env=RELAY_TOKEN_FILE=/run/secrets/relay-token")

    early = once(options=[*options, f"--env=RELAY_SERVER__PORT={free_port()}", "--env=RELAY_SERVER__HOST=127.0.0.1"])
    assert early.returncode == 2
    assert "relay migrate" in early.stderr
    migrated = once("migrate", options=options)
    assert (migrated.returncode, migrated.stderr) == (0, "")
    assert "the newest schema" in migrated.stdout

    with named() as name:
        async with open_relay_world(tmp_path) as world:
            await serve(world, name, *options, token=API_TOKEN)
            asked = in_container(name, "env", f"RELAY_URL={world.url}", "relay", "sources", "list")
            assert asked.returncode == 0, asked.stderr
            await world.subscribe()
            await world.until_delivered([await world.job(), await world.job()])
            world.session.headers["Authorization"] = f"Bearer {values['metrics-token']}"
            assert (await world.call("GET", "/metrics"))[0] == 200
            assert (await world.call("GET", "/v1/jobs"))[0] == 403
            assert await stop(world, name) == 0


async def test_archive_serves_where_it_is_loaded(tmp_path: Path) -> None:
    """`make image BASE=debian`, into an engine with a storage of its own, as on another machine."""
    there = functools.partial(podman, place=PLACE / "elsewhere")
    version = once("--version").stdout
    (tmp_path / "engine").write_text(f'#!/bin/sh\nexec {shlex.join(there())} "$@"\n')
    (tmp_path / "engine").chmod(0o755)
    archive = tmp_path / "relay image.tar"
    up_to_date = ("-o", ".venv/.ready")  # the environment that runs this test is not made again
    made = ["make", *up_to_date, "image", "BASE=debian", f"ENGINE={tmp_path / 'engine'}", f"ARCHIVE={archive}"]
    environ = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    ran = await asyncio.to_thread(subprocess.run, made, cwd=ROOT, env=environ, capture_output=True, text=True)
    try:
        assert ran.returncode == 0, ran.stdout + ran.stderr
        with tarfile.open(archive) as saved:
            (manifest,) = json.load(saved.extractfile("manifest.json") or io.BytesIO())
        assert manifest["RepoTags"] == [f"{NAME}:latest"]
        assert manifest["Config"].startswith(run("image", "inspect", "--format={{.Id}}", NAME).strip())
        line = there("run", "--rm", "--network=host", "--no-healthcheck", *LIMITS, *CONFINED)
        printed = subprocess.run([*line, "revor-relay", "--version"], capture_output=True, text=True, check=True).stdout
        assert printed == version
        async with open_relay_world(tmp_path) as world:
            port = str(free_port())
            given = {**HERE, "RELAY_SERVER__PORT": port, "REVOR_BASE_URL": world.sandbox_url, "REVOR_API_KEY": API_KEY}
            world.relay = world.start(program=[*line, *(f"--env={key}={value}" for key, value in given.items()), NAME])
            world.url = f"http://127.0.0.1:{port}"
            await world.until(lives(world))
    finally:
        subprocess.run(there("rmi", "--all", "--force"), capture_output=True, check=False)


class Reader:
    """Types the commands of the guide in a clone of the repository."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.clone = folder / "clone"
        shutil.copytree(ROOT / "deploy" / "compose", self.clone / "deploy" / "compose")
        self._tools = folder / "tools"
        self._tools.mkdir()
        options = shlex.join([*LIMITS, *(f"--env={key}={value}" for key, value in variables.items())])
        docker = DOCKER.replace("OPTIONS", options).replace("PODMAN", shlex.join(podman()))
        for name, text in {"docker": docker, "make": '#!/bin/sh\ntest "$*" = image\n'}.items():
            (self._tools / name).write_text(text)
            (self._tools / name).chmod(0o755)

    def type(self, command: str) -> str:
        environ = {**os.environ, "PATH": f"{self._tools}:{os.environ['PATH']}", "REVOR_API_KEY": API_KEY}
        ran = subprocess.run(
            ["bash", "-ec", command], cwd=self.clone, env=environ, capture_output=True, text=True, timeout=120
        )
        assert ran.returncode == 0, (command, ran.stdout, ran.stderr)
        return ran.stdout


def typed(title: str) -> list[str]:
    """The commands of a section of the guide."""
    return [command for block in blocks(section(GUIDE, title), "console") for command in prompts(block)]


async def test_commands_of_the_guide(tmp_path: Path, postgres: PostgresServer) -> None:
    image()
    async with open_relay_world(tmp_path) as world:
        port = str(free_port())
        world.url = f"http://127.0.0.1:{port}"
        here = {**HERE, "RELAY_SERVER__PORT": port, "RELAY_URL": world.url, "REVOR_BASE_URL": world.sandbox_url}
        reader = Reader(tmp_path, **here)
        try:
            *begin, check, token = typed("Run")
            for command in begin:
                await asyncio.to_thread(reader.type, command)
            await world.until(lives(world))
            assert "settings\tok\trelay.yaml" in await asyncio.to_thread(reader.type, check)
            bearer = await asyncio.to_thread(reader.type, token)
            world.session.headers["Authorization"] = f"Bearer {bearer.strip()}"
            assert (await world.call("GET", "/v1/jobs"))[0] == 200
            await asyncio.to_thread(reader.type, "docker exec relay relay sources list")
            (created,) = json.loads(run("inspect", "relay"))
            assert created["HostConfig"]["ReadonlyRootfs"]
            assert created["EffectiveCaps"] in ([], None)
            assert created["Config"]["StopTimeout"] == 90
            await asyncio.to_thread(reader.type, "docker stop relay")
            assert "stopped" in await asyncio.to_thread(reader.type, "docker logs relay 2>&1")
        finally:
            subprocess.run(podman("rm", "--force", "--time=0", "relay"), capture_output=True, check=False)
            subprocess.run(podman("volume", "rm", "--force", "relay"), capture_output=True, check=False)

        for command in typed("Settings and secrets"):
            await asyncio.to_thread(reader.type, command)
        made = {path.name: path.read_text().strip() for path in (reader.clone / "secrets").iterdir()}
        of_compose = set(re.findall(r"file: \./secrets/([\w-]+)", (ROOT / "compose.yaml").read_text()))
        assert set(made) == of_compose
        assert made["database-url"] == f"postgresql://relay:{made['postgres-password']}@postgres/relay"
        try:
            database, migrate, node = typed("PostgreSQL")
            documented = "postgresql://relay:secret@db.example.com/relay"
            await asyncio.to_thread(reader.type, with_places(database, {documented: postgres.url(tcp=True)}))
            assert "the newest schema" in await asyncio.to_thread(reader.type, migrate)
            await asyncio.to_thread(reader.type, node)
            await world.until(lives(world))
            await asyncio.to_thread(reader.type, "docker exec relay relay sources list")
        finally:
            subprocess.run(podman("rm", "--force", "--time=0", "relay"), capture_output=True, check=False)
        assert [command.split()[0] for command in typed("Compose")] == ["docker", "curl"], "there is no registry here"
