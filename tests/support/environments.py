"""Virtual environments beside the tests' own, each pinned by a lock file.

`.venv-clients` has the official clients of other APIs (`tests/clients.lock`). `.venv-artefacts` has what builds
and checks the documentation site, the image, the chart, the clients and the release (`tests/artefacts.lock`).
Run as a program, `python -m tests.support.environments artefacts` makes it and prints its Python.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.lock import ARTEFACTS_LOCK, CLIENTS_LOCK, ROOT

PIP_SECONDS = 300
WRONG_FILE = "DO NOT MATCH THE HASHES"


class NotInstalledError(Exception):
    """The packages could not be installed. The message says why."""


def official_python() -> Path:
    """The Python that imports the official clients. Skips the test if they cannot be installed."""
    return _or_skip("clients", CLIENTS_LOCK)


def artefacts_python() -> Path:
    """The Python whose folder has mkdocs, hadolint, actionlint, zizmor. Skips the test if it cannot be installed."""
    return _or_skip("artefacts", ARTEFACTS_LOCK)


def _or_skip(name: str, lock: Path) -> Path:
    try:
        return environment(name, lock)
    except NotInstalledError as error:
        pytest.skip(f"THE PACKAGES OF {lock.name.upper()} ARE NOT HERE, NOT CHECKED: {error}")


def environment(name: str, lock: Path) -> Path:
    """The Python of `.venv-NAME`, which has what the lock pins. Raises NotInstalledError."""
    place = ROOT / f".venv-{name}"
    python, ready = place / "bin" / "python", place / ".ready"
    wanted = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()
    with open(ROOT / f".venv-{name}.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # the tests run in several processes
        if ready.exists() and ready.read_text() == wanted:
            return python
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
        pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "install", "--quiet"]
        try:
            ran = subprocess.run(
                [*pip, "--no-compile", "--require-hashes", "--no-deps", "-r", lock],
                capture_output=True,
                text=True,
                timeout=PIP_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise NotInstalledError(f"pip install took longer than {PIP_SECONDS} s") from None
        assert WRONG_FILE not in ran.stderr, ran.stderr
        if ran.returncode != 0:
            raise NotInstalledError(f"pip install failed: {ran.stderr.strip()[-500:]}")
        ready.write_text(wanted)
    return python


if __name__ == "__main__":
    print(environment("artefacts", ARTEFACTS_LOCK))
