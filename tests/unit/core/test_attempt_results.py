"""Which attempt results are plain: no subscription changes and no event is recorded."""

from typing import Any

import pytest

from relay.core.events.event import Event
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


@pytest.mark.parametrize(
    ("probe", "state", "reason", "recovers"),
    [
        (True, "delivered", "http_200", True),
        (True, "delivered", "dry_run", False),
        (True, "cancelled", "unmatched", False),
        (True, "uncertain", "timeout", False),
        (True, "pending", "http_500", False),
        (False, "delivered", "http_200", False),
    ],
)
def test_only_a_probe_that_the_sink_has_accepted_enables_its_subscription(
    probe: bool, state: str, reason: str, recovers: bool
) -> None:
    claimed: Any = Claimed(probe=probe)
    result = AttemptResult(claimed=claimed, state=state, now=1.0, attempt=attempt(), reason=reason)
    assert result.recovers is recovers
