"""`/v1/intents`: creates whose fate is unknown, and their resolution."""

import pytest

from relay.store.jobs.intents import IN_FLIGHT_SECONDS
from tests.support.api_world import HOOK, NOW
from tests.support.store_kit import intent

SAID = {"channel": "email", "connect_account_id": "acc_1", "request": {"metadata": {"a": 1}}, "metadata": {"deal": 42}}


async def lost(world, **fields):
    one = intent(NOW, **{**SAID, **fields})
    await world.store.intents.begin(one)
    await world.store.intents.unknown(one.id, "no_answer")
    return one


async def test_an_intent_has_the_fields_that_identify_its_create(client, world):
    one = await lost(world, callback_url=HOOK)
    (shown,) = (await client.get("/v1/intents")).json()["items"]
    assert shown == {
        **{"id": one.id, "source": "revor", "account": "default", "path": one.path, "body_digest": "sha256:digest"},
        **{"idempotency_key": None, "sent_at": "2027-01-15T08:00:00.000Z", "reason": "no_answer", "status_code": None},
        **SAID,
        **{"fate": None, "job_id": None, "group": None},
    }


async def test_a_create_resolved_as_sent_is_tracked_with_its_callback_and_metadata(client, world):
    one = await lost(world, callback_url=HOOK, group="q4", group_size=3)
    answer = await client.post(f"/v1/intents/{one.id}/resolve", json={"fate": "sent", "job_id": "made"})
    assert (answer.status_code, answer.json()["fate"], answer.json()["job_id"]) == (200, "sent", "made")
    job = (await client.get("/v1/jobs/made")).json()
    assert (job["metadata"], job["request"], job["group"]) == (SAID["metadata"], SAID["request"], "q4")
    assert (await client.get("/v1/groups/q4")).json()["expected"] == 3
    assert job["connect_account_id"] == "acc_1"
    assert [hook["sink"] for hook in (await client.get("/v1/subscriptions?callbacks=true")).json()["items"]] != []
    assert (await client.get("/v1/intents")).json()["items"] == []


@pytest.mark.parametrize("fate", ["sent", "not_sent"])
async def test_a_resolved_intent_leaves_the_list_and_cannot_be_resolved_again(client, world, fate):
    one = await lost(world)
    answer = await client.post(f"/v1/intents/{one.id}/resolve", json={"fate": fate})
    assert (answer.status_code, answer.json()["fate"]) == (200, fate)
    assert (await client.get("/v1/intents")).json()["items"] == []
    for body in ({"fate": "sent"}, {"fate": "not_sent"}, {"fate": "sent", "job_id": "made"}):
        again = await client.post(f"/v1/intents/{one.id}/resolve", json=body)
        assert (again.status_code, again.json()["code"]) == (409, "intent_resolved")
    assert (await client.get("/v1/jobs/made")).status_code == 404
    assert (await client.delete(f"/v1/intents/{one.id}")).status_code == 404


async def test_an_intent_in_flight_cannot_be_resolved(client, world):
    flying, old = intent(NOW), intent(NOW - IN_FLIGHT_SECONDS - 1)
    for one in (flying, old):
        await world.store.intents.begin(one)
    answer = await client.post(f"/v1/intents/{flying.id}/resolve", json={"fate": "sent"})
    assert (answer.status_code, answer.json()["code"]) == (409, "intent_in_flight")
    answer = await client.post(f"/v1/intents/{old.id}/resolve", json={"fate": "sent"})
    assert (answer.status_code, answer.json()["reason"]) == (200, "cut_off")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/fate"),
        ({"fate": "perhaps"}, "/fate"),
        ({"fate": None}, "/fate"),
        ({"fate": "not_sent", "job_id": "made"}, "/job_id"),
        ({"fate": "sent", "job_id": ""}, "/job_id"),
        ({"fate": "sent", "job_id": 7}, "/job_id"),
        ({"fate": "sent", "account": "default"}, "/account"),
    ],
)
async def test_an_invalid_resolution_changes_nothing(client, world, body, pointer):
    one = await lost(world)
    answer = await client.post(f"/v1/intents/{one.id}/resolve", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)
    assert len((await client.get("/v1/intents")).json()["items"]) == 1
