"""Replays: what they send again, in which order, how many at once, and the effect of a crash, a stop or a removal."""

from collections.abc import Awaitable, Callable
from dataclasses import replace as changed
from typing import Any

import pytest

from relay.core.deliveries.replay import Replay, ReplayRequest
from relay.ids import new_id
from relay.store.deliveries import replays
from relay.store.store import Store
from tests.support.store_kit import (
    NOW,
    callback_for,
    claim,
    deliver_all,
    deliveries,
    execute,
    lease,
    poll,
    registration,
    relay_event,
    result_of,
    states,
    subscription,
    together,
    track,
)

KINDS = ("queued", "running", "failed")


async def job(store: Store, name: str = "a job", *kinds: str, now: float = NOW) -> str:
    uid = await track(store, name)
    await store.jobs.record(poll(uid, 0, *(kinds or KINDS), now=now))
    return uid


async def kill_all(store: Store, subscription_id: str = "sub_1", *, now: float = NOW, reason: str = "http_500") -> int:
    """Every open delivery of a subscription becomes dead."""
    count = 0
    while claimed := await claim(store, subscription_id, now=now):
        for one in claimed:
            assert (await store.deliveries.record(result_of(one, "dead", now=now, reason=reason)))[0].kept
            count += 1
    return count


async def replay(store: Store, subscription_id: str | None = "sub_1", **fields: Any) -> Replay:
    values: dict[str, Any] = {"since": NOW - 1000, "until": NOW + 1000, "now": NOW}
    values |= fields
    return await store.replays.create(ReplayRequest(id=new_id("rpl", NOW), subscription_id=subscription_id, **values))


async def advance(store: Store, replay_id: str, now: float = NOW, holder: str = "node 1") -> None:
    """Advances the replay as far as possible at present."""
    while (await store.replays.advance(replay_id, holder, now)).more:
        pass


async def finish(store: Store, replay_id: str, *subscription_ids: str, now: float = NOW) -> list[tuple[str, int]]:
    """Runs the replay to its end with sinks that accept everything. Returns the jobs and sequences delivered."""
    got: list[tuple[str, int]] = []
    for _ in range(1_000):
        await advance(store, replay_id, now)
        for name in subscription_ids or ("sub_1",):
            got += [(str(one.order_key), one.event.sequence or 0) for one in await deliver_all(store, name, now=now)]
        found = await store.replays.get(replay_id)
        assert found is not None
        if found.state != "running":
            return got
    raise AssertionError("it does not end")


