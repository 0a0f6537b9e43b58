"""Claims, leases and attempt results."""

import pytest

from relay.core.deliveries.delivery import at_once
from relay.core.records import AttemptResult, Lease
from relay.errors import StoreError
from relay.store.deliveries.claims import Backlog
from relay.store.store import Store
from tests.support.store_kit import (
    NOW,
    attempt,
    claim,
    counts,
    deliveries,
    execute,
    lease,
    poll,
    record_one,
    registration,
    relay_event,
    result_of,
    states,
    subscription,
    together,
)


@pytest.fixture(autouse=True)
async def _subscriptions(store: Store) -> None:
    for name in ("sub_1", "sub_2"):
        await store.subscriptions.create(subscription(name))


async def heads(store: Store, *due: float) -> list[str]:
    """The uids of jobs with one event each, due for both subscriptions at these times."""
    batch = [registration(f"job due {moment}") for moment in due]
    await store.jobs.register_many(batch)
    for one, moment in zip(batch, due, strict=True):
        await store.jobs.record(poll(one.job.uid, 0, "queued", now=moment))
    return [one.job.uid for one in batch]


async def postpone(store: Store, uid: str, until: float) -> None:
    await execute(store, "UPDATE deliveries SET due_at = :until WHERE job_uid = :uid", until=until, uid=uid)


async def test_claim_takes_the_longest_due_up_to_its_limit(store: Store) -> None:
    uids = await heads(store, NOW - 1, NOW - 3, NOW - 2, NOW)
    await postpone(store, uids[3], NOW + 1)
    assert [one.order_key for one in await claim(store, "sub_1", 2)] == [uids[1], uids[2]]
    assert [one.order_key for one in await claim(store, "sub_1", 2)] == [uids[0]]
    assert await claim(store, "sub_1") == ()
    assert [one.order_key for one in await claim(store, "sub_1", now=NOW + 1)] == [uids[3]]


async def test_first_attempts_go_before_retries_and_retries_before_manual_ones(store: Store) -> None:
    manual, retry = await heads(store, NOW - 30, NOW - 20)
    for one in await claim(store, "sub_1"):
        await store.deliveries.record(
            result_of(one, "delivered" if one.order_key == manual else "pending", due_at=NOW - 10)
        )
        if one.order_key == manual:
            await store.deliveries.retry(one.id, NOW - 15)
    (fresh,) = await heads(store, NOW)
    assert [one.order_key for one in await claim(store, "sub_1")] == [fresh, retry, manual]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_lease_survives_a_machine_clock_that_is_set_forward(store: Store) -> None:
    """Due times are by the machine's clock, leases by one that cannot be set."""
    await heads(store, NOW)
    (first,) = await claim(store, "sub_1", lease=Lease(token="first", until=NOW + 45, taken_at=NOW))
    later = NOW + 3_600
    early = Lease(token="early", until=NOW + 46, taken_at=NOW + 1)
    assert await claim(store, "sub_1", now=later, lease=early) == ()
    expired = Lease(token="expired", until=NOW + 91, taken_at=NOW + 46)
    assert [one.id for one in await claim(store, "sub_1", now=later, lease=expired)] == [first.id]


async def test_holder_of_an_expired_and_retaken_lease_cannot_record(store: Store) -> None:
    await heads(store, NOW)
    (first,) = await claim(store, "sub_1", lease=lease(until=NOW + 45))
    assert await claim(store, "sub_1", now=NOW + 44) == ()
    (second,) = await claim(store, "sub_1", now=NOW + 45)
    assert second.id == first.id
    before = await deliveries(store)
    assert not (await store.deliveries.record(result_of(first, "dead", disable="gone", events=(relay_event(),))))[
        0
    ].kept
    assert await deliveries(store) == before
    assert (await counts(store))["attempts"] == 0
    assert (await counts(store))["events"] == 1
    assert (await store.deliveries.record(result_of(second)))[0].kept


async def test_holder_of_an_expired_lease_may_record_until_it_is_retaken(store: Store) -> None:
    await heads(store, NOW)
    (one,) = await claim(store, "sub_1", lease=lease(until=NOW + 45))
    assert (await store.deliveries.record(result_of(one, now=NOW + 99)))[0].kept


async def test_second_result_is_refused(store: Store) -> None:
    await heads(store, NOW)
    (one,) = await claim(store, "sub_1")
    marks = result_of(one, "pending", due_at=NOW), result_of(one, "dead")
    results = await together(store, *(record_one(store, mark) for mark in marks))
    assert [result.kept for result in results] == [True, False]
    assert not (await store.deliveries.record(result_of(one, now=NOW + 1)))[0].kept
    assert (await states(store, "sub_1"), (await counts(store))["attempts"]) == (["pending"], 1)


async def test_only_the_failing_result_of_a_group_is_undone(store: Store) -> None:
    await heads(store, NOW - 2, NOW - 1, NOW)
    claimed = await claim(store, "sub_1")
    refused = float("nan")  # no number in JSON, so the column stays empty, which it may not
    marks = [result_of(one, attempt=attempt(duration_ms=refused if n == 1 else 1.0)) for n, one in enumerate(claimed)]
    results = await together(store, *(record_one(store, mark) for mark in marks))
    assert [isinstance(result, StoreError) for result in results] == [False, True, False]
    assert sorted(await states(store, "sub_1")) == ["delivered", "delivered", "pending"]
    assert (await counts(store))["attempts"] == 2


