"""Standard Webhooks v1 and v1a, checked against published vectors, `standardwebhooks`, cryptography and Node."""

import base64
import json
import re
import shutil
import subprocess
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from relay.core.subscriptions.signing import (
    Reason,
    key_id_of,
    new_secret,
    new_signing_key,
    parse_public_key,
    parse_secret,
    public_key_of,
    sign,
    signature_headers,
    verify,
)
from relay.core.subscriptions.subscription import SigningSecret

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = new_secret(bytes(range(32)))
MESSAGE_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
NOW = 1614265330.0
EVENT = '{"id":"evt_1","data":{"job":{"name":"Ünal"},"count":1.50,"list":[1,2]}}'.encode()

key_bytes = st.binary(min_size=24, max_size=64)


def signed(body: bytes, *, at: float = NOW, secret: str = SECRET, **changed: str) -> dict[str, str]:
    headers = dict(signature_headers([SigningSecret(value=secret)], message_id=MESSAGE_ID, now=at, body=body))
    return headers | {name.replace("_", "-"): value for name, value in changed.items()}


def reason(headers: dict[str, str], body: bytes, *, secret: str = SECRET, now: float = NOW) -> Reason:
    verification = verify(secret, headers, body, now=now)
    assert verification.ok is (verification.reason == "ok")
    assert verification.detail
    assert secret.removeprefix("whsec_") not in verification.detail
    return verification.reason


def test_the_published_vector() -> None:
    body = b'{"test": 2432232314}'
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert sign([SECRET], MESSAGE_ID, int(NOW), body) == expected
    assert reason(signed(body, webhook_signature=expected), body) == "ok"


@given(key_bytes, st.recursive(st.none() | st.booleans() | st.text(), lambda inner: st.lists(inner, max_size=3)))
def test_the_library_verifies_what_we_sign(key: bytes, value: Any) -> None:
    secret = new_secret(key)
    body = orjson.dumps(value)
    now = datetime.now(UTC).timestamp()
    headers = dict(signature_headers([SigningSecret(value=secret)], message_id="evt_1", now=now, body=body))
    assert Webhook(secret).verify(body, headers) == value


@given(st.binary(min_size=1, max_size=40), st.data())
def test_changed_byte_never_verifies(body: bytes, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(body) - 1))
    changed = bytearray(body)
    changed[position] ^= data.draw(st.integers(1, 255))
    assert reason(signed(body), bytes(changed)) != "ok"


def test_rotation_signs_with_every_secret_that_is_still_valid() -> None:
    secrets = [
        SigningSecret(value=OTHER_SECRET),
        SigningSecret(value=SECRET, expires_at=NOW + 1),
        SigningSecret(value=new_secret(bytes(24)), expires_at=NOW),
    ]
    headers = dict(signature_headers(secrets, message_id=MESSAGE_ID, now=NOW + 0.9, body=EVENT))
    assert headers["webhook-timestamp"] == str(int(NOW))
    assert headers["webhook-signature"].count(" ") == 1
    assert reason(headers, EVENT) == "ok"
    assert reason(headers, EVENT, secret=OTHER_SECRET) == "ok"
    assert reason(headers, EVENT, secret=new_secret(bytes(24))) == "wrong_secret"


def test_without_a_secret_there_is_no_signature() -> None:
    headers = signature_headers([], message_id=MESSAGE_ID, now=NOW, body=EVENT)
    assert headers == (("webhook-id", MESSAGE_ID), ("webhook-timestamp", "1614265330"))


@pytest.mark.parametrize("length", [0, 23, 65])
def test_secrets_of_a_wrong_length(length: int) -> None:
    with pytest.raises(ValueError, match="24 to 64 bytes"):
        new_secret(bytes(length))
    with pytest.raises(ValueError, match="24 to 64 bytes"):
        parse_secret("whsec_" + base64.b64encode(bytes(length)).decode())


@pytest.mark.parametrize(
    "text", ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_!!!", "whsec_ü", "whsec_A", "whsk_AAAA"]
)
def test_malformed_secrets(text: str) -> None:
    with pytest.raises(ValueError, match="a signing secret"):
        parse_secret(text)


def test_the_timestamp_is_judged_within_the_tolerance() -> None:
    headers = signed(EVENT)
    assert reason(headers, EVENT, now=NOW + 300) == "ok"
    assert reason(headers, EVENT, now=NOW - 300) == "ok"
    assert reason(headers, EVENT, now=NOW + 301) == "old_timestamp"
    assert reason(headers, EVENT, now=NOW - 301) == "future_timestamp"
    other = verify(OTHER_SECRET, headers, EVENT, now=NOW + 301)
    assert (other.reason, "no signature matches" in other.detail) == ("old_timestamp", True), "both are wrong"
    assert verify(SECRET, headers, EVENT, now=NOW + 301, tolerance_seconds=400).ok


