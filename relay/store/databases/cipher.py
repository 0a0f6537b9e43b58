"""What encrypts stored values."""

from typing import Protocol


class Cipher(Protocol):
    """Encrypts stored values. `context` binds a ciphertext to its row."""

    def encrypt(self, plaintext: bytes, *, context: str) -> bytes:
        """The ciphertext."""

    def decrypt(self, blob: bytes, *, context: str) -> bytes:
        """The plaintext. Raises DecryptError."""
