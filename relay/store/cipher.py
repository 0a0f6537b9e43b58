"""What encrypts stored values."""

from collections.abc import Mapping
from typing import Any, Protocol

import structlog

from relay.core.jsontext import dumps
from relay.errors import StoreError

log = structlog.get_logger("relay.store")


class Cipher(Protocol):
    """Encrypts stored values. `context` binds a ciphertext to its row."""

    def encrypt(self, plaintext: bytes, *, context: str) -> bytes:
        """The ciphertext. Raises StoreError while this node must not encrypt."""

    def decrypt(self, blob: bytes, *, context: str) -> bytes:
        """The plaintext."""


def sealed_if_possible(cipher: Cipher, document: Mapping[str, Any], *, context: str) -> bytes | None:
    """The ciphertext of what a create or a job can do without: neither may fail for it. None while this node must not
    encrypt."""
    try:
        return cipher.encrypt(dumps(document), context=context)
    except StoreError as error:
        log.warning("recipient_not_kept", id=context, error=str(error))
        return None
