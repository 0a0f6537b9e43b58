"""A subscription's states: disabled, probed with its oldest delivery by one node, enabled again, each with time and
reason. For two nodes see `test_postgres_nodes`."""

from dataclasses import replace
from typing import Any

import pytest

from relay.core.deliveries.delivery import Claimed
from relay.core.records import AttemptResult
from relay.core.subscriptions.subscription import Subscription
from relay.store.deliveries.claims import EXPEDITE_CHUNK
from relay.store.store import Store
from tests.support.store_kit import (
    NOW,
    claim,
    claim_probe,
    execute,
    lease,
    poll,
    registration,
    relay_event,
    result_of,
    rows,
    states,
    subscription,
    together,
)

MINUTE = NOW + 60.0


async def disable(store: Store, *due: float, probe_at: float | None = MINUTE) -> list[str]:
    """A disabled subscription with one event of a job at each of these times; the first one's attempt failed.
    Returns the jobs."""
    await store.subscriptions.create(subscription("sub_1"))
    batch = [registration(f"job {nth}") for nth, _ in enumerate(due)]
    await store.jobs.register_many(batch)
    for one, moment in zip(batch, due, strict=True):
        await store.jobs.record(poll(one.job.uid, 0, "queued", now=moment))
    (first,) = await claim(store, "sub_1", 1)
    await store.deliveries.record(
        result_of(first, "pending", due_at=NOW + 86_400, disable="only failures", probe_at=probe_at)
    )
    return [one.job.uid for one in batch]


async def probed(store: Store, now: float = MINUTE) -> Claimed:
    found = (await claim_probe(store, "sub_1", now, lease(until=now + 45))).claimed
    assert found is not None
    return found


def recovery(probe: Claimed, now: float = MINUTE) -> AttemptResult:
    return result_of(probe, now=now, events=(relay_event("relay.subscription.recovered", now=now),))


async def the_one(store: Store) -> Subscription:
    found = await store.subscriptions.get("sub_1")
    assert found is not None
    return found


async def recoveries(store: Store) -> int:
    return [event.type for _, event in (await store.events.tail(0)).events].count("relay.subscription.recovered")


async def test_a_probe_is_the_oldest_delivery_although_it_waits_for_a_later_attempt(store: Store) -> None:
    uids = await disable(store, NOW - 3, NOW - 2, NOW)
    probe = await probed(store)
    assert (probe.order_key, probe.probe, probe.made_count) == (uids[0], True, 1)


async def test_there_is_no_probe_before_its_time_and_one_in_its_time(store: Store) -> None:
    await disable(store, NOW - 3, NOW - 2)
    early = await claim_probe(store, "sub_1", MINUTE - 1, lease())
    assert (early.claimed, early.next_at) == (None, MINUTE)
    first, second = await together(
        store,
        claim_probe(store, "sub_1", MINUTE, lease(until=MINUTE + 45)),
        claim_probe(store, "sub_1", MINUTE, lease(until=MINUTE + 50)),
    )
    assert first.claimed is not None
    assert (second.claimed, second.next_at) == (None, MINUTE + 45)


async def test_probe_cut_off_by_a_crash_is_repeated_when_its_lease_ends(store: Store) -> None:
    uids = await disable(store, NOW - 3, NOW - 2)
    first = await probed(store)
    assert (await claim_probe(store, "sub_1", MINUTE + 44, lease())).claimed is None
    again = await probed(store, MINUTE + 45)
    assert (again.id, again.order_key) == (first.id, uids[0])
    assert not (await store.deliveries.record(recovery(first)))[0].kept
    assert (await the_one(store)).state == "disabled"


async def test_a_probe_that_fails_changes_nothing_but_the_next_turn(store: Store) -> None:
    await disable(store, NOW - 3, NOW - 2)
    before = await the_one(store)
    probe = await probed(store)
    version = store.subscriptions.version
    mark = result_of(probe, "pending", now=MINUTE, due_at=NOW - 3, probe_at=MINUTE + 120)
    assert (await store.deliveries.record(mark))[0].kept
    assert store.subscriptions.version == version
    assert await the_one(store) == replace(before, probe_at=MINUTE + 120)
    (row,) = await rows(store, "SELECT * FROM deliveries WHERE id = :id", id=probe.id)
    assert (row["state"], row["attempt_count"], row["made_count"], row["due_at"]) == ("pending", 1, 2, NOW - 3)


@pytest.mark.parametrize(
    ("state", "reason"), [("cancelled", "unmatched"), ("uncertain", "timeout"), ("delivered", "dry_run")]
)
async def test_probe_that_proves_nothing_leaves_the_next_event_to_the_next_probe(
    store: Store, state: str, reason: str
) -> None:
    uids = await disable(store, NOW - 3, NOW - 2)
    probe = await probed(store)
    assert (await store.deliveries.record(result_of(probe, state, now=MINUTE, reason=reason, probe_at=MINUTE + 60)))[
        0
    ].kept
    found = await the_one(store)
    assert (found.state, found.probe_at, found.state_reason) == ("disabled", MINUTE + 60, "only failures")
    assert await recoveries(store) == 0
    assert (await claim_probe(store, "sub_1", MINUTE + 59, lease())).claimed is None
    following = await probed(store, MINUTE + 60)
    assert following.order_key == uids[1]


async def test_a_sink_that_a_probe_finds_gone_is_not_tried_again(store: Store) -> None:
    await disable(store, NOW)
    probe = await probed(store)
    events = (relay_event("relay.subscription.disabled"),)
    await store.deliveries.record(
        result_of(probe, "pending", now=MINUTE, due_at=NOW, disable="http_410", events=events)
    )
    found = await the_one(store)
    assert (found.state, found.state_since, found.disabled_reason) == ("disabled", NOW, "http_410")
    assert found.probe_at is None
    assert (await claim_probe(store, "sub_1", NOW + 1e9, lease())).next_at is None
    types = [event.type for _, event in (await store.events.tail(0)).events]
    assert "relay.subscription.disabled" not in types


