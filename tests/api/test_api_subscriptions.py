from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from relay.core.access.netguard import GuardPolicy
from relay.core.events.event import INCIDENT_EVENTS
from relay.core.subscriptions.signing import new_secret, parse_secret
from tests.support.api_world import HOOK, SLACK, TOKENS

OPEN_GUARD = GuardPolicy(
    allow_http=True, allow_networks=(IPv4Network("127.0.0.0/8"),), allow_ports=frozenset({443, 8443})
)

SECRET = new_secret(b"s" * 32)


async def create(client, **body):
    answer = await client.post("/v1/subscriptions", json={"sink": HOOK, **body})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def test_a_subscription_has_every_field_and_shows_its_secret_once(client, world):
    answer = await client.post("/v1/subscriptions", json={"sink": HOOK, "description": "the CRM"})
    made = answer.json()
    assert answer.headers["location"] == f"/v1/subscriptions/{made['id']}"
    assert len(parse_secret(made["config"].pop("secret"))) == 32
    assert made | {"id": ""} == {
        "id": "",
        "sink": HOOK,
        "types": None,
        "source": None,
        "filters": None,
        "protocol": "HTTP",
        "protocolsettings": {"headers": {}, "method": "POST"},
        "sinkcredential": None,
        "config": {
            "kind": "webhook",
            "content_mode": "structured",
            "batch": None,
            "ordering": "job",
            "signature": "v1",
            "start": "now",
            "timeout_seconds": 15.0,
            "retry_schedule": [5.0, 300.0],
            "rate_per_second": None,
            "concurrency": None,
            "template": None,
            "strict": None,
            "portal": None,
            "dry_run": False,
            "handshake": "off",
            "incidents": "off",
        },
        "description": "the CRM",
        "state": "enabled",
        "disabled_reason": None,
        "state_since": "2027-01-15T08:00:00.000Z",
        "state_reason": None,
        "failing_since": None,
        "failing_reason": None,
        "paused_until": None,
        "next_probe_at": None,
        "owner": None,
        "declared": False,
        "next_handshake_at": None,
        "consent": None,
        "created_at": "2027-01-15T08:00:00.000Z",
    }
    skipped = {"skipped": {"count": 0, "since": None}}
    assert (await client.get(answer.headers["location"])).json() == {**made, **skipped}
    assert (await client.get("/v1/subscriptions")).json() == {"items": [made], "next_cursor": None}
    assert world.signals.woken == 1


async def test_every_setting_is_accepted(client, world):
    config = {
        "kind": "webhook",
        "content_mode": "batch",
        "batch": {"max_events": 7, "max_seconds": 0.5},
        "ordering": "none",
        "signature": "both",
        "start": "2026-05-20T10:00:00Z",
        "timeout_seconds": 60,
        "retry_schedule": ["5s", "5m", "2h", "1d", "500ms", 7, 0.5],
        "rate_per_second": 2.5,
        "concurrency": 4,
        "handshake": "required",
        "incidents": "off",
        "secret": SECRET,
    }
    made = await create(
        client,
        types=["ai.revor.job.failed", "relay.source.down", "ai.revor.job.failed"],
        source="https://revor.ai/api/v1/outreach/jobs",
        protocol="HTTP",
        protocolsettings={"headers": {"X-Team": "sales", "Authorization": "Bearer abc"}, "method": "PUT"},
        config=config,
    )
    assert made["types"] == ["ai.revor.job.failed", "relay.source.down"]
    assert made["config"] == {
        **config,
        "start": "2026-05-20T10:00:00.000Z",
        "retry_schedule": [5, 300, 7200, 86400, 0.5, 7, 0.5],
        "template": None,
        "strict": None,
        "portal": None,
        "dry_run": False,
    }
    assert made["protocolsettings"] == {
        "headers": {"X-Team": "sales", "Authorization": "[redacted]"},
        "method": "PUT",
    }
    stored = await world.store.subscriptions.get(made["id"])
    assert dict(stored.headers)["Authorization"] == "Bearer abc"
    assert [secret.value for secret in stored.secrets] == [SECRET]
    assert stored.start_at == 1779271200.0


