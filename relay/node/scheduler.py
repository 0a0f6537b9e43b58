"""APScheduler, which times everything: one job for each polled account, and the upkeep.

An account's job has no interval: it runs when its planner says, and is pulled forward when that changes.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import structlog
from apscheduler.executors.asyncio import AsyncIOExecutor
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.interval import IntervalTrigger

from relay.clock import Clock, wall_clock
from relay.errors import StoreError

IDLE_SECONDS = 30.0
TOGETHER_SECONDS = 0.01
"""Looks that fall due within this time of the last start begin together at its end: what they share, turns of the loop
and commits, costs a busy node as much as the looks do."""
BEAT_SECONDS = 1.0
STEP_SECONDS = 2.0
"""The clock was set when it and the loop's own time differ by more, from one beat to the next."""

log = structlog.get_logger("relay.scheduler")


class Pollable(Protocol):
    """One account's polling."""

    def next_request_at(self) -> float | None: ...
    async def run_once(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """A function that is called every so often; with `at_once` also as soon as the node has started."""

    name: str
    every_seconds: float
    run: Callable[[], Awaitable[Any]]
    at_once: bool = False


class _WhenPlanned(BaseTrigger):  # type: ignore[misc]
    """Fires when it is told to (see `Scheduler._pull_forward`), and by itself after a while.

    APScheduler asks for the time after a run as soon as it has submitted that run, before it has taken anything from
    the planner: what the planner would say then is what is being done already.
    """

    def __init__(self, submitted: Callable[[], None]) -> None:
        self._submitted = submitted

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        if previous is not None:
            self._submitted()
        return now + timedelta(seconds=IDLE_SECONDS)


class Scheduler:
    """Times the pollers and the upkeep of one node."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._scheduler = AsyncIOScheduler(
            timezone=UTC,
            executors={"default": AsyncIOExecutor()},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        self._pollables: dict[str, Pollable] = {}
        self._next_at: dict[str, float] = {}
        self._fired_at: dict[str, float] = {}
        self._firing: set[str] = set()
        self._upkeep: set[str] = set()
        self._running = False
        self._beat: asyncio.TimerHandle | None = None

    def add_account(self, source: str, account: str, pollable: Pollable) -> Callable[[], None]:
        """One job `poll:{source}:{account}`. Returns what to call when its next request may be sooner."""
        name = f"poll:{source}:{account}"
        self._pollables[name] = pollable
        trigger = _WhenPlanned(lambda: self._firing.add(name))
        self._scheduler.add_job(self._fire, trigger, args=[name], id=name, name=name)
        return lambda: self._pull_forward(name)

    def add_upkeep(self, upkeep: Upkeep) -> None:
        """One timed function; a failure is logged and does not end it."""

        async def run() -> None:
            try:
                await upkeep.run()
            except StoreError as error:
                log.error("upkeep_failed", upkeep=upkeep.name, error=str(error))
            except Exception:
                log.exception("upkeep_failed", upkeep=upkeep.name)

        name = f"upkeep:{upkeep.name}"
        first = {"next_run_time": datetime.now(UTC)} if upkeep.at_once else {}
        trigger = IntervalTrigger(seconds=upkeep.every_seconds, timezone=UTC)
        self._scheduler.add_job(run, trigger, id=name, name=name, **first)
        self._upkeep.add(name)

    def upkeep_now(self, name: str) -> None:
        """Calls one timed function now, not when its time comes."""
        if self._running:
            self._scheduler.modify_job(f"upkeep:{name}", next_run_time=datetime.now(UTC))

    def start(self) -> None:
        """Begins to fire."""
        self._scheduler.start()
        self._running = True
        for name in self._pollables:
            self._pull_forward(name)
        self._watch_clocks(self._offsets())

    def stop(self) -> None:
        """Fires nothing more. What was started goes on: its owner ends it."""
        if self._running:
            self._running = False
            self._scheduler.pause()
            if self._beat is not None:
                self._beat.cancel()

    def shutdown(self) -> None:
        """Lets APScheduler go, when everything it started has ended."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    @property
    def running(self) -> bool:
        """Whether it fires."""
        return self._running

    def _offsets(self) -> tuple[float, float]:
        """How far our clock, and the machine's, which APScheduler reads, are ahead of the loop's own time."""
        elapsed = asyncio.get_running_loop().time()
        return self._clock() - elapsed, wall_clock() - elapsed

    def _watch_clocks(self, before: tuple[float, float]) -> None:
        """Plans everything anew when a clock was set: what was planned for an hour that is gone would wait for it."""
        offsets = self._offsets()
        step = max((now - then for now, then in zip(offsets, before, strict=True)), key=abs)
        if abs(step) > STEP_SECONDS:
            log.warning("clock_was_set", seconds=round(step, 1))
            self._next_at.clear()
            self._fired_at.clear()
            for name in self._pollables:
                self._pull_forward(name)
            for name in self._upkeep:
                self.upkeep_now(name.removeprefix("upkeep:"))
        if self._running:
            self._beat = asyncio.get_running_loop().call_later(BEAT_SECONDS, self._watch_clocks, offsets)

    async def _fire(self, name: str) -> None:
        self._next_at.pop(name, None)
        self._fired_at[name] = self._clock()
        self._firing.add(name)
        try:
            await self._pollables[name].run_once()
        except Exception:
            log.exception("poll_failed", account=name)
        finally:
            # APScheduler counts this run as over two turns of the loop from here; before that it would skip the next
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._fired, name)

    def _fired(self, name: str) -> None:
        self._firing.discard(name)
        self._pull_forward(name)

    def _pull_forward(self, name: str) -> None:
        if not self._running or name in self._firing:
            return
        now, planned = self._clock(), self._next_at.get(name)
        earliest = self._fired_at.get(name, now - TOGETHER_SECONDS) + TOGETHER_SECONDS
        if planned is not None and now < planned <= earliest:
            return
        at = self._pollables[name].next_request_at()
        latest = now + IDLE_SECONDS
        wanted = latest if at is None else min(max(at, earliest), latest)
        if planned is not None and now < planned <= wanted:
            return
        self._next_at[name] = wanted
        # APScheduler reads the machine's clock, which may differ from ours: a database's, with several nodes.
        self._scheduler.modify_job(name, next_run_time=datetime.fromtimestamp(wall_clock() + wanted - now, UTC))
