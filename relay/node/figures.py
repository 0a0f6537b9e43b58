"""Writes a node's figures over time: the counts of its components, and gauges of the accounts it polls.

Cells of a failed write go with the next one, within the bounds of the series.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from relay.clock import Clock
from relay.core.events.event import owner_of
from relay.core.figures import Cells, Name, TimeSeries, rows_of
from relay.errors import ValueRefused
from relay.store.figures import FigureStore

if TYPE_CHECKING:
    from relay.polling.poller import Poller

FLUSH_SECONDS = 15.0
CELLS_AT_ONCE = 40
"""Cells that one transaction writes, as at most 200 rows: more would hold up the writes of deliveries."""
MEASURED_AT_ONCE = 50
"""Accounts measured in one turn of the loop."""

log = structlog.get_logger("relay.node")


@dataclass(eq=False, repr=False)
class Figures:
    """Measures and writes, every FLUSH_SECONDS and when the node stops."""

    rows: FigureStore
    series: TimeSeries
    pollers: "Mapping[tuple[str, str], Poller]"
    clock: Clock
    _polls: dict[tuple[str, str], tuple[float, int]] = field(default_factory=dict, init=False)
    """Time and number of each account's polls at the last count."""
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _lost: int = field(default=0, init=False)
    """Lost cells that were logged."""

    async def run_once(self) -> None:
        """Measures the accounts, then writes. Raises StoreError."""
        await self.measure()
        await self.flush()

    async def measure(self) -> None:
        """Measures the accounts that this node polls. Other nodes add their accounts to the open jobs of the whole
        relay, so only the node of the first account counts a measurement of these."""
        now, polls = self.clock(), self._polls
        self._polls = {}
        for number, (place, poller) in enumerate(list(self.pollers.items())):
            if number % MEASURED_AT_ONCE == MEASURED_AT_ONCE - 1:
                await asyncio.sleep(0)
            if not poller.account.holds or poller.agenda.loading:
                continue
            stats, answered = poller.planner.stats(now), poller.poll_handler.answered
            at, before = polls.get(place, (now, answered))
            self._polls[place] = (now, answered)
            values: dict[Name, float] = {
                "jobs_open": stats.open_jobs,
                "requests_own": (answered - before) / (now - at) if now > at else 0.0,
                "requests_others": stats.others_requests_per_second,
                "price_seconds": stats.price_seconds,
            }
            for name, value in values.items():
                self.series.add(name, owner_of(*place), now, value)
            self.series.add("jobs_open", "", now, stats.open_jobs, count=number == 0)

    async def flush(self) -> None:
        """Writes the counted cells, in several transactions. Raises StoreError; unwritten cells go with the next
        call. Rows whose commit PostgreSQL could not confirm before it went away may count twice."""
        async with self._writing:
            try:
                for _ in range(0, self.series.waiting_count, CELLS_AT_ONCE):
                    await self._write(self.series.take(CELLS_AT_ONCE))
            finally:
                if (lost := self.series.lost_count) > self._lost:
                    log.warning("figures_lost", cells=lost - self._lost)
                    self._lost = lost

    async def _write(self, cells: Cells) -> None:
        try:
            await self.rows.add(rows_of(cells))
        except ValueRefused as error:  # it would be refused again, and hold up the rest
            log.error("figures_refused", cells=len(cells), error=str(error))
        except Exception:  # not CancelledError: then the write goes on, and must not be repeated
            self.series.give_back(cells)
            raise
