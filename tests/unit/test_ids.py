"""Ids, parsed by an independent ULID library."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from relay.ids import least_id, made_at, new_id

TIMES = st.floats(min_value=0, max_value=datetime(9999, 1, 1, tzinfo=UTC).timestamp())


@given(TIMES)
def test_an_id_is_a_prefix_and_a_ulid_of_its_time(epoch_seconds: float) -> None:
    prefix, _, ulid = new_id("evt", epoch_seconds).partition("_")
    assert (prefix, ulid) == ("evt", ulid.lower())
    assert ULID.from_str(ulid.upper()).milliseconds == int(epoch_seconds * 1000)


@given(TIMES, TIMES)
def test_ids_of_different_milliseconds_sort_by_time(one: float, other: float) -> None:
    order = int(one * 1000) - int(other * 1000)
    if order:
        assert (new_id("dlv", one) < new_id("dlv", other)) == (order < 0)


def test_ids_of_one_millisecond_differ() -> None:
    assert len({new_id("job", 1.0) for _ in range(10_000)}) == 10_000


@given(TIMES, TIMES)
def test_least_id_separates_earlier_ids_from_later_ones(one: float, other: float) -> None:
    assert (new_id("int", one) < least_id("int", other)) == (int(one * 1000) < int(other * 1000))


@pytest.mark.parametrize("id", ["", "A-17", "evt_1", "evt_" + "z" * 26, "evt_" + "!" * 26])
def test_other_ids_tell_no_time(id: str) -> None:
    assert made_at(id) is None
