import pytest

from relay.api.app import create_api
from relay.api.catalogue import OPERATIONS
from relay.api.http.auth import (
    ADMINS,
    PUBLIC,
    READS_JOBS,
    READS_METRICS,
    READS_SUBSCRIPTIONS,
    WRITES_JOBS,
    WRITES_SUBSCRIPTIONS,
)
from tests.support.api_world import TOKENS

PATH_VALUES = {"{id}": "nothing", "{name}": "nothing"}


def path_of(operation):
    path = operation.path
    for name, value in PATH_VALUES.items():
        path = path.replace(name, value)
    return path


def bearer(value):
    return {"Authorization": f"Bearer {value}"}


OPEN = {operation.id for operation in OPERATIONS if operation.scopes is PUBLIC}
SIGNS_IN = {"createSession"}
TEAM = ("/v1/subscriptions", "/v1/deliveries", "/v1/replays")
ALLOWED = {
    "ops": {operation.id for operation in OPERATIONS},
    "viewer": {
        operation.id
        for operation in OPERATIONS
        if operation.scopes in (PUBLIC, READS_SUBSCRIPTIONS)
        or (operation.method == "GET" and operation.scopes not in (ADMINS, READS_METRICS))
    }
    | SIGNS_IN,
    "crm": {
        operation.id
        for operation in OPERATIONS
        if operation.scopes is PUBLIC or operation.path.startswith(("/v1/jobs", "/v1/groups", "/v1/intents"))
    }
    | SIGNS_IN,
    "team": OPEN
    | SIGNS_IN
    | {operation.id for operation in OPERATIONS if operation.path.startswith(TEAM) and operation.scopes is not ADMINS},
    "shop": OPEN | {"publishEvents"},
    "dropin": OPEN,
    "scraper": OPEN | {"getMetrics"},
}


def test_scopes_are_as_documented():
    assert len(ADMINS) == 0
    assert frozenset({"read", "jobs:write"}) == READS_JOBS
    assert frozenset({"metrics"}) == READS_METRICS
    assert frozenset({"jobs:write"}) == WRITES_JOBS
    assert frozenset({"read", "subscriptions:write"}) == READS_SUBSCRIPTIONS
    assert frozenset({"subscriptions:write"}) == WRITES_SUBSCRIPTIONS
    admins = {operation.id for operation in OPERATIONS if operation.scopes is ADMINS}
    assert {"getSigningSecret", "getDeliveryRequest"} <= admins


@pytest.mark.parametrize("token", TOKENS, ids=lambda token: token.name)
async def test_every_operation_with_every_scope(open_client, token):
    client = open_client(dev=False, tokens=TOKENS)
    for operation in OPERATIONS:
        answer = await client.request(operation.method, path_of(operation), headers=bearer(token.value))
        assert (answer.status_code != 403) == (operation.id in ALLOWED[token.name]), operation.id
        if answer.status_code == 403:
            assert answer.json()["code"] == "scope_missing", operation.id
            assert token.value not in answer.text, operation.id


async def test_every_operation_without_a_token(open_client):
    client = open_client(dev=False, tokens=TOKENS)
    for operation in OPERATIONS:
        answer = await client.request(operation.method, path_of(operation))
        assert (answer.status_code == 401) == (operation.scopes is not PUBLIC), operation.id
        if answer.status_code == 401:
            assert answer.headers["www-authenticate"] == 'Bearer realm="revor-relay"', operation.id


async def test_an_invalid_token_is_401(open_client) -> None:
    for value in [
        *("Bearer", "Bearer ", "Basic cmxfYWRtaW4=", "rl_admin", "Bearer rl_admi", "Bearer rl_admin2"),
        b"Bearer \xff\xfe",
    ]:
        client = open_client(dev=False, tokens=TOKENS)
        for path in ("/v1/jobs", "/metrics", "/v1/no-such-thing", "/v1"):
            answer = await client.get(path, headers={"Authorization": value})
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
            assert answer.headers["www-authenticate"].startswith("Bearer")


CONTROLS = ("%00", "%0a", "%0A", "%0d%0a", "%09", "%1f", "%7f", "%c2%80", "%C2%85", "%c2%9f")


