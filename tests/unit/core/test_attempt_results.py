"""Which attempt results are plain: no subscription changes and no event is recorded."""

from typing import Any

import pytest

from relay.core.events import Event
from relay.core.records import AttemptResult
from tests.support.store_kit import attempt, relay_event

PLAIN: dict[str, Any] = {"state": "delivered", "now": 1.0, "attempt": attempt()}


class Claimed:
    """The attribute that is read."""

    def __init__(self, *, probe: bool = False) -> None:
        self.probe = probe


@pytest.mark.parametrize(
    ("probe", "disable", "events", "plain"),
    [
        (False, None, (), True),
        (True, None, (), False),
        (False, "http_410", (), False),
        (False, None, (relay_event("relay.delivery.expired"),), False),
    ],
)
def test_result_without_subscription_change_is_plain(
    probe: bool, disable: str | None, events: tuple[Event, ...], plain: bool
) -> None:
    claimed: Any = Claimed(probe=probe)
    assert AttemptResult(**PLAIN, claimed=claimed, disable=disable, events=events).is_plain is plain
