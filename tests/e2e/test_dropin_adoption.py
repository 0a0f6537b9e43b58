"""`proxy.adopt_unknown_keys`: a caller's key becomes an account once the upstream accepts a create with it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.relay_world import SETTINGS, RelayWorld, open_relay_world

ADOPTING = SETTINGS + "proxy: {adopt_unknown_keys: true}\n"
OTHER_KEY = "sk-revor-other-their0secret"
ORDER = {
    "account_id": "connect_account_email",
    "channel": "email",
    "action": "outreach",
    "recipient": {"address": "alex@example.com"},
    "content": {"text": "Hello"},
}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RelayWorld]:
    async with open_relay_world(tmp_path) as made:
        yield made


async def create(world: RelayWorld, key: str) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key}", "Relay-Callback": world.sink_url}
    url = f"{world.url}/api/v1/outreach/dispatches"
    async with world.session.post(url, json=ORDER, headers=headers) as response:
        return response.status, await response.json()


async def accounts(world: RelayWorld) -> list[str]:
    return [source["account"] for source in (await world.get("/v1/sources"))["items"]]


async def test_accepted_key_becomes_an_account_that_survives_a_restart(world: RelayWorld) -> None:
    world.settings(ADOPTING)
    await world.serve()
    status, answer = await create(world, OTHER_KEY)
    assert status == 202, answer
    job_id = answer["item"]["id"]
    await world.until_delivered([job_id])
    job = await world.get(f"/v1/jobs/{job_id}")
    name = job["account"]
    assert name.startswith("key-")
    assert await accounts(world) == ["default", name]
    assert (await world.get("/v1/intents"))["items"] == []

    assert await world.end() == 0
    assert world.logged("account_adopted") == [{**world.logged("account_adopted")[0], "account": name}]
    assert OTHER_KEY not in "\n".join(world.lines)
    assert OTHER_KEY.encode() not in b"".join(path.read_bytes() for path in world.folder.glob("relay.db*"))

    await world.serve()
    assert await accounts(world) == ["default", name]
    keys = {one["key"] for one in (await world.get("/v1/settings"))["items"]}
    assert "database.pool_size" in keys
    assert not any(name in key for key in keys), "the database has adopted accounts"
    status, answer = await create(world, OTHER_KEY)
    assert status == 202, answer
    await world.until_delivered([answer["item"]["id"]])
    assert await accounts(world) == ["default", name]


async def test_refused_key_is_not_adopted(world: RelayWorld) -> None:
    world.settings(ADOPTING)
    await world.serve()
    status, answer = await create(world, "sk-revor-revoked-x")
    assert (status, answer["error"]["code"]) == (401, "api_key_revoked")
    assert await accounts(world) == ["default"]
    assert (await world.get("/v1/intents"))["items"] == []


@pytest.mark.parametrize("options", [(), ("--dev",)])
async def test_unknown_key_is_refused_without_the_setting(world: RelayWorld, options: tuple[str, ...]) -> None:
    await world.serve(*options)
    status, answer = await create(world, OTHER_KEY)
    assert (status, answer["error"]["code"]) == (401, "relay_key_unknown")
    assert await accounts(world) == ["default"]
    assert (await world.call("GET", "/_sandbox", url=world.sandbox_url))[1]["jobs"] == 0
