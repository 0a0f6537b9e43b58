"""The command that installs an extra, by where the relay was installed from."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from relay import installation
from relay.installation import install_command, reinstall_command

REQUIRES = ['asyncpg>=0.31; extra == "postgres"', "starlette>=1.10,<2", "liquid<2.4,>=2.3 ; extra == 'templates'"]
PIP = [sys.executable, "-m", "pip", "install"]


class Installed:
    """A distribution. `origin`: its direct_url.json."""

    def __init__(self, origin: Any) -> None:
        self.origin = origin if isinstance(origin, str | None) else json.dumps(origin)
        self.requires = REQUIRES

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self.origin


def installed(monkeypatch: pytest.MonkeyPatch, origin: Any) -> None:
    monkeypatch.setattr(installation, "distribution", lambda name: Installed(origin))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a name that needs quotes, in a shell and in a URL."""
    folder = tmp_path / "my clone [1] #2"
    folder.mkdir()
    return folder


def test_extra_comes_from_the_folder_or_the_wheel_that_the_relay_came_from(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = place / "revor_relay-0.2.0-py3-none-any.whl"
    wheel.touch()
    installed(monkeypatch, {"url": place.as_uri(), "dir_info": {}})
    assert shlex.split(install_command("postgres")) == [*PIP, f"{place}[postgres]"]
    assert reinstall_command() == shlex.join([*PIP, "--force-reinstall", "--no-deps", str(place)])
    installed(monkeypatch, {"url": place.as_uri(), "dir_info": {"editable": True}})
    assert shlex.split(install_command("postgres")) == [*PIP, "-e", f"{place}[postgres]"]
    installed(monkeypatch, {"url": wheel.as_uri(), "archive_info": {}})
    assert shlex.split(install_command("postgres")) == [*PIP, f"{wheel}[postgres]"]


def test_extra_comes_from_the_repository_or_the_address_that_the_relay_came_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = "https://git.example/relay.git"
    installed(monkeypatch, {"url": url, "vcs_info": {"vcs": "git", "commit_id": "304fd10"}})
    assert shlex.split(install_command("kafka")) == [*PIP, f"revor-relay[kafka] @ git+{url}@304fd10"]
    installed(monkeypatch, {"url": "https://files.example/relay.whl", "archive_info": {}})
    assert shlex.split(install_command("kafka")) == [*PIP, "revor-relay[kafka] @ https://files.example/relay.whl"]


@pytest.mark.parametrize(
    "origin",
    [None, "", "{", "[]", "7", {}, {"url": 7}, {"url": "file:///nowhere/at/all", "dir_info": {}}],
    ids=str,
)
def test_extra_is_its_packages_where_nothing_says_from_where_the_relay_came_or_that_is_gone(
    origin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, origin)
    assert shlex.split(install_command("postgres")) == [*PIP, "asyncpg>=0.31"]
    assert shlex.split(install_command("templates")) == [*PIP, "liquid<2.4,>=2.3"]
    assert reinstall_command() is None
