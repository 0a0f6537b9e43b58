"""Figures over time in the database: what several nodes add, what is read, and what is deleted."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from relay.core.figures import KEPT_SECONDS, Name, Point, Span, TimeSeries, rows_of
from relay.store.store import Store
from tests.support.store_kit import NOW, rows, subscription

HOUR = NOW // 3_600.0 * 3_600.0
MINUTE = NOW // 60.0 * 60.0


async def flush(store: Store, tally: TimeSeries) -> None:
    await store.figures.add(rows_of(tally.take(1_000)))


async def points(
    store: Store, name: Name, label: str = "", span: Span = "hour", since: float = 0.0
) -> list[tuple[int, float]]:
    (found,) = await store.figures.series([name], label, span, since)
    return [(one.number, one.total) for one in found]


async def test_what_is_added_is_there_after_a_restart(
    store: Store, open_again: Callable[..., Awaitable[Store]]
) -> None:
    tally = TimeSeries()
    for seconds in (0.5, 0.5, 40.0):
        tally.add("attempt_seconds", "sub_1", NOW, seconds)
    tally.add("jobs_open", "", NOW, 7.0)
    await flush(store, tally)
    tally.add("attempt_seconds", "sub_1", NOW + 1, 40.0)
    await flush(store, tally)
    await store.close()
    again = await open_again()
    (found, jobs) = await again.figures.series(["attempt_seconds", "jobs_open"], "", "minute", MINUTE)
    (point,) = found
    assert (point.began_at, point.number, point.total) == (MINUTE, 4, 81.0)
    assert point.p50 == pytest.approx(0.5, rel=0.25)
    assert point.p95 == pytest.approx(40.0, rel=0.25)
    assert jobs == [Point(MINUTE, 1, 7.0)]
    assert await points(again, "attempt_seconds", "sub_1") == [(4, 81.0)]
    assert await points(again, "attempt_seconds", "sub_1", "minute") == []


async def test_two_nodes_that_flush_at_once_lose_and_repeat_nothing(
    store: Store, open_again: Callable[..., Awaitable[Store]], request: pytest.FixtureRequest
) -> None:
    """On SQLite one node; on PostgreSQL two, which would deadlock if they locked rows in different orders."""
    nodes = [store, await open_again() if store.database.shared else store]
    tallies = [TimeSeries() for number in range(2)]
    labels = [f"sub_{number:02}" for number in range(20)]

    async def work(number: int) -> None:
        for step in range(15):
            for label in labels if number else reversed(labels):
                tallies[number].add("attempt_seconds", label, NOW + step, 0.1 * (step + 1))
                tallies[number].add("attempts", label, NOW + step)
            tallies[number].add("jobs_open", "", NOW + step, 10.0 * (number + 1), count=1 - number)
            await flush(nodes[number], tallies[number])

    await asyncio.gather(work(0), work(1))
    assert await points(store, "attempts", span="day") == [(2 * 15 * 20, 600.0)]
    for label in labels:
        assert await points(store, "attempts", label) == [(30, 30.0)]
    assert sum(number for number, _ in await points(store, "attempt_seconds", span="minute")) == 600
    assert [total for _, total in await points(store, "jobs_open")] == [30.0]


async def test_a_token_bound_to_an_account_sees_its_figures_only(store: Store) -> None:
    for name in ("a", "b"):
        for number in range(2):
            await store.subscriptions.create(subscription(f"sub_{name}{number}", owner=f"revor/{name}"))
    await store.subscriptions.create(subscription("sub_everybody"))
    tally = TimeSeries()
    for number, label in enumerate(("sub_a0", "sub_a1", "sub_b0", "sub_b1", "sub_everybody")):
        tally.add("attempt_seconds", label, NOW, 1.0, 10**number)
    tally.add("events", "revor/a", NOW, count=3)
    tally.add("events", "revor/b", NOW, count=5)
    tally.add("deliveries_undelivered", "", NOW, 9.0)
    await flush(store, tally)
    bound = store.within(("revor", "a"))
    seen: dict[tuple[Name, str], list[int]] = {
        ("attempt_seconds", ""): [11],
        ("attempt_seconds", "sub_a1"): [10],
        ("attempt_seconds", "sub_b1"): [],
        ("attempt_seconds", "sub_everybody"): [],
        ("attempt_seconds", "sub_none"): [],
        ("events", ""): [3],
        ("events", "revor/a"): [3],
        ("events", "revor/b"): [],
        ("deliveries_undelivered", ""): [],
    }
    for (name, label), expected in seen.items():
        assert [count for count, _ in await points(bound, name, label)] == expected, (name, label)
    assert [count for count, _ in await points(store, "events")] == [8]
    assert [count for count, _ in await points(store, "attempt_seconds", "sub_b1")] == [1_000]


async def test_old_figures_are_deleted_and_those_of_days_to_come(store: Store) -> None:
    tally = TimeSeries()
    for ago in (
        0.0,
        KEPT_SECONDS["minute"] + 60.0,
        KEPT_SECONDS["hour"] + 3_600.0,
        KEPT_SECONDS["day"] + 86_400.0,
        -200_000.0,
    ):
        tally.add("events", "", NOW - ago)
    await flush(store, tally)
    deleted = 0
    while count := await store.upkeep.delete_figures(NOW):
        deleted += count
    assert deleted == 3 + 1 + 2 + 3
    kept = await rows(store, "SELECT span, began_at FROM figures")
    assert {span: sorted(row["began_at"] for row in kept if row["span"] == span) for span in KEPT_SECONDS} == {
        "minute": [MINUTE],
        "hour": [(NOW - KEPT_SECONDS["minute"] - 60.0) // 3_600.0 * 3_600.0, HOUR],
        "day": sorted(
            (NOW - ago) // 86_400.0 * 86_400.0
            for ago in (0.0, KEPT_SECONDS["minute"] + 60.0, KEPT_SECONDS["hour"] + 3_600.0)
        ),
    }
