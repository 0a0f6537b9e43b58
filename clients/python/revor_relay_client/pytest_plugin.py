"""pytest fixtures: `relay_sandbox`, a stand-in for the upstream, and `relay`, a client of a relay that polls it.

Both are processes of the command `relay` on free ports of loopback, in a temporary folder, for the whole session.
"""

import contextlib
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from revor_relay_client import Relay

START_SECONDS = 120.0
END_SECONDS = 20.0
SPEED = 60
KEY = "sk-revor-default"
AT_ONCE = {"attempt_failures": 0, "start_delay_seconds": 0, "run_seconds": 0, "in_lane": False}
"""A job that ends as soon as it is made."""
POLLING = {
    "RELAY_SOURCES__REVOR__POLLING__MIN_INTERVAL_SECONDS": "0.05",
    "RELAY_SOURCES__REVOR__POLLING__MAX_INTERVAL_SECONDS": "1",
}
NOT_INSTALLED = (
    "The fixtures `relay` and `relay_sandbox` start the command `relay`, which is not installed here. "
    "Install revor-relay into this environment: pip install PATH_OF_A_CLONE_OR_WHEEL_OF_REVOR_RELAY"
)


class RelaySandbox:
    """The stand-in for the upstream. `url`: its address, `key`: the API key of its account."""

    def __init__(self, url: str) -> None:
        self.url, self.key = url, KEY

    def create(self, **script: Any) -> str:
        """Makes a job that succeeds at once, and returns its id. `script`: the fields of `POST /_sandbox/jobs`, such as
        `final="failed"`, `error_code`, `run_seconds`."""
        made = self._post("jobs", {"final": "succeeded", **AT_ONCE, **script})
        id: str = made["items"][0]["id"]
        return id

    def fault(self, kind: str, **fields: Any) -> None:
        """Makes requests of the relay fail, until `heal`. `fields`: those of `POST /_sandbox/faults`."""
        self._post("faults", {"kind": kind, "share": 1, **fields})

    def heal(self) -> None:
        """Ends all faults."""
        httpx.delete(f"{self.url}/_sandbox/faults", timeout=30).raise_for_status()

    def _post(self, what: str, document: Mapping[str, Any]) -> Any:
        answer = httpx.post(f"{self.url}/_sandbox/{what}", json=document, timeout=30)
        assert answer.status_code < 300, answer.text
        return answer.json()


@pytest.fixture(scope="session")
def relay_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelaySandbox]:
    """A running stand-in for the upstream."""
    folder = tmp_path_factory.mktemp("relay-sandbox")
    with _running(folder, "sandbox", "--port", "0", "--speed", str(SPEED), pattern=r"sandbox: serving (\S+)") as url:
        yield RelaySandbox(url)


@pytest.fixture(scope="session")
def relay(relay_sandbox: RelaySandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """A client, with an admin token, of a running relay that polls `relay_sandbox`."""
    folder = tmp_path_factory.mktemp("relay")
    token, file = secrets.token_urlsafe(32), folder / "token"
    file.touch(0o600)
    file.write_text(token)
    variables = {
        "REVOR_BASE_URL": relay_sandbox.url,
        "REVOR_API_KEY": relay_sandbox.key,
        "RELAY_TOKEN_FILE": str(file),
        **POLLING,
    }
    pattern = r"relay: serving (\S+)"
    with (
        _running(folder, "serve", "--dev", "--port", "0", pattern=pattern, **variables) as url,
        Relay(url, token) as client,
    ):
        yield client


@contextlib.contextmanager
def _running(folder: Path, *arguments: str, pattern: str, **variables: str) -> Iterator[str]:
    """Runs a command of the relay. Yields the first group of `pattern` in its output."""
    beside = str(Path(sys.executable).parent)
    command = shutil.which("relay", path=os.pathsep.join([beside, os.environ.get("PATH", os.defpath)]))
    if command is None:
        pytest.fail(NOT_INSTALLED, pytrace=False)
    known = {
        name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "REVOR_", "DATABASE_"))
    }
    log = folder / "output.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [command, *arguments],
            cwd=folder,
            env={**known, "XDG_STATE_HOME": str(folder / "state"), **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield _said(process, log, pattern)
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _said(process: subprocess.Popen[bytes], log: Path, pattern: str) -> str:
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends:
        text = log.read_text(errors="replace")
        found = re.search(pattern, text)
        if found:
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.05)
    pytest.fail(f"`relay` did not start:\n{log.read_text(errors='replace')[-4000:]}", pytrace=False)
