"""Requests of the relay that are no polls: they come out of the same budget, and say nothing about the upstream."""

import pytest

from relay.core.planner import Planner, PlannerConfig

NOW = 1_779_271_200.0
LIMITED = {"x-ratelimit-limit": "60", "x-ratelimit-remaining": "1", "x-ratelimit-window-ms": "60000"}


def planner(rate: float | None = 2.0) -> Planner:
    made = Planner(PlannerConfig(max_requests_per_second=rate, reserve=0.0))
    made.next_request_at(NOW)
    return made


def test_another_request_takes_the_place_of_a_poll() -> None:
    made = planner()
    made.track("a", None, NOW, next_poll_at=NOW)
    assert made.requests_per_second == 2.0
    opens = made.other_opens_at(NOW)
    assert opens == pytest.approx(NOW + 0.5), "the bucket starts empty"
    assert not made.take_other(NOW)
    assert made.take_other(opens)
    assert made.take(opens) is None
    assert made.take(opens + 0.5) == "a"
    assert made.other_opens_at(opens + 60) == opens + 60


def test_its_answer_counts_for_the_rate_limit_and_not_for_health() -> None:
    made = planner()
    made.track("a", None, NOW, next_poll_at=NOW)
    for number in range(9):
        at = NOW + 60 * number + 1
        assert made.take_other(at)
        made.other_answered(None if number % 2 else 503, {}, at, at)
    assert made.requests_per_second == 2.0, "errors of polls would have halved the rate"
    assert made.stats(NOW + 600).in_flight == 0
    assert made.take_other(NOW + 600)
    made.other_answered(200, LIMITED, NOW + 600, NOW + 600)
    assert made.stats(NOW + 600).limit == 60
    assert made.take_other(NOW + 601)
    made.other_answered(429, {"retry-after": "30"}, NOW + 601, NOW + 601)
    assert not made.take_other(NOW + 602)
    assert made.other_opens_at(NOW + 602) >= NOW + 631
    assert made.take(NOW + 602) is None
