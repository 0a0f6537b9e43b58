"""A node's figures: what it measures. A write that fails loses and repeats nothing."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from relay.core.figures import Row, TimeSeries, points
from relay.errors import StoreError, ValueRefused
from relay.node import figures
from relay.node.figures import Figures
from tests.support.loop_watch import most_calls_of_a_turn

NOW = 1_800_000_000.0


class Rows:
    """A database that sums up, and fails as told."""

    def __init__(self, *failures: BaseException | None) -> None:
        self.failures = list(failures)
        self.sizes: list[int] = []
        self.sums: dict[Any, tuple[int, float]] = {}

    async def add(self, rows: Sequence[Row]) -> None:
        await asyncio.sleep(0)
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        self.sizes.append(len(rows))
        for row in rows:
            number, total = self.sums.get(row[:5], (0, 0.0))
            self.sums[row[:5]] = (number + row.number, total + row.total)

    def total(self, name: str = "events", span: str = "day") -> int:
        return sum(number for key, (number, _) in self.sums.items() if key[:3] == (name, "", span))

    def gauge(self, name: Any, label: str = "") -> list[float]:
        """Its value in each hour."""
        rows = [(key[3], key[4], *found) for key, found in self.sums.items() if key[:3] == (name, label, "hour")]
        return [point.total for point in points(name, sorted(rows))]


class World:
    """A node's figures, and a clock that tests set."""

    def __init__(self, *failures: BaseException | None, rows: Rows | None = None) -> None:
        self.now = NOW
        self.tally = TimeSeries()
        self.rows = rows or Rows(*failures)
        self.pollers: dict[tuple[str, str], Any] = {}
        self.figures = Figures(self.rows, self.tally, self.pollers, lambda: self.now)  # type: ignore[arg-type]

    def account(self, name: str, **stats: float) -> Any:
        values = {"open_jobs": 3, "others_requests_per_second": 0.5, "price_seconds": 0.8, **stats}
        self.pollers["revor", name] = poller = SimpleNamespace(
            account=SimpleNamespace(holds=True),
            agenda=SimpleNamespace(loading=False),
            planner=SimpleNamespace(stats=lambda now: SimpleNamespace(**values)),
            poll_handler=SimpleNamespace(answered=0),
        )
        return poller

    def count(self, number: int = 1) -> None:
        for _ in range(number):
            self.tally.add("events", "", self.now)


async def test_what_was_counted_is_written_once() -> None:
    world = World()
    world.count(3)
    await world.figures.run_once()
    world.now += 15.0
    await world.figures.run_once()
    world.count()
    await world.figures.run_once()
    assert world.rows.total() == 4


async def test_gauges_are_those_of_accounts_that_this_node_polls_and_has_loaded() -> None:
    world = World()
    world.account("a", open_jobs=40)
    world.account("b", open_jobs=2)
    world.account("polled elsewhere").account.holds = False
    world.account("loading").agenda.loading = True
    await world.figures.run_once()
    assert {key[1] for key in world.rows.sums} == {"", "revor/a", "revor/b"}
    assert [world.rows.gauge(name, "revor/a") for name in ("jobs_open", "requests_others", "price_seconds")] == [
        [40.0],
        [0.5],
        [0.8],
    ]
    assert world.rows.gauge("jobs_open") == [42.0]


async def test_the_open_jobs_of_the_whole_relay_are_those_of_all_nodes_also_when_accounts_move() -> None:
    rows = Rows()
    one, two = World(rows=rows), World(rows=rows)
    for world in (one, two):
        world.account("a", open_jobs=40)
        world.account("b", open_jobs=2)
    one.pollers["revor", "b"].account.holds = two.pollers["revor", "a"].account.holds = False
    for step in range(8):
        if step == 4:  # the first node stops, and the second one takes its account
            two.pollers["revor", "a"].account.holds = True
        for world in (one, two) if step < 4 else (two,):
            await world.figures.run_once()
            world.now += 15.0
    assert rows.gauge("jobs_open") == [42.0]


async def test_a_write_that_fails_goes_with_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "CELLS_AT_ONCE", 1)
    world = World(None, StoreError("no"))
    for minute in range(3):
        world.now = NOW + 60.0 * minute
        world.count(5)
    with pytest.raises(StoreError):
        await world.figures.run_once()
    assert world.rows.total() == 5
    world.count()
    await world.figures.run_once()
    assert [world.rows.total(span=span) for span in ("minute", "hour", "day")] == [16, 16, 16]


async def test_a_write_that_is_cancelled_is_not_repeated_because_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "CELLS_AT_ONCE", 1)
    world = World(None, asyncio.CancelledError())
    for minute in range(3):
        world.now = NOW + 60.0 * minute
        world.count()
    with pytest.raises(asyncio.CancelledError):
        await world.figures.flush()
    await world.figures.flush()
    assert world.rows.total() == 2


async def test_rows_that_the_database_refuses_do_not_hold_up_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "CELLS_AT_ONCE", 1)
    world = World(ValueRefused("a text that no database takes"))
    for minute in range(2):
        world.now = NOW + 60.0 * minute
        world.count()
    await world.figures.flush()
    await world.figures.flush()
    assert world.rows.total() == 1


async def test_what_was_lost_while_the_database_was_away_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("relay.core.figures.MAX_WAITING", 10)
    world = World(*[StoreError("no")] * 60)
    for _ in range(60):
        world.count()
        with pytest.raises(StoreError):
            await world.figures.flush()
        world.now += 60.0
    await world.figures.flush()
    assert world.rows.total() == 10
    assert capsys.readouterr().out.count("figures_lost") == 50


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
        world.now += 15.0
    await world.figures.flush()
    assert world.rows.total("attempts") == 2 * labels
    assert world.rows.gauge("jobs_open") == [3.0 * labels]
    assert max(world.rows.sizes) <= 5 * figures.CELLS_AT_ONCE
