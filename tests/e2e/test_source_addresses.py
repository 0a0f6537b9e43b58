"""What a caller may name as the place of a job: a poll has the account's credential, and the answer is shown."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from relay.config.settings import TokenSettings
from relay.testing import FakeClock
from tests.e2e.test_dropin_sources import ADMIN, STILL, polled
from tests.support.e2e_world import World
from tests.support.mount_world import KEY, json_answer, open_mine
from tests.support.wire import Call, Stub, answer, open_stub

WRITER = "rl_writer_0123456789abcdefghijklmnopqrstuv"
TOKENS = (
    TokenSettings(name="ops", token=ADMIN, scopes=("admin",)),
    TokenSettings(name="writer", token=WRITER, scopes=("jobs:write",)),
)
AUTH = {"Authorization": f"Bearer {WRITER}"}
FOLLOWS: dict[str, Any] = {
    "follows": ["Operation-Location"],
    "status_paths": ["/v1/ops/{id}"],
    "fields": {},
    "creates": [],
}
WIDE = {**FOLLOWS, "path": "/v1/{+id}"}


async def register(world: World, id: str, **more: Any) -> tuple[int, list[str]]:
    """The status of a registration, and the codes of its errors."""
    answered = await world.api.post("/v1/jobs", json={"id": id, "source": "mine", **more}, headers=AUTH)
    return answered.status_code, [one["code"] for one in answered.json().get("errors", ())]


@pytest.mark.parametrize(
    "address",
    [
        *("/v1/accounts", "/v1/ops/1/keys", "/v1/ops/../accounts", "/v1/ops/%2e%2e", "/v1/ops/%252e%252e"),
        *("/v1/ops/a%2Fkeys", "//evil.example/v1/ops/1", "/\\evil.example/v1/ops/1", "/v1/ops/1#x", "/v1/ops/\u00e9"),
        *("{base}@evil.example/v1/ops/1", "http://user:pw@{host}/v1/ops/1", "http://{host}0/v1/ops/1"),
        *("https://{host}/v1/ops/1", "http://evil.example/v1/ops/1", "http://xn--pi-8kc.example/v1/ops/1"),
        *("http://127.0.0.1.evil.example/v1/ops/1", "/v1/ops/" + "x" * 2_000, "file:///v1/ops/1", "v1/ops/1"),
    ],
)
async def test_address_that_is_not_listed_is_refused_and_asked_nothing(tmp_path: Path, address: str) -> None:
    async with open_mine(tmp_path, FOLLOWS, tokens=TOKENS, clock=FakeClock(), **STILL) as (world, stub):
        url = address.replace("{base}", stub.url).replace("{host}", stub.url.removeprefix("http://"))
        assert await register(world, "1", status_url=url) == (422, ["status_url_not_listed"])
        batch = await world.api.post(
            "/v1/jobs/batch", json={"jobs": [{"id": "1", "source": "mine", "status_url": url}]}, headers=AUTH
        )
        assert [one["code"] for one in batch.json()["rejected"]] == ["status_url_not_listed"]
        assert not await world.node.pollers["mine", "default"].run_once()
        assert stub.received == []


async def test_refusal_tells_a_wrong_host_from_a_wrong_path(tmp_path: Path) -> None:
    async with open_mine(tmp_path, FOLLOWS, tokens=TOKENS, clock=FakeClock(), **STILL) as (world, stub):
        for url, words in (
            ("http://evil.example/v1/ops/1", "is below neither the base URL nor `origins` of the definition of mine"),
            (f"{stub.url}/v1/accounts", "matches none of `status_paths` of the definition of mine"),
        ):
            body = {"id": "1", "source": "mine", "status_url": url}
            answered = await world.api.post("/v1/jobs", json=body, headers=AUTH)
            assert answered.json()["detail"] == f"/status_url: it {words}"


async def test_listed_address_is_read_with_the_credential(tmp_path: Path) -> None:
    async with open_mine(tmp_path, FOLLOWS, tokens=TOKENS, clock=FakeClock(), **STILL) as (world, stub):
        assert await register(world, "1", status_url=f"{stub.url}/v1/ops/9?v=2") == (201, [])
        await polled(world)
        (request,) = stub.received
        assert (request.method, request.target) == ("GET", b"/v1/ops/9?v=2")
        assert request.one("authorization") == f"Bearer {KEY}".encode()


async def test_credential_goes_to_listed_origins_only_even_after_a_redirect(tmp_path: Path) -> None:
    """A listed origin that redirects is not followed, and the next address that it names is judged like any other."""
    async with AsyncExitStack() as stack:
        evil = await stack.enter_async_context(open_stub())

        async def redirects(call: Call) -> None:
            await call.body()
            await call.send(answer(307, [("Location", f"{evil.url}/v1/ops/1")]))

        async def names_another(call: Call) -> None:
            await call.body()
            await call.send(json_answer({"state": "on"}, Operation_Location=f"{evil.url}/v1/ops/1"))

        for handler in (redirects, names_another):
            listed: Stub = await stack.enter_async_context(open_stub(handler))
            folder = tmp_path / handler.__name__
            folder.mkdir()
            changed = {**FOLLOWS, "origins": [listed.url]}
            async with open_mine(folder, changed, tokens=TOKENS, clock=FakeClock(), **STILL) as (world, stub):
                assert await register(world, "1", status_url=f"{evil.url}/v1/ops/1") == (422, ["status_url_not_listed"])
                assert await register(world, "1", status_url=f"{listed.url}/v1/ops/1") == (201, [])
                for _ in range(2):
                    await polled(world)
                assert [one.target for one in listed.received] == [b"/v1/ops/1"] * 2
                assert {one.one("authorization") for one in listed.received} == {f"Bearer {KEY}".encode()}
                assert stub.received == []
        assert evil.received == []


IDS_THAT_ESCAPE = (
    *("..", ".", "../accounts", "a/../../b", "%2e%2e", "%252e%252e/x", "a/..;/b", "..\\accounts", "x/%2E./y"),
)


@pytest.mark.parametrize("changed", [{}, WIDE], ids=["one segment", "with slashes"])
@pytest.mark.parametrize("id", IDS_THAT_ESCAPE)
async def test_id_that_escapes_its_place_is_refused(tmp_path: Path, changed: dict[str, Any], id: str) -> None:
    async with open_mine(tmp_path, changed, tokens=TOKENS, clock=FakeClock(), **STILL) as (world, stub):
        assert await register(world, id) == (422, ["invalid_id"])
        assert not await world.node.pollers["mine", "default"].run_once()
        assert stub.received == []


@pytest.mark.parametrize(
    ("changed", "id", "sent"),
    [
        ({}, "a/b", b"/v1/jobs/a%2Fb"),
        ({}, "a?b=c#d", b"/v1/jobs/a%3Fb%3Dc%23d"),
        (WIDE, "ops/a b", b"/v1/ops/a%20b"),
        (WIDE, "accounts", None),
        (WIDE, "ops/a/keys", None),
        (WIDE, "/ops/a", None),
        (WIDE, "ops/a%2Fkeys", None),
        (WIDE, "accounts?/ops/a", None),
    ],
)
async def test_id_with_slashes_names_what_the_definition_lists(
    tmp_path: Path, changed: dict[str, Any], id: str, sent: bytes | None
) -> None:
    """Where `{id}` is one segment, its slashes are encoded."""
    async with open_mine(tmp_path, changed, tokens=TOKENS, clock=FakeClock(), **STILL) as (world, stub):
        if sent is None:
            assert await register(world, id) == (422, ["invalid_id"])
            assert stub.received == []
        else:
            assert await register(world, id) == (201, [])
            await polled(world)
            assert [one.target for one in stub.received] == [sent]


async def test_id_that_escapes_in_the_answer_to_a_create_is_not_tracked(tmp_path: Path) -> None:
    said = iter(IDS_THAT_ESCAPE)

    def says(call: Call) -> bytes:
        return json_answer({"id": next(said), "state": "on"})

    async with open_mine(tmp_path, says=says, tokens=TOKENS, clock=FakeClock(), **STILL) as (world, stub):
        for _ in IDS_THAT_ESCAPE:
            made = await world.api.post("/sources/mine/v1/jobs", json={}, headers={"Authorization": f"Bearer {KEY}"})
            assert made.status_code == 200
        assert (await world.api.get("/v1/jobs", headers=AUTH)).json()["items"] == []
        assert len(stub.received) == len(IDS_THAT_ESCAPE)
        listed = await world.api.get("/v1/intents", headers={"Authorization": f"Bearer {ADMIN}"})
        assert len(listed.json()["items"]) == len(IDS_THAT_ESCAPE), "each is listed, for a person to look at"
