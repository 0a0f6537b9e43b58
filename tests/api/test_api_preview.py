"""`POST /v1/subscriptions/preview`: what would be sent. Nothing is sent, and nothing is stored."""

import asyncio

import orjson
import pytest

from relay.api.subscriptions import previews
from relay.core.deliveries.credentials import TOKEN_HERE
from relay.core.deliveries.delivery import OutboundRequest, Outcome
from relay.core.deliveries.dialogue import Ended, Step
from relay.core.jobs.job import Recipient
from subscribers.base import Dialogue
from tests.support.api_world import HOOK, SLACK, TOKENS


async def preview(client, subscription, status=200, **body):
    answer = await client.post("/v1/subscriptions/preview", json={"subscription": subscription, **body})
    assert answer.status_code == status, answer.text
    return answer.json()


async def a_subscription(client, **body):
    return (await client.post("/v1/subscriptions", json={"sink": HOOK, **body})).json()["id"]


async def test_a_sample_is_shown_as_it_would_be_sent(client, world):
    shown = await preview(client, {"sink": HOOK}, metadata={"deal": "the one", "size": 5})

    assert shown["matches"] is True
    assert "why" not in shown
    (sent,) = shown["requests"]
    assert (sent["method"], sent["url"]) == ("POST", HOOK)
    headers = {name.lower(): value for name, value in sent["headers"].items()}
    assert headers["content-type"].startswith("application/cloudevents+json")
    assert headers["webhook-signature"] == "[redacted]"
    assert headers["webhook-id"] == shown["event"]["id"]
    assert orjson.loads(sent["body"]) == shown["event"]
    assert shown["event"]["type"] == "ai.revor.job.failed"
    metadata = shown["event"]["data"]["metadata"]
    assert (metadata["deal"], metadata["size"], metadata["sample"]) == ("the one", 5, True)


async def test_previews_compute_one_at_a_time_and_a_token_has_few_of_them(client, monkeypatch):
    computing, most = 0, 0

    async def slow(call, subscription, matcher):
        nonlocal computing, most
        computing += 1
        most = max(most, computing)
        await asyncio.sleep(0)
        computing -= 1
        return await recent(call, subscription, matcher)

    recent = previews._recent
    monkeypatch.setattr(previews, "_recent", slow)
    body = {"subscription": {"sink": HOOK}}
    answers = await asyncio.gather(*(client.post("/v1/subscriptions/preview", json=body) for _ in range(12)))
    assert most == 1
    assert sorted(one.status_code for one in answers) == [200] * 4 + [429] * 8


async def test_nothing_is_sent_or_stored(client, world):
    id = await a_subscription(client)
    before = await world.store.database.read(_everything)
    await preview(client, id)
    await preview(client, {"sink": HOOK})
    assert await world.store.database.read(_everything) == before
    assert world.dispatcher.tested == []


def _everything(connection):
    return list(connection.connection.driver_connection.iterdump())


async def test_a_recorded_event_is_shown(client, world):
    events = await world.poll(await world.job("a"), "queued")

    shown = await preview(client, await a_subscription(client), event_id=events[0].id)

    assert shown["event"] == events[0].document()
    assert orjson.loads(shown["requests"][0]["body"]) == shown["event"]


@pytest.mark.parametrize(
    ("subscription", "type", "why"),
    [
        (
            {"types": ["succeeded"]},
            "failed",
            "its types are ai.revor.job.succeeded, and that of the event is ai.revor.",
        ),
        ({}, "relay.source.down", "it has no types, so it gets all job events and no others"),
        ({"source": "/relay"}, "failed", "its source is /relay, and that of the event is https://revor.ai/"),
    ],
)
async def test_an_event_that_it_does_not_get_has_a_reason_and_no_request(client, subscription, type, why):
    shown = await preview(client, {"sink": HOOK, **subscription}, type=type)
    assert shown["matches"] is False
    assert shown["why"].startswith(why)
    assert shown["requests"] == []


async def test_what_is_secret_is_redacted(client, open_client):
    headers = {"X-Api-Key": "very-secret", "X-Team": "sales"}
    credential = {"credentialtype": "HEADER", "name": "X-Other", "value": "very-secret"}
    body = {"sink": HOOK + "?token=very-secret", "protocolsettings": {"headers": headers}, "sinkcredential": credential}
    for subscription in (body, await a_subscription(client, **body)):
        shown = await preview(client, subscription)
        assert "very-secret" not in orjson.dumps(shown).decode()
        (sent,) = shown["requests"]
        assert (sent["headers"]["X-Team"], sent["headers"]["X-Other"]) == ("sales", "[redacted]")
    assert (await preview(client, {"sink": SLACK}))["requests"][0]["url"] == "https://hooks.slack.com/…"


