"""The token bucket and the timeline: rates that are never exceeded, and a time that never runs back."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.planner.config import Timeline
from relay.core.planner.pacer import Bucket
from tests.support.scale import scaled

NOW = 1_779_271_200.0
pauses = st.floats(min_value=0, max_value=20)


def bucket_of(rate: float, bank_seconds: float, now: float = NOW) -> Bucket:
    bucket = Bucket()
    bucket.set_rate(rate, bank_seconds, now)
    return bucket


def rounded(count: int, rate: float) -> float:
    """The requests that so many additions to a time may give or take, each off by half of the last bit at most."""
    return count * rate * math.ulp(NOW) / 2


@settings(max_examples=scaled(15, 40))
@given(rate=st.floats(0.05, 50), bank=st.floats(0, 60), steps=st.lists(pauses, min_size=1, max_size=60))
def test_no_window_ever_holds_more_than_its_rate_and_the_bank(rate: float, bank: float, steps: list[float]) -> None:
    bucket, now, taken = bucket_of(rate, bank), NOW, []
    for step in steps:
        now += step
        while bucket.take(now) and len(taken) < 500:
            taken.append(now)
    for first, start in enumerate(taken):
        for last in range(first, len(taken)):
            window = taken[last] - start
            count = last - first + 1
            assert count <= rate * window + rate * bank + 1 + 1e-3 + rounded(count, rate)


def test_saved_requests_survive_a_new_rate() -> None:
    bucket = bucket_of(10, 30)
    bucket.set_rate(2, 30, NOW + 1.0)  # nine saved, and the one that opened it
    taken = 0
    while bucket.take(NOW + 1.0):
        taken += 1
    assert taken == 10
    assert bucket.opens_at == pytest.approx(NOW + 1.5, abs=1e-5)
    assert bucket.rate == 2


def test_saved_requests_are_limited_to_the_bank() -> None:
    bucket = bucket_of(10, 30)
    bucket.set_rate(1, 2, NOW + 100)
    taken = 0
    while bucket.take(NOW + 100):
        taken += 1
    assert taken == 3


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=30))
def test_the_planners_time_never_runs_back(readings: list[float]) -> None:
    timeline, before = Timeline(), -math.inf
    for reading in readings:
        at = timeline.at(reading)
        assert math.isfinite(at)
        assert at >= before or before == 0.0
        before = at


def test_a_clock_that_is_set_back_goes_on_from_where_it_was() -> None:
    timeline = Timeline()
    timeline.at(NOW)
    assert timeline.at(NOW - 3600) == NOW
    assert timeline.at(NOW - 3600 + 7) == NOW + 7
    assert timeline.clock(NOW + 7) == NOW - 3600 + 7
    assert timeline.inner(NOW - 3600) == NOW
