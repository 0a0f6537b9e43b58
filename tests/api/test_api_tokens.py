"""`/v1/tokens`: creating, listing and revoking tokens, and what a token of the database may do."""

import asyncio
from ipaddress import ip_network

import pytest

from relay.api.access import callers as access
from relay.core.access.tokens import FREE_MISTAKES
from tests.api.test_api_auth import bearer
from tests.support.api_world import TOKENS

SSE = {"Accept": "text/event-stream"}
HOME, ELSEWHERE, PROXY = "203.0.113.9", "198.51.100.66", "10.0.0.1"


@pytest.fixture
def ops(open_client):
    """A client that is admin."""
    client = open_client(dev=False, tokens=TOKENS)
    client.headers.update(bearer("rl_admin"))
    return client


async def created(ops, **fields):
    """A new token: its description and its secret."""
    answer = await ops.post("/v1/tokens", json={"name": "team-a", "scopes": ["read"], **fields})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    return made, made.pop("token")


async def test_a_token_is_shown_once_and_then_only_described(ops, world):
    answer = await ops.post("/v1/tokens", json={"name": "team-a", "scopes": ["jobs:write", "read", "read"]})
    made = answer.json()
    assert answer.headers["location"] == f"/v1/tokens/{made['id']}"
    secret = made.pop("token")
    assert secret.startswith("rl_")
    assert len(secret) == 46  # 256 bits in base64 after the prefix
    assert made == {
        "id": made["id"],
        "name": "team-a",
        "scopes": ["read", "jobs:write"],
        "created_at": "2027-01-15T08:00:00.000Z",
        "created_by": "ops",
        "expires_at": None,
        "last_used_at": None,
        "source": None,
        "account": None,
        "networks": [],
        "requests_per_minute": None,
    }
    assert (await ops.get(f"/v1/tokens/{made['id']}")).json() == made
    listed = await ops.get("/v1/tokens")
    assert listed.json() == {"items": [made], "next_cursor": None}
    assert secret not in listed.text
    stored = await world.store.tokens.get(made["id"])
    assert secret not in repr(stored)


async def test_a_token_works_at_once_and_is_refused_once_revoked(ops, open_client):
    made, secret = await created(ops)
    assert (await ops.get("/v1/jobs", headers=bearer(secret))).status_code == 200
    assert (await ops.get("/v1/tokens", headers=bearer(secret))).status_code == 403
    revoked = await ops.delete(f"/v1/tokens/{made['id']}")
    assert revoked.json() == {**made, "last_used_at": "2027-01-15T08:00:00.000Z"}
    answer = await ops.get("/v1/jobs", headers=bearer(secret))
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    for method in ("GET", "DELETE"):
        answer = await ops.request(method, f"/v1/tokens/{made['id']}")
        assert (answer.status_code, answer.json()["code"]) == (404, "token_not_found")


