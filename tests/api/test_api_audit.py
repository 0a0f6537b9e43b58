"""The audit of API requests: what is recorded, and how it is listed and verified."""

import asyncio
import re
import sqlite3
from contextlib import closing
from ipaddress import ip_network

import pytest

from relay.api.catalogue import OPERATIONS
from relay.api.http.dependencies import Token
from relay.errors import StoreError
from relay.node.audit import MAX_ROWS_PER_HOUR, MAX_ROWS_PER_MINUTE
from tests.support.api_world import HOOK

SECRETS_READ = {"GET /v1/signing-secret"}
"""Reads that are recorded, because their answer is a secret."""


READS_WITH_A_BODY = {"POST /v1/subscriptions/preview"}
"""These change nothing."""


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.id)
def test_every_write_is_in_the_audit(operation):
    reads = operation.route in READS_WITH_A_BODY or (operation.method == "GET" and operation.route not in SECRETS_READ)
    assert reads == (operation.audited is None and operation.counted is None), (
        "a write needs `audited` (one entry each) or `counted` (a number per token and hour)"
    )
    names = [name for name in (operation.audited, operation.counted) if isinstance(name, str)]
    assert all(re.fullmatch(r"[a-z_]+\.[a-z_]+", name) for name in names)


TOKENS = (
    Token(name="ops", value="rl_admin", scopes=frozenset({"admin"})),
    Token(name="crm", value="rl_jobs", scopes=frozenset({"jobs:write"})),
)
OPS = {"Authorization": "Bearer rl_admin"}
CRM = {"Authorization": "Bearer rl_jobs"}


@pytest.fixture
def client(open_client):
    """A client of a relay whose tokens are TOKENS, from another address than loopback."""
    return open_client(dev=False, tokens=TOKENS, peer="203.0.113.9")


async def audit_of(client, **query):
    answer = await client.get("/v1/audit", params=query, headers=OPS)
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


async def chain_of(world):
    return [(entry.record.action, entry.record.result) async for entry in world.store.audit.entries()]


async def test_an_entry_says_who_did_what_on_what_when_from_where_with_which_result(client, world):
    made = await client.post("/v1/subscriptions", json={"sink": HOOK}, headers=OPS)
    (entry,) = await audit_of(client)
    assert entry == {
        "id": entry["id"],
        "at": "2027-01-15T08:00:00.000Z",
        "action": "subscriptions.create",
        "actor": "ops",
        "token_id": None,
        "target": made.json()["id"],
        "address": "203.0.113.9",
        "result": "ok",
        "status": 201,
        "count": 1,
        "request_id": made.headers["x-request-id"],
        "detail": {},
        "number": 2,
    }


async def test_a_write_is_recorded_before_it_begins(client, world, monkeypatch):
    seen = []

    async def create(subscription, room):
        seen.append(await chain_of(world))
        raise RuntimeError("the process dies here")

    monkeypatch.setattr(world.store.subscriptions, "create", create)
    assert (await client.post("/v1/subscriptions", json={"sink": HOOK}, headers=OPS)).status_code == 500
    assert seen == [[("subscriptions.create", "started")]]
    (entry,) = await audit_of(client)
    assert (entry["result"], entry["status"]) == ("failed", 500)


async def test_without_an_entry_nothing_is_done(client, world, monkeypatch):
    async def append(*records):
        raise StoreError("the disk is full")

    monkeypatch.setattr(world.store.audit, "append", append)
    answer = await client.post("/v1/subscriptions", json={"sink": HOOK}, headers=OPS)
    assert answer.status_code == 503
    assert (await world.store.subscriptions.page(limit=1)).items == ()
    assert (await client.get("/v1/signing-secret", headers=OPS)).status_code == 503


