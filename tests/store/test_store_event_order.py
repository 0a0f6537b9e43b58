"""Events about one thing that is no job keep their order: an incident, a connect account, an account of a source, a
subscription, a group. Whatever a sink does with the first, the second comes after it."""

from dataclasses import replace
from typing import Any

import pytest

from relay.core.deliveries.bundles import Bundle, Room
from relay.core.deliveries.delivery import Claimed
from relay.core.deliveries.replay import ReplayRequest
from relay.core.events.event import Event, Origin, account_event, relay_event
from relay.store.deliveries.claims import ClaimRequest
from relay.store.store import Store
from tests.support.store_kit import NOW, claim, claim_bundle, lease, result_of, states, subscription

OPENED, CLOSED = "relay.incident.opened", "relay.incident.closed"
ORIGIN = Origin(
    source="https://revor.ai/api/v1/outreach/jobs", type_prefix="ai.revor.job", dataschema="http://x/s.json"
)
BUNDLE = Bundle(max_events=10, wait_seconds=0.0, max_bytes=1_000_000, own_outcomes=True)


def told(type: str, subject: str | None, *, owner: str | None = "revor/default", now: float = NOW) -> Event:
    return relay_event(
        f"evt_{type}_{subject}_{owner}", type, now, {}, dataschema="http://x", subject=subject, owner=owner
    )


def of_account(kind: str, id: str = "acc_1") -> Event:
    data = {"account_id": id, "account": "default", "source": "revor", "channel": "linkedin"}
    return account_event(f"evt_{kind}_{id}", kind, NOW, data, ORIGIN, dataschema="http://x")


ORDERED = {
    "incident": (told(OPENED, "inc_1"), told("relay.incident.grew", "inc_1"), told(CLOSED, "inc_1")),
    "connect account": (of_account("needs_reconnect"), of_account("recovered"), of_account("removed")),
    "source": tuple(told(f"relay.source.{one}", "revor/default") for one in ("down", "recovered", "unauthorized")),
    "subscription": tuple(told(f"relay.subscription.{one}", "sub_9") for one in ("disabled", "recovered")),
    "group": tuple(replace(told("relay.group.finished", "spring"), id=f"evt_{n}") for n in range(3)),
}
APART = {
    "incidents": (told(OPENED, "inc_1"), told(CLOSED, "inc_2")),
    "connect accounts": (of_account("needs_reconnect"), of_account("recovered", "acc_2")),
    "owners": (told("relay.group.finished", "spring"), told("relay.group.finished", "spring", owner="revor/emea")),
    "an account and a group of one name": (of_account("removed", "spring"), told("relay.group.finished", "spring")),
    "creates": tuple(replace(told("relay.create.unknown", None), id=f"evt_{n}") for n in range(2)),
    "deliveries": tuple(replace(told("relay.delivery.expired", "sub_9"), id=f"evt_{n}") for n in range(2)),
}


async def subscribed(store: Store, *events: Event, **fields: Any) -> None:
    types = tuple(dict.fromkeys(event.type for event in events))
    await store.subscriptions.create(subscription("sub_1", types=types, **fields))


async def order_of_arrival(store: Store, *, now: float = NOW) -> list[str]:
    """The events, if the sink refuses each of them once."""
    arrived: list[str] = []
    refused: set[str] = set()
    for _ in range(20):
        for one in await claim(store, "sub_1", now=now):
            if one.id in refused:
                arrived.append(one.event.id)
                await store.deliveries.record(result_of(one, now=now))
            else:
                refused.add(one.id)
                await store.deliveries.record(result_of(one, "pending", now=now, due_at=now))
    return arrived


@pytest.mark.parametrize("events", ORDERED.values(), ids=ORDERED.keys())
async def test_later_event_waits_for_the_earlier_one(store: Store, events: tuple[Event, ...]) -> None:
    await subscribed(store, *events)
    for event in events:
        await store.events.record(event)
    assert await states(store) == ["pending", *["blocked"] * (len(events) - 1)]
    assert await order_of_arrival(store) == [event.id for event in events]
    assert [(await store.events.get(event.id)).sequence for event in events] == [1, 2, 3][: len(events)]  # type: ignore[union-attr]


@pytest.mark.parametrize("events", APART.values(), ids=APART.keys())
async def test_events_about_different_things_do_not_wait_for_each_other(
    store: Store, events: tuple[Event, ...]
) -> None:
    await subscribed(store, *events)
    for event in events:
        await store.events.record(event)
    assert await states(store) == ["pending"] * len(events)


async def test_event_that_is_given_up_holds_nothing_up(store: Store) -> None:
    first, _, last = ORDERED["incident"]
    await subscribed(store, first, last)
    for event in (first, last):
        await store.events.record(event)
    (one,) = await claim(store, "sub_1")
    await store.deliveries.record(result_of(one, "dead", reason="http_400"))
    (next_one,) = await claim(store, "sub_1")
    assert next_one.event.type == CLOSED


async def test_bundle_and_pull_have_them_in_their_order(store: Store) -> None:
    events = ORDERED["incident"]
    await subscribed(store, *events)
    await store.subscriptions.create(
        subscription("sub_pull", sink="", kind="pull", types=tuple(event.type for event in events))
    )
    for event in events:
        await store.events.record(event)
    found = await claim_bundle(store, "sub_1", (0, 1, 2), BUNDLE, Room(), 1, NOW, lease())
    bundle: tuple[Claimed, ...] = found.requests[0]
    assert [one.event.id for one in bundle] == [event.id for event in events]
    pulled = await store.pulls.claim(
        ClaimRequest(subscription_id="sub_pull", bundle=BUNDLE, now=NOW, lease=lease(token="pull/sub_pull/1"))
    )
    assert [one.event.id for one in pulled.claimed] == [event.id for event in events]


async def test_replay_sends_them_in_their_order(store: Store) -> None:
    events = ORDERED["incident"]
    await subscribed(store, *events)
    for event in events:
        await store.events.record(event)
    await order_of_arrival(store)
    request = ReplayRequest(id="rpl_1", subscription_id="sub_1", since=0.0, until=NOW + 9, now=NOW + 10, only="all")
    made = await store.replays.create(request)
    await store.replays.advance(made.id, "node", NOW + 10)
    assert sorted(await states(store)) == ["blocked", "blocked", "pending"]
    assert await order_of_arrival(store, now=NOW + 20) == [event.id for event in events]
