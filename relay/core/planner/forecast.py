"""How late a job's end will be known: as it was of late, and what other budgets would make of it.

What is stated is the mean of the delays that were measured. Before there are enough of them the tables count as well,
but only those that were learned, from other accounts of the source: a prior knows nothing of this upstream's lanes, and
the first ends seen are those that came soonest. Until then nothing is stated.

Other budgets are judged by the tables: how the delay changes when the price is such that all jobs together ask for so
many looks more or fewer.
"""

from __future__ import annotations

import math
from typing import Any

from relay.core.planner.price import Price
from relay.core.planner.statistics import LEARNED_EVENTS, ClassStatistics, PlannerStatistics

MEMORY_ENDS = 400
MEASURED_ENDS = LEARNED_EVENTS
MEMORY_STARTS = 1 / 400
MAX_KINDS = 64
JUDGED_KINDS = 4
"""The most frequent kinds of jobs, by which other budgets are judged."""
RUNGS = 4
"""Two octaves of price: about twice as many looks, or half."""
EVERY_UNITS = 60.0
STEEPEST = -4.0
"""Where a job is hardly looked at twice, far dearer looks become hardly fewer: no sensible power is found there."""


class Forecast:
    """One account's. Delays are seconds."""

    __slots__ = ("_at", "_elastic", "_kinds", "_mean", "_price", "_scale", "_statistics", "_wanted", "ends")

    def __init__(self, statistics: PlannerStatistics, price: Price) -> None:
        self._statistics = statistics
        self._price = price
        self.ends = 0
        """Ends whose delay was measured."""
        self._mean = 0.0
        self._scale = 1.0
        self._kinds: dict[tuple[ClassStatistics, int], float] = {}
        self._wanted: list[tuple[ClassStatistics, int, int]] = []
        self._elastic: tuple[float, float] | None = None
        self._at = -math.inf

    def began(self, job_class: ClassStatistics, kind: int) -> None:
        """A job waits for its start, or was found running: one more of its kind."""
        key = (job_class, kind)
        self._scale *= 1 + MEMORY_STARTS
        if key not in self._kinds and len(self._kinds) >= MAX_KINDS:
            del self._kinds[min(self._kinds, key=self._kinds.__getitem__)]
        self._kinds[key] = self._kinds.get(key, 0.0) + self._scale
        if self._scale > 1e100:
            self._kinds = {each: count / self._scale for each, count in self._kinds.items()}
            self._scale = 1.0

    def ended(self, delay: float) -> None:
        """A job's end was seen so long after it happened."""
        self.ends += 1
        self._mean += (delay - self._mean) / min(self.ends, MEMORY_ENDS)

    def dump(self) -> list[Any]:
        """As plain values."""
        kinds = [[*job_class.key, kind, count] for (job_class, kind), count in self._kinds.items()]
        wanted = [[*job_class.key, kind, rung] for job_class, kind, rung in self._wanted]
        elastic = None if self._elastic is None else list(self._elastic)
        judging = [self._at if math.isfinite(self._at) else None, wanted, elastic]
        return [self.ends, self._mean, self._scale, kinds, judging]

    def load(self, ends: int, mean: float, scale: float, kinds: list[Any], judging: list[Any] | None = None) -> None:
        """Takes back what `dump` gave; `judging`, which earlier versions did not tell: how far the judgement of other
        budgets was."""
        self.ends, self._mean, self._scale = ends, mean, scale
        if judging is not None:
            at, wanted, elastic = judging
            self._at = -math.inf if at is None else at
            self._wanted = [
                (self._statistics.of_class(action, channel), kind, rung) for action, channel, kind, rung in wanted
            ]
            self._elastic = None if elastic is None else (elastic[0], elastic[1])
        self._kinds = {
            (self._statistics.of_class(action, channel), kind): count for action, channel, kind, count in kinds
        }

    def work(self, now: float) -> bool:
        """Does one piece of the judgement of other budgets, if it is time for one."""
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
        """Seconds with this budget, with double and with half of it; `use` is the share of it that is asked for."""
        here = self._mean if self.ends >= MEASURED_ENDS else self._leaning_on_tables()
        if here is None or self._elastic is None:
            return here, None, None
        more, fewer = self._elastic
        double = 2.0 if self._price.above_floor else 1.0
        half = min(0.5 / use, 1.0) if use > 0 else 1.0
        return here, here * double**more, here * half**fewer

    def polls(self) -> float | None:
        """How many looks a job takes on average at the price of now; None where that is not known."""
        found = self._mix(self._price.rung(1.0))
        return None if found is None else found[0]

    def _frequent(self) -> list[tuple[ClassStatistics, int]]:
        return sorted(self._kinds, key=self._kinds.__getitem__, reverse=True)[:JUDGED_KINDS]

    def _leaning_on_tables(self) -> float | None:
        """The mean of the measured delays and of what learned tables expect, which stand for the ends not seen yet."""
        found = self._mix(self._price.rung(1.0))
        if found is None or not all(job_class.is_learned(kind) for job_class, kind in self._frequent()):
            return None
        share = self.ends / MEASURED_ENDS
        return share * self._mean + (1 - share) * found[1] * self._statistics.unit

    def _mix(self, rung: int) -> tuple[float, float] | None:
        """Looks and delay of a job, on average over the frequent kinds whose tables are there; None: there are none."""
        polls = delay = total = 0.0
        for job_class, kind in self._frequent():
            table = job_class.policy.find(kind, rung)
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
    """The power of the number of looks with which the delay goes: about -1."""
    polls = math.log(there[0] / here[0])
    return max(min(math.log(there[1] / here[1]) / polls, 0.0), STEEPEST) if abs(polls) > 1e-6 else 0.0
