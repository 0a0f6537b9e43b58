"""Which account a proxied request acts for: its own key, a relay token, or an unknown key."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest

from relay.config.settings import TokenSettings
from tests.support.dropin_requests import ACCOUNTS, DISPATCH, DISPATCHES, JOBS
from tests.support.e2e_world import AT_ONCE, World, client_of, open_e2e_world
from tests.support.relay_world import RelayWorld, open_relay_world
from tests.support.wire import open_stub

ACME, BETA, STRANGER = "sk-revor-acme-0123456789", "sk-revor-beta-0123456789", "sk-revor-stranger-0123456789"
ADMIN = "rl_admin_0123456789abcdefghijklmnopqrstuvw"
READER = "rl_reader_0123456789abcdefghijklmnopqrstuvw"
CRM = "rl_crm_0123456789abcdefghijklmnopqrstuvw"
DROPIN = "rl_dropin_0123456789abcdefghijklmnopqrstuvw"
TEAM = "rl_team_0123456789abcdefghijklmnopqrstuvw"
TOKENS = (
    TokenSettings(name="ops", token=ADMIN, scopes=("admin",)),
    TokenSettings(name="viewer", token=READER, scopes=("read",)),
    TokenSettings(name="crm", token=CRM, scopes=("jobs:write",)),
    TokenSettings(name="dropin", token=DROPIN, scopes=("proxy",)),
    TokenSettings(name="team", token=TEAM, scopes=("subscriptions:write", "events:write")),
)
TWO = {"acme": ACME, "beta": BETA}
FROM_ELSEWHERE = {"X-Forwarded-For": "203.0.113.5"}


@pytest.fixture(autouse=True)
async def _bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(300):
        yield


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Two accounts and a relay with --dev."""
    async with open_e2e_world(tmp_path, accounts=TWO) as world:
        yield world


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[World]:
    """One account and tokens."""
    async with open_e2e_world(tmp_path, accounts={"acme": ACME}, tokens=TOKENS) as world:
        yield world


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def create(world: World, headers: Mapping[str, str]) -> httpx2.Response:
    return await world.api.post(DISPATCHES, json=DISPATCH, headers=dict(headers))


async def read(world: World, job_id: str, headers: Mapping[str, str]) -> httpx2.Response:
    return await world.api.get(JOBS + job_id, headers=dict(headers))


async def shown(world: World, job_id: str, **headers: str) -> dict[str, Any] | None:
    """The job in the relay's API; None if it is not tracked."""
    answer = await world.api.get(f"/v1/jobs/{job_id}", headers=headers)
    assert answer.status_code in (200, 404), answer.text
    return answer.json() if answer.status_code == 200 else None


async def truth(world: World, job_id: str) -> dict[str, Any]:
    """The job at the upstream."""
    answer = await world.sandbox.get(f"/_sandbox/jobs/{job_id}")
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()["job"]
    return job


async def arrived(world: World) -> int:
    """The number of requests the upstream received."""
    total: int = (await world.sandbox.get("/_sandbox/requests")).json()["total"]
    return total


def code_of(answer: httpx2.Response) -> str:
    """The code of an error in the upstream's own shape."""
    document = answer.json()
    assert document.keys() == {"ok", "error"}
    assert document["ok"] is False
    assert document["error"].keys() == {"code", "message", "request_id"}
    return str(document["error"]["code"])


# --- the key of an account


OWN_KEY = (
    {"Authorization": f"Bearer {ACME}"},
    {"authorization": f"bearer  {ACME}"},
    {"x-api-key": ACME},
    {"X-API-Key": ACME, "Authorization": "Basic eDp5"},
    {"Authorization": f"Bearer {ACME}", "x-api-key": BETA},
    {"Authorization": "Bearer ", "x-api-key": ACME},
)


async def test_caller_s_key_is_forwarded_and_its_job_tracked(world: World) -> None:
    for headers in OWN_KEY:
        made = await create(world, headers)
        assert made.status_code == 202, (headers, made.text)
        job_id = made.json()["item"]["id"]
        job = await shown(world, job_id)
        assert job is not None, headers
        assert job["account"] == (await truth(world, job_id))["account"] == "acme", headers


