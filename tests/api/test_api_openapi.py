import re

import pytest
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter

from relay.api.app import create_api
from relay.api.catalogue import OPERATIONS
from relay.api.http.fields import EVENT_ID
from relay.api.http.operations import routes_of
from relay.api.openapi import EXAMPLES
from relay.core.events.event import BATCH_CONTENT_TYPE, CONTENT_TYPE
from relay.core.figures import TimeSeries, rows_of
from relay.core.records import Intent
from relay.core.samples import sample_event
from relay.core.subscriptions.filters import known_types
from relay.core.subscriptions.signing import new_signing_key
from relay.store.subscriptions.secrets import SIGNING_OWNER
from tests.support.api_conformity import DOCUMENT, pointer_to, validator, with_tokens
from tests.support.api_world import HOOK, ORIGIN
from tests.support.store_kit import claim, list_accounts, result_of

DOCUMENTED = {
    (method.upper(), path): operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}


async def a_job(world, client):
    await world.poll(await world.job("a"), "queued")
    return "a"


async def a_group(world, client):
    await client.post("/v1/jobs", json={"id": "a", "group": "q4"})
    return "q4"


async def an_incident(world, client):
    await world.fail("a")
    return (await client.get("/v1/incidents")).json()["items"][0]["id"]


async def figures(world, client):
    tally = TimeSeries()
    tally.add("attempt_seconds", "", world.now, 0.2)
    await world.store.figures.add(rows_of(tally.take(100)))
    return ""


async def a_subscription(world, client):
    return (await client.post("/v1/subscriptions", json={"sink": HOOK})).json()["id"]


async def a_delivery(world, client):
    await a_subscription(world, client)
    await a_job(world, client)
    return (await client.get("/v1/deliveries")).json()["items"][0]["id"]


async def an_intent(world, client):
    intent = Intent(
        id="int_1", source="revor", account="default", path="/x", body_digest="0" * 64, created_at=world.now
    )
    await world.store.intents.begin(intent)
    await world.store.intents.unknown(intent.id, "no_answer")
    return intent.id


async def a_connect_account(world, client):
    await list_accounts(world.store, ("revor", "default"), "acc_1", now=world.now)
    return ""


async def a_replay(world, client):
    await a_dead_delivery(world, client)
    filter = {"filter": {"since": "2020-01-01T00:00:00Z"}}
    return (await client.post("/v1/deliveries/retry", json=filter)).json()["replay_id"]


async def a_dead_delivery(world, client):
    id = await a_subscription(world, client)
    await a_job(world, client)
    world.now += 1
    (one,) = await claim(world.store, id, now=world.now)
    await world.store.deliveries.record(result_of(one, "dead", now=world.now, reason="http_500"))
    return id


async def an_uncertain_delivery(world, client):
    id = await a_subscription(world, client)
    await a_job(world, client)
    world.now += 1
    (one,) = await claim(world.store, id, now=world.now)
    await world.store.deliveries.record(result_of(one, "uncertain", now=world.now, reason="not_found_in_time"))
    return one.id


async def an_event(world, client):
    return (await world.poll(await world.job("a"), "queued"))[0].id


async def a_token(world, client):
    body = {"name": "crm", "scopes": ["read"], "networks": ["203.0.113.0/24"], "requests_per_minute": 5}
    return (await client.post("/v1/tokens", json=body)).json()["id"]


async def a_signing_key(world, client):
    await world.store.secrets.ensure_secret(SIGNING_OWNER, new_signing_key(bytes(32)), world.now)
    return ""


async def a_schema(world, client):
    return "job-status.v1"


async def a_pulled_subscription(world, client):
    await a_job(world, client)
    return (await client.post("/v1/subscriptions", json={"protocol": "PULL", "config": {"start": "earliest"}})).json()[
        "id"
    ]


