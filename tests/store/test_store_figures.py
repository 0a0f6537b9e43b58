"""Figures over time in the database: what several nodes add, what is read, and what is deleted."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from relay.core.figures import SPANS, STALE_SECONDS, Name, Point, Span, Tally, packed_buckets
from relay.store.store import Store
from relay.store.upkeep import MAX_ROWS
from tests.support.loop_watch import LoopWatch
from tests.support.store_kit import NOW, execute, rows, subscription, together

HOUR = NOW // 3_600.0 * 3_600.0
DAY = NOW // 86_400.0 * 86_400.0
MINUTE = NOW // 60.0 * 60.0


async def flush(store: Store, tally: Tally, now: float = NOW) -> None:
    await store.figures.add(tally.take(now))


async def points(
    store: Store, name: Name, label: str = "", span: Span = "hour", since: float = 0.0
) -> list[tuple[int, float]]:
    (found,) = await store.figures.series([name], [label], span, since)
    return [(one.number, one.total) for one in found.points]


async def test_what_is_added_is_there_after_a_restart(
    store: Store, open_again: Callable[..., Awaitable[Store]]
) -> None:
    tally = Tally()
    for seconds in (0.5, 0.5, 40.0):
        tally.add("attempt_seconds", "sub_1", NOW, seconds)
    tally.gauge("jobs_open", "revor/a", NOW, 7.0)
    await flush(store, tally)
    tally.add("attempt_seconds", "sub_1", NOW + 1, 40.0)
    await flush(store, tally, NOW + 1)
    await store.close()
    again = await open_again()
    (found, jobs) = await again.figures.series(["attempt_seconds", "jobs_open"], [""], "minute", MINUTE)
    (point,) = found.points
    assert (point.began_at, point.number, point.total) == (MINUTE, 4, 81.0)
    assert point.p50 == pytest.approx(0.5, rel=0.25)
    assert point.p95 == pytest.approx(40.0, rel=0.25)
    assert list(jobs.points) == [Point(MINUTE, 1, 7.0)]
    assert await points(again, "attempt_seconds", "sub_1") == [(4, 81.0)]
    assert await points(again, "attempt_seconds", "sub_1", "minute") == []


async def test_two_nodes_that_flush_at_once_lose_and_repeat_nothing(
    store: Store, open_again: Callable[..., Awaitable[Store]], request: pytest.FixtureRequest
) -> None:
    """On SQLite one node; on PostgreSQL two, which would deadlock if they locked rows in different orders."""
    nodes = [store, await open_again() if store.database.shared else store]
    tallies = [Tally(f"node {number}") for number in range(2)]
    labels = [f"sub_{number:02}" for number in range(20)]

    async def work(number: int) -> None:
        for step in range(15):
            for label in labels if number else reversed(labels):
                tallies[number].add("attempt_seconds", label, NOW + step, 0.1 * (step + 1))
                tallies[number].add("attempts", label, NOW + step)
            tallies[number].gauge("jobs_open", f"revor/{number}", NOW + step, 10.0 * (number + 1))
            await flush(nodes[number], tallies[number], NOW + step)

    await asyncio.gather(work(0), work(1))
    assert await points(store, "attempts", span="day") == [(2 * 15 * 20, 600.0)]
    for label in labels:
        assert await points(store, "attempts", label) == [(30, 30.0)]
    (found,) = await store.figures.series(["attempt_seconds"], [""], "minute", 0.0)
    assert sum(point.number for point in found.points) == 600
    stored = await rows(
        store, "SELECT buckets FROM figures WHERE name = 'attempt_seconds' AND label = '' AND span = 'day'"
    )
    assert sum(count for _, count in _unpacked(stored[0]["buckets"])) == 600
    assert [total for _, total in await points(store, "jobs_open")] == [30.0]


def _unpacked(stored: Any) -> list[tuple[int, int]]:
    from relay.core.figures import unpacked_buckets

    return list(unpacked_buckets(bytes(stored)).items())


async def test_several_flushes_of_one_group_are_all_added(store: Store) -> None:
    flushes = []
    for number in range(5):
        tally = Tally()
        tally.add("attempt_seconds", f"sub_{number % 2}", NOW, 1.0)
        flushes.append(store.figures.add(tally.take(NOW)))
    await together(store, *flushes)
    assert await points(store, "attempt_seconds") == [(5, 5.0)]
    assert await points(store, "attempt_seconds", "sub_0") == [(3, 3.0)]


async def test_nothing_is_written_without_rows(store: Store) -> None:
    before = store.database.commit_count
    await store.figures.add([])
    assert store.database.commit_count == before


@pytest.mark.parametrize(
    ("steps", "total"),
    [
        ([("one", 0.0, {"a": 5.0, "b": 2.0})], 7.0),
        ([("one", 0.0, {"a": 5.0}), ("one", 15.0, {"a": 3.0})], 3.0),
        ([("one", 0.0, {"a": 5.0}), ("two", 5.0, {"b": 2.0})], 7.0),
        ([("one", 0.0, {"a": 5.0, "b": 2.0}), ("two", 5.0, {"b": 3.0}), ("one", 15.0, {"a": 5.0})], 8.0),
        ([("one", 0.0, {"a": 5.0}), ("one again", STALE_SECONDS + 1.0, {"a": 6.0})], 6.0),
        ([("one", 15.0, {"a": 5.0}), ("one", 0.0, {"a": 9.0})], 5.0),
        ([("one", STALE_SECONDS + 1.0, {"a": 5.0}), ("one", 0.0, {"a": 9.0})], 9.0),
    ],
    ids=[
        "accounts",
        "later",
        "two nodes",
        "an account moves",
        "a node restarts",
        "written late",
        "the clock was set back",
    ],
)
@pytest.mark.parametrize("span", ["minute", "hour", "day"])
async def test_a_gauge_of_the_whole_relay_is_what_the_nodes_that_live_have_measured_last(
    store: Store, steps: list[tuple[str, float, dict[str, float]]], total: float, span: Span
) -> None:
    for node, after, values in steps:
        tally = Tally(node)
        for account, value in values.items():
            tally.gauge("jobs_open", f"revor/{account}", MINUTE + after, value)
        await flush(store, tally, MINUTE + 100.0)
    assert [found for _, found in await points(store, "jobs_open", span=span)] == [total]


async def test_damaged_cells_are_replaced(store: Store) -> None:
    tally = Tally()
    tally.add("attempt_seconds", "", NOW, 1.0)
    tally.gauge("jobs_open", "revor/a", NOW, 5.0)
    await flush(store, tally)
    await execute(
        store,
        "UPDATE figures SET buckets = 'x'" if not store.database.shared else "UPDATE figures SET buckets = '\\x78'",
    )
    (found, jobs) = await store.figures.series(["attempt_seconds", "jobs_open"], [""], "hour", 0.0)
    assert (found.points[0].number, found.points[0].p50, jobs.points[0].total) == (1, None, 5.0)
    tally.add("attempt_seconds", "", NOW, 1.0)
    tally.gauge("jobs_open", "revor/a", NOW + 1, 6.0)
    await flush(store, tally, NOW + 1)
    (found, jobs) = await store.figures.series(["attempt_seconds", "jobs_open"], [""], "hour", 0.0)
    assert (found.points[0].number, found.points[0].p50, jobs.points[0].total) == (2, pytest.approx(0.9, rel=0.02), 6.0)


async def test_a_series_begins_with_its_time_and_is_in_order(store: Store) -> None:
    tally = Tally()
    for hour in (0, 2, 1, 3):
        tally.add("events", "", HOUR + 3_600.0 * hour, count=hour + 1)
    await flush(store, tally, HOUR + 4 * 3_600.0)
    assert await points(store, "events", since=HOUR + 3_600.0) == [(2, 2.0), (3, 3.0), (4, 4.0)]
    assert await points(store, "events", "a\0b") == []


async def test_a_token_bound_to_an_account_sees_its_figures_only(store: Store) -> None:
    for name in ("a", "b"):
        for number in range(2):
            await store.subscriptions.create(subscription(f"sub_{name}{number}", owner=f"revor/{name}"))
    await store.subscriptions.create(subscription("sub_everybody"))
    tally = Tally()
    for number, label in enumerate(("sub_a0", "sub_a1", "sub_b0", "sub_b1", "sub_everybody")):
        tally.add("attempt_seconds", label, NOW, 1.0, 10**number)
    tally.add("events", "revor/a", NOW, count=3)
    tally.add("events", "revor/b", NOW, count=5)
    tally.gauge("deliveries_undelivered", "", NOW, 9.0)
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


async def test_figures_of_many_subscriptions_are_summed_without_holding_up_others(store: Store) -> None:
    """On PostgreSQL the event loop computes."""
    hours, buckets = 200, packed_buckets({place: 1_000 + place for place in range(60)}).hex()
    stored = f"decode('{buckets}', 'hex')" if store.database.shared else f"X'{buckets}'"
    for number in range(40):
        await store.subscriptions.create(subscription(f"sub_{number:02}", owner="revor/a"))
    await execute(
        store,
        f"""
        WITH RECURSIVE n(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < {hours - 1})
        INSERT INTO figures (name, label, span, began_at, count, total, buckets)
        SELECT 'attempt_seconds', s.id, 'hour', {HOUR} - 3600.0 * n.n, 7, 0.5, {stored} FROM n, subscriptions AS s
        """,
    )
    async with LoopWatch() as watch:
        found = await points(store.within(("revor", "a")), "attempt_seconds")
    assert found == [(280, 20.0)] * hours
    assert watch.longest_cpu_seconds < 0.06


async def test_old_figures_are_deleted_and_those_of_days_to_come(store: Store) -> None:
    tally = Tally()
    for ago in (0.0, SPANS["minute"] + 60.0, SPANS["hour"] + 3_600.0, SPANS["day"] + 86_400.0, -200_000.0):
        tally.add("events", "", NOW - ago)
    await flush(store, tally, NOW + 1e6)
    deleted = 0
    while count := await store.upkeep.delete_figures(NOW):
        deleted += count
    assert deleted == 3 + 1 + 2 + 3
    kept = await rows(store, "SELECT span, began_at FROM figures")
    assert {span: sorted(row["began_at"] for row in kept if row["span"] == span) for span in SPANS} == {
        "minute": [MINUTE],
        "hour": [(NOW - SPANS["minute"] - 60.0) // 3_600.0 * 3_600.0, HOUR],
        "day": sorted(
            (NOW - ago) // 86_400.0 * 86_400.0 for ago in (0.0, SPANS["minute"] + 60.0, SPANS["hour"] + 3_600.0)
        ),
    }


async def test_one_call_deletes_a_bounded_number_of_figures(store: Store) -> None:
    """Each call is one transaction, and deliveries wait for it."""
    count = 2 * MAX_ROWS
    await execute(
        store,
        f"""
        INSERT INTO figures (name, label, span, began_at, count, total)
        WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {count})
        SELECT 'events', '', span.span, CASE WHEN n % 2 = 0 THEN 60.0 * n ELSE {NOW} + 1e6 + 60.0 * n END, 1, 1.0
        FROM n, (SELECT 'minute' AS span UNION ALL SELECT 'hour' UNION ALL SELECT 'day') AS span
        """,
    )
    deleted = []
    while one := await store.upkeep.delete_figures(NOW):
        deleted.append(one)
    assert max(deleted) <= MAX_ROWS
    assert sum(deleted) == 3 * count
