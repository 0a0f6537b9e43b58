"""Published events: recorded once, delivered as others are, and in the order of their streams."""

import asyncio
from dataclasses import replace
from functools import update_wrapper
from typing import Any

import pytest

from relay.core.deliveries.bundles import Bundle, Room
from relay.core.deliveries.replay import ReplayRequest
from relay.core.published import Taken
from relay.errors import StoreError
from relay.store import published
from relay.store.outbox.recording import MAX_SEQUENCE
from relay.store.published import PublishedStore
from relay.store.store import Store
from tests.support.store_kit import (
    NOW,
    PUBLISHED_TYPE,
    claim,
    claim_bundle,
    execute,
    lease,
    publication,
    result_of,
    rows,
    states,
    subscription,
)

OWNER = "revor/default"


async def subscribed(store: Store, id: str = "sub_1", **changes: object) -> None:
    await store.subscriptions.create(subscription(id, types=(PUBLISHED_TYPE,), **changes))


async def test_published_event_is_recorded_and_delivered(store: Store) -> None:
    await subscribed(store)
    one = publication("1")
    assert await store.published.record([one]) == [Taken(one.event.id, known=False)]
    assert await store.events.get(one.event.id) == one.event
    (claimed,) = await claim(store, "sub_1")
    assert (claimed.event, claimed.order_key) == (one.event, None)