CALLS = {
    "pullDeliveries": (a_pulled_subscription, {"max": 10}, 200),
    "ackDeliveries": (a_pulled_subscription, {"ids": ["dlv_x"]}, 200),
    "nackDeliveries": (a_pulled_subscription, {"ids": ["dlv_x"], "delay_seconds": 1}, 200),
    "registerJob": (None, {"id": "new"}, 201),
    "registerJobs": (None, {"jobs": [{"id": "new"}, {}]}, 200),
    "listJobs": (a_job, None, 200),
    "changeJobs": (a_job, {"action": "refresh", "ids": ["a", "b"]}, 200),
    "getJob": (a_job, None, 200),
    "untrackJob": (a_job, None, 200),
    "refreshJob": (a_job, None, 202),
    "explainJob": (a_job, None, 200),
    "listJobEvents": (a_job, None, 200),
    "applySubscriptions": (
        None,
        {"subscriptions": [{"id": "crm", "sink": HOOK, "config": {"secret": "whsec_" + "A" * 32}}]},
        200,
    ),
    "previewSubscription": (None, {"subscription": {"sink": HOOK}}, 200),
    "createSubscription": (None, {"sink": HOOK}, 201),
    "listSubscriptions": (a_subscription, None, 200),
    "getSubscription": (a_subscription, None, 200),
    "replaceSubscription": (a_subscription, {"sink": HOOK}, 200),
    "deleteSubscription": (a_subscription, None, 200),
    "testSubscription": (a_subscription, {"type": "ai.revor.job.failed"}, 200),
    "pauseSubscription": (a_subscription, None, 200),
    "resumeSubscription": (a_subscription, None, 200),
    "rotateSecret": (a_subscription, {}, 200),
    "getSigningSecret": (None, None, 200),
    "publishEvents": (None, EXAMPLES["PublishedCloudEvent"], 202),
    "listEvents": (an_event, None, 200),
    "streamEvents": (None, None, 200),
    "getEvent": (an_event, None, 200),
    "listDeliveries": (a_delivery, None, 200),
    "getDelivery": (a_delivery, None, 200),
    "getDeliveryRequest": (a_delivery, None, 200),
    "retryDelivery": (a_delivery, None, 202),
    "settleDelivery": (an_uncertain_delivery, {"fate": "sent"}, 200),
    "replaySubscription": (a_dead_delivery, {"since": "2020-01-01T00:00:00Z", "types": ["ai.revor.job.queued"]}, 202),
    "retryDeliveries": (None, {"filter": {}}, 202),
    "listReplays": (a_replay, None, 200),
    "getReplay": (a_replay, None, 200),
    "stopReplay": (a_replay, None, 200),
    "listGroups": (a_group, None, 200),
    "getGroup": (a_group, None, 200),
    "getGroupEnds": (a_group, None, 200),
    "closeGroup": (a_group, {"expected": 3}, 200),
    "listIncidents": (an_incident, None, 200),
    "getIncident": (an_incident, None, 200),
    "listIncidentJobs": (an_incident, None, 200),
    "listFigures": (figures, None, 200),
    "listIntents": (an_intent, None, 200),
    "listConnectAccounts": (a_connect_account, None, 200),
    "dismissIntent": (an_intent, None, 200),
    "showRecipient": (an_intent, None, 409),
    "resolveIntent": (an_intent, {"fate": "not_sent"}, 200),
    "createSession": (None, {}, 201),
    "createToken": (None, {"name": "crm", "scopes": ["read"], "expires_at": "2100-01-01T00:00:00Z"}, 201),
    "listTokens": (a_token, None, 200),
    "getToken": (a_token, None, 200),
    "revokeToken": (a_token, None, 200),
    "getPublicKeys": (a_signing_key, None, 200),
    "getKeys": (a_signing_key, None, 200),
    "rotateEncryptionKey": (None, None, 200),
    "rotateSigningKey": (None, {}, 200),
    "rotateCallbackSecret": (None, {}, 200),
    "listAudit": (None, None, 200),
    "verifyAudit": (None, None, 200),
    "listSources": (None, None, 200),
    "eraseData": (a_job, {"job": "a"}, 200),
    "listSettings": (None, None, 200),
    "getMetrics": (None, None, 200),
    "getLiveness": (None, None, 200),
    "getReadiness": (None, None, 200),
    "getOpenApi": (None, None, 200),
    "getAsyncApi": (None, None, 200),
    "getSchema": (a_schema, None, 200),
}


@pytest.mark.parametrize(("key", "operation"), DOCUMENTED.items(), ids=lambda value: str(value)[:60])
async def test_every_documented_operation_answers_as_documented(client, world, key, operation):
    method, path = key
    prepare, body, status = CALLS[operation["operationId"]]
    id = "" if prepare is None else await prepare(world, client)
    (media_type, *_) = operation.get("requestBody", {}).get("content", {"application/json": {}})
    headers = {} if body is None else {"Content-Type": media_type}
    answer = await client.request(
        method, re.sub(r"\{\w+\}", id, path), json=body, headers=headers
    )  # the client checks the body
    assert answer.status_code == status, answer.text


