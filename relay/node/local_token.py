"""The API token of a node to which nobody gave one: made at the first start, in a file that only its owner may read.

`serve` takes it in where the settings have no token (`with_local_token`). Commands on this machine read it there
(`token_for`). Nodes that share PostgreSQL have to be given a token: a file on one of them is unknown to the others.
"""

import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from relay.errors import SettingsError
from relay.private_files import create, default_state_dir, read

if TYPE_CHECKING:
    from relay.config.settings import Settings

LOCAL_NAME = "token file"
"""No token of the settings can be called so: names have no spaces there."""
MAKE_TOKEN = "python3 -c \"import secrets; print('rl_' + secrets.token_urlsafe(32))\""  # noqa: S105 (a command)
NO_TOKEN = (
    "set RELAY_TOKEN_FILE to a file with an API token, the same for every node: with PostgreSQL none is made. "
    f"This makes one: (umask 077; {MAKE_TOKEN} > relay.token)"
)


def new_token() -> str:
    """256 random bits, with the prefix by which logs recognise a token."""
    return f"rl_{secrets.token_urlsafe(32)}"


def local_token_path(environ: Mapping[str, str]) -> Path:
    """Where the token of this machine is kept. Raises SettingsError where there is no home."""
    return default_state_dir(environ) / "token"


def local_token(environ: Mapping[str, str]) -> str | None:
    """The token of this machine; None where none was made. Raises SettingsError where others may know it."""
    path = local_token_path(environ)
    try:
        token = read(path, "token file").decode("ascii").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SettingsError(f"the API token in {path} can not be read ({error.strerror})") from None
    except UnicodeDecodeError:
        token = ""
    if not token or not token.isprintable() or " " in token:
        raise SettingsError(f"the file {path} does not hold an API token. Remove it, and `relay serve` makes another")
    return token


def token_here(environ: Mapping[str, str]) -> str | None:
    """What a command sends to a relay on this machine: the token of RELAY_TOKEN_FILE, else the one that is kept here.

    None where there is neither. Raises SettingsError where a file is there and cannot be used.
    """
    given = environ.get("RELAY_TOKEN_FILE")
    if given:
        try:
            return Path(given).read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise SettingsError(f"RELAY_TOKEN_FILE: {given} can not be read ({reason})") from None
    try:
        local_token_path(environ)
    except SettingsError:  # no home, so none was made
        return None
    return local_token(environ)


def make_local_token(environ: Mapping[str, str]) -> str:
    """The token of this machine, made where there is none; a file that is there stays. Raises SettingsError."""
    found = local_token(environ)
    if found is not None:
        return found
    path = local_token_path(environ)
    try:
        create(path, f"{new_token()}\n")
    except OSError as error:
        raise SettingsError(
            f"the API token can not be kept in {path} ({error.strerror}): set RELAY_TOKEN_FILE or auth.tokens"
        ) from None
    found = local_token(environ)
    if found is None:
        raise SettingsError(f"{path} was removed while it was made: start again")
    return found


def with_local_token(settings: "Settings", environ: Mapping[str, str]) -> "Settings":
    """The settings with the token of this machine where they have none; with `dev`, where one was made before.

    Raises SettingsError where there is none and none can be made.
    """
    from relay.config.settings import TokenSettings
    from relay.store.postgres_engine import is_postgres

    given = settings.auth.tokens
    if settings.dev:  # callers on this machine need none, but the commands send it if it is there
        try:
            token = local_token(environ)
        except SettingsError:
            token = None
    elif given:
        return settings
    elif is_postgres(settings.database.url):
        raise SettingsError(NO_TOKEN)
    else:
        token = make_local_token(environ)
    if token is None or any(token == one.token for one in given):
        return settings
    local = TokenSettings(name=LOCAL_NAME, token=token, scopes=("admin",))
    return replace(settings, auth=replace(settings.auth, tokens=(*given, local)))


def uses_local_token(settings: "Settings") -> bool:
    """Whether `with_local_token` has put the token of this machine in."""
    return any(token.name == LOCAL_NAME for token in settings.auth.tokens)
