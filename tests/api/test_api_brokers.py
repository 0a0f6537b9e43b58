"""Subscriptions of protocols other than HTTP: what they may say, what is tried before they are stored, and secrets."""

from typing import Any

import pytest

from relay.core.deliveries.broker import Login, Published
from tests.support.api_world import TOKENS
from tests.support.store_kit import rows

KAFKA = {"sink": "kafkas://a.example:9093,b.example", "protocolsettings": {"topicname": "jobs"}}
NATS = {"sink": "tls://nats.example", "protocolsettings": {"subject": "jobs.{{ event.status }}"}}
AMQP = {"sink": "amqps://rabbit.example/sales", "protocolsettings": {"address": "/exchanges/jobs/{{ event.channel }}"}}
PULL = {"protocol": "PULL"}
EACH = pytest.mark.parametrize("body", [KAFKA, NATS, AMQP, PULL], ids=["KAFKA", "NATS", "AMQP", "PULL"])
PLAIN = {"credentialtype": "PLAIN", "identifier": "relay", "secret": "s3cr3t-of-the-broker"}
SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
PROTOCOL_OF = {"kafka": "KAFKA", "nats": "NATS", "rabbitmq": "AMQP", "pull": "PULL"}


async def created(client: Any, body: Any, **more: Any) -> Any:
    answer = await client.post("/v1/subscriptions", json={**body, **more})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def errors_of(client: Any, body: Any) -> list[tuple[str, str]]:
    answer = await client.post("/v1/subscriptions", json=body)
    assert answer.status_code == 422, answer.text
    assert (await client.get("/v1/subscriptions")).json()["items"] == []
    return [(error["pointer"], error["code"]) for error in answer.json()["errors"]]


@EACH
async def test_what_is_created_is_shown_and_may_be_sent_back(client, world, body):
    made = await created(client, body, description="mine")
    path = f"/v1/subscriptions/{made['id']}"
    shown = (await client.get(path)).json()
    assert shown["sink"] == body.get("sink")
    assert shown["protocolsettings"] == body.get("protocolsettings", {})
    assert shown["protocol"] == PROTOCOL_OF[shown["config"]["kind"]]
    before = await world.store.subscriptions.get(made["id"])
    answer = await client.put(path, json=shown)
    assert answer.status_code == 200, answer.text
    assert await world.store.subscriptions.get(made["id"]) == before
    assert answer.json()["protocolsettings"] == shown["protocolsettings"]
    changed = {**shown, "description": "yours"}
    assert (await client.put(path, json=changed)).json()["description"] == "yours"


@EACH
async def test_reader_sees_addresses_and_no_virtual_host(client, open_client, body):
    await created(client, body)
    answer = await open_client(tokens=TOKENS).get("/v1/subscriptions", headers={"Authorization": "Bearer rl_read"})
    [shown] = answer.json()["items"]
    expected = body.get("sink")
    assert shown["sink"] == (None if expected is None else f"{expected.removesuffix('/sales')}/…")


