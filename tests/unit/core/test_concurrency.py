"""How many deliveries of a subscription may be out at once."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from relay.core.concurrency import START, Concurrency

SECONDS = st.floats(0, 100, allow_nan=False)


def filled(concurrency: Concurrency, seconds: float, count: int) -> int:
    """So many answers, each after that time, with all slots in use."""
    for _ in range(count):
        concurrency.succeeded(seconds, in_flight=concurrency.limit, full=True)
    return concurrency.limit


def test_it_starts_small_and_never_above_its_ceiling():
    assert Concurrency(ceiling=64).limit == START
    assert Concurrency(ceiling=3).limit == 3


def test_a_sink_that_answers_as_soon_as_ever_gets_more_up_to_the_ceiling():
    concurrency = Concurrency(ceiling=64)
    assert filled(concurrency, 5.0, START) == 2 * START
    assert filled(concurrency, 5.0, 1_000) == 64


def test_a_sink_whose_answers_stand_in_a_line_gets_no_more():
    concurrency = Concurrency(ceiling=64)
    concurrency.succeeded(0.1, in_flight=1, full=False)
    assert filled(concurrency, 0.21, 1_000) == START


def test_what_was_added_goes_again_when_a_line_forms_but_not_what_it_began_with():
    concurrency = Concurrency(ceiling=64)
    assert filled(concurrency, 0.1, 20) == START + 20
    assert filled(concurrency, 0.21, START + 20) == START + 18
    assert filled(concurrency, 0.21, 1_000) == START
    assert filled(concurrency, 0.1, START) == START, "by one a round from now on"
    assert filled(concurrency, 0.1, START) == START + 1


def test_a_prompt_answer_has_stood_in_no_line():
    concurrency = Concurrency(ceiling=64)
    concurrency.succeeded(0.001, in_flight=1, full=False)
    assert filled(concurrency, 0.01, 1_000) == 64
    assert filled(concurrency, 0.011, 64) < 64


def test_slots_that_were_not_in_use_are_no_reason_for_more():
    concurrency = Concurrency(ceiling=64)
    for _ in range(1_000):
        concurrency.succeeded(5.0, in_flight=START - 1, full=False)
    assert concurrency.limit == START


def test_a_sink_that_has_become_slower_is_measured_anew_by_what_is_out_alone():
    concurrency = Concurrency(ceiling=64)
    concurrency.succeeded(0.1, in_flight=1, full=False)
    concurrency.succeeded(5.0, in_flight=1, full=False)
    assert filled(concurrency, 5.0, 1_000) == START, "one that was slow proves nothing"
    for _ in range(100):
        concurrency.succeeded(5.0, in_flight=1, full=False)
    assert filled(concurrency, 5.0, 3_000) == 64


def test_a_dead_sink_is_left_with_one_after_as_many_time_outs_as_it_had_slots():
    concurrency = Concurrency(ceiling=64)
    for expected in (7, 6, 5, 4, 3, 2, 1, 1):
        concurrency.timed_out()
        assert concurrency.limit == expected


def test_one_time_out_among_many_successes_costs_one_slot():
    concurrency = Concurrency(ceiling=64)
    filled(concurrency, 5.0, 1_000)
    concurrency.timed_out()
    assert concurrency.limit == 63
    assert filled(concurrency, 5.0, 64) == 64


def test_after_time_outs_it_comes_back_by_one_a_round():
    concurrency = Concurrency(ceiling=64)
    for _ in range(START):
        concurrency.timed_out()
    grown = [filled(concurrency, 5.0, concurrency.limit) for _ in range(6)]
    assert all(0 <= after - before <= 1 for before, after in itertools.pairwise([1, *grown]))
    assert grown[-1] >= 5


def test_where_each_tenth_times_out_it_settles_instead_of_falling_to_one():
    concurrency = Concurrency(ceiling=64)
    limits = []
    for n in range(5_000):
        if n % 10 == 0:
            concurrency.timed_out()
        else:
            concurrency.succeeded(5.0, in_flight=concurrency.limit, full=True)
        limits.append(concurrency.limit)
    assert 5 <= sum(limits[1_000:]) / len(limits[1_000:]) <= 12


@given(
    st.integers(1, 1_000),
    st.lists(st.one_of(st.none(), st.tuples(SECONDS, st.integers(1, 1_000), st.booleans())), max_size=200),
)
def test_whatever_happens_at_least_one_may_be_out_and_never_more_than_the_ceiling(ceiling, outcomes):
    concurrency = Concurrency(ceiling=ceiling)
    for outcome in outcomes:
        if outcome is None:
            concurrency.timed_out()
        else:
            concurrency.succeeded(outcome[0], in_flight=outcome[1], full=outcome[2])
        assert 1 <= concurrency.limit <= ceiling
