"""Writes a node's figures over time: what its components have counted, and what it measures of the accounts it polls.

A failed write is given back to the tally, which is bounded, and goes with the next one. However many accounts and
subscriptions there are, and however long the database is away, no step between two turns of the loop handles more than
MAX_WRITTEN rows.
"""

import asyncio
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog

from relay.clock import Clock
from relay.core.events.event import owner_of
from relay.core.figures import Name, Tally
from relay.errors import ValueRefused
from relay.store.figures import MAX_WRITTEN, FigureStore

if TYPE_CHECKING:
    from relay.polling.poller import Poller

FLUSH_SECONDS = 15.0
STEP_SECONDS = 3_600.0
"""A clock that is set by more than this is not believed at once."""
BELIEF_SECONDS = 600.0
"""It is believed after so long. Until then figures wait in memory, so that a wrong time makes no rows."""
MEASURED_AT_ONCE = 50
"""Accounts measured in one turn of the loop."""
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
        self._lost = 0
        """Lost rows that were logged."""

    async def run_once(self) -> None:
        """Measures the accounts, then writes. Raises StoreError."""
        await self.measure()
        await self.flush()

    async def measure(self) -> None:
        """Notes the gauges of the accounts that this node polls."""
        found: dict[Name, dict[str, tuple[float, float]]] = {}
        for number, (place, poller) in enumerate(list(self._pollers.items()), 1):
            if number % MEASURED_AT_ONCE == 0:
                await asyncio.sleep(0)
            if not poller.holds or poller.agenda.loading:
                self._polls.pop(place, None)
                continue
            now, label = self._clock(), owner_of(*place)
            stats = poller.planner.stats(now)
            values: dict[Name, float] = {
                "jobs_open": stats.open_jobs,
                "jobs_due": stats.due_jobs,
                "requests_own": self._rate(place, poller.poll_handler.answered),
                "requests_others": stats.others_requests_per_second,
                "price_seconds": stats.price_seconds,
            }
            for name, value in values.items():
                found.setdefault(name, {})[label] = (now, value)
        for place in self._polls.keys() - self._pollers.keys():  # accounts that the settings no longer have
            del self._polls[place]
        self._tally.gauges(found)  # together: a part of the accounts would be a wrong sum

    async def flush(self) -> None:
        """Writes what was counted, in several transactions. Raises StoreError; what was not written goes with the next
        call. Rows whose commit PostgreSQL could not confirm before it went away may count twice."""
        async with self._writing:
            now = self._clock()
            try:
                if self._is_believed(now):
                    await self._write(now)
            finally:
                self._log_lost()

    async def _write(self, now: float) -> None:
        for _ in self._tally.settle():
            await asyncio.sleep(0)
        for rows in self._tally.batches(now, MAX_WRITTEN):
            try:
                await self._rows.add(rows)
            except ValueRefused as error:  # it would be refused again, and hold up the rest
                log.error("figures_refused", rows=len(rows), error=str(error))
            except Exception:  # not CancelledError: then the write goes on, and must not be repeated
                self._tally.give_back(rows)
                raise
            await asyncio.sleep(0)

    def _log_lost(self) -> None:
        lost = self._tally.lost_count
        if lost > self._lost:
            log.warning("figures_lost", rows=lost - self._lost)
            self._lost = lost

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