async def test_an_invalid_token_is_refused_with_its_place(ops) -> None:
    for fields, pointer, code in [
        ({"name": None}, "/name", "wrong_type"),
        ({"name": ""}, "/name", "invalid_name"),
        ({"name": "a b"}, "/name", "invalid_name"),
        ({"name": "x" * 65}, "/name", "invalid_name"),
        ({"name": "\u0000"}, "/name", "invalid_name"),
        ({"scopes": []}, "/scopes", "too_short"),
        ({"scopes": ["root"]}, "/scopes/0", "unknown_value"),
        ({"scopes": "read"}, "/scopes", "wrong_type"),
        ({"scopes": ["read"] * 51}, "/scopes", "too_long"),
        ({"scopes": ["events:write:com.acme"]}, "/scopes/0", "unknown_value"),
        ({"scopes": ["events:write:"]}, "/scopes/0", "unknown_value"),
        ({"scopes": ["events:write:." + "a" * 200]}, "/scopes/0", "unknown_value"),
        ({"scopes": ["jobs:write:com.acme."]}, "/scopes/0", "unknown_value"),
        ({"expires_at": "tomorrow"}, "/expires_at", "invalid_time"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "/expires_at", "invalid_time"),
        ({"expires_at": "2027-01-15T08:00:00Z"}, "/expires_at", "invalid_time"),  # now
        ({"account": "nobody"}, "/account", "unknown_account"),
        ({"account": "default", "source": "nowhere"}, "/source", "unknown_source"),
        ({"source": "revor"}, "/source", "invalid"),
        ({"networks": ["10.0.0.1/8"]}, "/networks/0", "invalid_network"),
        ({"networks": ["here"]}, "/networks/0", "invalid_network"),
        ({"networks": ["10.0.0.0/8"] * 101}, "/networks", "too_long"),
        ({"requests_per_minute": 0}, "/requests_per_minute", "out_of_range"),
        ({"requests_per_minute": 10**9}, "/requests_per_minute", "out_of_range"),
        ({"requests_per_minute": True}, "/requests_per_minute", "wrong_type"),
        ({"scope": ["read"]}, "/scope", "unknown_field"),
        ({"token": "rl_mine"}, "/token", "unknown_field"),
    ]:
        answer = await ops.post("/v1/tokens", json={"name": "team-a", "scopes": ["read"], **fields})
        assert answer.status_code == 422, answer.text
        assert {(error["pointer"], error["code"]) for error in answer.json()["errors"]} == {(pointer, code)}
        assert (await ops.get("/v1/tokens")).json()["items"] == []


async def test_a_repeated_create_gets_the_first_token(ops):
    key = {"Idempotency-Key": "one"}
    body = {"name": "team-a", "scopes": ["read"]}
    first = await ops.post("/v1/tokens", json=body, headers=key)
    again = await ops.post("/v1/tokens", json=body, headers=key)
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["idempotency-replayed"] == "true"


async def test_an_answer_is_never_replayed_to_another_token_of_the_same_name(ops):
    """A name is free once its token is revoked; what its holder sent stays its own."""
    key, body = {"Idempotency-Key": "one"}, {"id": "job-1"}
    made, secret = await created(ops, scopes=["jobs:write"])
    assert (await ops.post("/v1/jobs", json=body, headers={**key, **bearer(secret)})).status_code == 201
    await ops.delete(f"/v1/tokens/{made['id']}")
    _, secret = await created(ops, scopes=["jobs:write"])
    answer = await ops.post("/v1/jobs", json=body, headers={**key, **bearer(secret)})
    assert (answer.status_code, "idempotency-replayed" in answer.headers) == (200, False)


async def test_the_log_says_why_a_token_was_refused(ops, world, open_client):
    made, secret = await created(ops, networks=["203.0.113.0/24"])
    client = open_client(dev=False, tokens=TOKENS, peer=ELSEWHERE)
    await world.node.tokens_changed()
    scope = {"type": "http", "client": (ELSEWHERE, 1), "headers": []}
    assert world.node.access[-1].identify(secret, scope) is None
    assert scope["relay.refused"] == "team-a: network"
    assert made["name"] not in (await client.get("/v1/jobs", headers=bearer(secret))).text


