"""Gauges read from the database: pending deliveries, what blocks them, the age of the oldest, the database's size."""

import pytest

from relay.core.records import Pending
from relay.metrics import Metrics
from relay.node.upkeep import measure
from relay.store.store import Store
from tests.support.store_kit import NOW, claim, deliver_all, poll, result_of, subscription, track


async def subscribe(store: Store, *names: str) -> None:
    for name in names:
        await store.subscriptions.create(subscription(name))


async def test_pending_deliveries_are_counted_by_what_blocks_them(store: Store) -> None:
    await subscribe(store, "sub_1", "sub_2", "sub_3", "sub_4", "sub_5")
    await store.jobs.record(poll(await track(store), 0, "queued", "running"))
    await store.subscriptions.set_state("sub_1", "paused", NOW)
    await store.subscriptions.set_state("sub_2", "disabled", NOW)
    await store.subscriptions.set_sink_health("sub_3", failing_since=NOW, paused_until=None)
    await store.subscriptions.set_state("sub_5", "pending", NOW)
    held = {"paused": 2, "disabled": 2, "failing": 2, "pending": 2, "pulled": 0}
    expected = Pending(count=10, held=held, oldest_at=NOW)
    assert await store.deliveries.pending() == expected


async def test_oldest_pending_excludes_paused_and_disabled_subscriptions(store: Store) -> None:
    """Nor is it a manual retry, which may be a month old."""
    await subscribe(store, "sub_1", "sub_2", "sub_3")
    for nth in range(3):
        uid = await track(store, f"job {nth}", tracked_at=NOW + nth)
        await store.jobs.record(poll(uid, 0, "queued", now=NOW + nth))
    await store.subscriptions.set_state("sub_1", "paused", NOW)
    (oldest,) = await claim(store, "sub_2", 1, now=NOW + 9)
    await store.deliveries.record(result_of(oldest, "dead", now=NOW + 9))
    await deliver_all(store, "sub_3", now=NOW + 9)
    assert (await store.deliveries.pending()).oldest_at == NOW + 1
    await store.deliveries.retry(oldest.id, NOW + 10)
    assert (await store.deliveries.pending()).oldest_at == NOW + 1


async def test_upkeep_measures_what_programs_have_not_acknowledged(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_pull", kind="pull", sink=""))
    await store.jobs.record(poll(await track(store), 0, "queued", "running"))
    metrics = Metrics()
    await measure(store, metrics, lambda: NOW + 60)
    value = metrics.registry.get_sample_value
    assert value("relay_pull_lag", {"subscription": "sub_pull"}) == 2
    assert value("relay_pull_oldest_seconds", {"subscription": "sub_pull"}) == pytest.approx(60, abs=1)
