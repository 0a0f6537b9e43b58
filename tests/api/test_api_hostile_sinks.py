"""Every way to name a sink refuses every URL of one table; what is refused leaves nothing behind."""

from collections.abc import Callable
from typing import Any

import httpx2
import orjson
import pytest

from relay.api.app import create_api
from tests.support.api_world import HOOK, World
from tests.support.hostile import POLICY, URLS

Client = httpx2.AsyncClient


@pytest.fixture
def client(open_client: Callable[..., Client]) -> Client:
    return open_client(guard=POLICY)


def codes(answer: httpx2.Response) -> set[str]:
    return {error["code"] for error in answer.json()["errors"]}


async def refused_everywhere(post: Callable[[str], Any]) -> None:
    for row in URLS:
        answer = await post(row.url)
        assert answer.status_code == 422, (row.url, row.why, answer.text)
        assert codes(answer) == {row.code}, (row.url, row.why)
        if row.code == "sink_refused":
            assert row.rule in answer.json()["detail"], (row.url, row.why)


async def subscriptions(client: Client) -> list[Any]:
    items: list[Any] = (await client.get("/v1/subscriptions?callbacks=true")).json()["items"]
    return items


async def test_new_subscription_refuses_every_hostile_sink(client: Client) -> None:
    await refused_everywhere(lambda url: client.post("/v1/subscriptions", json={"sink": url}))
    assert await subscriptions(client) == []


async def test_changed_subscription_refuses_every_hostile_sink(client: Client) -> None:
    made = (await client.post("/v1/subscriptions", json={"sink": HOOK})).json()
    await refused_everywhere(lambda url: client.put(f"/v1/subscriptions/{made['id']}", json={"sink": url}))
    assert [one["sink"] for one in await subscriptions(client)] == [HOOK]


async def test_registration_refuses_every_hostile_callback(client: Client) -> None:
    await refused_everywhere(lambda url: client.post("/v1/jobs", json={"id": "a", "callback_url": url}))
    answer = {"ok": True, "item": {"id": "a"}}
    await refused_everywhere(lambda url: client.post("/v1/jobs", json={**answer, "callback_url": url}))
    assert await subscriptions(client) == []
    assert (await client.get("/v1/jobs")).json()["items"] == []


@pytest.mark.parametrize(
    ("field", "credential"),
    [
        ("token_url", {"credentialtype": "CLIENTCREDENTIALS", "client_id": "a", "client_secret": "b"}),
        ("refreshtokenendpoint", {"credentialtype": "REFRESHTOKEN", "accesstoken": "a", "refreshtoken": "b"}),
    ],
)
async def test_credential_refuses_every_hostile_token_url(client: Client, field: str, credential: Any) -> None:
    made = (await client.post("/v1/subscriptions", json={"sink": HOOK})).json()

    def body(url: str) -> dict[str, Any]:
        return {"sink": HOOK, "sinkcredential": {**credential, field: url}}

    assert (await client.post("/v1/subscriptions", json=body("https://id.example.com/token"))).status_code == 201
    await refused_everywhere(lambda url: client.post("/v1/subscriptions", json=body(url)))
    await refused_everywhere(lambda url: client.put(f"/v1/subscriptions/{made['id']}", json=body(url)))
    assert len(await subscriptions(client)) == 2


async def test_batch_rejects_every_hostile_callback(client: Client) -> None:
    jobs = [{"id": str(number), "callback_url": row.url} for number, row in enumerate(URLS)]
    answer = (await client.post("/v1/jobs/batch", json={"jobs": jobs})).json()
    assert (answer["created"], answer["existing"]) == (0, 0)
    assert [(one["index"], one["code"]) for one in answer["rejected"]] == [
        (number, row.code) for number, row in enumerate(URLS)
    ]
    assert await subscriptions(client) == []


async def test_create_through_the_drop_in_refuses_every_hostile_callback(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.gateway, "created_by", lambda *_: "")
    api = create_api(world.dependencies(guard=POLICY, passed_paths=("/api/v1/",)), world.proxy)
    transport = httpx2.ASGITransport(app=api, client=("127.0.0.1", 5000))
    sendable = [row for row in URLS if not set(row.url) & set("\0\r\n") and row.url == row.url.strip(" \t")]
    assert len(sendable) > len(URLS) - 20, "no client or server lets these pass in a header"
    async with Client(transport=transport, base_url="http://127.0.0.1:8080") as client:
        for row in sendable:
            headers = [(b"relay-callback", row.url.encode())]
            answer = await client.post("/api/v1/outreach/dispatch", content=b"{}", headers=headers)
            assert answer.status_code == 400, (row.url, row.why)
            error = orjson.loads(answer.content)["error"]
            assert error["code"] == "relay_invalid_callback"
            assert row.rule in error["message"], (row.url, row.why)
    assert not world.gateway.passed, "nothing was sent"