async def test_a_chat_kind_is_inferred_redacted_and_gets_only_trouble(client):
    made = await create(client, sink=SLACK)
    assert (made["config"]["kind"], made["sink"]) == ("slack", "https://hooks.slack.com/…")
    assert "ai.revor.job.failed" in made["types"]
    assert "ai.revor.job.succeeded" not in made["types"]
    assert "secretsecret" not in (await client.get("/v1/subscriptions")).text
    explicit = await create(client, sink=SLACK, config={"kind": "webhook"})
    assert (explicit["config"]["kind"], explicit["types"]) == ("webhook", None)


async def test_an_invalid_subscription_names_field_and_code(client) -> None:
    for body, pointer, code, words in [
        ({"types": ["ai.revor.job.faild"]}, "/types/0", "unknown_type", "did you mean ai.revor.job.failed?"),
        ({"types": ["relay.test", "faild"]}, "/types/1", "unknown_type", "did you mean ai.revor.job.failed?"),
        ({"types": []}, "/types", "too_short", "at least 1"),
        ({"type": ["x"]}, "/type", "unknown_field", "did you mean types?"),
        ({"filters": {}}, "/filters", "wrong_type", "list"),
        ({"filters": ["exact"]}, "/filters/0", "wrong_type", "an object such as"),
        ({"filters": [{"exact": {"chanel": "a"}}]}, "/filters/0/exact/chanel", "unknown_attribute", "'channel'"),
        ({"filters": [{"exact": {"channel": "a\0"}}]}, "/filters/0/exact/channel", "invalid_text", "NUL"),
        ({"filters": [{"sufix": {"type": "a"}}]}, "/filters/0/sufix", "unknown_dialect", "'suffix'"),
        ({"filters": [{"not": {"any": []}}]}, "/filters/0/not/any", "too_short", "at least one"),
        ({"filters": [{"cel": "status == 'a'"}]}, "/filters/0/cel", "unknown_dialect", "docs/operate/upgrading.md"),
        (
            {"filters": [{"all": [{"range": {"/data/total": {"gt": "5"}}}]}]},
            "/filters/0/all/0/range/~1data~1total/gt",
            "wrong_type",
            "filters[0].all[0].range./data/total.gt: a number is expected",
        ),
        ({"sinkcredential": {}}, "/sinkcredential/credentialtype", "missing", ""),
        ({"id": "sub_1"}, "/id", "unknown_field", "read-only"),
        ({"protocol": "MQTT"}, "/protocol", "unknown_value", "HTTP, KAFKA, NATS"),
        ({"protocol": "KAFKA"}, "/protocol", "protocol_mismatch", "begin with kafka:// or kafkas://"),
        ({"protocolsettings": {"methd": "PUT"}}, "/protocolsettings/methd", "unknown_field", "did you mean method?"),
        ({"protocolsettings": {"method": "GET"}}, "/protocolsettings/method", "unknown_value", "POST"),
        ({"protocolsettings": {"headers": {"Host": "x"}}}, "/protocolsettings/headers", "invalid_header", "Host"),
        ({"protocolsettings": {"headers": {"X": 5}}}, "/protocolsettings/headers/X", "wrong_type", ""),
        ({"protocolsettings": {"headers": {"X/Y~": "[redacted]"}}}, "/protocolsettings/headers/X~1Y~0", "*", "itself"),
        ({"config": {"knd": "slack"}}, "/config/knd", "unknown_field", "did you mean kind?"),
        ({"config": {"kind": "slak"}}, "/config/kind", "unknown_kind", "did you mean slack?"),
        ({"config": {"content_mode": "binry"}}, "/config/content_mode", "unknown_value", "binary"),
        (
            {"config": {"content_mode": "batch", "batch": {"max_events": 0}}},
            "/config/batch/max_events",
            "out_of_range",
            "",
        ),
        (
            {"config": {"content_mode": "batch", "batch": {"max_events": 1001}}},
            "/config/batch/max_events",
            "out_of_range",
            "",
        ),
        (
            {"config": {"content_mode": "batch", "batch": {"max_seconds": 1e9}}},
            "/config/batch/max_seconds",
            "out_of_range",
            "",
        ),
        (
            {"config": {"content_mode": "batch", "batch": {"seconds": 5}}},
            "/config/batch/seconds",
            "unknown_field",
            "max_seconds",
        ),
        ({"config": {"batch": {}}}, "/config/batch", "batch_unsuitable", "content_mode batch"),
        ({"config": {"colour": "x"}}, "/config/colour", "unknown_field", ""),
        (
            {"config": {"content_mode": "batch", "template": {"a": 1}}},
            "/config/content_mode",
            "content_mode_unsuitable",
            "leave one of them out",
        ),
        ({"config": {"ordering": "strict"}}, "/config/ordering", "unknown_value", "job"),
        ({"config": {"start": "yesterday"}}, "/config/start", "invalid_start", "earliest"),
        ({"config": {"start": "2026-05-20T10:00:00"}}, "/config/start", "invalid_start", ""),
        ({"config": {"timeout_seconds": 61}}, "/config/timeout_seconds", "out_of_range", "60"),
        ({"config": {"timeout_seconds": 0}}, "/config/timeout_seconds", "out_of_range", ""),
        ({"config": {"timeout_seconds": "15"}}, "/config/timeout_seconds", "wrong_type", "'15'"),
        ({"config": {"retry_schedule": ["5 parsecs"]}}, "/config/retry_schedule/0", "invalid_duration", "5s"),
        ({"config": {"retry_schedule": [-1]}}, "/config/retry_schedule/0", "out_of_range", ""),
        ({"config": {"retry_schedule": [True]}}, "/config/retry_schedule/0", "wrong_type", ""),
        ({"config": {"retry_schedule": ["999999d"]}}, "/config/retry_schedule/0", "out_of_range", ""),
        ({"config": {"retry_schedule": [1] * 51}}, "/config/retry_schedule", "too_long", "50"),
        ({"config": {"concurrency": 1.5}}, "/config/concurrency", "wrong_type", ""),
        ({"config": {"concurrency": 0}}, "/config/concurrency", "out_of_range", ""),
        ({"config": {"rate_per_second": 0}}, "/config/rate_per_second", "out_of_range", ""),
        ({"config": {"secret": "whsec_short"}}, "/config/secret", "invalid_secret", ""),
        ({"config": {"secret": 5}}, "/config/secret", "wrong_type", ""),
        ({"config": []}, "/config", "wrong_type", "an object"),
        ({"source": "https://revor.ai/api/v1/outreach/job"}, "/source", "unknown_source", "did you mean https://revor"),
        ({"sink": 5}, "/sink", "wrong_type", ""),
        ({"description": "x" * 1001}, "/description", "too_long", ""),
    ]:
        answer = await client.post("/v1/subscriptions", json={"sink": HOOK, **body})
        assert answer.status_code == 422, answer.text
        error = answer.json()["errors"][0]
        assert error["pointer"] == pointer
        assert code in ("*", error["code"])
        assert words in error["detail"]
        assert (await client.get("/v1/subscriptions")).json()["items"] == []


