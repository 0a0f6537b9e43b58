"""Encryption keys by their ids: which changes are safe while other nodes run, and the progress of a rotation."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

KILLED = "(a node that was killed counts for 60 s)"
ORDER = (
    "the order is: add the new key as the last of encryption.keys on every node, then make it the first, then run "
    "`relay keys rotate`, then remove the old one"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeKeys:
    """The keys of a running node. `keys`: ids, the one that encrypts first; `since`: when it took them."""

    node: str
    keys: tuple[str, ...]
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """A rotation of the encryption keys.

    key      the id of the key that everything is encrypted with afterwards
    total    ciphertexts to encrypt again, counted at the beginning
    done     how many were
    failed   ciphertexts that no key of this node decrypts
    unused   ids of this node's keys that nothing is encrypted with any more
    problem  why it is not complete, and what to do
    """

    state: Literal["running", "done", "failed"]
    key: str
    started_at: float
    total: int = 0
    done: int = 0
    failed: int = 0
    unused: tuple[str, ...] = ()
    problem: str | None = None
    ended_at: float | None = None


def refusal_of(keys: Sequence[str], used: Iterable[str], others: Iterable[NodeKeys]) -> str | None:
    """Why a node must not run with these keys; None if it may.

    used    the ids of the keys that stored secrets may be encrypted with
    others  the other running nodes
    """
    if missing := sorted(set(used) - set(keys)):
        return (
            f"secrets in the database are encrypted with the key {' and the key '.join(missing)}, which is not one of "
            f"the {len(keys)} configured ({', '.join(keys)}): add it to encryption.keys, or restore the key file; "
            "to stop using it, run `relay keys rotate` while it is still there"
        )
    for other in others:
        if keys[0] not in other.keys:
            return (
                f"the node {other.node} could not decrypt what this node encrypts with the key {keys[0]}, the first of "
                f"encryption.keys: {ORDER} {KILLED}"
            )
        if other.keys[0] not in keys:
            return (
                f"this node could not decrypt what the node {other.node} encrypts with the key {other.keys[0]}: add it "
                f"to encryption.keys here {KILLED}"
            )
    return None


def divided(key: str, others: Iterable[NodeKeys]) -> str | None:
    """Why a rotation to a key cannot be completed: another node encrypts with another key. None if none does."""
    for other in others:
        if other.keys[0] != key:
            return (
                f"the node {other.node} still encrypts with the key {other.keys[0]}: make {key} the first of "
                "encryption.keys there, and restart that node or send it SIGHUP "
                f"{KILLED}"
            )
    return None
