"""What plans are made from: the hazards of one class as they were at one moment, and the tables computed from those.

A look's best moment is that of optimum inspection (Barlow and Proschan, Mathematical Theory of Reliability, 1965): see
`inspection`.
"""

from __future__ import annotations

from relay.core.planner.inspection import Table, run_table, wait_table
from relay.core.planner.price import price_of

SCHEDULED, LANE, RHYTHM, HEAD, NEW, RETRY, RUN = range(7)
KINDS = ("scheduled", "lane", "rhythm", "head", "new", "retry", "run")
EXPLORATION_PRICE = 8.0
"""Exploration fades as a request becomes dearer than so many units: looks that teach are not worth what they keep from
jobs that have probably ended."""
MAX_TABLES = 256


class ClassPolicy:
    """The hazards of one class as they were at one moment, and the tables made from them."""

    __slots__ = ("_rates", "exploration", "once", "tables", "used")

    def __init__(self, rates: list[tuple[float, ...]], exploration: tuple[float, ...] = ()) -> None:
        """`exploration`: what the hazard of a run is taken for at least while requests are cheap; empty: for itself."""
        self._rates = rates
        self.exploration = exploration
        self.tables: dict[tuple[int, int], Table] = {}
        self.used: set[tuple[int, int]] = set()
        """The tables that plans were made from."""
        self.once: set[tuple[int, int]] = set()
        """The tables that there were before a restart."""

    def rates(self, kind: int) -> tuple[float, ...]:
        """The hazard of one kind, in each bin."""
        return self._rates[kind]

    def find(self, kind: int, rung: int) -> Table | None:
        """A table that was made, if it was: before a restart counts."""
        found = self.tables.get((kind, rung))
        return self.build(kind, rung) if found is None and (kind, rung) in self.once else found

    def table(self, kind: int, rung: int) -> Table:
        """The policy for one kind at a rung of prices, made where it is not there yet."""
        self.used.add((kind, rung))
        return self.tables.get((kind, rung)) or self.build(kind, rung)

    def build(self, kind: int, rung: int) -> Table:
        """Computes a table where it is not there yet."""
        found = self.tables.get((kind, rung))
        if found is None:
            if len(self.tables) >= MAX_TABLES:
                self.used.discard(oldest := next(iter(self.tables)))
                del self.tables[oldest]
            price = price_of(rung)
            run_rates = self._run_rates(price)
            if kind == RUN:
                found = run_table(run_rates, price)
            else:
                found = wait_table(self._rates[kind], run_rates, self.build(RUN, rung), price)
            self.tables[kind, rung] = found
        return found

    def _run_rates(self, price: float) -> tuple[float, ...]:
        if not self.exploration:
            return self._rates[RUN]
        share = min((EXPLORATION_PRICE / price) ** 2, 1.0)
        return tuple(max(rate, share * least) for rate, least in zip(self._rates[RUN], self.exploration, strict=True))