async def test_a_secret_is_never_in_an_error(client):
    for secret in ("whsec_" + "A" * 20, "hunter2-" * 3, 123456789):
        answer = await client.post("/v1/subscriptions", json={"sink": HOOK, "config": {"secret": secret}})
        assert answer.status_code == 422
        assert str(secret) not in answer.text


async def test_a_sink_that_the_guard_forbids_is_refused(client) -> None:
    for sink in [
        *("http://receiver.example/hooks", "https://127.0.0.1/x", "https://[::1]/x", "https://10.0.0.1/x"),
        *("https://169.254.169.254/latest", "https://localhost/x", "https://user:pw@receiver.example/"),
        *("https://receiver.example:8443/", "ftp://receiver.example/", "https://0x7f000001/", "receiver.example"),
        "https://receiver.example/#x",
    ]:
        for body, path in (({"sink": sink}, "/v1/subscriptions"), ({"id": "a", "callback_url": sink}, "/v1/jobs")):
            answer = await client.post(path, json=body)
            assert (answer.status_code, answer.json()["code"]) == (422, "sink_refused"), answer.text
            assert answer.json()["errors"][0]["pointer"] in ("/sink", "/callback_url")
        assert (await client.get("/v1/jobs")).json()["items"] == []


async def test_put_resets_omitted_fields_to_their_defaults(client):
    made = await create(client, types=["relay.test"], config={"ordering": "none", "concurrency": 3}, description="x")
    path = f"/v1/subscriptions/{made['id']}"
    await client.post(f"{path}/pause")
    answer = await client.put(path, json={"sink": "https://other.example/"})
    shown = answer.json()
    assert answer.status_code == 200
    assert (shown["id"], shown["sink"], shown["types"], shown["description"]) == (
        made["id"],
        "https://other.example/",
        None,
        None,
    )
    assert (shown["config"]["ordering"], shown["config"]["concurrency"], shown["state"]) == ("job", None, "paused")
    assert "secret" not in shown["config"]


