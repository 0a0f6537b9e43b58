"""Ordering: only the head of each job and subscription can be claimed, and its end promotes the next."""

import itertools

import pytest

from relay.core.deliveries.delivery import Claimed
from relay.errors import Conflict
from relay.node.upkeep import Orphans
from relay.signals import Signals
from relay.store import upkeep
from relay.store.store import Store
from tests.support.store_kit import (
    NOW,
    claim,
    deliver_all,
    deliveries,
    execute,
    poll,
    relay_event,
    result_of,
    states,
    subscription,
    together,
    track,
)


async def three(store: Store, *subscription_ids: str) -> str:
    """A job with three events, for these subscriptions."""
    for name in subscription_ids or ("sub_1",):
        await store.subscriptions.create(subscription(name))
    uid = await track(store)
    await store.jobs.record(poll(uid, 0, "queued", "running", "succeeded"))
    return uid


async def head(store: Store, subscription_id: str = "sub_1", now: float = NOW) -> Claimed:
    (one,) = await claim(store, subscription_id, now=now)
    return one


async def test_followers_are_blocked_and_cannot_be_claimed(store: Store) -> None:
    await three(store)
    assert await states(store) == ["pending", "blocked", "blocked"]
    assert (await head(store)).event.sequence == 1
    assert await claim(store, "sub_1") == ()


@pytest.mark.parametrize("end", ["delivered", "dead"])
async def test_end_of_the_head_promotes_the_next(store: Store, end: str) -> None:
    await three(store)
    for sequence in (1, 2, 3):
        one = await head(store)
        assert one.event.sequence == sequence
        assert (await store.deliveries.record(result_of(one, end, reason="because")))[0].kept
    assert await states(store) == [end] * 3
    assert await claim(store, "sub_1") == ()


async def test_head_waiting_for_a_retry_blocks_its_followers(store: Store) -> None:
    await three(store)
    await store.deliveries.record(result_of(await head(store), "pending", due_at=NOW + 5))
    assert await claim(store, "sub_1", now=NOW + 4) == ()
    assert await states(store) == ["pending", "blocked", "blocked"]
    again = await head(store, now=NOW + 5)
    assert (again.event.sequence, again.attempt_count, again.made_count) == (1, 1, 1)


async def test_subscriptions_of_one_job_do_not_wait_for_each_other(store: Store) -> None:
    await three(store, "sub_1", "sub_2")
    assert len(await deliver_all(store, "sub_2")) == 3
    assert await states(store, "sub_1") == ["pending", "blocked", "blocked"]


async def test_jobs_of_one_subscription_do_not_wait_for_each_other(store: Store) -> None:
    await three(store)
    other = await track(store, "other")
    await store.jobs.record(poll(other, 0, "queued"))
    assert sorted(one.event.sequence for one in await claim(store, "sub_1")) == [1, 1]


async def test_a_later_event_waits_behind_an_open_head(store: Store) -> None:
    uid = await three(store)
    await store.jobs.record(poll(uid, 3, "retrying"))
    assert await states(store) == ["pending", "blocked", "blocked", "blocked"]
    assert len(await deliver_all(store, "sub_1")) == 4
    await store.jobs.record(poll(uid, 4, "running"))
    assert (await states(store))[-1] == "pending"


async def test_follower_names_the_delivery_it_waits_for(store: Store) -> None:
    await three(store)
    ids = [row["id"] for row in await deliveries(store)]
    shown = [await store.deliveries.get(delivery_id) for delivery_id in ids]
    assert [one and one.waiting_for for one in shown] == [None, ids[0], ids[0]]
    assert [one and (one.state, one.next_attempt_at is None) for one in shown] == [
        *([("pending", False)] + [("pending", True)] * 2)
    ]


async def test_manual_retry_does_not_block_new_events(store: Store) -> None:
    uid = await three(store)
    (first, *_) = await deliver_all(store, "sub_1")
    again = await store.deliveries.retry(first.id, NOW + 1)
    assert (again.state, again.next_attempt_at, again.ended_at, again.reason) == ("pending", NOW + 1, None, None)
    await store.jobs.record(poll(uid, 3, "retrying", now=NOW + 1))
    claimed = await claim(store, "sub_1", now=NOW + 1)
    assert [one.event.sequence for one in claimed] == [4, 1]
    assert (claimed[1].attempt_count, claimed[1].made_count) == (0, 1)


async def test_end_of_a_manual_retry_does_not_promote_a_follower_of_an_open_head(store: Store) -> None:
    await three(store)
    first = await head(store)
    await store.deliveries.record(result_of(first, "dead"))
    await store.deliveries.retry(first.id, NOW)
    (manual,) = await claim(store, "sub_1", priorities=(2,))
    assert manual.id == first.id
    assert (await store.deliveries.record(result_of(manual)))[0].kept
    assert await states(store) == ["delivered", "pending", "blocked"]


