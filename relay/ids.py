"""Prefixed, time-ordered ids: `evt_01jv…` sorts by the moment it was made (ULID, lower case)."""

import random
import secrets

from ulid import ULID

# ids have to differ, not to be secret; asking the system for each one's bits costs more than all the rest of it
_random = random.Random(secrets.token_bytes(32))  # noqa: S311


def new_id(prefix: str, epoch_seconds: float) -> str:
    """A new id such as `job_01jvq3…`; ids made in different milliseconds sort by time."""
    made = ULID(int(epoch_seconds * 1000).to_bytes(6, "big") + _random.randbytes(10))
    return f"{prefix}_{str(made).lower()}"