async def test_a_start_can_be_put_back_in_any_form_of_the_same_time(client):
    for start in ("2026-05-20T10:00:00Z", "2026-05-20T12:00:00.123456+02:00", "earliest", "now"):
        body = {"sink": HOOK, "config": {"start": start}}
        made = await create(client, **body)
        shown = {"sink": HOOK, "config": {"start": made["config"]["start"]}}
        for again in (body, shown):
            answer = await client.put(f"/v1/subscriptions/{made['id']}", json=again)
            assert (answer.status_code, answer.json()["config"]["start"]) == (200, made["config"]["start"])
    answer = await client.put(f"/v1/subscriptions/{made['id']}", json={"sink": HOOK, "config": {"start": "earliest"}})
    (error,) = answer.json()["errors"]
    assert (answer.status_code, error["pointer"], error["code"]) == (422, "/config/start", "not_replaceable")


async def test_the_answer_of_get_can_be_put_back_without_losing_a_secret(client, world):
    made = await create(client, sink=HOOK + "?token=abc", protocolsettings={"headers": {"Authorization": "Bearer abc"}})
    path = f"/v1/subscriptions/{made['id']}"
    shown = (await client.get(path)).json()
    assert "abc" not in str(shown)
    shown["description"] = "changed"
    skipped = shown["skipped"]
    assert {**(await client.put(path, json=shown)).json(), "skipped": skipped} == shown
    stored = await world.store.subscriptions.get(made["id"])
    assert stored.sink == HOOK + "?token=abc"
    assert dict(stored.headers) == {"Authorization": "Bearer abc"}


@pytest.mark.parametrize(
    ("sink", "kept"),
    [
        ("https://hooks.customer.example/other?x=1", True),
        ("HTTPS://HOOKS.customer.example:443/other", True),
        ("https://hooks.customer.example:8443/hook", False),
        ("http://hooks.customer.example:443/hook", False),
        ("https://evil.example/hook", False),
        ("https://hooks.customer.example.evil.example/hook", False),
    ],
)
async def test_a_stored_header_is_never_sent_to_another_origin(open_client, world, sink, kept):
    client = open_client(guard=OPEN_GUARD)
    headers = {"Authorization": "Bearer abc", "X-Api-Key": "k", "X-Team": "sales"}
    made = await create(client, sink="https://hooks.customer.example/hook", protocolsettings={"headers": headers})
    path = f"/v1/subscriptions/{made['id']}"
    shown = {**made["protocolsettings"]["headers"]}
    answer = await client.put(path, json={"sink": sink, "protocolsettings": {"headers": shown}})
    stored = await world.store.subscriptions.get(made["id"])
    assert dict(stored.headers) == headers
    if kept:
        assert answer.status_code == 200, answer.text
        return
    assert answer.status_code == 422
    assert {(one["pointer"], one["code"]) for one in answer.json()["errors"]} == {
        ("/protocolsettings/headers/Authorization", "redacted"),
        ("/protocolsettings/headers/X-Api-Key", "redacted"),
    }
    assert "send the value again" in answer.json()["errors"][0]["detail"]
    assert stored.sink == "https://hooks.customer.example/hook"
    again = {**shown, "Authorization": "Bearer new", "X-Api-Key": "new"}
    answer = await client.put(path, json={"sink": sink, "protocolsettings": {"headers": again}})
    assert answer.status_code == 200, answer.text


