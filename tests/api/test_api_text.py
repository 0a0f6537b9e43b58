"""NUL and lone surrogates wherever a request has text: every database gives the same response."""

import base64
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from relay.api.app import create_api
from relay.store.store import open_store
from tests.support.api_conformity import check_answer
from tests.support.api_world import HOOK, NOW, SLACK, World
from tests.support.store_databases import emptied_postgres
from tests.support.store_kit import ReversingCipher


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path, empty_database: Path) -> str:
    if request.param == "postgresql":
        return emptied_postgres()
    return f"sqlite:///{shutil.copy(empty_database, tmp_path / 'relay.db')}"


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    store = await open_store(database_url, ReversingCipher(), now=NOW)
    yield World(store=store)
    await store.close()


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(
        app=create_api(world.dependencies(), world.proxy), client=("127.0.0.1", 5000), raise_app_exceptions=False
    )
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://127.0.0.1:8080", event_hooks={"response": [check_answer]}
    ) as client:
        yield client


def places() -> Iterator[tuple[str, str, str, Any]]:
    """Every text field of a body, as method, path, pointer and a body with a marker in it."""
    mark = "a MARK b"
    for method, path in (("POST", "/v1/subscriptions"), ("PUT", "/v1/subscriptions/SUB")):
        for pointer, body in {
            "/description": {"sink": HOOK, "description": mark},
            "/sink": {"sink": f"{HOOK}/{mark}"},
            "/types/0": {"sink": HOOK, "types": [mark]},
            "/source": {"sink": HOOK, "source": mark},
            "/protocol": {"sink": HOOK, "protocol": mark},
            "/protocolsettings/method": {"sink": HOOK, "protocolsettings": {"method": mark}},
            "/protocolsettings/headers": {"sink": HOOK, "protocolsettings": {"headers": {"x-one": mark}}},
            "/protocolsettings/headers (name)": {"sink": HOOK, "protocolsettings": {"headers": {mark: "one"}}},
            "/config/kind": {"sink": HOOK, "config": {"kind": mark}},
            "/config/start": {"sink": HOOK, "config": {"start": mark}},
            "/config/secret": {"sink": HOOK, "config": {"secret": mark}},
            "/config/ordering": {"sink": HOOK, "config": {"ordering": mark}},
            "/config/retry_schedule/0": {"sink": HOOK, "config": {"retry_schedule": [mark]}},
            "/config/metadata_keys/0": {"sink": HOOK, "config": {"kind": "slack", "metadata_keys": [mark]}},
            "/MARK": {"sink": HOOK, mark: 1},
        }.items():
            yield method, path, pointer, body
    for pointer, body in {
        "/id": {"id": mark},
        "/source": {"id": "a", "source": mark},
        "/account": {"id": "a", "account": mark},
        "/callback_url": {"id": "a", "callback_url": f"{HOOK}/{mark}"},
        "/priority": {"id": "a", "priority": mark},
        "/item/id": {"ok": True, "item": {"id": mark}},
    }.items():
        yield "POST", "/v1/jobs", pointer, body
    for pointer, body in {
        "/since": {"since": mark},
        "/types/0": {"since": "2026-05-20T10:00:08Z", "types": [mark]},
        "/only": {"since": "2026-05-20T10:00:08Z", "only": mark},
    }.items():
        yield "POST", "/v1/subscriptions/SUB/replay", pointer, body
    for name in ("subscription", "state", "type", "since", "until", "reason"):
        yield "POST", "/v1/deliveries/retry", f"/filter/{name}", {"filter": {name: mark}}
    yield "POST", "/v1/subscriptions/SUB/test", "/type", {"type": mark}


async def sent(client: httpx2.AsyncClient, mark: str) -> AsyncIterator[tuple[str, httpx2.Response]]:
    """The responses to every body with this marker in one field."""
    made = (await client.post("/v1/subscriptions", json={"sink": HOOK})).json()["id"]
    for method, path, pointer, body in places():
        content = orjson.dumps(body).decode().replace("MARK", mark)
        headers = {"Content-Type": "application/json"}
        yield pointer, await client.request(method, path.replace("SUB", made), content=content, headers=headers)


async def test_text_with_nul_is_refused_in_every_body(client: httpx2.AsyncClient) -> None:
    async for pointer, answer in sent(client, "\\u0000"):
        assert answer.status_code == 422, (pointer, answer.text)
    assert len((await client.get("/v1/subscriptions")).json()["items"]) == 1
    assert (await client.get("/v1/jobs")).json()["items"] == []


