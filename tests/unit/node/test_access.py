"""The token created for a node without one: created once, private, and sent only to this machine."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relay.cli import client
from relay.config.settings import AuthSettings, DatabaseSettings, Settings, TokenSettings, load_settings
from relay.errors import SettingsError
from relay.node import local_token

CHANGED = "rl_changed_0123456789abcdefghijklmnopqrstuvw"
OF_SETTINGS = "rl_given_0123456789abcdefghijklmnopqrstuvw"
HIDDEN = "rl_hidden_0123456789abcdefghijklmnopqrstuvw"
KEPT = "rl_kept_0123456789abcdefghijklmnopqrstuvw"
MINE = "rl_mine_0123456789abcdefghijklmnopqrstuvw"
OF_A_FILE = "rl_of_a_file_0123456789abcdefghijklmnopqrstuvw"
PLANTED = "rl_planted_0123456789abcdefghijklmnopqrstuvw"
GIVEN = TokenSettings(name="crm", token=OF_SETTINGS, scopes=("read",))


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_STATE_HOME": str(tmp_path / "state")}


@pytest.fixture
def path(environ: dict[str, str]) -> Path:
    return local_token.local_token_path(environ)


def put(path: Path, text: str, mode: int = 0o600) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_first_start_creates_a_private_token(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    token = local_token.make_local_token(environ)
    path = tmp_path / ".local" / "state" / "revor-relay" / "token"
    assert path.read_text() == f"{token}\n"
    assert token.startswith("rl_")
    assert len(token) == len("rl_") + 43  # 256 bits
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert local_token.make_local_token(environ) == token == local_token.local_token(environ)
    assert [one.name for one in path.parent.iterdir()] == ["token"]


def test_token_file_is_private_whatever_the_umask(umask: int, tmp_path: Path) -> None:
    folder = tmp_path / "state" / "revor-relay"
    os.umask(0)
    folder.mkdir(parents=True)
    os.umask(umask)
    local_token.make_local_token({"XDG_STATE_HOME": str(tmp_path / "state")})
    assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602])
def test_token_file_readable_by_others_is_refused(environ: dict[str, str], path: Path, mode: int) -> None:
    put(path, f"{HIDDEN}\n", mode)
    for read in (local_token.local_token, local_token.make_local_token, local_token.token_here):
        with pytest.raises(SettingsError) as caught:
            read(environ)
        assert str(caught.value) == f"others may read the token file {path} ({mode:04o}): chmod 600 '{path}'"
    assert path.read_text() == f"{HIDDEN}\n"


def test_a_symbolic_link_is_refused_and_not_followed(environ: dict[str, str], path: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    for there in (False, True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(elsewhere)
        if there:
            put(elsewhere, f"{PLANTED}\n")
        with pytest.raises(SettingsError, match="is a symbolic link"):
            local_token.make_local_token(environ)
        assert elsewhere.exists() is there


@pytest.mark.parametrize("content", ["", "\n", "two words", "rl_a\nrl_b", "é"])
def test_file_without_a_token_is_named(environ: dict[str, str], path: Path, content: str) -> None:
    put(path, content)
    with pytest.raises(SettingsError, match=r"does not contain an API token\. Remove it") as caught:
        local_token.local_token(environ)
    assert str(path) in str(caught.value)
    assert path.read_text() == content


@pytest.mark.parametrize(
    ("given", "dev", "kept", "names"),
    [
        ((), False, False, ["token file"]),
        ((), False, True, ["token file"]),
        ((GIVEN,), False, True, ["crm"]),
        ((), True, False, []),
        ((), True, True, ["token file"]),  # commands here send it
        ((GIVEN,), True, True, ["crm", "token file"]),
    ],
)
def test_accepted_tokens(
    environ: dict[str, str], path: Path, given: tuple[TokenSettings, ...], dev: bool, kept: bool, names: list[str]
) -> None:
    if kept:
        put(path, f"{KEPT}\n")
    settings = local_token.with_local_token(Settings(auth=AuthSettings(tokens=given), dev=dev), environ)
    assert [token.name for token in settings.auth.tokens] == names
    assert local_token.uses_local_token(settings) == ("token file" in names)
    assert path.exists() == (kept or "token file" in names)
    if "token file" in names:
        assert settings.auth.tokens[-1].scopes == ("admin",)
        assert settings.auth.tokens[-1].token == path.read_text().strip()


def test_postgresql_needs_a_configured_token(environ: dict[str, str], path: Path) -> None:
    put(path, f"{KEPT}\n")
    shared = Settings(database=DatabaseSettings(url="postgresql://relay@db/relay"))
    with pytest.raises(SettingsError, match="RELAY_TOKEN_FILE to a file with an API token, the same for every node"):
        local_token.with_local_token(shared, environ)
    assert local_token.with_local_token(shared, environ, has_stored=True) is shared
    given = shared.replace(auth=AuthSettings(tokens=(GIVEN,)))
    assert local_token.with_local_token(given, environ) is given
    assert local_token.with_local_token(shared.replace(dev=True), {}).auth.tokens == ()


# --- RELAY_TOKEN_FILE


def test_token_file_adds_an_admin_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings_file = tmp_path / "relay.yaml"
    settings_file.write_text(f"auth: {{tokens: [{{name: crm, token: {OF_SETTINGS}, scopes: [read]}}]}}\n")
    (tmp_path / "token").write_text(f"{OF_A_FILE}\n")
    monkeypatch.chdir(tmp_path)
    for name in ("token", str(tmp_path / "token")):
        tokens = load_settings(settings_file, {"RELAY_TOKEN_FILE": name}).auth.tokens
        assert [(one.token, one.scopes) for one in tokens] == [
            (OF_SETTINGS, ("read",)),
            (OF_A_FILE, ("admin",)),
        ]
    (tmp_path / "token").write_text(CHANGED)
    assert load_settings(None, {"RELAY_TOKEN_FILE": "token"}).auth.tokens[0].token == CHANGED
    assert load_settings(None, {"RELAY_TOKEN_FILE": ""}).auth.tokens == ()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist"),
        ("", "is empty"),
        ("rl_two words", "white space"),
        (OF_SETTINGS, r"contains the token crm of auth\.tokens"),
    ],
)
def test_wrong_token_file_is_named(tmp_path: Path, content: str | None, said: str) -> None:
    settings_file = tmp_path / "relay.yaml"
    settings_file.write_text(f"auth: {{tokens: [{{name: crm, token: {OF_SETTINGS}, scopes: [read]}}]}}\n")
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=said) as caught:
        load_settings(settings_file, {"RELAY_TOKEN_FILE": str(path)})
    assert str(caught.value).startswith("RELAY_TOKEN_FILE: ")
    assert not content or content not in str(caught.value)


# --- what the commands send


def sent(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Any:
    for name in ("RELAY_URL", "RELAY_TOKEN", "RELAY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return client.api()._headers.get("Authorization")


@pytest.mark.parametrize(
    ("url", "is_sent"),
    [
        ("", True),
        ("http://127.0.0.1:8080", True),
        ("http://localhost:9/base", True),
        ("https://[::1]:8080", True),
        ("http://relay.example.com", False),
        ("https://127.0.0.1.example.com", False),
        ("http://127.0.0.1@relay.example.com", False),
        ("http://localhost.example.com", False),
        ("http://0.0.0.0:8080", False),
        ("http://192.168.1.4:8080", False),
    ],
)
def test_local_token_is_sent_to_this_machine_only(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], path: Path, url: str, is_sent: bool, tmp_path: Path
) -> None:
    put(path, f"{KEPT}\n")
    assert sent(monkeypatch, **environ, RELAY_URL=url) == (f"Bearer {KEPT}" if is_sent else None)
    (tmp_path / "given").write_text(f"{OF_A_FILE}\n")
    found = sent(monkeypatch, **environ, RELAY_URL=url, RELAY_TOKEN_FILE=str(tmp_path / "given"))
    assert found == (f"Bearer {OF_A_FILE}" if is_sent else None)
    assert sent(monkeypatch, **environ, RELAY_URL=url, RELAY_TOKEN=MINE) == f"Bearer {MINE}"


def test_command_without_a_home_sends_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert sent(monkeypatch) is None