async def test_subscription_without_types_gets_no_published_event(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_1", types=None))
    await store.published.record([publication("1")])
    assert await states(store) == []


async def test_the_same_event_again_is_known_and_goes_out_once(store: Store) -> None:
    await subscribed(store)
    first, again, other = publication("1"), publication("1"), publication("1", source="/other")
    taken = await store.published.record([first, again, other])
    assert taken == [
        Taken(first.event.id, known=False),
        Taken(first.event.id, known=True),
        Taken(other.event.id, known=False),
    ]
    assert await store.published.record([publication("1")]) == [Taken(first.event.id, known=True)]
    assert len(await states(store)) == 2


async def test_two_that_publish_the_same_at_once_get_one_event(store: Store) -> None:
    await subscribed(store)
    found = await asyncio.gather(*(store.published.record([publication(str(n)) for n in range(20)]) for _ in range(8)))
    assert len({taken.id for one in found for taken in one}) == 20
    assert sum(not taken.known for one in found for taken in one) == 20
    assert len(await states(store)) == 20


async def test_owners_have_ids_of_their_own(store: Store) -> None:
    a, b = publication("1"), publication("1", owner=OWNER)
    assert [one.known for one in await store.published.record([a, b])] == [False, False]


async def test_events_of_a_stream_go_out_in_their_order(store: Store) -> None:
    await subscribed(store)
    await store.published.record([publication("1", key="a"), publication("x", key="b"), publication("2", key="a")])
    await store.published.record([publication("3", key="a"), publication("free")])
    assert sorted(await states(store)) == ["blocked", "blocked", "pending", "pending", "pending"]
    seen = []
    while batch := await claim(store, "sub_1"):
        seen += [one.event.document()["id"] for one in batch]
        for one in batch:
            await store.deliveries.record(result_of(one, "delivered"))
    assert [id for id in seen if id in "123"] == ["1", "2", "3"]
    assert sorted(seen) == ["1", "2", "3", "free", "x"]


async def test_stream_keeps_its_order_among_many_that_publish(store: Store) -> None:
    await subscribed(store)
    for n in range(5):
        await asyncio.gather(*(store.published.record([publication(f"{n}-{m}", key="a")]) for m in range(4)))
    seen = []
    while batch := await claim(store, "sub_1"):
        assert len(batch) == 1
        seen.append(batch[0].event.document()["id"])
        await store.deliveries.record(result_of(batch[0], "delivered"))
    assert len(seen) == 20
    assert [id.split("-")[0] for id in seen] == sorted(id.split("-")[0] for id in seen)


async def test_replay_sends_the_events_of_a_stream_in_order(store: Store) -> None:
    await subscribed(store)
    await store.published.record([publication(str(n), key="a") for n in range(3)])
    for _ in range(3):
        (one,) = await claim(store, "sub_1")
        await store.deliveries.record(result_of(one, "delivered"))
    request = ReplayRequest(id="rpl_1", subscription_id="sub_1", since=0.0, until=NOW + 9, now=NOW + 10, only="all")
    replay = await store.replays.create(request)
    await store.replays.advance(replay.id, "node", NOW + 10)
    assert sorted(await states(store)) == ["blocked", "blocked", "pending"]
    again = []
    while batch := await claim(store, "sub_1", now=NOW + 20):
        again += [one.event.document()["id"] for one in batch]
        for one in batch:
            await store.deliveries.record(result_of(one, "delivered"))
    assert again == ["0", "1", "2"]


async def test_stream_begins_anew_before_its_places_run_out(store: Store) -> None:
    await store.published.record([publication("1", key="a")])
    await execute(store, f"UPDATE streams SET sequence = {MAX_SEQUENCE}")
    one = publication("2", key="a")
    await store.published.record([one])
    found = await store.events.get(one.event.id)
    assert found is not None
    assert found.sequence == 1


async def test_use_of_a_stream_is_noted_once_an_hour(store: Store) -> None:
    """On PostgreSQL an event of a known stream then writes no index entry of it."""
    noted = []
    for nth, at in enumerate((NOW, NOW + 3_599, NOW + 3_600, NOW - 60)):
        one = publication(str(nth), key="a")
        await store.published.record([one._replace(event=replace(one.event, recorded_at=at))])
        noted.append((await rows(store, "SELECT used_at, sequence FROM streams"))[0])
    assert [row["used_at"] for row in noted] == [NOW, NOW, NOW + 3_600, NOW + 3_600]
    assert [row["sequence"] for row in noted] == [1, 2, 3, 4]


@pytest.mark.parametrize(("ended", "left"), [(False, 1), (True, 0)])
async def test_stream_is_forgotten_once_nothing_of_it_is_open(store: Store, ended: bool, left: int) -> None:
    await subscribed(store)
    await store.published.record([publication("1", key="a")])
    if ended:
        (one,) = await claim(store, "sub_1")
        await store.deliveries.record(result_of(one, "delivered"))
    assert await store.upkeep.delete_old("streams", NOW) == 0
    assert await store.upkeep.delete_old("streams", NOW + 1) == 1 - left
    assert len(await rows(store, "SELECT uid FROM streams")) == left


async def test_bundle_has_the_events_of_streams_in_their_order(store: Store) -> None:
    await subscribed(store, options={"content_mode": "batch"})
    await store.published.record([publication(f"{key}{n}", key=key) for n in range(3) for key in "ab"])
    await store.published.record([publication("free")])
    limits = Bundle(max_events=20, wait_seconds=0.0, max_bytes=1_000_000)
    claims = await claim_bundle(store, "sub_1", (0, 1, 2), limits, Room(), 3, NOW + 9, lease())
    (members,) = claims.requests
    ids = [one.event.document()["id"] for one in members]
    assert [[id for id in ids if id[0] == key] for key in "ab"] == [["a0", "a1", "a2"], ["b0", "b1", "b2"]]
    assert "free" in ids
    await store.deliveries.record(*[result_of(one, "delivered") for one in members])
    assert await states(store) == ["delivered"] * 7


async def test_retention_removes_published_events_and_forgets_what_was_known(store: Store) -> None:
    await store.published.record([publication("1", key="a")])
    assert (await store.upkeep.delete_events(NOW + 1))[0] == 1
    assert await store.upkeep.delete_old("streams", NOW + 1) == 1
    (again,) = await store.published.record([publication("1", key="a")])
    assert not again.known


# --- transactions


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """How many events each transaction recorded, by call. It has room for six events, 10,000 bytes and six
    comparisons."""
    found: list[list[int]] = []
    record = PublishedStore._record

    def watched(self: PublishedStore, connection: Any, items: Any) -> Any:
        answers = record(self, connection, items)
        found.append([len(one) for one in answers])
        return answers

    for name, most in {"MAX_EVENTS": 6, "MAX_BYTES": 10_000, "MAX_COMPARED": 6}.items():
        monkeypatch.setattr(published, name, most)
    monkeypatch.setattr(PublishedStore, "_record", update_wrapper(watched, record))  # with its marks
    return found


def comparing(count: int, first: int = 0) -> tuple[dict[str, Any], ...]:
    return ({"any": [{"exact": {f"/data/n{first + n}": 0}} for n in range(count)]},)


@pytest.mark.parametrize(
    ("filters", "transactions"),
    [
        ([], [[5]]),
        ([comparing(1)], [[5]]),
        ([comparing(2)], [[3], [2]]),
        ([comparing(2), comparing(2), comparing(2)], [[3], [2]]),
        ([comparing(2), comparing(2, 2)], [[1], [1], [1], [1], [1]]),
        ([comparing(9)], [[1], [1], [1], [1], [1]]),
    ],
)
async def test_transaction_makes_a_bounded_number_of_comparisons(
    store: Store, recorded: list[list[int]], filters: list[Any], transactions: list[list[int]]
) -> None:
    for number, one in enumerate(filters):
        await subscribed(store, f"sub_{number}", filters=one)
    events = [publication(str(n), key="a", data={"n0": 0}) for n in range(5)]
    taken = await store.published.record(events)
    assert [(one.id, one.known) for one in taken] == [(one.event.id, False) for one in events]
    assert recorded == transactions
    found = await rows(store, "SELECT event_id FROM deliveries WHERE subscription_id = 'sub_0' ORDER BY sequence")
    assert [row["event_id"] for row in found] == [one.event.id for one in events if filters]


@pytest.mark.parametrize(
    ("calls", "filters", "transactions"),
    [
        ([1] * 6, [], [[1] * 6]),
        ([1] * 9, [], [[1] * 6 + [0] * 3, [1] * 3]),
        ([4, 4, 1], [], [[4, 2, 0], [2, 1]]),
        ([9, 1], [], [[6, 0], [3, 1]]),
        ([1] * 5, [comparing(2)], [[1, 1, 1, 0, 0], [1, 1]]),
        ([2, 2], [comparing(9)], [[1, 0], [1, 0], [1], [1]]),
    ],
)
async def test_calls_that_come_together_share_a_transaction_while_it_has_room(
    store: Store, recorded: list[list[int]], calls: list[int], filters: list[Any], transactions: list[list[int]]
) -> None:
    for one in filters:
        await subscribed(store, filters=one)
    wanted = [[publication(f"{call} {n}", key="a") for n in range(count)] for call, count in enumerate(calls)]
    found = await asyncio.gather(*(store.published.record(one) for one in wanted))
    assert found == [[Taken(one.event.id, known=False) for one in call] for call in wanted]
    assert recorded == transactions


async def test_large_events_do_not_share_a_transaction(store: Store, recorded: list[list[int]]) -> None:
    sizes = [4_000, 4_000, 4_000, 50_000, 10]
    calls = [[publication(str(n), data="x" * size)] for n, size in enumerate(sizes)]
    await asyncio.gather(*(store.published.record(one) for one in calls))
    assert recorded == [[1, 1, 0, 0, 0], [1, 0, 0], [1, 0], [1]]


async def test_call_that_has_waited_longest_comes_first(store: Store, recorded: list[list[int]]) -> None:
    async def record(waited: int) -> None:
        events = [publication(f"{waited} {n}") for n in range(6)]
        await store.published.record(
            [one._replace(event=replace(one.event, recorded_at=NOW - waited)) for one in events]
        )

    await asyncio.gather(*map(record, (2, 1, 3)))
    assert recorded == [[0, 0, 6], [6, 0], [6]]


async def test_event_that_the_database_refuses_fails_alone(store: Store) -> None:
    await subscribed(store)
    events = [publication(str(n), key="a") for n in range(4)]
    events[1] = events[1]._replace(event=replace(events[1].event, subject={}))  # type: ignore[arg-type]
    found = await asyncio.gather(*(store.published.record([one]) for one in events), return_exceptions=True)
    assert [isinstance(one, StoreError) for one in found] == [False, True, False, False]
    assert sorted(await states(store)) == ["blocked", "blocked", "pending"]
