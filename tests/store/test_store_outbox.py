"""The outbox: which subscriptions get a delivery, and which deliveries are leased at once."""

import pytest

from relay.core.records import Recorded
from relay.errors import StoreError
from relay.store.store import Store
from tests.support.store_kit import (
    NOW,
    SOURCE,
    callback_for,
    claim,
    counts,
    deliver_all,
    deliveries,
    lease,
    poll,
    relay_event,
    states,
    subscription,
    track,
)


async def targets(store: Store) -> list[str]:
    return sorted(row["subscription_id"] for row in await deliveries(store))


async def test_an_event_without_subscriptions_is_recorded(store: Store) -> None:
    uid = await track(store)
    assert await store.jobs.record(poll(uid, 0, "queued", lease=lease("sub_1"))) == Recorded()
    assert (await counts(store))["events"] == 1
    assert (await counts(store))["deliveries"] == 0


async def test_an_event_goes_to_each_matching_subscription_once(store: Store) -> None:
    for made in (
        subscription("sub_all"),
        subscription("sub_failed", types=("ai.revor.job.failed",)),
        subscription("sub_queued", types=("ai.revor.job.queued", "ai.revor.job.failed")),
        subscription("sub_source", source=SOURCE),
        subscription("sub_elsewhere", source=SOURCE + "/other"),
        subscription("sub_none", types=()),
        subscription("sub_relay", types=("relay.source.down",)),
    ):
        await store.subscriptions.create(made)
    await store.jobs.record(poll(await track(store), 0, "queued"))
    assert await targets(store) == ["sub_all", "sub_queued", "sub_source"]


async def test_a_chat_sink_is_not_told_that_it_was_disabled_itself(store: Store) -> None:
    types = ("relay.subscription.disabled", "relay.subscription.recovered")
    for id, incidents in (("sub_chat", "collapse"), ("sub_other", "both"), ("sub_webhook", "off")):
        await store.subscriptions.create(subscription(id, types=types, incidents=incidents))
    await store.events.record(relay_event(types[0], subject="sub_chat"))
    assert await targets(store) == ["sub_other", "sub_webhook"]
    await store.events.record(relay_event(types[0], subject="sub_webhook"))
    assert (await targets(store)).count("sub_webhook") == 2
    await store.events.record(relay_event(types[1], subject="sub_chat"))
    assert (await targets(store)).count("sub_chat") == 2


async def test_incidents_go_to_those_that_want_them_instead_of_failures(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_all"))
    await store.subscriptions.create(subscription("sub_off", types=("ai.revor.job.failed",)))
    await store.subscriptions.create(subscription("sub_chat", types=("ai.revor.job.failed",), incidents="collapse"))
    await store.subscriptions.create(subscription("sub_named", types=("relay.incident.opened",)))
    await store.events.record(relay_event("relay.incident.opened"))
    assert await targets(store) == ["sub_chat", "sub_named"]


@pytest.mark.parametrize("state", ["paused", "disabled", "pending"])
async def test_a_subscription_that_is_not_enabled_still_gets_its_rows(store: Store, state: str) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    await store.subscriptions.set_state("sub_1", state, NOW, "a reason")
    await store.jobs.record(poll(await track(store), 0, "queued"))
    assert await states(store) == ["pending"]


async def test_a_new_subscription_counts_from_its_own_commit_on(store: Store) -> None:
    uid = await track(store)
    await store.jobs.record(poll(uid, 0, "queued"))
    await store.subscriptions.create(subscription("sub_1"))
    await store.jobs.record(poll(uid, 1, "running"))
    assert [row["sequence"] for row in await deliveries(store)] == [2]


async def test_the_version_rises_with_each_committed_change_and_only_then(store: Store) -> None:
    seen = [store.subscriptions.version]

    def rose() -> bool:
        seen.append(store.subscriptions.version)
        return seen[-1] > seen[-2]

    await store.subscriptions.create(subscription("sub_1"))
    assert rose()
    with pytest.raises(StoreError, match=r"UNIQUE|unique constraint"):
        await store.subscriptions.create(subscription("sub_1"))
    assert not rose()
    for change in (
        store.subscriptions.replace(subscription("sub_1", description="other"), NOW),
        store.subscriptions.set_state("sub_1", "paused", NOW),
        store.secrets.add_secret("sub_1", "whsec_b", NOW),
        callback_for(store, "https://callback.example", "sub_2", NOW),
        store.subscriptions.remove("sub_1", NOW),
        store.subscriptions.remove("sub_2", NOW),
    ):
        await change
        assert rose()
    store.subscriptions.changed()
    assert rose()


async def test_nothing_is_leased_behind_an_open_delivery(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    uid = await track(store)
    await store.jobs.record(poll(uid, 0, "queued"))
    assert await store.jobs.record(poll(uid, 1, "running", lease=lease("sub_1"))) == Recorded()
    await deliver_all(store, "sub_1")
    taken = await store.jobs.record(poll(uid, 2, "succeeded", lease=lease("sub_1")))
    assert (len(taken.claimed), taken.due) == (1, False)
    assert (await store.jobs.record(poll(await track(store, "other"), 0, "queued"))).due


async def test_a_claimed_delivery_is_the_same_however_it_was_claimed(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    recorded = await store.jobs.record(poll(await track(store), 0, "queued", lease=lease("sub_1", token="mine")))
    (fresh,) = recorded.claimed
    await store.deliveries.release([fresh], NOW)
    (again,) = await claim(store, "sub_1", lease=lease(token="mine"))
    assert again == fresh


async def test_start_in_the_past_brings_the_events_recorded_since_in_order(store: Store) -> None:
    uid, other = await track(store), await track(store, "other")
    for nth in range(4):
        await store.jobs.record(poll(uid, nth, "running", now=NOW + nth))
    await store.jobs.record(poll(other, 0, "failed", now=NOW + 2))
    await store.events.record(relay_event(now=NOW + 3))
    created_at = NOW + 10
    await store.subscriptions.create(subscription("sub_1", start_at=NOW + 1, created_at=created_at))
    await store.subscriptions.create(
        subscription("sub_2", start_at=0.0, created_at=created_at, types=("ai.revor.job.failed",))
    )
    await store.subscriptions.create(subscription("sub_3", start_at=NOW + 99, created_at=created_at))
    mine = [(row["job_uid"], row["sequence"], row["state"]) for row in await deliveries(store, "sub_1")]
    assert sorted(mine) == sorted(
        [(uid, 2, "pending"), (uid, 3, "blocked"), (uid, 4, "blocked"), (other, 1, "pending")]
    )
    assert [row["job_uid"] for row in await deliveries(store, "sub_2")] == [other]
    assert await deliveries(store, "sub_3") == []
    await store.jobs.record(poll(uid, 4, "succeeded", now=NOW + 11))
    delivered = await deliver_all(store, "sub_1", now=NOW + 12)
    assert [one.event.sequence for one in delivered if one.order_key == uid] == [2, 3, 4, 5]