async def test_pause_and_resume_also_after_disabling(client, world):
    made = await create(client)
    path = f"/v1/subscriptions/{made['id']}"
    assert (await client.post(f"{path}/pause")).json()["state"] == "paused"
    assert (await client.post(f"{path}/pause")).json()["state"] == "paused"
    assert (await client.post(f"{path}/resume")).json()["state"] == "enabled"
    await world.store.subscriptions.set_state(made["id"], "disabled", world.now, "410 Gone")
    refused = await client.post(f"{path}/pause")
    assert (refused.status_code, refused.json()["code"]) == (409, "subscription_disabled")
    assert (await client.get(path)).json()["disabled_reason"] == "410 Gone"
    resumed = (await client.post(f"{path}/resume")).json()
    assert (resumed["state"], resumed["disabled_reason"]) == ("enabled", None)


async def test_a_test_sends_a_sample_whatever_the_state(client, world):
    made = await create(client)
    path = f"/v1/subscriptions/{made['id']}"
    await client.post(f"{path}/pause")
    answer = await client.post(f"{path}/test", json={"type": "ai.revor.job.failed"})
    result = answer.json()
    assert answer.status_code == 200
    assert (result["delivered"], result["verdict"], result["reason"]) == (True, "delivered", "200 OK")
    assert result["event"]["type"] == "ai.revor.job.failed"
    assert result["attempt"]["request_headers"]["authorization"] == "[redacted]"
    assert result["attempt"]["response_headers"] == {"set-cookie": "[redacted]", "server": "nginx"}
    assert (await client.post(f"{path}/test")).json()["event"]["type"] == "relay.test"
    assert [event.type for _, event in world.dispatcher.tested] == ["ai.revor.job.failed", "relay.test"]
    assert (await client.get("/v1/events")).json()["items"] == []
    unknown = await client.post(f"{path}/test", json={"type": "job.faild"})
    assert "did you mean ai.revor.job.failed?" in unknown.json()["detail"]
    assert (await client.post(f"{path}/test", json={"type": ""})).status_code == 422


async def test_rotation_returns_the_new_secret_and_keeps_the_old_one_for_a_while(client, world):
    made = await create(client, config={"secret": SECRET})
    path = f"/v1/subscriptions/{made['id']}"
    answer = (await client.post(f"{path}/rotate-secret")).json()
    assert answer["old_secret_expires_at"] == "2027-01-16T08:00:00.000Z"
    stored = (await world.store.subscriptions.get(made["id"])).secrets
    assert {secret.value: secret.expires_at for secret in stored} == {
        answer["secret"]: None,
        SECRET: world.now + 86_400,
    }
    assert answer["secret"] not in (await client.get(path)).text
    for overlap in (-1, 2_592_001, "1d"):
        assert (await client.post(f"{path}/rotate-secret", json={"overlap_seconds": overlap})).status_code == 422


async def test_a_callbacks_subscription_can_be_paused_and_deleted_but_not_changed(client, world):
    await world.job("a", callback_url=HOOK)
    shown = (await client.get("/v1/subscriptions?callbacks=true")).json()["items"][0]
    path = f"/v1/subscriptions/{shown['id']}"
    for method, tail in (("PUT", ""), ("POST", "/rotate-secret")):
        answer = await client.request(method, path + tail, json={"sink": HOOK} if method == "PUT" else {})
        assert (answer.status_code, answer.json()["code"]) == (409, "callback_subscription")
    assert (await client.post(f"{path}/pause")).json()["state"] == "paused"
    assert (await client.post(f"{path}/test")).status_code == 200
    assert (await client.delete(path)).status_code == 200


