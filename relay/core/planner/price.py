"""The price of a request: how many seconds of delay it has to save, so that all jobs together ask for just the budget.

Looks at a hazard h come every sqrt(2 price / h) seconds, so what is asked for falls with the root of the price. The
controller feeds that demand forward and adds what is overdue: one on the backlog alone swings for ever.
"""

from __future__ import annotations

import math

FLOOR = 0.05
CEILING = 1e5
INITIAL = 1.0
GAIN = 0.03
FIRST_GAIN = 0.3
SETTLING_STEPS = 10.0
"""The gain falls from FIRST_GAIN to GAIN in about so many steps."""
TARGET = 0.97
"""The share of the budget that the plan fills."""
PROMPT_STEPS = 10.0
"""Where it takes the budget longer than so many steps to look at all jobs once, the price moves as much slower: what it
did last shows only when the jobs come up again. A rise puts off the looks at jobs at risk, and so shows sooner."""
FEWEST_POLLS = 1.2
"""Where a job takes no more looks than this, a higher price saves none: it would only come down too late."""
MAX_STEPS = 64
BACKLOG_SECONDS = 10.0
OTHERS_MEMORY = 60.0
"""Steps over which looks that no price decides are counted; they are taken off the budget."""
LEAST_SHARE = 0.2
RUNGS_PER_OCTAVE = 2


class Price:
    """One account's price. `unit` is the shortest time that counts, in seconds: the price moves once in each."""

    __slots__ = ("_others", "_others_rate", "_steps", "at", "unit", "value")

    def __init__(self, unit: float) -> None:
        self.unit = unit
        self.value = INITIAL
        """In units."""
        self.at: float | None = None
        """When it moved last."""
        self._steps = 0
        self._others = 0
        self._others_rate = 0.0

    @property
    def above_floor(self) -> bool:
        """Whether more looks than the budget has room for are worth something."""
        return self.value > FLOOR * 1.01

    def rung(self, weight: float) -> int:
        """The step of the ladder of prices that a job of this weight is planned at."""
        return round(RUNGS_PER_OCTAVE * math.log2(self.value / weight))

    def due(self, now: float) -> bool:
        """Whether it is time for a step."""
        return self.at is None or not 0 <= now - self.at < self.unit

    def other_poll(self) -> None:
        """A look goes out that no price decided: a first one, a check, one that was asked for."""
        self._others += 1

    def step(
        self,
        now: float,
        *,
        demand: float,
        backlog: float,
        open_jobs: int,
        rate: float,
        at_risk: int | None = None,
        polls: float | None = None,
    ) -> None:
        """Moves the price. `demand`: the sum of root(price at planning) / interval over the open jobs, in units;
        `backlog`: looks overdue, or where it is negative, requests saved up that nobody asks for; `rate`: requests a
        unit of time that the budget allows; `at_risk`: to how many of the jobs something can happen at any moment, None
        where enough is saved up to wait and see; `looks`: how many looks a job takes on average at this price, None
        where that is not known."""
        passed = 1 if self.at is None else min(max(int((now - self.at) / self.unit), 1), MAX_STEPS)
        self.at = now
        kept = math.exp(-passed / OTHERS_MEMORY)
        self._others_rate = self._others_rate * kept + self._others * (1 - kept) / passed
        self._others = 0
        if open_jobs == 0:
            return
        rate = max(rate - self._others_rate, LEAST_SHARE * rate)
        falls = min(PROMPT_STEPS * rate / open_jobs, 1.0)
        rises = falls if at_risk is None else min(PROMPT_STEPS * rate / max(at_risk, 1), 1.0)
        drain = max(BACKLOG_SECONDS, 0.1 * open_jobs / rate)
        for _ in range(passed):
            ratio = (demand / math.sqrt(self.value) + backlog / drain) / (TARGET * rate)
            push = min(max(2 * math.log(ratio), -1.0), 1.0) if ratio > 0 else -1.0
            if push > 0 and polls is not None and polls < FEWEST_POLLS:
                return
            gain = max(GAIN * (rises if push > 0 else falls), FIRST_GAIN / (1 + self._steps / SETTLING_STEPS))
            self._steps += 1
            self.value = min(max(self.value * math.exp(gain * push), FLOOR), CEILING)

    def dump(self) -> list[float]:
        """As plain values."""
        return [self.value, self._steps]

    def dump_moment(self) -> list[float | None]:
        """What only matters to a price that goes on at once: when it moved last, and looks that it did not decide."""
        return [self.at, self._others, self._others_rate]

    def load_moment(self, at: float | None, others: int, others_rate: float) -> None:
        """Takes back what `dump_moment` gave."""
        self.at, self._others, self._others_rate = at, others, others_rate

    def load(self, value: float, steps: float) -> None:
        """Takes back what `dump` gave; what makes no sense is left."""
        if math.isfinite(value) and value > 0 and steps >= 0:
            self.value = min(max(value, FLOOR), CEILING)
            self._steps = int(min(steps, 1e9))


def price_of(rung: int) -> float:
    """The price in the middle of a rung, in units."""
    return float(2 ** (rung / RUNGS_PER_OCTAVE))