async def test_a_probe_that_arrives_enables_it_and_says_so_in_one_transaction(store: Store) -> None:
    uids = await disable(store, NOW - 3, NOW - 2)
    await store.subscriptions.set_sink_health(
        "sub_1", failing_since=NOW - 9, failing_reason="http_500", paused_until=NOW + 3_600
    )
    probe = await probed(store)
    before = store.database.commit_count, store.subscriptions.version
    assert (await store.deliveries.record(recovery(probe)))[0].kept
    assert store.database.commit_count == before[0] + 1
    assert store.subscriptions.version > before[1]
    found = await the_one(store)
    assert (found.state, found.state_since, found.state_reason) == ("enabled", MINUTE, "recovered")
    assert (found.failing_since, found.failing_reason, found.paused_until) == (None, None, None)
    assert (found.probe_at, found.drain_since) == (None, MINUTE)
    assert await recoveries(store) == 1
    assert [one.order_key for one in await claim(store, "sub_1")] == [uids[1]]


async def test_two_probes_of_one_group_recover_once(store: Store) -> None:
    await disable(store, NOW - 3, NOW - 2)
    first = await probed(store)
    await execute(store, "UPDATE subscriptions SET probe_at = :now", now=MINUTE)
    second = await probed(store)
    assert first.id != second.id
    await together(store, *(store.deliveries.record(recovery(one)) for one in (first, second)))
    assert await recoveries(store) == 1
    assert await states(store) == ["delivered"] * 2


async def test_waiting_retries_are_expedited_in_chunks_oldest_first(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    count = EXPEDITE_CHUNK + 5
    batch = [registration(f"job {nth}") for nth in range(count)]
    await store.jobs.register_many(batch)
    moments = {one.job.uid: NOW - count + nth for nth, one in enumerate(batch)}
    await together(store, *(store.jobs.record(poll(uid, 0, "queued", now=now)) for uid, now in moments.items()))
    await execute(store, "UPDATE deliveries SET priority = 1, due_at = :later", later=NOW + 9_000)
    held = await claim(store, "sub_1", 1, now=NOW + 9_000)
    assert await store.deliveries.expedite("sub_1", NOW)
    assert not await store.deliveries.expedite("sub_1", NOW)
    taken = await claim(store, "sub_1", count)
    oldest = sorted((uid for uid in moments if uid != held[0].order_key), key=lambda uid: moments[uid])
    assert [one.order_key for one in taken] == oldest


async def test_due_first_attempts_are_demoted_in_chunks_and_keep_their_order(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    await store.subscriptions.create(subscription("sub_2"))
    count = EXPEDITE_CHUNK + 5
    batch = [registration(f"job {nth}") for nth in range(count)]
    await store.jobs.register_many(batch)
    moments = {one.job.uid: NOW - count + nth for nth, one in enumerate(batch)}
    await together(store, *(store.jobs.record(poll(uid, 0, "queued", now=now)) for uid, now in moments.items()))
    held = await claim(store, "sub_1", 1)
    await execute(
        store, "UPDATE deliveries SET due_at = :later WHERE job_uid = :uid", later=NOW + 9, uid=batch[-1].job.uid
    )

    async def fresh() -> list[str]:
        found = await rows(store, "SELECT job_uid FROM deliveries WHERE subscription_id = 'sub_1' AND priority = 0")
        return sorted(row["job_uid"] for row in found)

    assert await store.deliveries.demote("sub_1", NOW)
    assert len(await fresh()) == count - EXPEDITE_CHUNK
    assert not await store.deliveries.demote("sub_1", NOW)
    assert await fresh() == sorted([str(held[0].order_key), batch[-1].job.uid]), "one is on its way, one not due"
    assert len(await rows(store, "SELECT id FROM deliveries WHERE subscription_id = 'sub_2' AND priority = 0")) == count
    kept = await fresh()
    oldest = sorted((uid for uid in moments if uid not in kept), key=lambda uid: moments[uid])
    assert [one.order_key for one in await claim(store, "sub_1", count)] == oldest


@pytest.mark.parametrize("change", ["sink", "headers", "method", "secret"])
async def test_with_new_credentials_a_disabled_one_is_tried_at_once(store: Store, change: str) -> None:
    await disable(store, NOW)
    before = await the_one(store)
    values: dict[str, Any] = {
        "sink": "https://new.example/hook",
        "headers": (("Authorization", "Bearer new"),),
        "method": "PUT",
    }
    if change == "secret":
        await store.secrets.add_secret("sub_1", "whsec_new", NOW + 5, old_expire_at=NOW + 9)
    else:
        await store.subscriptions.replace(replace(before, **{change: values[change]}), NOW + 5)
    found = await the_one(store)
    assert (found.state, found.state_since, found.probe_at) == ("disabled", NOW, NOW + 5)


@pytest.mark.parametrize("change", ["sink", "secret"])
async def test_one_that_is_gone_waits_for_resume_whatever_changes(store: Store, change: str) -> None:
    await disable(store, NOW, probe_at=None)
    if change == "secret":
        await store.secrets.add_secret("sub_1", "whsec_new", NOW + 5)
    else:
        await store.subscriptions.replace(replace(await the_one(store), sink="https://new.example"), NOW + 5)
    found = await the_one(store)
    assert (found.state, found.probe_at) == ("disabled", None)
