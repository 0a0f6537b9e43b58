"""Standard Webhooks signatures, scheme `v1`: HMAC-SHA256 over `id.timestamp.body` (github.com/standard-webhooks).

Signs the exact bytes of the body, at a time passed in. The `standardwebhooks` package reads the machine's clock and
signs text only, so it serves as the independent checker in the tests.
"""

import base64
import binascii
import hmac
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import orjson

from relay.core.subscription import SigningSecret

SECRET_PREFIX = "whsec_"  # noqa: S105 - the public prefix of the format
MIN_KEY_BYTES = 24
MAX_KEY_BYTES = 64
SECRET_FORMAT = f"{SECRET_PREFIX} and the base64 of {MIN_KEY_BYTES} to {MAX_KEY_BYTES} bytes"
TOLERANCE_SECONDS = 300.0

ID_HEADER = "webhook-id"
TIMESTAMP_HEADER = "webhook-timestamp"
SIGNATURE_HEADER = "webhook-signature"

Reason = Literal[
    "ok",
    "missing_header",
    "malformed_timestamp",
    "no_v1_signature",
    "old_timestamp",
    "future_timestamp",
    "reserialised_body",
    "wrong_secret",
]


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


def sign(secrets: Iterable[str], message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: one `v1,…` per secret in the order given, separated by a space.

    timestamp  of this attempt, in whole epoch seconds

    Raises ValueError on a malformed secret.
    """
    content = f"{message_id}.{timestamp}.".encode() + body
    return " ".join(["v1," + _signature(parse_secret(secret), content) for secret in secrets])


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

    Header names are case-insensitive. Recognises a body that was parsed and serialised again, by trying the usual ways
    of writing the same JSON. Raises ValueError on a malformed secret.
    """
    key = parse_secret(secret)
    given = {name.lower(): value.strip() for name, value in headers.items()}
    missing = [name for name in (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER) if not given.get(name)]
    if missing:
        return Verification(reason="missing_header", detail=f"the request has no {' and no '.join(missing)} header")
    written = given[TIMESTAMP_HEADER]
    if not (written.isascii() and written.isdigit() and len(written) <= 15):
        return Verification(
            reason="malformed_timestamp", detail=f"{TIMESTAMP_HEADER} is {written[:32]!r}, not whole seconds"
        )
    signatures = [
        text[3:].encode(errors="replace") for text in given[SIGNATURE_HEADER].split() if text.startswith("v1,")
    ]
    if not signatures:
        return Verification(reason="no_v1_signature", detail=f"{SIGNATURE_HEADER} holds no v1 signature")

    prefix = f"{given[ID_HEADER]}.{written}.".encode(errors="replace")

    def matches(candidate: bytes) -> bool:
        expected = _signature(key, prefix + candidate).encode()
        return any(hmac.compare_digest(expected, signature) for signature in signatures)

    age_seconds = now - int(written)
    if matches(body):
        return _judged_by_time(age_seconds, tolerance_seconds)
    how = next((how for how, candidate in _rewritten(body) if matches(candidate)), None)
    if how is not None:
        return Verification(
            reason="reserialised_body",
            detail=f"the secret is right, but the body was re-serialised before verification: it verifies {how}. "
            "Verify the raw bytes of the request, before any JSON parser",
        )
    wrong = "no signature matches: the secret is another one, or the id, timestamp or body was changed"
    timely = _judged_by_time(age_seconds, tolerance_seconds)
    if not timely.ok:
        return Verification(reason=timely.reason, detail=f"{timely.detail}; also, {wrong}")
    return Verification(reason="wrong_secret", detail=wrong)


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
