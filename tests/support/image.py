"""The image of the `Dockerfile`, built and run by podman. No registry is needed: the base has Debian's Python.

Podman is installed if it is missing and this is root. Its images and containers are in `build/image`, apart from the
machine's own, and `make clean` removes them. Run as a program, this builds the image and saves it into a file.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import relay
from tests.support.lock import ROOT
from tests.support.system_programs import install_packages

PLACE = ROOT / "build" / "image"
NAME = "localhost/revor-relay"
BASE_PACKAGES = "python3 python3-venv ca-certificates libstdc++6 dash coreutils findutils binutils"
"""Packages of Debian. A base from a registry gets binutils during the build."""
PROGRAMS = ("podman", "runc", "netavark", "iptables", "mmdebstrap")
"""Packages have the same names. Podman publishes ports by netavark and iptables."""
BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BUILD_SECONDS = 900.0
COMMAND_SECONDS = 120.0
NOT_HERE = "THE IMAGE IS NOT HERE, NOT RUN: "
NO_INDEX = r"No matching distribution|Could not fetch URL|NewConnectionError|Max retries exceeded"
GLOBAL = ("--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "file")
LIMITS = ("--ulimit", "nofile=20000:20000", "--ulimit", "nproc=1000:1000")
"""Podman's defaults are above what a container in a container may have."""
CONFINED = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")


def podman(*arguments: str, place: Path = PLACE) -> list[str]:
    """The command line. crun, the default, refuses machines with both versions of cgroups."""
    places = (f"--root={place / 'storage'}", f"--runroot={place / 'run'}")
    return ["podman", *places, *GLOBAL, "--runtime", "runc", *arguments]


def run(*arguments: str, seconds: float = COMMAND_SECONDS) -> str:
    """What podman prints. Raises CalledProcessError, with its output."""
    return subprocess.run(
        podman(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=True
    ).stdout


def started(*arguments: str, name: str) -> list[str]:
    """The command line that runs the image confined, on the machine's own network."""
    return podman("run", "--rm", "--name", name, "--network=host", *LIMITS, *CONFINED, *arguments)


@contextlib.contextmanager
def volume() -> Iterator[str]:
    """A new, empty volume. Containers that still use it are removed with it."""
    name = f"revor-relay-{secrets.token_hex(6)}"
    run("volume", "create", name)
    try:
        yield name
    finally:
        run("volume", "rm", "--force", name)


@cache
def image() -> str:
    """The name of the image of this work tree. Skips the test if it cannot be built."""
    PLACE.mkdir(parents=True, exist_ok=True)
    with open(PLACE / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the tests run in several processes
        base = _base()
        _build(base)
    return NAME


def sizes() -> tuple[int, int]:
    """Bytes of the base, and of the layers above it."""
    of_base, of_image = (int(run("image", "inspect", "--format={{.Size}}", name)) for name in (_base(), image()))
    return of_base, of_image - of_base


@cache
def _base() -> str:
    if os.geteuid() != 0:
        _skip("only root can make its base")
    problem = install_packages({name: name for name in PROGRAMS})
    if problem is not None:
        _skip(problem)
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    suite = release.get("VERSION_CODENAME", "").strip('"')
    places = (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*")))
    sources = [path for path in places if path.suffix in (".list", ".sources") and path.is_file()]
    mine = [str(path) for path in sources if re.search(rf"(?<![\w-]){suite}(?![\w-])", path.read_text())]
    if not (suite and mine):
        _skip("apt's sources of Debian were not found")
    tag = hashlib.sha256(repr((suite, BASE_PACKAGES)).encode()).hexdigest()[:12]
    name = f"{NAME}-base:{tag}"
    if subprocess.run(podman("image", "exists", name), capture_output=True, check=False).returncode != 0:
        archive = PLACE / "base.tar"
        options = ("--variant=extract", "--mode=root", f"--include={BASE_PACKAGES.replace(' ', ',')}")
        made = subprocess.run(
            ["mmdebstrap", *options, suite, str(archive), *mine],
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if made.returncode != 0:
            _skip(f"mmdebstrap failed: {made.stderr.strip()[-300:]}")
        run("import", f"--change=ENV PATH={BASE_PATH}", str(archive), name)
        archive.unlink()
    can = subprocess.run(
        podman("run", "--rm", "--network=host", *LIMITS, name, "true"), capture_output=True, text=True, check=False
    )
    if can.returncode != 0:
        _skip(f"podman runs no container here: {can.stderr.strip()[-300:]}")
    return name


def _build(base: str) -> None:
    options = ("--isolation=chroot", "--network=host", "--format=docker", "--layers", "--pull=never", f"--tag={NAME}")
    ran = subprocess.run(
        podman("build", *options, *_pip_settings(), *_arguments(base), "."),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    if ran.returncode != 0 and re.search(NO_INDEX, ran.stderr):
        _skip(f"the package index was not reached: {ran.stderr.strip()[-300:]}")
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-6000:]


def _arguments(base: str) -> list[str]:
    commit, created = (
        subprocess.run(
            ["git", "show", "--no-patch", f"--format={form}"], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip()
        for form in ("%H", "%cI")
    )
    values = {"BASE": base, "VERSION": relay.__version__, "REVISION": commit, "CREATED": created}
    return [f"--build-arg={name}={value}" for name, value in values.items()]


def _pip_settings() -> list[str]:
    """Options that give the build this machine's settings of pip, which the image does not keep."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found = dict(re.findall(r"^[\w:]+\.([\w-]+)='(.*)'$", listed, re.MULTILINE))
    (PLACE / "pip.conf").write_text(
        "[global]\n" + "".join(f"{key} = {value}\n" for key, value in found.items() if key != "no-cache-dir")
    )
    files = sorted({value for value in found.values() if value.startswith("/") and Path(value).exists()})
    mounted = [f"{PLACE / 'pip.conf'}:/etc/pip.conf:ro", *(f"{path}:{path}:ro" for path in files)]
    return [f"--volume={each}" for each in mounted]


def _skip(reason: str) -> None:
    pytest.skip(f"{NOT_HERE}{reason}")


if __name__ == "__main__":
    try:
        built = image()
    except pytest.skip.Exception as skipped:
        sys.exit(str(skipped).removeprefix(NOT_HERE))
    base_bytes, own_bytes = sizes()
    print(f"{own_bytes / 1e6:.0f} MB above a base of {base_bytes / 1e6:.0f} MB")
    archive = Path(sys.argv[1])
    archive.unlink(missing_ok=True)  # podman changes no archive
    run("save", f"--output={archive}", built)
