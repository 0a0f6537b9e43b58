"""Encryption of the secrets in the database: AES-256-GCM, bound to the row that holds them.

Keys come from `encryption.keys`, or from a file with one key a line, the one that encrypts first.

A blob is `version (1 byte) | key id (4) | nonce (12) | ciphertext and tag`. The key id is the start of the key's
SHA-256, so a blob names the key it needs. The row's id is authenticated as associated data, so a blob copied into
another row does not decrypt.
"""

import hashlib
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from relay import private_files
from relay.config.fields import decode_encryption_key
from relay.errors import DecryptError, SettingsError, refusal

_VERSION = b"\x01"
_KEY_ID_BYTES = 4
_NONCE_BYTES = 12
_TAG_BYTES = 16
_HEADER_BYTES = len(_VERSION) + _KEY_ID_BYTES + _NONCE_BYTES

MAX_KEYS = 20
MAX_FILE_BYTES = 16_384
MAKE_KEY = 'python3 -c "import base64, os; print(base64.urlsafe_b64encode(os.urandom(32)).decode())"'
"""A shell command that prints a new key, for messages."""


class _Keys(NamedTuple):
    """One state of a keyring, replaced as a whole because threads decrypt meanwhile."""

    first: bytes
    ciphers: dict[bytes, AESGCM]


class Keyring:
    """The encryption keys: the first encrypts, all decrypt. The repr shows none of them."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Keys are 32 bytes as URL-safe base64. Raises SettingsError if there is none or one is malformed."""
        self._keys = _read_keys(keys)

    def __repr__(self) -> str:
        return f"Keyring({len(self._keys.ciphers)} keys)"

    def replace(self, keys: Sequence[str]) -> None:
        """Uses these keys from now on. Raises SettingsError, and then keeps the old ones."""
        self._keys = _read_keys(keys)

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the keys in hex, the one that encrypts first."""
        return tuple(id.hex() for id in self._keys.ciphers)

    @property
    def header(self) -> bytes:
        """First bytes of every blob that the first key encrypts."""
        return _VERSION + self._keys.first

    def encrypt(self, plaintext: bytes, *, context: str) -> bytes:
        """Encrypts with the first key. `context`, the row's id, is needed again to decrypt."""
        first, ciphers = self._keys
        nonce = secrets.token_bytes(_NONCE_BYTES)
        header = _VERSION + first
        sealed = ciphers[first].encrypt(nonce, plaintext, header + context.encode())
        return header + nonce + sealed

    def decrypt(self, blob: bytes, *, context: str) -> bytes:
        """The plaintext of a blob encrypted for this context. Raises DecryptError."""
        if len(blob) < _HEADER_BYTES + _TAG_BYTES or blob[:1] != _VERSION:
            raise DecryptError(f"the secret of {context} is not a ciphertext of this program: restore it from a backup")
        key_id = blob[1 : 1 + _KEY_ID_BYTES]
        ciphers = self._keys.ciphers
        cipher = ciphers.get(key_id)
        if cipher is None:
            raise DecryptError(
                f"the secret of {context} was encrypted with the key {key_id.hex()}, which is not one of the "
                f"{len(ciphers)} configured: add it to encryption.keys, or restore the key file",
                key_id.hex(),
            )
        header, nonce, sealed = blob[:5], blob[5:_HEADER_BYTES], blob[_HEADER_BYTES:]
        try:
            return cipher.decrypt(nonce, sealed, header + context.encode())
        except InvalidTag:
            raise DecryptError(
                f"the secret of {context} was modified, or belongs to another row: restore it from a backup"
            ) from None


def new_key() -> str:
    """A new key: 32 random bytes as URL-safe base64."""
    return urlsafe_b64encode(secrets.token_bytes(32)).decode()


def load_or_create_keyring(keys: Sequence[str], *, state_dir: Path) -> Keyring:
    """The keyring of these keys or, without any, of the file `key` in `state_dir`, which is created if missing.

    Raises SettingsError if the file cannot be created or read, is malformed, or others may read it.
    """
    return Keyring(keys or KeyFile(state_dir).read_or_create())


class KeyFile:
    """The keys of a node whose settings have none: one a line, the one that encrypts first; `#` begins a comment. Only
    its owner may read it. It is replaced as a whole, so a crash leaves the old or the new file."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "key"

    def read_or_create(self) -> tuple[str, ...]:
        """The keys. Raises SettingsError."""
        try:
            if not self.path.exists():
                private_files.create(self.path, f"{new_key()}\n")
        except OSError as error:
            raise self._unusable("created or read", error) from None
        return self.read()

    def read(self) -> tuple[str, ...]:
        """The keys of an existing file: a running node must not replace a lost one. Raises SettingsError."""
        try:
            text = private_files.read(self.path, "key file", most=MAX_FILE_BYTES).decode("ascii")
            lines = [line.strip() for line in text.splitlines()]
            keys = tuple(line for line in lines if line and not line.startswith("#"))
            for key in keys:
                decode_encryption_key(key)
            if not keys:
                raise ValueError("there is no key")
        except OSError as error:
            raise self._unusable("read", error) from None
        except ValueError:
            raise SettingsError(
                f"{self.path}: the key file does not contain 32 bytes as URL-safe base64: restore a copy of it "
                "(secrets encrypted with it are lost otherwise)"
            ) from None
        return keys

    def add(self, now: float) -> tuple[str, ...]:
        """Adds a new key that encrypts from now on, and keeps the others, which still decrypt. Returns all keys. Raises
        SettingsError."""
        keys = self.read()
        if len(keys) >= MAX_KEYS:
            raise SettingsError(f"{self.path} has {len(keys)} keys: remove those that are no longer used")
        made = (new_key(), *keys)
        day = time.strftime("%Y-%m-%d", time.gmtime(now))
        lines = [
            f"# Encryption keys: the first line encrypts, all decrypt. Rotated on {day}. Keep a copy.",
            *(line for key in made for line in (f"# {key_id(key)}", key)),
        ]
        try:
            private_files.write_over(self.path, "\n".join(lines) + "\n")
        except OSError as error:
            raise self._unusable("replaced", error) from None
        return made

    def _unusable(self, what: str, error: OSError) -> SettingsError:
        remedy = "restore a copy of it" if isinstance(error, FileNotFoundError) else "set RELAY_ENCRYPTION_KEY instead"
        return SettingsError(f"{self.path}: the key file cannot be {what} ({refusal(error)}): {remedy}")


def key_id(key: str) -> str:
    """The id of a key, in hex. Raises ValueError if it is malformed."""
    return _key_id(decode_encryption_key(key)).hex()


def _read_keys(keys: Sequence[str]) -> _Keys:
    if not keys:
        raise SettingsError("encryption.keys is empty: create a key with `relay keys generate`")
    ciphers: dict[bytes, AESGCM] = {}
    for index, key in enumerate(keys):
        try:
            raw = decode_encryption_key(key)
        except ValueError as error:
            raise SettingsError(f"encryption.keys[{index}] {error}: create one with `relay keys generate`") from None
        ciphers.setdefault(_key_id(raw), AESGCM(raw))
    return _Keys(next(iter(ciphers)), ciphers)


def _key_id(raw: bytes) -> bytes:
    return hashlib.sha256(raw).digest()[:_KEY_ID_BYTES]