async def test_what_cannot_be_right_is_refused_at_its_place(client) -> None:
    for body, pointer, code in [
        ({**KAFKA, "protocol": "NATS"}, "/protocol", "protocol_mismatch"),
        ({**KAFKA, "protocol": "HTTP"}, "/protocol", "protocol_mismatch"),
        ({**KAFKA, "config": {"kind": "nats"}}, "/config/kind", "protocol_mismatch"),
        ({**KAFKA, "config": {"kind": "webhook"}}, "/config/kind", "protocol_mismatch"),
        ({"sink": "https://x.example", "config": {"kind": "kafka"}}, "/config/kind", "protocol_mismatch"),
        ({"sink": "https://x.example", "protocol": "AMQP"}, "/protocol", "protocol_mismatch"),
        ({"protocol": "KAFKA", "protocolsettings": {"topicname": "jobs"}}, "/sink", "required"),
        ({}, "/sink", "required"),
        ({"sink": None}, "/sink", "required"),
        ({"sink": "https://x.example", "protocol": "PULL"}, "/sink", "sink_unsuitable"),
        ({"sink": "https://x.example", "config": {"kind": "pull"}}, "/sink", "sink_unsuitable"),
        ({**PULL, "config": {"kind": "webhook"}}, "/config/kind", "protocol_mismatch"),
        ({**PULL, "sinkcredential": PLAIN}, "/sinkcredential", "credential_unsuitable"),
        ({**PULL, "config": {"handshake": "required"}}, "/config/handshake", "handshake_unsuitable"),
        ({**PULL, "config": {"incidents": "both"}}, "/config/incidents", "incidents_unsuitable"),
        ({**PULL, "config": {"template": {"a": 1}}}, "/config/template", "unknown_option"),
        ({**PULL, "protocolsettings": {"subject": "a"}}, "/protocolsettings/subject", "unknown_field"),
        (
            {"sink": "https://x.example", "protocolsettings": {"topicname": "a"}},
            "/protocolsettings/topicname",
            "unknown_field",
        ),
        ({**KAFKA, "protocolsettings": {}}, "/protocolsettings/topicname", "missing"),
        ({"sink": KAFKA["sink"]}, "/protocolsettings/topicname", "missing"),
        (
            {**KAFKA, "protocolsettings": {"topicname": "jobs", "subject": "a"}},
            "/protocolsettings/subject",
            "unknown_field",
        ),
        (
            {**KAFKA, "protocolsettings": {"topicname": "jobs", "headers": {"A": "b"}}},
            "/protocolsettings",
            "unknown_field",
        ),
        *(
            ({**KAFKA, "protocolsettings": {"topicname": topic}}, "/protocolsettings/topicname", "invalid")
            for topic in ("..", ".", "a b", "a/b", "jobs\r\nx", "ä", "x" * 250)
        ),
        ({**KAFKA, "protocolsettings": {"topicname": "{% endif %"}}, "/protocolsettings/topicname", "invalid_template"),
        ({**KAFKA, "protocolsettings": {"topicname": ""}}, "/protocolsettings/topicname", "too_short"),
        ({**KAFKA, "protocolsettings": {"topicname": "x" * 1001}}, "/protocolsettings/topicname", "too_long"),
        ({**KAFKA, "protocolsettings": {"topicname": "j", "clientid": "a b"}}, "/protocolsettings/clientid", "invalid"),
        (
            {**KAFKA, "protocolsettings": {"topicname": "j", "clientid": "{{ event.id }}"}},
            "/protocolsettings/clientid",
            "invalid",
        ),
        ({**KAFKA, "protocolsettings": {"topicname": "j", "ackmode": 0}}, "/protocolsettings/ackmode", "unknown_value"),
        ({**KAFKA, "protocolsettings": {"topicname": "j", "ackmode": 1}}, "/protocolsettings/ackmode", "unknown_value"),
        ({**KAFKA, "protocolsettings": {"topicname": "j", "acks": "0"}}, "/protocolsettings/acks", "unknown_field"),
        (
            {**KAFKA, "protocolsettings": {"topicname": "j", "saslmechanism": "GSSAPI"}},
            "/protocolsettings/saslmechanism",
            "unknown_value",
        ),
        *(
            ({**NATS, "protocolsettings": {"subject": subject}}, "/protocolsettings/subject", "invalid")
            for subject in ("jobs.*", "jobs.>", ">", "a..b", ".a", "a.", "a b", "$JS.API.x", "a\nb", "x" * 501)
        ),
        *(
            ({**AMQP, "protocolsettings": {"address": address}}, "/protocolsettings/address", "invalid")
            for address in ("jobs", "/queues/", "/queues/a/b", "/exchanges//x", "/queues/a%00b", "/queues/" + "x" * 256)
        ),
        (
            {**AMQP, "protocolsettings": {"address": "/queues/a", "sendersettlementmode": "settled"}},
            "/protocolsettings/sendersettlementmode",
            "unknown_value",
        ),
        ({**KAFKA, "config": {"content_mode": "batch"}}, "/config/content_mode", "unknown_value"),
        ({**KAFKA, "config": {"template": {"a": 1}}}, "/config/template", "unknown_option"),
        ({**KAFKA, "config": {"handshake": "required"}}, "/config/handshake", "handshake_unsuitable"),
        ({**KAFKA, "config": {"incidents": "both"}}, "/config/incidents", "incidents_unsuitable"),
        (
            {**KAFKA, "sinkcredential": {"credentialtype": "NKEY", "seed": SEED}},
            "/sinkcredential/credentialtype",
            "credential_unsuitable",
        ),
        (
            {
                **NATS,
                "sinkcredential": {
                    "credentialtype": "ACCESSTOKEN",
                    "accesstoken": "token-of-nats",
                    "accesstokenexpiresutc": "2099-01-01T00:00:00Z",
                },
            },
            "/sinkcredential/accesstokenexpiresutc",
            "credential_unsuitable",
        ),
        (
            {**NATS, "sinkcredential": {"credentialtype": "NKEY", "seed": SEED[:-1] + "A"}},
            "/sinkcredential/seed",
            "invalid_credential",
        ),
        (
            {**NATS, "sinkcredential": {"credentialtype": "NKEY", "seed": "SU" + "ä" * 56}},
            "/sinkcredential/seed",
            "invalid_credential",
        ),
        (
            {"sink": "https://x.example", "sinkcredential": {"credentialtype": "NKEY", "seed": SEED}},
            "/sinkcredential/credentialtype",
            "credential_unsuitable",
        ),
    ]:
        assert (pointer, code) in await errors_of(client, body)


