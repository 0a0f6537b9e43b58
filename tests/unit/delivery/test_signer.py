"""Which secrets and keys sign a request of a subscription and of a callback."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from relay.core.subscriptions import signing
from relay.core.subscriptions.signing import new_secret, new_signing_key, public_key_of, verify
from relay.core.subscriptions.subscription import SigningSecret, Subscription
from relay.delivery.shared import DeliverySettings
from relay.delivery.worker import Signer
from tests.support.delivery_kit import shared

NOW = 1_800_000_000.0
OWN, SHARED, CONFIGURED = (new_secret(bytes([number]) * 32) for number in range(3))
PRIVATE = new_signing_key(bytes(range(32)))
PUBLIC = public_key_of(PRIVATE)
SUBSCRIPTION = Subscription(id="sub_1", sink="https://sink.example/", secrets=(SigningSecret(value=OWN),))


class Stored:
    """The relay's own secrets, and how often they were read."""

    def __init__(self) -> None:
        self.version = 1
        self.reads = 0
        self.keys = (SigningSecret(value=PRIVATE),)

    async def own_secrets(self) -> tuple[tuple[SigningSecret, ...], tuple[SigningSecret, ...]]:
        self.reads += 1
        return (SigningSecret(value=SHARED),), self.keys


def signer_of(stored: Stored, configured: tuple[SigningSecret, ...] = ()) -> Signer:
    store = SimpleNamespace(subscriptions=stored, secrets=stored)
    return Signer(shared(store, lambda: NOW, settings=DeliverySettings(callback_secrets=configured)))


async def signed(subscription: Subscription, configured: tuple[SigningSecret, ...] = ()) -> set[str]:
    """Which of the secrets and keys verify a request."""
    stored = Stored()
    signer = signer_of(stored, configured)
    await signer.refresh()
    headers = dict(signer.headers(subscription, message_id="evt_1", now=NOW, body=b"{}"))
    assert "  " not in headers["webhook-signature"]
    names = {"own": OWN, "shared": SHARED, "configured": CONFIGURED, "key": PUBLIC}
    return {name for name, secret in names.items() if verify(secret, headers, b"{}", now=NOW).ok}


@pytest.mark.parametrize(("signature", "expected"), [("v1", {"own"}), ("v1a", {"key"}), ("both", {"own", "key"})])
async def test_a_subscription_chooses_what_signs(signature: str, expected: set[str]) -> None:
    assert await signed(replace(SUBSCRIPTION, signature=signature)) == expected  # type: ignore[arg-type]


async def test_callbacks_get_both_signatures() -> None:
    callback = Subscription(id="sub_2", sink="https://sink.example/", callback=True)
    assert await signed(callback) == {"shared", "key"}
    given = tuple(SigningSecret(value=value) for value in (CONFIGURED, SHARED))
    assert await signed(callback, given[:1]) == {"configured", "key"}
    assert await signed(callback, given) == {"configured", "shared", "key"}


async def test_a_v1_subscription_does_not_pay_for_v1a(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("the private key was used")

    monkeypatch.setattr(signing, "_private_key", forbidden)
    assert await signed(SUBSCRIPTION) == {"own"}
    with pytest.raises(AssertionError):
        await signed(replace(SUBSCRIPTION, signature="both"))


async def test_keys_are_read_again_when_something_has_changed() -> None:
    stored = Stored()
    signer = signer_of(stored)
    for _ in range(3):
        await signer.refresh()
    assert stored.reads == 1
    stored.version += 1
    stored.keys = ()
    await signer.refresh()
    assert (stored.reads, signer.keys) == (2, ())
