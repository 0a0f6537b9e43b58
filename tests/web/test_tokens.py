"""API tokens in the dashboard: for admins only; a secret is shown once."""

from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest

from tests.support.api_world import TOKENS, World
from tests.support.web_world import Browser

GIVEN: dict[str, Any] = {
    "name": "crm",
    "scopes": ["read", "jobs:write"],
    "prefix": "com.acme.",
    "account": "revor/emea",
    "networks": "203.0.113.0/24\n10.0.0.0/8",
    "lasts": "90",
    "requests_per_minute": "60",
}


def errors_of(page: Any) -> dict[str, str]:
    found = page.soup.all("//*[contains(@class, 'field-error')]")
    return {one.get("id").removesuffix("-error"): one.text_content() for one in found}


async def test_a_token_is_made_shown_once_listed_and_revoked(browser: Browser, world: World) -> None:
    made = await browser.post("/ui/tokens/new", GIVEN)
    assert made.status == 200
    secret = made.soup.texts("//pre")[0]
    assert secret.startswith("rl_")
    assert made.soup.all("//button[@data-copy]")
    assert "A person signs in with it at http" in made.soup.text
    _, (stored,) = await world.store.tokens.all()
    assert stored.digest == sha256(secret.encode()).hexdigest()
    assert stored.scopes == {"read", "jobs:write", "events:write:com.acme."}
    assert stored.account == ("revor", "emea")
    assert [str(one) for one in stored.networks] == ["203.0.113.0/24", "10.0.0.0/8"]
    assert (stored.expires_at, stored.requests_per_minute) == (world.now + 90 * 86_400, 60)

    page = await browser.get("/ui/tokens")
    assert secret not in page.html
    (row,) = page.soup.rows()
    assert row["Name"].startswith("crm made by")
    assert row["Permissions"] == "read, jobs:write, events:write:com.acme."
    assert row["Limits"] == "revor/emea 203.0.113.0/24, 10.0.0.0/8 60 requests a minute"
    assert row["Last used"] == "never"

    assert page.soup.all("//details[contains(@class, 'confirm')]//form[contains(@action, '/revoke')]")
    done = await browser.post(f"/ui/tokens/{stored.id}/revoke")
    assert done.said == "The token is revoked. Programs that use it are refused."
    assert await world.store.tokens.get(stored.id) is None
    actions = [one["action"] for one in (await browser.client.get("/v1/audit")).json()["items"]]
    assert sorted(actions) == ["tokens.create", "tokens.revoke"]


async def test_errors_stand_at_their_fields(browser: Browser, world: World) -> None:
    for changes, field in [
        ({"name": "no spaces"}, "name"),
        ({"scopes": [], "prefix": ""}, "scopes"),
        ({"scopes": ["write"]}, "scopes"),
        ({"prefix": "com.acme"}, "scopes"),
        ({"account": "revor/nobody"}, "account"),
        ({"account": "other/default"}, "account"),
        ({"networks": "10.0.0.0/99"}, "networks"),
        ({"lasts": "at"}, "expires_at"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ({"requests_per_minute": "often"}, "requests_per_minute"),
        ({"requests_per_minute": "0"}, "requests_per_minute"),
        ({"requests_per_minute": "9" * 5_000}, "requests_per_minute"),
    ]:
        refused = await browser.post("/ui/tokens/new", {**GIVEN, **changes})
        assert refused.status == 422
        assert list(errors_of(refused)) == [field]
        assert refused.soup.one("//input[@name='name']").get("value") == {**GIVEN, **changes}["name"]
        assert (await world.store.tokens.all())[1] == []


@pytest.mark.parametrize("token", [one.value for one in TOKENS if one.name in ("viewer", "team")])
async def test_others_than_admins_are_refused(open_as: Callable[..., Any], world: World, token: str) -> None:
    browser = await open_as(token=token)
    for path in ("/ui/tokens", "/ui/tokens/new", "/ui/audit", "/ui/settings"):
        assert (await browser.get(path)).status == 403
    assert (await browser.post("/ui/tokens/new", GIVEN)).status == 403
    assert (await browser.post("/ui/audit/verify")).status == 403
    assert (await world.store.tokens.all())[1] == []


async def test_a_bound_admin_is_refused(open_as: Callable[..., Any]) -> None:
    browser = await open_as(scopes=["admin"], account=("revor", "emea"))
    for path in ("/ui/tokens", "/ui/audit", "/ui/settings"):
        assert (await browser.get(path)).status == 403
