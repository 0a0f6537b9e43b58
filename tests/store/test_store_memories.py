"""What subscriptions remember of their sinks: one delivery of a key at a time, written with the attempt, forgotten with
what it is about."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from relay.core.deliveries.delivery import Claimed
from relay.core.deliveries.dialogue import SHARED, person_key
from relay.core.deliveries.ledger import event_key
from relay.core.erasure import ErasureRequest
from relay.core.jsontext import dumps
from relay.core.records import MemoryTurn
from relay.store.store import Store
from tests.support.store_kit import NOW, claim, execute, poll, result_of, rows, subscription, track

KEY = "incident/inc_1"


async def claimed_of(store: Store, count: int = 1, id: str = "sub_1", **fields: Any) -> list[Claimed]:
    """Claimed deliveries of as many jobs to one subscription."""
    await store.subscriptions.create(subscription(id, **fields))
    for nth in range(count):
        await store.jobs.record(poll(await track(store, f"{id} {nth}"), 0, "failed"))
    found = await claim(store, id)
    assert len(found) == count
    return list(found)


async def took(store: Store, claimed: Claimed, key: str = KEY, now: float = NOW) -> MemoryTurn:
    turn = await store.memories.take(claimed, key, now, now)
    assert turn is not None
    return turn


async def ended(
    store: Store, claimed: Claimed, turn: MemoryTurn, remember: Any = None, state: str = "delivered"
) -> bool:
    return (await store.deliveries.record(result_of(claimed, state, turn=turn, remember=remember)))[0].kept


async def remembered(store: Store) -> list[tuple[str, str]]:
    found = await rows(store, "SELECT key, data FROM sink_memories ORDER BY key")
    return [(row["key"], row["data"]) for row in found]


async def test_memory_of_an_attempt_is_the_next_ones(store: Store) -> None:
    first, second = await claimed_of(store, 2)
    turn = await took(store, first)
    assert turn.memory == {}
    assert await ended(store, first, turn, {"ts": "1.5", "text": "\ud800 \0"})
    assert (await took(store, second)).memory == {"ts": "1.5", "text": "\N{REPLACEMENT CHARACTER} \0"}


async def test_one_delivery_of_a_key_has_the_turn_on_all_nodes(
    store: Store, open_again: Callable[..., Awaitable[Store]], database_url: str
) -> None:
    other = store if database_url.startswith("sqlite") else await open_again()
    claimed = await claimed_of(store, 10)
    turns = await asyncio.gather(
        *(one.memories.take(each, KEY, NOW, NOW) for each in claimed for one in (store, other))
    )
    (turn,) = {turn.token: turn for turn in turns if turn is not None}.values()
    winner = next(one for one in claimed if turn.token.endswith(one.id))
    assert await other.memories.take(claimed[0 if winner is not claimed[0] else 1], KEY, NOW, NOW) is None
    assert await took(store, claimed[0], "incident/inc_2")
    await ended(store, winner, turn, {"ts": "1"})
    loser = next(one for one in claimed if one is not winner)
    assert (await took(other, loser)).memory == {"ts": "1"}


async def test_turn_ends_with_the_lease_of_its_delivery(store: Store) -> None:
    first, second = await claimed_of(store, 2)
    turn = await took(store, first)
    assert await store.memories.take(second, KEY, first.lease_until - 1, NOW) is None
    later = replace(second, lease_until=first.lease_until + 45)
    newer = await took(store, later, now=first.lease_until)
    assert not await store.memories.keep(turn, {"ts": "old"}, NOW)
    await ended(store, first, turn, {"ts": "old"})
    assert await ended(store, second, newer, {"ts": "new"})
    assert await remembered(store) == [(KEY, '{"ts":"new"}')]


async def test_memory_kept_within_a_turn_survives_a_crash(store: Store) -> None:
    first, second = await claimed_of(store, 2)
    turn = await took(store, first)
    assert await store.memories.keep(turn, {"ts": "1"}, NOW)
    await store.recover_from_crash(NOW)
    assert (await took(store, second)).memory == {"ts": "1"}


async def test_what_was_sent_is_remembered_although_the_lease_was_lost(store: Store) -> None:
    (first,) = await claimed_of(store)
    turn = await took(store, first)
    await execute(store, "UPDATE deliveries SET lease_token = 'other'")
    assert not await ended(store, first, turn, {"ts": "1"})
    assert await remembered(store) == [(KEY, '{"ts":"1"}')]


async def test_memory_is_forgotten_with_the_subscription_and_with_another_sink(store: Store) -> None:
    (first,) = await claimed_of(store)
    (other,) = await claimed_of(store, id="sub_2")
    turn = await took(store, first)
    await store.memories.keep(turn, {"ts": "1"}, NOW)
    await store.memories.keep(await took(store, other), {"ts": "2"}, NOW)
    found = await store.subscriptions.get("sub_1")
    assert found is not None
    await store.subscriptions.replace(replace(found, description="another"), NOW)
    assert len(await remembered(store)) == 2
    await store.subscriptions.replace(replace(found, sink="https://elsewhere.example/"), NOW)
    assert await remembered(store) == [(KEY, '{"ts":"2"}')]
    assert await ended(store, first, turn, {"ts": "1"}), "the message is in the channel of the old sink"
    assert await remembered(store) == [(KEY, '{"ts":"2"}')]
    await store.subscriptions.remove("sub_2", NOW)
    assert await remembered(store) == []


@pytest.mark.parametrize("change", ["sink", "removed"])
async def test_what_was_written_of_an_event_stays_with_another_sink_and_without_the_subscription(
    store: Store, change: str
) -> None:
    """A subscription that is declared again has its old id, and must not write it again."""
    (first,) = await claimed_of(store)
    for key in (KEY, event_key(first.event.id), "events", "eventual/1"):
        assert await store.memories.keep(await took(store, first, key), {"state": "done"}, NOW)
    found = await store.subscriptions.get("sub_1")
    assert found is not None
    if change == "sink":
        await store.subscriptions.replace(replace(found, sink="https://elsewhere.example/"), NOW)
    else:
        await store.subscriptions.remove("sub_1", NOW)
    assert [key for key, _ in await remembered(store)] == [event_key(first.event.id)]


async def events_of(store: Store) -> list[Claimed]:
    """Two claimed deliveries, with what was written of their events."""
    claimed = await claimed_of(store, 2)
    for one in claimed:
        await store.memories.keep(await took(store, one, event_key(one.event.id)), {"state": "done"}, NOW)
    await store.recover_from_crash(NOW)
    return claimed


@pytest.mark.parametrize("way", ["a job", "a value", "purge"])
async def test_what_was_written_of_an_event_is_erased_with_it(store: Store, way: str) -> None:
    first, second = await events_of(store)
    assert first.order_key is not None
    if way == "purge":
        await store.jobs.purge(first.order_key, NOW)
    else:
        name = {"job": first.order_key} if way == "a job" else {"name": "email", "value": "alex@example.com"}
        if way == "a value":
            body = dumps({**first.event.document(), "data": {"metadata": {"email": "alex@example.com"}}})
            await execute(store, "UPDATE events SET body = :body WHERE id = :id", body=body, id=first.event.id)
        cursor, steps = None, 0
        while steps == 0 or cursor is not None:
            step = await store.erasure.step(ErasureRequest(**name), cursor, NOW + 1)
            cursor, steps = step.next_cursor, steps + 1
    assert [key for key, _ in await remembered(store)] == [event_key(second.event.id)]


async def test_all_subscriptions_remember_the_same_under_a_shared_key_one_at_a_time(store: Store) -> None:
    (first,), (second,) = await claimed_of(store), await claimed_of(store, id="sub_2")
    key = person_key("acme.test", "alex@example.com")
    shared = await store.memories.take(first, key, NOW, NOW, SHARED)
    assert shared is not None
    assert await store.memories.take(second, key, NOW, NOW, SHARED) is None
    await store.memories.free([shared], NOW)
    again = await store.memories.take(second, key, NOW, NOW, SHARED)
    assert again is not None
    assert not await store.memories.keep(shared, {"id": 6}, NOW), "the turn is over"
    turn = replace(await took(store, second, event_key(second.event.id)), shared=(again,))
    assert await store.memories.keep(again, {"id": 7}, NOW)
    result = result_of(second, turn=turn, remember={"state": "done"}, share={"id": 8})
    assert (await store.deliveries.record(result))[0].kept
    assert await remembered(store) == [(event_key(second.event.id), '{"state":"done"}'), (key, '{"id":8}')]
    found = await store.memories.take(first, key, NOW, NOW, SHARED)
    assert found is not None
    assert found.memory == {"id": 8}
    late = await store.memories.take(second, key, first.lease_until, NOW, SHARED)
    assert late is not None, "the node died: its turn ends with its lease"


async def test_what_is_shared_is_kept_for_an_hour_and_no_subscription_takes_it_along(store: Store) -> None:
    first, second = await claimed_of(store, 2)
    for one, at in ((first, NOW), (second, NOW + 10)):
        shared = await store.memories.take(one, f"person/{one.id}", NOW, at, SHARED)
        assert shared is not None
        turn = replace(await took(store, one, event_key(one.event.id)), shared=(shared,))
        assert (await store.deliveries.record(result_of(one, now=at, turn=turn, share={"id": 1})))[0].kept
    found = await store.subscriptions.get("sub_1")
    assert found is not None
    await store.subscriptions.remove("sub_1", NOW)
    assert await store.upkeep.delete_old("shared_memories", NOW + 5) == 1
    assert f"person/{second.id}" in [key for key, _ in await remembered(store)]
    assert f"person/{first.id}" not in [key for key, _ in await remembered(store)]
