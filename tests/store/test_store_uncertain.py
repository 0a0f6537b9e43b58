"""Deliveries that are uncertain or were skipped: listed, counted, sent again, and deleted like others that ended."""

from typing import Any

import pytest

from relay.core.deliveries.replay import ReplayRequest
from relay.core.records import Skipped
from relay.store.store import Store
from tests.support.store_kit import (
    NOW,
    claim,
    poll,
    result_of,
    states,
    subscription,
    track,
)


async def ended(store: Store, state: str, reason: str, *, sub: str = "sub_1", job: str = "a job") -> tuple[str, str]:
    """A delivery that ends in this state, with a follower. Returns its id and the job."""
    if await store.subscriptions.get(sub) is None:
        await store.subscriptions.create(subscription(sub))
    uid = await track(store, job)
    await store.jobs.record(poll(uid, 0, "queued"))
    (held,) = await claim(store, sub)
    await store.deliveries.record(result_of(held, state, reason=reason))
    return held.id, uid


@pytest.mark.parametrize(("state", "reason"), [("uncertain", "timeout"), ("cancelled", "unmatched")])
async def test_follower_of_a_delivery_that_ended_so_is_promoted(store: Store, state: str, reason: str) -> None:
    await store.subscriptions.create(subscription("sub_1"))
    uid = await track(store)
    await store.jobs.record(poll(uid, 0, "queued", "running"))
    (head,) = await claim(store, "sub_1")
    assert await states(store) == ["pending", "blocked"]
    await store.deliveries.record(result_of(head, state, reason=reason))
    assert await states(store) == [state, "pending"]
    (follower,) = await claim(store, "sub_1")
    assert follower.event.sequence == 2


@pytest.mark.parametrize("only", ["undelivered", "all", "uncertain", "cancelled", "dead", "delivered"])
@pytest.mark.parametrize(("state", "reason"), [("uncertain", "timeout"), ("cancelled", "unmatched")])
async def test_replay_of_undelivered_events_takes_it_too(store: Store, only: Any, state: str, reason: str) -> None:
    await ended(store, state, reason)
    request = ReplayRequest(id="rpl_1", subscription_id="sub_1", since=NOW - 9, until=NOW + 9, now=NOW + 10, only=only)
    replay = await store.replays.create(request)
    wanted = only in ("undelivered", "all", state)
    assert replay.matched == int(wanted)
    await store.replays.advance("rpl_1", "node", NOW + 10)
    assert await states(store) == ["pending" if wanted else state]
    if wanted:
        await store.replays.stop("rpl_1", NOW + 11)
        assert await states(store) == [state], "what was not sent is as it was"


async def test_counts_of_skipped_and_uncertain_deliveries(store: Store) -> None:
    assert await store.deliveries.skipped() == Skipped(count=0, since=None)
    assert await store.deliveries.uncertain() == 0
    for nth, (state, reason) in enumerate(
        [("cancelled", "unmatched"), ("cancelled", "ambiguous"), ("cancelled", "incident inc_1"), ("dead", "unmatched")]
    ):
        await ended(store, state, reason, job=f"job {nth}")
    await ended(store, "uncertain", "timeout", job="uncertain")
    assert await store.deliveries.skipped("sub_1") == Skipped(count=2, since=NOW)
    assert await store.deliveries.skipped("sub_2") == Skipped(count=0, since=None)
    assert await store.deliveries.skipped() == Skipped(count=2, since=NOW)
    assert await store.deliveries.uncertain() == 1
