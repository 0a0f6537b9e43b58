"""What planners know besides their jobs, over a restart: loaded before jobs are planned, written down where it changed.

Of a source: what was learned of each class of its jobs, shared by all its accounts and all nodes. Of an account: the
plan of its planner, such as its price and its rate-limit windows, which only the node that polls it writes.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import orjson

from relay.clock import Clock
from relay.core.records import Learned
from relay.holder import Holder

FRESH_SECONDS = 60.0
"""What was read of a source so short a while ago is not read again for its next account."""


class Learner(Protocol):
    """What was learned of one source's jobs, in memory; the planners of all its accounts share it."""

    def changed(self) -> list[tuple[str, float, str]]:
        """Name, number of events and JSON text of each class that has changed since the last call."""

    def learn(self, name: str, values: str) -> None:
        """Takes a class back; what it can not read, it ignores."""


class Planning(Protocol):
    """What a planner keeps over a restart besides its jobs."""

    def plan(self) -> dict[str, Any]:
        """All of it, as JSON can hold it; empty where there is nothing worth keeping."""

    def resume(self, plan: Mapping[str, Any], now: float) -> None:
        """Goes on with it; what it can not read, it ignores."""


class Rows(Protocol):
    """What is needed of the store for a source."""

    async def save(self, rows: Sequence[Learned], now: float) -> None: ...
    async def load(self, source: str) -> list[Learned]: ...


class Plans(Protocol):
    """What is needed of the store for an account."""

    async def save_plan(self, source: str, name: str, plan: Mapping[str, Any], holder: str | None) -> bool: ...
    async def plan(self, source: str, name: str) -> Mapping[str, Any] | None: ...


class SourceStatistics:
    """What was learned of one source, between its learner and the database."""

    def __init__(self, source: str, learner: Learner, *, rows: Rows, clock: Clock) -> None:
        self.learner = learner
        self._source = source
        self._rows = rows
        self._clock = clock
        self._unsaved: dict[str, Learned] = {}
        self._loaded_at: float | None = None
        self._lock = asyncio.Lock()

    async def load(self) -> None:
        """Gives the learner what the database has. What it has learned itself is written first: of each class there
        is then what was learned from more events, here or on another node."""
        async with self._lock:
            now = self._clock()
            if self._loaded_at is not None and abs(now - self._loaded_at) < FRESH_SECONDS:
                return
            await self._save()
            found = await self._rows.load(self._source)
            self._collect()  # looks at jobs of other accounts have ended meanwhile
            for row in found:
                if row.name not in self._unsaved:
                    self.learner.learn(row.name, row.values)
            self._loaded_at = now

    async def save(self) -> None:
        """Writes down what has changed; what the database does not take is written the next time."""
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
        for name, event_count, values in self.learner.changed():
            self._unsaved[name] = Learned(source=self._source, name=name, event_count=event_count, values=values)


class AccountPlan:
    """What the planner of one account starts with, and leaves behind. `holder` names this node where there are others:
    only while it holds the account is the plan its own to write."""

    def __init__(
        self,
        source: str,
        account: str,
        *,
        shared: SourceStatistics,
        plans: Plans,
        clock: Clock,
        holder: Holder | None = None,
    ) -> None:
        self.shared = shared
        self._source = source
        self._account = account
        self._plans = plans
        self._clock = clock
        self._holder = holder
        self._recalled = False
        self._kept = b""

    async def restore(self, planner: Planning) -> None:
        """Gives a new planner what was learned of its source and the plan of the one before it."""
        self._recalled = False
        await self.shared.load()
        plan = await self._plans.plan(self._source, self._account)
        if plan is not None:
            planner.resume(plan, self._clock())
        self._kept = _json(plan)
        self._recalled = True

    async def save(self, planner: Planning) -> None:
        """Writes down the planner's plan where it changed. One that was never given the last plan has none to keep: it
        would overwrite that."""
        if not self._recalled:
            return
        plan = planner.plan()
        text = _json(plan)
        holder = None if self._holder is None else self._holder.name
        if plan and text != self._kept and await self._plans.save_plan(self._source, self._account, plan, holder):
            self._kept = text


def _json(plan: Mapping[str, Any] | None) -> bytes:
    return orjson.dumps(plan, option=orjson.OPT_SORT_KEYS)
