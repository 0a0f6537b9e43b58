"""Encryption is bound to the row, readable with every key of the ring, and the key file is private."""

import base64
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config.keyring import (
    MAKE_KEY,
    KeyFile,
    Keyring,
    key_id,
    load_or_create_keyring,
    new_key,
)
from relay.errors import DecryptError, SettingsError

OLD, NEW = new_key(), new_key()


@given(st.binary(max_size=200), st.text(max_size=30))
def test_encrypted_text_decrypts(plaintext: bytes, context: str) -> None:
    ring = Keyring([NEW])
    blob = ring.encrypt(plaintext, context=context)
    assert ring.decrypt(blob, context=context) == plaintext
    assert blob != ring.encrypt(plaintext, context=context)


def test_modified_blob_or_blob_of_another_row_does_not_decrypt() -> None:
    ring = Keyring([NEW])
    blob = ring.encrypt(b"secret", context="sub_1")
    with pytest.raises(DecryptError, match="the secret of sub_2 was modified, or belongs to another row"):
        ring.decrypt(blob, context="sub_2")
    for index in range(len(blob)):
        changed = blob[:index] + bytes([blob[index] ^ 1]) + blob[index + 1 :]
        with pytest.raises(DecryptError):
            ring.decrypt(changed, context="sub_1")
    for cut in range(len(blob)):
        with pytest.raises(DecryptError):
            ring.decrypt(blob[:cut], context="sub_1")


@pytest.mark.parametrize(
    "key",
    ["", "hidden", NEW[:-1], NEW + "=", base64.urlsafe_b64encode(b"x" * 31).decode(), "é" * 44, "+/" * 21 + "A="],
    ids=["empty", "word", "cut", "padded", "short", "accents", "alphabet"],  # NEW differs in each test process
)
def test_a_malformed_key_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(SettingsError, match=r"encryption\.keys\[1\] must be 32 random bytes") as caught:
        Keyring([NEW, key])
    assert "hidden" not in str(caught.value)
    with pytest.raises(SettingsError, match=r"encryption\.keys is empty"):
        Keyring([])


def test_printed_command_creates_a_key() -> None:
    line = MAKE_KEY
    assert line.startswith("python3 -c ")
    code = line.removeprefix('python3 -c "').removesuffix('"')
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    Keyring([made])


def test_key_file_is_created_once_and_read_again(tmp_path: Path) -> None:
    state = tmp_path / "a" / "revor-relay"
    blob = load_or_create_keyring([], state_dir=state).encrypt(b"x", context="c")
    assert load_or_create_keyring([], state_dir=state).decrypt(blob, context="c") == b"x"
    assert [path.name for path in state.iterdir()] == ["key"]
    assert (state / "key").stat().st_mode & 0o777 == 0o600
    assert state.stat().st_mode & 0o777 == 0o700


def test_processes_that_race_for_the_key_file_agree(tmp_path: Path) -> None:
    for round_ in range(20):
        state = tmp_path / str(round_)
        with ThreadPoolExecutor(8) as pool:
            rings = list(pool.map(lambda _, where=state: load_or_create_keyring([], state_dir=where), range(8)))
        blob = rings[0].encrypt(b"x", context="c")
        assert all(ring.decrypt(blob, context="c") == b"x" for ring in rings)
        assert [path.name for path in state.iterdir()] == ["key"]


def test_crash_while_creating_the_key_file_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SettingsError, match="No space left on device"):
        load_or_create_keyring([], state_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_key_file_others_can_read_is_refused(tmp_path: Path) -> None:
    load_or_create_keyring([], state_dir=tmp_path)
    path = tmp_path / "key"
    for mode in (0o640, 0o604, 0o660):
        path.chmod(mode)
        with pytest.raises(SettingsError) as caught:
            load_or_create_keyring([], state_dir=tmp_path)
        assert str(caught.value) == f"others may read the key file {path} ({mode:04o}): chmod 600 '{path}'"


@pytest.mark.parametrize("content", [b"", b"hidden", b"\xff\xfe", b"A" * 5000])
def test_a_malformed_key_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(SettingsError) as caught:
        load_or_create_keyring([], state_dir=tmp_path)
    assert str(caught.value).startswith(f"{path}: the key file does not contain 32 bytes")
    assert "hidden" not in str(caught.value)
    assert path.read_bytes() == content


def test_key_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        load_or_create_keyring([], state_dir=tmp_path / "s")
    finally:
        os.umask(before)
    assert (tmp_path / "s" / "key").stat().st_mode & 0o777 == 0o600


def test_a_key_file_holds_several_keys_the_newest_first(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "state")
    (first,) = file.read_or_create()
    file.path.chmod(0o400)
    second, kept = file.add(1_800_000_000.0)
    assert (kept, file.read()) == (first, (second, first))
    assert file.path.stat().st_mode & 0o777 == 0o600
    text = file.path.read_text()
    assert f"# {key_id(second)}\n{second}\n# {key_id(first)}\n{first}\n" in text
    assert "Rotated on 2027-01-15" in text
    assert [path.name for path in file.path.parent.iterdir()] == ["key"]
    blob = Keyring([first]).encrypt(b"x", context="c")
    assert load_or_create_keyring([], state_dir=tmp_path / "state").decrypt(blob, context="c") == b"x"


def test_a_key_file_that_cannot_be_replaced_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = KeyFile(tmp_path / "state")
    before = file.read_or_create()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SettingsError, match=r"the key file cannot be replaced \(No space left on device\)"):
        file.add(0.0)
    assert file.read() == before
    assert [path.name for path in file.path.parent.iterdir()] == ["key"]


def test_a_lost_key_file_is_not_replaced_while_the_node_runs(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "state")
    file.read_or_create()
    file.path.unlink()
    for call in (file.read, lambda: file.add(0.0)):
        with pytest.raises(SettingsError, match=r"cannot be read \(No such file or directory\): restore a copy of it"):
            call()
    assert not file.path.exists()


@pytest.mark.parametrize(
    "text",
    ["# only a comment\n", "\n\n", f"{NEW}\nhidden\n", f"{NEW} {OLD}\n"],
    ids=["comment", "empty", "word", "one line"],  # NEW differs in each test process
)
def test_a_key_file_with_anything_else_is_refused(tmp_path: Path, text: str) -> None:
    file = KeyFile(tmp_path)
    file.path.write_text(text)
    file.path.chmod(0o600)
    with pytest.raises(SettingsError, match="does not contain 32 bytes") as caught:
        file.read_or_create()
    assert "hidden" not in str(caught.value)
