"""Deliveries counted in groups: the newest, up to the scan limit."""

from typing import Any

import pytest

from relay.core.records import Groups
from relay.store.store import Store
from tests.support.store_kit import NOW, deliveries, execute, poll, registration, subscription, together

DAY = 86_400.0
MIDNIGHT = NOW - NOW % DAY
ALL = ("reason", "subscription_id", "day")


async def undelivered(store: Store, count: int = 6) -> None:
    """`count` jobs, one a day, with one event each for two subscriptions: dead for one of two reasons in the first,
    pending in the second."""
    for name in ("sub_1", "sub_2"):
        await store.subscriptions.create(subscription(name))
    batch = [registration(f"job {nth}") for nth in range(count)]
    await store.jobs.register_many(batch)
    await together(
        store,
        *(store.jobs.record(poll(one.uid, 0, "queued", now=MIDNIGHT + nth * DAY / 2)) for nth, one in enumerate(batch)),
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


async def test_a_group_names_its_oldest_its_newest_and_an_example(store: Store) -> None:
    await undelivered(store)
    (group,) = (await store.deliveries.groups(["subscription_id"], limit=5, state="dead")).items
    mine = [row for row in await deliveries(store) if row["subscription_id"] == "sub_1"]
    assert group.oldest_at == min(row["created_at"] for row in mine)
    assert group.newest_at == max(row["created_at"] for row in mine)
    assert group.example_id == max(row["id"] for row in mine)


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


async def test_deliveries_of_an_event_are_counted(store: Store) -> None:
    await undelivered(store)
    event_id = (await deliveries(store))[0]["event_id"]
    for filters, count in (({}, 2), ({"state": "dead"}, 1), ({"subscription_id": "sub_2"}, 1)):
        groups = await store.deliveries.groups(ALL, limit=50, event_id=event_id, **filters)
        assert sum(one.count for one in groups.items) == count


async def test_followers_count_as_pending(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    one = registration("a job")
    await store.jobs.register(one)
    await store.jobs.record(poll(one.uid, 0, "queued", "running", "succeeded"))
    (group,) = (await store.deliveries.groups(["reason"], limit=5, state="pending")).items
    assert (group.reason, group.count) == (None, 3)


@pytest.mark.parametrize("filters", [{}, {"state": "dead"}, {"subscription_id": "sub_1"}])
async def test_only_the_newest_are_counted_beyond_the_scan_limit(store: Store, filters: dict[str, Any]) -> None:
    await undelivered(store)
    groups = await store.deliveries.groups(["day"], limit=50, newest=4, **filters)
    assert (groups.scanned, groups.truncated) == (4, True)
    assert sum(one.count for one in groups.items) == 4
    assert MIDNIGHT not in {one.day for one in groups.items}


async def test_scan_limit_reached_exactly_is_not_truncated(store: Store) -> None:
    await undelivered(store)
    groups = await store.deliveries.groups(["day"], limit=50, newest=6, state="dead")
    assert (groups.scanned, groups.truncated) == (6, False)


async def test_number_of_groups_is_limited(store: Store) -> None:
    await undelivered(store)
    groups = await store.deliveries.groups(["day"], limit=2, state="dead")
    assert (len(groups.items), groups.more, groups.truncated) == (2, True, False)
