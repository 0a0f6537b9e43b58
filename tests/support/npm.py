"""Packages of npm that check what the relay sends."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

NPM_SECONDS = 120


def npm_folder(tmp_path: Path, packages: Sequence[str]) -> Path:
    """A folder with the packages installed. Skips the test if they cannot be installed."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("NOT VERIFIED WITH JAVASCRIPT: node and npm are needed, and are not both here")
    folder = tmp_path / "javascript"
    folder.mkdir()
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", *packages]
    try:
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=NPM_SECONDS)
    except subprocess.TimeoutExpired:
        pytest.skip(f"NOT VERIFIED WITH JAVASCRIPT: npm install took longer than {NPM_SECONDS} s")
    if ran.returncode != 0:
        pytest.skip(f"NOT VERIFIED WITH JAVASCRIPT: npm install failed: {ran.stderr.strip()[:500]}")
    return folder
