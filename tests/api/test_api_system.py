import pytest

from relay.api.http.dependencies import Readiness
from tests.support.api_world import TOKENS


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
        *("/", "/v1", "/v1/", "/v1/jobs/", "/v2/jobs", "/ui", "/v1/replays/x"),
        *("/v1/jobs/a/b/c", "/schemas/", "/.well-known/x", "//v1/jobs", "/v1/subscriptions/x/again", "/api/v1/x"),
        *("/v1/jobs/%FF", "/%FF%FE", "/v1/%E2%82"),
    ],
)
async def test_an_unknown_path_or_id_is_a_404_problem(client, path):
    answer = await client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 404


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
