"""`/v1/keys` and the public keys: what is shown, and what rotation changes."""

import base64

import pytest

from relay.core.subscriptions.signing import new_signing_key, public_key_of, signature_headers, verify
from relay.store.subscriptions.secrets import SIGNING_OWNER
from tests.support.api_world import HOOK, NOW, TOKENS

PRIVATE = new_signing_key(bytes(range(32)))


@pytest.fixture
async def signing_key(world):
    await world.store.secrets.ensure_secret(SIGNING_OWNER, PRIVATE, NOW - 60)


@pytest.mark.usefixtures("signing_key")
async def test_public_keys_are_readable_without_a_token(open_client):
    stranger = open_client(peer="203.0.113.9", dev=False, tokens=TOKENS)
    answer = await stranger.get("/.well-known/webhook-keys.json")
    assert answer.status_code == 200
    (key,) = answer.json()["keys"]
    assert key == {
        "id": key["id"],
        "scheme": "v1a",
        "algorithm": "ed25519",
        "public_key": public_key_of(PRIVATE),
        "valid_from": "2027-01-15T07:59:00.000Z",
        "valid_until": None,
    }
    assert PRIVATE.removeprefix("whsk_") not in answer.text
    seed = base64.b64encode(base64.b64decode(PRIVATE.removeprefix("whsk_"))[:32]).decode()
    assert seed.rstrip("=") not in answer.text


@pytest.mark.usefixtures("signing_key")
async def test_rotation_of_the_signing_key_lists_and_signs_with_both(client, world):
    answer = await client.post("/v1/keys/signing/rotate", json={"overlap_seconds": 3600})
    assert answer.status_code == 200
    assert answer.json()["old_key_expires_at"] == "2027-01-15T09:00:00.000Z"
    assert "whsk_" not in answer.text
    listed = (await client.get("/.well-known/webhook-keys.json")).json()["keys"]
    assert listed[0] == answer.json()["key"]
    assert [key["valid_until"] for key in listed] == [None, "2027-01-15T09:00:00.000Z"]
    assert (await client.get("/v1/keys")).json()["signing"] == listed
    stored = await world.store.secrets.of(SIGNING_OWNER)
    during = dict(signature_headers(stored, message_id="evt_1", now=NOW + 3599, body=b"{}"))
    after = dict(signature_headers(stored, message_id="evt_1", now=NOW + 3600, body=b"{}"))
    new, old = (key["public_key"] for key in listed)
    assert verify(new, during, b"{}", now=NOW + 3599).ok
    assert verify(old, during, b"{}", now=NOW + 3599).ok
    assert verify(new, after, b"{}", now=NOW + 3600).ok
    assert verify(old, after, b"{}", now=NOW + 3600).reason == "wrong_key"
    assert world.signals.woken


async def test_a_rotation_of_the_encryption_key_says_what_is_left(client):
    shown = (await client.get("/v1/keys")).json()
    assert shown["encryption"] == {"ids": ["0c1d2e3f", "8a9b0c1d"], "place": "encryption.keys"}
    answer = await client.post("/v1/keys/encryption/rotate")
    assert (answer.status_code, answer.json()) == (
        200,
        {"key": "0c1d2e3f", "done": 1, "left": 2, "unused": [], "problem": "why"},
    )


@pytest.mark.parametrize("token", ["rl_read", "rl_jobs"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/keys"),
        ("POST", "/v1/keys/encryption/rotate"),
        ("POST", "/v1/keys/signing/rotate"),
        ("POST", "/v1/keys/callback-secret/rotate"),
    ],
)
async def test_only_admins_see_and_rotate_keys(open_client, token, method, path):
    client = open_client(dev=False, tokens=TOKENS)
    answer = await client.request(method, path, headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")


async def test_a_callback_gets_both_signatures(client, world):
    await world.job("a", callback_url=HOOK)
    (shown,) = (await client.get("/v1/subscriptions?callbacks=true")).json()["items"]
    assert shown["config"]["signature"] == "both"
