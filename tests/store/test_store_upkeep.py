"""Retention in small batches that always end and never delete open deliveries."""

import asyncio

import pytest

from relay.errors import Conflict, StaleSequence
from relay.ids import new_id
from relay.store.store import Store
from relay.store.upkeep import (
    FIRST_EVENT,
    FIRST_JOB,
    SLICE,
    _delete_callbacks,
    _delete_events,
    _delete_jobs,
)
from tests.support.store_kit import (
    NOW,
    callback_for,
    claim,
    counts,
    deliver_all,
    poll,
    registration,
    result_of,
    rows,
    subscription,
    together,
    track,
)


async def events_at(store: Store, *moments: float) -> list[str]:
    """Jobs with one event each, recorded at these times."""
    batch = [registration(f"job {n}", tracked_at=moment) for n, moment in enumerate(moments)]
    await store.jobs.register_many(batch)
    polls = (
        poll(one.job.uid, 0, "succeeded", outcome="succeeded", now=moment)
        for one, moment in zip(batch, moments, strict=True)
    )
    await asyncio.gather(*map(store.jobs.record, polls))
    return [one.job.uid for one in batch]


async def sweep(store: Store, before: float, limit: int = 100) -> list[int]:
    """All slices of one sweep over the events."""
    slices: list[int] = []
    after: tuple[float, int] | None = FIRST_EVENT
    while after is not None:
        assert len(slices) < limit, "this does not end"
        deleted, after = await store.upkeep.delete_events(before, after)
        slices.append(deleted)
    return slices


async def sweep_jobs(store: Store, before: float, limit: int = 100) -> list[int]:
    """All slices of one sweep over the jobs."""
    slices: list[int] = []
    after: tuple[float, str] | None = FIRST_JOB
    while after is not None:
        assert len(slices) < limit, "this does not end"
        deleted, after = await store.upkeep.delete_jobs(before, after)
        slices.append(deleted)
    return slices


async def test_old_events_go_with_their_ended_deliveries_and_attempts(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    await events_at(store, NOW, NOW + 1, NOW + 2)
    await deliver_all(store, "sub_1", now=NOW + 3)
    assert sum(await sweep(store, NOW + 2)) == 2
    left = await counts(store)
    assert (left["events"], left["deliveries"], left["attempts"], left["jobs"]) == (1, 1, 1, 3)


async def test_an_event_with_a_pending_delivery_stays_until_it_ends(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    await store.subscriptions.create(subscription("sub_2"))
    await events_at(store, NOW, NOW + 1)
    await deliver_all(store, "sub_1", now=NOW + 3)
    (one,) = await claim(store, "sub_2", 1, now=NOW + 3)
    await store.deliveries.record(result_of(one, now=NOW + 3))
    assert sum(await sweep(store, NOW + 9)) == 1
    assert [row["job_uid"] for row in await rows(store, "SELECT job_uid FROM events")] != [one.order_key]
    await deliver_all(store, "sub_2", now=NOW + 3)
    assert sum(await sweep(store, NOW + 9)) == 1
    assert (await counts(store))["attempts"] == 0


async def test_event_retried_between_check_and_deletion_stays(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    await events_at(store, NOW, NOW)
    first, second = await deliver_all(store, "sub_1")
    await store.deliveries.retry(first.id, NOW + 1)
    deletion = store.database.write(_delete_events, ([first.event.id, second.event.id],))
    assert await together(store, deletion) == [1]
    assert await store.deliveries.get(first.id) is not None
    assert await store.deliveries.get(second.id) is None


async def test_job_with_deleted_events_continues_its_sequence(store: Store) -> None:
    uid = await track(store)
    await store.jobs.record(poll(uid, 0, "queued"))
    await sweep(store, NOW + 9)
    with pytest.raises(StaleSequence):
        await store.jobs.record(poll(uid, 0, "queued"))
    await store.jobs.record(poll(uid, 1, "running"))
    assert [event.sequence for event in await store.events.of_job(uid)] == [2]


async def test_closed_jobs_go_but_those_with_a_pending_delivery_stay(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    owed, *others = await events_at(store, NOW, *[NOW + 1] * (SLICE + 5))
    for one in await claim(store, "sub_1", 1_000, now=NOW + 2):
        if one.order_key != owed:
            await store.deliveries.record(result_of(one))
    tracked = await track(store, "tracked")
    assert await sweep_jobs(store, NOW + 1) == [0]
    assert await sweep_jobs(store, NOW + 2) == [SLICE - 1, 6]
    assert {row["uid"] for row in await rows(store, "SELECT uid FROM jobs")} == {owed, tracked}
    assert len(others) == SLICE + 5


async def test_job_resumed_between_check_and_deletion_stays(store: Store) -> None:
    sub = await callback_for(store, "https://callback.example", "sub_1", NOW)
    uid = await track(store, "a", callback_subscription_id=sub)
    await store.jobs.untrack(uid, NOW)
    again = store.jobs.register(registration("a"))
    deletion = store.database.write(_delete_jobs, ([uid], NOW + 5))
    registered, deleted = await together(store, again, deletion)
    assert (registered.resumed, deleted) == (True, 0)
    assert (await counts(store))["job_callbacks"] == 1


async def test_a_callback_that_no_job_names_any_more_goes(store: Store) -> None:
    made = {}
    for name in ("gone", "named", "pending", "young"):
        made[name] = new_id("sub", NOW if name != "young" else NOW + 9)
        await callback_for(store, f"https://callback.example/{name}", made[name], NOW)
    await store.subscriptions.create(subscription(new_id("sub", NOW), types=()))
    gone, owing = [await track(store, name, callback_subscription_id=made[name]) for name in ("gone", "pending")]
    await track(store, "open", callback_subscription_id=made["named"])
    for uid in (gone, owing):
        await store.jobs.record(poll(uid, 0, "queued"))
        await store.jobs.untrack(uid, NOW)
    (sent,) = await claim(store, made["gone"], 5, now=NOW)
    await store.deliveries.record(result_of(sent, "delivered", now=NOW))
    assert await sweep_jobs(store, NOW + 5) == [1]
    assert await store.upkeep.delete_callbacks(NOW + 5) == (1, None)
    left = await store.subscriptions.page(limit=9, callbacks=True)
    assert {one.id for one in left.items if one.callback} == {made["named"], made["pending"], made["young"]}
    assert len(left.items) == 4
    with pytest.raises(Conflict, match="removed meanwhile"):
        await track(store, "late", callback_subscription_id=made["gone"])
    again = await callback_for(store, "https://callback.example/gone", new_id("sub", NOW), NOW)
    assert again != made["gone"]


async def test_callback_used_again_between_check_and_deletion_stays(store: Store) -> None:
    sub = await callback_for(store, "https://callback.example", new_id("sub", NOW), NOW)
    named = store.jobs.register(registration("a", callback_subscription_id=sub))
    deletion = store.database.write(_delete_callbacks, (store.upkeep._subscriptions, [sub]))
    _, deleted = await together(store, named, deletion)
    assert deleted == 0
    assert (await counts(store))["job_callbacks"] == 1
