"""Expected detection delay of an account: now, with double and with half the budget.

The figure is the mean of measured delays. Until enough are measured it leans on tables learned from other accounts of
the source. Without these there is no figure: a prior knows nothing of the lanes, and the first ends seen are the
earliest ones. The effect of other budgets is derived from the tables at other prices.
"""

from __future__ import annotations

import math

from relay.core.planner.price import Price
from relay.core.planner.statistics import LEARNED_EVENTS, ClassStatistics, PlannerStatistics

MEMORY_ENDS = 400
MEASURED_ENDS = LEARNED_EVENTS
MEMORY_STARTS = 1 / 400
MAX_KINDS = 64
JUDGED_KINDS = 4
"""Number of most frequent kinds of jobs used to judge other budgets."""
RUNGS = 4
"""Two octaves of price: about twice or half as many polls."""
EVERY_UNITS = 60.0
STEEPEST = -4.0
"""Lower bound of the elasticity. Near one poll per job it is undefined: a higher price saves almost no polls."""


class Forecast:
    """Delay forecast of one account, in seconds."""

    __slots__ = ("_at", "_elastic", "_kinds", "_mean", "_price", "_scale", "_statistics", "_wanted", "ends")

    def __init__(self, statistics: PlannerStatistics, price: Price) -> None:
        self._statistics = statistics
        self._price = price
        self.ends = 0
        """Number of measured delays."""
        self._mean = 0.0
        self._scale = 1.0
        self._kinds: dict[tuple[ClassStatistics, int], float] = {}
        self._wanted: list[tuple[ClassStatistics, int, int]] = []
        self._elastic: tuple[float, float] | None = None
        self._at = -math.inf

    def began(self, job_class: ClassStatistics, kind: int) -> None:
        """Counts a job of this class and kind that began to wait or was found running."""
        key = (job_class, kind)
        self._scale *= 1 + MEMORY_STARTS
        if key not in self._kinds and len(self._kinds) >= MAX_KINDS:
            del self._kinds[min(self._kinds, key=self._kinds.__getitem__)]
        self._kinds[key] = self._kinds.get(key, 0.0) + self._scale
        if self._scale > 1e100:
            self._kinds = {each: count / self._scale for each, count in self._kinds.items()}
            self._scale = 1.0

    def ended(self, delay: float) -> None:
        """Records the delay between a job's end and its detection."""
        self.ends += 1
        self._mean += (delay - self._mean) / min(self.ends, MEMORY_ENDS)

    def work(self, now: float) -> bool:
        """Does one step of judging other budgets. Returns False if none is due."""
        if self._wanted:
            job_class, kind, rung = self._wanted.pop()
            job_class.policy.build(kind, rung)
            if not self._wanted:
                self._judge()
            return True
        if now - self._at < EVERY_UNITS * self._statistics.unit or not self._kinds:
            return False
        self._at = now
        rung = self._price.rung(1.0)
        self._wanted = [
            (job_class, kind, rung + step) for job_class, kind in self._frequent() for step in (-RUNGS, 0, RUNGS)
        ]
        return True

    def expected(self, use: float) -> tuple[float | None, float | None, float | None]:
        """Expected delay with this budget, double and half of it. `use`: the share of the budget in demand."""
        here = self._mean if self.ends >= MEASURED_ENDS else self._leaning_on_tables()
        if here is None or self._elastic is None:
            return here, None, None
        more, fewer = self._elastic
        double = 2.0 if self._price.above_floor else 1.0
        half = min(0.5 / use, 1.0) if use > 0 else 1.0
        return here, here * double**more, here * half**fewer

    def polls(self) -> float | None:
        """Expected number of polls per job at the current price; None if unknown."""
        found = self._mix(self._price.rung(1.0))
        return None if found is None else found[0]

    def _frequent(self) -> list[tuple[ClassStatistics, int]]:
        return sorted(self._kinds, key=self._kinds.__getitem__, reverse=True)[:JUDGED_KINDS]

    def _leaning_on_tables(self) -> float | None:
        """Mean of measured delays and table delays; the tables stand in for the measurements still missing."""
        found = self._mix(self._price.rung(1.0))
        if found is None or not all(job_class.is_learned(kind) for job_class, kind in self._frequent()):
            return None
        share = self.ends / MEASURED_ENDS
        return share * self._mean + (1 - share) * found[1] * self._statistics.unit

    def _mix(self, rung: int) -> tuple[float, float] | None:
        """Mean polls and delay per job over the frequent kinds that have tables; None if none has."""
        polls = delay = total = 0.0
        for job_class, kind in self._frequent():
            table = job_class.policy.tables.get((kind, rung))
            if table is None:
                continue
            count = self._kinds[job_class, kind]
            polls += count * table.polls[0]
            delay += count * table.delay[0]
            total += count
        return None if total == 0 else (polls / total, delay / total)

    def _judge(self) -> None:
        rung = self._price.rung(1.0)
        here, dearer, cheaper = self._mix(rung), self._mix(rung + RUNGS), self._mix(rung - RUNGS)
        if here is not None and dearer is not None and cheaper is not None:
            self._elastic = (_power(here, cheaper), _power(here, dearer))


def _power(here: tuple[float, float], there: tuple[float, float]) -> float:
    """Elasticity of the delay with respect to the number of polls: about -1."""
    polls = math.log(there[0] / here[0])
    return max(min(math.log(there[1] / here[1]) / polls, 0.0), STEEPEST) if abs(polls) > 1e-6 else 0.0
