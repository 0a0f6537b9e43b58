"""Chromium for the tests of the dashboard: the installed one, else Debian's, installed when the tests run as root."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

INSTALL_SECONDS = 300.0
QUICKLY = ("-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=20", "-o", "Acquire::https::Timeout=20")
FLAGS = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu")
"""Root has no sandbox; containers have a small /dev/shm and no graphics card."""


def chromium() -> str:
    """The path of Chromium. Skips the test where there is none and none can be had."""
    found = _found()
    if found is None:
        with open(Path(sys.prefix) / ".chromium.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the tests run in several processes
            problem = None if _found() else _install()
        found = _found()
        if found is None:
            pytest.skip(f"THE DASHBOARD IS NOT CHECKED IN A BROWSER: install the package chromium ({problem})")
    return found


def _found() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")


def _install() -> str | None:
    """Installs the package. Returns why it did not work."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return "only root can install it, with apt-get"
    install = ("install", "-y", "--no-install-recommends", "chromium", "fonts-dejavu-core")
    problem = _run("apt-get", *QUICKLY, *install)
    if problem is not None:
        _run("apt-get", *QUICKLY, "update")
        problem = _run("apt-get", *QUICKLY, *install)
    return problem


def _run(*command: str) -> str | None:
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if ran.returncode == 0 else (ran.stderr.strip().splitlines() or ["it failed"])[-1]
