"""Clocks: one that follows another does not change when the machine's clock is set. Times where people are."""

import time
from datetime import UTC, datetime

import pytest
import time_machine
from hypothesis import example, given
from hypothesis import strategies as st

from relay.clock import (
    MAX_EPOCH_SECONDS,
    FollowedClock,
    steady_clock,
    to_rfc3339,
)


class Steady:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("seconds", [60.0, -60.0])
def test_followed_clock_ignores_changes_of_the_machine_s_clock(seconds: float) -> None:
    followed = FollowedClock()
    moment = steady_clock()
    followed.read(5_000.0, moment, moment)
    with time_machine.travel(time.time() + seconds, tick=True):
        assert followed.now() == pytest.approx(5_000.0, abs=5.0)


@pytest.mark.parametrize(
    ("reported", "before", "after", "ahead"),
    [
        (1_102.0, 100.0, 104.0, 1_000.0),  # what is known is possible: a slow answer moves nothing
        (1_104.0, 100.0, 104.0, 1_000.0),
        (1_105.0, 100.0, 104.0, 1_001.0),  # by no more than it has to
        (1_099.0, 100.0, 104.0, 999.0),
        (1_160.0, 100.0, 100.0, 1_060.0),  # the other clock was set
        (1_040.0, 100.0, 100.0, 940.0),
    ],
)
def test_reading_changes_a_followed_clock_only_as_far_as_it_contradicts_it(
    reported: float, before: float, after: float, ahead: float
) -> None:
    steady = Steady()
    followed = FollowedClock(steady)
    followed.read(1_100.0, 99.0, 101.0)
    assert followed.now() == 1_100.0
    followed.read(reported, before, after)
    assert followed.now() == 100.0 + ahead
    steady.now += 7.0
    assert followed.now() == 107.0 + ahead


@given(st.floats(min_value=0.0, max_value=2.0**32))
@example(1779271207.9995)
@example(1779271207.9994998)
@example(1779271208.0005)
@example(MAX_EPOCH_SECONDS)
def test_time_is_written_as_the_standard_library_writes_it(seconds: float) -> None:
    moment = datetime.fromtimestamp(round(seconds, 3), UTC)

    assert to_rfc3339(seconds) == moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
