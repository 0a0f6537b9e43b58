"""A CRM limits an account, not a subscription: one refusal pauses all subscriptions of the account, on every node and
after a restart, and together they keep its rate."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest

from relay.core.deliveries.credentials import SinkCredential, origin_text
from relay.core.deliveries.delivery import OutboundRequest, Outcome, Response
from relay.core.subscriptions.subscription import Subscription
from relay.delivery.dispatcher import Dispatcher
from relay.store.store import Store
from relay.testing import FakeClock
from subscribers.webhook import Webhook
from tests.support.delivery_kit import shared
from tests.support.store_kit import NOW, claim, execute, relay_event, rows, subscription

MANY = 200


class Crm(Webhook):
    """One request each; the host is the portal. A delivered answer says when the limit is used up."""

    rate_per_second: float | None = 5.0

    def portal(self, subscription: Subscription) -> str | None:
        return urlsplit(subscription.sink).hostname

    def classify(self, response: Response, now: float) -> Outcome:
        outcome = super().classify(response, now)
        left = response.header("x-remaining")
        return replace(outcome, retry_after_seconds=30.0) if left == "0" else outcome


class Portals:
    """CRMs by host. Answers 429 with a pause until `opens_at`."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.opens_at: dict[str, float] = {}
        self.asked: list[tuple[float, str, str]] = []
        self.remaining: tuple[tuple[str, str], ...] = ()
        self.tokens_fail = ""

    async def send(self, request: OutboundRequest, *, timeout_seconds: float) -> Response:
        parts = urlsplit(request.url)
        host, now = parts.hostname or "", self.clock()
        if host == "tokens.test":
            return Response(started_at=now, duration_ms=1.0, error=self.tokens_fail)
        self.asked.append((now, host, parts.path[1:]))
        await asyncio.sleep(0)
        wait = self.opens_at.get(host, 0.0) - now
        if wait > 0:
            return Response(started_at=now, duration_ms=1.0, status_code=429, headers=(("Retry-After", str(wait)),))
        return Response(started_at=now, duration_ms=1.0, status_code=201, headers=self.remaining)

    def count(self, host: str) -> int:
        return sum(1 for one in self.asked if one[1] == host)


