"""`GET /v1/settings`: the settings in force, for admins of the whole relay."""

import pytest

from relay.config.settings import Settings, load_settings
from tests.api.conftest import Client
from tests.support.api_world import TOKENS, World


async def test_settings_have_values_and_places_and_no_secrets(client: Client, world: World) -> None:
    environ = {"REVOR_API_KEY": "key-one", "RELAY_SERVER__PORT": "9090"}
    world.node.settings = load_settings(None, environ)
    answer = await client.get("/v1/settings")
    found = {one["key"]: one for one in answer.json()["items"]}
    assert found["server.port"] == {
        "key": "server.port",
        "value": 9090,
        "secret": False,
        "set": True,
        "place": "RELAY_SERVER__PORT",
        "reloaded": False,
        "default": "8080",
        "type": "a whole number from 0 to 65535",
        "meaning": "port to listen on; 0 chooses a free one",
    }
    key = found["sources.revor.accounts.default.api_key"]
    assert (key["value"], key["set"], key["place"], key["reloaded"]) == (None, True, "REVOR_API_KEY", True)
    assert "key-one" not in answer.text


async def test_a_reload_is_seen(client: Client, world: World) -> None:
    world.node.settings = load_settings(None, {"RELAY_DELIVERY__JITTER": "0.9"})
    found = {one["key"]: one for one in (await client.get("/v1/settings")).json()["items"]}
    assert (found["delivery.jitter"]["value"], found["delivery.jitter"]["place"]) == (0.9, "RELAY_DELIVERY__JITTER")
    world.node.settings = Settings()
    found = {one["key"]: one for one in (await client.get("/v1/settings")).json()["items"]}
    assert (found["delivery.jitter"]["value"], found["delivery.jitter"]["place"]) == (0.2, "default")


@pytest.mark.parametrize("token", [one.value for one in TOKENS if "admin" not in one.scopes])
async def test_others_than_admins_are_refused(open_client, token: str) -> None:
    client = open_client(dev=False, tokens=TOKENS)
    answer = await client.get("/v1/settings", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 403
