"""Tokens that are bound to an account, on a real node with two accounts: the drop-in, live events and erasure."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from tests.support.dropin_requests import DISPATCH, DISPATCHES
from tests.support.e2e_world import AT_ONCE, World, open_e2e_world

TWO = {"acme": "sk-revor-acme-0123456789", "beta": "sk-revor-beta-0123456789"}


@pytest.fixture(autouse=True)
async def _bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(300):
        yield


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_e2e_world(tmp_path, accounts=TWO) as world:
        yield world


async def token_of(world: World, account: str, *scopes: str) -> dict[str, str]:
    """The headers of a new token that is bound to the account."""
    body = {"name": account, "scopes": list(scopes), "source": "revor", "account": account}
    answer = await world.api.post("/v1/tokens", json=body)
    assert answer.status_code == 201, answer.text
    return {"Authorization": f"Bearer {answer.json()['token']}"}


async def a_job(world: World, account: str, headers: dict[str, str], **fields: object) -> str:
    body = {"account": account, "final": "succeeded", **AT_ONCE}
    (item,) = (await world.sandbox.post("/_sandbox/jobs", json=body)).json()["items"]
    answer = await world.api.post("/v1/jobs", json={"id": item["id"], **fields}, headers=headers)
    assert (answer.status_code, answer.json()["account"]) == (201, account), answer.text
    return str(item["id"])


async def ended(world: World, job: str, headers: dict[str, str]) -> None:
    async def is_closed() -> bool:
        return not (await world.api.get(f"/v1/jobs/{job}", headers=headers)).json()["open"]

    await world.until(is_closed)


async def test_a_token_without_the_scope_proxy_does_not_use_the_drop_in(world: World) -> None:
    headers = await token_of(world, "beta", "subscriptions:write")
    answer = await world.api.post(DISPATCHES, json=DISPATCH, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "relay_scope_missing")


async def test_what_is_erased_while_it_is_polled_and_sent_is_not_heard_of_again(world: World) -> None:
    headers = await token_of(world, "acme", "read", "jobs:write")
    sink = {"sink": f"{world.receiver_url}/events"}
    subscription = (await world.api.post("/v1/subscriptions", json=sink)).json()["id"]
    await world.api.post(f"/v1/subscriptions/{subscription}/pause")
    first = await a_job(world, "acme", headers, metadata={"email": "kim@example.com"})
    await ended(world, first, headers)
    body = {"account": "acme", "final": "succeeded", **AT_ONCE, "run_seconds": 600}
    (item,) = (await world.sandbox.post("/_sandbox/jobs", json=body)).json()["items"]
    again = {"id": item["id"], "metadata": {"email": "kim@example.com"}}
    assert (await world.api.post("/v1/jobs", json=again, headers=headers)).status_code == 201
    refused = await world.api.post("/v1/erasures", json={"job": first}, headers=headers)
    assert refused.status_code == 403

    async def polled() -> bool:
        return bool((await world.api.get(f"/v1/jobs/{item['id']}", headers=headers)).json()["poll_count"])

    await world.until(polled)
    answer = await world.api.post("/v1/erasures", json={"metadata": {"email": "kim@example.com"}})
    assert answer.json()["jobs"] == 2
    assert answer.json()["deliveries"] > 0
    await world.api.post(f"/v1/subscriptions/{subscription}/resume")
    last = await a_job(world, "acme", headers)
    await ended(world, last, headers)
    await world.until(lambda: any(one.event["subject"] == last for one in world.received.get("/events", [])))
    assert {one.event["subject"] for one in world.received["/events"]} == {last}
    assert b"kim@example.com" not in b"".join(orjson.dumps(one.event) for one in world.received["/events"])
    assert [report["open_jobs"] for report in (await world.api.get("/v1/sources")).json()["items"]] == [0, 0]