async def test_released_deliveries_are_due_at_once_and_untried(store: Store) -> None:
    await heads(store, NOW - 1, NOW)
    claimed = await claim(store, "sub_1")
    await store.deliveries.release(claimed, NOW + 1)
    again = await claim(store, "sub_1", now=NOW + 1)
    assert {one.id for one in again} == {one.id for one in claimed}
    assert {(one.attempt_count, one.made_count) for one in again} == {(0, 0)}
    await store.deliveries.release(claimed, NOW + 2)  # a lease lost meanwhile
    await store.deliveries.release([], NOW + 2)
    assert await claim(store, "sub_1", now=NOW + 2) == ()


async def test_backlog_says_when_each_priority_is_due_next(store: Store) -> None:
    assert await store.deliveries.backlog() == []
    await heads(store, NOW - 3, NOW - 2)
    first, second = await claim(store, "sub_1")
    await store.deliveries.record(result_of(first, "pending", due_at=NOW + 5))
    await store.deliveries.record(result_of(second))
    await store.deliveries.retry(second.id, NOW + 7)
    await store.subscriptions.set_state("sub_2", "paused", NOW)
    assert await store.deliveries.backlog() == [
        Backlog(subscription_id="sub_1", due_at=(None, NOW + 5, at_once(NOW + 7))),
        Backlog(subscription_id="sub_2", due_at=(at_once(NOW - 3), None, None)),
    ]
    assert (await store.deliveries.pending()).count == 4


async def test_result_that_disables_a_subscription_emits_one_event(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_relay", types=("relay.subscription.disabled",)))
    await heads(store, NOW - 2, NOW - 1, NOW)

    def gone(one: object) -> AttemptResult:
        events = (relay_event("relay.subscription.disabled"), relay_event("relay.delivery.expired"))
        return result_of(one, "pending", due_at=NOW, disable="410 Gone", events=events)  # type: ignore[arg-type]

    version = store.subscriptions.version
    marks = [gone(one) for one in await claim(store, "sub_1")]
    await together(store, *(record_one(store, mark) for mark in marks[:2]))
    assert store.subscriptions.version > version
    assert (await store.deliveries.record(marks[2]))[0].kept
    disabled = await store.subscriptions.get("sub_1")
    assert disabled is not None
    assert (disabled.state, disabled.disabled_reason) == ("disabled", "410 Gone")
    types = [event.type for _, event in (await store.events.tail(0)).events]
    assert types.count("relay.subscription.disabled") == 1
    assert types.count("relay.delivery.expired") == 3
    assert await states(store, "sub_relay") == ["pending"]
    assert await states(store, "sub_1") == ["pending"] * 3
    await store.subscriptions.set_state("sub_1", "enabled", NOW)
    enabled = await store.subscriptions.get("sub_1")
    assert enabled is not None
    assert (enabled.state, enabled.disabled_reason) == ("enabled", None)


async def test_result_claims_the_next_due_delivery_of_its_subscription(store: Store) -> None:
    uids = await heads(store, NOW - 3, NOW - 2, NOW)
    await postpone(store, uids[2], NOW + 9)
    (first,) = await claim(store, "sub_1", 1)
    before = store.database.commit_count
    (marked,) = await store.deliveries.record(result_of(first, next_lease=lease(token="next")))
    assert store.database.commit_count == before + 1
    (following,) = marked.next
    assert (following.order_key, following.subscription_id, following.lease_token) == (uids[1], "sub_1", "next")
    assert (await store.deliveries.record(result_of(following, next_lease=lease())))[0].next == ()


async def test_result_claims_as_many_as_requested_and_due(store: Store) -> None:
    uids = await heads(store, *(NOW - n for n in range(6, -1, -1)))
    await postpone(store, uids[-1], NOW + 9)
    await store.jobs.record(poll(uids[0], 1, "running"))
    first, second = await claim(store, "sub_1", 2)
    results = await together(
        store,
        record_one(store, result_of(first, next_lease=lease(), next_count=3)),
        record_one(store, result_of(second, next_lease=lease())),
    )
    assert [len(result.next) for result in results] == [3, 1]
    taken = {one.order_key for result in results for one in result.next}
    assert taken == {uids[0], uids[2], uids[3], uids[4]}
    assert len(await claim(store, "sub_1")) == 1


async def test_results_of_one_group_claim_by_priority_and_never_the_same(store: Store) -> None:
    await heads(store, *(NOW - n for n in range(10, 4, -1)))
    one, two, three, four = await claim(store, "sub_1", 4)
    (other,) = await claim(store, "sub_2", 1)
    await store.deliveries.record(result_of(four, "pending", due_at=NOW - 8))  # a retry, due before the fresh ones
    marks = [result_of(m, next_lease=lease()) for m in (one, two, three, other)]
    results = await together(store, *(record_one(store, mark) for mark in marks))
    taken = [one for result in results for one in result.next]
    assert len({next_one.id for next_one in taken}) == 4
    assert [next_one.subscription_id for next_one in taken] == ["sub_1", "sub_1", "sub_1", "sub_2"]
    assert [next_one.made_count for next_one in taken] == [0, 0, 1, 0]


async def test_no_claim_for_a_subscription_disabled_in_the_same_group(store: Store) -> None:
    await heads(store, NOW - 3, NOW - 2, NOW - 1)
    one, two = await claim(store, "sub_1", 2)
    results = await together(
        store,
        record_one(store, result_of(one, next_lease=lease(), events=(relay_event(),))),  # PostgreSQL: not beside it
        record_one(store, result_of(two, "pending", due_at=NOW, disable="410 Gone")),
    )
    assert [result.next for result in results] == [(), ()]
