"""`POST /v1/subscriptions/apply`: the subscriptions become what a document declares."""

import asyncio
from dataclasses import replace

import orjson

from relay.core.subscriptions.signing import new_secret
from relay.errors import ValueRefused
from tests.support.api_world import HOOK, NOW, ORIGIN, SLACK

SECRET, OTHER_SECRET = new_secret(b"s" * 32), new_secret(b"t" * 32)
TOKEN = {"credentialtype": "ACCESSTOKEN", "accesstoken": "the-token-itself"}
CRM = {"id": "crm", "sink": HOOK, "config": {"secret": SECRET}}
ALERTS = {"id": "slack-alerts", "sink": SLACK, "types": ["failed"]}


async def apply(client, *subscriptions, status=200, **options):
    answer = await client.post("/v1/subscriptions/apply", json={"subscriptions": subscriptions, **options})
    assert answer.status_code == status, answer.text
    return answer.json()


async def listed(client):
    return {one["id"]: one for one in (await client.get("/v1/subscriptions?limit=500")).json()["items"]}


def actions(applied):
    return [(one["id"], one["action"], one["fields"]) for one in applied["changes"]]


def with_config(document, **config):
    return {**document, "config": {**document.get("config", {}), **config}}


async def test_declared_subscriptions_are_added_under_their_own_ids(client, world):
    applied = await apply(client, CRM, ALERTS)

    assert actions(applied) == [("crm", "add", []), ("slack-alerts", "add", [])]
    assert (applied["added"], applied["changed"], applied["removed"], applied["unchanged"]) == (2, 0, 0, 0)
    found = await listed(client)
    assert found.keys() == {"crm", "slack-alerts"}
    assert all(one["declared"] and one["state"] == "enabled" for one in found.values())
    none_skipped = {"skipped": {"count": 0, "since": None}}  # counted for one, not for lists
    assert (await client.get("/v1/subscriptions/crm")).json() == {**found["crm"], **none_skipped}
    assert (await world.store.subscriptions.get("crm")).secrets[0].value == SECRET
    assert world.signals.woken == 1


async def test_a_second_apply_changes_nothing(client, world):
    full = {
        "id": "full",
        "sink": "https://other.example/hook",
        "types": ["failed", "relay.source.down"],
        "source": ORIGIN.source,
        "protocolsettings": {"headers": {"X-Team": "sales", "X-Api-Key": "a key"}, "method": "PUT"},
        "sinkcredential": TOKEN,
        "config": {
            "secret": SECRET,
            "retry_schedule": ["5s", 10],
            "rate_per_second": 3,
            "start": "2026-01-02T03:04:05.123456Z",
        },
        "description": "everything",
    }
    await apply(client, CRM, ALERTS, full)
    before, version = await listed(client), world.store.subscriptions.version
    world.now += 60

    applied = await apply(client, CRM, ALERTS, full, prune=True)

    assert [one["action"] for one in applied["changes"]] == ["unchanged"] * 3
    assert await listed(client) == before
    assert world.store.subscriptions.version == version
    assert world.signals.woken == 1


async def test_a_dry_run_changes_nothing(client, world):
    await apply(client, CRM, {"id": "old", "sink": HOOK, "config": {"secret": SECRET}})
    before = await listed(client)

    changed = with_config({**CRM, "types": ["failed"]}, rate_per_second=5)
    applied = await apply(client, changed, ALERTS, dry_run=True, prune=True)

    assert actions(applied) == [
        ("crm", "change", ["types", "config.rate_per_second"]),
        ("slack-alerts", "add", []),
        ("old", "remove", []),
    ]
    assert applied["changes"][0]["values"] == {
        "types": {"from": None, "to": ["ai.revor.job.failed"]},
        "config.rate_per_second": {"from": None, "to": 5.0},
    }
    assert applied["dry_run"] is True
    assert await listed(client) == before