async def test_two_accounts_have_separate_jobs_and_polling(world: World) -> None:
    made: dict[str, set[str]] = {"acme": set(), "beta": set()}
    for _ in range(3):
        for account, key in TWO.items():
            made[account].add((await create(world, bearer(key))).json()["item"]["id"])

    async def all_ended() -> bool:
        return (await world.api.get("/v1/jobs?open=true")).json()["items"] == []

    await world.until(all_ended)
    events = (await world.api.get("/v1/events?limit=500")).json()["items"]
    for account, job_ids in made.items():
        jobs = (await world.api.get(f"/v1/jobs?account={account}")).json()["items"]
        assert {job["id"] for job in jobs} == job_ids
        assert {event["subject"] for event in events if event.get("account") == account} == job_ids
        assert world.metric("relay_polls_total", account=account, result="observed") >= len(job_ids)


async def test_key_never_reads_another_account_s_job(world: World) -> None:
    body = {"account": "acme", "final": "succeeded", **AT_ONCE}
    (item,) = (await world.sandbox.post("/_sandbox/jobs", json=body)).json()["items"]
    await world.api.post("/v1/jobs", json={"id": item["id"], "account": "acme"})

    async def ended() -> bool:
        job = await shown(world, item["id"])
        return job is not None and not job["open"]

    await world.until(ended)
    own = await read(world, item["id"], bearer(ACME))
    assert (own.status_code, own.headers["relay-cache"]) == (200, "hit")
    other = await read(world, item["id"], bearer(BETA))
    assert (other.status_code, other.headers["relay-cache"]) == (404, "pass")
    assert code_of(other) == "external_api_job_not_found"
    for key in (STRANGER, f"{BETA}x"):
        assert code_of(await read(world, item["id"], bearer(key))) == "relay_key_unknown"
    both = await read(world, item["id"], {**bearer(BETA), "x-api-key": ACME})
    assert both.status_code == 404  # with both headers the first counts, as at the upstream


# --- tokens of ours


@pytest.mark.parametrize("form", ["Authorization", "x-api-key"])
async def test_token_stands_for_the_only_account(guarded: World, form: str) -> None:
    for token, status in ((ADMIN, 202), (CRM, 202), (DROPIN, 202), (READER, 403), (TEAM, 403)):
        headers = {form: f"Bearer {token}" if form == "Authorization" else token, **FROM_ELSEWHERE}
        before = await arrived(guarded)
        answer = await create(guarded, headers)
        assert answer.status_code == status, answer.text
        if status == 403:
            assert code_of(answer) == "relay_scope_missing"
            assert await arrived(guarded) == before
            continue
        job_id = answer.json()["item"]["id"]
        job = await shown(guarded, job_id, **bearer(ADMIN))
        assert job is not None
        assert job["account"] == (await truth(guarded, job_id))["account"] == "acme"
        for reader in (READER, CRM, DROPIN, ADMIN):
            assert (await read(guarded, job_id, bearer(reader))).status_code == 200
        assert (await read(guarded, job_id, bearer(TEAM))).status_code == 403
        assert (await guarded.api.get(f"/v1/jobs/{job_id}", headers=bearer(DROPIN))).status_code == 403


async def test_token_that_reads_gets_tracked_jobs_only(tmp_path: Path) -> None:
    other = f"{JOBS}a-job-of-others"
    asked = [("GET", path) for path in (other, f"{other}?x=1", JOBS, ACCOUNTS, "/api/v2/anything")]
    async with (
        open_stub() as upstream,
        open_e2e_world(
            tmp_path, accounts={"acme": ACME}, tokens=TOKENS, base_url=upstream.url, roles=("api",)
        ) as world,
    ):
        for method, path in (*asked, ("HEAD", other), ("OPTIONS", JOBS)):
            for more in ({}, {"Cache-Control": "no-cache"}, {"Prefer": "wait=1"}):
                answer = await world.api.request(method, path, headers={**bearer(READER), **more})
                assert answer.status_code == 403, answer.text
                if method != "HEAD":
                    assert code_of(answer) == "relay_scope_missing"
                    assert "this needs admin or jobs:write or proxy" in answer.text
        assert upstream.received == []


async def test_token_that_reads_gets_a_tracked_job_also_from_the_upstream(guarded: World) -> None:
    job_id = (await create(guarded, bearer(CRM))).json()["item"]["id"]
    for more in ({}, {"Cache-Control": "no-cache"}, {"Prefer": "wait=1"}):
        assert (await read(guarded, job_id, {**bearer(READER), **more})).status_code == 200
    for path in (f"{JOBS}{job_id}?x=1", f"{JOBS}{job_id}/more"):
        assert (await guarded.api.get(path, headers=bearer(READER))).status_code == 403


