"""Encryption of the secrets in the database: AES-256-GCM, bound to the row that holds them.

A blob is `version (1 byte) | key id (4) | nonce (12) | ciphertext and tag`. The key id is the start of the key's
SHA-256, so a blob names the key it needs. The row's id is authenticated as associated data, so a blob copied into
another row does not decrypt.
"""

import hashlib
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from relay import private_files
from relay.config.fields import decode_encryption_key
from relay.errors import RelayError, SettingsError

_VERSION = b"\x01"
_KEY_ID_BYTES = 4
_NONCE_BYTES = 12
_TAG_BYTES = 16
_HEADER_BYTES = len(_VERSION) + _KEY_ID_BYTES + _NONCE_BYTES

_MAKE_KEY = 'python3 -c "import base64, os; print(base64.urlsafe_b64encode(os.urandom(32)).decode())"'


class DecryptError(RelayError):
    """A secret in the database cannot be decrypted with the configured keys."""

    code = "decrypt_failed"
    exit_code = 2


class Keyring:
    """The encryption keys: the first encrypts, all decrypt. The repr shows none of them."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Keys are 32 bytes as URL-safe base64. Raises SettingsError if there is none or one is malformed."""
        if not keys:
            raise SettingsError(f"encryption.keys is empty: create a key with {_MAKE_KEY}")
        self._ciphers: dict[bytes, AESGCM] = {}
        for index, key in enumerate(keys):
            try:
                raw = decode_encryption_key(key)
            except ValueError as error:
                raise SettingsError(f"encryption.keys[{index}] {error}: create one with {_MAKE_KEY}") from None
            self._ciphers.setdefault(_key_id(raw), AESGCM(raw))
        self._first = next(iter(self._ciphers))

    def __repr__(self) -> str:
        return f"Keyring({len(self._ciphers)} keys)"

    def encrypt(self, plaintext: bytes, *, context: str) -> bytes:
        """Encrypts with the first key. `context`, the row's id, is needed again to decrypt."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        header = _VERSION + self._first
        sealed = self._ciphers[self._first].encrypt(nonce, plaintext, header + context.encode())
        return header + nonce + sealed

    def decrypt(self, blob: bytes, *, context: str) -> bytes:
        """The plaintext of a blob encrypted for this context. Raises DecryptError."""
        if len(blob) < _HEADER_BYTES + _TAG_BYTES or blob[:1] != _VERSION:
            raise DecryptError(f"the secret of {context} is not a ciphertext of this program: restore it from a backup")
        key_id = self._id_of(blob)
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise DecryptError(
                f"the secret of {context} was encrypted with the key {key_id.hex()}, which is not one of the "
                f"{len(self._ciphers)} configured: add it to encryption.keys, or restore the key file"
            )
        header, nonce, sealed = blob[:5], blob[5:_HEADER_BYTES], blob[_HEADER_BYTES:]
        try:
            return cipher.decrypt(nonce, sealed, header + context.encode())
        except InvalidTag:
            raise DecryptError(
                f"the secret of {context} was modified, or belongs to another row: restore it from a backup"
            ) from None

    def is_current(self, blob: bytes) -> bool:
        """Whether the first key encrypted this blob. Rotation encrypts the others again."""
        return blob[:1] == _VERSION and self._id_of(blob) == self._first

    @staticmethod
    def _id_of(blob: bytes) -> bytes:
        return blob[1 : 1 + _KEY_ID_BYTES]


def new_key() -> str:
    """A new key: 32 random bytes as URL-safe base64."""
    return urlsafe_b64encode(secrets.token_bytes(32)).decode()


def python_line_that_makes_a_key() -> str:
    """A shell command that prints a new key, for messages."""
    return _MAKE_KEY


def load_or_create_keyring(keys: Sequence[str], *, state_dir: Path) -> Keyring:
    """The keyring of these keys or, without any, of the file `key` in `state_dir`, which is created if missing.

    Raises SettingsError if the file cannot be created or read, is malformed, or others may read it.
    """
    if keys:
        return Keyring(keys)
    path = state_dir / "key"
    try:
        if not path.exists():
            private_files.create(path, f"{new_key()}\n")
        return _read(path)
    except OSError as error:
        raise SettingsError(
            f"{path}: the key file cannot be created or read ({error.strerror}): set RELAY_ENCRYPTION_KEY instead"
        ) from None


def _read(path: Path) -> Keyring:
    try:
        key = private_files.read(path, "key file").decode("ascii").strip()
        decode_encryption_key(key)
    except ValueError:
        raise SettingsError(
            f"{path}: the key file does not contain 32 bytes as URL-safe base64: restore a copy of it "
            "(secrets encrypted with it are lost otherwise)"
        ) from None
    return Keyring([key])


def _key_id(raw: bytes) -> bytes:
    return hashlib.sha256(raw).digest()[:_KEY_ID_BYTES]
