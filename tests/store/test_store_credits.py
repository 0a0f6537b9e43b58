"""Low credits in the database: the state and its event are one transaction, and one of two readings wins."""

from typing import Any

import pytest

from relay.core.events.event import CREDITS_LOW, Event
from relay.errors import StoreError
from relay.store.store import Store
from tests.support.store_kit import NOW, deliveries, relay_event, rows, subscription, together

PLACE = {"source": "revor", "name": "default"}


def low(number: int = 1, **fields: Any) -> Event:
    values = {"id": f"evt_{number}", "subject": "revor/default", "owner": "revor/default", **fields}
    return relay_event(CREDITS_LOW, **values)


async def mark(store: Store, since: float | None, event: Event | None = None, expected: float | None = None) -> bool:
    return await store.accounts.mark_credits(**PLACE, expected=expected, since=since, event=event)


async def since(store: Store) -> float | None:
    return await store.accounts.credits_low_since(**PLACE)


async def test_low_credits_are_written_with_their_event_and_its_deliveries(store: Store) -> None:
    await store.subscriptions.create(subscription("sub_a", types=(CREDITS_LOW,)))
    assert await since(store) is None
    assert await mark(store, NOW + 1 / 3, low())
    assert await since(store) == NOW + 1 / 3
    assert await mark(store, None, expected=NOW + 1 / 3)
    assert await since(store) is None
    assert await mark(store, NOW + 2, low(2))
    assert [row["event_id"] for row in await deliveries(store)] == ["evt_1", "evt_2"]


@pytest.mark.parametrize("is_low", [False, True])
async def test_of_two_readings_of_one_state_the_second_changes_nothing(store: Store, is_low: bool) -> None:
    """As after a takeover by another node, or if an answer comes late."""
    before = NOW if is_low else None
    if is_low:
        assert await mark(store, NOW, low())
    after = None if is_low else NOW + 1
    events = [None, None] if is_low else [low(1), low(2)]
    results = await together(store, *(mark(store, after, event, before) for event in events))
    assert sorted(results) == [False, True]
    assert not await mark(store, after, None if is_low else low(3), before)
    assert (await since(store), len(await rows(store, "SELECT id FROM events"))) == (after, 1)


async def test_an_event_that_cannot_be_written_leaves_the_state_as_it_was(store: Store) -> None:
    assert await mark(store, NOW, low())
    assert await mark(store, None, expected=NOW)
    with pytest.raises(StoreError):
        await mark(store, NOW + 1, low())  # its id is taken
    assert await since(store) is None
    assert await mark(store, NOW + 1, low(2))


async def test_low_credits_change_nothing_else_of_an_account(store: Store) -> None:
    await store.accounts.adopt("revor", "default", "key")
    assert await mark(store, NOW, low())
    assert await store.accounts.hold("revor", "default", "node", NOW, NOW + 60)
    await store.accounts.save_plan("revor", "default", {"a": 1}, None)
    assert (await since(store), await store.accounts.adopted()) == (NOW, [("revor", "default", "key")])
    assert [one.state for one in await store.accounts.all()] == ["ok"]
