"""When connect accounts are listed: at an interval, sooner if there is a reason, and never for more than 1 %."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.jobs.connect_accounts import LISTING_SHARE, SAVED_LISTINGS, ListingTimes

NOW = 1_779_271_200.0
RATE = 10.0


def listed(interval: float = 300.0, *, at: float = NOW, rate: float = RATE) -> ListingTimes:
    times = ListingTimes(interval)
    times.began(at, rate)
    times.listed(at, None)
    return times


def test_nothing_is_known_at_first_so_the_first_listing_is_due_at_once() -> None:
    times = ListingTimes(300)
    assert times.next_at(NOW, 0.0) <= NOW
    times.listed(None, None)
    assert times.next_at(NOW, RATE) <= NOW


@pytest.mark.parametrize(
    ("confirm_at", "expected"), [(None, NOW + 300), (NOW + 30, NOW + 30), (NOW + 900, NOW + 300), (NOW - 9, NOW - 9)]
)
def test_the_next_one_comes_after_an_interval_or_confirms_a_change(confirm_at: float | None, expected: float) -> None:
    times = ListingTimes(300)
    times.listed(NOW, confirm_at)
    assert times.next_at(NOW, RATE) == expected
    assert times.confirm_seconds == 30


def test_listings_take_a_hundredth_of_the_budget_and_a_few_may_follow_each_other() -> None:
    times, now, sent = ListingTimes(300), NOW, 0
    times.next_at(now, 1.0)
    while now < NOW + 10_000:
        now = max(now, times.next_at(now, 1.0))
        times.began(now, 1.0)
        times.listed(now, now)  # there is always something to confirm
        sent += 1
    assert 100 <= sent <= 10_000 * LISTING_SHARE + SAVED_LISTINGS + 1


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["wait", "ask", "fail", "confirm"]), st.floats(-1e5, 1e5), st.floats(0, 100)),
        max_size=60,
    )
)
def test_with_any_clock_a_listing_becomes_due(steps: list[tuple[str, float, float]]) -> None:
    times, now = ListingTimes(300), NOW
    for what, elapsed, rate in steps:
        now += elapsed
        if times.next_at(now, rate) <= now:
            times.began(now, rate)
            times.listed(now, now + 30 if what == "confirm" else None)
        if what == "ask":
            times.ask()
        elif what == "fail":
            times.failed(now)
    assert times.next_at(now, 100.0) <= now + 300