@pytest.mark.parametrize(
    "received",
    [
        json.dumps(json.loads(EVENT)).encode(),
        json.dumps(json.loads(EVENT), ensure_ascii=False).encode(),
        json.dumps(json.loads(EVENT), indent=2).encode(),
        b"\xef\xbb\xbf" + EVENT,
        EVENT + b"\n",
        EVENT + b"\r\n",
        b" " + EVENT,
    ],
)
def test_reserialised_body_is_detected(received: bytes) -> None:
    headers = signed(orjson.dumps(orjson.loads(EVENT)))
    received = received.replace(b"1.50", b"1.5")
    verification = verify(SECRET, headers, received, now=NOW)
    assert verification.reason == "reserialised_body"
    assert "re-serialised before verification" in verification.detail
    assert reason(headers, received, now=NOW + 9000) == "reserialised_body"


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (b"a\r\nb", b"a\nb"),
        (b"a\nb", b"a\r\nb"),
        (b"text\n", b"text"),
        (b"text\r\n", b"text"),
        (b'{"a": 1, "b": 2}', b'{"b":2,"a":1}'),
        (b'{"a":1,"b":2}', b'{"b":2,"a":1}'),
        (json.dumps({"a": "ü"}, indent=4).encode(), '{"a":"ü"}'.encode()),
        (json.dumps({"a": "ü"}, separators=(",", ":")).encode(), '{"a":"ü"}'.encode()),
    ],
)
def test_accidental_body_changes_are_detected(sent: bytes, received: bytes) -> None:
    expected = "wrong_secret" if sent == b'{"a": 1, "b": 2}' else "reserialised_body"
    assert reason(signed(sent), received) == expected


@pytest.mark.parametrize(
    ("headers", "body", "proof"),
    [
        ({"content-length": "5"}, b"{}", "it has 2 bytes, and Content-Length says 5"),
        ({"content-length": "0"}, b"", None),
        ({"content-length": "many"}, b"{}", None),
        ({"content-type": "application/cloudevents+json"}, b'{"id":', "it is not complete JSON"),
        ({"content-type": "application/json"}, b'{"id":"other"}', None),
        ({"content-type": "application/json"}, b'[{"specversion":"1.0"}]', None),
        (
            {"content-type": "application/cloudevents+json", "webhook-id": "evt_1"},
            b'{"specversion":"1.0","id":"A-17"}',
            None,  # a published event has the id of its program
        ),
        (
            {"content-type": "application/cloudevents+json", "webhook-id": "evt_1"},
            b'{"specversion":"1.0","id":"evt_other"}',
            "its event has another id than webhook-id",
        ),
        ({"content-type": "text/plain"}, b'{"id":', None),
    ],
)
def test_change_of_the_body_is_proven_where_the_headers_tell(
    headers: dict[str, str], body: bytes, proof: str | None
) -> None:
    verification = verify(SECRET, {**signed(b"another"), **headers}, body, now=NOW)
    assert verification.reason == ("wrong_secret" if proof is None else "changed_body")
    assert proof is None or proof in verification.detail


@pytest.mark.parametrize("body", [b"", b"\xff", b"[" * 900 + b"]" * 900, b"[" * 200 + b"]" * 200, b"{", b"1e999"])
def test_unusual_bodies_do_not_raise(body: bytes) -> None:
    assert reason(signed(b"another"), body) == "wrong_secret"


@given(st.dictionaries(st.text(), st.text()), st.binary())
def test_no_header_makes_verify_raise(extra: dict[str, str], body: bytes) -> None:
    verify(SECRET, extra, body, now=NOW)
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        for value in extra.values():
            verify(SECRET, signed(body) | {name: value}, body, now=NOW)


# The test of the Svix server for asymmetric keys; its signature is the example of the Standard Webhooks specification.
PRIVATE = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
PUBLIC = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
OTHER_PRIVATE = new_signing_key(bytes(range(32)))


def test_the_published_v1a_vector() -> None:
    body = b'{"test": 2432232314}'
    expected = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
    assert sign([PRIVATE], MESSAGE_ID, int(NOW), body) == expected
    assert public_key_of(PRIVATE) == PUBLIC
    assert reason(signed(body, webhook_signature=expected), body, secret=PUBLIC) == "ok"
    seed = base64.b64decode(PRIVATE.removeprefix("whsk_"))[:32]
    assert new_signing_key(seed) == PRIVATE
    short = "whsk_" + base64.b64encode(seed).decode()
    assert sign([short], MESSAGE_ID, int(NOW), body) == expected


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200), st.integers(0, 2**33))
def test_cryptography_verifies_what_a_private_key_signs(seed: bytes, body: bytes, timestamp: int) -> None:
    private = new_signing_key(seed)
    scheme, _, encoded = sign([private], MESSAGE_ID, timestamp, body).partition(",")
    assert scheme == "v1a"
    public = Ed25519PublicKey.from_public_bytes(parse_public_key(public_key_of(private)))
    public.verify(base64.b64decode(encoded), f"{MESSAGE_ID}.{timestamp}.".encode() + body)
    with pytest.raises(InvalidSignature):
        public.verify(base64.b64decode(encoded), f"{MESSAGE_ID}.{timestamp}.".encode() + body + b"x")


