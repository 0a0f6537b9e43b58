"""Handshakes: turns that end by themselves, consent that belongs to a sink, and the states they lead to."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from relay.core.subscriptions.subscription import Consent, Subscription
from relay.store.store import Store
from tests.support.store_kit import NOW, subscription

CONSENT = Consent(origin="relay.example", at=NOW + 1, rate_per_minute=60)


async def made(store: Store, id: str = "sub_1", **fields: Any) -> Subscription:
    values = {"state": "pending", "handshake_at": NOW, "handshake": "required", **fields}
    return await store.subscriptions.create(subscription(id, **values))


async def found(store: Store, id: str = "sub_1") -> Subscription:
    one = await store.subscriptions.get(id)
    assert one is not None
    return one


UNTIL = NOW + 60


async def consented(store: Store, id: str = "sub_1") -> bool:
    """A turn that ends with consent."""
    assert await store.handshakes.take_turn(id, NOW, UNTIL)
    return await store.handshakes.end_turn(id, UNTIL, NOW + 1, "agreed", CONSENT, None)


async def test_consent_is_recorded_with_the_state(store: Store) -> None:
    await made(store)
    version = store.subscriptions.version
    assert await consented(store)
    after = await found(store)
    assert (after.state, after.state_reason, after.state_since, after.handshake_at) == (
        "enabled",
        "agreed",
        NOW + 1,
        None,
    )
    assert after.consent == CONSENT
    assert after.drain_since == NOW + 1, "what waits is sent slowly at first"
    assert store.subscriptions.version > version, "every node loads it again"


async def test_consent_of_another_sink_is_not_recorded(store: Store) -> None:
    await made(store)
    assert await store.handshakes.take_turn("sub_1", NOW, UNTIL)
    moved = replace(await found(store), sink="https://elsewhere.example/")
    await store.subscriptions.replace(moved, NOW + 1, lambda one: one.consent is None)
    assert not await store.handshakes.end_turn("sub_1", UNTIL, NOW + 2, "agreed", CONSENT, None)
    assert not await store.handshakes.end_turn("sub_9", UNTIL, NOW + 2, "agreed", CONSENT, None)
    after = await found(store)
    assert (after.state, after.consent, after.handshake_at) == ("pending", None, NOW + 1)


async def test_one_node_at_a_time_has_the_turn(
    store: Store, open_again: Callable[..., Awaitable[Store]], database_url: str
) -> None:
    await made(store)
    other = store if database_url.startswith("sqlite") else await open_again()
    turns = await asyncio.gather(
        *(node.handshakes.take_turn("sub_1", NOW, NOW + 60) for node in (store, other, store, other))
    )
    assert turns.count(True) == 1
    assert not await store.handshakes.take_turn("sub_1", NOW + 59, NOW + 120)
    assert await store.handshakes.take_turn("sub_1", NOW + 60, NOW + 120), "its holder has died"


async def test_late_result_does_not_end_another_turn(store: Store) -> None:
    await made(store)
    assert await store.handshakes.take_turn("sub_1", NOW, NOW + 60)
    assert await store.handshakes.take_turn("sub_1", NOW + 60, NOW + 120)
    assert not await store.handshakes.end_turn("sub_1", NOW + 60, NOW + 61, "too late", None, None)
    assert (await found(store)).handshake_at == NOW + 120
    version = store.subscriptions.version
    assert await store.handshakes.end_turn("sub_1", NOW + 120, NOW + 121, "no", None, NOW + 300)
    after = await found(store)
    assert (after.handshake_at, after.state_reason, after.state) == (NOW + 300, "no", "pending")
    assert (after.state_since, after.consent, store.subscriptions.version) == (None, None, version)


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"state": "enabled"}, "pending"),
        ({"state": "enabled", "state_since": NOW - 5}, "pending"),
        ({"state": "disabled", "probe_at": NOW}, "pending"),
        ({"state": "disabled"}, "disabled"),
        ({"state": "paused"}, "paused"),
    ],
)
async def test_subscription_that_was_sent_to_without_a_handshake_becomes_pending(
    store: Store, fields: dict[str, Any], state: str
) -> None:
    one = await made(store, handshake_at=None, **fields)
    await store.handshakes.await_consent(one, NOW)
    after = await found(store)
    assert after.state == state
    assert after.handshake_at == (NOW if state == "pending" else None)
    assert after.probe_at is None


async def test_put_decides_by_the_consent_that_is_stored(store: Store) -> None:
    before = await made(store)
    assert await consented(store)

    def awaits(one: Subscription) -> bool:
        return one.consent is None

    await store.subscriptions.replace(replace(before, description="new"), NOW + 2, awaits)
    assert ((await found(store)).state, (await found(store)).consent) == ("enabled", CONSENT)
    await store.subscriptions.replace(replace(before, sink="https://moved.example/"), NOW + 3, awaits)
    after = await found(store)
    assert (after.state, after.state_since, after.handshake_at, after.consent) == ("pending", NOW + 3, NOW + 3, None)
    await store.subscriptions.replace(after, NOW + 4)
    assert ((await found(store)).state, (await found(store)).handshake_at) == ("enabled", None)


async def test_resume_begins_anew_and_forgets_failures(store: Store) -> None:
    await made(store, state="disabled", handshake_at=None)
    await store.subscriptions.set_sink_health("sub_1", failing_since=NOW, paused_until=NOW + 60)
    for at in (NOW + 1, NOW + 2):
        await store.subscriptions.set_state("sub_1", "pending", at, "waits")
        after = await found(store)
        assert (after.state, after.state_since, after.handshake_at, after.failing_since) == ("pending", at, at, None)
    await store.subscriptions.set_state("sub_1", "paused", NOW + 3)
    assert (await found(store)).handshake_at is None
