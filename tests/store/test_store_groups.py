"""Deliveries counted in groups: the newest, up to the scan limit."""

from typing import Any

import pytest

from relay.core.records import Groups
from relay.store.store import Store
from tests.support.store_kit import NOW, execute, poll, registration, subscription, together

DAY = 86_400.0
MIDNIGHT = NOW - NOW % DAY


async def undelivered(store: Store, count: int = 6) -> None:
    """`count` jobs, one a day, with one event each for two subscriptions: dead for one of two reasons in the first,
    pending in the second."""
    for name in ("sub_1", "sub_2"):
        await store.subscriptions.create(subscription(name))
    batch = [registration(f"job {nth}") for nth in range(count)]
    await store.jobs.register_many(batch)
    await together(
        store,
        *(
            store.jobs.record(poll(one.job.uid, 0, "queued", now=MIDNIGHT + nth * DAY / 2))
            for nth, one in enumerate(batch)
        ),
    )
    await execute(store, "UPDATE deliveries SET state = 'dead', reason = 'http_500' WHERE subscription_id = 'sub_1'")
    first = "SELECT MIN(id) FROM deliveries WHERE subscription_id = 'sub_1'"
    await execute(store, f"UPDATE deliveries SET reason = 'timeout' WHERE id IN ({first})")


def shown(groups: Groups) -> list[tuple[Any, ...]]:
    return [(one.reason, one.subscription_id, one.day, one.count) for one in groups.items]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (("reason",), [("http_500", None, None, 5), ("timeout", None, None, 1)]),
        (("subscription_id",), [(None, "sub_1", None, 6)]),
        (("day",), [(None, None, MIDNIGHT + day * DAY, 2) for day in range(3)]),
        (
            ("day", "reason"),
            [
                ("http_500", None, MIDNIGHT + DAY, 2),
                ("http_500", None, MIDNIGHT + 2 * DAY, 2),
                ("http_500", None, MIDNIGHT, 1),
                ("timeout", None, MIDNIGHT, 1),
            ],
        ),
    ],
)
async def test_dead_deliveries_are_grouped_largest_first(
    store: Store, columns: tuple[str, ...], expected: list[Any]
) -> None:
    await undelivered(store)
    groups = await store.deliveries.groups(columns, limit=50, state="dead")
    assert shown(groups) == expected
    assert (groups.scanned, groups.truncated, groups.more) == (6, False, False)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, {"sub_1": 6, "sub_2": 6}),
        ({"state": "pending"}, {"sub_2": 6}),
        ({"state": "delivered"}, {}),
        ({"state": "cancelled"}, {}),
        ({"subscription_id": "sub_2"}, {"sub_2": 6}),
        ({"subscription_id": "sub_2", "state": "dead"}, {}),
        ({"subscription_id": "sub_1", "state": "dead"}, {"sub_1": 6}),
        ({"subscription_id": "sub_1", "state": "pending"}, {}),
        ({"subscription_id": "sub_none"}, {}),
    ],
)
async def test_only_matching_deliveries_are_counted(
    store: Store, filters: dict[str, str], expected: dict[str, int]
) -> None:
    await undelivered(store)
    groups = await store.deliveries.groups(["subscription_id"], limit=50, **filters)
    assert {one.subscription_id: one.count for one in groups.items} == expected


@pytest.mark.parametrize("filters", [{}, {"state": "dead"}, {"subscription_id": "sub_1"}])
async def test_only_the_newest_are_counted_beyond_the_scan_limit(store: Store, filters: dict[str, Any]) -> None:
    await undelivered(store)
    groups = await store.deliveries.groups(["day"], limit=50, newest=4, **filters)
    assert (groups.scanned, groups.truncated) == (4, True)
    assert sum(one.count for one in groups.items) == 4
    assert MIDNIGHT not in {one.day for one in groups.items}