def test_every_operation_has_a_call_and_an_id_of_its_own():
    ids = [operation["operationId"] for operation in DOCUMENTED.values()]
    assert sorted(ids) == sorted(CALLS)


def test_every_route_is_documented_and_every_documented_path_has_a_route(world):
    api = create_api(world.dependencies(), world.proxy)
    assert [route.path for route in routes_of(api.context, OPERATIONS)] == list(DOCUMENT["paths"])
    assert set(DOCUMENTED) == {(operation.method, operation.path) for operation in OPERATIONS}


def test_the_description_is_valid_openapi():
    schemathesis = pytest.importorskip("schemathesis")
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    schema.validate()
    for component in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(component)


def test_what_the_relay_sends_to_sinks_is_described():
    """OpenAPI 3.1 §4.8.1: `webhooks`."""
    (webhook,) = DOCUMENT["webhooks"].values()
    content = webhook["post"]["requestBody"]["content"]
    place = pointer_to("webhooks", "event", "post", "requestBody", "content")
    for type in known_types([ORIGIN]):
        event = sample_event(type, event_id=EVENT_ID, now=1.0, origin=ORIGIN, dataschema_base="http://x").document()
        for media_type, body in ((CONTENT_TYPE, event), (BATCH_CONTENT_TYPE, [event, event])):
            schema = validator(f"{place}{pointer_to(media_type, 'schema')}")
            assert not list(schema.iter_errors(body)), (type, media_type)
            assert list(schema.iter_errors({**event, "id": 1})), "any event is valid"
    for media_type, media in content.items():
        assert not list(validator(f"{place}{pointer_to(media_type, 'schema')}").iter_errors(media["example"]))
    assert list(webhook["post"]["responses"]) == ["2XX", "410", "429", "503", "default"]


def test_every_reference_in_the_description_resolves():
    text = str(DOCUMENT)
    for section, name in set(re.findall(r"#/components/(\w+)/([\w\[\]]+)", text)):
        assert name in DOCUMENT["components"][section]


def test_every_json_body_and_answer_has_a_valid_example():
    for (method, path), operation in DOCUMENTED.items():
        places = [("responses", status, "content") for status in operation["responses"]]
        places += [("requestBody", "content")] if "requestBody" in operation else []
        for place in places:
            content = operation
            for part in place:
                content = content.get(part, {})
            for media_type, media in content.items():
                if media_type != "application/json" or path in ("/openapi.json", "/asyncapi.json"):
                    continue
                pointer = pointer_to("paths", path, method.lower(), *place, media_type, "schema")
                assert "example" in media, (method, path, place)
                assert not list(validator(pointer).iter_errors(media["example"])), (method, path, place)


def test_every_example_is_accepted_by_its_model():
    models = {}
    for operation in OPERATIONS:
        answers = (answer.model for answer in operation.answers.values())
        models |= {model.__name__: model for model in (operation.body, *operation.also_bodies, *answers) if model}
    assert set(EXAMPLES) == set(models)
    for name, example in EXAMPLES.items():
        TypeAdapter(models[name]).validate_python(example)
        assert not list(validator(f"/components/schemas/{name}").iter_errors(example))


def test_every_operation_documents_its_errors():
    for operation in OPERATIONS:
        documented = DOCUMENT["paths"][operation.path][operation.method.lower()]
        statuses = set(documented["responses"])
        assert {"422", "500", "503", "508"} <= statuses
        assert ("404" in statuses) == ("{" in operation.path)
        assert ({"400", "413", "415"} <= statuses) == (operation.body is not None)
        assert ({"401", "403"} <= statuses) == (operation.scopes is not None)
        assert documented["summary"]
        for code, answer in documented["responses"].items():
            assert "X-Request-Id" in answer["headers"]
            assert int(code) < 400 or list(answer["content"]) == (
                ["application/json"] if (code, operation.path) == ("503", "/readyz") else ["application/problem+json"]
            )


def test_the_description_lists_scopes_if_tokens_are_configured():
    document = with_tokens()
    assert document["components"]["securitySchemes"] == {"bearer": {"type": "http", "scheme": "bearer"}}
    for operation in OPERATIONS:
        documented = document["paths"][operation.path][operation.method.lower()]
        assert ("security" in documented) == (operation.scopes is not None)
    assert document["paths"]["/v1/jobs"]["get"]["security"] == [{"bearer": ["admin", "jobs:write", "read"]}]
    assert "security" not in DOCUMENT["paths"]["/v1/jobs"]["get"]
