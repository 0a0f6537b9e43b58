"""Programs that only a system package brings, such as nginx: the installed one, else one unpacked for the tests.

Where the machine has no such program, its package is downloaded with apt-get and unpacked into the virtual environment.
Nothing is installed, no service starts, and `make clean` removes it. Where that is not possible either, the test is
skipped with a loud line. Only podman is installed, by root: it does not work without the files around it.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

DOWNLOAD_SECONDS = 120.0
SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"
QUICKLY = ("-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=20", "-o", "Acquire::https::Timeout=20")


def system_program(name: str, package: str) -> str:
    """The path of the program. Skips the test where there is none and none can be had."""
    installed = shutil.which(name) or shutil.which(name, path=SYSTEM_FOLDERS)
    if installed is not None:
        return installed
    unpacked = Path(sys.prefix) / "system" / package
    unpacked.mkdir(parents=True, exist_ok=True)
    with open(unpacked / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the tests run in several processes
        problem = None if _found(name, unpacked) else _unpack([package], unpacked)
    found = _found(name, unpacked)
    if found is None:
        pytest.skip(f"{name.upper()} IS NOT HERE, NOT CHECKED: install the package {package} ({problem})")
    return str(found)


def unpacked_packages(name: str, packages: Sequence[str]) -> Path:
    """A folder with several packages unpacked, for a program in parts. Skips the test where they cannot be had."""
    folder = Path(sys.prefix) / "system" / name
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        problem = None if (folder / ".done").exists() else _unpack(packages, folder)
        if problem is None:
            (folder / ".done").touch()
            return folder
    pytest.skip(f"{name.upper()} IS NOT HERE, NOT CHECKED: install the package {name} ({problem})")


def install_packages(programs: Mapping[str, str]) -> str | None:
    """Installs the packages of those programs that are missing, for programs that need their configuration and each
    other. Only as root. Returns why it did not work."""
    missing = [package for name, package in programs.items() if not _is_installed(name)]
    if not missing:
        return None
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return f"these packages are not installed: {', '.join(missing)}"
    command = ("apt-get", *QUICKLY, "install", "--yes", "--no-install-recommends", *missing)
    problem = _run(*command, cwd=Path("/"))
    if problem is not None:
        _run("apt-get", *QUICKLY, "update", cwd=Path("/"))
        problem = _run(*command, cwd=Path("/"))
    return None if problem is None else f"{', '.join(missing)} could not be installed: {problem}"


def _is_installed(name: str) -> bool:
    return any(Path(folder, name).exists() for folder in (*SYSTEM_FOLDERS.split(":"), "/usr/bin", "/usr/lib/podman"))


def _found(name: str, unpacked: Path) -> Path | None:
    places = (unpacked / folder / name for folder in ("usr/sbin", "usr/bin"))
    return next((place for place in places if place.exists()), None)


def _unpack(packages: Sequence[str], folder: Path) -> str | None:
    """Downloads and unpacks packages. Returns why it did not work."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        return "there is no apt-get here"
    problem = _run("apt-get", *QUICKLY, "download", *packages, cwd=folder)
    if problem is not None and os.geteuid() == 0:
        _run("apt-get", *QUICKLY, "update", cwd=folder)
        problem = _run("apt-get", *QUICKLY, "download", *packages, cwd=folder)
    for archive in folder.glob("*.deb"):
        problem = _run("dpkg", "-x", str(archive), str(folder), cwd=folder)
        archive.unlink()
    return problem


def _run(*command: str, cwd: Path) -> str | None:
    try:
        ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if ran.returncode == 0 else (ran.stderr.strip().splitlines() or ["it failed"])[-1]
