"""Encryption keys by their ids: whether a node can run with its keys, and the progress of a rotation."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """One part of a rotation of the encryption keys.

    key      the id of the key that everything is encrypted with afterwards
    done     secrets that were encrypted again
    left     secrets that are still encrypted with another key
    unused   ids of this node's keys that nothing is encrypted with
    problem  why a secret cannot be decrypted, and what to do
    """

    key: str
    done: int
    left: int
    unused: tuple[str, ...]
    problem: str | None


def refusal_of(keys: Sequence[str], used: Iterable[str]) -> str | None:
    """Why a node must not run with these keys: it lacks one of those in use. None if it has them all."""
    missing = sorted(set(used) - set(keys))
    if not missing:
        return None
    return (
        f"secrets in the database are encrypted with the key {' and the key '.join(missing)}, which is not one of "
        f"the {len(keys)} configured ({', '.join(keys)}): add it to encryption.keys, or restore the key file; "
        "to stop using it, run `relay keys rotate` while it is still there"
    )
