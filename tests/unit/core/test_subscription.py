"""What a subscription says of itself."""

from dataclasses import replace

import pytest

from relay.core.subscription import State, Subscription

SUBSCRIPTION = Subscription(id="sub_1", sink="https://sink.example", state_reason="http_410")


@pytest.mark.parametrize(
    ("state", "expected"), [("enabled", None), ("paused", None), ("pending", None), ("disabled", "http_410")]
)
def test_only_a_disabled_one_says_why_it_is_disabled(state: State, expected: str | None) -> None:
    assert replace(SUBSCRIPTION, state=state).disabled_reason == expected


def test_how_a_sink_is_reached_is_its_url_the_method_and_the_headers() -> None:
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
def test_subscription_tells_since_when_it_is_enabled(
    state: State, state_since: float | None, expected: float | None
) -> None:
    assert replace(SUBSCRIPTION, state=state, state_since=state_since).enabled_since == expected
