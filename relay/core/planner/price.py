"""The price of a request: the seconds of delay it must save, set so that all jobs together demand just the budget.

At a hazard h polls come every sqrt(2 price / h) seconds, so demand falls with the square root of the price. The
controller feeds this demand forward and adds the backlog; a controller on the backlog alone oscillates.
"""

from __future__ import annotations

import math

FLOOR = 0.05
CEILING = 1e5
INITIAL = 1.0
GAIN = 0.03
FIRST_GAIN = 0.3
SETTLING_STEPS = 10.0
"""The gain falls from FIRST_GAIN to GAIN in about this many steps."""
TARGET = 0.97
"""Target demand as a share of the budget."""
PROMPT_STEPS = 10.0
"""If polling all jobs once takes more steps than this, the price moves proportionally slower: a change shows only when
jobs are polled again. A rise postpones polls of jobs at risk, and shows sooner."""
FEWEST_POLLS = 1.2
"""If a job takes no more polls than this, a higher price saves none and would only fall too late."""
MAX_STEPS = 64
BACKLOG_SECONDS = 10.0
OTHERS_MEMORY = 60.0
"""Averaging time in steps of the polls that no price decides; they are deducted from the budget."""
LEAST_SHARE = 0.2
RUNGS_PER_OCTAVE = 2


class Price:
    """The price of one account. It moves once per `unit` (in seconds)."""

    __slots__ = ("_others_rate", "_steps", "at", "others", "unit", "value")

    def __init__(self, unit: float) -> None:
        self.unit = unit
        self.value = INITIAL
        """In units."""
        self.at: float | None = None
        """Time of the last step."""
        self._steps = 0
        self.others = 0
        """Polls since the last step that no price decided: first, safety and requested ones."""
        self._others_rate = 0.0

    @property
    def above_floor(self) -> bool:
        """True if requests are scarce: more polls are worthwhile than the budget allows."""
        return self.value > FLOOR * 1.01

    def rung(self, weight: float) -> int:
        """Price rung at which a job of this weight is planned: half octaves of price / weight."""
        return round(RUNGS_PER_OCTAVE * math.log2(self.value / weight))

    def due(self, now: float) -> bool:
        """True if a step is due."""
        return self.at is None or not 0 <= now - self.at < self.unit

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
        """Moves the price by one step for each unit since the last.

        demand   sum of sqrt(price at planning) / interval over open jobs, in units
        backlog  overdue polls; if negative, saved requests without demand
        rate     requests per unit that the budget allows
        at_risk  open jobs to which an event can happen at any time; None if saved requests suffice to wait
        polls    mean polls per job at this price; None if unknown
        """
        passed = 1 if self.at is None else min(max(int((now - self.at) / self.unit), 1), MAX_STEPS)
        self.at = now
        kept = math.exp(-passed / OTHERS_MEMORY)
        self._others_rate = self._others_rate * kept + self.others * (1 - kept) / passed
        self.others = 0
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
        """The lasting state as JSON values."""
        return [self.value, self._steps]

    def load(self, value: float, steps: float) -> None:
        """Loads the values of `dump`. Values out of range are ignored."""
        if math.isfinite(value) and value > 0 and steps >= 0:
            self.value = min(max(value, FLOOR), CEILING)
            self._steps = int(min(steps, 1e9))


def price_of(rung: int) -> float:
    """The price at the centre of a rung, in units."""
    return float(2 ** (rung / RUNGS_PER_OCTAVE))
