"""Pulls on both databases: leases, order, acknowledgements in and out of order, ends of leases, and what is behind."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from relay.core.deliveries.pulls import Lag
from relay.core.deliveries.replay import ReplayRequest
from relay.core.erasure import ErasureRequest
from relay.core.events.event import DELIVERY_EXPIRED
from relay.store.store import Store
from tests.support.pull_kit import SUB, TYPES, Program, jobs, places, published
from tests.support.store_kit import (
    NOW,
    claim,
    deliveries,
    lease,
    poll,
    rows,
    states,
    subscription,
    together,
)


@pytest.fixture
async def program(store: Store) -> Program:
    await store.subscriptions.create(SUB)
    return Program(store)


async def attempts(store: Store) -> list[tuple[int, str | None, str]]:
    """The number, the error and the decision of each attempt, in the order of their commits."""
    found = await rows(store, "SELECT number, error, decision FROM attempts ORDER BY position")
    return [(row["number"], row["error"], row["decision"]) for row in found]


async def test_one_answer_has_heads_with_their_followers_in_order(program: Program) -> None:
    uids = await jobs(program.store, 3, 1)
    claimed = await program.pull()
    assert places(claimed, uids) == [(0, 1), (0, 2), (0, 3), (1, 1)]
    assert len({one.lease_token for one in claimed}) == 1
    assert await program.pull() == ()
    assert await program.ack(*claimed) == ["done"] * 4
    assert await states(program.store) == ["delivered"] * 4
    assert await attempts(program.store) == [(1, None, "acknowledged: delivered")] * 4
    found = await rows(program.store, "SELECT started_at, duration_ms FROM attempts")
    assert {(row["started_at"], row["duration_ms"]) for row in found} == {(NOW + 1, 0.0)}


async def test_answer_has_no_more_than_was_asked_for(program: Program) -> None:
    uids = await jobs(program.store, 3, 2)
    first = await program.pull(2)
    assert places(first, uids) == [(0, 1), (0, 2)]
    second = await program.pull(2)
    assert places(second, uids) == [(1, 1), (1, 2)], "the third event of the first job waits for its answer"
    assert await program.ack(*first) == ["done", "done"]
    assert places(await program.pull(), uids) == [(0, 3)]


async def test_two_programs_never_have_one_key_at_once(program: Program) -> None:
    uids = await jobs(program.store, 2, 2)
    other = Program(program.store)
    first, second = await asyncio.gather(program.pull(2), other.pull(2))
    assert {place[0] for place in places(first, uids)}.isdisjoint(place[0] for place in places(second, uids))
    await program.store.jobs.record(poll(uids[0], 2, "running", now=NOW + 1))
    assert await program.pull() == ()
    assert await program.ack(first[0]) == ["done"]
    assert await other.pull() == (), "the next one of its key is still under the lease"
    assert await program.ack(first[1]) == ["done"]
    assert len(await other.pull()) == 1


async def test_order_of_published_events_is_kept_per_partition_key(store: Store) -> None:
    of = replace(SUB, types=TYPES)
    await store.subscriptions.create(of)
    await published(store, "a", "a")
    program = Program(store, of)
    first = await program.pull(1)
    await published(store, "b", None, None)
    rest = await program.pull()
    assert len(rest) == 3, "the second of the first key waits, those without a key do not"
    assert await program.ack(*first, *rest) == ["done"] * 4
    assert len(await program.pull()) == 1


async def test_lease_that_ends_counts_as_an_attempt_and_is_due_at_once(program: Program) -> None:
    (uid,) = await jobs(program.store, 2)
    first = await program.pull(lease_seconds=10)
    program.now += 9.999
    assert await program.pull() == ()
    program.now += 0.001
    again = await program.pull()
    assert [one.id for one in again] == [one.id for one in first]
    assert [one.made_count for one in again] == [1, 1]
    ended = (1, "lease_ended", "lease_ended (attempt 1 of 3): due again at once")
    assert await attempts(program.store) == [ended, ended]
    found = await rows(program.store, "SELECT started_at, duration_ms FROM attempts")
    assert {(row["started_at"], row["duration_ms"]) for row in found} == {(NOW + 1, 10_000.0)}
    assert program.events == []
    assert uid == again[0].order_key


async def test_delivery_is_given_up_once_its_leases_have_ended_as_often_as_its_schedule_allows(
    program: Program,
) -> None:
    (uid,) = await jobs(program.store, 2)
    for _ in range(3):
        assert len(await program.pull(1, lease_seconds=10)) == 1
        program.now += 10
    (follower,) = await program.pull()
    assert follower.event.sequence == 2
    assert await states(program.store) == ["dead", "pending"]
    (expired,) = program.events
    assert expired.type == DELIVERY_EXPIRED
    data = expired.document()["data"]
    assert (data["attempts"], data["last_error"], data["reason"]) == (3, "lease_ended", "exhausted")
    assert await program.store.events.get(expired.id) is not None
    assert uid == follower.order_key
    counted = Counter[str]()
    for cell, amount in program.metrics.figures.take(100):
        counted[cell.name] += int(amount[0])
    assert counted == {"deliveries_dead": 1, "attempts": 3, "attempts_failed": 3}


async def test_late_acknowledgement_counts_while_nothing_else_has_ended_the_delivery(program: Program) -> None:
    await jobs(program.store, 3)
    first = await program.pull(lease_seconds=10)
    program.now += 10
    assert await program.ack(first[0]) == ["done"], "before its end was recorded"
    other = Program(program.store)
    other.now = program.now
    second = await other.pull(lease_seconds=10)
    assert [one.id for one in second] == [one.id for one in first[1:]]
    assert await program.ack(first[1]) == ["done"], "while another program has it"
    assert await other.ack(second[0]) == ["already"]
    assert await other.ack(second[1], first[0]) == ["done", "already"]
    assert [row["made_count"] for row in await deliveries(program.store)] == [1, 2, 2]


async def test_acknowledgement_names_what_it_does_not_know(program: Program) -> None:
    await jobs(program.store, 1)
    (one,) = await program.pull()
    foreign = subscription("sub_other", kind="pull", sink="")
    await program.store.subscriptions.create(foreign)
    other = Program(program.store, foreign)
    unknown = replace(one, id="dlv_none")
    assert await other.ack(one, unknown) == ["unknown", "unknown"]
    assert await other.nack(one, unknown) == (["unknown", "unknown"], ())
    assert await other.give_back(one) == ["unknown"]
    assert await program.ack(one) == ["done"]
    for late in (await program.ack(one), (await program.nack(one))[0], await program.give_back(one)):
        assert late == ["already"]


async def test_nack_retries_by_the_schedule_and_blocks_what_is_behind(program: Program) -> None:
    uids = await jobs(program.store, 3, 1)
    first = await program.pull()
    answers, returned = await program.nack(first[0])
    assert (answers, set(returned)) == (["done"], {first[1].id, first[2].id})
    assert await program.pull() == ()
    program.now += 5
    again = await program.pull()
    assert places(again, uids) == [(0, 1), (0, 2), (0, 3)], "the other job is still under the first lease"
    assert [one.made_count for one in again] == [1, 0, 0], "what went back was not tried"
    assert await attempts(program.store) == [(1, "nacked", "nacked (attempt 1 of 3): tried again in 5 s")]


@pytest.mark.parametrize("order", ["nack first", "ack first"])
async def test_delay_of_a_nack_holds_whatever_comes_first(program: Program, order: str) -> None:
    uids = await jobs(program.store, 3)
    head, second, third = await program.pull()
    for step in sorted(("nack", "ack"), reverse=order == "nack first"):
        if step == "ack":
            assert await program.ack(head) == ["done"]
        else:
            assert await program.nack(second, delay_seconds=30) == (["done"], (third.id,))
    program.now += 29.9
    assert await program.pull() == ()
    program.now += 0.1
    assert places(await program.pull(), uids) == [(0, 2), (0, 3)]


async def test_nack_of_one_that_is_under_no_lease_changes_nothing(program: Program) -> None:
    await jobs(program.store, 1)
    (one,) = await program.pull(lease_seconds=10)
    program.now += 10
    await program.pulls.end_leases(program.of)
    assert await program.nack(one, delay_seconds=60) == (["already"], ())
    assert len(await program.pull()) == 1


async def test_nacks_without_end_give_the_delivery_up(program: Program) -> None:
    await jobs(program.store, 1)
    for _ in range(3):
        (one,) = await program.pull()
        assert await program.nack(one, delay_seconds=0) == (["done"], ())
    assert await states(program.store) == ["dead"]
    assert [event.type for event in program.events] == [DELIVERY_EXPIRED]


async def test_acknowledgements_may_come_out_of_order(program: Program) -> None:
    uids = await jobs(program.store, 4)
    first, second, third, fourth = await program.pull(lease_seconds=10)
    assert await program.ack(third) == ["done"]
    assert await states(program.store) == ["pending", "blocked", "delivered", "blocked"]
    assert await program.ack(first) == ["done"]
    assert await states(program.store) == ["delivered", "pending", "delivered", "blocked"]
    program.now += 10
    assert places(await program.pull(), uids) == [(0, 2), (0, 4)], "only those that were not acknowledged"
    assert await program.ack(fourth, second) == ["done", "done"]
    assert await states(program.store) == ["delivered"] * 4


async def test_what_is_given_back_untried_counts_no_attempt(program: Program) -> None:
    uids = await jobs(program.store, 3)
    first = await program.pull()
    assert await program.give_back(first[1]) == ["done"]
    assert await states(program.store) == ["pending", "blocked", "blocked"]
    assert await program.give_back(first[0]) == ["done"]
    assert places(await program.pull(), uids) == [(0, 1), (0, 2), (0, 3)]
    assert await attempts(program.store) == []


async def test_without_ordering_a_nack_takes_nothing_back(store: Store) -> None:
    of = replace(SUB, ordering="none")
    await store.subscriptions.create(of)
    program = Program(store, of)
    uids = await jobs(store, 3)
    first = await program.pull()
    assert await program.nack(first[0], delay_seconds=0) == (["done"], ())
    assert places(await program.pull(), uids) == [(0, 1)]
    assert await program.ack(*first) == ["done"] * 3


async def test_requests_that_share_a_transaction_end_each_delivery_once(program: Program) -> None:
    await jobs(program.store, 3)
    claimed = await program.pull()
    acks = await together(program.store, program.ack(*claimed[:2]), program.ack(*claimed[1:]))
    assert acks == [["done", "done"], ["already", "done"]]
    assert len(await attempts(program.store)) == 3


async def test_many_leases_that_have_ended_are_recorded_in_parts(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.delivery.pulls.ENDED_AT_ONCE", 2)
    await jobs(program.store, 2, 3)
    await program.pull(lease_seconds=10)
    program.now += 10
    assert await program.pulls.ended() == [SUB.id]
    assert await program.pulls.end_leases(program.of) == 5
    assert await program.pulls.ended() == []
    assert len(await program.pull()) == 5


async def test_start_of_a_node_leaves_the_leases_of_pulls(
    program: Program, open_again: Callable[..., Awaitable[Store]]
) -> None:
    uids = await jobs(program.store, 2)
    claimed = await program.pull(1)
    if not program.store.database.shared:
        await program.store.close()
    again = Program(await open_again())
    assert await again.pull() == ()
    assert await again.ack(*claimed) == ["done"]
    assert places(await again.pull(), uids) == [(0, 2)]


async def test_lease_of_a_node_that_is_gone_ends_for_programs_too(store: Store) -> None:
    """The subscription had a sink when the node began to send."""
    await store.subscriptions.create(subscription(SUB.id))
    program, uids = Program(store), await jobs(store, 2)
    assert len(await claim(store, SUB.id, 1, now=NOW + 1, lease=lease(until=NOW + 45))) == 1
    await store.subscriptions.replace(SUB, NOW + 1)
    assert await program.pull() == ()
    program.now = NOW + 45
    assert places(await program.pull(), uids) == [(0, 1), (0, 2)]


async def test_lag_counts_what_is_not_acknowledged(program: Program) -> None:
    assert await program.pulls.lag(SUB.id) == Lag(0, None)
    uids = await jobs(program.store, 3, 2)
    await program.store.subscriptions.create(subscription("sub_other", kind="pull", sink=""))
    assert await program.pulls.lag(SUB.id) == Lag(5, pytest.approx(NOW + 0.001))
    claimed = await program.pull(2)
    assert (await program.pulls.lag(SUB.id)).count == 5
    assert (await program.pulls.lag(SUB.id, 2)).count == 2
    await program.ack(*claimed)
    assert (await program.pulls.lag(SUB.id)).count == 3
    await program.ack(*await program.pull())
    assert await program.pulls.lag(SUB.id) == Lag(0, None)
    assert len(uids) == 2


async def test_replayed_deliveries_come_after_fresh_ones_and_in_order(program: Program) -> None:
    uids = await jobs(program.store, 2)
    await program.ack(*await program.pull())
    request = ReplayRequest(id="rpl_1", subscription_id=SUB.id, since=NOW - 9, until=NOW + 9, only="all", now=NOW + 2)
    await program.store.replays.create(request)
    while (await program.store.replays.advance("rpl_1", "node", NOW + 3)).more:
        pass
    await program.store.jobs.record(poll(uids[0], 2, "running", now=NOW + 1))
    program.now = NOW + 4
    first = await program.pull(1)
    assert places(first, uids) == [(0, 3)]
    replayed = await program.pull()
    assert places(replayed, uids) == [(0, 1), (0, 2)]
    assert await program.ack(*replayed) == ["done", "done"]


async def test_erased_events_are_unknown_to_their_lease(program: Program) -> None:
    uids = await jobs(program.store, 2, 1)
    claimed = await program.pull()
    sought, cursor = ErasureRequest(job="job 0"), None
    while True:
        step = await program.store.erasure.step(sought, cursor, NOW + 2)
        cursor = step.next_cursor
        if cursor is None:
            break
    assert await program.ack(*claimed) == ["unknown", "unknown", "done"]
    assert len(uids) == 2


async def test_event_of_an_empty_answer_wakes_the_one_that_waits(program: Program) -> None:
    arrivals = program.pulls.arrivals
    with arrivals.watch(SUB.id) as watch, arrivals.watch(SUB.id) as second:
        assert await program.pull() == ()
        assert not await watch.wait(0.2)
        looked = 0

        async def counted(ids: list[str]) -> Any:
            nonlocal looked
            looked += 1
            return await look(ids)

        look, program.store.pulls.arrivals = program.store.pulls.arrivals, counted  # type: ignore[method-assign]
        await jobs(program.store, 1)
        program.signals.event_recorded()
        assert await watch.wait(5)
        assert await second.wait(5)
        assert 0 < looked <= 3
