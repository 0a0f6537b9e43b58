"""Files that only their owner may read, whatever the umask: the encryption key, the API token, the database, exports.

`create` never writes over a file, never follows a link and never leaves half a file. `read` refuses a file that is a
link, or that others may read. `narrow` takes others' rights to a file away.
"""

import logging
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from relay.errors import SettingsError

log = logging.getLogger("relay.files")
"""Of the standard library, which writes to stderr also where a command has set no logging up."""

MAX_BYTES = 4096
PRIVATE = 0o600


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """`$XDG_STATE_HOME/revor-relay`, by default `~/.local/state/revor-relay`. Raises SettingsError without a home."""
    base = environ.get("XDG_STATE_HOME", "")
    if base.startswith("/"):  # the XDG specification: a relative path is to be ignored
        return Path(base) / "revor-relay"
    home = environ.get("HOME", "")
    if not home.startswith("/"):
        raise SettingsError(
            "neither XDG_STATE_HOME nor HOME is set, so there is no folder for the encryption key and the API token: "
            "set XDG_STATE_HOME, or RELAY_ENCRYPTION_KEY and RELAY_TOKEN_FILE"
        )
    return Path(home) / ".local" / "state" / "revor-relay"


def create(path: Path, text: str, *, mode: int = PRIVATE) -> bool:
    """Makes the file, with exactly this mode. False where that name is taken. Raises OSError.

    The folders above are made too, for their owner only. The text is written under another name and linked into place:
    the first of two processes wins, and neither reads half a file.
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
    """Makes the file, or puts this one in its place; a link there is replaced, not followed. Raises OSError."""
    draft = _draft(path, text, mode)
    try:
        draft.replace(path)
    except OSError:
        draft.unlink()
        raise
    _sync_folder(path)


def read(path: Path, what: str) -> bytes:
    """The first 4 KiB of it; `what` names it in messages, such as "key file".

    Raises SettingsError where it is a link, no plain file, or others may read it; FileNotFoundError, OSError.
    """
    try:
        # Without O_NONBLOCK a FIFO of that name would block for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        if path.is_symlink():
            raise SettingsError(f"the {what} {path} is a symbolic link: put the file itself there") from None
        raise
    with os.fdopen(descriptor, "rb") as stream:
        mode = os.fstat(stream.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise SettingsError(f"the {what} {path} is no plain file: move it away")
        if mode & 0o077:
            raise SettingsError(f"others may read the {what} {path} ({stat.S_IMODE(mode):04o}): chmod 600 '{path}'")
        return stream.read(MAX_BYTES)


def make_empty(path: Path) -> None:
    """Makes the file, empty, where it is not there. Raises no error: opening it later tells what is wrong."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
    except OSError:
        return
    os.fchmod(descriptor, PRIVATE)
    os.close(descriptor)


def narrow(path: Path) -> None:
    """Takes others' rights to the file away, where it is there, and says so."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:  # it is not there
        return
    if not mode & 0o077:
        return
    try:
        path.chmod(mode & 0o700)
    except OSError as error:
        log.warning("%s is open to others (%04o), and that cannot be changed: %s", path, mode, error.strerror)
    else:
        log.warning("%s was open to others (%04o): now only its owner may read and write it", path, mode)


def private_opener(path: str, flags: int) -> int:
    """For `open`: a file that it makes is for its owner only."""
    return os.open(path, flags | os.O_CLOEXEC, PRIVATE)


def _make_folder(path: Path) -> None:
    """For its owner only, and so those above it that are missing: who may write there could replace it."""
    if not path.is_dir():
        _make_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def _draft(path: Path, text: str, mode: int) -> Path:
    draft = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), mode)  # the umask has no say
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
