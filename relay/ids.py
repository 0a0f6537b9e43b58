"""Prefixed, time-ordered ids such as `evt_01jv…`: a lower-case ULID (github.com/ulid/spec) after the prefix."""

import random
import secrets

# Ids must be unique, not secret. Asking the system for random bits would cost more than everything else here.
_random = random.Random(secrets.token_bytes(32))  # noqa: S311

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _CROCKFORD for second in _CROCKFORD]

TOKEN_PREFIX = "rl_"  # noqa: S105 (a prefix)
"""By which redaction recognises a token of a relay."""


def new_token() -> str:
    """A secret of 256 random bits, with its prefix."""
    return f"{TOKEN_PREFIX}{secrets.token_urlsafe(32)}"


def new_secret() -> str:
    """A secret of 256 random bits, as a browser keeps one: 43 characters of base64url."""
    return secrets.token_urlsafe(32)


def new_id(prefix: str, epoch_seconds: float) -> str:
    """A new id such as `job_01jvq3…`: 48 bits of time in milliseconds, then 80 random bits. Ids from different
    milliseconds sort by time."""
    return _id(prefix, epoch_seconds, _random.getrandbits(40), _random.getrandbits(40))


def same_id(prefix: str, epoch_seconds: float, seed: str) -> str:
    """An id that depends only on its arguments; `seed` has at least 20 hexadecimal digits."""
    return _id(prefix, epoch_seconds, int(seed[:10], 16), int(seed[10:20], 16))


def made_at(id: str) -> float | None:
    """The time that an id was made at, in epoch seconds; None if it is no such id."""
    digits = id.rpartition("_")[2]
    if len(digits) != 26 or not set(digits) <= set(_CROCKFORD):
        return None
    milliseconds = 0
    for digit in digits[:10]:
        milliseconds = milliseconds << 5 | _CROCKFORD.index(digit)
    return milliseconds / 1000 if milliseconds < 1 << 48 else None


def least_id(prefix: str, epoch_seconds: float) -> str:
    """The lower bound of ids made at or after this time, for range queries."""
    return _id(prefix, max(0.0, epoch_seconds), 0, 0)


def _id(prefix: str, epoch_seconds: float, high: int, low: int) -> str:
    """The id with two times 40 bits. Numbers of more than 60 bits would cost twice as much."""
    time = int(epoch_seconds * 1000)
    return f"{prefix}_{_PAIRS[time >> 40 & 1023]}{_digits(time)}{_digits(high)}{_digits(low)}"


def _digits(bits: int) -> str:
    """The digits of the lowest 40 bits."""
    pairs = _PAIRS
    return f"{pairs[bits >> 30 & 1023]}{pairs[bits >> 20 & 1023]}{pairs[bits >> 10 & 1023]}{pairs[bits & 1023]}"
