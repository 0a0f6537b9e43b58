"""Files that only their owner may read, whatever the umask and whatever exists already."""

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay import private_files
from relay.cli import run


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_created_file_is_private(umask: int, tmp_path: Path) -> None:
    private_files.make_empty(tmp_path / "new")
    assert private_files.create(tmp_path / "made", "text")
    private_files.write_over(tmp_path / "over", "text")
    assert [mode_of(tmp_path / name) for name in ("new", "made", "over")] == [0o600] * 3


def test_created_folders_are_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        private_files.create(tmp_path / "a" / "b" / "c" / "made", "text")
    finally:
        os.umask(before)
    assert [mode_of(tmp_path / name) for name in ("a", "a/b", "a/b/c")] == [0o700] * 3


def test_permissions_of_others_are_removed_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "relay.db"
    path.write_bytes(b"kept")
    path.chmod(0o644)
    with caplog.at_level(logging.WARNING, "relay.private_files"):
        private_files.make_empty(path)
        private_files.narrow(path)
    assert caplog.messages == [f"{path} was open to others (0644): now only its owner may read and write it"]
    assert (mode_of(path), path.read_bytes()) == (0o600, b"kept")
    caplog.clear()
    private_files.narrow(path)
    private_files.narrow(tmp_path / "nothing")
    private_files.make_empty(tmp_path / "nowhere" / "relay.db")
    assert caplog.messages == []


def test_create_never_overwrites_and_never_follows_a_link(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "key", tmp_path / "elsewhere"
    path.symlink_to(elsewhere)
    assert not private_files.create(path, "text")
    assert not elsewhere.exists()
    elsewhere.write_text("theirs")
    assert not private_files.create(path, "text")
    private_files.write_over(path, "mine")
    assert (path.is_symlink(), path.read_text(), elsewhere.read_text()) == (False, "mine", "theirs")
    assert not private_files.create(path, "text")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["elsewhere", "key"]


@pytest.mark.parametrize("name", ["relay.yaml", "revor.key"])
@pytest.mark.parametrize("force", [False, True])
def test_init_follows_no_link_and_keeps_existing_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, force: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("relay.cli.node.local._asked_key", lambda: "sk-revor-something")
    monkeypatch.setattr("relay.cli.node.local.is_terminal", lambda: True)
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    assert run(["init", *(["--force"] if force else [])]) == (0 if force else 2)
    assert not (tmp_path / "elsewhere").exists()
    assert (tmp_path / name).is_symlink() is not force
    if force:
        assert mode_of(tmp_path / "revor.key") == 0o600
    else:
        assert f"{name} exists already. Overwrite it with --force" in capsys.readouterr().err
