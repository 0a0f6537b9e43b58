"""The API token of a node that has none: created at the first start, in a file readable only by its owner.

It is added to the settings (`with_local_token`), and commands on this machine send it (`token_here`). Nodes that share
PostgreSQL must be given a token, because one node's file is unknown to the others.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from relay.core.access.tokens import weakness_of
from relay.errors import SettingsError, refusal
from relay.ids import new_token
from relay.private_files import create, default_state_dir, read

if TYPE_CHECKING:
    from relay.config.settings import Settings

LOCAL_NAME = "token file"
"""Cannot clash with a token of the settings, whose names have no spaces."""
NO_ACCESS = (
    "there is no API token: create one with `relay tokens add NAME --scopes admin`, or set RELAY_TOKEN_FILE to a "
    "file with an API token, the same for every node. With PostgreSQL none is created at the first start"
)


def local_token_path(environ: Mapping[str, str]) -> Path:
    """The file with this machine's token. Raises SettingsError if there is no home directory."""
    return default_state_dir(environ) / "token"


def local_token(environ: Mapping[str, str]) -> str | None:
    """This machine's token, or None. Raises SettingsError if the file is unusable or others may read it."""
    path = local_token_path(environ)
    try:
        token = read(path, "token file").decode("ascii").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SettingsError(f"the API token in {path} cannot be read ({refusal(error)})") from None
    except UnicodeDecodeError:
        token = ""
    if not token or not token.isprintable() or " " in token:
        raise SettingsError(
            f"the file {path} does not contain an API token. Remove it, and `relay serve` creates another"
        )
    weakness = weakness_of(token)
    if weakness is not None:
        raise SettingsError(f"the API token in {path} {weakness}. Remove it, and `relay serve` creates another")
    return token


def token_here(environ: Mapping[str, str]) -> str | None:
    """The token that commands send to a relay on this machine: from RELAY_TOKEN_FILE, else this machine's.

    None if there is neither. Raises SettingsError if a file exists but cannot be used.
    """
    given = environ.get("RELAY_TOKEN_FILE")
    if given:
        try:
            return Path(given).read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            reason = refusal(error) if isinstance(error, OSError) else "it is not text"
            raise SettingsError(f"RELAY_TOKEN_FILE: {given} cannot be read ({reason})") from None
    try:
        local_token_path(environ)
    except SettingsError:  # no home, so none was created
        return None
    return local_token(environ)


def make_local_token(environ: Mapping[str, str]) -> str:
    """This machine's token, created if there is none. Never overwrites a file. Raises SettingsError."""
    found = local_token(environ)
    if found is not None:
        return found
    path = local_token_path(environ)
    try:
        create(path, f"{new_token()}\n")
    except OSError as error:
        raise SettingsError(
            f"the API token cannot be stored in {path} ({refusal(error)}): set RELAY_TOKEN_FILE or auth.tokens"
        ) from None
    found = local_token(environ)
    if found is None:
        raise SettingsError(f"{path} was removed while it was created: start again")
    return found


def with_local_token(settings: "Settings", environ: Mapping[str, str], *, has_stored: bool = False) -> "Settings":
    """The settings, with this machine's token if they have none. With `dev`, or with `has_stored`, it is added if it
    exists. `has_stored`: the database has a token.

    Raises SettingsError if a token is needed and cannot be created.
    """
    from relay.config.settings import TokenSettings, with_token
    from relay.store.databases.postgres_engine import is_postgres

    given = settings.auth.tokens
    if settings.dev:  # callers on this machine need none, but commands send it if it exists
        try:
            token = local_token(environ)
        except SettingsError:
            token = None
    elif given:
        return settings
    elif is_postgres(settings.database.url):
        if not has_stored:
            raise SettingsError(NO_ACCESS)
        token = None
    else:
        token = local_token(environ) if has_stored else make_local_token(environ)
    if token is None or any(token == one.token for one in given):
        return settings
    made = TokenSettings.model_construct(name=LOCAL_NAME, token=token, scopes=("admin",))
    return with_token(settings, made, place=str(local_token_path(environ)))


def uses_local_token(settings: "Settings") -> bool:
    """True if `with_local_token` has added this machine's token."""
    return any(token.name == LOCAL_NAME for token in settings.auth.tokens)
