"""The relay is stopped between any two steps of an administrative request.

After a restart no change is without its entry, and the audit verifies.
"""

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.kill_points import AUDIT_POINTS
from tests.support.kill_world import SEED, World, in_turns, open_world

STOP_SECONDS = 120.0
UNWRITTEN = {"audit.called", "audit.written"}
CHANGED = {"subscription.committed", "audit.ended"}
ACTION = "subscriptions.create"


async def read(world: World, path: str) -> Any:
    async with world.session.get(f"{world.relay.url}{path}") as response:
        assert response.status == 200, await response.text()
        return await response.json()


@pytest.mark.parametrize(("database", "point"), in_turns(AUDIT_POINTS))
async def test_stop_at_any_point_of_a_write_leaves_no_change_without_an_entry(
    tmp_path: Path, database: str, point: str
) -> None:
    async with open_world(tmp_path, f"{SEED}:{point}", database=database) as world:
        await world.relay.serve(stop=(point, 1))
        await world.relay.ready(world.session)
        with pytest.raises(aiohttp.ClientError):
            await world.subscribe()
        await world.relay.killed_itself(STOP_SECONDS)

        await world.relay.serve()
        await world.relay.ready(world.session)
        entries = (await read(world, f"/v1/audit?action={ACTION}"))["items"]
        subscriptions = (await read(world, "/v1/subscriptions"))["items"]
        assert len(subscriptions) == (point in CHANGED)
        results = [] if point in UNWRITTEN else ["ok" if point == "audit.ended" else "started"]
        assert [entry["result"] for entry in entries] == results
        verified = await read(world, "/v1/audit/verify")
        assert (verified["ok"], verified["findings"]) == (True, [])
        starts = (await read(world, "/v1/audit?action=node.start"))["items"]
        assert len(starts) == 2
