"""A CRM's sink and credential are tried before the subscription is stored, and nothing is stored if they fail."""

import pytest

from relay.core.deliveries.delivery import OutboundRequest, Outcome
from relay.core.deliveries.dialogue import Ended, Step, Steps
from relay.core.subscriptions.subscription import Subscription
from relay.errors import CheckFailed
from subscribers.webhook import Webhook
from tests.support.api_world import TOKENS

SINK = "https://crm.example/api"
TOKEN = {"credentialtype": "ACCESSTOKEN", "accesstoken": "secret-token"}
BODY = {"sink": SINK, "sinkcredential": TOKEN}
REFUSED = CheckFailed("the sink refuses the credential", code="credential_refused")
UNREACHABLE = CheckFailed("timeout", code="sink_unreachable", status=502, headers={"Retry-After": "7"})


def greeting(subscription: Subscription, now: float) -> Steps | None:
    """Webhooks at this host are greeted, as CRMs are."""
    return _steps() if subscription.sink.startswith("https://crm.example") else None


def _steps() -> Steps:
    yield Step(request=OutboundRequest(url=SINK, method="GET"), name="who am I")
    return Ended(outcome=Outcome(verdict="delivered", reason="ok"))


@pytest.fixture(autouse=True)
def crm_webhooks(monkeypatch):
    monkeypatch.setattr(Webhook, "greeting", lambda kind, subscription, now: greeting(subscription, now))
    monkeypatch.setattr(Webhook, "portal", lambda kind, subscription: subscription.options.get("portal"))


async def stored(client) -> list:
    return (await client.get("/v1/subscriptions")).json()["items"]


async def test_what_the_sink_tells_is_stored_and_shown(client, world):
    world.dispatcher.greeting = [{"portal": "123", "version": "62.0"}]
    made = await client.post("/v1/subscriptions", json=BODY)
    assert made.status_code == 201
    assert made.json()["config"]["portal"] == "123"
    kept = await world.store.subscriptions.get(made.json()["id"])
    assert dict(kept.options) == {"portal": "123", "version": "62.0"}
    [shown] = await stored(client)
    assert shown["config"]["portal"] == "123"
    [greeted] = world.dispatcher.greeted
    assert greeted.credential.fields["accesstoken"] == "secret-token"


@pytest.mark.parametrize(("failure", "status"), [(REFUSED, 422), (UNREACHABLE, 502)])
async def test_nothing_is_stored_if_the_check_fails(client, world, failure, status):
    world.dispatcher.greeting = [failure]
    refused = await client.post("/v1/subscriptions", json=BODY)
    assert (refused.status_code, refused.json()["code"]) == (status, failure.code)
    assert refused.headers.get("Retry-After") == failure.headers.get("Retry-After")
    assert await stored(client) == []
    assert world.signals.woken == 0


async def test_the_check_can_be_left_out(client, world):
    made = await client.post("/v1/subscriptions?check=false", json=BODY)
    assert (made.status_code, made.json()["config"]["portal"]) == (201, None)
    assert world.dispatcher.greeted == []


