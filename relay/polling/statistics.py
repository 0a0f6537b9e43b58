"""Planner state that survives a restart: loaded before jobs are planned, saved when it changes.

Per source: the statistics of each job class, shared by all accounts and nodes. Per account: the planner's plan (price,
rate-limit windows), written only by the node that polls the account.
"""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

from relay.clock import Clock
from relay.core.planner import Planner, PlannerStatistics
from relay.core.records import SavedStatistics
from relay.lease_owner import LeaseOwner

if TYPE_CHECKING:
    from relay.store.accounts import AccountStore
    from relay.store.jobs.learned import LearnedStore

FRESH_SECONDS = 60.0
"""A source's statistics are not reloaded within this time, such as for its next account."""


class SourceStatistics:
    """Moves the statistics of one source between memory and database."""

    def __init__(self, source: str, statistics: PlannerStatistics, *, rows: "LearnedStore", clock: Clock) -> None:
        self.statistics = statistics
        self._source = source
        self._rows = rows
        self._clock = clock
        self._unsaved: dict[str, SavedStatistics] = {}
        self._loaded_at: float | None = None
        self._lock = asyncio.Lock()

    async def load(self) -> None:
        """Saves, then loads the statistics. The database keeps, per class, those learned from more events."""
        async with self._lock:
            now = self._clock()
            if self._loaded_at is not None and abs(now - self._loaded_at) < FRESH_SECONDS:
                return
            await self._save()
            found = await self._rows.load(self._source)
            self._collect()  # polls of other accounts may have ended meanwhile
            for row in found:
                if row.name not in self._unsaved:
                    self.statistics.load_row(row.name, row.values)
            self._loaded_at = now

    async def save(self) -> None:
        """Saves what changed. What the database refuses is saved the next time."""
        async with self._lock:
            await self._save()

    async def _save(self) -> None:
        self._collect()
        rows = list(self._unsaved.values())
        if not rows:
            return
        await self._rows.save(rows, self._clock())
        for row in rows:
            if self._unsaved.get(row.name) is row:
                del self._unsaved[row.name]

    def _collect(self) -> None:
        for name, event_count, values in self.statistics.unsaved_rows():
            self._unsaved[name] = SavedStatistics(
                source=self._source, name=name, event_count=event_count, values=values
            )


class AccountPlan:
    """Moves the plan of one account's planner between memory and database.

    `holder` names this node in a cluster; the plan is written only while it holds the account.
    """

    def __init__(
        self,
        source: str,
        account: str,
        *,
        shared: SourceStatistics,
        plans: "AccountStore",
        clock: Clock,
        holder: LeaseOwner | None = None,
    ) -> None:
        self.shared = shared
        self._source = source
        self._account = account
        self._plans = plans
        self._clock = clock
        self._holder = holder
        self._restored = False
        self._kept = b""

    async def restore(self, planner: Planner) -> None:
        """Restores a new planner: the source's statistics and the account's last plan."""
        self._restored = False
        await self.shared.load()
        plan = await self._plans.plan(self._source, self._account)
        if plan is not None:
            planner.resume(plan, self._clock())
        self._kept = _json(plan)
        self._restored = True

    async def save(self, planner: Planner) -> None:
        """Saves the planner's plan if it changed. Does nothing before `restore`: it would overwrite the last plan."""
        if not self._restored:
            return
        plan = planner.durable_state()
        text = _json(plan)
        holder = None if self._holder is None else self._holder.name
        if plan and text != self._kept and await self._plans.save_plan(self._source, self._account, plan, holder):
            self._kept = text


def _json(plan: Mapping[str, Any] | None) -> bytes:
    return orjson.dumps(plan, option=orjson.OPT_SORT_KEYS)