@pytest.mark.parametrize(
    ("body", "credential", "login"),
    [
        (KAFKA, PLAIN, Login(name="relay", secret=PLAIN["secret"])),
        (
            KAFKA,
            {"credentialtype": "ACCESSTOKEN", "accesstoken": "token-of-kafka"},
            Login(secret="token-of-kafka", mechanism="OAUTHBEARER"),
        ),
        (NATS, {"credentialtype": "NKEY", "seed": SEED}, Login(secret=SEED, mechanism="NKEY")),
        (AMQP, PLAIN, Login(name="relay", secret=PLAIN["secret"])),
    ],
)
async def test_credential_is_kept_hidden_and_bound_to_its_broker(client, world, body, credential, login):
    made = await created(client, body, sinkcredential=credential)
    secret, path = login.secret, f"/v1/subscriptions/{made['id']}"
    [(broker, _)] = world.dialled
    assert broker.login == login
    assert secret not in str(await rows(world.store, "SELECT * FROM subscriptions"))
    audit = (await client.get("/v1/audit")).text
    assert "subscriptions.create" in audit
    for shown in (str(made), (await client.get(path)).text, (await client.get("/v1/subscriptions")).text, audit):
        assert secret not in shown
    again = (await client.get(path)).json()
    assert (await client.put(path, json={**again, "description": "x"})).status_code == 200
    stored = await world.store.subscriptions.get(made["id"])
    assert secret in stored.credential.fields.values()
    elsewhere = {**again, "sink": again["sink"].replace(".example", ".evil")}
    answer = await client.put(path, json=elsewhere)
    assert [error["code"] for error in answer.json()["errors"]] == ["credential_bound"]
    one_more = {**again, "sink": again["sink"].replace("example", "example,c.evil", 1)}
    answer = await client.put(path, json=one_more)
    assert [error["code"] for error in answer.json()["errors"]] == ["credential_bound"]


@pytest.mark.parametrize(
    ("error", "status", "code", "pointer"),
    [
        ("connect", 502, "sink_unreachable", "/sink"),
        ("timeout", 502, "sink_unreachable", "/sink"),
        ("tls", 502, "sink_unreachable", "/sink"),
        ("credential", 422, "credential_refused", "/sinkcredential"),
        ("denied", 422, "permission_missing", "/sinkcredential"),
        ("refused", 422, "sink_refused", "/sink"),
        ("extra_missing", 422, "extra_missing", "/sink"),
        ("unknown_topic", 422, "sink_incomplete", "/protocolsettings/topicname"),
    ],
)
async def test_broker_that_cannot_be_published_to_is_not_stored_unless_unchecked(
    client, world, error, status, code, pointer
):
    world.broker_says = Published(error=error, detail="because")
    refused = await client.post("/v1/subscriptions", json=KAFKA)
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert [(one["pointer"], one["detail"][:7]) for one in refused.json()["errors"]] == [(pointer, "because")]
    assert (await client.get("/v1/subscriptions")).json()["items"] == []
    assert (await client.post("/v1/subscriptions?check=false", json=KAFKA)).status_code == 201
    assert len(world.dialled) == 1