@pytest.mark.parametrize("form", ["Authorization", "x-api-key"])
async def test_connection_header_cannot_remove_the_account_s_key(guarded: World, form: str) -> None:
    job_id = (await create(guarded, bearer(CRM))).json()["item"]["id"]
    for token in (READER, CRM):
        headers = {form: f"Bearer {token}" if form == "Authorization" else token, "Cache-Control": "no-cache"}
        for named in ("close, authorization", "Authorization, x-api-key", "keep-alive,authorization,cookie,host"):
            answer = await read(guarded, job_id, {**headers, "Connection": named})
            assert answer.status_code == 200, (named, answer.text)
    assert guarded.poller.state.state == "ok"


async def test_cookies_are_dropped_from_token_requests(tmp_path: Path) -> None:
    async with (
        open_stub() as upstream,
        open_e2e_world(
            tmp_path, accounts={"acme": ACME}, tokens=TOKENS, base_url=upstream.url, roles=("api",)
        ) as world,
    ):
        for key, cookies in ((CRM, []), (ACME, [b"session=1"])):
            await world.api.get("/api/v1/x", headers={**bearer(key), "Cookie": "session=1"})
            assert upstream.received[-1].all("cookie") == cookies
            assert upstream.received[-1].one("authorization") == f"Bearer {ACME}".encode()


async def test_token_beside_the_key_of_an_account_is_not_passed_on(tmp_path: Path) -> None:
    plain = "a-token-of-the-settings"  # these may have any form
    tokens = (*TOKENS, TokenSettings(name="plain", token=plain, scopes=("read",)))
    async with (
        open_stub() as upstream,
        open_e2e_world(
            tmp_path, accounts={"acme": ACME}, tokens=tokens, base_url=upstream.url, roles=("api",)
        ) as world,
    ):
        for token in (CRM, "rl_of-another-relay", plain):
            await world.api.get("/api/v1/x", headers={**bearer(ACME), "x-api-key": token})
            assert upstream.received[-1].all("x-api-key") == []
            assert upstream.received[-1].one("authorization") == f"Bearer {ACME}".encode()


@pytest.mark.parametrize("accounts", [TWO, {"acme": None}, {"default": None, "acme": ACME, "beta": BETA}])
async def test_token_is_refused_without_an_account_to_stand_for(
    tmp_path: Path, accounts: dict[str, str | None]
) -> None:
    async with open_e2e_world(tmp_path, accounts=accounts, tokens=TOKENS) as world:
        answer = await create(world, bearer(ADMIN))
        assert (answer.status_code, code_of(answer)) == (401, "relay_no_account_to_stand_for")
        assert "jobs" in (await world.sandbox.get("/_sandbox/jobs")).json()
        assert (await world.sandbox.get("/_sandbox/jobs")).json()["jobs"] == []


# --- unknown keys


async def test_dev_refuses_an_unknown_key_and_says_what_to_set(world: World) -> None:
    before = await arrived(world)
    for headers in (bearer(STRANGER), {"x-api-key": STRANGER}):
        for answer in (await create(world, headers), await world.api.get(ACCOUNTS, headers=headers)):
            assert (answer.status_code, code_of(answer)) == (401, "relay_key_unknown")
            said = answer.json()["error"]["message"]
            assert "sources.revor.accounts.NAME.api_key" in said
            assert "proxy.adopt_unknown_keys: true" in said
    assert await arrived(world) == before


async def test_dev_forwards_a_request_without_a_key(world: World) -> None:
    answer = await world.api.get(ACCOUNTS)
    assert (answer.status_code, code_of(answer)) == (401, "api_key_missing")


ELSEWHERE = (
    {"X-Forwarded-For": "203.0.113.5"},
    {"Forwarded": "for=203.0.113.5"},
    {"X-Real-IP": "203.0.113.5"},
    {"Via": "1.1 proxy.example"},
    {"CF-Connecting-IP": "203.0.113.5"},
    {"Host": "rebound.example"},
    {"Origin": "https://elsewhere.example"},
    {"Origin": "null"},
)


