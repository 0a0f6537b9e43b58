"""Retention in small batches that always end and never delete open deliveries."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from relay.errors import Conflict, StaleSequence
from relay.ids import new_id
from relay.store.store import Store
from relay.store.upkeep import (
    FIRST_EVENT,
    FIRST_JOB,
    MAX_ROWS,
    SLICE,
    _delete_callbacks,
    _delete_events,
    _delete_jobs,
    _on_one_node,
)
from tests.support.store_kit import (
    NOW,
    attempt,
    callback_for,
    claim,
    counts,
    deliver_all,
    job_event,
    poll,
    registration,
    relay_event,
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
        poll(one.uid, 0, "succeeded", outcome="succeeded", now=moment)
        for one, moment in zip(batch, moments, strict=True)
    )
    await asyncio.gather(*map(store.jobs.record, polls))
    return [one.uid for one in batch]


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


async def until_none(delete: Callable[[], Awaitable[int]], limit: int = 100) -> list[int]:
    batches = [await delete()]
    while batches[-1]:
        assert len(batches) < limit, "this does not end"
        batches.append(await delete())
    return batches


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
    await store.deliveries.record_attempt(result_of(one, now=NOW + 3))
    assert sum(await sweep(store, NOW + 9)) == 1
    assert [row["job_uid"] for row in await rows(store, "SELECT job_uid FROM events")] != [one.job_uid]
    await deliver_all(store, "sub_2", now=NOW + 3)
    assert sum(await sweep(store, NOW + 9)) == 1
    assert (await counts(store))["attempts"] == 0


async def test_a_blocked_follower_keeps_its_event(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    uid = await track(store)
    await store.jobs.record(poll(uid, 0, "queued", "running"))
    assert sum(await sweep(store, NOW + 9)) == 0
    assert (await counts(store))["events"] == 2


async def test_a_sweep_goes_in_slices_and_ends(store: Store) -> None:
    await events_at(store, *(NOW + n / 1000 for n in range(2 * SLICE + 7)))
    assert await sweep(store, NOW + 9) == [SLICE, SLICE, 7]
    assert await sweep(store, NOW + 9) == [0]


async def test_many_events_of_one_moment_go_all(store: Store) -> None:
    await events_at(store, *[NOW] * (2 * SLICE + 7))
    assert sum(await sweep(store, NOW + 1)) == 2 * SLICE + 7


async def test_many_open_events_of_one_moment_do_not_block_the_sweep(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1", types=("ai.revor.job.succeeded",)))
    await events_at(store, *[NOW] * (SLICE + 5))
    uid = await track(store, "free")
    await store.jobs.record(poll(uid, 0, "queued"))
    await store.events.record(relay_event(now=NOW + 1))
    assert sum(await sweep(store, NOW + 2)) == 2
    assert (await counts(store))["events"] == SLICE + 5


async def test_event_retried_between_check_and_deletion_stays(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    await events_at(store, NOW, NOW)
    first, second = await deliver_all(store, "sub_1")
    await store.deliveries.retry(first.id, NOW + 1)
    deletion = store.database.write(_on_one_node(_delete_events), ([first.event.id, second.event.id],))
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


async def test_old_attempts_go_in_batches_the_oldest_first(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    await events_at(store, *[NOW] * (MAX_ROWS + 5))
    old = await claim(store, "sub_1", MAX_ROWS + 4)
    await together(
        store, *(store.deliveries.record_attempt(result_of(one, attempt=attempt(started_at=NOW))) for one in old)
    )
    (new,) = await claim(store, "sub_1")
    await store.deliveries.record_attempt(result_of(new, attempt=attempt(started_at=NOW + 1)))
    assert await until_none(lambda: store.upkeep.delete_attempts(NOW + 1)) == [MAX_ROWS, 4, 0]
    assert [row["delivery_id"] for row in await rows(store, "SELECT delivery_id FROM attempts")] == [new.id]


async def test_closed_jobs_go_but_those_with_a_pending_delivery_stay(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    owed, *others = await events_at(store, NOW, *[NOW + 1] * (SLICE + 5))
    for one in await claim(store, "sub_1", 1_000, now=NOW + 2):
        if one.job_uid != owed:
            await store.deliveries.record_attempt(result_of(one))
    tracked = await track(store, "tracked")
    assert await sweep_jobs(store, NOW + 1) == [0]
    assert await sweep_jobs(store, NOW + 2) == [SLICE - 1, 6]
    assert {row["uid"] for row in await rows(store, "SELECT uid FROM jobs")} == {owed, tracked}
    assert len(others) == SLICE + 5


async def test_many_jobs_with_open_deliveries_do_not_block_the_sweep(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1", types=("ai.revor.job.succeeded",)))
    await events_at(store, *[NOW] * (SLICE + 5))
    free = await track(store, "free")
    await store.jobs.untrack(free, NOW + 1)
    assert await sweep_jobs(store, NOW + 2) == [0, 1]
    assert await store.jobs.get(free) is None


async def test_job_resumed_between_check_and_deletion_stays(store: Store) -> None:
    sub = await callback_for(store, "https://callback.example", "sub_1", NOW)
    uid = await track(store, "a", callback_subscription_id=sub)
    await store.jobs.untrack(uid, NOW)
    again = store.jobs.register(registration("a"))
    deletion = store.database.write(_on_one_node(_delete_jobs), ([uid], NOW + 5))
    registered, deleted = await together(store, again, deletion)
    assert (registered.resumed, deleted) == (True, 0)
    assert (await counts(store))["job_callbacks"] == 1


async def test_a_job_takes_its_callbacks_with_it(store: Store) -> None:
    sub = await callback_for(store, "https://callback.example", "sub_1", NOW)
    uid = await track(store, "a", callback_subscription_id=sub)
    await store.jobs.untrack(uid, NOW)
    assert await sweep_jobs(store, NOW + 5) == [1]
    assert (await counts(store))["job_callbacks"] == 0
    assert (await counts(store))["subscriptions"] == 1


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
    await store.deliveries.record_attempt(result_of(sent, "delivered", now=NOW))
    assert await sweep_jobs(store, NOW + 5) == [1]
    assert await store.upkeep.delete_callbacks(NOW + 5) == (1, None)
    left = await store.subscriptions.page(limit=9, callbacks=True)
    assert {one.id for one in left.items if one.callback} == {made["named"], made["pending"], made["young"]}
    assert len(left.items) == 4
    with pytest.raises(Conflict, match="removed meanwhile"):
        await track(store, "late", callback_subscription_id=made["gone"])
    again = await callback_for(store, "https://callback.example/gone", new_id("sub", NOW), NOW)
    assert again != made["gone"]


async def test_many_callbacks_are_gone_through_a_slice_at_a_time(store: Store) -> None:
    named = ((f"https://callback.example/{nth}", new_id("sub", NOW + nth / 1e3)) for nth in range(SLICE + 3))
    await asyncio.gather(*(callback_for(store, url, id, NOW) for url, id in named))
    kept = (await store.subscriptions.page(limit=1, callbacks=True)).items[0].id
    await track(store, "open", callback_subscription_id=kept)
    count, after = await store.upkeep.delete_callbacks(NOW + 5)
    assert (count, after is not None) == (SLICE, True)
    assert await store.upkeep.delete_callbacks(NOW + 5, after) == (2, None)


async def test_callback_used_again_between_check_and_deletion_stays(store: Store) -> None:
    sub = await callback_for(store, "https://callback.example", new_id("sub", NOW), NOW)
    named = store.jobs.register(registration("a", callback_subscription_id=sub))
    deletion = store.database.write(_on_one_node(_delete_callbacks), (store.upkeep._subscriptions, [sub]))
    _, deleted = await together(store, named, deletion)
    assert deleted == 0
    assert (await counts(store))["job_callbacks"] == 1


async def test_old_idempotency_keys_go(store: Store) -> None:
    times = [NOW + 5, *[NOW] * (MAX_ROWS + 2)]
    await asyncio.gather(
        *(store.idempotency.begin(f"key {nth}", "digest", "holder", time, 0.0) for nth, time in enumerate(times))
    )
    assert await until_none(lambda: store.upkeep.delete_idempotency_keys(NOW + 5)) == [MAX_ROWS, 2, 0]
    assert await store.idempotency.begin("key 0", "digest", "holder", NOW + 9, 0.0) is not None


async def test_secrets_go_once_they_have_expired(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    await store.secrets.add_secret("sub_1", "whsec_a", NOW)
    await store.secrets.add_secret("sub_1", "whsec_b", NOW, old_expire_at=NOW + 10)
    assert await store.upkeep.delete_secrets(NOW + 10) == 0
    assert await store.upkeep.delete_secrets(NOW + 11) == 1
    assert [secret.value for secret in await store.secrets.of("sub_1")] == ["whsec_b"]


async def test_several_sweeps_in_one_group_are_fine(store: Store) -> None:
    await events_at(store, NOW, NOW, NOW)
    results = await together(
        store,
        store.upkeep.delete_secrets(NOW),
        store.upkeep.delete_idempotency_keys(NOW),
        store.upkeep.delete_attempts(NOW),
    )
    assert results == [0, 0, 0]


async def test_an_event_id_that_looks_like_json_is_deleted_like_any(store: Store) -> None:
    uid = await track(store)
    await store.jobs.record(poll(uid, 0, events=[replace(job_event(uid, 1), id='e"],["')]))
    assert sum(await sweep(store, NOW + 1)) == 1
