"""One message per incident, whatever sends: several deliveries at once, two nodes on PostgreSQL, and one that is killed
between the answer of Slack and the commit."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from relay.core.deliveries.credentials import SinkCredential, origin_text
from relay.core.deliveries.delivery import OutboundRequest, Response
from relay.core.events.event import Event, relay_event
from relay.core.subscriptions.subscription import Subscription
from relay.delivery.dispatcher import Dispatcher
from relay.ids import new_id
from relay.store.store import Store
from relay.testing import FakeClock
from subscribers.base import Dialogue, Kind
from subscribers.registry import kinds
from subscribers.slack import Slack
from subscribers.slack.dialogue import DIALOGUE
from tests.support.delivery_kit import only, shared
from tests.support.store_kit import NOW, rows
from tests.support.summaries import incident_data
from tests.vendors.slack_web import POST, TOKEN, SlackWeb

SINK = "https://slack.com/api/chat.postMessage"
INCIDENT = "inc_01jvpq0000000000000000000a"


class Slow:
    """Slack, which takes a moment, so that whatever could run meanwhile does."""

    def __init__(self) -> None:
        self.slack = SlackWeb()
        self.under_way = 0
        self.most = 0

    async def send(self, request: OutboundRequest, *, timeout_seconds: float) -> Response:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        for _ in range(20):
            await asyncio.sleep(0.001)
        self.under_way -= 1
        return await self.slack.send(request, timeout_seconds=timeout_seconds)


class KeylessSlack(Slack):
    def dialogue(self, subscription: Subscription) -> Dialogue | None:
        return replace(DIALOGUE, key=_no_key)


def _no_key(event: Event, subscription: Subscription) -> str | None:
    raise KeyError("group")


def node(store: Store, sink: Any, clock: FakeClock, kind: Kind | None = None) -> Dispatcher:
    return Dispatcher(shared(store, clock, sink, kinds=kinds() if kind is None else only(kind)))


async def subscribe(store: Store) -> None:
    credential = SinkCredential(
        id="crd_1", origin=origin_text(SINK), fields={"credentialtype": "ACCESSTOKEN", "accesstoken": TOKEN}
    )
    made = Subscription(
        id="sub_1",
        sink=SINK,
        kind="slack",
        types=("relay.incident.opened", "relay.incident.grew", "relay.incident.closed"),
        credential=credential,
        options={"channel": "C0CAMPAIGNS"},
        rate_per_second=1000.0,
        created_at=NOW,
    )
    await store.subscriptions.create(made)


async def tell(store: Store, kind: str, failed: int, at: float) -> None:
    """Records an event of the incident."""
    data = incident_data(
        incident=INCIDENT,
        kind="jobs",
        state="closed" if kind == "closed" else "open",
        source="revor",
        account="default",
        channel="linkedin",
        connect_account_id=None,
        connect_account_name=None,
        subscription=None,
        sink=None,
        code="proxy",
        hint=None,
        failed=failed,
        likely=None,
        first_failure_at=NOW,
        last_failure_at=at,
        opened_at=NOW,
        closed_at=at if kind == "closed" else None,
        closed_because="succeeded" if kind == "closed" else None,
    )
    event: Event = relay_event(
        new_id("evt", at), f"relay.incident.{kind}", at, data, dataschema="http://x/s.json", subject=INCIDENT
    )
    await store.events.record(event)


async def run(nodes: list[Dispatcher], clock: FakeClock, rounds: int = 12) -> None:
    for _ in range(rounds):
        await asyncio.gather(*(one.run_once() for one in nodes))
        await asyncio.gather(*(one.drain() for one in nodes))
        clock.advance(2.0)


async def test_deliveries_of_one_incident_at_once_post_one_message(
    store: Store, open_again: Callable[..., Awaitable[Store]], database_url: str
) -> None:
    clock, slow = FakeClock(NOW), Slow()
    stores = [store] if database_url.startswith("sqlite") else [store, await open_again()]
    await subscribe(store)
    for nth, (kind, failed) in enumerate([("opened", 3), ("grew", 10), ("grew", 100), ("closed", 120)]):
        await tell(store, kind, failed, NOW + nth)
    clock.advance(10.0)
    await run([node(one, slow, clock) for one in stores], clock)

    (head,) = slow.slack.channel()
    assert head.text.startswith("LinkedIn jobs work again: 120 failed")
    assert len(head.replies) in (3, 4), "a message that begins with a later event does not repeat it"
    assert slow.most == 1, "one delivery of the incident at a time"
    states = await rows(store, "SELECT state, made_count FROM deliveries")
    assert {row["state"] for row in states} == {"delivered"}
    assert {row["made_count"] for row in states} == {1}, "waiting for a turn is no attempt"
    assert await rows(store, "SELECT 1 AS held FROM sink_memories WHERE token IS NOT NULL") == []


async def test_delivery_whose_key_cannot_be_made_is_attempted_all_the_same(store: Store) -> None:
    clock, slack = FakeClock(NOW), SlackWeb()
    await subscribe(store)
    await tell(store, "opened", 3, NOW)
    clock.advance(1.0)
    await run([node(store, slack, clock, KeylessSlack())], clock, rounds=1)
    (delivery,) = await rows(store, "SELECT state, made_count FROM deliveries")
    assert delivery == {"state": "delivered", "made_count": 1}
    assert await rows(store, "SELECT 1 AS one FROM sink_memories") == []


@pytest.mark.parametrize("after", [1, 2])
async def test_kill_after_an_answer_doubles_at_most_that_message(store: Store, after: int) -> None:
    """`after`: the process is killed while this request is under way, which Slack takes."""
    clock, slack = FakeClock(NOW), SlackWeb()
    await subscribe(store)
    await tell(store, "opened", 3, NOW)
    clock.advance(1.0)

    class Network:
        sent = 0

        async def send(self, request: OutboundRequest, *, timeout_seconds: float) -> Response:
            answer = await slack.send(request, timeout_seconds=timeout_seconds)
            self.sent += 1
            if self.sent == after:
                raise asyncio.CancelledError
            return answer

    dying = node(store, Network(), clock)
    await dying.run_once()
    await asyncio.gather(dying.drain(), return_exceptions=True)
    clock.advance(60.0)  # its leases end

    await tell(store, "grew", 10, clock())
    await tell(store, "closed", 12, clock() + 1)
    clock.advance(2.0)
    await run([node(store, slack, clock)], clock)

    posts = slack.channel()
    assert len(posts) == (2 if after == 1 else 1), "what was not remembered is posted once more"
    assert posts[-1].text.startswith("LinkedIn jobs work again: 12 failed")
    assert len(posts[-1].replies) == (3 if after == 1 else 4)
    assert posts[0] is posts[-1] or (posts[0].edits, posts[0].replies) == ([], [])
    assert [method for method, _ in slack.calls].count(POST) == 5
