"""`/v1/subscriptions/{id}/pull`, `/ack`, `/nack`."""

import asyncio

import pytest

from relay.api.subscriptions import pulling
from relay.core.jsontext import loads
from relay.signals import DELIVERIES
from tests.support.store_kit import PUBLISHED_TYPE, publication


@pytest.fixture
async def sub(client):
    """The path of a subscription that is pulled."""
    answer = await client.post("/v1/subscriptions", json={"protocol": "PULL", "types": [PUBLISHED_TYPE]})
    assert answer.status_code == 201, answer.text
    return f"/v1/subscriptions/{answer.json()['id']}"


async def publish(world, count, **members):
    """Publishes events with one partition key."""
    for nth in range(count):
        await world.store.published.record([publication(f"{world.now} {nth}", key="k", **members)])


async def pull(client, sub, status=200, **body):
    answer = await client.post(f"{sub}/pull", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_deliveries_are_pulled_and_acknowledged(client, world, sub):
    assert await pull(client, sub) == {
        **{"items": [], "lease_ends_at": None, "reason": None},
        "lag": {"count": 0, "oldest_seconds": None},
    }
    await publish(world, 2)
    world.now += 10
    found = await pull(client, sub, max=5, lease_seconds=30)
    assert [one["attempt"] for one in found["items"]] == [1, 1]
    assert [one["event"]["id"] for one in found["items"]] == ["1800000000.0 0", "1800000000.0 1"]
    assert found["lag"] == {"count": 2, "oldest_seconds": 10.0}
    ids = [one["delivery_id"] for one in found["items"]]
    answer = await client.post(f"{sub}/ack", json={"ids": [*ids, ids[0], "dlv_none", "é" * 300]})
    assert [one["result"] for one in answer.json()["results"]] == ["acked", "acked", *["unknown"] * 2]
    assert (await client.post(f"{sub}/ack", json={"ids": ids[:1]})).json()["results"][0]["result"] == "already"
    shown = (await client.get(f"/v1/deliveries/{ids[0]}")).json()
    assert (shown["state"], shown["reason"], shown["attempts"][0]["decision"]) == (
        *("delivered", "acknowledged"),
        "acknowledged: delivered",
    )


async def test_wrong_bodies_are_refused_with_the_place(client, sub) -> None:
    for action, body, pointer in [
        ("pull", {"max": 0}, "/max"),
        ("pull", {"max": 1001}, "/max"),
        ("pull", {"max": 1.5}, "/max"),
        ("pull", {"wait_seconds": 31}, "/wait_seconds"),
        ("pull", {"lease_seconds": 0.5}, "/lease_seconds"),
        ("pull", {"lease_seconds": 3601}, "/lease_seconds"),
        ("pull", {"wait": 1}, "/wait"),
        ("ack", {}, "/ids"),
        ("ack", {"ids": []}, "/ids"),
        ("ack", {"ids": ["x"] * 1001}, "/ids"),
        ("ack", {"ids": [7]}, "/ids/0"),
        ("nack", {"ids": ["x"], "delay_seconds": -1}, "/delay_seconds"),
        ("nack", {"ids": ["x"], "delay_seconds": 86401}, "/delay_seconds"),
        ("nack", {"ids": ["x"], "delay_seconds": 1, "untried": True}, ""),
    ]:
        answer = await client.post(f"{sub}/{action}", json=body)
        assert answer.status_code == 422
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


async def test_wait_ends_with_the_first_delivery(client, world, sub):
    waiting = asyncio.create_task(pull(client, sub, wait_seconds=20))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await publish(world, 1)
    world.arrivals.event_recorded()
    found = await asyncio.wait_for(waiting, 15)
    assert len(found["items"]) == 1


@pytest.mark.parametrize(("gone_seconds", "arrives"), [(0.0, False), (60.0, True)])
async def test_caller_that_is_gone_is_handed_nothing(client, world, sub, monkeypatch, gone_seconds, arrives):
    async def is_gone(self):
        return True

    monkeypatch.setattr(pulling, "SLICE_SECONDS", 0.01)
    monkeypatch.setattr(pulling, "GONE_SECONDS", gone_seconds)
    with monkeypatch.context() as context:
        context.setattr("starlette.requests.Request.is_disconnected", is_gone)
        waiting = asyncio.create_task(pull(client, sub, wait_seconds=30))
        await asyncio.wait([waiting], timeout=0.1 if arrives else 10)
        assert waiting.done() is not arrives
        await publish(world, 1)
        world.arrivals.event_recorded()
        assert (await asyncio.wait_for(waiting, 15))["items"] == []
    assert len((await pull(client, sub))["items"]) == 1


async def test_wait_ends_with_its_subscription(client, world, sub):
    waiting = asyncio.create_task(pull(client, sub, status=404, wait_seconds=30))
    await asyncio.sleep(0.1)
    await client.delete(sub)
    world.arrivals.signal(DELIVERIES)
    assert (await asyncio.wait_for(waiting, 15))["code"] == "subscription_not_found"


async def test_paused_subscription_hands_nothing_out_and_says_so(client, world, sub):
    await publish(world, 1)
    await client.post(f"{sub}/pause")
    world.now += 1
    found = await pull(client, sub)
    assert (found["items"], found["reason"], found["lag"]["count"]) == ([], "paused", 1)
    waiting = asyncio.create_task(pull(client, sub, wait_seconds=30))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await client.post(f"{sub}/resume")
    world.arrivals.signal(DELIVERIES)
    found = await asyncio.wait_for(waiting, 15)
    assert (len(found["items"]), found["reason"]) == (1, None)


async def test_largest_answer_stays_below_16_mib(client, world, sub):
    for _ in range(4):
        await world.store.published.record([publication(f"{world.now} {nth}", data="x" * 250_000) for nth in range(10)])
        world.now += 1
    answer = await client.post(f"{sub}/pull", json={"max": 1000})
    assert 8 << 20 > len(answer.content) > 7 << 20
    assert len(loads(answer.content)["items"]) == 33
    assert len((await pull(client, sub))["items"]) == 7


async def test_nothing_is_sent_of_what_is_pulled(client, world, sub):
    await publish(world, 1)
    world.now += 1
    (item,) = (await pull(client, sub))["items"]
    answer = await client.get(f"/v1/deliveries/{item['delivery_id']}/request")
    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_to_send")
    assert (await client.post(f"{sub}/test", json={})).status_code == 409
    refused = await client.post(f"/v1/deliveries/{item['delivery_id']}/retry")
    assert (refused.status_code, refused.json()["code"]) == (409, "delivery_in_flight")
