"""Writes a node's figures over time: what its components have counted, and what it measures of the accounts it polls.

A failed write is given back to the tally, which is bounded, and goes with the next one.
"""

import asyncio
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog

from relay.clock import Clock
from relay.core.events import owner_of
from relay.core.figures import Tally
from relay.errors import ValueRefused
from relay.store.figures import MAX_WRITTEN, FigureStore

if TYPE_CHECKING:
    from relay.polling.poller import Poller

FLUSH_SECONDS = 15.0
STEP_SECONDS = 3_600.0
"""A clock that is set by more than this is not believed at once."""
BELIEF_SECONDS = 600.0
"""It is believed after so long. Until then figures wait in memory, so that a wrong time makes no rows."""
SMOOTHED_SECONDS = 60.0
"""Over how long the rate of polls is averaged."""

log = structlog.get_logger("relay.node")


class Figures:
    """Measures and writes, every FLUSH_SECONDS and when the node stops."""

    def __init__(
        self,
        rows: FigureStore,
        tally: Tally,
        pollers: "Mapping[tuple[str, str], Poller]",
        clock: Clock,
        steady: Clock = time.monotonic,
    ) -> None:
        """`steady` is a clock that is never set."""
        self._rows = rows
        self._tally = tally
        self._pollers = pollers
        self._clock = clock
        self._steady = steady
        self._offset = clock() - steady()
        self._believed_at = 0.0
        self._polls: dict[tuple[str, str], tuple[float, int, float]] = {}
        """When each account's polls were counted, how many there were, and their rate."""
        self._writing = asyncio.Lock()

    async def run_once(self) -> None:
        """Measures the accounts, then writes. Raises StoreError."""
        self.measure()
        await self.flush()

    def measure(self) -> None:
        """Notes the gauges of the accounts that this node polls."""
        now, gauge = self._clock(), self._tally.gauge
        for place, poller in self._pollers.items():
            if not poller.holds or poller.agenda.loading:
                self._polls.pop(place, None)
                continue
            stats, label = poller.planner.stats(now), owner_of(*place)
            gauge("jobs_open", label, now, stats.open_jobs)
            gauge("jobs_due", label, now, stats.due_jobs)
            gauge("requests_own", label, now, self._rate(place, poller.poll_handler.answered))
            gauge("requests_others", label, now, stats.others_requests_per_second)
            gauge("price_seconds", label, now, stats.price_seconds)

    async def flush(self) -> None:
        """Writes what was counted, in several transactions. Raises StoreError; what was not written goes with the next
        call."""
        async with self._writing:
            now = self._clock()
            if not self._is_believed(now):
                return
            lost = self._tally.lost_count
            rows = self._tally.take(now)
            try:
                while rows:
                    part, rows = rows[:MAX_WRITTEN], rows[MAX_WRITTEN:]
                    try:
                        await self._rows.add(part)
                    except ValueRefused as error:  # it would be refused again, and hold up the rest
                        log.error("figures_refused", rows=len(part), error=str(error))
                    except Exception:  # not CancelledError: then the write goes on, and must not be repeated
                        rows = [*part, *rows]
                        raise
            finally:
                self._tally.give_back(rows)
                if self._tally.lost_count > lost:
                    log.warning("figures_lost", rows=self._tally.lost_count - lost)

    def _is_believed(self, now: float) -> bool:
        steady = self._steady()
        if abs(now - steady - self._offset) > STEP_SECONDS:
            self._offset = now - steady
            self._believed_at = steady + BELIEF_SECONDS
        return steady >= self._believed_at

    def _rate(self, place: tuple[str, str], answered: int) -> float:
        """Polls per second of an account, averaged over the last minute."""
        now = self._steady()
        at, before, rate = self._polls.get(place, (now, answered, 0.0))
        elapsed = now - at
        if elapsed > 0.0:
            rate += (1.0 - math.exp(-elapsed / SMOOTHED_SECONDS)) * (max(0, answered - before) / elapsed - rate)
        self._polls[place] = (now, answered, rate)
        return rate
