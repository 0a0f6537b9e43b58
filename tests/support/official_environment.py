"""The environment of the official clients: what `tests/clients.lock` pins, in `.venv-clients`."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.lock import CLIENTS_LOCK, ROOT

PLACE = ROOT / ".venv-clients"
PIP_SECONDS = 300
WRONG_FILE = "DO NOT MATCH THE HASHES"


def official_python() -> Path:
    """The Python that imports them. Skips the test if they cannot be installed."""
    python, ready = PLACE / "bin" / "python", PLACE / ".ready"
    wanted = hashlib.sha256(CLIENTS_LOCK.read_bytes() + sys.version.encode()).hexdigest()
    if ready.exists() and ready.read_text() == wanted:
        return python
    shutil.rmtree(PLACE, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", PLACE], check=True)
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "install", "--quiet"]
    try:
        ran = subprocess.run(
            [*pip, "--no-compile", "--require-hashes", "--no-deps", "-r", CLIENTS_LOCK],
            capture_output=True,
            text=True,
            timeout=PIP_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"THE OFFICIAL CLIENTS DID NOT RUN: pip install took longer than {PIP_SECONDS} s")
    assert WRONG_FILE not in ran.stderr, ran.stderr
    if ran.returncode != 0:
        pytest.skip(f"THE OFFICIAL CLIENTS DID NOT RUN: pip install failed: {ran.stderr.strip()[-500:]}")
    ready.write_text(wanted)
    return python
