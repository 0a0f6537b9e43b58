import pytest

from relay.api.http.ports import Readiness
from tests.support.api_world import TOKENS


async def test_sources_are_listed_and_paged(client):
    page = (await client.get("/v1/sources?limit=1")).json()
    assert page["items"] == [
        {
            "source": "revor",
            "account": "default",
            "state": "ok",
            "since": None,
            "problem": None,
            "open_jobs": 1,
            "due_jobs": 0,
            "limit": 120,
            "remaining": 119,
            "window_seconds": 60.0,
            "own_requests_per_second": 0.5,
            "others_requests_per_second": None,
            "price_seconds": 0.8,
            "expected_detection_delay_seconds": 1.2,
            "expected_detection_delay_at_double_budget_seconds": 0.6,
            "expected_detection_delay_at_half_budget_seconds": None,
            "paused_until": None,
            "last_completed_at": "2027-01-15T08:00:00.000Z",
            "accounts_listed_at": None,
        }
    ]
    rest = (await client.get(f"/v1/sources?limit=1&cursor={page['next_cursor']}")).json()
    assert ([one["account"] for one in rest["items"]], rest["next_cursor"]) == (["second"], None)


async def test_readiness_is_503_only_for_problems(client, world):
    assert (await client.get("/readyz")).json() == {
        "status": "ok",
        "problems": [],
        "notes": ["all is well"],
        "checks": {"database": "ok"},
    }
    world.node.answer = Readiness(problems=("no key",), checks={"key": "missing"})
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["problems"]) == (503, ["no key"])


async def test_readiness_tells_strangers_the_status_and_names_of_components(open_client, world):
    client = open_client(dev=False, tokens=TOKENS, peer="203.0.113.9")
    sentence = "database: /srv/secret/relay.db is full"
    world.node.answer = Readiness(
        problems=(sentence,), components=("database",), notes=("acme is down",), checks={"source:revor/acme": "down"}
    )
    told = {"status": "unavailable", "problems": ["database"], "notes": [], "checks": {}}
    for token in (None, "rl_jobs"):
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        answer = await client.get("/readyz", headers=headers)
        assert (answer.status_code, answer.json()) == (503, told)
    for token in ("rl_read", "rl_admin"):
        answer = await client.get("/readyz", headers={"Authorization": f"Bearer {token}"})
        assert (answer.status_code, answer.json()["problems"]) == (503, [sentence])
        assert answer.json()["checks"] == {"source:revor/acme": "down"}
    answer = await client.get("/readyz", headers={"Authorization": "Bearer rl_wrong"})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    world.node.answer = Readiness(notes=("acme is down",))
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {**told, "status": "ok", "problems": []})


async def test_health_metrics_and_schemas(client):
    assert (await client.get("/livez")).json() == {"status": "ok"}
    metrics = await client.get("/metrics")
    assert (metrics.text, metrics.headers["content-type"]) == (
        "relay_up 1\n",
        "text/plain; version=0.0.4; charset=utf-8",
    )
    schema = await client.get("/schemas/job-status.v1.json")
    assert schema.headers["content-type"] == "application/schema+json"
    assert schema.json()["$schema"].startswith("https://json-schema.org/")
    for name in ("nothing.json", "..%2Fpyproject.json", "%2e%2e.json", "job-status.v1"):
        assert (await client.get(f"/schemas/{name}")).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/v1", "/v1/", "/v1/jobs/", "/v2/jobs", "/ui", "/v1/replays", "/v1/replays/x"),
        *("/v1/jobs/a/b/c", "/schemas/", "/.well-known/x", "//v1/jobs", "/v1/subscriptions/x/again", "/api/v1/x"),
        *("/v1/jobs/%FF", "/%FF%FE", "/v1/%E2%82"),
    ],
)
async def test_an_unknown_path_or_id_is_a_404_problem(client, path):
    answer = await client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 404


@pytest.mark.parametrize("path", ["jobs/%00", "jobs/job_%00", "events/%00", "deliveries/%00", "subscriptions/%00"])
async def test_an_id_with_nul_reaches_no_database(client, path):
    answer = await client.get(f"/v1/{path}")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_path")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/v1/jobs", "GET, HEAD, POST"),
        ("GET", "/v1/jobs/batch", "POST"),
        ("PATCH", "/v1/subscriptions/sub_1", "DELETE, GET, HEAD, PUT"),
        ("PUT", "/v1/events", "GET, HEAD, POST"),
        ("POST", "/v1/events/stream", "GET, HEAD"),
        ("GET", "/v1/subscriptions/sub_1/replay", "POST"),
        ("POST", "/livez", "GET, HEAD"),
        ("OPTIONS", "/v1/jobs", "GET, HEAD, POST"),
        ("TRACE", "/v1/jobs/a", "DELETE, GET, HEAD"),
        ("BREW", "/v1/deliveries", "GET, HEAD"),
    ],
)
async def test_another_method_is_405_with_allow(client, method, path, allow):
    answer = await client.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == allow


@pytest.mark.parametrize(
    "path", ["/v1/jobs", "/v1/jobs/a", "/v1/events", "/livez", "/openapi.json", "/metrics", "/v1/jobs/missing"]
)
async def test_head_answers_as_get_without_the_body(client, world, path):
    await world.job("a")
    got, head = await client.get(path), await client.head(path)
    assert head.status_code == got.status_code
    assert head.content == b""
    assert head.headers["content-length"] == got.headers["content-length"]


async def test_every_response_has_its_own_request_id(client):
    seen = set()
    for path in ("/livez", "/nothing", "/v1/jobs", "/v1/jobs?x=1"):
        answer = await client.get(path)
        assert answer.headers["x-request-id"].startswith("req_")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        seen.add(answer.headers["x-request-id"])
    assert len(seen) == 4


async def test_an_unexpected_exception_is_a_500_without_details(client, world, capsys):
    async def broken():
        raise RuntimeError("postgresql://user:hunter2@db/relay")

    world.node.readiness = broken
    answer = await client.get("/readyz")
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["title"]) == (500, "internal_error", "Internal error")
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert "hunter2" not in answer.text
    assert "Traceback" not in answer.text
    assert world.requests == [("GET", 500)]


async def test_responses_are_counted(client, world):
    await client.get("/livez")
    await client.post("/v1/jobs", json={"id": "a"})
    await client.get("/nothing")
    assert world.requests == [("GET", 200), ("POST", 201), ("GET", 404)]
