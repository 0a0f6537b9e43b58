"""What a replay sends, by how a delivery has ended."""

from typing import get_args

import pytest

from relay.core.deliveries.replay import SENDS, Only, ReplayRequest


@pytest.mark.parametrize(
    ("only", "sends", "adds"),
    [
        ("undelivered", {None, "dead", "cancelled", "uncertain"}, True),
        ("all", {None, "dead", "cancelled", "uncertain", "delivered"}, True),
        ("dead", {"dead"}, False),
        ("cancelled", {"cancelled"}, False),
        ("uncertain", {"uncertain"}, False),
        ("delivered", {"delivered"}, False),
    ],
)
def test_states_each_option_sends(only: Only, sends: set[str | None], adds: bool) -> None:
    request = ReplayRequest(id="rpl_1", subscription_id="sub_1", since=0.0, until=1.0, now=1.0, only=only)
    assert SENDS[only] == sends
    assert request.adds is adds


def test_every_option_is_covered() -> None:
    assert set(SENDS) == set(get_args(Only))
