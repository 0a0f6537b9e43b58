"""Callback URLs at registration: a known subscription is not looked up again, and a removed one is never reused."""

import asyncio
from collections.abc import Sequence
from typing import Any

from relay.core.polling.tracking import TrackRequest
from relay.core.records import WantedCallback
from tests.simulation.test_tracking_reports import tracking_of
from tests.support.simulation_world import open_world


class Asked:
    """Records lookups and delays them."""

    def __init__(self, subscriptions: Any) -> None:
        self.urls: list[str] = []
        self.free = asyncio.Event()
        self._callbacks_for = subscriptions.callbacks_for
        subscriptions.callbacks_for = self

    async def __call__(self, wanted: Sequence[WantedCallback], *rest: Any) -> Any:
        self.urls += [one.sink for one in wanted]
        found = await self._callbacks_for(wanted, *rest)
        await self.free.wait()
        return found


def request(name: str, url: str = "https://callback.example/one") -> TrackRequest:
    return TrackRequest(external_id=name, source="revor", account="default", callback_url=url)


async def asked_for(asked: Asked, count: int) -> None:
    async with asyncio.timeout(25):
        while len(asked.urls) < count:
            await asyncio.to_thread(lambda: None)


async def test_callback_is_looked_up_once_until_a_subscription_changes(tmp_path):
    async with open_world(tmp_path) as world:
        tracking, asked = tracking_of(world), Asked(world.store.subscriptions)
        asked.free.set()
        await tracking.register([request("first", "https://callback.example/first")])  # the first callback is a change
        await tracking.register([request("a")])
        before = len(asked.urls)
        await tracking.register([request("b"), request("c")])
        await tracking.register([request("d")])
        assert len(asked.urls) == before
        await world.subscribe()
        await tracking.register([request("e")])
        assert len(asked.urls) == before + 1


async def test_lookup_from_before_a_change_is_not_cached(tmp_path):
    one, two = "https://callback.example/one", "https://callback.example/two"
    async with open_world(tmp_path) as world:
        tracking, asked = tracking_of(world), Asked(world.store.subscriptions)
        asked.free.set()
        await tracking.register([request("a", one), request("b", two)])
        await world.subscribe()
        asked.free.clear()
        asked.urls.clear()
        early = asyncio.ensure_future(tracking.register([request("c", one)]))
        await asked_for(asked, 1)
        await world.subscribe()  # stands for the removal of the one just found
        late = asyncio.ensure_future(tracking.register([request("d", two)]))
        await asked_for(asked, 2)
        asked.free.set()
        await asyncio.gather(early, late)
        await tracking.register([request("e", one), request("f", two)])
        assert asked.urls == [one, two, one]