class World:
    """Nodes on one database, and the portals."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self.clock = FakeClock(NOW)
        self.portals = Portals(self.clock)
        self.stores = stores
        self.nodes = [self.node(store) for store in stores]

    def node(self, store: Store) -> Dispatcher:
        return Dispatcher(shared(store, self.clock, self.portals, kinds={"crm": Crm(), "webhook": Webhook()}))

    async def subscribe(self, *ids: str, host: str = "acme.test", kind: str = "crm", **fields: Any) -> None:
        values = {"kind": kind, "types": ("relay.source.down", "ai.revor.job.failed"), "created_at": NOW, **fields}
        for id in ids:
            await self.stores[0].subscriptions.create(subscription(id, sink=f"https://{host}/{id}", **values))

    async def event(self) -> None:
        await self.stores[0].events.record(relay_event(now=self.clock()))

    async def run(self, *nodes: Dispatcher, seconds: float = 0.0, step: float = 0.25) -> None:
        """Sends what is due: now, and at each step."""
        for nth in range(int(seconds / step) + 1):
            self.clock.advance(step if nth else 0.0)
            for store in self.stores:
                await store.subscriptions.find_changes()
            for node in nodes or self.nodes:
                while await node.run_once() == 0 or node.slots.in_flight:
                    await node.drain()


@pytest.fixture
async def world(store: Store, open_again: Callable[..., Awaitable[Store]], database_url: str) -> World:
    """Two nodes; on SQLite both use one store."""
    return World([store, store if database_url.startswith("sqlite") else await open_again()])


async def pauses(store: Store) -> Counter[float | None]:
    return Counter(row["paused_until"] for row in await rows(store, "SELECT paused_until FROM subscriptions"))


async def test_one_refusal_pauses_hundreds_of_subscriptions_on_all_nodes_and_after_a_restart(world: World) -> None:
    ids = [f"sub_{nth:03}" for nth in range(MANY)]
    await world.subscribe(*ids)
    await world.subscribe("sub_globex", host="globex.test")
    await world.subscribe("sub_plain", kind="webhook")
    world.portals.opens_at["acme.test"] = NOW + 120
    await world.event()
    first, second = world.nodes
    await world.run(first)
    assert [path for _, host, path in world.portals.asked if host == "acme.test" and path in ids] == [ids[0]]
    assert world.portals.count("globex.test") == 1
    assert [path for *_, path in world.portals.asked if path == "sub_plain"] == ["sub_plain"], "it shares no limit"
    assert await pauses(world.stores[1]) == {NOW + 120: MANY + 1, None: 1}

    refused = world.portals.count("acme.test")
    await world.run(seconds=60, step=10)
    restarted = world.node(world.stores[0])
    await world.run(restarted, second, seconds=59, step=10)
    assert world.portals.count("acme.test") == refused, "no node asks again before the pause is over"

    await world.run(restarted, seconds=10, step=10)
    await world.run(restarted, seconds=10)
    served = [path for _, host, path in world.portals.asked[refused + 1 :] if host == "acme.test" and path in ids]
    assert len(set(served)) == len(served) >= 35, "each has had its turn before one has a second"
    seconds = Counter(int(at) for at, host, path in world.portals.asked if path in ids and at >= NOW + 120)
    assert max(seconds.values()) <= 5, "all of them together keep the rate of the portal"


async def test_subscriptions_of_a_portal_take_turns_whatever_their_backlogs(world: World) -> None:
    await world.subscribe("sub_long")
    for _ in range(30):
        await world.event()
    await world.subscribe("sub_short")
    await world.event()
    await world.run(world.nodes[0], seconds=2)
    served = [path for *_, path in world.portals.asked]
    assert "sub_short" in served[:3]
    assert 8 <= len(served) <= 11


async def test_deleted_and_moved_subscriptions_do_not_wait_for_the_portal(world: World) -> None:
    await world.subscribe("sub_1", "sub_moves", "sub_goes")
    await world.event()
    world.portals.opens_at["acme.test"] = NOW + 600
    first = world.nodes[0]
    await world.run(first)
    store = world.stores[0]
    moving = await store.subscriptions.get("sub_moves")
    assert moving is not None
    await store.subscriptions.replace(replace(moving, sink="https://globex.test/sub_moves"), NOW)
    await store.subscriptions.remove("sub_goes", NOW)
    await world.run(first, seconds=10, step=1)
    assert [path for _, host, path in world.portals.asked if host == "globex.test"] == ["sub_moves"]
    assert await pauses(store) == {NOW + 600: 1, None: 1}
    await world.subscribe("sub_new")
    await world.event()
    await world.run(first, seconds=60, step=10)
    assert "sub_new" not in [path for *_, path in world.portals.asked], "it joins the pause"
    await world.run(first, seconds=600, step=20)
    assert {"sub_new", "sub_1"} <= {path for *_, path in world.portals.asked}
    assert "sub_goes" not in [path for *_, path in world.portals.asked[1:]]


async def test_delivered_answer_that_leaves_nothing_pauses_the_portal(world: World) -> None:
    await world.subscribe("sub_1", "sub_2")
    await world.event()
    world.portals.remaining = (("X-Remaining", "0"),)
    await world.run(seconds=10, step=1)
    assert len(world.portals.asked) == 1
    assert await pauses(world.stores[0]) == {NOW + 30: 2}
    await world.run(seconds=21, step=1)
    assert [path for *_, path in world.portals.asked] == ["sub_1", "sub_2"]


async def test_probe_of_a_disabled_subscription_waits_for_its_portal(world: World) -> None:
    await world.subscribe("sub_1", "sub_off")
    store = world.stores[0]
    await world.event()
    claimed = await claim(store, "sub_off")
    assert claimed
    await store.deliveries.release(claimed, NOW)
    await _disable(store, "sub_off", probe_at=NOW + 30)
    world.portals.opens_at["acme.test"] = NOW + 300
    await world.run(world.nodes[0], seconds=290, step=10)
    assert [path for *_, path in world.portals.asked] == ["sub_1"]
    await world.run(world.nodes[0], seconds=30, step=1)
    assert "sub_off" in [path for *_, path in world.portals.asked]


@pytest.mark.parametrize("error", ["timeout", "proxy"])
async def test_token_that_cannot_be_had_pauses_no_other_subscription_of_the_portal(world: World, error: str) -> None:
    world.portals.tokens_fail = error
    fields = {"token_url": "https://tokens.test/", "client_id": "me", "client_secret": "secret"}
    tokens = SinkCredential(
        id="cred_1", origin=origin_text("https://acme.test"), fields={"credentialtype": "CLIENTCREDENTIALS", **fields}
    )
    await world.subscribe("sub_1", credential=tokens)
    await world.subscribe("sub_2")
    await world.event()
    await world.run(world.nodes[0])
    one, two = (world.nodes[0].slots.get(id) for id in ("sub_1", "sub_2"))
    assert one is not None
    assert two is not None
    assert (one.sink.paused_until > NOW, two.sink.paused_until) == (True, 0.0)


async def _disable(store: Store, id: str, probe_at: float) -> None:
    await execute(
        store,
        "UPDATE subscriptions SET state = 'disabled', state_since = :now, probe_at = :at WHERE id = :id",
        now=NOW,
        at=probe_at,
        id=id,
    )
    store.subscriptions.changed()
