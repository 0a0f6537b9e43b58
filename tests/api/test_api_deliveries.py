"""Uncertain and skipped deliveries over HTTP: listed, counted, settled."""

import pytest

from relay.core.deliveries.delivery import Shown
from relay.core.deliveries.dialogue import Memory
from relay.core.deliveries.ledger import Entry, event_key
from tests.support.api_world import HOOK, TOKENS
from tests.support.store_kit import attempt, claim, result_of

PATH = "/v1/deliveries"


async def ended(world, client, state: str, reason: str, jobs: int = 1, memory: Memory | None = None):
    """A subscription with deliveries in this state. Returns its id and theirs."""
    id = (await client.post("/v1/subscriptions", json={"sink": HOOK})).json()["id"]
    for number in range(jobs):
        await world.poll(await world.job(f"{id} {number}"), "queued")
    world.now += 1
    found = []
    for one in await claim(world.store, id, now=world.now):
        turn = None
        if memory is not None:
            turn = await world.store.memories.take(one, event_key(one.event.id), world.now, world.now)
        result = result_of(one, state, now=world.now, reason=reason, turn=turn, remember=memory)
        await world.store.deliveries.record(result)
        found.append(one.id)
    return id, found


def intended(world) -> Memory:
    return Entry(record="note", target={"deal_id": 7}, portal="acme.pipedrive.com", at=world.now).memory()


async def memories(world) -> list[str]:
    def read(connection):
        return [row.data for row in connection.exec_driver_sql("SELECT data FROM sink_memories ORDER BY key")]

    return await world.store.database.read(read)


async def test_uncertain_deliveries_are_listed_and_counted(client, world):
    id, (one, two) = await ended(world, client, "uncertain", "not_found_in_time", jobs=2)
    await ended(world, client, "dead", "http_400")
    listed = (await client.get(PATH, params={"state": "uncertain"})).json()["items"]
    assert [(item["id"], item["state"], item["reason"]) for item in listed] == [
        (two, "uncertain", "not_found_in_time"),
        (one, "uncertain", "not_found_in_time"),
    ]
    groups = (await client.get(PATH, params={"state": "uncertain", "group_by": "reason,sink"})).json()
    assert [(item["reason"], item["subscription_id"], item["count"]) for item in groups["items"]] == [
        ("not_found_in_time", id, 2)
    ]
    refused = await client.get(PATH, params={"state": "unsure"})
    assert (refused.status_code, "uncertain" in refused.text) == (422, True)


async def test_sent_makes_an_uncertain_delivery_delivered_and_keeps_it_from_being_written_again(client, world):
    _, (one,) = await ended(world, client, "uncertain", "not_found_in_time", memory=intended(world))
    settled = await client.post(f"{PATH}/{one}/settle", json={"fate": "sent"})
    shown = settled.json()
    assert (settled.status_code, shown["state"], shown["reason"]) == (200, "delivered", "settled")
    (memory,) = await memories(world)
    assert '"settled":"sent"' in memory
    again = await client.post(f"{PATH}/{one}/settle", json={"fate": "sent"})
    assert (again.status_code, again.json()["code"]) == (409, "delivery_not_uncertain")


async def test_not_sent_makes_an_uncertain_delivery_due_and_clears_what_is_remembered(client, world):
    id, (one,) = await ended(world, client, "uncertain", "not_found_in_time", memory=intended(world))
    woken = world.signals.woken
    settled = await client.post(f"{PATH}/{one}/settle", json={"fate": "not_sent"})
    shown = settled.json()
    assert (settled.status_code, shown["state"]) == (200, "pending")
    assert world.signals.woken == woken + 1
    assert await memories(world) == ["{}"]
    assert [claimed.id for claimed in await claim(world.store, id, now=world.now + 1)] == [one]


@pytest.mark.parametrize("state", ["pending", "delivered", "dead", "cancelled"])
@pytest.mark.parametrize("fate", ["sent", "not_sent"])
async def test_only_an_uncertain_delivery_is_settled(client, world, state, fate):
    _, (one,) = await ended(world, client, state, "x")
    before = (await client.get(f"{PATH}/{one}")).json()
    answer = await client.post(f"{PATH}/{one}/settle", json={"fate": fate})
    assert (answer.status_code, answer.json()["code"]) == (409, "delivery_not_uncertain")
    assert (await client.get(f"{PATH}/{one}")).json() == before