@pytest.mark.parametrize("limit", ["MAX_RECENT", "MAX_RECENT_SECONDS"])
async def test_the_work_is_bounded_and_the_answer_says_where_it_ended(client, world, monkeypatch, limit):
    for number in range(5):
        await world.poll(await world.job(f"job {number}"), "queued")
        world.now += 1
    monkeypatch.setattr(previews, "SLICE", 2)
    most = 3 if limit == "MAX_RECENT" else 1
    monkeypatch.setattr(previews, limit, most if limit == "MAX_RECENT" else 0.0)

    recent = (await preview(client, {"sink": HOOK}))["recent"]

    assert (recent["seen"], recent["matched"], recent["cut"]) == (most, most, True)
    assert recent["since"] == f"2027-01-15T08:00:0{5 - most}.000Z"


def _looks_up(event, subscription, context, memory, now):
    who = event.document()["data"]["metadata"].get("email") or (context.recipient and context.recipient.address)
    if who is None:
        return Ended(outcome=Outcome(verdict="skip", reason="unmatched"))
    headers = (("Accept", "application/json"), ("x-api-token", TOKEN_HERE))
    look_up = OutboundRequest(url=f"{HOOK}/persons?email={who}", method="GET", headers=headers)
    found = yield Step(request=look_up, name="person by e-mail", expected=b"{person}", private=True)
    body = b'{"person": "%b"}' % found.excerpt
    yield Step(request=OutboundRequest(url=f"{HOOK}/notes", headers=headers[:1], body=body), name="note")
    return Ended(outcome=Outcome(verdict="delivered", reason="ok"))


async def test_look_ups_are_shown_with_placeholders_and_no_token(client, world):
    world.dispatcher.dialogue = Dialogue(key=lambda event, subscription: None, steps=_looks_up)
    credential = {"credentialtype": "ACCESSTOKEN", "accesstoken": "secret-token"}
    shown = await preview(client, {"sink": HOOK, "sinkcredential": credential}, metadata={"email": "a@b.example"})
    assert shown["requests"] == [
        {
            "name": "person by e-mail",
            "method": "GET",
            "url": f"{HOOK}/persons?email=a@b.example",
            "headers": {"Accept": "application/json", "x-api-token": "[redacted]"},
            "body": None,
        },
        {
            "name": "note",
            "method": "POST",
            "url": f"{HOOK}/notes",
            "headers": {"Accept": "application/json", "Authorization": "[redacted]"},
            "body": '{"person": "{person}"}',
        },
    ]
    anybody = await preview(client, {"sink": HOOK})
    assert anybody["requests"][0]["url"] == f"{HOOK}/persons?email={{recipient.address}}"


async def test_a_reader_sees_only_the_host_of_each_request(open_client, world):
    client = open_client(dev=False, tokens=TOKENS, peer="203.0.113.9")
    client.headers["Authorization"] = "Bearer rl_read"
    world.dispatcher.dialogue = Dialogue(key=lambda event, subscription: None, steps=_looks_up)
    shown = await preview(client, {"sink": HOOK})
    assert [one["url"] for one in shown["requests"]] == ["https://receiver.example/…"] * 2


async def test_a_captured_recipient_is_a_placeholder_in_the_preview_of_its_event(client, world, monkeypatch):
    [recorded] = await world.poll(await world.job("a"), "queued")
    world.dispatcher.dialogue = Dialogue(key=lambda event, subscription: None, steps=_looks_up)
    nobody = await preview(client, {"sink": HOOK}, event_id=recorded.id)
    assert nobody["requests"] == []

    async def recipient(self, uid):
        assert uid == recorded.job_uid
        return Recipient(address="jane@private.example")

    monkeypatch.setattr(type(world.store.jobs), "recipient", recipient)
    shown = await preview(client, {"sink": HOOK}, event_id=recorded.id)
    assert shown["requests"][0]["url"] == f"{HOOK}/persons?email={{recipient.address}}"
    assert "private.example" not in str(shown)


async def test_new_settings_are_shown_with_what_is_stored(client, world):
    headers = {"X-Api-Key": "very-secret", "X-Team": "sales"}
    credential = {"credentialtype": "HEADER", "name": "X-Other", "value": "very-secret"}
    sink = HOOK + "?token=very-secret"
    id = await a_subscription(
        client,
        sink=sink,
        protocolsettings={"headers": headers},
        sinkcredential=credential,
        config={"start": "earliest"},
    )
    body = (await client.get(f"/v1/subscriptions/{id}")).json()
    body["config"]["template"] = {"deal": "{{ metadata.deal }}"}

    refused = await preview(client, body, status=422)
    assert {one["code"] for one in refused["errors"]} & {"redacted", "unknown_field"}
    answer = await client.post(
        "/v1/subscriptions/preview", json={"subscription": body, "replaces": id, "metadata": {"deal": 7}}
    )

    (sent,) = answer.json()["requests"]
    assert orjson.loads(sent["body"]) == {"deal": 7}
    assert sent["headers"]["X-Api-Key"] == sent["headers"]["X-Other"] == "[redacted]"
    assert sent["headers"]["X-Team"] == "sales"
    assert "very-secret" not in answer.text
    assert (await client.get(f"/v1/subscriptions/{id}")).json()["config"]["template"] is None
