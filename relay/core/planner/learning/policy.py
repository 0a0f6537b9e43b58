"""The polling policy of one job class: hazards fixed at one time, and the inspection tables computed from them.

Plans use a policy until enough is learned for a new one (`statistics.py`). `inspection.py` computes the tables.
"""

from __future__ import annotations

from relay.core.planner.budget.price import price_of
from relay.core.planner.learning.inspection import Table, run_table, wait_table

SCHEDULED, LANE, RHYTHM, HEAD, NEW, RETRY, RUN = range(7)
KINDS = ("scheduled", "lane", "rhythm", "head", "new", "retry", "run")
EXPLORATION_PRICE = 8.0
"""Above this price exploration fades: polls that teach would delay polls of jobs that have probably ended."""
MAX_TABLES = 256


class ClassPolicy:
    """Hazards of one class and the tables built from them. A table is identified by (kind, price rung)."""

    __slots__ = ("_rates", "exploration", "once", "tables", "used")

    def __init__(self, rates: list[tuple[float, ...]], exploration: tuple[float, ...] = ()) -> None:
        """`exploration`: lower bound of the run hazard while requests are cheap, one per bin; empty for no bound."""
        self._rates = rates
        self.exploration = exploration
        self.tables: dict[tuple[int, int], Table] = {}
        self.used: set[tuple[int, int]] = set()
        """Tables that plans have used; a new policy builds these first."""
        self.once: set[tuple[int, int]] = set()
        """Tables that existed before a restart."""

    def rates(self, kind: int) -> tuple[float, ...]:
        """The hazard of one kind, per bin."""
        return self._rates[kind]

    def find(self, kind: int, rung: int) -> Table | None:
        """The table if it has been built, here or before a restart; else None."""
        found = self.tables.get((kind, rung))
        return self.build(kind, rung) if found is None and (kind, rung) in self.once else found

    def table(self, kind: int, rung: int) -> Table:
        """The table of one kind at a price rung, built if necessary, and marked as used."""
        self.used.add((kind, rung))
        return self.tables.get((kind, rung)) or self.build(kind, rung)

    def build(self, kind: int, rung: int) -> Table:
        """The table of one kind at a price rung, built if necessary."""
        found = self.tables.get((kind, rung))
        if found is None:
            if len(self.tables) >= MAX_TABLES:
                self.used.discard(oldest := next(iter(self.tables)))
                del self.tables[oldest]
            price = price_of(rung)
            run_rates = self.run_rates(price)
            if kind == RUN:
                found = run_table(run_rates, price)
            else:
                found = wait_table(self._rates[kind], run_rates, self.build(RUN, rung), price)
            self.tables[kind, rung] = found
        return found

    def run_rates(self, price: float) -> tuple[float, ...]:
        """The hazard of runs that plans use at a price, per bin."""
        if not self.exploration:
            return self._rates[RUN]
        share = min((EXPLORATION_PRICE / price) ** 2, 1.0)
        return tuple(max(rate, share * least) for rate, least in zip(self._rates[RUN], self.exploration, strict=True))