async def test_forwarding_headers_name_the_caller_only_if_a_trusted_proxy_sent_them(ops, world, open_client):
    _, secret = await created(ops, networks=["203.0.113.0/24"])
    trusted = {"trusted_proxies": [ip_network("10.0.0.0/8")]}
    for peer, settings, headers, status in (
        (PROXY, trusted, {"X-Forwarded-For": HOME}, 200),
        (PROXY, trusted, {"X-Forwarded-For": f"{ELSEWHERE}, {HOME}"}, 200),
        (PROXY, trusted, {"Forwarded": f"for={HOME}"}, 200),
        (PROXY, trusted, {"X-Forwarded-For": f"{HOME}, {ELSEWHERE}"}, 401),
        (PROXY, trusted, {"X-Forwarded-For": ELSEWHERE, "Forwarded": f"for={HOME}"}, 401),
        (PROXY, trusted, {}, 401),
        (PROXY, {}, {"X-Forwarded-For": HOME}, 401),
        (ELSEWHERE, trusted, {"X-Forwarded-For": HOME, "Forwarded": f"for={HOME}"}, 401),
        (ELSEWHERE, trusted, {"X-Real-IP": HOME, "CF-Connecting-IP": HOME, "True-Client-IP": HOME}, 401),
        (HOME, trusted, {"X-Forwarded-For": ELSEWHERE}, 200),
    ):
        client = open_client(dev=False, tokens=TOKENS, peer=peer, **settings)
        await world.node.tokens_changed()
        answer = await client.get("/v1/jobs", headers={**bearer(secret), **headers})
        assert answer.status_code == status, (peer, headers)


# --- requests per minute


async def test_requests_per_minute(ops, world):
    _, secret = await created(ops, requests_per_minute=2)
    for remaining, reset in ((1, 60), (0, 30)):
        answer = await ops.get("/v1/jobs", headers=bearer(secret))
        assert answer.status_code == 200
        assert answer.headers["ratelimit-policy"] == '"token";q=2;w=60'
        assert answer.headers["ratelimit"] == f'"token";r={remaining};t={reset}'
        world.now += 30
    world.now -= 20  # 40 s after the first
    for path in ("/v1/jobs", "/nothing", "/v1/signing-secret", "/metrics"):
        answer = await ops.get(path, headers=bearer(secret))
        assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
        assert answer.headers["retry-after"] == "20"
        assert answer.headers["ratelimit"] == '"token";r=0;t=20'
    world.now += 20
    assert (await ops.get("/v1/jobs", headers=bearer(secret))).headers["ratelimit"] == '"token";r=1;t=60'


# --- wrong tokens


async def test_wrong_tokens_are_slowed_down_per_address(open_client, world):
    client, other = (open_client(dev=False, tokens=TOKENS, peer=peer) for peer in ("2001:db8::1", HOME))
    statuses = [(await client.get("/v1/jobs", headers=bearer(f"rl_{n}"))).status_code for n in range(FREE_MISTAKES)]
    assert statuses == [401] * FREE_MISTAKES
    answer = await client.get("/v1/jobs", headers=bearer("rl_x"))
    assert (answer.status_code, answer.json()["code"]) == (429, "too_many_wrong_tokens")
    assert answer.headers["retry-after"] == "6"
    assert (await client.get("/v1/jobs", headers=bearer("rl_read"))).status_code == 200  # a valid one never waits
    assert (await client.get("/v1/jobs")).status_code == 401  # none is not a wrong one
    assert (await other.get("/v1/jobs", headers=bearer("rl_x"))).status_code == 401
    world.now += 12
    assert (await client.get("/v1/jobs", headers=bearer("rl_x"))).status_code == 401


async def wrong(access_, client):
    return await access_.slowed(access.WrongToken("the token is not valid", client))


async def test_remembered_addresses_are_bounded(world, monkeypatch):
    monkeypatch.setattr(access, "MAX_ADDRESSES", 100)
    tokens = world.dependencies(dev=False).access
    for _ in range(FREE_MISTAKES + 1):
        await wrong(tokens, HOME)
    for number in range(1_000):
        await wrong(tokens, f"198.51.{number // 250}.{number % 250}")
        if number % 50 == 0:
            assert (await wrong(tokens, HOME)).status == 429  # the newest stay
    assert len(tokens._addresses) == 100


