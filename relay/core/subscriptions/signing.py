"""Standard Webhooks signatures over `id.timestamp.body` (github.com/standard-webhooks).

Scheme `v1` is HMAC-SHA256 with a shared secret `whsec_…`. Scheme `v1a` is ed25519: the private key `whsk_…` signs, the
public key `whpk_…` verifies. A secret's prefix decides the scheme. Signs the exact bytes of the body, at a time passed
in. The `standardwebhooks` package reads the machine's clock and signs text only, so it serves as the independent
checker in the tests.
"""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from relay.core.subscriptions.subscription import SigningSecret

SECRET_PREFIX = "whsec_"  # noqa: S105 - the public prefix of the format
MIN_KEY_BYTES = 24
MAX_KEY_BYTES = 64
SECRET_FORMAT = f"{SECRET_PREFIX} and the base64 of {MIN_KEY_BYTES} to {MAX_KEY_BYTES} bytes"
PRIVATE_PREFIX = "whsk_"
PUBLIC_PREFIX = "whpk_"
ED25519_BYTES = 32
"""Bytes of a private seed, and of a public key."""
KEY_ID_CHARACTERS = 16
MAX_SIGNATURES = 100
"""Signatures of a request that are tried: a sender has a few during a rotation."""
TOLERANCE_SECONDS = 300.0

ID_HEADER = "webhook-id"
TIMESTAMP_HEADER = "webhook-timestamp"
SIGNATURE_HEADER = "webhook-signature"

Reason = Literal[
    "ok",
    "missing_header",
    "malformed_timestamp",
    "no_v1_signature",
    "no_v1a_signature",
    "old_timestamp",
    "future_timestamp",
    "reserialised_body",
    "changed_body",
    "wrong_secret",
    "wrong_key",
]
"""Results of a verification.

- `ok`: it verifies
- `missing_header`: one of the three headers is missing: a proxy may drop it
- `malformed_timestamp`: `webhook-timestamp` is not a whole number
- `no_v1_signature`: `webhook-signature` has no `v1,`: for a `v1a,` give a public key
- `no_v1a_signature`: `webhook-signature` has no `v1a,`: set `config.signature` to `v1a` or `both`, or give the secret
- `old_timestamp`: sent more than five minutes ago: a replayed request, or a wrong clock
- `future_timestamp`: more than five minutes ahead: a wrong clock
- `reserialised_body`: the secret is right, but the body was parsed and serialised again: verify the raw bytes
- `changed_body`: the body has another length than `Content-Length` says, is cut off, or is that of another event
- `wrong_secret`: no signature matches: the secret of another subscription, or one that was rotated out
- `wrong_key`: no `v1a` signature matches: the public key of another relay, or one that was rotated out
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The result of a verification. `reason` is for programs, `detail` is one line for people."""

    reason: Reason
    detail: str

    @property
    def ok(self) -> bool:
        """True if both the signature and the timestamp are valid."""
        return self.reason == "ok"


def new_secret(random_bytes: bytes) -> str:
    """The secret `whsec_…` of 24 to 64 random bytes; 32 are plenty. Raises ValueError on another length."""
    if not MIN_KEY_BYTES <= len(random_bytes) <= MAX_KEY_BYTES:
        raise ValueError(f"a signing secret has {MIN_KEY_BYTES} to {MAX_KEY_BYTES} bytes")
    return SECRET_PREFIX + base64.b64encode(random_bytes).decode()


@lru_cache(maxsize=4096)
def parse_secret(text: str) -> bytes:
    """The key of a secret `whsec_…`. Raises ValueError, whose message does not quote it, if the secret is malformed."""
    if not text.startswith(SECRET_PREFIX):
        raise ValueError(f"a signing secret begins with {SECRET_PREFIX}")
    encoded = text.removeprefix(SECRET_PREFIX)
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except ValueError:
        raise ValueError(f"a signing secret is {SECRET_PREFIX} and base64") from None
    if not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
        raise ValueError(f"a signing secret holds {MIN_KEY_BYTES} to {MAX_KEY_BYTES} bytes, this one {len(key)}")
    return key


def new_signing_key(seed: bytes) -> str:
    """The ed25519 private key `whsk_…` of 32 random bytes: the base64 of the seed and the public key, as other
    implementations write it. Raises ValueError on another length."""
    if len(seed) != ED25519_BYTES:
        raise ValueError(f"the seed of a signing key has {ED25519_BYTES} bytes")
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return PRIVATE_PREFIX + base64.b64encode(seed + public).decode()


def public_key_of(private: str) -> str:
    """The public key `whpk_…` of a private key `whsk_…`. Raises ValueError, whose message does not quote it."""
    raw = _private_key(private).public_key().public_bytes_raw()
    return PUBLIC_PREFIX + base64.b64encode(raw).decode()