async def test_a_change_names_its_fields_and_shows_no_secret(client, world) -> None:
    for change, fields in [
        ({"sink": "https://new.example/hook"}, ["sink"]),
        ({"description": "a text"}, ["description"]),
        ({"source": "/relay"}, ["source"]),
        ({"filters": [{"exact": {"channel": "email"}}]}, ["filters"]),
        ({"protocolsettings": {"method": "PUT"}}, ["protocolsettings.method"]),
        ({"protocolsettings": {"headers": {"X-Api-Key": "very secret"}}}, ["protocolsettings.headers"]),
        ({"sinkcredential": TOKEN}, ["sinkcredential"]),
        ({"config": {"secret": OTHER_SECRET}}, ["config.secret"]),
        ({"config": {"secret": SECRET, "ordering": "none"}}, ["config.ordering"]),
        ({"config": {"secret": SECRET, "signature": "both"}}, ["config.signature"]),
        ({"config": {"secret": SECRET, "retry_schedule": [1]}}, ["config.retry_schedule"]),
        ({"config": {"secret": SECRET, "timeout_seconds": 3}}, ["config.timeout_seconds"]),
        ({"config": {"secret": SECRET, "concurrency": 3}}, ["config.concurrency"]),
        (
            {"config": {"kind": "slack", "metadata_keys": ["deal"]}, "sink": SLACK},
            ["sink", "kind", "types", "incidents", "metadata_keys"],
        ),
    ]:
        await apply(client, CRM)
        applied = await apply(client, {**CRM, **change})

        (change_made,) = applied["changes"]
        assert change_made["action"] == "change"
        assert sorted(name.removeprefix("config.") for name in change_made["fields"]) == sorted(
            name.removeprefix("config.") for name in fields
        )
        text = orjson.dumps(applied).decode()
        for secret in (SECRET, OTHER_SECRET, "very secret", "the-token-itself", "secretsecret"):
            assert secret not in text
        assert [one["action"] for one in (await apply(client, {**CRM, **change}))["changes"]] == ["unchanged"]


async def test_another_secret_is_a_rotation(client, world):
    await apply(client, CRM)
    await apply(client, with_config(CRM, secret=OTHER_SECRET))

    new, old = (await world.store.subscriptions.get("crm")).secrets
    assert (new.value, new.expires_at) == (OTHER_SECRET, None)
    assert (old.value, old.expires_at) == (SECRET, NOW + 86_400)
    for number in range(8):
        await apply(client, with_config(CRM, secret=new_secret(bytes([number]) * 32)))
    refused = await apply(client, with_config({**CRM, "types": ["failed"]}, secret=SECRET), status=409)
    assert refused["code"] == "too_many_secrets"
    assert (await listed(client))["crm"]["types"] is None, "nothing of it was changed"


async def test_only_what_was_declared_is_pruned(client, world):
    made = (await client.post("/v1/subscriptions", json={"sink": HOOK})).json()["id"]
    await apply(client, CRM, ALERTS)

    assert actions(await apply(client, CRM)) == [("crm", "unchanged", [])]
    assert (await listed(client)).keys() == {"crm", "slack-alerts", made}
    applied = await apply(client, CRM, prune=True)

    assert actions(applied) == [("crm", "unchanged", []), ("slack-alerts", "remove", [])]
    assert (await listed(client)).keys() == {"crm", made}


async def test_a_new_sink_keeps_pending_deliveries_and_a_removed_one_cancels_them(client, world):
    await apply(client, CRM, {**CRM, "id": "old"})
    await world.poll(await world.job("a"), "queued")

    new = {**CRM, "sink": "https://new.example/hook"}
    planned = await apply(client, new, prune=True, dry_run=True)
    assert [(one["id"], one["pending"]) for one in planned["changes"]] == [("crm", 0), ("old", 1)]
    refused = await apply(client, new, prune=True, status=409)
    assert refused["code"] == "pending_deliveries"
    kept = {one.subscription_id: one.state for one in (await world.store.deliveries.page(limit=5)).items}
    assert kept == {"crm": "pending", "old": "pending"}
    assert (await client.get("/v1/subscriptions/crm")).json()["sink"] == CRM["sink"]

    await apply(client, new, prune=True, cancel_pending=True)

    states = {one.subscription_id: one.state for one in (await world.store.deliveries.page(limit=5)).items}
    assert states == {"crm": "pending", "old": "cancelled"}


