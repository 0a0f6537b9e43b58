"""Hazards learned from polls: each time at risk and each event counts once, and nonsense is refused."""

import json
import math
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.planner.hazard import (
    BINS,
    EDGES,
    GROWTH,
    PSEUDO_JOBS,
    RESCALE_ABOVE,
    WIDTHS,
    Hazard,
    bin_of,
    lomax,
)

pytestmark = pytest.mark.verify

FLAT = (0.1,) * BINS
PRIOR = lomax(10.0)

ages = st.floats(0, 2e5) | st.sampled_from(EDGES) | st.floats(0, 30)
floats_a_bin = st.lists(st.floats(1e-6, 5.0), min_size=8, max_size=8).map(lambda few: (few * BINS)[:BINS])
polls = st.tuples(st.sampled_from(["survived", "happened", "between"]), ages, ages)


def teach(hazard: Hazard, found: Sequence[tuple[str, float, float]]) -> None:
    for what, a, b in found:
        since, age = min(a, b), max(a, b)
        if what == "survived":
            hazard.record_survival(since, age)
        elif what == "happened":
            hazard.record_event(since, age)
        else:
            hazard.record_event_between(since, age, FLAT)


def alive_at(rates: Sequence[float], age: float) -> float:
    """The share that lives to an age, by these hazards."""
    return math.exp(
        -sum(rate * min(max(age - a, 0.0), b - a) for rate, (a, b) in zip(rates, pairwise(EDGES), strict=True))
    )


def median_of(rates: Sequence[float]) -> float:
    low, high = 0.0, EDGES[-1]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if alive_at(rates, middle) > 0.5 else (low, middle)
    return low


def seen(hazard: Hazard) -> tuple[list[float], list[float]]:
    """Events and time at risk in each bin, what is new counting 1."""
    _, _, _, weight, events, exposure, cover = hazard.dump()
    whole, risk = 0.0, []
    for at, width in enumerate(WIDTHS):
        whole += cover[at]
        risk.append((exposure[at] + whole * width) / weight)
    return [each / weight for each in events], risk


def learned(seed: int, events: int) -> Hazard:
    """From lives of which the middle one lasts seven seconds."""
    rng, hazard = random.Random(seed), Hazard()
    for _ in range(events):
        hazard.record_event(0.0, rng.lognormvariate(math.log(7.0), 0.6))
    return hazard


def test_a_prior_weighs_a_few_jobs() -> None:
    hazard = Hazard()
    for _ in range(3):
        hazard.record_event(0.0, 30.0)
    few = median_of(hazard.rates(lomax(1.0)))
    for _ in range(300):
        hazard.record_event(0.0, 30.0)
    assert 1.0 < few < 25.0
    assert median_of(hazard.rates(lomax(1.0))) == pytest.approx(30.0, rel=0.1)
    assert PSEUDO_JOBS < 5


@given(st.lists(polls, max_size=40))
def test_hazards_are_positive_and_finite_whatever_was_seen(found: list[tuple[str, float, float]]) -> None:
    hazard = Hazard()
    teach(hazard, found)
    rates = hazard.rates(PRIOR)
    assert len(rates) == BINS
    assert all(0 < rate < math.inf for rate in rates)
    assert hazard.since == hazard.polls_since == 0


@given(st.lists(st.tuples(ages, ages), max_size=30))
def test_every_time_at_risk_is_counted_once_and_in_its_bin(found: list[tuple[float, float]]) -> None:
    hazard, expected = Hazard(), [0.0] * BINS
    for a, b in found:
        hazard.record_survival(a, b)
        for at in range(BINS):
            expected[at] += max(min(b, EDGES[at + 1]) - max(a, EDGES[at]), 0.0)
    events, risk = seen(hazard)
    assert not any(events)
    assert risk == pytest.approx(expected, abs=1e-6)
    assert hazard.polls_since == sum(b > a for a, b in found)
    assert hazard.count == hazard.since == 0


