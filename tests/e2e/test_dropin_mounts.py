"""Each source below /sources/NAME/ of the drop-in, beside the source at the root."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from relay.cli.demo.environment import listen, served, url_of
from relay.config.settings import AccountSettings, PollingSettings, SourceSettings, TokenSettings
from relay.proxy.types import name_of
from relay.testing import FakeClock
from tests.support.dropin_requests import ACCOUNTS, DISPATCH, DISPATCHES
from tests.support.e2e_world import World, open_e2e_world
from tests.support.wire import Call, Client, Stub, answer, open_stub, request

KEY, STRANGER = "key-of-both-0123456789", "key-of-a-stranger-0123456789"
PREDICTIONS, BATCHES = "/v1/predictions", "/v1/batches"
REPLICATE, OPENAI = "/sources/replicate", "/sources/openai"
AUTH = {"Authorization": f"Bearer {KEY}"}
ADMIN = "rl_admin_0123456789abcdefghijklmnopqrstuvw"
TOKENS = (TokenSettings(name="ops", token=ADMIN, scopes=("admin",)),)
JOB = {"id": "one", "status": "starting", "model": "acme/hello", "metadata": {"deal": "42"}}


class Upstreams:
    """One stand-in for each source. Each answers with `says`."""

    def __init__(self, root: Stub, replicate: Stub, openai: Stub) -> None:
        self.root, self.replicate, self.openai = root, replicate, openai
        self.says: dict[str, Any] = dict(JOB)
        for stub in (root, replicate, openai):
            stub.handler = self._say

    async def _say(self, call: Call) -> None:
        await call.body()
        body = b"" if call.request.method == "HEAD" else orjson.dumps(self.says)
        await call.send(answer(200, [("Content-Type", "application/json")], body))

    @property
    def received(self) -> list[tuple[str, str]]:
        """(method, target) of every request, of whichever source."""
        stubs = (self.root, self.replicate, self.openai)
        return [(one.method, one.target.decode()) for stub in stubs for one in stub.received]


def source(name: str, preset: str, url: str, **keys: str | None) -> SourceSettings:
    accounts = {account: AccountSettings(name=account, api_key=key) for account, key in keys.items()}
    return SourceSettings(name=name, preset=preset, base_url=url, accounts=accounts, polling=PollingSettings())


@asynccontextmanager
async def open_mounts(
    folder: Path,
    *,
    replicate: Mapping[str, str | None] | None = None,
    openai: Mapping[str, str | None] | None = None,
    root: Mapping[str, str | None] | None = None,
    **options: Any,
) -> AsyncIterator[tuple[World, Upstreams]]:
    """A node with three sources: Revor, whose paths are at the root, and two others. API keys by account."""
    async with AsyncExitStack() as stack:
        upstreams = Upstreams(*[await stack.enter_async_context(open_stub()) for _ in range(3)])
        more = (
            source("replicate", "replicate", upstreams.replicate.url, **(replicate or {"default": KEY})),
            source("openai", "openai-batch", upstreams.openai.url, **(openai or {"default": KEY})),
        )
        world = await stack.enter_async_context(
            open_e2e_world(
                folder,
                base_url=upstreams.root.url,
                accounts=root or {"default": KEY},
                clock=FakeClock(),
                roles=("api", "dispatcher"),
                polling=PollingSettings(),
                more_sources=more,
                **options,
            )
        )
        yield world, upstreams


@pytest.fixture(autouse=True)
async def _bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(120):
        yield


@pytest.fixture
async def mounts(tmp_path: Path) -> AsyncIterator[tuple[World, Upstreams]]:
    """Each source has one account, all with the same key."""
    async with open_mounts(tmp_path) as made:
        yield made


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[tuple[World, Upstreams]]:
    """As `mounts`, with tokens."""
    async with open_mounts(tmp_path, tokens=TOKENS) as made:
        yield made


async def jobs(world: World, **headers: str) -> set[tuple[str, str, str]]:
    """(source, account, id) of the tracked jobs."""
    found = (await world.api.get("/v1/jobs", headers=headers)).json()["items"]
    return {(job["source"], job["account"], job["id"]) for job in found}


# --- whose path it is


async def test_each_source_has_its_own_jobs_although_all_accounts_have_one_key(
    mounts: tuple[World, Upstreams],
) -> None:
    world, upstreams = mounts
    for mount, path in ((REPLICATE, PREDICTIONS), (OPENAI, BATCHES)):
        made = await world.api.post(mount + path, json={"input": "x"}, headers=AUTH)
        assert (made.status_code, made.json()) == (200, JOB)
    upstreams.says = {"ok": True, "item": {"id": "one", "status": "queued"}}
    made = await world.api.post(DISPATCHES, json=DISPATCH, headers=AUTH)
    assert made.status_code == 200, made.text
    every = ("replicate", "openai", "revor")
    assert await jobs(world) == {(name, "default", "one") for name in every}
    assert [one.target for one in upstreams.replicate.received] == [PREDICTIONS.encode()]
    assert [one.target for one in upstreams.openai.received] == [BATCHES.encode()]
    assert [one.target for one in upstreams.root.received] == [DISPATCHES.encode()]


async def test_the_root_serves_only_the_sources_whose_definition_says_so(tmp_path: Path) -> None:
    keys = {"replicate": {"default": "key-of-replicate-0123456789"}, "openai": {"default": "key-of-openai-0123456789"}}
    async with open_mounts(tmp_path, adopts_keys=False, **keys) as (world, upstreams):
        for key in ("key-of-replicate-0123456789", "key-of-openai-0123456789"):
            answered = await world.api.get(ACCOUNTS, headers={"Authorization": f"Bearer {key}"})
            assert (answered.status_code, answered.json()["error"]["code"]) == (401, "relay_key_unknown")
            assert "sources.revor.accounts" in answered.text
        assert (await world.api.post(PREDICTIONS, json={})).status_code == 404  # no path of the root
        assert upstreams.received == []


async def test_a_key_of_another_source_is_unknown_below_a_mount(tmp_path: Path) -> None:
    async with open_mounts(tmp_path, replicate={"default": "key-of-replicate-0123456789"}) as (world, upstreams):
        answered = await world.api.post(REPLICATE + PREDICTIONS, json={}, headers=AUTH)
        assert answered.status_code == 401
        assert answered.json()["title"] == "relay_key_unknown"  # the shape of Replicate's errors
        assert "sources.replicate.accounts.NAME.api_key" in answered.json()["detail"]
        assert upstreams.received == []


async def test_a_job_is_read_below_the_mount_of_its_source_only(mounts: tuple[World, Upstreams]) -> None:
    world, upstreams = mounts
    await world.api.post(REPLICATE + PREDICTIONS, json={}, headers=AUTH)
    for mount, path, cache in (
        (REPLICATE, PREDICTIONS, "miss"),  # the create said the first state, but no poll
        (OPENAI, BATCHES, "pass"),
    ):
        answered = await world.api.get(f"{mount}{path}/one", headers=AUTH)
        assert (answered.status_code, answered.headers["relay-cache"]) == (200, cache)
    await world.node.dropin.reads.settling.drain()
    sent = len(upstreams.received)
    upstreams.says = {}
    again = await world.api.get(f"{REPLICATE}{PREDICTIONS}/one", headers=AUTH)
    assert (again.status_code, again.headers["relay-cache"]) == (200, "hit")
    assert {name: again.json()[name] for name in JOB} == JOB
    assert len(upstreams.received) == sent
    assert world.metric("relay_passed_requests_total", kind="read", cache="hit") == 1
    assert world.metric("relay_passed_requests_total", kind="create", status="2xx") == 1


# --- paths


HOSTILE = (
    (f"/sources/unknown{PREDICTIONS}", 404),
    ("/sources/replicate", 404),
    ("/sources/", 404),
    (f"/sources/{PREDICTIONS}", 404),
    (f"/Sources/replicate{PREDICTIONS}", 404),
    (f"//sources/replicate{PREDICTIONS}", 404),
    (f"/sources/../sources/replicate{PREDICTIONS}", 404),
    (f"/sources/%72eplicate{PREDICTIONS}", 400),
    (f"/%73ources/replicate{PREDICTIONS}", 400),
    (f"/sources%2Freplicate{PREDICTIONS}", 400),
    (f"/sources/replicate%2F{PREDICTIONS}", 400),
    (f"/sources/openai/../replicate{PREDICTIONS}", 400),
    (f"/sources/replicate/..{BATCHES}", 400),
    ("/sources/replicate/../openai/v1/batches", 400),
    ("/sources/replicate/%2e%2e/openai/v1/batches", 400),
    ("/sources/replicate/v1/%252e%252e/x", 400),
    ("/sources/replicate/v1/..;/x", 400),
    ("/sources/replicate/./v1/x", 400),
    ("/sources/replicate/v1\\..\\x", 400),
    ("/sources/replicate/v1/%c0%ae%c0%ae/x", 400),
    ("/sources/replicate/v1/x%00", 400),
)


async def test_hostile_path_reaches_no_upstream(mounts: tuple[World, Upstreams]) -> None:
    """As bytes on a socket: a client library would resolve the dot segments."""
    world, upstreams = mounts
    with closing(listen()) as listener:
        async with served(world.node, listener), Client(url_of(listener)) as client:
            for target, status in HOSTILE:
                for method in ("GET", "POST", "DELETE", "OPTIONS"):
                    assert (await client.exchange(request(method, target))).status == status, (method, target)
                    world.node.access._addresses.clear()  # more wrong keys would be slowed down
                    refused = await client.exchange(request(method, target, AUTH.items()))
                    assert refused.status in (status, 401), (method, target)
    assert upstreams.received == []


AS_THEY_ARE = (
    *("/", "//v1/predictions", "//evil.example/v1/predictions", "/@evil.example/x", "/:80/x", "/v1//x", "/v1/a%2Fb"),
    *("/http://evil.example/", "/sources/openai/v1/batches", "/v1/x;y=1", "/v1/caf%C3%A9"),
)


async def test_path_below_the_mount_arrives_as_it_is_at_the_host_of_the_source(
    mounts: tuple[World, Upstreams],
) -> None:
    world, upstreams = mounts
    with closing(listen()) as listener:
        async with served(world.node, listener), Client(url_of(listener)) as client:
            for path in AS_THEY_ARE:
                sent = request("GET", f"{REPLICATE}{path}?a=%20b&a=c", AUTH.items())
                assert (await client.exchange(sent)).status == 200, path
    assert upstreams.received == [("GET", f"{path}?a=%20b&a=c") for path in AS_THEY_ARE]
    host = upstreams.replicate.url.removeprefix("http://").encode()
    assert {one.one("host") for one in upstreams.replicate.received} == {host}


async def test_every_method_is_passed_on_and_a_head_has_no_body(mounts: tuple[World, Upstreams]) -> None:
    world, upstreams = mounts
    for method in ("HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"):
        answered = await world.api.request(method, f"{REPLICATE}{PREDICTIONS}/one", headers=AUTH)
        assert answered.status_code == 200, method
        assert answered.content == (b"" if method == "HEAD" else orjson.dumps(JOB))
    assert [method for method, _ in upstreams.received] == ["HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"]
    for method, status in (("TRACE", 405), ("CONNECT", 400)):
        assert (await world.api.request(method, REPLICATE + PREDICTIONS, headers=AUTH)).status_code == status


async def test_a_request_that_comes_back_is_refused(mounts: tuple[World, Upstreams]) -> None:
    world, upstreams = mounts
    await world.api.get(f"{REPLICATE}/v1/account", headers=AUTH)
    node = upstreams.replicate.received[0].one("relay-node")
    assert node is not None
    for mount in (REPLICATE, OPENAI):
        for path in ("/v1/account", f"{PREDICTIONS}/one"):
            answered = await world.api.get(mount + path, headers={**AUTH, "Relay-Node": node.decode()})
            assert (answered.status_code, answered.json()["code"]) == (508, "loop_detected")
    assert len(upstreams.received) == 1


# --- tokens


async def token_of(world: World, source: str, account: str, *scopes: str) -> dict[str, str]:
    """The headers of a new token that is bound to the account."""
    body = {"name": f"{source}-{account}", "scopes": list(scopes), "source": source, "account": account}
    answered = await world.api.post("/v1/tokens", json=body, headers={"Authorization": f"Bearer {ADMIN}"})
    assert answered.status_code == 201, answered.text
    return {"Authorization": f"Bearer {answered.json()['token']}"}


async def test_a_bound_token_acts_below_the_mount_of_its_source_only(guarded: tuple[World, Upstreams]) -> None:
    world, upstreams = guarded
    of_replicate = await token_of(world, "replicate", "default", "proxy")
    for path in (f"{OPENAI}{BATCHES}", DISPATCHES, "/sources/revor" + DISPATCHES):
        answered = await world.api.post(path, json={}, headers=of_replicate)
        assert answered.status_code == 401, path
        assert "is of another source" in answered.text
        assert "relay_no_account_to_stand_for" in answered.text
    assert upstreams.received == []
    made = await world.api.post(REPLICATE + PREDICTIONS, json={}, headers=of_replicate)
    assert made.status_code == 200, made.text
    assert upstreams.replicate.received[0].one("authorization") == f"Bearer {KEY}".encode()
    assert await jobs(world, Authorization=f"Bearer {ADMIN}") == {("replicate", "default", "one")}


async def test_an_unbound_token_acts_for_the_only_account_of_the_source_with_a_key(tmp_path: Path) -> None:
    replicate = {"first": None, "second": "key-of-the-second-0123456789"}
    openai = {"one": "key-of-one-0123456789", "two": "key-of-two-0123456789"}
    token = {"Authorization": f"Bearer {ADMIN}"}
    async with open_mounts(tmp_path, tokens=TOKENS, replicate=replicate, openai=openai) as (world, upstreams):
        made = await world.api.post(REPLICATE + PREDICTIONS, json={}, headers=token)
        assert made.status_code == 200, made.text
        assert upstreams.replicate.received[0].one("authorization") == b"Bearer key-of-the-second-0123456789"
        refused = await world.api.post(OPENAI + BATCHES, json={}, headers=token)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "relay_no_account_to_stand_for")
        assert upstreams.openai.received == []
        assert await jobs(world, **token) == {("replicate", "second", "one")}


# --- unknown keys


async def test_an_unknown_key_is_adopted_in_the_source_that_accepted_it(tmp_path: Path) -> None:
    stranger = {"Authorization": f"Bearer {STRANGER}"}
    async with open_mounts(tmp_path, adopts_keys=True) as (world, upstreams):
        made = await world.api.post(REPLICATE + PREDICTIONS, json={}, headers=stranger)
        assert made.status_code == 200, made.text
        assert await jobs(world) == {("replicate", name_of(STRANGER), "one")}
        assert ("replicate", name_of(STRANGER)) in world.node.pollers
        assert ("openai", name_of(STRANGER)) not in world.node.pollers
        assert upstreams.received == [("POST", PREDICTIONS)]
        again = await world.api.get(f"{OPENAI}{BATCHES}/one", headers=stranger)  # unknown there: it is passed on
        assert (again.status_code, again.headers["relay-cache"]) == (200, "pass")
        assert upstreams.received[-1] == ("GET", f"{BATCHES}/one")


# --- what a create attaches, and what is counted


async def test_a_create_attaches_to_its_job_below_a_mount_too(guarded: tuple[World, Upstreams]) -> None:
    world, upstreams = guarded
    token = {"Authorization": f"Bearer {ADMIN}"}
    attached = {
        "Relay-Metadata": '{"deal":42}',
        "Relay-Group": "Q4",
        "Relay-Callback": f"{world.receiver_url}/events",
        "Relay-Callback-Types": "succeeded,failed",
    }
    made = await world.api.post(OPENAI + BATCHES, json={"metadata": {"order": "7"}}, headers={**token, **attached})
    assert made.status_code == 200, made.text
    (sent,) = upstreams.openai.received
    assert not [name for name, _ in sent.headers if name.startswith(b"relay-") and name != b"relay-node"]
    job = (await world.api.get("/v1/jobs/one?source=openai", headers=token)).json()
    assert (job["metadata"], job["group"]) == ({"deal": 42}, "Q4")
    assert job["request"] == {"metadata": {"order": "7"}}
    (callback,) = (await world.api.get("/v1/subscriptions?callbacks=true", headers=token)).json()["items"]
    assert callback["sink"] == f"{world.receiver_url}/events"
    refused = await world.api.post(OPENAI + BATCHES, json={}, headers={**token, "Relay-Metadata": "["})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "relay_invalid_metadata")
    assert len(upstreams.received) == 1
    assert world.metric("relay_passed_requests_total", kind="create", status="2xx") == 1
    await world.node.audit.flush(everything=True)
    entries = (await world.api.get("/v1/audit", headers=token)).json()["items"]
    assert "proxy.create" in {entry["action"] for entry in entries}
