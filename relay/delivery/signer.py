"""Signs requests with the right secrets and keys.

A subscription's own secrets make `v1` signatures, the relay's key pair makes `v1a` signatures. Callbacks share the
relay's default secret, so they get both: a holder of that secret can forge a `v1`, but never a `v1a`.
"""

from typing import TYPE_CHECKING

from relay.core.subscriptions import signing
from relay.core.subscriptions.subscription import SigningSecret, Subscription

if TYPE_CHECKING:
    from relay.delivery.shared import Shared

Headers = tuple[tuple[str, str], ...]


class Signer:
    """Signs requests. Rotated secrets sign until they expire."""

    def __init__(self, shared: "Shared") -> None:
        self._shared = shared
        self._stored: tuple[SigningSecret, ...] = ()
        self._keys: tuple[SigningSecret, ...] = ()
        self._version = -1

    async def refresh(self) -> None:
        """Reloads the relay's secrets and keys if they, or a subscription, have changed."""
        version = self._shared.store.subscriptions.version
        if version != self._version:
            self._stored, self._keys = await self._shared.store.secrets.own_secrets()
            self._version = version

    @property
    def callback_secrets(self) -> tuple[SigningSecret, ...]:
        """The secrets of requests to callback URLs, the newest first."""
        return self._shared.settings.callback_secrets or self._stored

    @property
    def keys(self) -> tuple[SigningSecret, ...]:
        """The private keys `whsk_…`, the newest first. Some may have expired."""
        return self._keys

    def headers(self, subscription: Subscription, *, message_id: str, now: float, body: bytes) -> Headers:
        """The signature headers of a request."""
        if subscription.callback:
            secrets = self.callback_secrets + self._keys
        elif subscription.signature == "v1":
            secrets = subscription.secrets
        elif subscription.signature == "v1a":
            secrets = self._keys
        else:
            secrets = subscription.secrets + self._keys
        return signing.signature_headers(secrets, message_id=message_id, now=now, body=body)
