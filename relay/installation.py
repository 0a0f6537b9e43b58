"""The way this relay was installed, and the commands that add an extra to it or install it again.

No package index has it, so pip is given the folder, wheel or repository that it was installed from, which pip and uv
note (PEP 610). Where that is gone, the command names the packages of the extra themselves.
"""

import json
import re
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

NAME = "revor-relay"
_ROOT = Path(__file__).resolve().parent.parent
_OF_EXTRA = re.compile(r"""(?P<requirement>[^;]+);.*\bextra == ['"](?P<extra>[\w-]+)['"]""")


def install_command(extra: str) -> str:
    """The command that installs an extra of this relay into this environment."""
    installed = _distribution()
    origin = _origin(installed)
    if origin is not None:
        return _command(*_from(origin, f"[{extra}]"))
    return _command(*(_packages(installed, extra) or [f"{NAME}[{extra}]"]))


def reinstall_command() -> str | None:
    """The command that installs this relay again; None if nothing says from where."""
    origin = _origin(_distribution())
    return None if origin is None else _command("--force-reinstall", "--no-deps", *_from(origin, ""))


def _command(*arguments: str) -> str:
    """For the environment of this interpreter. One that uv has made has no pip."""
    python = shlex.quote(sys.executable)
    pip = f"{python} -m pip install" if find_spec("pip") is not None else f"uv pip install --python {python}"
    return " ".join([pip, *map(shlex.quote, arguments)])


def _distribution() -> Distribution | None:
    try:
        return distribution(NAME)
    except PackageNotFoundError:
        return None


def _origin(installed: Distribution | None) -> Mapping[str, Any] | None:
    """The origin of the distribution by PEP 610; of one that is not installed, this source tree. None: an index, or a
    source that no longer exists."""
    if installed is None:
        return _of_folder(_ROOT)
    try:
        origin = json.loads(installed.read_text("direct_url.json") or "null")
        path = _path(origin["url"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return origin if path is None or path.exists() else None


def _of_folder(folder: Path) -> Mapping[str, Any] | None:
    is_source = (folder / "pyproject.toml").exists()
    return {"url": folder.as_uri(), "dir_info": {"editable": True}} if is_source else None


def _path(url: str) -> Path | None:
    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def _from(origin: Mapping[str, Any], extra: str) -> list[str]:
    """The arguments of pip for an origin."""
    url, path = str(origin["url"]), _path(str(origin["url"]))
    if path is not None:
        is_editable = (origin.get("dir_info") or {}).get("editable") is True
        return [*(["-e"] if is_editable else []), f"{path}{extra}"]
    vcs = origin.get("vcs_info") or {}
    source = f"{vcs['vcs']}+{url}@{vcs['commit_id']}" if {"vcs", "commit_id"} <= vcs.keys() else url
    return [f"{NAME}{extra} @ {source}"]


def _packages(installed: Distribution | None, extra: str) -> list[str]:
    """The requirements of an extra."""
    lines = (installed.requires if installed is not None else None) or ()
    found = [match for line in lines if (match := _OF_EXTRA.fullmatch(line.strip())) is not None]
    return [match["requirement"].strip() for match in found if match["extra"] == extra]
