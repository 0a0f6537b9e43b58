"""The two versions that against.py compares: REF, installed under .venv-bench/COMMIT from its own lock, and HEAD, which
is this folder with the changes in it and its .venv."""

import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from against_judge import named_commit
from dropin_world import ROOT

CACHE = ROOT / ".venv-bench"
LOCK = Path("tests") / "requirements.lock"


class NotInstalled(Exception):
    """REF cannot be found or installed. The message says why, in one line or with the installer's output."""


@dataclass(frozen=True, slots=True)
class Version:
    """A version of the relay that can be run. `name`: REF or HEAD; `commit` says which one it is."""

    name: str
    commit: str
    root: Path
    python: str

    def __str__(self) -> str:
        return f"{self.name} {self.commit}"


def head() -> Version:
    """This folder."""
    commit = _git("rev-parse", "--short=8", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return Version("HEAD", f"{commit} with changes" if changed else commit, ROOT, sys.executable)


def default_ref() -> str:
    """The commit that CHANGELOG.md names under its newest heading, else the last tag. Raises NotInstalled."""
    named = named_commit((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    try:
        return named or _git("describe", "--tags", "--abbrev=0")
    except NotInstalled:
        raise NotInstalled(
            "no commit to compare with: name one (REF=304fd10), or write 'Compared with: COMMIT' under the newest"
            " heading of CHANGELOG.md"
        ) from None


def installed(ref: str) -> Version:
    """That commit with the packages of its own lock. The first time it is installed, which takes a minute. Raises
    NotInstalled."""
    try:
        commit = _git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    except NotInstalled:
        raise NotInstalled(f"{ref!r} is no commit of this repository. A shallow clone lacks most: git fetch") from None
    folder = CACHE / commit[:12]
    version = Version("REF", commit[:8], folder / "tree", str(folder / "venv" / "bin" / "python"))
    ready = folder / "ready"
    if ready.exists() and ready.read_text() == str(folder):  # an environment knows the path that it was made at
        return version
    print(f"installing {commit[:8]} under {folder.relative_to(ROOT)} (a minute, the first time)", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    version.root.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as tree:
        tree.extractall(version.root, filter="data")
    lock = version.root / LOCK
    if not lock.exists():
        raise NotInstalled(f"{commit[:8]} has no {LOCK}: it is too old to be installed as it was")
    hashed = ["--require-hashes"] if "--hash=" in lock.read_text() else []
    pip = [version.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in (
        [sys.executable, "-m", "venv", str(folder / "venv")],
        [*pip, "--no-compile", "--no-deps", *hashed, "-r", str(lock)],
        [*pip, "--no-deps", "--no-build-isolation", "-e", str(version.root)],
        [version.python, "-m", "compileall", "-q", str(version.root / "relay"), str(version.root / "subscribers")],
    ):
        _run(command)
    ready.write_text(str(folder))
    return version


def _git(*arguments: str) -> str:
    return _run(["git", "-C", str(ROOT), *arguments])


def _run(command: list[str]) -> str:
    unset = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE"}
    environ = {name: value for name, value in os.environ.items() if name not in unset}
    try:
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NotInstalled(f"{command[0]} is not installed") from None
    if done.returncode:
        raise NotInstalled(f"{' '.join(command[:4])} … failed:\n{done.stderr[-2000:]}")
    return done.stdout.strip()
