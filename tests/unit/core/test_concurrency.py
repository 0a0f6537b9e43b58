"""How many deliveries of a subscription may be out at once."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from relay.core.deliveries.concurrency import START, Concurrency

SECONDS = st.floats(0, 100, allow_nan=False)


def filled(concurrency: Concurrency, seconds: float, count: int) -> int:
    """So many answers, each after that time, with all slots in use."""
    for _ in range(count):
        concurrency.succeeded(seconds, in_flight=concurrency.limit, full=True)
    return concurrency.limit


def test_queueing_at_the_sink_stops_growth():
    concurrency = Concurrency(ceiling=64)
    concurrency.succeeded(0.1, in_flight=1, full=False)
    assert filled(concurrency, 0.21, 1_000) == START


def test_queueing_removes_added_slots_but_not_the_first_ones():
    concurrency = Concurrency(ceiling=64)
    assert filled(concurrency, 0.1, 20) == START + 20
    assert filled(concurrency, 0.21, START + 20) == START + 18
    assert filled(concurrency, 0.21, 1_000) == START
    assert filled(concurrency, 0.1, START) == START, "by one a round from now on"
    assert filled(concurrency, 0.1, START) == START + 1


def test_slower_sink_is_measured_again_by_single_requests():
    concurrency = Concurrency(ceiling=64)
    concurrency.succeeded(0.1, in_flight=1, full=False)
    concurrency.succeeded(5.0, in_flight=1, full=False)
    assert filled(concurrency, 5.0, 1_000) == START, "one that was slow proves nothing"
    for _ in range(100):
        concurrency.succeeded(5.0, in_flight=1, full=False)
    assert filled(concurrency, 5.0, 3_000) == 64


def test_dead_sink_ends_with_one_slot():
    concurrency = Concurrency(ceiling=64)
    for expected in (7, 6, 5, 4, 3, 2, 1, 1):
        concurrency.timed_out()
        assert concurrency.limit == expected


def test_slots_grow_by_one_per_round_after_a_time_out():
    concurrency = Concurrency(ceiling=64)
    for _ in range(START):
        concurrency.timed_out()
    grown = [filled(concurrency, 5.0, concurrency.limit) for _ in range(6)]
    assert all(0 <= after - before <= 1 for before, after in itertools.pairwise([1, *grown]))
    assert grown[-1] >= 5


@given(
    st.integers(1, 1_000),
    st.lists(st.one_of(st.none(), st.tuples(SECONDS, st.integers(1, 1_000), st.booleans())), max_size=200),
)
def test_slots_stay_between_one_and_the_ceiling(ceiling, outcomes):
    concurrency = Concurrency(ceiling=ceiling)
    for outcome in outcomes:
        if outcome is None:
            concurrency.timed_out()
        else:
            concurrency.succeeded(outcome[0], in_flight=outcome[1], full=outcome[2])
        assert 1 <= concurrency.limit <= ceiling
