"""After SIGHUP, new `delivery` settings apply to callbacks and to subscriptions without their own."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from relay.clock import from_rfc3339
from tests.support.e2e_world import World, open_e2e_world

HOUR = 3600.0


def reload(world: World, **delivery: Any) -> None:
    """Reloads the settings as SIGHUP does."""
    settings = world.settings
    world.node.reload(settings.replace(delivery=settings.delivery.replace(**delivery)))


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(300):
        while not await true():  # noqa: ASYNC110 - an attempt that failed signals nothing
            await asyncio.sleep(0.02)


async def pauses(world: World, subscription: str) -> list[float]:
    """The planned pauses after the attempts of a subscription's deliveries."""
    found = []
    listed = (await world.api.get(f"/v1/deliveries?subscription={subscription}")).json()["items"]
    for one in listed:
        for attempt in (await world.api.get(f"/v1/deliveries/{one['id']}")).json()["attempts"]:
            planned, began = from_rfc3339(attempt["next_attempt_at"]), from_rfc3339(attempt["started_at"])
            assert planned is not None
            assert began is not None
            found.append(planned - began)
    return found


async def test_reload_applies_to_callbacks_and_subscriptions_without_own_settings(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        unused = f"http://127.0.0.1:{free.getsockname()[1]}/hook"
    async with open_e2e_world(tmp_path) as world:
        made = await world.subscribe(sink=unused + "/default")
        own = await world.subscribe(sink=unused + "/own", config={"retry_schedule": [7], "timeout_seconds": 9})
        assert (made["config"]["timeout_seconds"], made["config"]["retry_schedule"][0]) == (15, 5)
        await world.api.post("/v1/jobs", json={"id": "other", "callback_url": unused})  # made under the first settings

        reload(world, retry_schedule=(HOUR,), jitter=0.0, timeout_seconds=2.0)
        shown = (await world.api.get(f"/v1/subscriptions/{made['id']}")).json()["config"]
        assert (shown["timeout_seconds"], shown["retry_schedule"]) == (2, [HOUR])
        shown = (await world.api.get(f"/v1/subscriptions/{own['id']}")).json()["config"]
        assert (shown["timeout_seconds"], shown["retry_schedule"]) == (9, [7])

        job = await world.job()
        await world.api.post("/v1/jobs", json={"id": job, "callback_url": unused})
        listed = (await world.api.get("/v1/subscriptions?callbacks=true")).json()["items"]
        (callback,) = (one for one in listed if one["sink"] == unused)
        assert (callback["config"]["timeout_seconds"], callback["config"]["retry_schedule"]) == (2, [HOUR])
        for subscription, pause in ((callback, HOUR), (made, HOUR), (own, 7)):

            async def tried(subscription: dict[str, Any] = subscription) -> bool:
                return bool(await pauses(world, subscription["id"]))

            await until(tried)
            found = await pauses(world, subscription["id"])
            assert all(pause <= one < pause + 5 for one in found), found
        targets = {target.subscription.id: target for target in world.node.dispatcher.slots}
        settings = world.node.dispatcher.shared.settings
        assert {name: settings.timeout_of(target.subscription) for name, target in targets.items()} == {
            callback["id"]: 2,
            made["id"]: 2,
            own["id"]: 9,
        }
