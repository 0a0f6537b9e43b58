"""The scheduler with the real APScheduler: each account fires when its planner says, and never twice at once."""

import asyncio
import time
from collections.abc import Callable
from itertools import pairwise

import pytest
import time_machine

from relay.node import scheduler as node_scheduler
from relay.node.scheduler import TOGETHER_SECONDS, Scheduler


class Pollable:
    """Wants a run at `at`; each run takes that away."""

    def __init__(self) -> None:
        self.at: float | None = None
        self.planned_at = 0.0
        self.runs = 0
        self.asked = 0
        self.ran = asyncio.Event()
        self.fails = False

    def next_request_at(self) -> float | None:
        self.asked += 1
        return self.at

    async def run_once(self) -> bool:
        self.runs += 1
        self.planned_at, self.at = self.at or 0.0, None
        self.ran.set()
        if self.fails:
            raise RuntimeError("as told")
        return True


@pytest.fixture(autouse=True)
def _rarely_idle(monkeypatch):
    """What only a look of an idle scheduler would run does not run in these tests."""
    monkeypatch.setattr(node_scheduler, "IDLE_SECONDS", 600.0)


@pytest.fixture
async def scheduler():
    made = Scheduler(time.time)
    yield made
    made.stop()
    made.shutdown()


async def fired(pollable: Pollable) -> None:
    async with asyncio.timeout(120):
        await pollable.ran.wait()
    pollable.ran.clear()


async def run_again(pollable: Pollable, wake: Callable[[], None]) -> None:
    """Wants a run now, and waits for it."""
    pollable.at = time.time()
    wake()
    await fired(pollable)


@pytest.mark.parametrize("ahead_seconds", [60.0, -60.0])
async def test_poll_is_on_time_if_the_machine_s_clock_differs(ahead_seconds):
    """With PostgreSQL ours is the database's."""
    scheduler, pollable = Scheduler(lambda: time.time() + ahead_seconds), Pollable()
    wake = scheduler.add_account("revor", "default", pollable)
    scheduler.start()
    try:
        for _ in range(3):
            pollable.at = time.time() + ahead_seconds + 0.05
            before = pollable.runs
            wake()
            await fired(pollable)
            assert pollable.runs == before + 1
            assert time.time() + ahead_seconds >= pollable.planned_at
    finally:
        scheduler.stop()
        scheduler.shutdown()


@pytest.mark.parametrize("seconds", [60.0, -60.0])
async def test_poll_is_on_time_after_the_machine_s_clock_was_set(seconds):
    ahead = time.time() - time.monotonic()
    scheduler, pollable = Scheduler(lambda: ahead + time.monotonic()), Pollable()
    scheduler.add_account("revor", "default", pollable)
    pollable.at = ahead + time.monotonic() + 0.1
    scheduler.start()
    try:
        with time_machine.travel(time.time() + seconds, tick=True):
            await fired(pollable)
    finally:
        scheduler.stop()
        scheduler.shutdown()


async def test_polls_due_within_10_ms_start_together(scheduler):
    begun = []

    class Noting(Pollable):
        async def run_once(self) -> bool:
            begun.append(time.time())
            return await super().run_once()

    pollable = Noting()
    wake = scheduler.add_account("revor", "default", pollable)
    scheduler.start()
    for _ in range(10):
        await run_again(pollable, wake)
    assert all(later - earlier >= TOGETHER_SECONDS for earlier, later in pairwise(begun))


async def test_the_planner_is_asked_once_for_many_registrations(scheduler):
    pollable = Pollable()
    wake = scheduler.add_account("revor", "default", pollable)
    scheduler.start()
    asked, pollable.at = pollable.asked, time.time()
    for _ in range(1_000):
        wake()
    await fired(pollable)
    assert pollable.asked <= asked + 2, "before the run, and after it"


async def test_a_run_is_set_once_if_nothing_follows_it(scheduler, monkeypatch):
    """APScheduler itself sets the run after it, IDLE_SECONDS later."""
    pollable = Pollable()
    wake = scheduler.add_account("revor", "default", pollable)
    scheduler.start()
    await run_again(pollable, wake)
    set_times = []
    modify_job = scheduler._scheduler.modify_job
    monkeypatch.setattr(
        scheduler._scheduler, "modify_job", lambda name, **changes: set_times.append(modify_job(name, **changes))
    )
    for _ in range(5):
        await run_again(pollable, wake)
        await asyncio.sleep(0)
    assert len(set_times) == 5
    assert scheduler._scheduler.get_job("revor/default").next_run_time.timestamp() > time.time() + 500


async def test_a_failing_run_does_not_end_the_polling(scheduler):
    pollable = Pollable()
    pollable.fails = True
    wake = scheduler.add_account("revor", "default", pollable)
    scheduler.start()
    for _ in range(3):
        await run_again(pollable, wake)


async def test_after_stop_nothing_fires(scheduler):
    pollable = Pollable()
    wake = scheduler.add_account("revor", "default", pollable)
    scheduler.start()
    scheduler.stop()
    pollable.at = time.time()
    wake()
    for _ in range(10):
        await asyncio.sleep(0)
    assert pollable.runs == 0
    assert not scheduler.running
