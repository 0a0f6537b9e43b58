"""What is stored for an `Idempotency-Key` says nothing of a person, for each operation that takes one."""

import re
from typing import Any

import pytest

from relay.api.catalogue import OPERATIONS
from relay.api.http.auth import PUBLIC
from relay.core.polling.tracking import TrackRequest
from relay.core.records import Intent
from tests.api.test_api_openapi import CALLS
from tests.support.api_world import HOOK, World
from tests.support.store_kit import rows

CANARY = "kim.canary@example.com"
PERSON = {"contact": {"email": CANARY}}
POSTS = [one for one in OPERATIONS if one.method == "POST" and one.scopes is not PUBLIC]


async def a_group(world, client):
    await client.post("/v1/jobs", json={"id": "a", "group": CANARY, "metadata": PERSON})
    return CANARY


async def an_intent(world, client):
    intent = Intent(
        id="int_1",
        source="revor",
        account="default",
        path="/x",
        body_digest="0" * 64,
        created_at=world.now,
        metadata=PERSON,
        group=CANARY,
    )
    await world.store.intents.begin(intent)
    await world.store.intents.unknown(intent.id, "no_answer")
    world.now += 3_600
    return intent.id


async def recorded(world, client):
    await world.poll(await world.job("a"), "queued")


REFUSED = {"id": "b", CANARY: 1}
"""A job whose refusal names the field."""
EVENT = {"specversion": "1.0", "id": "A-1", "source": "/shop", "type": "com.acme.paid", "data": {"metadata": PERSON}}
CASES = {
    **CALLS,
    "registerJob": (None, {"id": "new", "metadata": PERSON}, 201),
    "registerJobs": (None, {"jobs": [{"id": "new", "metadata": PERSON}, REFUSED]}, 200),
    "publishEvents": (None, EVENT, 202),
    "closeGroup": (a_group, {"expected": 3}, 200),
    "resolveIntent": (an_intent, {"fate": "not_sent"}, 200),
    "showRecipient": (an_intent, None, 409),
    "testSubscription": (CALLS["testSubscription"][0], {"type": "ai.revor.job.failed", "metadata": PERSON}, 200),
    "previewSubscription": (recorded, {"subscription": {"sink": HOOK}, "event_id": None}, 200),
}
SHOWN = {
    *("registerJob", "registerJobs", "refreshJob", "closeGroup", "resolveIntent"),
    *("testSubscription", "previewSubscription", "pullDeliveries"),
}
"""Those whose first answer shows the person."""
WITHOUT_EFFECT = {"previewSubscription", "pullDeliveries", "showRecipient"}


@pytest.fixture
def with_person(monkeypatch):
    async def job(self: World, external_id: str, **fields: Any):
        request = TrackRequest(external_id=external_id, source="revor", account="default", metadata=PERSON, **fields)
        return (await self.tracking.register([request]))[0].job

    monkeypatch.setattr(World, "job", job)


async def stored(world) -> dict[str, bytes]:
    found = await rows(world.store, "SELECT id, ciphertext FROM idempotency_keys WHERE ciphertext IS NOT NULL")
    decrypt = world.store.idempotency._cipher.decrypt
    return {row["id"]: bytes(decrypt(bytes(row["ciphertext"]), context=row["id"])) for row in found}


async def erase(client, **what) -> None:
    cursor = {}
    while True:
        answer = (await client.post("/v1/erasures", json={**what, **cursor})).json()
        if answer["next_cursor"] is None:
            return
        cursor = {"cursor": answer["next_cursor"]}


@pytest.mark.parametrize("operation", POSTS, ids=lambda one: one.id)
async def test_erased_person_is_in_no_stored_answer_and_in_no_repeated_one(client, world, with_person, operation):
    prepare, body, status = CASES[operation.id]
    id = "" if prepare is None else await prepare(world, client)
    if operation.id == "previewSubscription":
        body = {**body, "event_id": (await client.get("/v1/events")).json()["ids"][0]}
    media_type = operation.media_types[0] if operation.media_types else "application/json"
    headers = {"Idempotency-Key": "order-66", **({} if body is None else {"Content-Type": media_type})}

    async def send():
        return await client.post(re.sub(r"\{\w+\}", id or "", operation.path), json=body, headers=headers)

    first = await send()
    assert first.status_code == status, first.text
    assert (CANARY.encode() in first.content) == (operation.id in SHOWN)
    kept = await stored(world)
    assert bool(kept) == (operation.id not in WITHOUT_EFFECT)
    assert CANARY.encode() not in b"".join(kept.values())
    await erase(client, metadata={"email": CANARY})
    await erase(client, group=CANARY)
    again = await send()
    assert CANARY.encode() not in again.content
    assert CANARY not in str(again.headers)
    if operation.id not in WITHOUT_EFFECT:
        assert again.headers["idempotency-replayed"] == "true"
        assert again.status_code in (status, 410)
        assert (await client.get("/v1/jobs")).json()["items"] == [], "nothing is done again"
    assert CANARY.encode() not in b"".join((await stored(world)).values())


async def test_repeated_create_shows_the_row_as_it_is_now_and_the_secret(client, world):
    headers = {"Idempotency-Key": "k"}
    first = await client.post("/v1/subscriptions", json={"sink": HOOK}, headers=headers)
    made = first.json()
    await client.post(f"/v1/subscriptions/{made['id']}/pause")
    await client.post(f"/v1/subscriptions/{made['id']}/rotate-secret")
    again = await client.post("/v1/subscriptions", json={"sink": HOOK}, headers=headers)
    assert (again.status_code, again.headers["location"]) == (201, first.headers["location"])
    assert (again.json()["state"], again.json()["config"]["secret"]) == ("paused", made["config"]["secret"])


@pytest.mark.parametrize("purged", [False, True])
async def test_repeated_create_of_what_is_gone_is_not_done_again(client, world, purged):
    path, body = ("/v1/jobs", {"id": "a"}) if purged else ("/v1/subscriptions", {"sink": HOOK})
    headers = {"Idempotency-Key": "k"}
    made = (await client.post(path, json=body, headers=headers)).json()
    await client.delete(f"{path}/{made['uid' if purged else 'id']}", params={"purge": "true"} if purged else {})
    again = await client.post(path, json=body, headers=headers)
    assert (again.status_code, again.json()["code"]) == (410, "gone")
    assert (await client.get(path)).json()["items"] == []