async def test_reuse_returns_the_existing_subscription_of_a_sink(client):
    sink = "https://hooks.slack.com/services/T0/B0/one"
    first = await create(client, sink=sink)
    body = {"sink": "HTTPS://HOOKS.SLACK.COM/services/T0/B0/one", "types": ["ai.revor.job.succeeded"]}

    again = await client.post("/v1/subscriptions?reuse=true", json=body)
    other = await client.post("/v1/subscriptions?reuse=true", json={"sink": sink.replace("one", "two")})
    plain = await client.post("/v1/subscriptions", json={"sink": sink})

    assert (again.status_code, other.status_code, plain.status_code) == (200, 201, 201)
    shown = again.json()
    assert (shown["id"], shown["types"]) == (first["id"], first["types"])
    assert "secret" not in shown["config"]
    assert len((await client.get("/v1/subscriptions")).json()["items"]) == 3


async def test_a_bot_of_slack_has_a_channel_and_a_token_that_is_never_shown(client):
    sink, token = "https://slack.com/api/chat.postMessage", "xoxb-12345-of-the-tests"
    given = {"sinkcredential": {"credentialtype": "ACCESSTOKEN", "accesstoken": token}}
    made = await create(client, sink=sink, config={"channel": "C0123456789"}, **given)
    assert (made["config"]["kind"], made["config"]["channel"], made["sink"]) == ("slack", "C0123456789", sink)
    path = f"/v1/subscriptions/{made['id']}"
    shown = (await client.get(path)).json()
    assert token not in str(shown)
    assert (await client.put(path, json=shown)).json()["config"] == shown["config"]

    body = {"sink": sink, "config": {"channel": "C0123456789"}, **given}
    again = await client.post("/v1/subscriptions?reuse=true", json=body)
    assert (again.status_code, again.json()["id"]) == (200, made["id"])
    other = await client.post("/v1/subscriptions?reuse=true", json={**body, "config": {"channel": "sales"}})
    assert other.status_code == 201, "one bot posts to several channels"

    refused = await client.post("/v1/subscriptions", json={"sink": sink})
    errors = [(error["pointer"], error["code"]) for error in refused.json()["errors"]]
    assert (refused.status_code, errors) == (422, [("/sinkcredential", "missing"), ("/config/channel", "missing")])


@pytest.mark.parametrize(
    ("sink", "config", "said"),
    [
        (HOOK, {"channel": "C1"}, "kind webhook has no channel: slack has it"),
        (HOOK, {"digest_seconds": 5}, "kind webhook has no digest_seconds: slack, teams and discord have it"),
        (SLACK, {"record": "note"}, "kind slack has no record: hubspot and pipedrive have it"),
        (SLACK, {"recrod": "note"}, "there is no field 'recrod'"),
        (SLACK, {"chanel": "C1"}, "there is no field 'chanel': did you mean channel?"),
        (HOOK, {"batch": {"max_event": 1}}, "there is no field 'max_event': did you mean max_events?"),
    ],
)
async def test_a_field_of_another_kind_is_refused_with_the_kinds_that_have_it(client, sink, config, said):
    refused = await client.post("/v1/subscriptions", json={"sink": sink, "config": config})
    [error] = refused.json()["errors"]
    assert refused.status_code == 422
    assert error["detail"].startswith(said)


@pytest.mark.parametrize("record", [[], ["note"] * 4, "", "mail", 5, ["note", 5], {"note": 1}], ids=str)
async def test_a_record_is_a_word_or_a_few(client, record):
    refused = await client.post(
        "/v1/subscriptions", json={"sink": "https://api.hubapi.com", "config": {"record": record}}
    )
    [error] = refused.json()["errors"]
    assert (refused.status_code, error["pointer"], error["code"]) == (422, "/config/record", "invalid")


async def test_what_is_shown_of_a_kind_can_be_sent_back_for_another_one(client):
    made = await create(client, sink=SLACK)
    assert "time_zone" in made["config"]
    assert "content_mode" not in made["config"]
    config = {**made["config"], "kind": "webhook", "incidents": "off"}
    del config["secret"]
    changed = await client.put(f"/v1/subscriptions/{made['id']}", json={"sink": HOOK, "config": config})
    assert changed.status_code == 200, changed.text
    assert "time_zone" not in changed.json()["config"]


