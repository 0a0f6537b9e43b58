"""The inspection programme: no fixed poll at a run is better than the one it plans, and theory says the same."""

import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import pytest

from relay.core.planner.hazard import BINS, EDGES, WIDTHS, bin_of, lomax
from relay.core.planner.inspection import Table, run_table

pytestmark = pytest.mark.verify
uncovered = pytest.mark.no_cover  # which makes it twice as slow; smaller tests take the same branches

Rates = tuple[float, ...]
PRICES = [0.05, 0.3, 1.0, 5.0, 20.0, 100.0]
FROM = [EDGES[bin_of(age)] for age in (0.0, 0.5, 1.0, 5.0, 12.0, 40.0, 250.0, 1_500.0)]
"""Ages from which polls are tried, and how far ahead."""
SELDOM = 1e-4
"""Ages that fewer reach are left out: there bins are far wider than the law's own times."""
AHEAD = [0.25 * 1.7**power for power in range(19)]


def living(alive: Callable[[float], float]) -> Rates:
    """The hazard in each bin of a law of which the share alive at an age is given."""
    found: list[float] = []
    for a, b in pairwise(EDGES):
        known = alive(b) > 1e-12
        found.append(max(math.log(alive(a) / alive(b)) / (b - a), 1e-9) if known else found[-1])
    return tuple(found)


def lognormal(median: float, sigma: float) -> Callable[[float], float]:
    return lambda age: 1.0 if age <= 0 else 0.5 * math.erfc(math.log(age / median) / sigma / math.sqrt(2))


def bimodal(age: float) -> float:
    return 0.8 * lognormal(10.0, 0.1)(age) + 0.2 * lognormal(900.0, 0.1)(age)


LAWS: dict[str, Rates] = {
    "lognormal": living(lognormal(7.0, 0.6)),
    "heavy": living(lognormal(20.0, 1.5)),
    "bimodal": living(bimodal),
    "prompt": (2.0,) * BINS,
    "constant": (0.05,) * BINS,
    "rare": (0.001,) * BINS,
    "unknown": lomax(10.0),
}


# --- what a fixed poll costs, by brute force


class Lives:
    """One law, integrated in small steps."""

    def __init__(self, law: Rates) -> None:
        self.law = law
        self.gone = [0.0]
        for rate, width in zip(law, WIDTHS, strict=True):
            self.gone.append(self.gone[-1] + rate * width)

    def alive(self, age: float) -> float:
        """The share that lives to an age."""
        at = bin_of(age)
        return math.exp(-self.gone[at] - self.law[at] * (age - EDGES[at]))

    def steps(self, since: float, age: float) -> list[tuple[float, float]]:
        """From one age to another: steps within a bin and never longer than a twentieth of the way."""
        found, longest = [since], (age - since) / 20
        while found[-1] < age - 1e-9:
            here = found[-1]
            edge = next(each for each in EDGES[bin_of(here + 1e-9) :] if each > here + 1e-9)
            found.append(min(here + longest, edge, age))
        return list(pairwise(found))

    def late(self, since: float, age: float) -> float:
        """How long ago the event is on average, 0 where it has not been, at `age`, if it had not been at `since`."""
        at_start = self.alive(since)
        return sum(
            (b - a) * (1 - (self.alive(a) + 4 * self.alive((a + b) / 2) + self.alive(b)) / 6 / at_start)
            for a, b in self.steps(since, age)
        )


def cost_from(lives: Lives, table: Table, age: float) -> float:
    """What the table's policy costs from any age on. Where it polls more than once a bin, an event is found at the same
    cost anywhere in it, so that the next edge's cost counts by the share that lives to it."""
    at = bin_of(age)
    if table.step[at] == 0:
        return table.at(table.cost, age)
    kept = math.exp(-lives.law[at] * WIDTHS[at])
    found = (table.cost[at] - kept * table.cost[at + 1]) / (1 - kept)
    return found + (table.cost[at + 1] - found) * math.exp(-lives.law[at] * (EDGES[at + 1] - age))


def cost_of_run_poll(lives: Lives, table: Table, price: float, since: float, age: float) -> float:
    """A poll at `age` of a job running at `since`, then polls by the table."""
    alive = lives.alive(age) / lives.alive(since)
    return price + lives.late(since, age) + alive * cost_from(lives, table, age)


def no_poll_is_better(
    cost: Callable[[float, float], float], table: Table, lives: Lives, *, planned: float, own: float
) -> None:
    """Than the planned one: neither by what the table says of that, nor by what that really costs."""
    for since in FROM:
        if lives.alive(since) < SELDOM:
            continue
        polled = cost(since, table.next_poll(since))
        assert polled == pytest.approx(table.at(table.cost, since), rel=own)
        for ahead in AHEAD:
            if since + ahead < EDGES[-1]:
                found = cost(since, since + ahead)
                assert table.at(table.cost, since) <= found * (1 + planned), (since, ahead)
                assert polled <= found * (1 + planned), (since, ahead)


def check_run(law: Rates, price: float, *, planned: float, own: float) -> None:
    lives, table = Lives(law), run_table(law, price)
    no_poll_is_better(
        lambda since, age: cost_of_run_poll(lives, table, price, since, age), table, lives, planned=planned, own=own
    )


@uncovered
@pytest.mark.parametrize("price", PRICES)
@pytest.mark.parametrize("law", LAWS)
def test_no_fixed_poll_at_a_run_is_better_than_the_planned_one(law: str, price: float) -> None:
    check_run(LAWS[law], price, planned=0.035, own=0.025)


# --- what the tables foretell, by simulation


POLLS, DELAY, COST = 0.08, 0.1, 0.035
"""Near the least cost, polls and delay trade off: they differ more from the prediction than the cost does."""


# --- theory


@cache
def best_at_constant(rate: float, price: float) -> tuple[float, float]:
    """The best time between polls of a constant hazard h, and its cost: exp(h x) - h x - 1 = price h."""
    low, high = 0.0, 50.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if math.expm1(middle) - middle < price * rate else (low, middle)
    return low / rate, (price + low / rate) / -math.expm1(-low) - 1 / rate


@pytest.mark.parametrize("price", PRICES)
@pytest.mark.parametrize("rate", [1e-3, 0.01, 0.05, 0.3, 2.0])
def test_at_a_constant_hazard_polls_come_as_theory_says(rate: float, price: float) -> None:
    table = run_table((rate,) * BINS, price)
    interval, cost = best_at_constant(rate, price)
    assert table.step[BINS] == pytest.approx(interval, rel=0.03 if price * rate < 1 else 0.25)
    assert table.cost[BINS] == pytest.approx(cost, rel=0.005)
    for at in range(0, BINS, 7):
        assert cost * 0.999 <= table.cost[at] <= cost * 1.05
        if table.step[at]:
            assert table.step[at] == pytest.approx(interval, rel=0.03 if price * rate < 1 else 0.25)
    assert table.next_poll(2e5) == 2e5 + table.step[BINS]
    assert table.at(table.cost, 2e5) == table.cost[BINS]
