"""Past events of a new subscription: queued in slices, in order, once each, whatever happens meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from relay.store.deliveries import past_events
from relay.store.store import Store
from tests.support.store_kit import (
    NOW,
    claim,
    deliver_all,
    deliveries,
    poll,
    registration,
    relay_event,
    rows,
    subscription,
)

OpenAgain = Callable[..., Awaitable[Store]]
SLICE = 4
KINDS = ("queued", "scheduled", "running")
TYPES = ("relay.source.down", *(f"ai.revor.job.{kind}" for kind in KINDS))


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past_events, "SLICE", SLICE)


async def fill(store: Store, count: int = 5) -> list[str]:
    """The uids of jobs that have a first event."""
    batch = [registration(f"job {n}") for n in range(count)]
    await store.jobs.register_many(batch)
    for one in batch:
        await store.jobs.record(poll(one.job.uid, 0, KINDS[0]))
    return [one.job.uid for one in batch]


async def check(store: Store, subscription_id: str = "sub_1") -> None:
    """Each event has one delivery, those of a job are in order, and only its first open one is pending."""
    events = await rows(store, "SELECT id, job_uid, sequence FROM events")
    found = await deliveries(store, subscription_id)
    assert sorted(row["event_id"] for row in found) == sorted(event["id"] for event in events)
    open_ones: dict[str, list[str]] = {}
    for row in found:
        if row["state"] in ("pending", "blocked") and row["job_uid"] is not None:
            open_ones.setdefault(row["job_uid"], []).append(row["state"])
    assert all(states == ["pending"] + ["blocked"] * (len(states) - 1) for states in open_ones.values())


async def test_other_writes_go_on_between_slices(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    uids = await fill(store, 3 * SLICE)
    sizes: list[int] = []
    run_many = past_events.run_many
    monkeypatch.setattr(past_events, "run_many", lambda *args: (sizes.append(len(args[2])), run_many(*args))[1])
    creating = asyncio.ensure_future(store.subscriptions.create(subscription("sub_1", start_at=0.0, types=TYPES)))
    for uid in uids:
        await store.jobs.record(poll(uid, 1, KINDS[1]))
    await creating
    for uid in uids:
        await store.jobs.record(poll(uid, 2, KINDS[2]))
    assert len(sizes) > 3
    assert max(sizes) <= SLICE
    await check(store)
    assert [one.event.sequence for one in await deliver_all(store, "sub_1") if one.order_key == uids[0]] == [1, 2, 3]


async def test_attempts_between_slices_keep_the_order(store: Store) -> None:
    uids = await fill(store, 2 * SLICE)
    for uid in uids:
        await store.jobs.record(poll(uid, 1, KINDS[1]))
    await store.database.write(store.subscriptions._create, (subscription("sub_1", start_at=0.0, types=TYPES), None))
    first = await deliver_all(store, "sub_1")
    leased = await claim(store, "sub_1")
    await store.subscriptions.continue_filling()
    done = [*first, *leased, *await deliver_all(store, "sub_1", now=NOW + 100)]
    for uid in uids:
        assert [one.event.sequence for one in done if one.order_key == uid] == [1, 2]


async def test_creation_that_was_cut_off_is_continued(store: Store, open_again: OpenAgain) -> None:
    uids = await fill(store, 3 * SLICE)
    made = subscription("sub_1", start_at=0.0, types=TYPES)
    await store.database.write(store.subscriptions._create, (made, None))
    assert len(await deliveries(store)) == SLICE
    await store.jobs.record(poll(uids[0], 1, KINDS[1]))
    await store.events.record(relay_event(now=NOW - 50))
    assert len(await deliveries(store)) == SLICE, "new events wait behind the past ones"
    await store.subscriptions.replace(replace(made, description="changed meanwhile"), NOW)
    await store.database.write(store.subscriptions._fill, "sub_1")
    await store.close()

    again = await open_again()
    assert await again.subscriptions.continue_filling() == 1
    assert await again.subscriptions.continue_filling() == 0
    await again.jobs.record(poll(uids[1], 1, KINDS[1]))
    await check(again)


async def test_new_event_counts_although_the_clock_was_set_back(store: Store) -> None:
    await fill(store, SLICE)
    await store.database.write(
        store.subscriptions._create, (subscription("sub_1", start_at=NOW - 5, types=TYPES), None)
    )
    await store.events.record(relay_event(now=NOW - 500))
    await store.subscriptions.continue_filling()
    await check(store)