@pytest.mark.parametrize("tokens", [(), TOKENS])
async def test_a_control_character_in_a_path_is_refused(open_client, tokens):
    client = open_client(tokens=tokens, peer="203.0.113.9", base_url="https://relay.example.com")
    for operation in OPERATIONS:
        path = path_of(operation)
        for written in (*(path + control for control in CONTROLS), f"/%0a{path}"):
            answer = await client.request(operation.method, written)
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_path"), written


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/metrics/", "/metrics/x", "/Metrics", "/metrics%20", "/metrics%c2%a0", "//metrics", "/metrics;x"),
        *("/%2e", "/v2", "/v1x", "/V1/jobs", "//v1/jobs", "/nothing", "/livez/", "/livez/x", "/livezx", "/readyz%20"),
        *("/openapi.json/x", "/schemas", "/schemasx", "/.well-known", "/ui", "/api/v3/x", "/livez/../v1/jobs"),
    ],
)
async def test_a_path_that_is_not_listed_as_open_needs_a_token(open_client, path):
    client = open_client(dev=False, tokens=TOKENS)
    answer = await client.request("GET", path, headers={"accept": "text/html"})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert (await open_client(peer="203.0.113.9").request("GET", path)).status_code == 403


async def test_a_route_refuses_a_caller_that_the_front_let_through(open_client, monkeypatch):
    monkeypatch.setattr("relay.api.front.needs_identity", lambda path: False)
    client = open_client(dev=False, tokens=TOKENS)
    for operation in OPERATIONS:
        answer = await client.request(operation.method, path_of(operation))
        assert (answer.status_code == 401) == (operation.scopes is not PUBLIC), operation.id


async def test_open_paths_need_no_token(open_client) -> None:
    for path in ["/livez", "/readyz", "/openapi.json", "/asyncapi.json", "/schemas/job-status.v1.json"]:
        for dev in [False, True]:
            client = open_client(dev=dev, tokens=TOKENS, peer="203.0.113.9", base_url="http://attacker.example")
            assert (await client.get(path)).status_code == 200


@pytest.mark.parametrize("tokens", [(), TOKENS], ids=["no tokens", "tokens"])  # fails closed where there is none at all
async def test_without_dev_a_caller_on_this_machine_needs_a_token_too(open_client, tokens):
    client = open_client(dev=False, tokens=tokens)
    for operation in OPERATIONS:
        answer = await client.request(operation.method, path_of(operation), headers={"Host": "127.0.0.1:8080"})
        assert (answer.status_code == 401) == (operation.scopes is not PUBLIC), operation.id


async def test_two_authorization_headers_are_refused(open_client):
    client = open_client(dev=False, tokens=TOKENS)
    both = [("Authorization", "Bearer rl_admin"), ("Authorization", "Bearer rl_read")]
    assert (await client.get("/v1/jobs", headers=both)).status_code == 401


@pytest.mark.parametrize("tokens", [(), TOKENS], ids=["no tokens", "tokens"])
async def test_with_dev_only_callers_on_this_machine_need_no_token(open_client, tokens):
    for peer, host, origin, code in (
        ("127.0.0.1", "127.0.0.1:8080", None, None),
        ("127.0.0.7", "localhost", None, None),
        ("::1", "[::1]:8080", None, None),
        ("::ffff:127.0.0.1", "localhost:1", None, None),
        ("127.0.0.1", "LOCALHOST.", "http://localhost", None),
        ("127.0.0.1", "127.0.0.1:8080", "http://127.0.0.1:8080", None),
        ("127.0.0.1", "[::1]:8080", "http://[::1]:8080", None),
        ("192.168.1.4", "127.0.0.1:8080", None, "loopback_only"),
        ("203.0.113.9", "localhost", None, "loopback_only"),
        ("::ffff:203.0.113.9", "localhost", None, "loopback_only"),
        ("not an address", "localhost", None, "loopback_only"),
        ("", "localhost", None, "loopback_only"),
        ("127.0.0.1", "attacker.example", None, "host_not_allowed"),
        ("127.0.0.1", "relay.example.com", None, "host_not_allowed"),
        ("127.0.0.1", "0.0.0.0:8080", None, "host_not_allowed"),
        ("127.0.0.1", "127.1", None, "host_not_allowed"),
        ("127.0.0.1", "2130706433", None, "host_not_allowed"),
        ("127.0.0.1", "127.0.0.1.attacker.example", None, "host_not_allowed"),
        ("127.0.0.1", "localhost@attacker.example", None, "host_not_allowed"),
        ("127.0.0.1", "127.0.0.1/attacker.example", None, "host_not_allowed"),
        ("127.0.0.1", "127.0.0.1#attacker.example", None, "host_not_allowed"),
        ("127.0.0.1", "local\thost", None, "host_not_allowed"),
        ("127.0.0.1", "localhost, attacker.example", None, "host_not_allowed"),
        ("127.0.0.1", "[::1", None, "host_not_allowed"),
        ("127.0.0.1", "", None, "host_not_allowed"),
        ("127.0.0.1", "127.0.0.1", "https://attacker.example", "origin_not_allowed"),
        ("127.0.0.1", "127.0.0.1", "https://relay.example.com", "origin_not_allowed"),
        ("127.0.0.1", "127.0.0.1", "null", "origin_not_allowed"),
        ("127.0.0.1", "127.0.0.1", "", "origin_not_allowed"),
        # another program on this machine has a page too
        ("127.0.0.1", "127.0.0.1:8080", "http://127.0.0.1:3000", "origin_not_allowed"),
        ("127.0.0.1", "127.0.0.1:8080", "http://localhost:8080", "origin_not_allowed"),
        ("127.0.0.1", "127.0.0.1:8080", "https://127.0.0.1:8080", "origin_not_allowed"),
    ):
        client = open_client(dev=True, tokens=tokens, peer=peer, public_url="https://relay.example.com")
        headers = {"Host": host} | ({} if origin is None else {"Origin": origin})
        for path in ("/v1/jobs", "/metrics"):
            answer = await client.get(path, headers=headers)
            assert answer.status_code == (200 if code is None else 403), (peer, host, origin, answer.text)
            if code is not None:
                assert answer.json()["code"] == code, (peer, host, origin)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize(
    ("site", "is_refused"), [("cross-site", True), ("same-site", True), ("same-origin", False), ("none", False)]
)
async def test_with_dev_a_write_that_another_site_causes_is_refused(open_client, method, site, is_refused):
    """A form without an Origin, as some browsers and privacy settings send it."""
    client = open_client(dev=True)
    answer = await client.request(method, "/v1/jobs/none", headers={"Sec-Fetch-Site": site})
    assert (answer.status_code == 403) is is_refused
    if is_refused:
        assert answer.json()["code"] == "origin_not_allowed"
    own = {"Sec-Fetch-Site": site, "Origin": "http://127.0.0.1:8080"}
    assert (await client.request(method, "/v1/jobs/none", headers=own)).status_code != 403
    assert (await client.get("/v1/jobs", headers={"Sec-Fetch-Site": site})).status_code == 200