async def refused(world: World, *places: Mapping[str, str]) -> None:
    """Requests from there with an unknown key or none are not forwarded."""
    before = await arrived(world)
    for place in places:
        for key in (bearer(STRANGER), {"x-api-key": STRANGER}, {}):
            headers = {**place, **key}
            for answer in (await create(world, headers), await world.api.get(ACCOUNTS, headers=headers)):
                world.node.access._addresses.clear()  # more wrong ones would be slowed down
                assert (answer.status_code, code_of(answer)) == (401, "relay_key_unknown"), headers
                assert answer.headers["content-type"] == "application/json"
    assert await arrived(world) == before


async def test_unknown_key_is_refused_from_any_address(guarded: World) -> None:
    await refused(guarded, {}, *ELSEWHERE)


# --- keys that change


async def test_replaced_key_is_not_served_from_state(world: World) -> None:
    body = {"account": "acme", "final": "succeeded", **AT_ONCE}
    (item,) = (await world.sandbox.post("/_sandbox/jobs", json=body)).json()["items"]
    await world.api.post("/v1/jobs", json={"id": item["id"], "account": "acme"})

    async def ended() -> bool:
        job = await shown(world, item["id"])
        return job is not None and not job["open"]

    await world.until(ended)
    assert (await read(world, item["id"], bearer(ACME))).headers["relay-cache"] == "hit"
    renewed = "sk-revor-acme-renewed"
    (source,) = world.settings.sources.values()
    account = source.accounts["acme"].replace(api_key=renewed)
    source = source.replace(accounts={**source.accounts, "acme": account})
    world.node.reload(world.settings.replace(sources={source.name: source}))
    async with client_of(world.node) as api:
        assert (await api.get(JOBS + item["id"], headers=bearer(ACME))).headers["relay-cache"] == "pass"
        assert (await api.get(JOBS + item["id"], headers=bearer(renewed))).headers["relay-cache"] == "hit"


# --- a whole relay

SETTINGS = """\
auth:
  tokens:
    - {{name: crm, token: {crm}, scopes: ["jobs:write"]}}
    - {{name: ops, token: {admin}, scopes: [admin]}}
sources:
  revor:
    polling: {{min_interval_seconds: 0.02, max_interval_seconds: 0.5, max_requests_per_second: 200}}
    accounts:
      acme: {{api_key: {acme}}}
      beta: {{api_key: {beta}}}
"""


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[RelayWorld]:
    async with open_relay_world(tmp_path) as world:
        yield world


async def test_keys_are_never_logged_and_sighup_changes_them(process: RelayWorld) -> None:
    renewed = "sk-revor-acme-renewed-0123456789"
    process.settings(SETTINGS.format(crm=CRM, admin=ADMIN, acme=ACME, beta=BETA))
    await process.serve()  # with the key of a third account, `default`, from the environment: which tokens stand for

    async def call(method: str, path: str, key: str, **more: str) -> tuple[int, str | None, Any]:
        headers = {"Authorization": f"Bearer {key}", **more}
        body = DISPATCH if method == "POST" else None
        async with process.session.request(method, process.url + path, json=body, headers=headers) as response:
            return response.status, response.headers.get("Relay-Cache"), await response.json()

    ended = await process.upstream_job(account="acme")
    async with process.session.post(
        f"{process.url}/v1/jobs", json={"id": ended, "account": "acme"}, headers={"Authorization": f"Bearer {ADMIN}"}
    ) as response:
        assert response.status == 201
    keys = (ACME, BETA, STRANGER, CRM, ADMIN)
    for key in keys:
        status, _, made = await call("POST", DISPATCHES, key)
        assert status == (401 if key == STRANGER else 202)
        if status == 202:
            await call("GET", JOBS + made["item"]["id"], key)
        await call("GET", f"{ACCOUNTS}?key={key}", key)
        await call("GET", "/api/v2/nothing", key, **{"x-api-key": key, "X-Forwarded-For": "203.0.113.5"})
        await call("POST", DISPATCHES, key, **{"Relay-Metadata": "{"})
        await call("DELETE", "/api/v1/nothing", key)

    async def is_hit(key: str = ACME) -> bool:
        return (await call("GET", JOBS + ended, key))[1] == "hit"

    await process.until(is_hit)
    process.settings(SETTINGS.format(crm=CRM, admin=ADMIN, acme=renewed, beta=BETA))
    process.hang_up()
    await process.said("settings_read_again")
    assert not await is_hit()
    assert await is_hit(renewed)
    assert await process.end() == 0
    log = "\n".join(process.lines)
    assert not [key for key in (*keys, renewed) if key in log]
    assert not re.search(r"sk-revor-|rl_\w+_0123", log)
