"""`/v1/keys`: the relay's own keys and their rotation. `/.well-known/webhook-keys.json`: the public ones."""

import secrets
from functools import partial
from typing import Any, Literal

from pydantic import Field
from starlette.responses import Response

from relay.api.http.auth import ADMINS, PUBLIC
from relay.api.http.fields import Nothing
from relay.api.http.idempotency import STORED
from relay.api.http.operations import Answer, Call, Operation, json_response
from relay.api.http.shown import Shown, Time
from relay.api.subscriptions.subscriptions import RotatedSecret, SecretRotation, add_secret, rotated
from relay.clock import to_rfc3339
from relay.core.subscriptions.signing import ED25519_BYTES, key_id_of, new_signing_key, public_key_of
from relay.core.subscriptions.subscription import SigningSecret
from relay.errors import Conflict, SettingsError
from relay.store.subscriptions.secrets import CALLBACK_OWNER, SIGNING_OWNER


class PublicKey(Shown):
    """A public key that verifies `v1a` signatures."""

    id: str = Field(examples=["3b6a27bcceb6a42d"])
    scheme: Literal["v1a"]
    algorithm: Literal["ed25519"]
    public_key: str = Field(examples=["whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="])
    valid_from: Time
    valid_until: Time | None


class PublicKeys(Shown):
    """The public keys, the newest first."""

    keys: list[PublicKey]


class Rotation(Shown):
    """One part of a rotation of the encryption keys: how many secrets were encrypted again, and how many are left.
    `unused` keys may be removed."""

    key: str = Field(examples=["0c1d2e3f"])
    done: int = Field(examples=[1200])
    left: int
    unused: list[str] = Field(examples=[["8a9b0c1d"]])
    problem: str | None


class EncryptionKeys(Shown):
    """The ids of this node's encryption keys, the one that encrypts first."""

    ids: list[str] = Field(examples=[["0c1d2e3f", "8a9b0c1d"]])
    place: str = Field(examples=["encryption.keys"])


class Keys(Shown):
    """The relay's own keys."""

    encryption: EncryptionKeys
    signing: list[PublicKey]


class RotatedKey(Shown):
    """The new public key, and when the old one expires."""

    key: PublicKey
    old_key_expires_at: Time = Field(examples=["2026-05-21T10:00:00.000Z"])


operation = partial(Operation, tag="Keys", scopes=ADMINS)


@operation("GET /.well-known/webhook-keys.json", scopes=PUBLIC, answers={200: Answer("The public keys.", PublicKeys)})
async def get_public_keys(call: Call) -> Response:
    """Read the public keys that verify requests of this relay.

    Until `valid_until` a key signs beside the newer one. Expired keys are listed for a few minutes more, for requests
    that are on their way.
    """
    return json_response({"keys": await _public_keys(call)})


@operation("GET /v1/keys", answers={200: Answer("The keys, without secrets.", Keys)})
async def get_keys(call: Call) -> Response:
    """Read the ids of the keys."""
    encryption = EncryptionKeys.of(call.dependencies.node.keys)
    return json_response({"encryption": encryption, "signing": await _public_keys(call)})


@operation(
    "POST /v1/keys/encryption/rotate",
    repeats=STORED,
    audited="keys.rotate_encryption",
    body=Nothing,
    answers={200: Answer("What was done. Send the request again until nothing is left.", Rotation)},
    problems={409: "The key file cannot be replaced."},
)
async def rotate_encryption_key(call: Call) -> Response:
    """Encrypt stored secrets again with the first key, for five seconds.

    Each request continues where the rows are left.
    """
    try:
        rotation = await call.dependencies.node.keys.rotate()
    except SettingsError as error:
        raise Conflict(str(error), code="keys_refused") from None
    return json_response(Rotation.of(rotation))


@operation(
    "POST /v1/keys/signing/rotate",
    repeats=STORED,
    audited="keys.rotate_signing",
    body=SecretRotation,
    body_optional=True,
    answers={200: Answer("The new public key.", RotatedKey)},
    problems={409: "Ten keys are valid."},
)
async def rotate_signing_key(call: Call) -> Response:
    """Create a new key pair for `v1a` signatures.

    Both keys sign, and both are listed, until the old one expires.
    """
    made = new_signing_key(secrets.token_bytes(ED25519_BYTES))
    now, expires_at = await add_secret(call, SIGNING_OWNER, made)
    key = public_key_view(SigningSecret(value=made, created_at=now))
    return json_response({"key": key, "old_key_expires_at": to_rfc3339(expires_at)})


@operation(
    "POST /v1/keys/callback-secret/rotate",
    repeats=STORED,
    audited="keys.rotate_callback_secret",
    body=SecretRotation,
    body_optional=True,
    answers={200: Answer("The new secret. `GET /v1/signing-secret` shows it again.", RotatedSecret)},
    problems={409: "Ten secrets are valid, or `delivery.callback_secret` is set."},
)
async def rotate_callback_secret(call: Call) -> Response:
    """Create a new secret for callbacks.

    Both secrets sign until the old one expires.
    """
    if call.dependencies.settings.callback_secret_given:
        problem = "delivery.callback_secret is set: give it a list with the new secret and the old one, and send SIGHUP"
        raise Conflict(problem, code="callback_secret_configured")
    return await rotated(call, CALLBACK_OWNER)


async def _public_keys(call: Call) -> list[dict[str, Any]]:
    return [public_key_view(one) for one in await call.dependencies.node.signing_keys()]


def public_key_view(key: SigningSecret) -> dict[str, Any]:
    """The public half of a private key `whsk_…`."""
    public = public_key_of(key.value)
    shown = {"id": key_id_of(public), "scheme": "v1a", "algorithm": "ed25519", "public_key": public}
    return PublicKey.of(key, **shown, valid_from=key.created_at, valid_until=key.expires_at)
