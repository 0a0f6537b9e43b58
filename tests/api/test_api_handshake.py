"""`config.handshake` and the state `pending`."""

from relay.core.subscriptions.signing import new_secret
from relay.core.subscriptions.subscription import Consent
from tests.support.api_world import HOOK, SLACK

WAITS = "waits for the sink's consent"


async def create(client, **body):
    answer = await client.post("/v1/subscriptions", json={"sink": HOOK, **body})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def stored(world, made):
    return await world.store.subscriptions.get(made["id"])


async def granted(world, made, rate=None):
    consent, until = Consent(origin="relay.example", at=world.now, rate_per_minute=rate), world.now + 60
    assert await world.store.handshakes.take_turn(made["id"], world.now, until)
    reason = "the sink has consented"
    assert await world.store.handshakes.end_turn(made["id"], until, world.now, reason, consent, None)


def state(document):
    return {name: document[name] for name in ("state", "state_reason", "disabled_reason", "next_handshake_at")}


async def test_subscription_is_pending_until_its_sink_agrees(client, world):
    made = await create(client, config={"handshake": "required"})
    assert made["config"]["handshake"] == "required"
    assert state(made) == {
        "state": "pending",
        "state_reason": WAITS,
        "disabled_reason": None,
        "next_handshake_at": "2027-01-15T08:00:00.000Z",
    }
    assert world.signals.woken == 1
    await granted(world, made, rate=120)
    shown = (await client.get(f"/v1/subscriptions/{made['id']}")).json()
    assert (shown["state"], shown["next_handshake_at"]) == ("enabled", None)
    assert shown["consent"] == {
        "origin": "relay.example",
        "rate_per_minute": 120,
        "at": "2027-01-15T08:00:00.000Z",
    }


async def test_setting_is_a_minimum(open_client):
    client = open_client(handshake="required")
    assert (await create(client))["state"] == "pending"
    assert (await create(client, config={"handshake": "off"}))["state"] == "pending"
    assert (await create(client, sink=SLACK))["state"] == "enabled", "Slack answers no handshake"
    fake = await create(client, sink="https://victim.example/", config={"kind": "slack"})
    assert fake["state"] == "pending", "the kind alone proves nothing"


async def test_nothing_is_sent_before_consent_and_not_by_a_test_either(client, world):
    made = await create(client, config={"handshake": "required"})
    path = f"/v1/subscriptions/{made['id']}"
    for action in ("", "/pause"):
        if action:
            assert (await client.post(path + action)).json()["state"] == "paused"
        answer = await client.post(f"{path}/test")
        assert (answer.status_code, answer.json()["code"]) == (409, "no_consent")
    assert world.dispatcher.tested == []
    assert (await client.post(f"{path}/resume")).json()["state"] == "pending"
    await granted(world, made)
    assert (await client.post(f"{path}/test")).status_code == 200


async def refused(world, made):
    """The sink was asked and has not agreed."""
    now = world.now
    assert await world.store.handshakes.take_turn(made["id"], now, now + 60)
    reason = f"{WAITS}: it answered 405"
    assert await world.store.handshakes.end_turn(made["id"], now + 60, now + 1, reason, None, now + 86_400)


async def test_resume_asks_again_and_enables_only_with_consent(client, world):
    made = await create(client, config={"handshake": "required"})
    path = f"/v1/subscriptions/{made['id']}"
    await refused(world, made)
    shown = (await client.get(path)).json()
    assert (shown["state"], shown["state_reason"], shown["next_handshake_at"]) == (
        "pending",
        f"{WAITS}: it answered 405",
        "2027-01-16T08:00:00.000Z",
    )
    world.now += 3_600
    again = (await client.post(f"{path}/resume")).json()
    assert (again["state"], again["state_reason"]) == ("pending", WAITS)
    assert again["next_handshake_at"] == again["state_since"] == "2027-01-15T09:00:00.000Z"
    await client.post(f"{path}/pause")
    assert (await client.post(f"{path}/resume")).json()["state"] == "pending"
    await granted(world, made)
    await client.post(f"{path}/pause")
    resumed = (await client.post(f"{path}/resume")).json()
    assert (resumed["state"], resumed["state_reason"]) == ("enabled", "resumed by hand")


async def test_put_with_another_sink_needs_another_consent(client, world):
    made = await create(client, config={"handshake": "required"})
    path = f"/v1/subscriptions/{made['id']}"
    await granted(world, made)
    shown = (await client.get(path)).json()
    kept = (await client.put(path, json={**shown, "description": "new"})).json()
    assert (kept["state"], kept["consent"]) == ("enabled", shown["consent"])
    moved = (await client.put(path, json={**shown, "sink": HOOK + "/other"})).json()
    assert (moved["state"], moved["consent"], moved["state_reason"]) == ("pending", None, WAITS)


async def test_pending_subscription_is_asked_at_once_only_if_the_question_changes(client, world):
    made = await create(client, config={"handshake": "required"})
    path = f"/v1/subscriptions/{made['id']}"
    await refused(world, made)
    shown = (await client.get(path)).json()
    world.now += 3_600
    for same in ({"description": "new"}, {"types": ["failed"]}, {"filters": [{"exact": {"channel": "email"}}]}):
        answer = (await client.put(path, json={**shown, **same})).json()
        assert state(answer) == state(shown), same
        assert answer["state_since"] == shown["state_since"]
    faster = {"config": {**shown["config"], "rate_per_second": 2}}
    for other in (faster, {**faster, "sink": HOOK + "/other"}):
        answer = (await client.put(path, json={**shown, **other})).json()
        asked_at = "2027-01-15T09:00:00.000Z"
        assert (answer["state"], answer["state_reason"], answer["next_handshake_at"]) == ("pending", WAITS, asked_at)
        await refused(world, made)
    free = (await client.put(path, json={**shown, "config": {**shown["config"], "handshake": "off"}})).json()
    assert (free["state"], free["next_handshake_at"]) == ("enabled", None)


async def test_declaring_a_pending_subscription_again_does_not_ask_its_sink(client, world):
    declared = {"id": "crm", "sink": HOOK, "config": {"handshake": "required", "secret": new_secret(b"s" * 32)}}
    assert (await client.post("/v1/subscriptions/apply", json={"subscriptions": [declared]})).status_code == 200
    await refused(world, declared)
    shown = (await client.get("/v1/subscriptions/crm")).json()
    world.now += 3_600
    body = {"subscriptions": [{**declared, "description": "new"}]}
    assert (await client.post("/v1/subscriptions/apply", json=body)).json()["changed"] == 1
    assert state((await client.get("/v1/subscriptions/crm")).json()) == state(shown)
