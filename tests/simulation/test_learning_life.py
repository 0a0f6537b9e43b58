"""Statistics and plans survive restarts, lost leases and a failing database."""

import asyncio
from dataclasses import dataclass, field

import pytest

from relay.core.planner import Planner
from relay.core.records import SavedStatistics
from relay.errors import StoreError
from relay.node import upkeep
from relay.polling.statistics import SourceStatistics
from tests.support.simulation_world import open_world, seen


@dataclass
class FakeStatistics:
    """Counts events by class, and records what is loaded."""

    known: dict[str, tuple[float, str]] = field(default_factory=dict)
    given: list[tuple[str, str]] = field(default_factory=list)
    new: set[str] = field(default_factory=set)

    def see(self, name: str, event_count: float, values: str) -> None:
        self.known[name] = (event_count, values)
        self.new.add(name)

    def unsaved_rows(self) -> list[tuple[str, float, str]]:
        names, self.new = sorted(self.new), set()
        return [(name, *self.known[name]) for name in names]

    def load_row(self, name: str, values: str) -> None:
        self.given.append((name, values))


@dataclass
class Plans:
    """The plans that planners save and restore, in order with the tracked jobs."""

    plan: dict[str, object] = field(default_factory=dict)
    restored: list[object] = field(default_factory=list)


@pytest.fixture
def plans(monkeypatch):
    made = Plans()
    track = Planner.track

    def tracked(self, job_id, *values, **named):
        made.restored.append(job_id)
        track(self, job_id, *values, **named)

    monkeypatch.setattr(Planner, "durable_state", lambda self: dict(made.plan))
    monkeypatch.setattr(Planner, "resume", lambda self, plan, now: made.restored.append((dict(plan), now)))
    monkeypatch.setattr(Planner, "track", tracked)
    return made


def of_source(*rows: tuple[str, float, str]) -> list[SavedStatistics]:
    return [
        SavedStatistics(source="revor", name=name, event_count=count, values=values) for name, count, values in rows
    ]


async def keep(world) -> None:
    await upkeep.save_statistics([world.memory], {("revor", "default"): world.poller})


async def test_restart_restores_statistics_and_plan(tmp_path, plans):
    async with open_world(tmp_path) as world:
        statistics = FakeStatistics()
        await world.restart_poller(statistics=statistics)
        uid = await world.register("a", seen("queued"))
        statistics.see("dispatch", 3.0, '{"mean": 4}')
        plans.plan = {"price": 0.5}
        await keep(world)
        plans.restored.clear()
        again = FakeStatistics()
        await world.restart_poller(100.0, statistics=again)
        assert again.given == [("dispatch", '{"mean": 4}')]
        assert plans.restored == [({"price": 0.5}, world.clock()), uid]  # before any job is planned


async def test_refused_save_is_repeated(tmp_path, plans, monkeypatch):
    async with open_world(tmp_path) as world:
        statistics = FakeStatistics()
        await world.restart_poller(statistics=statistics)
        save = world.store.learned.save

        async def full(rows, now):
            raise StoreError("the disk is full")

        monkeypatch.setattr(world.store.learned, "save", full)
        statistics.see("a", 1.0, "1")
        statistics.see("b", 1.0, "1")
        plans.plan = {"price": 0.5}
        with pytest.raises(StoreError):
            await keep(world)
        assert await world.store.accounts.plan("revor", "default") == {"price": 0.5}  # independent of the statistics
        statistics.see("a", 2.0, "2")
        monkeypatch.setattr(world.store.learned, "save", save)
        await keep(world)
        assert await world.store.learned.load("revor") == of_source(("a", 2.0, "2"), ("b", 1.0, "1"))
        assert world.memory._unsaved == {}


async def test_plan_is_not_saved_before_it_was_restored(tmp_path, plans):
    async with open_world(tmp_path) as world:
        await world.store.accounts.save_plan("revor", "default", {"price": 0.5}, None)
        plans.plan = {"price": 9.0}
        await world.poller.save_plan()  # nothing was loaded
        assert await world.store.accounts.plan("revor", "default") == {"price": 0.5}
        await world.poller.load()
        world.poller.release()
        await world.poller.save_plan()  # another node holds it
        assert await world.store.accounts.plan("revor", "default") == {"price": 0.5}
        await world.poller.take_over(None)
        await world.poller.save_plan()
        assert await world.store.accounts.plan("revor", "default") == {"price": 9.0}


class Empty:
    """Rows that count loads; `during` is called in the middle of a load."""

    def __init__(self, *rows: SavedStatistics) -> None:
        self.rows = list(rows)
        self.reads = 0
        self.saved: list[SavedStatistics] = []
        self.during = lambda: None

    async def save(self, rows, now):
        self.saved += rows

    async def load(self, source):
        self.reads += 1
        await asyncio.sleep(0)
        self.during()
        return self.rows


async def test_load_does_not_undo_concurrent_learning():
    rows = Empty(*of_source(("a", 5.0, "old"), ("b", 5.0, "theirs"), ("c", 5.0, "theirs")))
    statistics = FakeStatistics()
    memory = SourceStatistics("revor", statistics, rows=rows, clock=lambda: 1.0)
    statistics.see("b", 6.0, "ours")
    rows.during = lambda: statistics.see("a", 6.0, "newer")
    await memory.load()
    assert rows.saved == of_source(("b", 6.0, "ours"))  # before the load, which then returns the right rows
    assert statistics.given == [("b", "theirs"), ("c", "theirs")]
    await memory.save()
    assert rows.saved[1:] == of_source(("a", 6.0, "newer"))
