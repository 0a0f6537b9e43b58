"""A node's figures: what it measures. A write that fails, or a clock that is wrong, loses and repeats nothing."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from relay.core.figures import Cell, Key, Tally
from relay.errors import StoreError, ValueRefused
from relay.node import figures
from relay.node.figures import BELIEF_SECONDS, Figures
from tests.support.loop_watch import most_calls_of_a_turn

NOW = 1_800_000_000.0
YEAR_2100 = 4_102_444_800.0


class Rows:
    """A database that sums up counts, and fails as told."""

    def __init__(self, *failures: BaseException | None) -> None:
        self.failures = list(failures)
        self.sizes: list[int] = []
        self.counts: dict[Key, int] = {}
        self.values: dict[Key, float] = {}

    async def add(self, rows: Sequence[tuple[Key, Cell]]) -> None:
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        self.sizes.append(len(rows))
        for key, cell in rows:
            self.counts[key] = self.counts.get(key, 0) + cell.count
            if cell.parts is not None:
                self.values[key] = sum(value for _, value in cell.parts.values())

    def total(self, name: str = "events", span: str = "day") -> int:
        return sum(count for key, count in self.counts.items() if key[:3] == (name, "", span))


class World:
    """A node's figures, and clocks that tests set."""

    def __init__(self, *failures: BaseException | None) -> None:
        self.now, self.steady = NOW, 50.0
        self.tally = Tally("node 1")
        self.rows = Rows(*failures)
        self.pollers: dict[tuple[str, str], Any] = {}
        self.figures = Figures(self.rows, self.tally, self.pollers, lambda: self.now, lambda: self.steady)  # type: ignore[arg-type]

    def account(self, name: str, **stats: float) -> Any:
        values = {"open_jobs": 3, "due_jobs": 1, "others_requests_per_second": 0.5, "price_seconds": 0.8, **stats}
        self.pollers["revor", name] = poller = SimpleNamespace(
            holds=True,
            agenda=SimpleNamespace(loading=False),
            planner=SimpleNamespace(stats=lambda now: SimpleNamespace(**values)),
            poll_handler=SimpleNamespace(answered=0),
        )
        return poller

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.steady += seconds

    def count(self, number: int = 1) -> None:
        for _ in range(number):
            self.tally.add("events", "", self.now)


async def test_what_was_counted_is_written_once() -> None:
    world = World()
    world.count(3)
    await world.figures.run_once()
    world.passes(15.0)
    await world.figures.run_once()
    world.count()
    await world.figures.run_once()
    assert world.rows.total() == 4


async def test_gauges_are_those_of_accounts_that_this_node_polls_and_has_loaded() -> None:
    world = World()
    world.account("a", open_jobs=40)
    world.account("b", open_jobs=2)
    world.account("polled elsewhere").holds = False
    world.account("loading").agenda.loading = True
    await world.figures.run_once()
    assert {key[1] for key in world.rows.values} == {"", "revor/a", "revor/b"}
    assert {key[0]: value for key, value in world.rows.values.items() if key[1:3] == ("", "minute")} == {
        "jobs_open": 42,
        "jobs_due": 2,
        "requests_own": 0.0,
        "requests_others": 1.0,
        "price_seconds": 0.8,
    }


async def test_the_rate_of_polls_is_averaged_over_a_minute() -> None:
    world = World()
    poller = world.account("a")
    rates = []
    for number in range(20):
        await world.figures.run_once()
        rates.append(world.figures._polls["revor", "a"][2])
        poller.poll_handler.answered += 30 if number < 10 else 0
        world.passes(15.0)
    assert rates[0] == 0.0
    assert rates[:11] == sorted(rates[:11])
    assert rates[10] == pytest.approx(2.0, rel=0.1)
    assert rates[19] < 0.3
    poller.holds = False
    await world.figures.measure()
    assert world.figures._polls == {}
    poller.holds, poller.poll_handler.answered = True, 900
    await world.figures.measure()
    assert world.figures._polls["revor", "a"][2] == 0.0, "what came before this node polled it is not a rate"


async def test_a_write_that_fails_goes_with_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MAX_WRITTEN", 2)
    world = World(None, StoreError("no"))
    world.count(5)
    with pytest.raises(StoreError):
        await world.figures.run_once()
    assert world.rows.sizes == [2]
    world.passes(15.0)
    world.count()
    await world.figures.run_once()
    assert [world.rows.total(span=span) for span in ("minute", "hour", "day")] == [6, 6, 6]


async def test_a_write_that_is_cancelled_is_not_repeated_because_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MAX_WRITTEN", 1)
    world = World(None, asyncio.CancelledError())
    world.count()
    with pytest.raises(asyncio.CancelledError):
        await world.figures.flush()
    await world.figures.flush()
    assert sorted(key[2] for key in world.rows.counts) == ["day", "minute"]
    assert set(world.rows.counts.values()) == {1}


async def test_rows_that_the_database_refuses_do_not_hold_up_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MAX_WRITTEN", 1)
    world = World(ValueRefused("a text that no database takes"))
    world.count()
    await world.figures.flush()
    assert sorted(key[2] for key in world.rows.counts) == ["hour", "minute"]
    await world.figures.flush()
    assert len(world.rows.counts) == 2


async def test_a_database_that_is_away_for_long_costs_bounded_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("relay.core.figures.MAX_ROWS", 10)
    world = World(*[StoreError("no")] * 60)
    for _ in range(60):
        world.count()
        with pytest.raises(StoreError):
            await world.figures.flush()
        world.passes(60.0)
    waiting = world.tally.take(world.now)
    assert len(waiting) == 10
    world.tally.give_back(waiting)
    assert "figures_lost" in capsys.readouterr().out
    await world.figures.flush()
    assert world.rows.total("events", "day") == 60


@pytest.mark.parametrize("away", [True, False], ids=["database away", "database there"])
async def test_a_turn_of_the_loop_does_a_bounded_part_of_many_figures(away: bool) -> None:
    """Deliveries wait for each turn. The second flush meets what the first one could not write."""
    labels = 400
    world = World(*[StoreError("no")] * (2 if away else 0))
    for number in range(labels):
        world.account(f"account {number}")

    async def flush() -> None:
        for number in range(labels):
            label = f"sub_{number}"
            world.tally.add("attempts", label, world.now)
            world.tally.add("attempt_seconds", label, world.now, 1.0)
            if number % 50 == 0:
                await asyncio.sleep(0)
        try:
            await world.figures.run_once()
        except StoreError:
            assert away

    for _ in range(2):
        assert await most_calls_of_a_turn(flush) < 5_000
        world.passes(15.0)
    await world.figures.flush()
    assert world.rows.total("attempts") == 2 * labels
    assert world.rows.values["jobs_open", "", "minute", NOW] == 3 * labels
    assert max(world.rows.sizes) <= figures.MAX_WRITTEN


async def test_a_clock_that_jumps_far_ahead_and_back_makes_no_rows_of_that_time() -> None:
    world = World()
    world.count()
    await world.figures.run_once()
    world.now += YEAR_2100 - NOW
    for _ in range(20):
        world.count()
        world.passes(15.0)
        await world.figures.run_once()
    assert world.rows.total() == 1
    world.now -= YEAR_2100 - NOW
    for _ in range(int(BELIEF_SECONDS / 15.0) + 1):
        world.count()
        world.passes(15.0)
        await world.figures.run_once()
    assert all(abs(key[3] - NOW) < 86_400.0 for key in world.rows.counts)
    assert world.rows.total() == 1 + int(BELIEF_SECONDS / 15.0) + 1
