"""Callbacks cannot make the relay send one client's traffic to many places: over the API and the drop-in."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from relay.config.settings import TokenSettings
from tests.support.dropin_requests import DISPATCH, DISPATCHES
from tests.support.e2e_world import World, open_e2e_world

TOKENS = tuple(
    TokenSettings(name=name, token=f"rl_{name}_0123456789abcdef", scopes=(scope,))
    for name, scope in (("ops", "admin"), ("crm", "jobs:write"), ("dropin", "proxy"))
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with asyncio.timeout(300), open_e2e_world(tmp_path, tokens=TOKENS) as world:
        yield world


def of(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer rl_{name}_0123456789abcdef"}


async def register(world: World, name: str, id: str, callback: str) -> httpx2.Response:
    return await world.api.post("/v1/jobs", json={"id": id, "callback_url": callback}, headers=of(name))


async def create(world: World, callback: str, key: str, name: str = "dropin") -> httpx2.Response:
    headers = {**of(name), "Relay-Callback": callback, "Idempotency-Key": key}
    return await world.api.post(DISPATCHES, json=DISPATCH, headers=headers)


async def made(world: World) -> int:
    """How many jobs there are at the upstream."""
    answer = await world.sandbox.get("/_sandbox/jobs")
    return len(answer.json()["jobs"])


def codes(answer: Any) -> list[str]:
    return [answer["code"], *(error["code"] for error in answer["errors"])]


async def test_one_job_has_eight_callbacks(world: World) -> None:
    answers = [await register(world, "crm", "job", f"https://hook.example/{number}") for number in range(9)]
    assert [answer.status_code for answer in answers] == [201, *[200] * 7, 422]
    assert codes(answers[8].json()) == ["too_many_callbacks", "too_many_callbacks"]
    jobs = [{"id": "batch", "callback_url": f"https://hook.example/{number}"} for number in range(1_500)]
    result = (await world.api.post("/v1/jobs/batch", json={"jobs": jobs}, headers=of("crm"))).json()
    assert (result["created"], result["existing"], len(result["rejected"])) == (1, 7, 1_492)
    assert {one["code"] for one in result["rejected"]} == {"too_many_callbacks"}


async def test_one_tokens_callbacks_go_to_twenty_hosts(world: World) -> None:
    jobs = [{"id": f"job-{number}", "callback_url": f"https://{number}.example/x"} for number in range(25)]
    result = (await world.api.post("/v1/jobs/batch", json={"jobs": jobs}, headers=of("crm"))).json()
    assert (result["created"], [one["index"] for one in result["rejected"]]) == (20, [20, 21, 22, 23, 24])
    refused = await register(world, "crm", "new", "https://20.example/x")
    assert (refused.status_code, codes(refused.json())) == (422, ["too_many_callback_hosts"] * 2)
    assert (await register(world, "crm", "new", "https://19.example:443/other")).status_code == 201
    assert (await register(world, "ops", "other", "https://20.example/x")).status_code == 201
    settings = world.node.settings
    world.node.reload(settings.replace(auth=settings.auth.replace(max_callback_hosts_per_token=21)))
    assert (await register(world, "crm", "newer", "https://20.example/x")).status_code == 201
    assert (await register(world, "crm", "newest", "https://21.example/x")).status_code == 422


async def test_create_with_a_callback_to_one_host_too_many_is_not_sent(world: World) -> None:
    for number in range(20):
        assert (await create(world, f"https://{number}.example/x", f"key-{number}")).status_code == 202
    before = await made(world)
    refused = await create(world, "https://20.example/x", "key-20")
    assert refused.status_code == 422
    assert refused.json()["error"]["code"] == "relay_too_many_callback_hosts"
    assert refused.json()["error"]["message"].endswith("Nothing was sent")
    assert await made(world) == before
    assert (await world.api.get("/v1/intents", headers=of("ops"))).json()["items"] == []
    assert (await create(world, "https://3.example/x", "key-21")).status_code == 202
    with_its_key = await create(world, "https://20.example/x", "key-22", name="ops")
    assert with_its_key.status_code == 202


async def test_keys_that_become_accounts_do_not_share_one_limit(tmp_path: Path) -> None:
    """Their first creates cannot be refused for it: whether such a key is valid is known once it was used."""
    async with asyncio.timeout(300), open_e2e_world(tmp_path, tokens=TOKENS, adopts_keys=True) as world:
        for number in range(22):
            headers = {
                "Authorization": f"Bearer sk-revor-c{number}",
                "Relay-Callback": f"https://{number}.example/x",
            }
            answer = await world.api.post(DISPATCHES, json=DISPATCH, headers=headers)
            assert (answer.status_code, answer.headers.get("relay-not-attached")) == (202, None)


async def test_reload_keeps_what_open_requests_hold(world: World) -> None:
    held = world.node._api.context.dependencies.admission
    held.streams.take("token")
    world.node.reload(world.node.settings)
    assert world.node._api.context.dependencies.admission is held
    assert held.streams.taken == 1