def test_a_public_key_has_an_id_of_its_own() -> None:
    assert len(key_id_of(PUBLIC)) == 16
    assert key_id_of(PUBLIC) != key_id_of(public_key_of(OTHER_PRIVATE))


def test_an_expired_key_signs_no_more() -> None:
    keys = [SigningSecret(value=OTHER_PRIVATE), SigningSecret(value=PRIVATE, expires_at=NOW + 60)]
    during = dict(signature_headers(keys, message_id=MESSAGE_ID, now=NOW + 59, body=EVENT))
    after = dict(signature_headers(keys, message_id=MESSAGE_ID, now=NOW + 60, body=EVENT))
    assert reason(during, EVENT, secret=PUBLIC, now=NOW + 59) == "ok"
    assert reason(after, EVENT, secret=PUBLIC, now=NOW + 60) == "wrong_key"
    assert reason(after, EVENT, secret=public_key_of(OTHER_PRIVATE), now=NOW + 60) == "ok"


@pytest.mark.parametrize(
    ("secret", "signature", "expected", "words"),
    [
        (PUBLIC, "v1,AAAA", "no_v1a_signature", r"only v1: verify it with the secret \(whsec_…\)"),
        (PUBLIC, "v2,AAAA", "no_v1a_signature", "holds no v1a signature$"),
        (SECRET, "v1a,AAAA", "no_v1_signature", r"only v1a: verify it with a public key \(whpk_…\)"),
        (PUBLIC, "v1a,AAAA v1a,!!! v1a,é v1a,", "wrong_key", "the key is another one"),
    ],
)
def test_a_signature_of_another_scheme_or_key(secret: str, signature: str, expected: str, words: str) -> None:
    found = verify(secret, signed(EVENT, webhook_signature=signature), EVENT, now=NOW)
    assert found.reason == expected
    assert re.search(words, found.detail)


@pytest.mark.parametrize("text", ["whsk_", "whsk_AAAA", "whsk_é", PRIVATE.removesuffix("Kvg==")])
def test_malformed_private_keys_are_not_quoted(text: str) -> None:
    with pytest.raises(ValueError, match=r"a private key is whsk_ and the base64 of 32 bytes$"):
        sign([text], MESSAGE_ID, 0, b"")


def test_a_seed_of_a_wrong_length() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        new_signing_key(bytes(31))


def test_a_private_key_is_refused_for_verification() -> None:
    with pytest.raises(ValueError, match="verify with the public key whpk_…") as caught:
        verify(PRIVATE, signed(EVENT), EVENT, now=NOW)
    assert PRIVATE.removeprefix("whsk_") not in str(caught.value)


NODE = """
const crypto = require('crypto');
const {publicKey, headers, body} = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const x = Buffer.from(publicKey.slice('whpk_'.length), 'base64').toString('base64url');
const key = crypto.createPublicKey({key: {kty: 'OKP', crv: 'Ed25519', x}, format: 'jwk'});
const content = Buffer.concat([
  Buffer.from(`${headers['webhook-id']}.${headers['webhook-timestamp']}.`), Buffer.from(body, 'base64')]);
const signatures = headers['webhook-signature'].split(' ').filter((part) => part.startsWith('v1a,'));
const verifies = (part) => crypto.verify(null, content, key, Buffer.from(part.slice(4), 'base64'));
process.stdout.write(JSON.stringify(signatures.map(verifies)));
"""


@pytest.mark.skipif(
    shutil.which("node") is None, reason="NOT CHECKED: there is no node, so its crypto verifies nothing"
)
def test_nodes_crypto_verifies_what_a_private_key_signs() -> None:
    keys = [SigningSecret(value=OTHER_PRIVATE), SigningSecret(value=PRIVATE), SigningSecret(value=SECRET)]
    headers = dict(signature_headers(keys, message_id=MESSAGE_ID, now=NOW, body=EVENT))
    for body, expected in ((EVENT, [False, True]), (EVENT + b" ", [False, False])):
        given = {"publicKey": PUBLIC, "headers": headers, "body": base64.b64encode(body).decode()}
        ran = subprocess.run(["node", "-e", NODE], input=json.dumps(given), capture_output=True, text=True, check=True)
        assert json.loads(ran.stdout) == expected
