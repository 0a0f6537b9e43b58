"""The price of a poll: it settles where all jobs together ask for just the budget, and stays there."""

import json
import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.planner.price import (
    CEILING,
    FLOOR,
    INITIAL,
    PROMPT_STEPS,
    TARGET,
    Price,
)

NOW = 1_779_271_200.0
SETTLED = 0.15
SETTLES_SECONDS = 150
"""After polls have become fewer or requests more by four, which moves the price by 16: at a gain of 0.03 a second that
alone takes 92. The price moves as much slower as it takes longer than PROMPT_STEPS to poll all jobs."""
DRAINS_SECONDS = 350
"""After the opposite, when what has become overdue meanwhile is made up for too."""


def slower(open_jobs: float, rate: float) -> float:
    return max(open_jobs / rate / PROMPT_STEPS, 1.0)


class World:
    """Jobs that ask for `demand / root(price)` polls a second; what the budget has no room for is overdue."""

    def __init__(self, price: Price, *, demand: float, rate: float, open_jobs: int = 100) -> None:
        self.price, self.demand, self.rate, self.open_jobs = price, demand, rate, open_jobs
        self.backlog, self.now = 0.0, NOW

    @property
    def balance(self) -> float:
        """The price at which the jobs ask for just the share of the budget that is planned."""
        return min(max((self.demand / (TARGET * self.rate)) ** 2, FLOOR), CEILING)

    def run(self, seconds: int) -> list[float]:
        """The price over its balance, each second."""
        found = []
        for _ in range(seconds):
            self.now += 1.0
            asked = self.demand / math.sqrt(self.price.value) * (1 - self.backlog / self.open_jobs)
            self.backlog = max(self.backlog + asked - self.rate, 0.0)
            assert self.price.due(self.now)
            self.price.step(
                self.now, demand=self.demand, backlog=self.backlog, open_jobs=self.open_jobs, rate=self.rate
            )
            assert FLOOR <= self.price.value <= CEILING
            found.append(self.price.value / self.balance)
        return found


def settles_after(ratios: list[float]) -> int:
    """From which second on the price stays within the tolerance."""
    outside = [at for at, ratio in enumerate(ratios) if abs(ratio - 1) > SETTLED]
    return outside[-1] + 1 if outside else 0


def turns(ratios: list[float]) -> int:
    """How often a price that swings farther than the tolerance changes direction across its balance."""
    sides = [ratio > 1 for ratio in ratios if abs(ratio - 1) > SETTLED]
    return sum(a != b for a, b in pairwise(sides))


# --- settling


@pytest.mark.parametrize("balance", [0.2, 1.0, 40.0, 1_000.0])
@pytest.mark.parametrize("rate", [0.5, 50.0])
def test_a_new_price_finds_its_balance(balance: float, rate: float) -> None:
    world = World(
        Price(1.0), demand=math.sqrt(balance) * rate * TARGET, rate=rate, open_jobs=round(PROMPT_STEPS * rate)
    )
    ratios = world.run(900)
    distance = abs(math.log(balance / INITIAL))
    assert settles_after(ratios) <= 60 + distance / 0.03 * 2
    assert turns(ratios) <= 1


@pytest.mark.parametrize("factor", [4.0, 0.25])
@pytest.mark.parametrize("balance", [1.0, 40.0, 1_000.0])
@pytest.mark.parametrize("what", ["demand", "rate"])
@pytest.mark.parametrize("open_jobs", [20, 100, 300])
def test_after_a_step_of_the_load_the_price_settles_and_does_not_swing(
    open_jobs: int, what: str, balance: float, factor: float
) -> None:
    world = World(Price(1.0), demand=math.sqrt(balance) * 5.0, rate=5.0, open_jobs=open_jobs)
    world.run(3_000)
    if what == "demand":
        world.demand *= factor
    else:
        world.rate *= factor
    longer = slower(open_jobs, world.rate)
    ratios = world.run(round(900 * longer))
    dearer = (factor > 1) == (what == "demand")
    assert settles_after(ratios) <= (DRAINS_SECONDS if dearer else SETTLES_SECONDS) * longer
    assert turns(ratios) <= (1 if dearer else 0)
    assert ratios[-1] == pytest.approx(1, abs=0.02)


def test_overdue_polls_raise_the_price_until_they_are_sent() -> None:
    calm, behind = World(Price(1.0), demand=5.0, rate=5.0), World(Price(1.0), demand=5.0, rate=5.0)
    for world in (calm, behind):
        world.run(300)
    behind.backlog = 50.0
    assert behind.run(20)[-1] > calm.run(20)[-1] * 1.1
    behind.run(600)
    assert behind.price.value == pytest.approx(behind.balance, rel=0.02)
    assert behind.backlog == 0


def test_polls_that_no_price_decides_are_taken_off_the_budget() -> None:
    alone, beside = Price(1.0), Price(1.0)
    for _ in range(120):
        alone.step((alone.at or NOW) + 1, demand=4.0, backlog=0, open_jobs=20, rate=5.0)
        for _ in range(3):
            beside.others += 1
        beside.step((beside.at or NOW) + 1, demand=4.0, backlog=0, open_jobs=20, rate=5.0)
    assert alone.value < beside.value
    for _ in range(600):
        beside.step((beside.at or NOW) + 1, demand=4.0, backlog=0, open_jobs=20, rate=5.0)
        alone.step((alone.at or NOW) + 1, demand=4.0, backlog=0, open_jobs=20, rate=5.0)
    assert beside.value == pytest.approx(alone.value, rel=0.02), "they are forgotten"


# --- bounds


@given(
    steps=st.lists(
        st.tuples(st.floats(0, 1e9), st.integers(0, 10**6), st.floats(1e-6, 1e6), st.floats(0, 1e4)), max_size=60
    )
)
def test_the_price_keeps_its_bounds_whatever_is_asked_for(steps: list[tuple[float, int, float, float]]) -> None:
    price, now = Price(1.0), NOW
    for demand, open_jobs, rate, pause in steps:
        now += pause
        before = price.value
        price.step(now, demand=demand, backlog=open_jobs / 2, open_jobs=open_jobs, rate=rate)
        assert FLOOR <= price.value <= CEILING
        if open_jobs == 0:
            assert price.value == before


# --- kept over a restart


@given(steps=st.integers(0, 50))
def test_a_price_round_trips_and_goes_on_as_it_was(steps: int) -> None:
    world, back = World(Price(1.0), demand=30.0, rate=2.0), Price(1.0)
    world.run(steps)
    back.load(*json.loads(json.dumps(world.price.dump())))
    assert back.dump() == world.price.dump()
    other = World(back, demand=30.0, rate=2.0)
    other.backlog, other.now = world.backlog, world.now
    assert other.run(5) == world.run(5)
