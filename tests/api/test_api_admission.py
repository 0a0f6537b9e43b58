"""How many requests that take long one token, and all together, may have in progress."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from relay.api.app import create_api
from relay.limiter import Limiter
from tests.support.api_world import HOOK, TOKENS, World

SUBSCRIPTION = {"sink": HOOK}
OPS, TEAM = ({"Authorization": f"Bearer {token}"} for token in ("rl_admin", "rl_subs"))

LIMITED = {
    "pulls": ("POST", "/v1/subscriptions/{id}/pull", {}),
    "pulls_of_one": ("POST", "/v1/subscriptions/{id}/pull", {}),
    "tests": ("POST", "/v1/subscriptions/{id}/test", {}),
    "batches": ("POST", "/v1/jobs/batch", {"jobs": [{"id": "a"}]}),
    "erasures": ("POST", "/v1/erasures", {"job": "a"}),
    "verifications": ("GET", "/v1/audit/verify", None),
}
"""A request for each limit of `Admission` on requests that end by themselves."""


async def subscribe(client: Any, body: Any = SUBSCRIPTION, **headers: str) -> str:
    answer = await client.post("/v1/subscriptions", json=body, headers=headers)
    assert answer.status_code == 201
    return str(answer.json()["id"])


@pytest.mark.parametrize("limit", LIMITED)
async def test_requests_that_take_long_are_limited(limit: str, world: World, open_client: Callable[..., Any]) -> None:
    client = open_client()
    id = await subscribe(client, {"protocol": "PULL"} if limit.startswith("pulls") else SUBSCRIPTION)
    client._transport.app = api = create_api(world.dependencies(), world.proxy)
    limits = api.context.dependencies.admission
    method, path, body = LIMITED[limit]
    held: Limiter = getattr(limits, limit)
    before, held.limit = held.limit, 0
    refused = await client.request(method, path.format(id=id), json=body)
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
    assert refused.headers["Retry-After"] == "5"
    held.limit = before
    for _ in range(min(held.limit_of_owner, 100) + 1):  # each gives its place back
        assert (await client.request(method, path.format(id=id), json=body)).status_code < 300
    assert held.taken == 0


async def test_tests_that_a_sink_holds_up_are_limited_for_each_token(
    world: World, open_client: Callable[..., Any]
) -> None:
    client = open_client(tokens=TOKENS, dev=False)
    mine, other = await subscribe(client, **TEAM), await subscribe(client, **OPS)
    answering, send, all_hang = asyncio.Event(), world.dispatcher.test, asyncio.Event()

    async def hang(*given: Any) -> Any:
        if tests.taken == tests.limit_of_owner:
            all_hang.set()
        await answering.wait()
        return await send(*given)

    world.dispatcher.test = hang  # type: ignore[method-assign]
    client._transport.app = api = create_api(world.dependencies(tokens=TOKENS, dev=False), world.proxy)
    tests = api.context.dependencies.admission.tests
    hanging = [
        asyncio.create_task(client.post(f"/v1/subscriptions/{mine}/test", headers=TEAM))
        for _ in range(tests.limit_of_owner)
    ]
    await all_hang.wait()
    refused = await client.post(f"/v1/subscriptions/{mine}/test", headers=TEAM)
    assert refused.status_code == 429
    assert refused.json()["detail"].startswith("8 tests of subscriptions of this token are in progress already")
    theirs = asyncio.create_task(client.post(f"/v1/subscriptions/{other}/test", headers=OPS))
    answering.set()
    answers = await asyncio.gather(*hanging, theirs)
    assert {answer.status_code for answer in answers} == {200}
    assert tests.taken == 0


async def test_a_refused_request_runs_when_it_is_sent_again_with_its_key(
    world: World, open_client: Callable[..., Any]
) -> None:
    client = open_client()
    id = await subscribe(client)
    client._transport.app = api = create_api(world.dependencies(), world.proxy)
    tests, key = api.context.dependencies.admission.tests, {"Idempotency-Key": "once"}
    before, tests.limit = tests.limit, 0
    assert (await client.post(f"/v1/subscriptions/{id}/test", headers=key)).status_code == 429
    tests.limit = before
    answer = await client.post(f"/v1/subscriptions/{id}/test", headers=key)
    assert (answer.status_code, "Idempotency-Replayed" in answer.headers) == (200, False)


async def test_a_token_makes_only_so_many_subscriptions(open_client: Callable[..., Any]) -> None:
    client = open_client(tokens=TOKENS, dev=False, max_subscriptions_of_caller=2)
    first = await subscribe(client, **TEAM)
    await subscribe(client, **TEAM)
    refused = await client.post("/v1/subscriptions", json=SUBSCRIPTION, headers=TEAM)
    assert (refused.status_code, refused.json()["code"]) == (409, "too_many_subscriptions")
    assert "auth.max_subscriptions_per_token" in refused.json()["detail"]
    reused = await client.post("/v1/subscriptions?reuse=true", json=SUBSCRIPTION, headers=TEAM)
    assert reused.status_code == 200
    changed = await client.put(f"/v1/subscriptions/{first}", json={"sink": f"{HOOK}/new"}, headers=TEAM)
    assert changed.status_code == 200
    await subscribe(client, **OPS)  # each token counts for itself, an admin's too
    await subscribe(client, **OPS)
    assert (await client.post("/v1/subscriptions", json=SUBSCRIPTION, headers=OPS)).status_code == 409
    await client.delete(f"/v1/subscriptions/{first}", headers=TEAM)
    await subscribe(client, **TEAM)
    assert len((await client.get("/v1/subscriptions", headers=OPS)).json()["items"]) == 4