async def test_a_write_whose_result_cannot_be_recorded_is_still_answered(client, world, monkeypatch):
    append, calls = world.store.audit.append, []

    async def first_only(*records):
        calls.append(records)
        if len(calls) > 1:
            raise StoreError("the disk is full")
        return await append(*records)

    monkeypatch.setattr(world.store.audit, "append", first_only)
    assert (await client.post("/v1/subscriptions", json={"sink": HOOK}, headers=OPS)).status_code == 201
    monkeypatch.undo()
    (entry,) = await audit_of(client)
    assert (entry["action"], entry["result"], entry["status"]) == ("subscriptions.create", "started", None)


async def test_a_write_that_is_cut_off_has_no_result(client, world, monkeypatch):
    async def create(subscription, room):
        raise asyncio.CancelledError

    monkeypatch.setattr(world.store.subscriptions, "create", create)
    with pytest.raises(asyncio.CancelledError):
        await client.post("/v1/subscriptions", json={"sink": HOOK}, headers=OPS)
    assert await chain_of(world) == [("subscriptions.create", "started")]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "action"),
    [
        ("POST", "/v1/subscriptions", {"sink": "ftp://x"}, 422, "subscriptions.create"),
        ("DELETE", "/v1/subscriptions/sub_1", None, 404, "subscriptions.remove"),
        ("DELETE", "/v1/jobs/nothing?purge=true", None, 404, "jobs.purge"),
        ("POST", "/v1/deliveries/retry", {"filter": {"state": "x"}}, 422, "deliveries.retry_many"),
    ],
)
async def test_a_refused_write_is_recorded(client, method, path, body, status, action):
    answer = await client.request(method, path, json=body, headers=OPS)
    assert answer.status_code == status
    (entry,) = await audit_of(client)
    assert (entry["action"], entry["result"], entry["status"]) == (action, "refused", status)


async def test_refused_logins_are_counted_per_address_and_minute(open_client, world):
    clients = {peer: open_client(dev=False, tokens=TOKENS, peer=peer) for peer in ("203.0.113.1", "203.0.113.2")}
    for minute in range(2):
        for peer, count in (("203.0.113.1", 3), ("203.0.113.2", 1)):
            for _ in range(count):
                await clients[peer].get("/v1/jobs", headers={"Authorization": "Bearer wrong"})
                await clients[peer].get("/v1/jobs")
        assert await chain_of(world) == [("login.refused", "refused")] * minute * 2
        world.now += 60
        await world.audit.flush()
    entries = await audit_of(clients["203.0.113.1"], action="login.refused")
    assert sorted((entry["detail"]["since"], entry["address"], entry["count"]) for entry in entries) == [
        ("2027-01-15T08:00:00.000Z", "203.0.113.1", 6),
        ("2027-01-15T08:00:00.000Z", "203.0.113.2", 2),
        ("2027-01-15T08:01:00.000Z", "203.0.113.1", 6),
        ("2027-01-15T08:01:00.000Z", "203.0.113.2", 2),
    ]
    assert {(entry["result"], entry["status"]) for entry in entries} == {("refused", 401)}


async def test_the_address_is_the_one_that_a_trusted_proxy_names(open_client, world):
    behind = open_client(dev=False, tokens=TOKENS, peer="10.0.0.1", trusted_proxies=[ip_network("10.0.0.0/8")])
    forwarded = {"X-Forwarded-For": "198.51.100.7"}
    await behind.get("/v1/jobs", headers={**forwarded, "Authorization": "Bearer wrong"})
    await behind.delete("/v1/subscriptions/sub_1", headers={**forwarded, **OPS})
    direct = open_client(dev=False, tokens=TOKENS, peer="192.0.2.1")
    await direct.delete("/v1/subscriptions/sub_2", headers={**forwarded, **OPS})
    addresses = {(entry["action"], entry["target"]): entry["address"] for entry in await audit_of(direct)}
    assert addresses == {
        ("login.refused", None): "198.51.100.7",
        ("subscriptions.remove", "sub_1"): "198.51.100.7",
        ("subscriptions.remove", "sub_2"): "192.0.2.1",
    }


