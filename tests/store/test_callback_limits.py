"""How many callbacks a job may have, and to how many hosts those of one caller may go: also at once, and on two
nodes."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from relay.core.polling.tracking import Registration
from relay.core.records import CallbackRoom, Registered, SubscriptionRoom
from relay.errors import Conflict, InvalidRequest, RequestError
from relay.store.store import Store
from tests.support.store_kit import NOW, callback_for, intent, registration, rows, subscription

MOST = 3


async def callback(store: Store, number: int) -> str:
    """The id of a callback subscription."""
    sink = f"https://hooks.example/{number}"
    return await callback_for(store, sink, f"sub_{number}", NOW)


async def links(store: Store) -> int:
    return await count(store, "job_callbacks")


def job(**fields: Any) -> Registration:
    return registration("job", max_callbacks=MOST, **fields)


async def count(store: Store, table: str) -> int:
    (row,) = await rows(store, f"SELECT COUNT(*) AS n FROM {table}")
    return int(row["n"])


@pytest.fixture
async def both(store: Store, open_again: Callable[..., Awaitable[Store]]) -> list[Store]:
    """Two nodes; on SQLite, which has one, the same node twice."""
    return [store, await open_again() if store.database.shared else store]


async def test_a_job_has_only_so_many_callbacks(store: Store) -> None:
    ids = [await callback(store, number) for number in range(MOST + 1)]
    for id in ids[:MOST]:
        await store.jobs.register(job(callback_subscription_id=id))
    refused = job(callback_subscription_id=ids[MOST], metadata={"deal": 43}, priority="high")
    with pytest.raises(InvalidRequest, match="has 3 callbacks already") as raised:
        await store.jobs.register(refused)
    assert [error.code for error in raised.value.errors] == ["too_many_callbacks"]
    (found,) = await store.jobs.find("job")
    assert (found.metadata, found.weight, await links(store)) == ({}, 1.0, MOST)
    again = job(callback_subscription_id=ids[0], callback_types=("ai.revor.job.failed",))
    assert not (await store.jobs.register(again)).created
    (row,) = await rows(store, "SELECT types FROM job_callbacks WHERE types IS NOT NULL")
    assert "failed" in row["types"]


async def test_a_create_that_was_sent_is_tracked_without_a_callback_too_many(store: Store) -> None:
    ids = [await callback(store, number) for number in range(MOST + 1)]
    sent = intent()
    await store.intents.begin(sent)
    for id in ids[:MOST]:
        await store.jobs.register(job(callback_subscription_id=id))
    made = job(callback_subscription_id=ids[MOST], intent=sent, metadata={"deal": 43})
    result = await store.jobs.register(made)
    assert "has 3 callbacks already" in dict(result.not_attached)["callback"]
    assert result.job.metadata == {"deal": 43}
    assert await count(store, "intents") == 0
    assert await links(store) == MOST


async def test_callbacks_that_are_added_at_once_do_not_exceed_the_limit(both: list[Store]) -> None:
    ids = [await callback(both[0], number) for number in range(24)]

    async def add(number: int) -> Registered | RequestError:
        one = job(callback_subscription_id=ids[number])
        (result,) = await both[number % 2].jobs.register_many([one])
        return result

    results = await asyncio.gather(*(add(number) for number in range(len(ids))))
    assert sum(isinstance(result, Registered) for result in results) == MOST
    assert await links(both[0]) == MOST


async def test_a_caller_names_only_so_many_hosts(store: Store) -> None:
    claim = store.callback_hosts.claim
    assert await claim("crm", ["a", "b"], NOW, MOST) == set()
    assert await claim("crm", ["b", "c", "d", "a", "e", "d"], NOW, MOST) == {"d", "e"}
    assert await claim("other", ["d"], NOW, MOST) == set()
    assert await claim("crm", ["d"], NOW, MOST) == {"d"}
    assert await claim("crm", ["a", "b", "c"], NOW, 1) == set()  # a lower limit takes nothing away
    assert await claim("crm", ["d"], NOW, MOST + 1) == set()


async def test_hosts_that_are_named_at_once_do_not_exceed_the_limit(both: list[Store]) -> None:
    claims = [both[number % 2].callback_hosts.claim("crm", [f"host-{number}"], NOW, MOST) for number in range(24)]
    refused = await asyncio.gather(*claims)
    assert sum(map(len, refused)) == 24 - MOST
    assert await count(both[0], "callback_hosts") == MOST


async def test_a_host_is_free_again_once_it_was_not_named_for_long(store: Store) -> None:
    claim, day = store.callback_hosts.claim, 86_400.0
    await claim("crm", ["a", "b", "c"], NOW, MOST)
    await claim("crm", ["b"], NOW + 2 * day, MOST)
    assert await store.upkeep.delete_old("callback_hosts", NOW + day) == 2
    assert await claim("crm", ["d", "e", "f"], NOW + 2 * day, MOST) == {"f"}


async def test_nodes_count_the_subscriptions_of_a_token_together(both: list[Store]) -> None:
    room = SubscriptionRoom("token:1", fewer_than=MOST)
    made = [subscription(id=f"sub_{number}", sink=f"https://hooks.example/{number}") for number in range(2 * MOST)]
    stores = [both[number % 2].subscriptions for number in range(2 * MOST)]
    creating = (store.create(one, room) for store, one in zip(stores, made, strict=True))
    results = await asyncio.gather(*creating, return_exceptions=True)
    refused = [one for one in results if isinstance(one, Conflict)]
    assert (len(refused), {one.code for one in refused}) == (MOST, {"too_many_subscriptions"})
    assert await count(both[0], "subscriptions") == MOST
    (other,) = [made[place] for place, one in enumerate(results) if isinstance(one, Conflict)][:1]
    await both[0].subscriptions.create(other, SubscriptionRoom("token:2", fewer_than=1))
    await both[0].subscriptions.replace(replace(other, description="changed"), NOW)
    (kept,) = await rows(both[0], f"SELECT creator FROM subscriptions WHERE id = '{other.id}'")
    assert kept["creator"] == "token:2"


def room(job: str) -> CallbackRoom:
    return CallbackRoom((job, "revor", "default", ""), MOST)
