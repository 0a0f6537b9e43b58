"""The forecast: the delay that was measured, and what other budgets would make of it."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.planner.forecast import (
    JUDGED_KINDS,
    MAX_KINDS,
    MEASURED_ENDS,
    RUNGS,
    Forecast,
)
from relay.core.planner.inspection import LANE, NEW, RUN, Table
from relay.core.planner.price import FLOOR, Price
from relay.core.planner.statistics import ClassStatistics, PlannerStatistics
from tests.support.scale import scaled

NOW = 1_779_271_200.0


def work_off(forecast: Forecast, now: float) -> int:
    pieces = 0
    while forecast.work(now):
        pieces += 1
        assert pieces < 1_000
    return pieces


def measured(forecast: Forecast, *delays: float) -> None:
    for delay in delays:
        forecast.ended(delay)


def make(unit: float = 1.0, price: float = 1.0) -> tuple[Forecast, PlannerStatistics, Price]:
    statistics, made = PlannerStatistics(unit), Price(unit)
    made.load(price, 0)
    return Forecast(statistics, made), statistics, made


def table(polls: float, delay: float) -> Table:
    found = Table()
    found.polls[0], found.delay[0] = polls, delay
    return found


def tables(job_class: ClassStatistics, kind: int, rung: int, *, cheaper: Table, here: Table, dearer: Table) -> None:
    job_class.policy.tables |= {(kind, rung - RUNGS): cheaper, (kind, rung): here, (kind, rung + RUNGS): dearer}


# --- this budget


def test_forecast_is_the_mean_of_measured_delays() -> None:
    forecast, statistics, _ = make()
    forecast.began(statistics.of_class("a", ""), NEW)
    work_off(forecast, NOW)
    delays = [float(each % 7) for each in range(200)]
    measured(forecast, *delays)
    assert forecast.ends == 200
    assert forecast.expected(0.9)[0] == pytest.approx(sum(delays) / len(delays))


def learn(statistics: PlannerStatistics, job_class: ClassStatistics, *kinds: int, count: int = MEASURED_ENDS) -> None:
    for kind in kinds:
        for _ in range(count):
            statistics.record_event(job_class, kind, 0.0, 5.0 * statistics.unit)
    while statistics.refit_step():
        pass


@pytest.mark.parametrize("kinds", [(), (NEW,), (RUN,)])
def test_before_anything_is_learned_no_delay_is_stated(kinds: tuple[int, ...]) -> None:
    """A prior knows nothing of the upstream's lanes, and the ends seen first are those that came soonest."""
    forecast, statistics, _ = make()
    job_class = statistics.of_class("a", "")
    learn(statistics, job_class, *kinds)
    learn(statistics, job_class, NEW, RUN, count=MEASURED_ENDS - 1 if not kinds else 0)
    forecast.began(job_class, NEW)
    work_off(forecast, NOW)
    for _ in range(MEASURED_ENDS - 1):
        assert forecast.expected(0.9) == (None, None, None)
        measured(forecast, 0.9)
    measured(forecast, 42.0)
    assert forecast.expected(0.9)[0] == pytest.approx((0.9 * (MEASURED_ENDS - 1) + 42) / MEASURED_ENDS)


@pytest.mark.parametrize("unit", [1.0, 0.1])
def test_before_enough_was_measured_tables_that_others_taught_stand_for_the_ends_to_come(unit: float) -> None:
    forecast, statistics, price = make(unit)
    job_class = statistics.of_class("a", "")
    learn(statistics, job_class, NEW, RUN)
    forecast.began(job_class, NEW)
    work_off(forecast, NOW)
    tables = job_class.policy.table(NEW, price.rung(1.0)).delay[0] * unit
    for ends in range(MEASURED_ENDS):
        expected = (ends * 99.0 + (MEASURED_ENDS - ends) * tables) / MEASURED_ENDS
        assert forecast.expected(0.9)[0] == pytest.approx(expected)
        measured(forecast, 99.0)
    assert forecast.expected(0.9)[0] == pytest.approx(99.0)


def test_kinds_count_by_how_often_they_came_of_late() -> None:
    forecast, statistics, price = make()
    rung = price.rung(1.0)
    for name, delay in (("a", 1.0), ("b", 9.0)):
        learn(statistics, statistics.of_class(name, ""), NEW, RUN)
        tables(
            statistics.of_class(name, ""),
            NEW,
            rung,
            cheaper=table(4, delay / 2),
            here=table(2, delay),
            dearer=table(1, delay * 2),
        )
    for _ in range(100):
        forecast.began(statistics.of_class("a", ""), NEW)
    for _ in range(300):
        forecast.began(statistics.of_class("b", ""), NEW)
    work_off(forecast, NOW)
    assert forecast.expected(1.0)[0] == pytest.approx(7.0, abs=0.7)
    for _ in range(2_000):
        forecast.began(statistics.of_class("a", ""), NEW)
    assert forecast.expected(1.0)[0] == pytest.approx(1.0, abs=0.1)


def test_the_count_goes_on_for_ever() -> None:
    forecast, statistics, _ = make()
    for _ in range(100_000):  # far more than a float has room for without being scaled back
        forecast.began(statistics.of_class("a", ""), NEW)
    forecast.began(statistics.of_class("b", ""), RUN)
    for name in ("a", "b"):
        learn(statistics, statistics.of_class(name, ""), NEW, RUN)
    work_off(forecast, NOW)
    here = statistics.of_class("a", "").policy.table(NEW, 0).delay[0]
    assert forecast.expected(1.0)[0] == pytest.approx(here, rel=0.02)


def test_number_of_kinds_is_bounded_and_the_rarest_is_dropped() -> None:
    forecast, statistics, _ = make()
    often = statistics.of_class("often", "")
    for _ in range(5):
        forecast.began(often, NEW)
    for number in range(2 * MAX_KINDS):
        forecast.began(statistics.of_class(str(number), ""), NEW)
    # One judgement sees what there is to do, and makes three rungs of the most frequent kinds.
    assert work_off(forecast, NOW) == 1 + 3 * JUDGED_KINDS
    assert len(often.policy.tables) == 6  # each with the run's


# --- other budgets


groups = st.lists(st.tuples(st.floats(-1.0, 7.0), st.floats(0.0, 1.5), st.integers(1, 40)), max_size=3)


@settings(max_examples=scaled(8, 15))
@given(
    starts=groups,
    runs=groups,
    kind=st.sampled_from([NEW, LANE]),
    price=st.floats(FLOOR, 200.0),
    use=st.floats(0, 1),
    delays=st.lists(st.floats(0, 1e4), max_size=30),
)
def test_double_the_budget_is_never_later_and_half_never_sooner(
    starts: list[tuple[float, float, int]],
    runs: list[tuple[float, float, int]],
    kind: int,
    price: float,
    use: float,
    delays: list[float],
) -> None:
    forecast, statistics, _ = make(price=price)
    job_class, rng = statistics.of_class("a", ""), random.Random(2)
    for which, found in ((kind, starts), (RUN, runs)):
        for middle, spread, count in found:
            for _ in range(count):
                statistics.record_event(job_class, which, 0.0, rng.lognormvariate(middle, spread))
    while statistics.refit_step():
        pass
    forecast.began(job_class, kind)
    work_off(forecast, NOW)
    measured(forecast, *delays, *[3.0] * MEASURED_ENDS)
    here, double, half = forecast.expected(use)
    assert here is not None
    assert double is not None
    assert half is not None
    assert 0 <= double <= here <= half < math.inf
