from collections.abc import Sequence

import pytest

from relay.node.encryption_keys import refusal_of


@pytest.mark.parametrize(
    ("keys", "used"),
    [((), ()), (("a",), ()), (("a",), ("a",)), (("new", "old"), ("old", "old")), (("old", "new"), ("new", "old"))],
)
def test_node_runs_with_every_key_in_use(keys: Sequence[str], used: Sequence[str]) -> None:
    assert refusal_of(keys, used) is None


@pytest.mark.parametrize(
    ("keys", "used", "part"),
    [
        (("new",), ("old",), "with the key old, which is not one of the 1 configured (new)"),
        ((), ("old",), "with the key old, which is not one of the 0 configured ()"),
        (("new", "b"), ("c", "new", "a", "c"), "with the key a and the key c, which is not one of the 2 configured"),
    ],
)
def test_node_without_a_key_in_use_is_refused_by_name(keys: Sequence[str], used: Sequence[str], part: str) -> None:
    refusal = refusal_of(keys, used)
    assert refusal is not None
    assert part in refusal
    assert "relay keys rotate" in refusal
