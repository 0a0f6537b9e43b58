"""The yardstick of the polling benchmark: true hazards, a price that stands still, and bars that can fail."""

import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from polling_bars import BAR, Bar
from polling_bound import LEAST_RATE, at_price, bound, lane_survival, lognormal_survival, rates_of
from polling_workloads import make

from relay.core.planner.learning.hazard import EDGES, bin_of


def test_a_constant_hazard_comes_out_again():
    rates = rates_of(lambda age: math.exp(-0.1 * age))

    assert rates[: bin_of(1_000)] == pytest.approx([0.1] * bin_of(1_000))


def test_hazards_let_as_many_survive_as_the_law():
    survival = lognormal_survival(20.0, 1.5)
    rates = rates_of(survival)

    left = 1.0
    for at, rate in enumerate(rates[:100]):
        left *= math.exp(-rate * (EDGES[at + 1] - EDGES[at]))
        assert left == pytest.approx(survival(EDGES[at + 1]))


def test_nothing_starts_in_a_lane_before_its_shortest_spacing():
    survival = lane_survival(180.0, 360.0)

    assert survival(100.0) == pytest.approx(1.0)
    assert survival(210.0) == pytest.approx(0.5, abs=0.01)
    assert survival(320.0) == pytest.approx(0.0)
    assert rates_of(survival)[bin_of(60.0)] == LEAST_RATE


def test_a_dearer_request_is_sent_less_often_and_finds_ends_later():
    world = make("retry", 1, 300)
    cheap, dear = at_price(world, 0.5, 1), at_price(world, 5.0, 1)

    assert cheap.requests > dear.requests
    assert cheap.mean_delay_seconds < dear.mean_delay_seconds


def test_the_bound_sends_as_many_requests_as_are_asked_for():
    found = bound(make("drift", 1, 400), 4.0, 1)

    assert found.outcome.requests_per_job == pytest.approx(4.0, rel=0.02)


def test_a_figure_above_its_limit_is_not_met():
    bars = [Bar(name="", workload="mix", figure=figure, limit=limit) for figure, limit in ((1.2, 1.0), (9.0, None))]

    assert [bar.met for bar in bars] == [False, True]
    assert {bar.kind for bar in bars} == {BAR}