async def test_the_usual_types_in_another_order_are_the_usual_ones(client):
    made = await create(client, sink=SLACK)
    body = {"sink": SLACK, "types": made["types"][::-1], "config": {"incidents": "off"}}
    changed = (await client.put(f"/v1/subscriptions/{made['id']}", json=body)).json()
    assert set(made["types"]) - set(changed["types"]) == set(INCIDENT_EVENTS)


async def test_a_slack_subscription_refuses_a_wrong_option(client) -> None:
    for config, code in [
        ({"time_zone": "europe/paris"}, "invalid_time_zone"),
        ({"time_zone": "../../etc/passwd"}, "invalid_time_zone"),
        ({"time_zone": "Europe"}, "invalid_time_zone"),
        ({"time_zone": "localtime"}, "invalid_time_zone"),
        ({"time_zone": ""}, None),
        ({"time_zone": "x" * 101}, None),
        ({"time_zone": 2}, None),
        ({"digest_seconds": 0}, None),
        ({"digest_seconds": 1_801}, None),
        ({"digest_seconds": 2.5}, None),
        ({"digest_seconds": True}, None),
        ({"messages_per_minute": 0}, None),
        ({"messages_per_minute": 61}, None),
        ({"messages_per_minute": "20"}, None),
    ]:
        refused = await client.post(
            "/v1/subscriptions", json={"sink": "https://hooks.slack.com/services/T0/B0/one", "config": config}
        )
        (error,) = refused.json()["errors"]
        ((name, value),) = config.items()
        assert (refused.status_code, error["pointer"]) == (422, f"/config/{name}")
        if code is not None:
            assert error["code"] == code
        if value == "europe/paris":
            assert "did you mean Europe/Paris?" in error["detail"]


async def test_a_webhook_keeps_its_template_until_it_is_replaced(client, world):
    template = {
        "properties": {"deal": "{{ metadata.deal }}", "n": [1, None, True, 2**70]},
        "a/b": "{% if x %}{% endif %}",
    }
    made = await create(client, config={"template": template, "strict": True})
    assert (made["config"]["template"], made["config"]["strict"]) == (template, True)
    assert (await world.store.subscriptions.get(made["id"])).options == {"template": template, "strict": True}
    path = f"/v1/subscriptions/{made['id']}"
    shown = (await client.get(path)).json()
    kept = await client.put(path, json=shown)
    assert kept.json()["config"] == shown["config"]
    reset = await client.put(path, json={"sink": HOOK, "config": {"strict": False}})
    assert (reset.json()["config"]["template"], reset.json()["config"]["strict"]) == (None, False)


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("rl_admin", "https://receiver.example/in/secret-path?…"),
        ("rl_subs", "https://receiver.example/in/secret-path?…"),
        ("rl_read", "https://receiver.example/…"),
    ],
)
async def test_path_of_a_sink_is_shown_to_those_who_may_set_it(open_client, world, token, shown):
    client = open_client(tokens=TOKENS, dev=False)
    admin, caller = ({"Authorization": f"Bearer {value}"} for value in ("rl_admin", token))
    sink = "https://receiver.example/in/secret-path?key=secret-key"
    made = (await client.post("/v1/subscriptions", json={"sink": sink}, headers=admin)).json()
    assert made["sink"] == "https://receiver.example/in/secret-path?…"
    await world.poll(await world.job("a"), "queued")
    for path in (f"/v1/subscriptions/{made['id']}", "/v1/subscriptions"):
        answer = (await client.get(path, headers=caller)).json()
        assert answer.get("items", [answer])[0]["sink"] == shown
    if token == "rl_subs":
        return
    for path in ("/v1/deliveries", "/v1/deliveries?group_by=sink"):
        answer = await client.get(path, headers=caller)
        assert answer.json()["items"][0]["sink"] == shown
        assert "secret-key" not in answer.text


