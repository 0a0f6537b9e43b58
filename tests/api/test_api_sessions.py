"""`POST /v1/sessions`: a one-time link to the dashboard, and what a token is worth by its digest."""

from hashlib import sha256
from ipaddress import ip_network
from urllib.parse import parse_qs, urlsplit

import pytest

from relay.core.access.sign_in import LINK_SECONDS, digest_of, is_secret
from relay.errors import TooMany
from tests.api.test_api_auth import bearer
from tests.support.api_world import NOW, TOKENS, scope_of
from tests.support.store_kit import access_token

PROXIES = (ip_network("10.0.0.0/8"),)


def secret_of(url):
    """The secret in a link."""
    (secret,) = parse_qs(urlsplit(url).query)["link"]
    return secret


async def test_a_link_signs_in_as_its_token(open_client, world):
    client = open_client(dev=False, tokens=TOKENS, public_url="https://relay.example/")
    answer = await client.post("/v1/sessions", headers=bearer("rl_read"))
    made = answer.json()
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    assert made["url"].startswith("https://relay.example/ui/login?link=")
    assert made["expires_at"] == "2027-01-15T08:02:00.000Z"
    secret = secret_of(made["url"])
    assert is_secret(secret)
    stored = await world.store.sessions.find(digest_of(secret), "link", NOW + LINK_SECONDS - 0.1)
    assert (stored.name, stored.token_digest) == ("viewer", sha256(b"rl_read").hexdigest())
    assert secret not in repr(stored)
    assert await world.store.sessions.find(digest_of(secret), "session", NOW) is None


@pytest.mark.parametrize(
    ("token", "status", "code"),
    [
        ("rl_admin", 201, None),
        ("rl_read", 201, None),
        ("rl_jobs", 201, None),
        ("rl_subs", 201, None),
        ("rl_events", 403, "scope_missing"),
        ("rl_proxy", 403, "scope_missing"),
        ("rl_wrong", 401, "unauthorized"),
    ],
)
async def test_a_token_that_could_see_nothing_gets_no_link(open_client, token, status, code):
    client = open_client(dev=False, tokens=TOKENS)
    answer = await client.post("/v1/sessions", headers=bearer(token))
    assert (answer.status_code, answer.json().get("code")) == (status, code)


async def test_the_audit_says_who_made_a_link_and_has_no_secret(open_client, world):
    client = open_client(dev=False, tokens=TOKENS)
    secret = secret_of((await client.post("/v1/sessions", headers=bearer("rl_read"))).json()["url"])
    listed = await client.get("/v1/audit", headers=bearer("rl_admin"))
    entry = listed.json()["items"][0]
    assert (entry["action"], entry["actor"], entry["result"]) == ("sessions.create", "viewer", "ok")
    assert secret not in listed.text


# --- a token by its digest


def known_by(access, secret, peer="203.0.113.9"):
    return access.of_digest(sha256(secret.encode()).digest(), {"client": (peer, 1)})


async def test_a_token_is_worth_the_same_by_its_digest(world):
    limited = {
        "networks": (ip_network("203.0.113.0/24"),),
        "expires_at": NOW + 10,
        "account": ("revor", "default"),
        "requests_per_minute": 2,
    }
    await world.store.tokens.create(access_token("tok_1", "rl_mine", **limited), NOW)
    access = world.dependencies(tokens=TOKENS).access
    await world.node.tokens_changed()
    found = known_by(access, "rl_mine")
    assert found == access.identify("rl_mine", {"client": ("203.0.113.9", 1)})
    assert (found.name, found.account, found.token_id) == ("tok_1", ("revor", "default"), "tok_1")
    assert access.holds(found)
    assert known_by(access, "rl_mine", "198.51.100.1") is None
    with pytest.raises(TooMany):
        known_by(access, "rl_mine")
    world.now = NOW + 10
    assert known_by(access, "rl_mine") is None
    assert not access.holds(found)
    assert known_by(access, "rl_admin").name == "ops"
    assert known_by(access, "rl_unknown") is None


async def test_a_token_of_the_settings_is_gone_once_they_lose_it(world):
    access = world.dependencies(tokens=TOKENS).access
    found = known_by(access, "rl_read")
    access.configure(TOKENS[:1])
    assert known_by(access, "rl_read") is None
    assert not access.holds(found)


# --- a trusted proxy


@pytest.mark.parametrize(
    ("peer", "trusted", "proxied"),
    [
        ("10.0.0.1", PROXIES, True),
        ("::ffff:10.0.0.1", PROXIES, True),
        ("203.0.113.9", PROXIES, False),
        ("10.0.0.1", (), False),
        ("", PROXIES, False),
    ],
)
async def test_a_request_is_proxied_if_a_trusted_proxy_connected(world, peer, trusted, proxied):
    access = world.dependencies(trusted_proxies=trusted).access
    for forwarded in ("198.51.100.1", "10.0.0.1", "10.0.0.1, 203.0.113.9", "x"):
        scope = {**scope_of("/ui", [(b"x-forwarded-for", forwarded.encode())]), "client": (peer, 1) if peer else None}
        assert not access.is_proxied(scope)  # nothing is known before `address`
        access.address(scope)
        access.address(scope)  # the second time changes nothing, though the client is another one now
        assert access.is_proxied(scope) is proxied
