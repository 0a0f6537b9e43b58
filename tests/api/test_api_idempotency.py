import asyncio

import pytest

from relay.api.http import idempotency
from relay.errors import StoreError
from relay.store.access.idempotency import LEASE_SECONDS
from tests.support.api_world import HOOK, TOKENS
from tests.support.store_kit import until

KEY = {"Idempotency-Key": "order-66"}


async def test_a_repeated_request_gets_the_same_response_and_is_done_once(client, world):
    first = await client.post("/v1/subscriptions", json={"sink": HOOK}, headers=KEY)
    again = await client.post("/v1/subscriptions", json={"sink": HOOK}, headers=KEY)
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert len((await client.get("/v1/subscriptions")).json()["items"]) == 1


async def test_a_request_refused_for_its_body_is_judged_again_and_no_other_body_is_taken(client):
    first = await client.post("/v1/jobs", json={"id": ""}, headers=KEY)
    again = await client.post("/v1/jobs", json={"id": ""}, headers=KEY)
    assert (first.status_code, again.status_code) == (422, 422)
    assert again.content == first.content
    assert again.headers["content-type"] == "application/problem+json"
    other = await client.post("/v1/jobs", json={"id": "a"}, headers=KEY)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_conflict")


@pytest.mark.parametrize(("path", "body"), [("/v1/jobs", {"id": "b"}), ("/v1/jobs?x=1", {"id": "a"})])
async def test_another_body_under_the_same_key_is_a_conflict(client, path, body):
    await client.post("/v1/jobs", json={"id": "a"}, headers=KEY)
    answer = await client.post(path, json=body, headers=KEY)
    assert answer.status_code == 422
    if "?" not in path:
        assert answer.json()["code"] == "idempotency_conflict"


async def test_keys_are_separate_per_path_and_token(open_client):
    client = open_client(tokens=TOKENS)
    admin, crm = ({"Authorization": f"Bearer {value}"} for value in ("rl_admin", "rl_jobs"))
    assert (await client.post("/v1/jobs", json={"id": "a"}, headers=KEY | admin)).status_code == 201
    other_token = await client.post("/v1/jobs", json={"id": "b"}, headers=KEY | crm)
    other_path = await client.post("/v1/subscriptions", json={"sink": HOOK}, headers=KEY | admin)
    assert (other_token.status_code, other_path.status_code) == (201, 201)


async def test_a_request_in_flight_is_a_conflict(client, world):
    entered, go_on = asyncio.Event(), asyncio.Event()
    register = world.tracking.register

    async def slow(requests):
        entered.set()
        await go_on.wait()
        return await register(requests)

    world.tracking.register = slow
    first = asyncio.create_task(client.post("/v1/jobs", json={"id": "a"}, headers=KEY))
    await entered.wait()
    second = await client.post("/v1/jobs", json={"id": "a"}, headers=KEY)
    assert (second.status_code, second.json()["code"]) == (409, "idempotency_in_flight")
    assert second.headers["retry-after"] == "1"
    go_on.set()
    assert (await first).status_code == 201


async def test_a_request_that_failed_with_5xx_can_be_repeated(client, world):
    register = world.tracking.register

    async def broken(requests):
        raise RuntimeError("the disk is full of secrets")

    world.tracking.register = broken
    failed = await client.post("/v1/jobs", json={"id": "a"}, headers=KEY)
    assert failed.status_code == 500
    world.tracking.register = register
    assert (await client.post("/v1/jobs", json={"id": "a"}, headers=KEY)).status_code == 201


@pytest.mark.parametrize("key", ["", "a" * 256, "tab\there", "ü".encode("latin-1")])
async def test_a_malformed_key_is_refused(client, key):
    answer = await client.post("/v1/jobs", json={"id": "a"}, headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_idempotency_key")
    assert (await client.get("/v1/jobs")).json()["items"] == []


async def test_stored_responses_are_encrypted(client, world, tmp_path):
    made = (await client.post("/v1/subscriptions", json={"sink": HOOK}, headers=KEY)).json()
    await world.store.close()
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert made["id"].encode() in written
    assert made["config"]["secret"].encode() not in written


async def refuse(*_arguments):
    raise StoreError("the database cannot be reached")


async def test_a_request_is_answered_even_if_its_response_cannot_be_stored(client, world):
    world.store.idempotency.end = refuse
    assert (await client.post("/v1/jobs", json={"id": "a"}, headers=KEY)).status_code == 201
    del world.store.idempotency.end
    assert (await client.post("/v1/jobs", json={"id": "a"}, headers=KEY)).status_code == 409
    world.now += LEASE_SECONDS
    assert (await client.post("/v1/jobs", json={"id": "a"}, headers=KEY)).status_code == 200


async def test_a_slow_request_keeps_its_key(client, world, monkeypatch):
    monkeypatch.setattr(idempotency, "RENEW_SECONDS", 0.001)
    renew, renewals, failures = world.store.idempotency.renew, [], [StoreError("not now")]

    async def counted(*arguments):
        if failures:
            raise failures.pop()
        await renew(*arguments)
        renewals.append(arguments)

    world.store.idempotency.renew = counted
    go_on = asyncio.Event()
    register = world.tracking.register

    async def slow(requests):
        await go_on.wait()
        return await register(requests)

    world.tracking.register = slow
    first = asyncio.create_task(client.post("/v1/jobs", json={"id": "a"}, headers=KEY))
    for _ in range(3):
        world.now += LEASE_SECONDS - 1
        renewals.clear()
        await until(lambda: len(renewals) > 1)
        assert (await client.post("/v1/jobs", json={"id": "a"}, headers=KEY)).status_code == 409
    go_on.set()
    assert (await first).status_code == 201
    count = len(renewals)
    assert (await client.post("/v1/jobs", json={"id": "a"}, headers=KEY)).headers["idempotency-replayed"] == "true"
    assert len(renewals) == count


async def test_a_subscription_is_created_once_although_its_response_was_lost(client, world):
    body = {"sink": HOOK, "types": ["ai.revor.job.failed"]}
    world.store.idempotency.end = refuse
    first = (await client.post("/v1/subscriptions", json=body, headers=KEY)).json()
    del world.store.idempotency.end
    world.now += LEASE_SECONDS
    again = await client.post("/v1/subscriptions", json=body, headers=KEY)
    assert (again.status_code, again.json()) == (201, first)
    assert first["config"]["secret"].startswith("whsec_")
    assert again.headers["location"] == f"/v1/subscriptions/{first['id']}"
    assert len((await client.get("/v1/subscriptions")).json()["items"]) == 1
