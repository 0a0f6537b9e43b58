"""Prefixed, time-ordered ids: `evt_01jv…` sorts by the time it was made (a lower case ULID, github.com/ulid/spec)."""

import random
import secrets

# ids have to differ, not to be secret; asking the system for each one's bits costs more than all the rest of it
_random = random.Random(secrets.token_bytes(32))  # noqa: S311

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _CROCKFORD for second in _CROCKFORD]
_SHIFTS = range(120, -10, -10)


def new_id(prefix: str, epoch_seconds: float) -> str:
    """A new id such as `job_01jvq3…`: 48 bits of time in milliseconds and 80 random ones. Ids made in different
    milliseconds sort by time."""
    bits = int(epoch_seconds * 1000) << 80 | _random.getrandbits(80)
    return prefix + "_" + "".join([_PAIRS[bits >> shift & 1023] for shift in _SHIFTS])


def same_id(prefix: str, epoch_seconds: float, seed: str) -> str:
    """An id like `new_id` that is always the same for a seed of 20 or more hexadecimal digits."""
    bits = int(epoch_seconds * 1000) << 80 | int(seed[:20], 16)
    return prefix + "_" + "".join([_PAIRS[bits >> shift & 1023] for shift in _SHIFTS])


def least_id(prefix: str, epoch_seconds: float) -> str:
    """Ids that were made before this time are less, all others are not: for ranges of ids."""
    bits = max(0, int(epoch_seconds * 1000)) << 80
    return prefix + "_" + "".join([_PAIRS[bits >> shift & 1023] for shift in _SHIFTS])
