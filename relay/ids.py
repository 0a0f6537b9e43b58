"""Prefixed, time-ordered ids: `evt_01jv…` sorts by the moment it was made (ULID, lower case)."""

from ulid import ULID


def new_id(prefix: str, epoch_seconds: float) -> str:
    """A new id such as `job_01jvq3…`; ids made in different milliseconds sort by time."""
    return f"{prefix}_{str(ULID.from_timestamp(epoch_seconds)).lower()}"
