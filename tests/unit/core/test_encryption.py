"""Which encryption keys a node may run with, given those in use and those of the other nodes."""

import pytest

from relay.core.encryption import NodeKeys, divided, refusal_of


def other(*keys: str) -> NodeKeys:
    return NodeKeys(node="web-2/1/ab", keys=keys, since=0.0)


@pytest.mark.parametrize(
    ("keys", "used", "others"),
    [
        (("new",), (), ()),
        (("old",), ("old",), (other("old"),)),
        (("old", "new"), ("old",), (other("old"),)),  # 1. added as the last
        (("new", "old"), ("old",), (other("old", "new"),)),  # 2. made the first
        (("old", "new"), ("old", "new"), (other("new", "old"),)),  # the other node did so first
        (("new",), ("new",), (other("new", "old"),)),  # 4. the old one is removed
    ],
)
def test_each_step_of_a_change_is_allowed(
    keys: tuple[str, ...], used: tuple[str, ...], others: tuple[NodeKeys]
) -> None:
    assert refusal_of(keys, used, others) is None


def test_a_key_in_use_must_not_be_missing() -> None:
    problem = refusal_of(["new"], ["old", "new", "older"], ())
    assert problem is not None
    assert "encrypted with the key old and the key older, which is not one of the 1 configured (new)" in problem
    assert "run `relay keys rotate` while it is still there" in problem


def test_a_node_must_not_encrypt_with_a_key_that_another_lacks() -> None:
    problem = refusal_of(["new", "old"], ["old"], [other("old", "new"), other("old")])
    assert problem is not None
    assert "web-2/1/ab could not decrypt what this node encrypts with the key new" in problem
    assert "add the new key as the last of encryption.keys on every node" in problem


def test_a_node_must_know_the_key_that_another_encrypts_with() -> None:
    problem = refusal_of(["old"], ["old"], [other("new", "old")])
    assert problem is not None
    assert "encrypts with the key new: add it to encryption.keys here" in problem


def test_a_rotation_needs_all_nodes_to_encrypt_with_its_key() -> None:
    assert divided("new", [other("new"), other("new", "old")]) is None
    assert "still encrypts with the key old: make new the first" in str(divided("new", [other("old", "new")]))