async def test_sink_as_a_reader_sees_it_keeps_the_stored_one_and_is_no_sink_of_its_own(client, world):
    sink = "https://receiver.example/in/secret-path?key=secret-key"
    made = await create(client, sink=sink)
    for shown in (made["sink"], "https://receiver.example/…"):
        answer = await client.put(f"/v1/subscriptions/{made['id']}", json={"sink": shown})
        assert answer.status_code == 200
        assert (await world.store.subscriptions.get(made["id"])).sink == sink
    elsewhere = {"sink": "https://other.example/…"}
    for answer in (
        await client.put(f"/v1/subscriptions/{made['id']}", json=elsewhere),
        await client.post("/v1/subscriptions", json=elsewhere),
        await client.post("/v1/subscriptions", json={"sink": made["sink"]}),
    ):
        assert answer.status_code == 422
        assert [(one["pointer"], one["code"]) for one in answer.json()["errors"]] == [("/sink", "redacted")]


async def test_a_subscription_whose_filters_cannot_be_read_is_corrected_and_then_resumed(client, world):
    made = (await client.post("/v1/subscriptions", json={"sink": HOOK})).json()
    path = f"/v1/subscriptions/{made['id']}"
    stored = await world.store.subscriptions.get(made["id"])
    old = ({"cel": "data.metadata.deal > 40"},)
    await world.store.subscriptions.replace(replace(stored, filters=old), world.now)  # as an older version does
    await world.store.subscriptions.hold_unreadable(await world.store.subscriptions.all(), world.now)
    shown = (await client.get(path)).json()
    assert (shown["state"], shown["filters"]) == ("paused", list(old))
    assert "its filters cannot be read: filters[0].cel: expressions in CEL are gone" in shown["state_reason"]
    refused = await client.post(f"{path}/resume")
    assert (refused.status_code, refused.json()["code"]) == (409, "filters_unreadable")
    assert "docs/operate/upgrading.md" in refused.json()["detail"]
    preview = (await client.post("/v1/subscriptions/preview", json={"subscription": made["id"]})).json()
    assert (preview["matches"], "cannot be read" in preview["why"]) == (False, True)
    again = await client.put(path, json=shown)
    assert (again.status_code, again.json()["errors"][0]["pointer"]) == (422, "/filters/0/cel")
    body = {"sink": HOOK, "filters": [{"range": {"/data/metadata/deal": {"gt": 40}}}]}
    assert (await client.put(path, json=body)).json()["state"] == "paused"
    assert (await client.post(f"{path}/resume")).json()["state"] == "enabled"


async def test_a_subscription_whose_template_cannot_be_read_is_corrected_and_then_resumed(client, world):
    made = (await client.post("/v1/subscriptions", json={"sink": HOOK})).json()
    path = f"/v1/subscriptions/{made['id']}"
    stored = await world.store.subscriptions.get(made["id"])
    old = {"template": "{% for tag in metadata.tags %}{{ tag }}{% endfor %}"}
    await world.store.subscriptions.replace(replace(stored, options=old), world.now)  # as an older version does
    why = "this version cannot read the template: /config/template: there is no tag 'for'"
    await world.store.subscriptions.set_state(made["id"], "disabled", world.now, why)
    refused = await client.post(f"{path}/resume")
    assert (refused.status_code, refused.json()["code"]) == (409, "template_unreadable")
    assert "its template cannot be read: /config/template: there is no tag 'for'" in refused.json()["detail"]
    assert (await client.get(path)).json()["state"] == "disabled"
    body = {"sink": HOOK, "config": {"template": "{{ metadata.tags | join: ' ' }}"}}
    assert (await client.put(path, json=body)).status_code == 200
    assert (await client.post(f"{path}/resume")).json()["state"] == "enabled"


async def test_sink_whose_host_does_not_resolve_is_a_warning(client):
    answer = await client.post("/v1/subscriptions", json={"sink": "https://hooks.typo.invalid/secret-path"})
    assert answer.status_code == 201
    (warning,) = answer.json()["warnings"]
    assert warning.startswith("the host hooks.typo.invalid of sink does not resolve (Name or service not known)")
    assert "secret-path" not in warning
    path = answer.headers["location"]
    body = (await client.get(path)).json()
    assert "warnings" not in body
    body["sink"] = "https://hooks.other.invalid/x"
    changed = await client.put(path, json=body)
    assert "hooks.other.invalid" in changed.json()["warnings"][0]
    assert "warnings" not in (await client.put(path, json=body)).json(), "the sink is the same"
