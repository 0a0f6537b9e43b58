"""Packages of npm that check what the relay sends, and the TypeScript client, built."""

import fcntl
import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.lock import ROOT

NPM_SECONDS = 120
TYPESCRIPT = ROOT / "clients" / "typescript"


def npm_folder(tmp_path: Path, packages: Sequence[str]) -> Path:
    """A folder with the packages installed. Skips the test if they cannot be installed."""
    folder = tmp_path / "javascript"
    folder.mkdir()
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    _npm("install", folder, *packages)
    return folder


def typescript_client() -> Path:
    """The folder of the TypeScript client with what its lock pins, built into `dist`. Skips the test if that cannot be
    installed. Raises AssertionError if it does not compile."""
    lock, modules = TYPESCRIPT / "package-lock.json", TYPESCRIPT / "node_modules"
    sources = (lock, TYPESCRIPT / "tsconfig.json", *sorted((TYPESCRIPT / "src").iterdir()))
    with open(ROOT / ".venv-npm.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # the tests run in several processes
        if not _is_made(modules / ".installed", (lock,)):
            _npm("ci", TYPESCRIPT)
            _is_made(modules / ".installed", (lock,), now=True)
        if not _is_made(modules / ".built", sources):
            ran = subprocess.run(["npx", "tsc"], cwd=TYPESCRIPT, capture_output=True, text=True, timeout=NPM_SECONDS)
            assert ran.returncode == 0, ran.stdout
            _is_made(modules / ".built", sources, now=True)
    return TYPESCRIPT


def _is_made(note: Path, sources: Sequence[Path], *, now: bool = False) -> bool:
    """True if the note was written for these sources. `now`: writes it first."""
    digest = hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()
    if now:
        note.write_text(digest)
    return note.exists() and note.read_text() == digest


def _npm(action: str, folder: Path, *packages: str) -> None:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("NOT VERIFIED WITH JAVASCRIPT: node and npm are needed, and are not both here")
    command = [npm, action, "--no-audit", "--no-fund", "--ignore-scripts", *packages]
    try:
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=NPM_SECONDS)
    except subprocess.TimeoutExpired:
        pytest.skip(f"NOT VERIFIED WITH JAVASCRIPT: npm {action} took longer than {NPM_SECONDS} s")
    if ran.returncode != 0:
        pytest.skip(f"NOT VERIFIED WITH JAVASCRIPT: npm {action} failed: {ran.stderr.strip()[:500]}")