@pytest.fixture(autouse=True)
async def _subscription(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1"))


async def test_it_sends_what_was_not_delivered_once_and_in_order(store: Store) -> None:
    uids = [await job(store, f"job {n}") for n in range(3)]
    delivered = await job(store, "delivered")
    (head,) = [one for one in await claim(store, "sub_1") if one.order_key == delivered]
    await store.deliveries.record(result_of(head))
    await store.recover_from_crash(NOW)
    await kill_all(store)
    made = await replay(store)
    assert (made.state, made.matched, made.queued, made.left) == ("running", 11, 0, 11)
    got = await finish(store, made.id)
    assert {uid: [sequence for one, sequence in got if one == uid] for uid in {*uids, delivered}} == {
        **{uid: [1, 2, 3] for uid in uids},
        delivered: [2, 3],
    }
    ended = await store.replays.get(made.id)
    assert ended is not None
    assert (ended.state, ended.queued, ended.delivered, ended.dead, ended.left) == ("done", 11, 11, 0, 0)
    assert ended.ended_at == NOW
    assert set(await states(store)) == {"delivered"}
    assert all(row["replay"] is None and row["was"] is None for row in await deliveries(store))
    assert await store.replays.due("node 1", NOW) == []


async def test_the_same_row_goes_again_with_a_fresh_schedule_and_its_attempts(store: Store) -> None:
    await job(store, "a job", "failed")
    (first,) = await claim(store, "sub_1")
    await store.deliveries.record(result_of(first, "pending", due_at=NOW))
    (second,) = await claim(store, "sub_1")
    await store.deliveries.record(result_of(second, "dead", reason="http_500"))
    made = await replay(store)
    await advance(store, made.id)
    (again,) = await claim(store, "sub_1")
    assert (again.id, again.attempt_count, again.made_count, again.priority) == (first.id, 0, 2, 2)
    await store.deliveries.record(result_of(again))
    shown = await store.deliveries.get(first.id)
    assert shown is not None
    assert [attempt.number for attempt in shown.attempts] == [1, 2, 3]


async def test_events_from_before_the_subscription_get_a_delivery(store: Store) -> None:
    uid = await job(store)
    await store.events.record(relay_event())
    await store.subscriptions.create(subscription("sub_late"))
    assert await states(store, "sub_late") == []
    made = await replay(store, "sub_late")
    assert made.matched == 3
    assert await finish(store, made.id, "sub_late") == [(uid, 1), (uid, 2), (uid, 3)]
    assert await states(store, "sub_late") == ["delivered"] * 3
    again = await replay(store, "sub_late")
    assert (again.state, again.matched, again.ended_at) == ("done", 0, NOW)


@pytest.mark.parametrize(
    ("fields", "matched"),
    [
        ({"types": ("ai.revor.job.failed",)}, 4),
        ({"since": NOW + 1}, 9),
        ({"since": NOW + 1, "until": NOW + 3}, 6),
        ({"until": NOW}, 0),
        ({"since": NOW + 2, "until": NOW + 2}, 0),
        ({"only": "all"}, 12),
    ],
)
async def test_which_events_it_is_for(store: Store, fields: dict[str, Any], matched: int) -> None:
    for nth in range(4):
        await job(store, f"job {nth}", now=NOW + nth)
    if fields.get("only") == "all":
        await deliver_all(store, "sub_1", now=NOW + 9)
        assert (await replay(store)).matched == 0
    else:
        await kill_all(store, now=NOW + 9)
    made = await replay(store, **fields)
    assert made.matched == matched
    assert len(await finish(store, made.id, now=NOW + 9) if matched else []) == matched


async def test_a_callback_gets_the_events_of_its_jobs(store: Store) -> None:
    callback = await callback_for(store, "https://callback.example", "sub_callback", NOW)
    mine = await track(store, "mine", callback_subscription_id=callback)
    await job(store, "another")
    await store.jobs.record(poll(mine, 0, *KINDS))
    await kill_all(store, callback)
    made = await replay(store, callback)
    assert made.matched == 3
    assert await finish(store, made.id, callback) == [(mine, 1), (mine, 2), (mine, 3)]


async def test_new_events_go_before_replayed_ones(store: Store) -> None:
    old = await job(store, "old")
    await kill_all(store)
    made = await replay(store)
    await advance(store, made.id)
    fresh = await job(store, "fresh", now=NOW + 5)
    await store.jobs.record(poll(old, 3, "running", now=NOW + 5))
    first, second, third = await claim(store, "sub_1", now=NOW + 5)
    assert {(one.order_key, one.event.sequence) for one in (first, second)} == {(fresh, 1), (old, 4)}
    assert (third.order_key, third.event.sequence, third.priority) == (old, 1, 2)
    (marked,) = await store.deliveries.record(result_of(third, now=NOW + 5, next_lease=lease()))
    assert [one.event.sequence for one in marked.next] == [2]
    await store.jobs.record(poll(fresh, 3, "running", now=NOW + 5))
    other = await job(store, "other", "queued", now=NOW + 5)
    (marked,) = await store.deliveries.record(result_of(marked.next[0], now=NOW + 5, next_lease=lease()))
    assert [(one.order_key, one.priority) for one in marked.next] == [(other, 0)]  # not its own follower


async def test_follower_waits_for_the_previous_one_whatever_its_outcome(store: Store) -> None:
    await job(store)
    await kill_all(store)
    made = await replay(store)
    await advance(store, made.id)
    assert await states(store) == ["pending", "blocked", "blocked"]
    (one,) = await claim(store, "sub_1")
    await store.deliveries.record(result_of(one, "pending", due_at=NOW + 5))
    assert await claim(store, "sub_1") == ()
    ids = [row["id"] for row in await deliveries(store)]
    shown = await store.deliveries.get(ids[2])
    assert shown is not None
    assert shown.waiting_for == ids[0]
    (one,) = await claim(store, "sub_1", now=NOW + 5)
    await store.deliveries.record(result_of(one, "dead", now=NOW + 5))
    assert await states(store) == ["dead", "pending", "blocked"]
    await finish(store, made.id, now=NOW + 5)
    found = await store.replays.get(made.id)
    assert found is not None
    assert (found.state, found.delivered, found.dead, found.left) == ("done", 2, 1, 0)


async def test_open_delivery_keeps_its_place_and_becomes_due(store: Store) -> None:
    uid = await job(store)
    (head,) = await claim(store, "sub_1")
    await store.deliveries.record(result_of(head, "pending", due_at=NOW + 500))
    made = await replay(store)
    assert made.matched == 3
    await advance(store, made.id)
    found = await store.replays.get(made.id)
    assert found is not None
    assert (found.queued, found.left) == (3, 3)
    (again,) = await claim(store, "sub_1")
    assert (again.id, again.priority, again.attempt_count, again.made_count) == (head.id, 1, 0, 1)
    await store.deliveries.record(result_of(again))
    assert [sequence for _, sequence in await finish(store, made.id)] == [2, 3]
    found = await store.replays.get(made.id)
    assert found is not None
    assert (found.state, found.delivered) == ("done", 3)
    assert [row["priority"] for row in await deliveries(store) if row["job_uid"] == uid] == [1, 1, 1]


async def test_delivery_that_is_retried_by_hand_meanwhile_counts_as_one_to_send(store: Store) -> None:
    await job(store, "first", "failed")
    await kill_all(store)
    await job(store, "delivered", "failed")
    await deliver_all(store, "sub_1")
    await job(store, "last", "failed")
    await kill_all(store)
    made = await replay(store)
    assert made.matched == 2
    (delivered,) = (one for one in await deliveries(store, "sub_1") if one["state"] == "delivered")
    await store.deliveries.retry(delivered["id"], NOW)
    await advance(store, made.id)
    found = await store.replays.get(made.id)
    assert found is not None
    assert (found.matched, found.queued, found.left) == (3, 3, 3)


async def test_replay_has_a_bounded_number_of_open_deliveries(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "MAX_UNTRIED", 10)
    monkeypatch.setattr(replays, "MAX_OPEN", 25)
    monkeypatch.setattr(replays, "SLICE", 5)
    batch = [registration(f"job {n}") for n in range(60)]
    await store.jobs.register_many(batch)
    await together(store, *(store.jobs.record(poll(one.job.uid, 0, "failed")) for one in batch))
    await kill_all(store)
    made = await replay(store)
    await advance(store, made.id)
    assert (await states(store)).count("pending") == 10
    assert await store.replays.due("node 1", NOW) == []
    for one in await claim(store, "sub_1"):  # a retry each: others get their turn, up to the second bound
        await store.deliveries.record(result_of(one, "pending", due_at=NOW + 500))
    assert await store.replays.due("node 1", NOW) == [made.id]
    await advance(store, made.id)
    assert (await states(store)).count("pending") == 20
    for one in await claim(store, "sub_1"):
        await store.deliveries.record(result_of(one, "pending", due_at=NOW + 500))
    await advance(store, made.id)
    assert (await states(store)).count("pending") == 25
    assert len(await finish(store, made.id, now=NOW + 500)) == 60
    assert set(await states(store)) == {"delivered"}


async def test_a_long_replay_is_in_order_over_its_slices(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "SLICE", 2)
    monkeypatch.setattr(replays, "MAX_UNTRIED", 2)
    monkeypatch.setattr(replays, "COUNT_SLICE", 3)
    uids = [await track(store, f"job {n}") for n in range(3)]
    for sequence in range(5):
        for uid in uids:
            await store.jobs.record(poll(uid, sequence, "running", now=NOW - sequence))  # a clock that runs backwards
    await kill_all(store)
    made = await replay(store)
    assert made.matched == 15
    got = await finish(store, made.id)
    assert {uid: [sequence for one, sequence in got if one == uid] for uid in uids} == {
        uid: [1, 2, 3, 4, 5] for uid in uids
    }


async def test_a_crash_between_any_two_steps_repeats_nothing(
    store: Store, open_again: Callable[..., Awaitable[Store]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "SLICE", 2)
    uids = [await job(store, f"job {n}") for n in range(4)]
    await kill_all(store)
    made = await replay(store)
    got: list[tuple[str, int]] = []
    now = NOW
    while True:
        await store.replays.advance(made.id, f"node {now}", now)
        if claimed := await claim(store, "sub_1", now=now):
            await store.deliveries.record(result_of(claimed[0], now=now))
            got.append((str(claimed[0].order_key), claimed[0].event.sequence or 0))
        await store.close()  # whatever else it held and knew is gone
        now += 60
        store = await open_again(now=now)
        found = await store.replays.get(made.id)
        assert found is not None
        if found.state == "done":
            break
    assert {uid: [sequence for one, sequence in got if one == uid] for uid in uids} == {uid: [1, 2, 3] for uid in uids}
    assert (found.matched, found.queued, found.delivered) == (12, 12, 12)


async def test_one_node_at_a_time_goes_on_with_it(store: Store) -> None:
    await job(store)
    await kill_all(store)
    made = await replay(store)
    first, second = await together(
        store,
        store.replays.advance(made.id, "node 1", NOW),
        store.replays.advance(made.id, "node 2", NOW),
    )
    assert (first.queued, second.queued) == (3, 0)
    await deliver_all(store, "sub_1")
    assert await store.replays.due("node 2", NOW) == []
    assert await store.replays.due("node 1", NOW) == [made.id]
    later = NOW + replays.LEASE_SECONDS
    assert await store.replays.due("node 2", later) == [made.id]
    assert (await store.replays.advance(made.id, "node 2", later)).ended
    assert not (await store.replays.advance(made.id, "node 1", later)).ended


async def test_stopped_replay_restores_unsent_deliveries(store: Store) -> None:
    await job(store)
    await kill_all(store)
    delivered = await job(store, "delivered", "failed")
    await deliver_all(store, "sub_1")
    await store.subscriptions.create(subscription("sub_late"))
    made, late = await replay(store, only="all"), await replay(store, "sub_late")
    for one in (made, late):
        await advance(store, one.id)
    (flying,) = await claim(store, "sub_1", 1)
    stopped = await store.replays.stop(made.id, NOW + 1)
    assert (stopped.state, stopped.ended_at, stopped.matched, stopped.queued, stopped.left) == (
        *("stopped", NOW + 1, 4),
        *(1, 3),
    )
    assert await store.replays.stop(made.id, NOW + 2) == stopped
    assert not (await store.replays.advance(made.id, "node 1", NOW + 2)).queued
    assert (await store.deliveries.record(result_of(flying)))[0].kept
    left = {row["sequence"]: row for row in await deliveries(store, "sub_1") if row["job_uid"] != delivered}
    whole = await deliveries(store, "sub_1")
    assert {row["state"] for row in whole} <= {"dead", "delivered"}
    assert [row["state"] for row in whole if row["job_uid"] == delivered] == ["delivered"]
    assert {left[sequence]["reason"] for sequence in (2, 3)} == {"replay_stopped"}
    await store.replays.stop(late.id, NOW + 1)
    assert await states(store, "sub_late") == ["cancelled"] * 4
    again = await replay(store, "sub_late")
    assert len(await finish(store, again.id, "sub_late")) == 4


@pytest.mark.parametrize("when", ["before the replay", "on its way", "sent and not counted yet"])
async def test_stopping_a_replay_keeps_manual_retries(store: Store, when: str) -> None:
    await job(store)
    await kill_all(store)
    first = (await deliveries(store))[0]["id"]
    if when == "before the replay":
        await store.deliveries.retry(first, NOW)
    made = await replay(store)
    await advance(store, made.id)
    if when == "sent and not counted yet":
        (sent,) = await claim(store, "sub_1")
        await store.deliveries.record(result_of(sent, "dead", reason="http_500"))
    if when != "before the replay":
        await store.deliveries.retry(first, NOW)
    await store.replays.stop(made.id, NOW)
    assert await states(store) == ["pending", "dead", "dead"]
    assert [one.id for one in await deliver_all(store, "sub_1")] == [first]
    assert all(row["replay"] is None and row["was"] is None for row in await deliveries(store))


async def test_stopping_a_replay_keeps_what_an_earlier_stopped_one_had_in_flight(store: Store) -> None:
    await job(store, "a job", "failed")
    await kill_all(store)
    first = await replay(store)
    await advance(store, first.id)
    (flying,) = await claim(store, "sub_1")
    await store.replays.stop(first.id, NOW)
    await store.deliveries.record(result_of(flying, "pending", due_at=NOW))
    second = await replay(store)
    await advance(store, second.id)
    await store.replays.stop(second.id, NOW)
    assert await states(store) == ["pending"]


# --- over the deliveries that are there


async def test_a_retry_of_many_is_of_those_that_match(store: Store) -> None:
    for name in ("sub_2", "sub_3"):
        await store.subscriptions.create(subscription(name))
    await job(store)
    await kill_all(store, "sub_1", reason="http_500")
    await kill_all(store, "sub_2", reason="timeout")
    assert (await replay(store, None, only="dead")).matched == 6
    assert (await replay(store, "sub_2", only="dead")).matched == 3
    assert (await replay(store, None, only="dead", types=("ai.revor.job.failed",))).matched == 2
    assert (await replay(store, None, only="dead", since=NOW + 1)).matched == 0
    assert (await replay(store, None, only="delivered")).matched == 0
    made = await replay(store, None, only="dead", reason="timeout")
    assert made.matched == 3
    await advance(store, made.id)
    assert await states(store, "sub_2") == ["pending", "blocked", "blocked"]
    assert await states(store, "sub_1") == ["dead"] * 3
    await finish(store, made.id, "sub_2")
    assert await states(store, "sub_2") == ["delivered"] * 3
    assert await states(store, "sub_3") == ["pending", "blocked", "blocked"]


async def test_replay_and_retry_by_hand_begin_a_round_and_nothing_else_does(store: Store) -> None:
    """A broker drops repetitions by it: see `Claimed.round_id`."""
    await job(store, "a job", "queued")
    (first,) = await claim(store, now=NOW, subscription_id="sub_1")

    async def again(now: float) -> str:
        (one,) = await claim(store, "sub_1", now=now)
        return one.round_id

    async def end(state: str, now: float, **fields: Any) -> None:
        (row,) = await deliveries(store)
        one = changed(first, lease_token=row["lease_token"], made_count=row["made_count"])
        assert (await store.deliveries.record(result_of(one, state, now=now, **fields)))[0].kept

    assert first.round_id == first.id
    await store.deliveries.release([first], NOW)
    assert await again(NOW) == first.id
    await end("pending", NOW, due_at=NOW + 60, reason="http_500")
    assert await again(NOW + 60) == first.id
    await end("pending", NOW + 60, due_at=NOW + 600, behind=True)
    await store.deliveries.expedite("sub_1", NOW + 61)
    assert await again(NOW + 61) == first.id
    await end("pending", NOW + 61, due_at=NOW + 600)
    await store.deliveries.retry(first.id, NOW + 62)
    assert await again(NOW + 62) == first.id, "it was due sooner, no more"
    await end("pending", NOW + 62, due_at=NOW + 600)
    joined = await replay(store, only="all")
    await advance(store, joined.id, NOW + 63)
    assert await again(NOW + 63) == first.id, "so was this one"
    await end("delivered", NOW + 63)
    for number, state in enumerate(("delivered", "dead"), 1):
        if number == 1:
            await store.deliveries.retry(first.id, NOW + 64)
        else:
            made = await replay(store, only="all")
            await advance(store, made.id, NOW + 64)
        assert await again(NOW + 64) == f"{first.id}.{number}"
        await end("pending", NOW + 64, due_at=NOW + 64)
        assert await again(NOW + 64) == f"{first.id}.{number}"
        await end(state, NOW + 64)


async def test_missed_head_of_a_replay_is_promoted(store: Store) -> None:
    await job(store)
    await kill_all(store)
    made = await replay(store)
    await advance(store, made.id)
    await execute(store, "UPDATE deliveries SET state = 'dead', replay = NULL WHERE sequence = 1")
    assert (await store.upkeep.promote_heads(NOW))[0] == 1
    assert await states(store) == ["dead", "pending", "blocked"]
    assert len(await finish(store, made.id)) == 2