async def test_held_answers_are_bounded_and_the_rest_lose_their_connection(world, monkeypatch):
    gate = asyncio.Event()

    async def hold(_seconds):
        await gate.wait()

    monkeypatch.setattr(access.asyncio, "sleep", hold)
    tokens = world.dependencies(dev=False).access
    for _ in range(FREE_MISTAKES):
        await wrong(tokens, HOME)
    held = [asyncio.ensure_future(wrong(tokens, HOME)) for _ in range(access.MAX_HELD_OF_AN_ADDRESS)]
    await asyncio.wait(held, timeout=0)
    error = await wrong(tokens, HOME)
    assert error.headers["Connection"] == "close"
    assert not any(one.done() for one in held)
    gate.set()
    assert {error.status for error in await asyncio.gather(*held)} == {429}
    assert tokens._held.taken == 0


# --- open streams and waits


@pytest.mark.parametrize("path", ["/v1/events/stream", "/v1/jobs/a/events"])
async def test_a_stream_ends_once_its_token_is_revoked(ops, world, path):
    made, secret = await created(ops)
    await world.job("a")

    async def revoked():
        assert (await ops.delete(f"/v1/tokens/{made['id']}")).status_code == 200
        await world.poll(await world.job("b"), "queued")
        return True

    async def never():
        raise AssertionError("the stream goes on")

    world.signals.steps = [revoked, never]
    answer = await ops.get(path, headers={**SSE, **bearer(secret)})
    assert (answer.status_code, answer.text) == (200, ": connected\n\n")


async def test_a_wait_ends_once_its_token_is_revoked(ops, world):
    made, secret = await created(ops)
    await world.job("a")

    async def revoked():
        await ops.delete(f"/v1/tokens/{made['id']}")
        return True

    world.signals.steps = [revoked]
    answer = await ops.get("/v1/jobs/a", headers={"Prefer": "wait=10", **bearer(secret)})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert world.signals.open_watches == 0


# --- hostile requests


@pytest.mark.parametrize(
    "value",
    [
        b"Bearer rl_\xff\xfe",
        "Bearer rl_\u00e9".encode(),
        b"Bearer " + b"x" * 30_000,
        b"Bearer rl_admin\x00",
        b"Bearer \t",
    ],
)
async def test_tokens_of_any_bytes_are_refused(open_client, value):
    client = open_client(dev=False, tokens=TOKENS)
    assert (await client.get("/v1/jobs", headers={b"Authorization": value})).status_code == 401


async def test_a_token_that_is_bound_to_an_account_reaches_that_account_only(ops, world):
    for account in ("default", "emea"):
        await world.job("a", account=account)
    made, secret = await created(ops, scopes=["admin"], account="emea")
    assert (made["source"], made["account"]) == ("revor", "emea")
    jobs = (await ops.get("/v1/jobs", headers=bearer(secret))).json()["items"]
    assert [job["account"] for job in jobs] == ["emea"]
    for path in ("/v1/tokens", f"/v1/tokens/{made['id']}", "/v1/signing-secret"):
        assert (await ops.get(path, headers=bearer(secret))).status_code == 403


@pytest.mark.parametrize("adopts", [True, False])
async def test_a_token_of_a_relay_never_goes_upstream(ops, world, open_client, monkeypatch, adopts):
    """With `adopt_unknown_keys` unknown keys are passed on: a token that is valid from elsewhere only, or was mistyped,
    is not. Without it no unknown key is, not even with `--dev`."""
    monkeypatch.setattr(type(world.gateway), "adopts_keys", adopts)
    _, elsewhere = await created(ops, networks=["203.0.113.0/24"], scopes=["proxy"])
    _, expired = await created(ops, name="old", expires_at="2027-01-15T08:00:10Z", scopes=["proxy"])
    client = open_client(dev=not adopts, passed_paths=("/api/v1/",))
    client.event_hooks = {}
    await world.node.tokens_changed()
    world.now += 10
    for key in (elsewhere, expired, "rl_mistyped"):
        for headers in (bearer(key), {"x-api-key": key}):
            answer = await client.get("/api/v1/outreach/jobs/a", headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "relay_key_unknown")
    assert world.gateway.passed == []
    other = await client.get("/api/v1/x", headers=bearer("sk-another"))
    assert other.status_code == (200 if adopts else 401)