async def test_applying_keeps_the_portal_until_the_credential_changes(client, world):
    config = {"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
    declared = {**BODY, "id": "crm", "config": config}
    await client.post("/v1/subscriptions/apply", json={"subscriptions": [declared]})
    world.dispatcher.greeting = [{"portal": "123"}, {"portal": "123"}]
    shown = (await client.get("/v1/subscriptions/crm")).json()
    await client.put("/v1/subscriptions/crm", json={**shown, "sinkcredential": TOKEN})
    again = await client.post("/v1/subscriptions/apply", json={"subscriptions": [declared]})
    assert again.json()["changes"][0]["fields"] == []
    assert (await client.get("/v1/subscriptions/crm")).json()["config"]["portal"] == "123"
    other = {**declared, "sinkcredential": {**TOKEN, "accesstoken": "another"}}
    changed = await client.post("/v1/subscriptions/apply", json={"subscriptions": [other]})
    assert changed.json()["changes"][0]["fields"] == ["config.portal", "sinkcredential"]
    assert (await client.get("/v1/subscriptions/crm")).json()["config"]["portal"] is None


@pytest.mark.parametrize(
    ("change", "is_tried"),
    [
        ({"description": "x"}, False),
        ({"sinkcredential": {**TOKEN, "accesstoken": "new"}}, True),
        ({"sink": SINK + "/v2"}, True),
        ({"sink": "https://hooks.example", "sinkcredential": None}, False),
    ],
    ids=str,
)
async def test_a_change_of_sink_or_credential_is_tried_as_well(client, world, change, is_tried):
    world.dispatcher.greeting = [{"portal": "123"}, {"portal": "456"}]
    made = (await client.post("/v1/subscriptions", json=BODY)).json()
    shown = (await client.get(f"/v1/subscriptions/{made['id']}")).json()
    changed = await client.put(f"/v1/subscriptions/{made['id']}", json={**shown, **change})
    assert changed.status_code == 200, changed.text
    assert len(world.dispatcher.greeted) == 1 + is_tried
    kept = None if change.get("sink") == "https://hooks.example" else "123"
    assert changed.json()["config"]["portal"] == ("456" if is_tried else kept)


async def test_a_change_that_fails_the_check_changes_nothing(client, world):
    world.dispatcher.greeting = [{"portal": "123"}, REFUSED]
    made = (await client.post("/v1/subscriptions", json=BODY)).json()
    path = f"/v1/subscriptions/{made['id']}"
    shown = (await client.get(path)).json()
    refused = await client.put(path, json={**shown, "sinkcredential": {**TOKEN, "accesstoken": "new"}})
    assert (refused.status_code, refused.json()["code"]) == (422, "credential_refused")
    assert (await client.get(path)).json() == shown


async def test_what_others_change_during_a_check_is_not_undone(client, world):
    made = await _created(client, world)
    path = f"/v1/subscriptions/{made['id']}"
    shown = (await client.get(path)).json()

    async def pause() -> dict[str, str]:
        await client.post(f"{path}/pause")
        return {"portal": "456"}

    world.dispatcher.greeting = [pause]
    changed = await client.put(path, json={**shown, "sinkcredential": {**TOKEN, "accesstoken": "new"}})
    assert (changed.json()["state"], changed.json()["config"]["portal"]) == ("paused", "456")

    async def other_credential() -> dict[str, str]:
        world.dispatcher.greeting = [{"portal": "789"}]
        other = {**TOKEN, "accesstoken": "theirs"}
        assert (await client.put(path, json={**shown, "sinkcredential": other})).status_code == 200
        return {"portal": "456"}

    world.dispatcher.greeting = [other_credential]
    without = {name: value for name, value in shown.items() if name != "sinkcredential"}
    raced = await client.put(path, json={**without, "sink": SINK + "/v2"})
    assert (raced.status_code, raced.json()["code"]) == (409, "subscriptions_changed")
    assert (await client.get(path)).json()["config"]["portal"] == "789"


async def _created(client, world) -> dict:
    world.dispatcher.greeting = [{"portal": "123"}]
    return (await client.post("/v1/subscriptions", json=BODY)).json()


async def test_an_existing_subscription_is_that_of_the_portal(client, world):
    made = await _created(client, world)
    world.dispatcher.greeting = [{"portal": "123"}, {"portal": "456"}]
    again = await client.post("/v1/subscriptions?reuse=true", json=BODY)
    assert (again.status_code, again.json()["id"]) == (200, made["id"])
    assert (await client.post("/v1/subscriptions?reuse=true", json=BODY)).status_code == 201


async def test_a_token_that_is_revoked_during_a_check_stores_nothing(open_client, world):
    client = open_client(dev=False, tokens=TOKENS, peer="203.0.113.9")
    client.headers["Authorization"] = "Bearer rl_subs"

    async def revoke() -> dict[str, str]:
        world.node.access[-1].configure([one for one in TOKENS if one.value != "rl_subs"])
        return {"portal": "123"}

    world.dispatcher.greeting = [revoke]
    assert (await client.post("/v1/subscriptions", json=BODY)).status_code == 401
    assert await world.store.subscriptions.all() == []
