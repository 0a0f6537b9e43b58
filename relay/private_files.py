"""Files that only their owner may read, whatever the umask: the encryption key, the API token, the database, exports.

`create` never overwrites a file, follows a link or leaves a partial file. `read` refuses links and files that others
may read. `narrow` removes other users' permissions.
"""

import logging
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from relay.errors import SettingsError

log = logging.getLogger("relay.private_files")
"""The standard library's logger: it writes to stderr even if a command has not configured logging."""

MAX_BYTES = 4096
PRIVATE = 0o600


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """`$XDG_STATE_HOME/revor-relay`, by default `~/.local/state/revor-relay`. Raises SettingsError without a home."""
    base = environ.get("XDG_STATE_HOME", "")
    if base.startswith("/"):  # relative paths are ignored, as the XDG specification says
        return Path(base) / "revor-relay"
    home = environ.get("HOME", "")
    if not home.startswith("/"):
        raise SettingsError(
            "neither XDG_STATE_HOME nor HOME is set, so there is no folder for the encryption key and the API token: "
            "set XDG_STATE_HOME, or RELAY_ENCRYPTION_KEY and RELAY_TOKEN_FILE"
        )
    return Path(home) / ".local" / "state" / "revor-relay"


def create(path: Path, text: str, *, mode: int = PRIVATE) -> bool:
    """Creates the file with exactly this mode, and missing folders for their owner only. Raises OSError.

    Returns False if the file exists. The text is written under another name and then linked into place: of two
    processes the first wins, and neither reads a partial file.
    """
    _make_folder(path.parent)
    draft = _draft(path, text, mode)
    try:
        os.link(draft, path, follow_symlinks=False)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    _sync_folder(path)
    return True


def write_over(path: Path, text: str, *, mode: int = PRIVATE) -> None:
    """Creates or replaces the file; a link is replaced, not followed. Raises OSError."""
    draft = _draft(path, text, mode)
    try:
        draft.replace(path)
    except OSError:
        draft.unlink()
        raise
    _sync_folder(path)


def read(path: Path, what: str, *, most: int = MAX_BYTES) -> bytes:
    """The first 4 KiB of a file, or as many bytes as `most`. `what` names it in messages, such as "key file".

    Raises SettingsError if it is a link, not a regular file, or readable by others; FileNotFoundError; OSError.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO would block forever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        if path.is_symlink():
            raise SettingsError(f"the {what} {path} is a symbolic link: put the file itself there") from None
        raise
    with os.fdopen(descriptor, "rb") as stream:
        mode = os.fstat(stream.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise SettingsError(f"the {what} {path} is not a regular file: move it away")
        if mode & 0o077:
            raise SettingsError(f"others may read the {what} {path} ({stat.S_IMODE(mode):04o}): chmod 600 '{path}'")
        return stream.read(most)


def make_empty(path: Path) -> None:
    """Creates the file, empty, if it does not exist. Ignores errors: opening it later reports them."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
    except OSError:
        return
    os.fchmod(descriptor, PRIVATE)
    os.close(descriptor)


def narrow(path: Path) -> None:
    """Removes other users' permissions on the file, if it exists, and logs it."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:  # it does not exist
        return
    if not mode & 0o077:
        return
    try:
        path.chmod(mode & 0o700)
    except OSError as error:
        log.warning("%s is open to others (%04o), and that cannot be changed: %s", path, mode, error.strerror)
    else:
        log.warning("%s was open to others (%04o): now only its owner may read and write it", path, mode)


def _make_folder(path: Path) -> None:
    """Missing parents are private too: a user who may write to one could replace the folder."""
    if not path.is_dir():
        _make_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def _draft(path: Path, text: str, mode: int) -> Path:
    draft = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), mode)  # regardless of the umask
            stream.write(text.encode())
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        draft.unlink()
        raise
    return draft


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