def key_id_of(public: str) -> str:
    """The id of a public key: the beginning of its SHA-256 in hex. Raises ValueError if the key is malformed."""
    return hashlib.sha256(parse_public_key(public)).hexdigest()[:KEY_ID_CHARACTERS]


def parse_public_key(text: str) -> bytes:
    """The 32 bytes of a public key `whpk_…`. Raises ValueError."""
    return _decoded(text, PUBLIC_PREFIX, "a public key", (ED25519_BYTES,))


@lru_cache(maxsize=64)
def _private_key(text: str) -> Ed25519PrivateKey:
    seed = _decoded(text, PRIVATE_PREFIX, "a private key", (ED25519_BYTES, 2 * ED25519_BYTES))[:ED25519_BYTES]
    return Ed25519PrivateKey.from_private_bytes(seed)


def _decoded(text: str, prefix: str, what: str, lengths: tuple[int, ...]) -> bytes:
    try:
        raw = base64.b64decode(text.removeprefix(prefix), validate=True)
    except ValueError:
        raw = b""
    if not text.startswith(prefix) or len(raw) not in lengths:
        raise ValueError(f"{what} is {prefix} and the base64 of {lengths[0]} bytes")
    return raw


def sign(secrets: Iterable[str], message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: one signature per secret in the order given, separated by one space. A secret
    `whsec_…` makes a `v1,…`, a private key `whsk_…` a `v1a,…`.

    timestamp  of this attempt, in whole epoch seconds

    Raises ValueError on a malformed secret.
    """
    content = f"{message_id}.{timestamp}.".encode() + body
    return " ".join([_signed(secret, content) for secret in secrets])


def _signed(secret: str, content: bytes) -> str:
    if secret.startswith(PRIVATE_PREFIX):
        return "v1a," + base64.b64encode(_private_key(secret).sign(content)).decode()
    return "v1," + _signature(parse_secret(secret), content)


def signature_headers(
    secrets: Iterable[SigningSecret], *, message_id: str, now: float, body: bytes
) -> tuple[tuple[str, str], ...]:
    """The three headers of an attempt at `now` (epoch seconds), signed with every secret that has not expired.

    If none is left there is no signature header; the id still lets a receiver drop duplicates.
    """
    timestamp = int(now)
    valid = [secret.value for secret in secrets if secret.expires_at is None or secret.expires_at > now]
    headers = ((ID_HEADER, message_id), (TIMESTAMP_HEADER, str(timestamp)))
    if not valid:
        return headers
    return (*headers, (SIGNATURE_HEADER, sign(valid, message_id, timestamp, body)))


def verify(
    secret: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: float,
    tolerance_seconds: float = TOLERANCE_SECONDS,
) -> Verification:
    """Verifies a received request at `now`; if that fails, gives the most likely reason.

    secret  a shared secret `whsec_…`, or a public key `whpk_…`

    Header names are case-insensitive. Recognises a body that was parsed and serialised again, by trying the usual ways
    of writing the same JSON. Raises ValueError on a malformed secret.
    """
    scheme, verifies = _verifier(secret)
    given = {name.lower(): value.strip() for name, value in headers.items()}
    missing = [name for name in (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER) if not given.get(name)]
    if missing:
        return Verification(reason="missing_header", detail=f"the request has no {' and no '.join(missing)} header")
    written = given[TIMESTAMP_HEADER]
    if not (written.isascii() and written.isdigit() and len(written) <= 15):
        return Verification(
            reason="malformed_timestamp", detail=f"{TIMESTAMP_HEADER} is {written[:32]!r}, not whole seconds"
        )
    signatures = _of_scheme(scheme, given[SIGNATURE_HEADER])
    if not signatures:
        other = "v1a" if scheme == "v1" else "v1"
        hint = ""
        if _of_scheme(other, given[SIGNATURE_HEADER]):
            needed = f"a public key ({PUBLIC_PREFIX}…)" if other == "v1a" else f"the secret ({SECRET_PREFIX}…)"
            hint = f", only {other}: verify it with {needed}"
        return Verification(
            reason="no_v1_signature" if scheme == "v1" else "no_v1a_signature",
            detail=f"{SIGNATURE_HEADER} holds no {scheme} signature{hint}",
        )

    prefix = f"{given[ID_HEADER]}.{written}.".encode(errors="replace")

    def matches(candidate: bytes) -> bool:
        return any(verifies(signature, prefix + candidate) for signature in signatures)

    what = "secret" if scheme == "v1" else "key"
    age_seconds = now - int(written)
    if matches(body):
        return _judged_by_time(age_seconds, tolerance_seconds)
    how = next((how for how, candidate in _rewritten(body) if matches(candidate)), None)
    if how is not None:
        return Verification(
            reason="reserialised_body",
            detail=f"the {what} is right, but the body was re-serialised before verification: it verifies {how}. "
            "Verify the raw bytes of the request, before any JSON parser",
        )
    changed = _change_of(given, body)
    if changed is not None:
        return Verification(
            reason="changed_body",
            detail=f"the body was changed after it was signed: {changed}. Verify the raw bytes of the request",
        )
    wrong = f"no signature matches: the {what} is another one, or the id, timestamp or body was changed"
    timely = _judged_by_time(age_seconds, tolerance_seconds)
    if not timely.ok:
        return Verification(reason=timely.reason, detail=f"{timely.detail}; also, {wrong}")
    return Verification(reason="wrong_secret" if scheme == "v1" else "wrong_key", detail=wrong)


def _change_of(headers: Mapping[str, str], body: bytes) -> str | None:
    """The proof that the body does not belong to these headers (lower-case names); None without one."""
    length = headers.get("content-length", "")
    if length.isascii() and length.isdigit() and length.lstrip("0") != str(len(body)).lstrip("0"):
        return f"it has {len(body)} bytes, and Content-Length says {length[:20]}"
    if "json" not in headers.get("content-type", ""):
        return None
    try:
        value: Any = orjson.loads(body)
    except ValueError:
        return "it is not complete JSON"
    own = value.get("id") if isinstance(value, dict) and "specversion" in value else None
    # A published event has the id of its program, and webhook-id the relay's.
    is_relays = isinstance(own, str) and own.startswith("evt_") and headers[ID_HEADER].startswith("evt_")
    return f"its event has another id than {ID_HEADER}" if is_relays and own != headers[ID_HEADER] else None


def _of_scheme(scheme: str, header: str) -> list[bytes]:
    """The base64 of each signature of one scheme."""
    start = f"{scheme},"
    found = [text.removeprefix(start) for text in header.split() if text.startswith(start)]
    return [text.encode(errors="replace") for text in found][:MAX_SIGNATURES]


def _verifier(secret: str) -> tuple[str, Callable[[bytes, bytes], bool]]:
    """The scheme of a secret or public key, and a function of a signature's base64 and the signed content. Raises
    ValueError."""
    if secret.startswith(PRIVATE_PREFIX):
        raise ValueError(f"{PRIVATE_PREFIX}… is a private key: verify with the public key {PUBLIC_PREFIX}…")
    if not secret.startswith(PUBLIC_PREFIX):
        key = parse_secret(secret)
        return "v1", lambda signature, content: hmac.compare_digest(_signature(key, content).encode(), signature)
    public = Ed25519PublicKey.from_public_bytes(parse_public_key(secret))

    def verifies(signature: bytes, content: bytes) -> bool:
        try:
            public.verify(base64.b64decode(signature, validate=True), content)
        except (ValueError, InvalidSignature):
            return False
        return True

    return "v1a", verifies


def _signature(key: bytes, content: bytes) -> str:
    keyed = _keyed(key).copy()
    keyed.update(content)
    return binascii.b2a_base64(keyed.digest(), newline=False).decode()


@lru_cache(maxsize=4096)
def _keyed(key: bytes) -> hmac.HMAC:
    return hmac.new(key, digestmod="sha256")


def _judged_by_time(age_seconds: float, tolerance_seconds: float) -> Verification:
    if age_seconds > tolerance_seconds:
        return Verification(
            reason="old_timestamp",
            detail=f"the timestamp is {age_seconds:.0f} s old, {tolerance_seconds:.0f} s are allowed",
        )
    if age_seconds < -tolerance_seconds:
        return Verification(
            reason="future_timestamp",
            detail=f"the timestamp is {-age_seconds:.0f} s ahead, {tolerance_seconds:.0f} s are allowed",
        )
    return Verification(reason="ok", detail="the signature and the timestamp are valid")


def _rewritten(body: bytes) -> Iterator[tuple[str, bytes]]:
    """Other serialisations of the same message, each with words that complete "it verifies …"."""
    stripped = body.removeprefix(b"\xef\xbb\xbf").strip()
    yield "without the white space around it", stripped
    unix = body.replace(b"\r\n", b"\n")
    yield "with LF line ends", unix
    yield "with CRLF line ends", unix.replace(b"\n", b"\r\n")
    yield "with a line end after it", body + b"\n"
    yield "with a line end after it", body + b"\r\n"
    try:
        value: Any = orjson.loads(stripped)
        yield "as compact JSON", orjson.dumps(value)
        yield "as compact JSON with sorted keys", orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        for ascii_only in (True, False):
            for separators in ((",", ":"), (", ", ": ")):
                text = json.dumps(value, ensure_ascii=ascii_only, separators=separators)
                yield "as JSON with other spacing or escapes", text.encode()
            for indent in (2, 4):
                yield "as indented JSON", json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    except (ValueError, TypeError, RecursionError):
        return  # not JSON, or nested too deeply
