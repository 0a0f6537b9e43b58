"""What hatchling cannot say by a setting: the commit that is built, and the README for the package index.

`relay/_build.txt` is what `relay --version` prints. In this order: `REVOR_RELAY_COMMIT` with `SOURCE_DATE_EPOCH`, git's
HEAD, the file in an unpacked sdist. Without any, and in an editable install, there is no such file.
"""

import os
import re
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

TARGET = "relay/_build.txt"


HOME = "https://github.com/revor-relay/revor-relay"


class Readme(MetadataHookInterface):
    """README.md with links that work on the page of a package index, which has none of our files."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        text = re.sub(r"(!\[[^\]]*\]\()(?!https?:|#)", rf"\1{HOME}/raw/main/", text)
        text = re.sub(r"(\]\()(?!https?:|#)", rf"\1{HOME}/blob/main/", text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


class BuildInformation(BuildHookInterface[Any]):
    """Adds `relay/_build.txt` to a wheel and an sdist."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        found = None if version == "editable" else _build(Path(self.root))
        if found is not None:
            path = Path(self._folder.name) / "build.txt"
            path.write_text(found, encoding="ascii")
            path.chmod(0o644)
            build_data["force_include"][str(path)] = TARGET

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        self._folder.cleanup()


def _build(root: Path) -> str | None:
    """Such as `commit 1a2b3c4d, built 2026-12-02`: the day is the commit's. None if nothing says it."""
    commit, seconds, changed = os.environ.get("REVOR_RELAY_COMMIT"), os.environ.get("SOURCE_DATE_EPOCH"), ""
    if commit is None and (root / ".git").exists():
        commit, _, committed = _git(root, "show", "--no-patch", "--format=%H %ct", "HEAD").partition(" ")
        seconds = seconds or committed
        changed = " with changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else ""
    if not commit or not seconds:
        return None
    return f"commit {commit[:8]}{changed}, built {datetime.fromtimestamp(int(seconds), UTC).date()}"


def _git(root: Path, *arguments: str) -> str:
    """What git prints; nothing where it is not installed. The guide installs as root, in another user's clone."""
    command = ["git", "-c", "safe.directory=*", "-C", str(root), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603
    except OSError:
        return ""