@pytest.mark.parametrize(
    ("headers", "ends"),
    [
        ({"Content-Length": "300000000"}, True),
        ({"Transfer-Encoding": "chunked"}, True),
        ({"Content-Length": "9" * 40}, True),
        ({"Content-Length": "65536"}, False),
        ({}, False),
    ],
)
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/batch", "/api/v1/outreach/dispatches", "/livez"])
async def test_connection_of_a_stranger_with_a_long_body_ends_with_the_answer(world, headers, ends, path):
    api, sent, begun = create_api(world.dependencies(dev=False, tokens=TOKENS), world.proxy), [], []
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {
        **{"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "query_string": b""},
        **{"path": path, "raw_path": path.encode(), "root_path": "", "client": ("203.0.113.9", 1)},
        **{"server": ("relay.example", 80), "headers": [(b"host", b"relay.example"), *raw]},
    }

    async def receive():
        begun.append(path)
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    await api(scope, receive, send)
    assert sent[0]["status"] == (405 if path == "/livez" else 401)
    assert ((b"connection", b"close") in sent[0]["headers"]) is ends
    assert begun == []


async def test_with_dev_a_host_that_is_sent_twice_is_refused(open_client):
    for hosts in (["127.0.0.1", "attacker.example"], ["127.0.0.1", "127.0.0.1"]):
        answer = await open_client(dev=True).get("/v1/jobs", headers=[("Host", host) for host in hosts])
        assert (answer.status_code, answer.json()["code"]) == (403, "host_not_allowed")


@pytest.mark.parametrize(
    "name",
    [
        *("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via"),
        *("CF-Connecting-IP", "CF-Ray", "True-Client-IP", "X-Client-IP", "Fastly-Client-IP"),
    ],
)
async def test_with_dev_a_request_through_a_proxy_needs_a_token(open_client, name):
    client = open_client(dev=True, tokens=TOKENS)
    for value in ("127.0.0.1", ""):
        answer = await client.get("/v1/jobs", headers={name: value})
        assert (answer.status_code, answer.json()["code"]) == (403, "loopback_only")
        assert (await client.get("/v1/jobs", headers={name: value, **bearer("rl_read")})).status_code == 200


async def test_the_relays_own_request_is_refused_as_a_loop(client):
    for path in ("/v1/jobs", "/livez", "/nothing"):
        answer = await client.get(path, headers={"Relay-Node": "node-1"})
        assert (answer.status_code, answer.json()["code"]) == (508, "loop_detected")
    assert (await client.get("/v1/jobs", headers={"Relay-Node": "node-2"})).status_code == 200