async def test_many_addresses_fill_neither_memory_nor_the_table(client, world):
    for number in range(2_000):
        world.audit.login_refused(f"2001:db8::{number:x}")
    world.audit.login_refused("2001:db8::1")
    await world.audit.flush(everything=True)
    entries = await audit_of(client, action="login.refused", limit=500)
    assert len(entries) == MAX_ROWS_PER_MINUTE + 1
    assert sum(entry["count"] for entry in entries) == 2_001
    assert {entry["address"] for entry in entries} >= {None, "2001:db8::1"}
    for minute in range(20):
        world.now += 60
        for number in range(100):
            world.audit.login_refused(f"2001:db8::{minute:x}:{number:x}")
        await world.audit.flush(everything=True)
    assert len(await audit_of(client, action="login.refused", limit=500)) == MAX_ROWS_PER_HOUR + 21


async def test_an_erasure_is_recorded_without_whom_it_concerned(client, world):
    body = {"metadata": {"email": "kim@example.com"}}
    assert (await client.post("/v1/erasures", json=body, headers=OPS)).status_code == 200
    entries = [entry async for entry in world.store.audit.entries()]
    assert [entry.record.action for entry in entries] == ["erasures.create"] * 2
    assert "kim" not in str(entries)
    (entry,) = await audit_of(client)
    assert (entry["actor"], entry["result"], entry["detail"]["jobs"]) == ("ops", "ok", 0)


async def test_the_list_is_filtered_by_time_actor_and_action(client, world):
    for id in ("sub_1", "sub_2", "sub_3"):
        await client.delete(f"/v1/subscriptions/{id}", headers=OPS)
        world.now += 10
    await client.delete("/v1/jobs/sub_4?purge=true", headers=CRM)

    async def targets(**query):
        return [entry["target"] for entry in await audit_of(client, **query)]

    assert await targets() == ["sub_4", "sub_3", "sub_2", "sub_1"]
    assert await targets(actor="crm") == ["sub_4"]
    assert await targets(action="subscriptions.remove") == ["sub_3", "sub_2", "sub_1"]
    assert await targets(since="2027-01-15T08:00:10Z", until="2027-01-15T08:00:30Z") == ["sub_3", "sub_2"]
    assert await targets(actor="nobody") == []
    first = (await client.get("/v1/audit?limit=3", headers=OPS)).json()
    assert await targets(cursor=first["next_cursor"]) == ["sub_1"]
    assert (await client.get("/v1/audit?cursor=xyz", headers=OPS)).json()["code"] == "invalid_cursor"


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("jane@example.com", "(an id with @)"),
        ("%E2%80%AEevil%F0%9F%98%80", "\ufffdevil😀"),
        ("a" * 200, "a" * 200),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "[redacted]"),
    ],
)
async def test_what_a_path_says_is_recorded_without_secrets_recipients_and_escapes(client, path, target):
    await client.delete(f"/v1/subscriptions/{path}", headers=OPS)
    (entry,) = await audit_of(client)
    assert entry["target"] == target


async def test_verification_answers_what_is_wrong(client, world):
    for _ in range(2):
        await client.post("/v1/subscriptions", json={"sink": HOOK}, headers=OPS)
    answer = (await client.get("/v1/audit/verify", headers=OPS)).json()
    assert (answer["ok"], answer["entries"], answer["findings"]) == (True, 4, [])
    assert answer["head"] == str(await world.store.audit.head())
    await tampered(world, "UPDATE audit SET actor = 'eve' WHERE number = 2")
    answer = (await client.get("/v1/audit/verify", headers=OPS)).json()
    text = "entry 2 was changed or inserted: its MAC is wrong"
    assert answer["findings"] == [{"kind": "changed", "number": 2, "text": text}]
    assert (answer["ok"], answer["finding_count"]) == (False, 1)


async def tampered(world, *statements):
    """Changes the table as somebody with access to the file can."""

    def change():
        with closing(sqlite3.connect(world.store.database.path)) as connection:
            for name in ("audit_never_changes", "audit_is_kept"):
                connection.execute(f"DROP TRIGGER IF EXISTS {name}")
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    await asyncio.to_thread(change)
