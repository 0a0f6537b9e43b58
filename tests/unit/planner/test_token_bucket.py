"""The token bucket and the timeline: rates that are never exceeded, and a time that never runs back."""

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay.core.planner.pacer import Bucket
from relay.core.planner.timeline import SLACK_SECONDS, STEP_SECONDS, Timeline
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


@example(rate=49.50996970166913, bank=60.0, seconds=37.99227573277545)
@given(rate=st.floats(0.05, 50), bank=st.floats(0, 60), seconds=st.floats(0, 100))
def test_a_new_bucket_is_empty(rate: float, bank: float, seconds: float) -> None:
    bucket, taken = bucket_of(rate, bank), 0
    while bucket.take(NOW + seconds):
        taken += 1
    assert taken <= rate * (seconds + SLACK_SECONDS) + 1e-3 + rounded(taken, rate)


def test_a_bucket_without_a_rate_gives_nothing() -> None:
    assert not Bucket().take(NOW)


def test_saved_requests_survive_a_new_rate() -> None:
    bucket = bucket_of(10, 30)
    bucket.set_rate(2, 30, NOW + 1.0)  # nine saved, and the one that opened it
    taken = 0
    while bucket.take(NOW + 1.0):
        taken += 1
    assert taken == 10
    assert bucket.opens_at() == pytest.approx(NOW + 1.5, abs=1e-5)
    assert bucket.rate == 2


def test_saved_requests_are_limited_to_the_bank() -> None:
    bucket = bucket_of(10, 30)
    bucket.set_rate(1, 2, NOW + 100)
    taken = 0
    while bucket.take(NOW + 100):
        taken += 1
    assert taken == 3


def test_a_drained_bucket_has_nothing_saved() -> None:
    bucket = bucket_of(10, 30)
    bucket.drain(NOW + 10)
    assert bucket.take(NOW + 10)
    assert not bucket.take(NOW + 10)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=30))
def test_the_planners_time_never_runs_back(readings: list[float]) -> None:
    timeline, before = Timeline(), -math.inf
    for reading in readings:
        at = timeline.at(reading)
        assert math.isfinite(at)
        assert at >= before or before == 0.0
        before = at


def test_readings_that_arrive_out_of_order_do_not_shift_time() -> None:
    timeline = Timeline()
    assert timeline.at(NOW) == NOW
    assert timeline.at(NOW - STEP_SECONDS) == NOW
    assert timeline.offset == 0


def test_a_clock_that_is_set_back_goes_on_from_where_it_was() -> None:
    timeline = Timeline()
    timeline.at(NOW)
    assert timeline.at(NOW - 3600) == NOW
    assert timeline.at(NOW - 3600 + 7) == NOW + 7
    assert timeline.clock(NOW + 7) == NOW - 3600 + 7
    assert timeline.inner(NOW - 3600) == NOW


def test_time_can_be_moved_forward_before_it_began() -> None:
    timeline = Timeline()
    assert timeline.skip(5.0) == 5.0
    assert timeline.at(1.0) == 6.0


def test_saved_requests_are_reported() -> None:
    bucket = bucket_of(2, 30)
    assert bucket.capacity() == 60
    assert bucket.saved(NOW) == 0
    assert bucket.saved(NOW + 10.5) == pytest.approx(20)
    assert bucket.saved(NOW + 1_000) == 60
    assert bucket.full_at() == NOW + 30.5
    assert bucket.take(NOW + 10.5)
    assert bucket.saved(NOW + 10.5) == pytest.approx(19)
