"""What a subscription says of itself."""

from dataclasses import replace

import pytest

from relay.core.subscription import State, Subscription

SUBSCRIPTION = Subscription(id="sub_1", sink="https://sink.example", state_reason="http_410")


@pytest.mark.parametrize(
    ("state", "expected"), [("enabled", None), ("paused", None), ("pending", None), ("disabled", "http_410")]
)
def test_only_a_disabled_subscription_has_a_disabled_reason(state: State, expected: str | None) -> None:
    assert replace(SUBSCRIPTION, state=state).disabled_reason == expected


def test_reached_by_is_url_method_and_headers() -> None:
    changed = [
        replace(SUBSCRIPTION, sink="https://other.example"),
        replace(SUBSCRIPTION, method="PUT"),
        replace(SUBSCRIPTION, headers=(("Authorization", "Bearer new"),)),
    ]
    assert len({one.reached_by for one in (SUBSCRIPTION, *changed)}) == 4
    assert replace(SUBSCRIPTION, types=("a",), description="b").reached_by == SUBSCRIPTION.reached_by


@pytest.mark.parametrize(
    ("state", "state_since", "expected"),
    [("enabled", None, 0.0), ("enabled", 5.0, 5.0), ("paused", 5.0, None), ("disabled", 5.0, None)],
)
def test_subscription_has_the_time_it_was_enabled(
    state: State, state_since: float | None, expected: float | None
) -> None:
    assert replace(SUBSCRIPTION, state=state, state_since=state_since).enabled_since == expected