async def test_a_mistake_is_named_with_its_place_and_nothing_is_changed(client) -> None:
    for document, pointer, code in [
        ("text", "", "wrong_type"),
        ({"sink": HOOK}, "/id", "missing"),
        ({**CRM, "id": "not/an id"}, "/id", "invalid_id"),
        ({**CRM, "id": "apply"}, "/id", "invalid_id"),
        ({**CRM, "id": "crm@revor:default"}, "/id", "invalid_id"),
        ({**CRM, "id": "x" * 65}, "/id", "invalid_id"),
        ({**CRM, "id": "first"}, "/id", "duplicate_id"),
        ({"id": "crm", "sink": HOOK}, "/config/secret", "missing"),
        ({**CRM, "snk": HOOK}, "/snk", "unknown_field"),
        ({**CRM, "state": "paused"}, "/state", "unknown_field"),
        ({**CRM, "types": ["faild"]}, "/types/0", "unknown_type"),
        ({**CRM, "sink": "https://hooks.slack.com/…"}, "/sink", "redacted"),
        ({**CRM, "filters": [{"exact": {"chanel": "email"}}]}, "/filters/0/exact/chanel", "unknown_attribute"),
        ({**CRM, "config": {"secret": SECRET, "template": {"a": "{{"}}}, "/config/template/a", "invalid_template"),
        ({**CRM, "sink": "https://10.0.0.1/x"}, "/sink", "sink_refused"),
        (
            {**CRM, "protocolsettings": {"headers": {"X-Api-Key": "[redacted]"}}},
            "/protocolsettings/headers/X-Api-Key",
            "redacted",
        ),
        ({**CRM, "config": {"secret": SECRET, "timeout_seconds": 61}}, "/config/timeout_seconds", "out_of_range"),
        ({**CRM, "config": {"secret": "whsec_short"}}, "/config/secret", "invalid_secret"),
        ({**CRM, "sinkcredential": {**TOKEN, "accesstoken": 1}}, "/sinkcredential/accesstoken", "wrong_type"),
        ({**CRM, "config": {"secret": SECRET, "metadata_keys": ["a"]}}, "/config/metadata_keys", "unknown_option"),
        ({**CRM, "owner": "revor/defualt"}, "/owner", "unknown_account"),
    ]:
        refused = await apply(client, {**CRM, "id": "first"}, document, status=422)

        assert [(one["pointer"], one["code"]) for one in refused["errors"]] == [(f"/subscriptions/1{pointer}", code)]
        assert await listed(client) == {}


async def test_a_crash_in_the_middle_changes_nothing(client, world, monkeypatch):
    await apply(client, CRM, ALERTS)
    before = await listed(client)

    def fails(*_, **__):
        raise ValueRefused("this is the last step")

    monkeypatch.setattr(world.store.subscriptions, "_create", fails)
    answer = await client.post(
        "/v1/subscriptions/apply",
        json={"subscriptions": [{**CRM, "types": ["failed"]}, {**CRM, "id": "new"}], "prune": True},
    )

    assert answer.status_code == 503
    assert await listed(client) == before


async def test_applies_at_the_same_time_come_one_after_the_other(client):
    bodies = [[{**CRM, "id": name, "description": str(number)} for name in ("a", "b")] for number in range(6)]

    answers = await asyncio.gather(
        *(client.post("/v1/subscriptions/apply", json={"subscriptions": body, "prune": True}) for body in bodies)
    )

    assert [answer.status_code for answer in answers] == [200] * 6
    found = await listed(client)
    assert found["a"]["description"] == found["b"]["description"], "each of them was one transaction"


async def test_a_subscription_that_changes_meanwhile_is_planned_again(client, world, monkeypatch):
    await apply(client, CRM)
    real, seen = world.store.subscriptions.all, []

    async def all_then_changed(self):
        found = await real()
        if len(seen) < 2:
            seen.append(1)
            one = next(one for one in found if one.id == "crm")
            await world.store.subscriptions.replace(replace(one, description=f"by hand {len(seen)}"), world.now)
        return found

    monkeypatch.setattr(type(world.store.subscriptions), "all", all_then_changed)
    applied = await apply(client, {**CRM, "description": "declared"})

    assert applied["changes"][0]["values"]["description"] == {"from": "by hand 2", "to": "declared"}
    assert len(seen) == 2


async def test_a_subscription_that_is_made_between_two_reads_is_no_callback(client, world, monkeypatch):
    real, seen = world.store.subscriptions.all, []

    async def all_then_made(self):
        found = await real()
        if not seen:
            seen.append(1)
            await apply(client, CRM)
        return found

    monkeypatch.setattr(type(world.store.subscriptions), "all", all_then_made)
    body = {"subscriptions": [{**CRM, "description": "the second"}]}
    answer = await client.post("/v1/subscriptions/apply", json=body)
    assert answer.status_code == 200, answer.text
    assert (await listed(client))["crm"]["description"] == "the second"
