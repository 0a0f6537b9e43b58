"""Uncertain and skipped deliveries over HTTP: listed, counted, replayed."""

from relay.core.dialogue import Memory
from relay.core.ledger import Entry, event_key
from tests.support.api_world import HOOK
from tests.support.store_kit import claim, result_of

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
        await world.store.deliveries.record_attempt(result)
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


async def test_retry_of_an_uncertain_delivery_keeps_what_is_remembered(client, world):
    _, (one,) = await ended(world, client, "uncertain", "x", memory=intended(world))
    assert (await client.post(f"{PATH}/{one}/retry")).json()["state"] == "pending"
    (memory,) = await memories(world)
    assert '"intended"' in memory


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


async def test_nothing_is_skipped_unless_nobody_matches(client, world):
    id, _ = await ended(world, client, "cancelled", "incident inc_1")
    assert (await client.get(f"/v1/subscriptions/{id}")).json()["skipped"] == {"count": 0, "since": None}


async def test_uncertain_deliveries_are_replayed_by_their_state(client, world):
    await ended(world, client, "uncertain", "x", jobs=2)
    assert (await client.post(f"{PATH}/retry", json={"filter": {"state": "uncertain"}})).json()["matched"] == 2
