"""`/v1/intents`: creates whose fate is unknown, and their resolution."""

import pytest

from relay.core.jobs.job import Recipient
from relay.store.jobs.intents import IN_FLIGHT_SECONDS
from tests.support.api_world import HOOK, NOW, TOKENS
from tests.support.store_kit import intent, list_accounts

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
        "connect_account_name": None,
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


async def test_a_create_cut_off_is_resolved_with_its_job_and_keeps_its_reason(client, world):
    old = intent(NOW - IN_FLIGHT_SECONDS - 1)
    await world.store.intents.begin(old)
    answer = await client.post(f"/v1/intents/{old.id}/resolve", json={"fate": "sent", "job_id": "made"})
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


# --- whom it was for

KIM = Recipient(address="kim@example.com", phone="+49 30 1234567")
SHOWN = {"recipients_shown": True, "dev": False, "tokens": TOKENS}


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


async def test_recipient_is_shown_to_those_who_may_settle_it_and_each_look_is_in_the_audit(open_client, world):
    one = await lost(world, recipient=KIM, callback_url=HOOK)
    await list_accounts(world.store, ("revor", "default"), "acc_1", now=NOW, name="Ada Lovelace")
    client = open_client(**SHOWN)
    for times in (1, 2):
        answer = await client.post(f"/v1/intents/{one.id}/recipient", headers=bearer("rl_jobs"))
        assert answer.json()["recipient"] == {"address": KIM.address, "profile_url": None, "phone": KIM.phone}
        assert answer.json()["connect_account_name"] == "Ada Lovelace"
        looks = (await client.get("/v1/audit?action=intents.recipient", headers=bearer("rl_admin"))).json()["items"]
        assert [(look["actor"], look["target"], look["result"]) for look in looks] == [("crm", one.id, "ok")] * times
        assert "kim" not in str(looks)


@pytest.mark.parametrize(
    ("settings", "token", "status", "code"),
    [
        ({"recipients_shown": False}, "rl_jobs", 409, "recipient_not_shown"),
        ({"recipients_shown": False}, "rl_admin", 409, "recipient_not_shown"),
        ({}, "rl_read", 403, "scope_missing"),
        ({}, "rl_subs", 403, "scope_missing"),
        ({}, "rl_proxy", 403, "scope_missing"),
    ],
)
async def test_no_answer_has_the_recipient_without_the_setting_and_the_scope(
    open_client, world, settings, token, status, code
):
    one = await lost(world, recipient=KIM)
    client = open_client(**{**SHOWN, **settings})
    refused = await client.post(f"/v1/intents/{one.id}/recipient", headers=bearer(token))
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    listed = await client.get("/v1/intents", headers=bearer("rl_jobs"))
    resolved = await client.post(
        f"/v1/intents/{one.id}/resolve", headers=bearer("rl_jobs"), json={"fate": "sent", "job_id": "made"}
    )
    tracked = await client.get("/v1/jobs/made", headers=bearer("rl_jobs"))
    for answer in (refused, listed, resolved, tracked):
        assert "kim" not in answer.text
        assert KIM.phone not in answer.text


async def test_recipient_is_not_shown_with_an_idempotency_key_of_an_earlier_look(open_client, world):
    one = await lost(world, recipient=KIM)
    client = open_client(**SHOWN)
    headers = {**bearer("rl_jobs"), "Idempotency-Key": "look-1"}
    path = f"/v1/intents/{one.id}"
    assert "kim" in (await client.post(f"{path}/recipient", headers=headers)).text
    await client.post(f"{path}/resolve", headers=bearer("rl_jobs"), json={"fate": "not_sent"})
    again = await client.post(f"{path}/recipient", headers=headers)
    assert (again.status_code, again.json()["code"]) == (409, "intent_resolved")


@pytest.mark.parametrize(
    ("sent_at", "fields", "status", "shown"),
    [
        (NOW - IN_FLIGHT_SECONDS - 1, {"recipient": KIM}, 200, KIM.address),
        (NOW, {"recipient": KIM}, 409, None),
        (NOW - IN_FLIGHT_SECONDS - 1, {"callback_url": HOOK}, 200, None),
        (NOW - IN_FLIGHT_SECONDS - 1, {}, 200, None),
    ],
)
async def test_recipient_of_a_create_that_may_be_in_flight_or_kept_none(
    open_client, world, sent_at, fields, status, shown
):
    one = intent(sent_at, **fields)
    await world.store.intents.begin(one)
    answer = await open_client(recipients_shown=True).post(f"/v1/intents/{one.id}/recipient")
    assert answer.status_code == status
    assert ((answer.json().get("recipient") or {}).get("address")) == shown


async def test_bound_token_sees_no_recipient_of_another_account(open_client, world):
    one = await lost(world, recipient=KIM)
    client = open_client(**SHOWN)
    body = {"name": "emea", "scopes": ["jobs:write"], "source": "revor", "account": "emea"}
    token = (await client.post("/v1/tokens", headers=bearer("rl_admin"), json=body)).json()["token"]
    assert (await client.post(f"/v1/intents/{one.id}/recipient", headers=bearer(token))).status_code == 404
