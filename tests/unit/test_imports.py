"""What a command imports: each second of a start is mostly spent there."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parents[2]
NODE_ONLY = (
    *(
        "aiohttp",
        "apscheduler",
        "asyncio",
        "cloudevents",
        "cryptography",
        "prometheus_client",
        "sqlalchemy",
        "sqlmodel",
    ),
    *("starlette", "structlog", "uvicorn", "uvloop", "yaml", "relay.api", "relay.config", "relay.store", "subscribers"),
)
NEVER = (
    "alembic",
    "asyncpg",
    "jinja2",
    "liquid",
    "rich.console",
    "aiokafka",
    "aiormq",
    "nats",
    "standardwebhooks",
    "opentelemetry",
)
LATER = ("relay.api.openapi", "relay.api.asyncapi", "relay.web", "relay.sandbox", "relay.cli.demo", "relay.cli.jobs")
"""What `relay serve` imports when it is asked for."""


@pytest.fixture
def stub() -> Iterator[str]:
    """The URL of a server that answers with an empty list."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"items": [], "next_cursor": null}')

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def started(folder: Path, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "REVOR_"))}
    environ |= {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(folder), **variables}
    command = [sys.executable, "-X", "importtime", "-m", "relay", *arguments]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env=environ, text=True, **streams)


def imported(lines: Sequence[str]) -> set[str]:
    """The modules that Python has told of, with the packages that they are in."""
    names = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert "typer" in names
    return {".".join(name.split(".")[: size + 1]) for name in names for size in range(name.count(".") + 1)}


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["--version"], [*NODE_ONLY, *NEVER, "http", "pydantic", "relay.core", "relay.cli.client"]),
        (["jobs", "list"], [*NODE_ONLY, *NEVER, "relay.cli.subscriptions", "relay.cli.node"]),
    ],
)
def test_command_imports_only_what_it_needs(arguments: list[str], absent: list[str], stub: str, tmp_path: Path) -> None:
    with started(tmp_path, *arguments, RELAY_URL=stub) as process:
        _, errors = process.communicate()
    assert process.returncode == 0, errors[-2000:]
    assert imported(errors.splitlines()) & set(absent) == set()


def test_node_imports_only_what_it_needs_to_answer(tmp_path: Path) -> None:
    variables = {"REVOR_API_KEY": "sk-revor-x", "DATABASE_URL": "sqlite:///relay.db"}
    with started(tmp_path, "serve", "--port", "0", **variables) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"relay: serving (http\S+)", line):
                assert urlopen(f"{found[1]}/livez").status == 200
                process.send_signal(signal.SIGTERM)
    assert process.returncode == 0, lines[-10:]
    assert imported(lines) & {*NEVER, *LATER} == set()
