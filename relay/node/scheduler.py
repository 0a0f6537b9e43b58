"""Schedules all work with APScheduler: one job per polled account, and one per piece of upkeep.

An account's job is due at its planner's time: each run sets the next one, and its poller's `reschedule` expedites it. A
run never overlaps the previous run of its account. Times stay correct when the machine's clock is set.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog
from apscheduler.executors.asyncio import AsyncIOExecutor
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from relay.clock import Clock, wall_clock
from relay.errors import StoreError

if TYPE_CHECKING:
    from relay.polling.poller import Poller

IDLE_SECONDS = 30.0
"""An account's job runs at least this often."""
TOGETHER_SECONDS = 0.01
"""Minimum time between two runs of an account. Polls due within it start together and share turns of the loop and
commits, which on a busy node cost as much as the polls."""
BEAT_SECONDS = 1.0
STEP_SECONDS = 2.0
"""A clock counts as set if it and the loop's time diverge by more than this between two beats."""
MAX_INSTANCES = 3
"""APScheduler still counts a run for a moment after it has ended, and would refuse the next one. Overlapping runs of an
account are prevented here."""

log = structlog.get_logger("relay.node")


class Upkeep(NamedTuple):
    """A function called at an interval; with `at_once`, also when the node starts."""

    name: str
    every_seconds: float
    run: Callable[[], Awaitable[Any]]
    at_once: bool = False


class Scheduler:
    """Times the pollers and the upkeep of one node."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._scheduler = AsyncIOScheduler(
            timezone=UTC,
            executors={"default": AsyncIOExecutor()},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        self._pollers: dict[str, Poller] = {}
        self._upkeep: set[str] = set()
        self._polling: set[str] = set()
        """Accounts with a run in progress."""
        self._to_set: set[str] = set()
        self._next_at: dict[str, float] = {}
        self._began_at: dict[str, float] = {}
        self._running = False
        self._beat: asyncio.TimerHandle | None = None

    def add_account(self, source: str, account: str, poller: "Poller") -> Callable[[], None]:
        """Polls an account at its planner's times. Call the result when the planner's next time may be earlier."""
        name = f"{source}/{account}"
        self._pollers[name] = poller
        every = IntervalTrigger(seconds=IDLE_SECONDS, timezone=UTC)
        self._scheduler.add_job(self._poll, every, args=[name], id=name, name=name, max_instances=MAX_INSTANCES)
        return partial(self._set_soon, name)

    def add_upkeep(self, upkeep: Upkeep) -> None:
        """Times one function. A failure is logged and does not end it."""

        async def run() -> None:
            try:
                await upkeep.run()
            except StoreError as error:
                log.error("upkeep_failed", upkeep=upkeep.name, error=str(error))
            except Exception:
                log.exception("upkeep_failed", upkeep=upkeep.name)

        name, every = f"upkeep:{upkeep.name}", IntervalTrigger(seconds=upkeep.every_seconds, timezone=UTC)
        first = {"next_run_time": datetime.now(UTC)} if upkeep.at_once else {}
        self._scheduler.add_job(run, every, id=name, name=name, **first)
        self._upkeep.add(name)

    def upkeep_now(self, name: str) -> None:
        """Runs one piece of upkeep now instead of at its time, if this node has it."""
        job = f"upkeep:{name}"
        if self._running and job in self._upkeep:
            self._scheduler.modify_job(job, next_run_time=datetime.now(UTC))

    def start(self) -> None:
        """Begins to run jobs."""
        self._scheduler.start()
        self._running = True
        for name in self._pollers:
            self._set_next_run(name)
        self._watch_clocks(self._offsets())

    def stop(self) -> None:
        """Starts no more runs. Runs in progress continue: their owner ends them."""
        if self._running:
            self._running = False
            self._scheduler.pause()
            if self._beat is not None:
                self._beat.cancel()

    def shutdown(self) -> None:
        """Shuts APScheduler down, once all runs have ended: it would cancel them."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    @property
    def running(self) -> bool:
        """True if jobs are run."""
        return self._running

    async def _poll(self, name: str) -> None:
        if name in self._polling:  # submitted twice before the first run began
            return
        self._polling.add(name)
        self._began_at[name] = now = self._clock()
        self._next_at[name] = now + IDLE_SECONDS  # APScheduler's own next run
        try:
            await self._pollers[name].run_once()
        except Exception:
            log.exception("poll_failed", account=name)
        finally:
            self._polling.discard(name)
            self._set_next_run(name)

    def _set_soon(self, name: str) -> None:
        """Sets an account's next run in the next turn of the loop: hundreds of jobs may be registered in this one."""
        if self._running and name not in self._to_set:
            self._to_set.add(name)
            asyncio.get_running_loop().call_soon(self._set_next_run, name)

    def _set_next_run(self, name: str) -> None:
        """Sets an account's next run to its planner's time, but not before TOGETHER_SECONDS after the last one."""
        self._to_set.discard(name)
        if not self._running or name in self._polling:
            return
        now, planned = self._clock(), self._next_at.get(name)
        earliest = self._began_at.get(name, now - TOGETHER_SECONDS) + TOGETHER_SECONDS
        if planned is not None and now < planned <= earliest:
            return
        at = self._pollers[name].next_request_at()
        latest = now + IDLE_SECONDS
        wanted = latest if at is None else min(max(at, earliest), latest)
        if planned is not None and now < planned <= wanted:
            return
        self._next_at[name] = wanted
        # APScheduler reads the machine's clock. Ours may differ: with several nodes it is the database's.
        self._scheduler.modify_job(name, next_run_time=datetime.fromtimestamp(wall_clock() + wanted - now, UTC))

    def _offsets(self) -> tuple[float, float]:
        """The differences between the loop's time and our clock, and between it and the machine's clock, which
        APScheduler reads."""
        elapsed = asyncio.get_running_loop().time()
        return self._clock() - elapsed, wall_clock() - elapsed

    def _watch_clocks(self, before: tuple[float, float]) -> None:
        """Sets every next run again after a clock was set: a time by the old clock might be far away."""
        offsets = self._offsets()
        step = max((now - then for now, then in zip(offsets, before, strict=True)), key=abs)
        if abs(step) > STEP_SECONDS:
            log.warning("clock_was_set", seconds=round(step, 1))
            self._next_at.clear()
            self._began_at.clear()
            for name in self._pollers:
                self._set_next_run(name)
            for name in self._upkeep:
                self.upkeep_now(name.removeprefix("upkeep:"))
        if self._running:
            self._beat = asyncio.get_running_loop().call_later(BEAT_SECONDS, self._watch_clocks, offsets)