async def test_bad_settlement_is_refused(client, world) -> None:
    for id, body, status, code in [
        ("dlv_1", {"fate": "sent"}, 404, "delivery_not_found"),
        (None, {"fate": "lost"}, 422, "invalid_request"),
        (None, {}, 422, "invalid_request"),
        (None, {"fate": "sent", "job_id": "1"}, 422, "invalid_request"),
    ]:
        _, (one,) = await ended(world, client, "uncertain", "x")
        answer = await client.post(f"{PATH}/{id or one}/settle", json=body)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert (await client.get(f"{PATH}/{one}")).json()["state"] == "uncertain"


async def test_skipped_deliveries_are_counted_and_replayed(client, world):
    id, (first, second) = await ended(world, client, "cancelled", "unmatched", jobs=2)
    await ended(world, client, "cancelled", "ambiguous")
    shown = (await client.get(f"/v1/subscriptions/{id}")).json()
    since = (await client.get(f"{PATH}/{first}")).json()["created_at"]
    assert shown["skipped"] == {"count": 2, "since": since}
    listed = (await client.get("/v1/subscriptions")).json()["items"]
    assert not any("skipped" in item for item in listed)
    back = await client.put(f"/v1/subscriptions/{id}", json=shown)
    assert back.status_code == 200, "what GET says can be sent back"
    filter = {"subscription": id, "state": "cancelled", "reason": "unmatched"}
    started = (await client.post(f"{PATH}/retry", json={"filter": filter})).json()
    assert started["matched"] == 2
    await world.store.replays.advance(started["replay_id"], "node", world.now)
    states = [(await client.get(f"{PATH}/{one}")).json()["state"] for one in (first, second)]
    assert states == ["pending", "pending"]
    assert (await client.get(f"/v1/subscriptions/{id}")).json()["skipped"] == {"count": 0, "since": None}


async def test_attempt_of_a_dry_run_shows_its_requests(client, world):
    id = (await client.post("/v1/subscriptions", json={"sink": HOOK})).json()["id"]
    await world.poll(await world.job("a"), "queued")
    world.now += 1
    (one,) = await claim(world.store, id, now=world.now)
    requests = (
        Shown(method="GET", url="https://acme.pipedrive.com/api/v2/persons/search?…", body=""),
        Shown(method="POST", url="https://acme.pipedrive.com/v1/notes", body='{"content": "{recipient.address}"}'),
    )
    dry = attempt(status_code=None, requests=requests)
    await world.store.deliveries.record(result_of(one, now=world.now, reason="dry_run", attempt=dry))
    shown = (await client.get(f"{PATH}/{one.id}")).json()
    assert (shown["state"], shown["reason"]) == ("delivered", "dry_run")
    assert shown["attempts"][0]["requests"] == [
        {"method": "GET", "url": "https://acme.pipedrive.com/api/v2/persons/search?…", "body": ""},
        {"method": "POST", "url": "https://acme.pipedrive.com/v1/notes", "body": '{"content": "{recipient.address}"}'},
    ]


@pytest.mark.parametrize(("token", "whole"), [("rl_read", False), ("rl_subs", True), ("rl_admin", True)])
async def test_only_who_may_change_a_subscription_sees_what_its_sink_is_sent_and_answers(
    client, open_client, world, token, whole
):
    id = (await client.post("/v1/subscriptions", json={"sink": HOOK})).json()["id"]
    await world.poll(await world.job("a"), "queued")
    world.now += 1
    (one,) = await claim(world.store, id, now=world.now)
    tried = attempt(
        status_code=500,
        decision="HTTP 500 (attempt 1 of 3): tried again in 5 s",
        request_headers=(("x-sent", "planted-1"),),
        response_headers=(("x-echo", "planted-2"),),
        response_excerpt="planted-3",
        requests=(Shown(method="POST", url="https://sink.example/planted-4", body="planted-5"),),
        remote_ip="192.0.2.7",
    )
    await world.store.deliveries.record(result_of(one, "dead", now=world.now, reason="http_500", attempt=tried))
    reader = open_client(dev=False, tokens=TOKENS)
    answer = await reader.get(f"{PATH}/{one.id}", headers={"Authorization": f"Bearer {token}"})
    (shown,) = answer.json()["attempts"]
    assert (shown["status_code"], shown["remote_ip"], shown["decision"]) == (500, "192.0.2.7", tried.decision)
    assert shown["timings"].keys() == {"dns_ms", "connect_ms", "tls_ms", "first_byte_ms"}
    planted = [f"planted-{number}" for number in range(1, 6)]
    assert [one in answer.text for one in planted] == [whole] * 5
    if not whole:
        hidden = (
            *("request_headers", "response_headers", "response_excerpt", "response_excerpt_encoding", "requests"),
        )
        assert [shown[name] for name in hidden] == [None] * 5
