"""A clock that is set back an hour: what is due at once stays due, whoever takes it. Only a retry that was planned
waits for its time by the new clock."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from relay.core.deliveries.bundles import Bundle, Room
from relay.core.deliveries.pulls import lease_token
from relay.core.deliveries.replay import ReplayRequest
from relay.store.deliveries.claims import ClaimRequest
from relay.store.deliveries.pulls import Settlement
from relay.store.store import Store
from tests.support.store_kit import NOW, claim, claim_bundle, lease, poll, result_of, subscription, track

BACK = NOW - 3_600.0
DIGEST = Bundle(max_events=50, wait_seconds=300.0, max_bytes=1_000_000)
BROKER = Bundle(max_events=50, wait_seconds=0.0, max_bytes=1_000_000, own_outcomes=True)
SUB = "sub_1"

Way = Callable[[Store], Awaitable[int]]
"""Takes what is due by the clock that was set back. Returns how many deliveries."""


async def by_claim(store: Store) -> int:
    return len(await claim(store, SUB, now=BACK))


async def by_bundle(store: Store, bundle: Bundle = DIGEST) -> int:
    found = await claim_bundle(store, SUB, (0, 1, 2), bundle, Room(), 1, BACK, lease(until=BACK + 45))
    return sum(len(request) for request in found.requests)


async def by_broker(store: Store) -> int:
    return await by_bundle(store, BROKER)


def pull_of(now: float) -> ClaimRequest:
    token = lease_token(SUB, now=now, until=now + 45, nonce=str(now))
    bundle = Bundle(max_events=50, wait_seconds=0.0, max_bytes=1_000_000)
    return ClaimRequest(subscription_id=SUB, bundle=bundle, now=now, lease=lease(token=token, until=now + 45))


async def by_pull(store: Store) -> int:
    return len((await store.pulls.claim(pull_of(BACK))).claimed)


async def one_job(store: Store, *kinds: str, **fields: Any) -> str:
    await store.subscriptions.create(subscription(SUB, **fields))
    uid = await track(store)
    await store.jobs.record(poll(uid, 0, *(kinds or ("running",))))
    return uid


async def first_attempt(store: Store) -> None:
    await one_job(store)


async def follower_of_a_delivered_one(store: Store) -> None:
    await one_job(store, "queued", "running")
    (head,) = await claim(store, SUB)
    await store.deliveries.record(result_of(head))


async def follower_of_a_dead_one(store: Store) -> None:
    await one_job(store, "queued", "running")
    (head,) = await claim(store, SUB)
    await store.deliveries.record(result_of(head, "dead", reason="http_400"))


async def lease_of_a_node_that_was_killed(store: Store) -> None:
    await one_job(store)
    await claim(store, SUB)
    await store.recover_from_crash(NOW)


async def given_back_by_a_program(store: Store) -> None:
    await one_job(store)
    (one,) = (await store.pulls.claim(pull_of(NOW))).claimed
    await store.pulls.settle(Settlement(subscription_id=SUB, ids=(one.id,), judge=None, fails=True, now=NOW))


async def retried_by_hand(store: Store) -> None:
    await one_job(store)
    (one,) = await claim(store, SUB)
    await store.deliveries.record(result_of(one, "dead", reason="http_400"))
    await store.deliveries.retry(one.id, NOW)


async def brought_forward_by_hand(store: Store) -> None:
    await one_job(store)
    (one,) = await claim(store, SUB)
    await store.deliveries.record(result_of(one, "pending", due_at=NOW + 600))
    await store.deliveries.retry(one.id, NOW)


async def replayed(store: Store) -> None:
    await retried_by_hand(store)
    (one,) = await claim(store, SUB)
    await store.deliveries.record(result_of(one))
    request = ReplayRequest(id="rpl_1", subscription_id=SUB, since=0.0, until=NOW + 9, now=NOW, only="all")
    await store.replays.advance((await store.replays.create(request)).id, "node", NOW)


async def joined_by_a_replay(store: Store) -> None:
    await one_job(store)
    (one,) = await claim(store, SUB)
    await store.deliveries.record(result_of(one, "pending", due_at=NOW + 600))
    request = ReplayRequest(id="rpl_1", subscription_id=SUB, since=0.0, until=NOW + 9, now=NOW, only="all")
    await store.replays.advance((await store.replays.create(request)).id, "node", NOW)


async def past_event_of_a_new_subscription(store: Store) -> None:
    uid = await track(store)
    await store.jobs.record(poll(uid, 0, "running"))
    await store.subscriptions.create(subscription(SUB, start_at=NOW - 9))


async def its_sink_is_back(store: Store) -> None:
    await one_job(store)
    (one,) = await claim(store, SUB)
    await store.deliveries.record(result_of(one, "pending", due_at=NOW + 600))
    await store.deliveries.expedite(SUB, NOW)


async def its_subscription_was_disabled(store: Store) -> None:
    await one_job(store)
    (one,) = await claim(store, SUB)
    await store.deliveries.record(result_of(one, "pending", disable="410 Gone"))
    await store.subscriptions.set_state(SUB, "enabled", NOW)


DUE = (
    first_attempt,
    follower_of_a_delivered_one,
    follower_of_a_dead_one,
    lease_of_a_node_that_was_killed,
    given_back_by_a_program,
    retried_by_hand,
    brought_forward_by_hand,
    replayed,
    joined_by_a_replay,
    past_event_of_a_new_subscription,
    its_sink_is_back,
    its_subscription_was_disabled,
)
WAYS = (by_claim, by_bundle, by_broker, by_pull)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("make", DUE, ids=lambda make: make.__name__)
async def test_what_is_due_at_once_is_due_by_a_clock_that_was_set_back(
    store: Store, make: Callable[[Store], Awaitable[None]], way: Way
) -> None:
    await make(store)
    (backlog,) = await store.deliveries.backlog()
    assert min(at for at in backlog.due_at if at is not None) <= BACK, "the dispatcher looks"
    arrival = (await store.pulls.arrivals([SUB]))[SUB]
    assert (arrival.due_at or 0.0) <= BACK, "a program that waits is told"
    assert await way(store) == 1


async def test_planned_retry_waits_for_its_time(store: Store) -> None:
    await one_job(store)
    (one,) = await claim(store, SUB)
    await store.deliveries.record(result_of(one, "pending", due_at=NOW + 60))
    for way in WAYS:
        assert await way(store) == 0
    assert len(await claim(store, SUB, now=NOW + 60)) == 1
