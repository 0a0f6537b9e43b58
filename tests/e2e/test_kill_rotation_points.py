"""The relay is stopped between any two steps of a rotation of the encryption keys, while it delivers.

Every secret can be read at once, the next rotation ends it, the old key can be removed, and every promise is checked.
"""

import asyncio
import contextlib
import json
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from relay.config.keyring import KeyFile, key_id, new_key
from tests.support.kill_points import ROTATION_POINTS
from tests.support.kill_world import SEED, World, check_the_promise, in_turns, open_world

JOBS = 16
LATER = 3
STOP_SECONDS = 120.0
ROTATE = "/v1/keys/encryption/rotate"
CONSTANTS = {"relay.store.access.ciphertexts:READ_ROWS": 2}


def points() -> list[tuple[str, str]]:
    """A key file is SQLite's."""
    return [("sqlite", "rotation.filed"), *in_turns(point for point in ROTATION_POINTS if point != "rotation.filed")]


async def killed_while_it_rotates(world: World) -> None:
    with contextlib.suppress(aiohttp.ClientError):
        async with world.session.post(f"{world.relay.url}{ROTATE}") as response:
            raise AssertionError(f"{response.status}: {await response.text()}")
    await world.relay.killed_itself(STOP_SECONDS)


async def rotated(world: World) -> Any:
    """Rotates to the end. Returns the last part."""
    async with asyncio.timeout(STOP_SECONDS):
        while True:
            async with world.session.post(f"{world.relay.url}{ROTATE}") as response:
                assert response.status == 200, await response.text()
                part = await response.json()
            if not part["left"]:
                return part


@pytest.mark.parametrize(("database", "point"), points())
async def test_stop_at_any_point_of_a_rotation_keeps_every_promise(tmp_path: Path, database: str, point: str) -> None:
    async with open_world(tmp_path, f"{SEED}:{point}", database=database) as world:
        relay = world.relay
        relay.constants |= CONSTANTS
        await relay.serve()
        await relay.ready(world.session)
        await world.subscribe()
        for number in range(JOBS):
            body = {"sink": f"https://sink.example/{number}", "types": ["relay.test"]}
            async with world.session.post(f"{relay.url}/v1/subscriptions", json=body) as response:
                assert response.status == 201
        (old,) = (await world.get("/v1/keys"))["encryption"]["ids"]
        await relay.signal(signal.SIGTERM)
        assert await relay.ended(STOP_SECONDS) == 0
        if database != "sqlite":
            before = relay.environ.pop("RELAY_ENCRYPTION_KEY")
            relay.environ["RELAY_ENCRYPTION__KEYS"] = json.dumps([new_key(), before])

        await relay.serve(stop=(point, 1))
        await relay.ready(world.session)
        await asyncio.gather(*[world.register(await world.new_job()) for _ in range(JOBS)])
        await killed_while_it_rotates(world)
        if point.startswith("again"):
            await relay.serve(stop=(point, LATER))
            await relay.ready(world.session)
            await killed_while_it_rotates(world)

        await relay.serve()
        await relay.ready(world.session)
        ended = await rotated(world)
        ids = (await world.get("/v1/keys"))["encryption"]["ids"]
        assert ended == {"key": ids[0], "done": ended["done"], "left": 0, "unused": [old], "problem": None}
        assert ids[1:] == [old]
        if database == "sqlite":
            assert [key_id(key) for key in KeyFile(tmp_path / "revor-relay").read()] == ids
        report = await check_the_promise(world)
        assert report.jobs == JOBS