async def test_a_retry_of_a_pending_head_makes_it_due_and_keeps_its_place(store: Store) -> None:
    uid = await three(store)
    one = await head(store)
    await store.deliveries.record(result_of(one, "pending", due_at=NOW + 500))
    shown = await store.deliveries.retry(one.id, NOW + 1)
    assert shown.next_attempt_at == NOW + 1
    await store.jobs.record(poll(uid, 3, "retrying", now=NOW + 1))
    assert await states(store) == ["pending", "blocked", "blocked", "blocked"]
    delivered = await deliver_all(store, "sub_1", now=NOW + 1)
    assert [one.event.sequence for one in delivered] == [1, 2, 3, 4]


async def test_retry_of_a_delivery_in_flight_is_refused_until_its_lease_ends(store: Store) -> None:
    await three(store)
    one = await head(store)
    with pytest.raises(Conflict) as refused:
        await store.deliveries.retry(one.id, NOW + 1)
    assert refused.value.code == "delivery_in_flight"
    await store.deliveries.retry(one.id, NOW + 46)
    assert not (await store.deliveries.record(result_of(one)))[0].kept


async def test_insert_and_end_of_the_head_in_one_group_leave_no_follower_blocked(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    for order in (1, -1):
        uid = await track(store, f"job {order}")
        await store.jobs.record(poll(uid, 0, "queued"))
        writes = [
            store.deliveries.record(result_of(await head(store))),
            store.jobs.record(poll(uid, 1, "running")),
        ]
        await together(store, *writes[::order])
        assert (await head(store)).event.sequence == 2


async def retry_all(store: Store, *sequences: int) -> None:
    ids = {row["sequence"]: row["id"] for row in await deliveries(store)}
    for sequence in sequences:
        await store.deliveries.retry(ids[sequence], NOW)


@pytest.mark.parametrize("asked_for", list(itertools.permutations((1, 2, 3))))
@pytest.mark.parametrize("end", ["delivered", "dead"])
async def test_manual_retries_of_one_job_go_in_order(store: Store, asked_for: tuple[int, ...], end: str) -> None:
    uid = await three(store)
    await deliver_all(store, "sub_1")
    await retry_all(store, *asked_for)
    await store.jobs.record(poll(uid, 3, "retrying"))
    assert await states(store) == ["pending", "blocked", "blocked", "pending"]
    assert [one.event.sequence for one in await claim(store, "sub_1", priorities=(0,))] == [4]
    for sequence in (1, 2, 3):
        (one,) = await claim(store, "sub_1")
        assert one.event.sequence == sequence
        await store.deliveries.record(result_of(one, "pending", due_at=NOW))
        (one,) = await claim(store, "sub_1")
        assert one.event.sequence == sequence
        await store.deliveries.record(result_of(one, end))
    assert await store.upkeep.promote_heads(NOW) == (0, (uid, "sub_1", 4))


async def test_manual_retry_waits_for_a_later_one_in_flight(store: Store) -> None:
    await three(store)
    await deliver_all(store, "sub_1")
    await retry_all(store, 3)
    (flying,) = await claim(store, "sub_1")
    await retry_all(store, 2, 1)
    assert await states(store) == ["blocked", "blocked", "pending"]
    assert await claim(store, "sub_1") == ()
    await store.deliveries.record(result_of(flying))
    assert [one.event.sequence for one in await deliver_all(store, "sub_1")] == [1, 2]


async def test_change_to_no_ordering_makes_all_pending(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.store.outbox.ordering.JOB_CHUNK", 2)
    await store.subscriptions.create(subscription("sub_1"))
    await store.subscriptions.create(subscription("sub_2"))
    uids = [await track(store, f"job {n}") for n in range(5)]
    for uid in uids:
        await store.jobs.record(poll(uid, 0, "queued", "running", "failed"))
    (head, *_) = await claim(store, "sub_1", 1)
    await store.deliveries.record(result_of(head, "dead"))
    (held, *_) = await claim(store, "sub_1", 1)
    await store.subscriptions.replace(subscription("sub_1", ordering="none"), NOW + 1)
    assert set(await states(store, "sub_1")) == {"dead", "pending"}
    assert (await states(store, "sub_2")).count("blocked") == 10
    await store.jobs.record(poll(uids[0], 3, "retrying"))
    assert (await store.deliveries.record(result_of(held)))[0].kept
    delivered = await deliver_all(store, "sub_1", now=NOW + 1)
    assert len(delivered) == 5 * 3 + 1 - 2
    assert (await store.upkeep.promote_heads(NOW + 1))[0] == 0


async def test_change_back_to_job_ordering_blocks_all_but_the_first(store: Store) -> None:
    uid = await three(store)
    await store.subscriptions.replace(subscription("sub_1", ordering="none"), NOW)
    await retry_all_by_hand_of_another_job(store)
    flying, *others = sorted(await claim(store, "sub_1", priorities=(0,)), key=lambda one: one.event.sequence or 0)
    await store.deliveries.release(others, NOW)
    await store.subscriptions.replace(subscription("sub_1", ordering="job"), NOW)
    assert await states_of(store, uid) == ["pending", "blocked", "blocked"]
    await store.jobs.record(poll(uid, 3, "retrying"))
    assert (await store.deliveries.record(result_of(flying)))[0].kept
    got = [(one.order_key == uid, one.event.sequence) for one in await deliver_all(store, "sub_1")]
    assert [sequence for ours, sequence in got if ours] == [2, 3, 4]
    assert [sequence for ours, sequence in got if not ours] == [1, 2, 3]
    assert (await store.upkeep.promote_heads(NOW))[0] == 0


async def retry_all_by_hand_of_another_job(store: Store) -> None:
    other = await track(store, "other")
    await store.jobs.record(poll(other, 0, "queued", "running", "failed"))
    for one in await claim(store, "sub_1"):
        if one.order_key == other:
            await store.deliveries.record(result_of(one))
            await store.deliveries.retry(one.id, NOW)
        else:
            await store.deliveries.release([one], NOW)


async def states_of(store: Store, uid: str) -> list[str]:
    return [row["state"] for row in await deliveries(store) if row["job_uid"] == uid]


async def test_deliveries_in_flight_at_a_change_to_ordering_leave_no_follower_blocked(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1", ordering="none"))
    uid = await track(store)
    await store.jobs.record(poll(uid, 0, "queued", "running", "failed"))
    flying = {one.event.sequence: one for one in await claim(store, "sub_1")}
    await store.deliveries.release([flying.pop(3)], NOW)
    await store.subscriptions.replace(subscription("sub_1"), NOW)
    assert await states(store) == ["pending", "pending", "blocked"]
    await store.deliveries.record(result_of(flying[1]))
    assert await states(store) == ["delivered", "pending", "blocked"]
    await store.deliveries.record(result_of(flying[2], "dead"))
    assert await states(store) == ["delivered", "dead", "pending"]


async def test_missed_heads_are_promoted(store: Store) -> None:
    uid = await three(store, "sub_1", "sub_2")
    await execute(store, "UPDATE deliveries SET state = 'cancelled' WHERE sequence = 1 AND subscription_id = 'sub_1'")
    assert await claim(store, "sub_1") == ()
    assert await store.upkeep.promote_heads(NOW + 1) == (1, (uid, "sub_2", 3))
    assert await states(store, "sub_1") == ["cancelled", "pending", "blocked"]
    assert await states(store, "sub_2") == ["pending", "blocked", "blocked"]
    assert await store.upkeep.promote_heads(NOW + 1, (uid, "sub_2", 3)) == (0, None)
    assert [one.event.sequence for one in await deliver_all(store, "sub_1", now=NOW + 1)] == [2, 3]


async def test_any_number_of_orphaned_deliveries_is_cancelled(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind subscriptions with pending deliveries, in slices, and with one more than a transaction takes."""
    monkeypatch.setattr("relay.store.deliveries.cancellation.CANCEL_CHUNK", 2)
    monkeypatch.setattr("relay.store.upkeep.CANCEL_CHUNK", 2)
    statement = upkeep.PENDING_SUBSCRIPTIONS
    monkeypatch.setattr(upkeep, "PENDING_SUBSCRIPTIONS", statement.replace(f"nth < {upkeep.SLICE}", "nth < 3"))
    monkeypatch.setattr(upkeep, "SLICE", 3)
    names = [f"sub_{nth}" for nth in range(8)]
    for name in names:
        types = ("ai.revor.job.queued", "ai.revor.job.running", "relay.source.down")
        await store.subscriptions.create(subscription(name, types=types))
    for nth in range(3):
        await store.jobs.record(poll(await track(store, f"job {nth}"), 0, "queued", "running"))
    await store.events.record(relay_event())
    await execute(store, "DELETE FROM subscriptions WHERE id IN ('sub_1', 'sub_7')")
    await store.subscriptions.create(subscription("sub_8"))
    await execute(store, "UPDATE deliveries SET state = 'blocked' WHERE subscription_id = 'sub_7' AND sequence = 1")
    search = Orphans(store.upkeep, lambda: NOW + 1, Signals())
    assert await search.run_once() > 0
    for name in ("sub_1", "sub_7"):
        assert set(await states(store, name)) == {"cancelled"}
        assert {row["reason"] for row in await deliveries(store, name)} == {"subscription_removed"}
    assert "cancelled" not in await states(store, "sub_6")
    assert await search.run_once() == 0
