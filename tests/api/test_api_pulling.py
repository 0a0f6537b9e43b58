"""`/v1/subscriptions/{id}/pull`, `/ack`, `/nack`."""

import asyncio

import pytest

from relay.api.access.callers import Access
from relay.api.http.ports import Token
from relay.api.subscriptions import pulling
from relay.core.jsontext import loads
from tests.support.api_world import HOOK
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


async def test_deliveries_are_given_back(client, world, sub):
    await publish(world, 2)
    world.now += 10
    ids = [one["delivery_id"] for one in (await pull(client, sub))["items"]]
    answer = (await client.post(f"{sub}/nack", json={"ids": [ids[0], "x"], "delay_seconds": 3})).json()
    assert answer == {
        "results": [{"id": ids[0], "result": "nacked"}, {"id": "x", "result": "unknown"}],
        "returned": [ids[1]],
    }
    assert (await pull(client, sub))["items"] == []
    world.now += 3
    assert [one["attempt"] for one in (await pull(client, sub))["items"]] == [2, 1]
    answer = (await client.post(f"{sub}/nack", json={"ids": ids, "untried": True})).json()
    assert [one["result"] for one in answer["results"]] == ["nacked", "nacked"]
    assert [one["attempt"] for one in (await pull(client, sub))["items"]] == [2, 1]


@pytest.mark.parametrize(
    ("action", "body", "pointer"),
    [
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
    ],
)
async def test_wrong_bodies_are_refused_with_the_place(client, sub, action, body, pointer):
    answer = await client.post(f"{sub}/{action}", json=body)
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


@pytest.mark.parametrize(("action", "body"), [("pull", {}), ("ack", {"ids": ["x"]}), ("nack", {"ids": ["x"]})])
async def test_only_subscriptions_of_the_protocol_can_be_pulled(client, action, body):
    sink = (await client.post("/v1/subscriptions", json={"sink": HOOK})).json()["id"]
    answer = await client.post(f"/v1/subscriptions/{sink}/{action}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "not_pulled")
    answer = await client.post(f"/v1/subscriptions/sub_none/{action}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (404, "subscription_not_found")


async def test_scope_to_pull_does_not_let_change_subscriptions(open_client, sub):
    scopes = {"rl_worker": "deliveries:write", "rl_reader": "read"}
    tokens = [Token(name=value[3:], value=value, scopes=frozenset({scope})) for value, scope in scopes.items()]
    worker, reader = ({"headers": {"Authorization": f"Bearer {token.value}"}} for token in tokens)
    client = open_client(tokens=tuple(tokens), dev=False)
    assert (await client.post(f"{sub}/pull", **worker)).status_code == 200
    assert (await client.delete(sub, **worker)).status_code == 403
    assert (await client.post(f"{sub}/pull", **reader)).status_code == 403


async def test_wait_ends_with_the_first_delivery(client, world, sub):
    waiting = asyncio.create_task(pull(client, sub, wait_seconds=20))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await publish(world, 1)
    world.arrivals.event_recorded()
    found = await asyncio.wait_for(waiting, 15)
    assert len(found["items"]) == 1


async def test_wait_ends_empty(client, world, sub, monkeypatch):
    monkeypatch.setattr(pulling, "SLICE_SECONDS", 0.01)
    assert (await pull(client, sub, wait_seconds=0.03))["items"] == []


async def test_wait_ends_when_the_node_stops(client, world, sub, monkeypatch):
    monkeypatch.setattr(pulling, "SLICE_SECONDS", 0.01)
    waiting = asyncio.create_task(pull(client, sub, wait_seconds=30))
    await asyncio.sleep(0.05)
    world.node.stop()
    assert (await asyncio.wait_for(waiting, 15))["items"] == []


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
    world.arrivals.deliveries_changed()
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
    world.arrivals.deliveries_changed()
    found = await asyncio.wait_for(waiting, 15)
    assert (len(found["items"]), found["reason"]) == (1, None)


async def test_wait_of_a_token_that_is_gone_ends(open_client, world, sub, monkeypatch):
    monkeypatch.setattr(pulling, "SLICE_SECONDS", 0.01)
    monkeypatch.setattr(Access, "holds", lambda self, identity: False)
    assert (await pull(open_client(), sub, status=401, wait_seconds=30))["code"] == "unauthorized"


async def test_largest_answer_stays_below_16_mib(client, world, sub):
    for _ in range(4):
        await world.store.published.record([publication(f"{world.now} {nth}", data="x" * 250_000) for nth in range(10)])
        world.now += 1
    answer = await client.post(f"{sub}/pull", json={"max": 1000})
    assert 8 << 20 > len(answer.content) > 7 << 20
    assert len(loads(answer.content)["items"]) == 33
    assert len((await pull(client, sub))["items"]) == 7


async def test_lists_show_the_lag_of_what_is_pulled(client, world, sub):
    await client.post("/v1/subscriptions", json={"sink": HOOK})
    await publish(world, 3)
    world.now += 5
    pulled, sent = sorted(
        (await client.get("/v1/subscriptions")).json()["items"], key=lambda one: one["protocol"] != "PULL"
    )
    assert pulled["lag"] == {"count": 3, "oldest_seconds": 5.0}
    assert "lag" not in sent
    shown = (await client.get(sub)).json()
    assert shown["lag"]["count"] == 3
    assert (await client.put(sub, json={**shown, "description": "worker"})).status_code == 200


async def test_nothing_is_sent_of_what_is_pulled(client, world, sub):
    await publish(world, 1)
    world.now += 1
    (item,) = (await pull(client, sub))["items"]
    answer = await client.get(f"/v1/deliveries/{item['delivery_id']}/request")
    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_to_send")
    assert (await client.post(f"{sub}/test", json={})).status_code == 409
    refused = await client.post(f"/v1/deliveries/{item['delivery_id']}/retry")
    assert (refused.status_code, refused.json()["code"]) == (409, "delivery_in_flight")