async def test_a_lone_surrogate_becomes_the_replacement_character(client: httpx2.AsyncClient) -> None:
    async for pointer, answer in sent(client, "\\ud800"):
        assert answer.status_code in (200, 201, 422), (pointer, answer.text)
    body = b'{"sink": "%s", "description": "Hi \\ud83d"}' % HOOK.encode()
    made = await client.post("/v1/subscriptions", content=body, headers={"Content-Type": "application/json"})
    assert (made.status_code, made.json()["description"]) == (201, "Hi \ufffd")


@pytest.mark.parametrize(
    ("pointer", "body"),
    [
        ("/description", {"sink": HOOK, "description": "a\0b"}),
        ("/config/metadata_keys/1", {"sink": SLACK, "config": {"metadata_keys": ["deal", "\0"]}}),
    ],
)
async def test_the_field_with_nul_is_named(client: httpx2.AsyncClient, pointer: str, body: Any) -> None:
    problem = (await client.post("/v1/subscriptions", json=body)).json()
    assert problem["errors"] == [
        {"pointer": pointer, "code": "invalid_text", "detail": "a text must not contain NUL (\\u0000)"}
    ]


async def test_metadata_may_contain_any_text(client: httpx2.AsyncClient) -> None:
    metadata = {"a\0b": ["\0", {"deep": "\0"}]}
    made = await client.post("/v1/jobs", json={"id": "a", "metadata": metadata, "callback_url": HOOK})
    batch = await client.post("/v1/jobs/batch", json={"jobs": [{"id": "b", "metadata": metadata}, {"id": "c\0"}]})
    assert (made.status_code, batch.json()["created"]) == (201, 1)
    assert [one["code"] for one in batch.json()["rejected"]] == ["invalid_text"]
    for job_id in ("a", "b"):
        assert (await client.get(f"/v1/jobs/{job_id}")).json()["metadata"] == metadata


PATHS = [
    *("/v1/jobs/{}", "/v1/jobs/{}/events", "/v1/jobs/{}/explain", "/v1/subscriptions/{}", "/v1/events/{}"),
    *("/v1/deliveries/{}", "/v1/replays/{}", "/schemas/{}.json"),
    *("/v1/incidents/{}", "/v1/incidents/{}/jobs"),
]
QUERIES = [
    *("/v1/jobs?status={}", "/v1/jobs?account={}", "/v1/jobs?source={}", "/v1/jobs?cursor={}", "/v1/jobs/a?account={}"),
    *("/v1/events?type={}", "/v1/events?subject={}", "/v1/events?since={}", "/v1/events?cursor={}"),
    *("/v1/deliveries?subscription={}", "/v1/deliveries?event={}", "/v1/deliveries?cursor={}"),
    *("/v1/deliveries?group_by=reason&subscription={}", "/v1/subscriptions?cursor={}", "/v1/intents?cursor={}"),
    *("/v1/incidents?cursor={}", "/v1/incidents?source={}", "/v1/incidents?account={}"),
]
KEYS = (b"job_\0", b"\0", b"0x1p+0 \0", b"\xed\xa0\x80")
CURSORS = [base64.urlsafe_b64encode(key).decode().rstrip("=") for key in KEYS]


async def test_text_that_a_database_refuses_never_reaches_it_from_a_path_or_query(client: httpx2.AsyncClient) -> None:
    for text in ("a%00b", "%ED%A0%80", *CURSORS):
        for path in (*PATHS, *QUERIES):
            answer = await client.get(path.format(text))
            refused = (400, 422) if path in QUERIES else (400, 404)
            expected = refused if "%" in text or "cursor" in path else (200, 404, *refused)
            assert answer.status_code in expected, (path, text, answer.text)
        for path in ("/v1/jobs/{}", "/v1/subscriptions/{}", "/v1/replays/{}", "/v1/intents/{}"):
            assert (await client.delete(path.format(text))).status_code in (400, 404), (path, text)


async def test_text_that_a_database_refuses_never_reaches_it_from_a_header(client: httpx2.AsyncClient) -> None:
    await client.post("/v1/jobs", json={"id": "a"})
    for name in ("Idempotency-Key", "Last-Event-ID", "Prefer", "X-Request-Id", "Traceparent"):
        for value in (b"a\0b", b"evt_\0", b"wait=\0", b"\xed\xa0\x80", b"\xff"):
            headers = [(name.encode(), value)]
            for answer in (
                await client.post("/v1/jobs", json={"id": "b"}, headers=headers),
                await client.get("/v1/jobs/a", headers=headers),
                await client.get("/v1/jobs/a/events", headers=headers),
            ):
                assert answer.status_code < 500, (name, value, answer.text)