@given(since=ages, age=ages, rates=floats_a_bin)
def test_an_event_somewhere_between_counts_once_and_there(since: float, age: float, rates: list[float]) -> None:
    since, age = min(since, age), max(since, age)
    hazard = Hazard()
    hazard.record_event_between(since, age, rates)
    events, risk = seen(hazard)
    assert hazard.count == hazard.since == 1
    assert sum(events) == pytest.approx(1)
    assert all(each >= 0 for each in (*events, *risk))
    assert not any(events[: bin_of(since)])
    assert not any(events[bin_of(age) + 1 :])
    assert sum(risk) <= (age - since) * (1 + 1e-9)


def test_an_event_between_is_spread_as_the_hazards_make_it_likely() -> None:
    rates = [0.05] * BINS
    rates[bin_of(5.0)] = 2.0
    hazard = Hazard()
    hazard.record_event_between(2.0, 9.0, rates)
    events, risk = seen(hazard)
    ended, alive = [], 1.0
    for rate, (a, b) in zip(rates, pairwise(EDGES), strict=True):
        gone = alive * -math.expm1(-rate * max(min(9.0, b) - max(2.0, a), 0.0))
        ended.append(gone)
        alive -= gone
    ended = [gone / (1 - alive) for gone in ended]
    assert events == pytest.approx(ended)
    assert max(range(BINS), key=events.__getitem__) == bin_of(5.0)
    middles = [(max(a, 2.0) + min(b, 9.0)) / 2 for a, b in pairwise(EDGES)]
    assert sum(risk) == pytest.approx(sum(share * (at - 2.0) for share, at in zip(ended, middles, strict=True)))


@pytest.mark.parametrize("between", [False, True])
def test_weights_that_grow_large_are_scaled_back(between: bool) -> None:
    hazard = learned(1, 50)
    count, since, polls_since, weight, *lists = hazard.dump()
    factor = RESCALE_ABOVE / weight
    hazard.load([count, since, polls_since, RESCALE_ABOVE, *([v * factor for v in each] for each in lists)])
    twin = learned(1, 50)
    for each in (hazard, twin):
        if between:
            each.record_event_between(3.0, 9.0, FLAT)
        else:
            each.record_event(3.0, 9.0)
    assert hazard.dump()[3] == 1.0
    assert twin.dump()[3] == pytest.approx(GROWTH**51)
    assert hazard.rates(PRIOR) == pytest.approx(twin.rates(PRIOR))


GOOD = json.dumps(learned(1, 5).dump())


def spoiled(place: int, value: Any, at: int | None = None) -> list[Any]:
    values: list[Any] = json.loads(GOOD)
    if at is None:
        values[place] = value
    else:
        values[place][at] = value
    return values


NONSENSE = [
    [],
    spoiled(0, math.nan),
    spoiled(2, -1),
    spoiled(3, 0.0),
    spoiled(3, 1e300),
    spoiled(4, []),
    spoiled(4, -1e-3, 7),
    spoiled(4, math.nan, 7),
    spoiled(4, 10**400, 7),
    spoiled(5, math.inf, 7),
    spoiled(5, 1e300, 7),
    spoiled(6, math.inf, 7),
]


@pytest.mark.parametrize("values", NONSENSE)
def test_what_cannot_have_been_learned_is_refused_and_nothing_is_taken_over(values: list[Any]) -> None:
    hazard = learned(2, 5)
    before = json.dumps(hazard.dump())
    with pytest.raises(ValueError):  # noqa: PT011
        hazard.load(values)
    assert json.dumps(hazard.dump()) == before


@given(
    place=st.integers(0, 6),
    at=st.integers(0, BINS - 1),
    value=st.floats() | st.integers() | st.none() | st.text() | st.lists(st.floats()),
)
def test_restored_statistics_give_positive_finite_hazards(place: int, at: int, value: Any) -> None:
    hazard = Hazard()
    try:
        hazard.load(spoiled(place, value, at if place > 3 else None))
    except (ValueError, TypeError):
        return
    hazard.record_event(3.0, 4.0)
    assert all(0 < rate < math.inf for rate in hazard.rates(PRIOR))
