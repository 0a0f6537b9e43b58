import orjson
import pytest
from pydantic import TypeAdapter

from relay.api.deliveries.deliveries import DeliveryWithAttempts
from relay.core.deliveries.delivery import Timings
from tests.api.conftest import WEBSET
from tests.support.api_world import HOOK, SETTINGS
from tests.support.store_kit import attempt, claim, result_of


async def subscribe(client, **body):
    return (await client.post("/v1/subscriptions", json={"sink": HOOK, **body})).json()["id"]


async def test_an_event_is_served_as_the_bytes_that_are_sent(client, world):
    event = (await world.poll(await world.job("a"), "failed"))[0]
    answer = await client.get(f"/v1/events/{event.id}")
    assert answer.content == event.body
    assert answer.headers["content-type"] == "application/json"
    listed = (await client.get("/v1/events")).json()["items"]
    assert listed == [orjson.loads(event.body)]
    missing = await client.get("/v1/events/evt_01jvpq3m8n0000000000000003")
    assert (missing.status_code, missing.json()["code"]) == (404, "event_not_found")


async def test_events_are_filtered_by_type_subject_and_time(client, world):
    first = await world.job("a")
    await world.poll(first, "queued")
    world.now += 60
    await world.poll(first, "running")
    await world.poll(await world.job("b"), "queued")

    async def found(query):
        return [
            (event["subject"], event["status"]) for event in (await client.get(f"/v1/events?{query}")).json()["items"]
        ]

    assert await found("") == [("b", "queued"), ("a", "running"), ("a", "queued")]
    assert await found("type=ai.revor.job.queued") == [("b", "queued"), ("a", "queued")]
    assert await found("subject=a") == [("a", "running"), ("a", "queued")]
    assert await found("since=2027-01-15T08:01:00Z") == [("b", "queued"), ("a", "running")]
    assert await found("until=2027-01-15T08:01:00Z") == [("a", "queued")]
    assert await found("since=2027-01-15T10:01:00%2B02:00&subject=a") == [("a", "running")]
    assert await found("since=2027-01-15T10:01:00+02:00&subject=a") == [("a", "running")]


async def fail_both(world):
    """A job and a webset that have both failed: the types of their events with the ids, the oldest first."""
    found = []
    for id, origin in ("a", SETTINGS.origins["revor", ""]), ("b", WEBSET), ("c", WEBSET):
        job = await world.job(id)
        for status in ("running", "failed"):
            world.now += 1
            found += await world.poll(job, status, origin=origin)
    return [(event.type, event.id) for event in found]


BOTH = ("ai.revor.job.failed", "ai.revor.webset.failed")
NAMES = (("failed", BOTH), ("job.failed", BOTH[:1]), ("webset.failed", BOTH[1:]), (BOTH[1], BOTH[1:]))


@pytest.mark.parametrize(("name", "types"), NAMES)
async def test_a_short_type_stands_for_that_of_every_resource(several, world, name, types):
    of_both = await fail_both(world)
    wanted = [id for type, id in of_both if type in types]
    for filters in ("", "&subject=b", '&filters={"exact":{"subject":"b"}}'):
        listed, cursor = [], ""
        while cursor is not None:
            query = f"type={name}{filters}&limit=1" + (f"&cursor={cursor}" if cursor else "")
            page = (await several.get(f"/v1/events?{query}")).json()
            listed, cursor = [*listed, *page["ids"]], page["next_cursor"]
        assert listed == [id for id in reversed(wanted) if not filters or id == of_both[3][1]]
    last = {"Last-Event-ID": of_both[0][1]}
    streamed = await several.get(f"/v1/events/stream?type={name}", headers=last)
    assert [line[4:] for line in streamed.text.splitlines() if line.startswith("id: ")] == wanted


@pytest.mark.parametrize(("name", "types"), NAMES)
async def test_deliveries_of_a_short_type_are_retried(several, world, name, types):
    await subscribe(several)
    of_both = await fail_both(world)
    world.now += 1
    body = {"filter": {"type": name, "state": "pending"}}
    counted = await several.post("/v1/deliveries/retry?dry_run=true", json=body)
    assert counted.json()["matched"] == len([type for type, _ in of_both if type in types])


@pytest.mark.parametrize(
    ("fields", "type"),
    [
        ({}, BOTH[0]),
        ({"types": ["webset.failed"]}, BOTH[1]),
        ({"types": ["running"]}, BOTH[0]),
        ({"source": WEBSET.source}, BOTH[1]),
    ],
)
async def test_a_sample_of_a_short_type_is_one_that_the_subscription_gets(several, fields, type):
    body = {"subscription": {"sink": HOOK, **fields}, "type": "failed"}
    shown = (await several.post("/v1/subscriptions/preview", json=body)).json()
    assert shown["event"]["type"] == type
    assert shown["matches"] is (fields.get("types") != ["running"])


async def test_deliveries_are_listed_and_filtered(client, world):
    subscription = await subscribe(client)
    other = await subscribe(client, types=["ai.revor.job.failed"])
    job = await world.job("a")
    first = (await world.poll(job, "running"))[0]
    await world.poll(job, "failed")

    async def count(query):
        return len((await client.get(f"/v1/deliveries?{query}")).json()["items"])

    assert await count("") == 3
    assert await count(f"subscription={subscription}") == 2
    assert await count(f"subscription={other}") == 1
    assert await count(f"event={first.id}") == 1
    assert await count("state=pending") == 3
    assert await count("state=delivered") == 0
    assert await count("state=dead&subscription=sub_x") == 0
    page = (await client.get("/v1/deliveries?limit=2")).json()
    assert len((await client.get(f"/v1/deliveries?limit=2&cursor={page['next_cursor']}")).json()["items"]) == 1


async def test_a_delivery_shows_its_attempts(client, world):
    id = await subscribe(client)
    await world.poll(await world.job("a"), "failed")
    timings = [Timings(dns_ms=2.5, connect_ms=10.0, tls_ms=21.25, first_byte_ms=40.0), Timings()]
    tried = [
        attempt(
            1,
            started_at=world.now,
            status_code=503,
            timings=timings[0],
            decision="HTTP 503 (attempt 1 of 3): tried again in 5 s",
            next_attempt_at=world.now + 5,
            request_headers=(("webhook-id", "evt_1"),),
            response_headers=(("retry-after", "5"),),
            response_excerpt="ff00",
            excerpt_is_hex=True,
            remote_ip="192.0.2.1",
        ),
        attempt(2, started_at=world.now + 5, status_code=None, error="dns: it does not resolve", timings=timings[1]),
    ]
    for made in tried:
        world.now += 5
        (one,) = await claim(world.store, id, now=world.now)
        await world.store.deliveries.record(result_of(one, "pending", attempt=made, due_at=world.now))
    (listed,) = (await client.get("/v1/deliveries")).json()["items"]
    shown = (await client.get(f"/v1/deliveries/{listed['id']}")).json()
    TypeAdapter(DeliveryWithAttempts).validate_python(shown)
    assert shown["attempts"] == [
        {
            "number": 1,
            "started_at": "2027-01-15T08:00:00.000Z",
            "duration_ms": 12.5,
            "status_code": 503,
            "error": None,
            "timings": {"dns_ms": 2.5, "connect_ms": 10.0, "tls_ms": 21.25, "first_byte_ms": 40.0},
            "decision": "HTTP 503 (attempt 1 of 3): tried again in 5 s",
            "next_attempt_at": "2027-01-15T08:00:05.000Z",
            "request_headers": {"webhook-id": "evt_1"},
            "response_headers": {"retry-after": "5"},
            "response_excerpt": "ff00",
            "response_excerpt_encoding": "hex",
            "remote_ip": "192.0.2.1",
            "requests": None,
        },
        {
            "number": 2,
            "started_at": "2027-01-15T08:00:05.000Z",
            "duration_ms": 12.5,
            "status_code": None,
            "error": "dns: it does not resolve",
            "timings": {"dns_ms": None, "connect_ms": None, "tls_ms": None, "first_byte_ms": None},
            "decision": None,
            "next_attempt_at": None,
            "request_headers": {},
            "response_headers": {},
            "response_excerpt": None,
            "response_excerpt_encoding": None,
            "remote_ip": None,
            "requests": None,
        },
    ]


async def test_a_delivery_is_retried(client, world):
    subscription = await subscribe(client)
    await world.poll(await world.job("a"), "failed")
    delivery = (await client.get("/v1/deliveries")).json()["items"][0]
    woken = world.signals.woken
    answer = await client.post(f"/v1/deliveries/{delivery['id']}/retry")
    assert (answer.status_code, answer.json()["state"]) == (202, "pending")
    assert world.signals.woken == woken + 1
    await client.delete(f"/v1/subscriptions/{subscription}")
    assert (await client.get(f"/v1/deliveries/{delivery['id']}")).json()["state"] == "cancelled"
    refused = await client.post(f"/v1/deliveries/{delivery['id']}/retry")
    assert (refused.status_code, refused.json()["code"]) == (409, "subscription_removed")
    assert (await client.post("/v1/deliveries/dlv_x/retry")).status_code == 404
    assert (await client.get("/v1/deliveries/dlv_x")).json()["code"] == "delivery_not_found"


async def test_a_bad_page_is_refused_in_every_list(client, world) -> None:
    for path in ["/v1/jobs", "/v1/subscriptions", "/v1/events", "/v1/deliveries", "/v1/sources", "/v1/jobs/a/events"]:
        await world.job("a")
        for query, code, words in (
            ("limit=0", "invalid_parameter", "1 to 500"),
            ("limit=501", "invalid_parameter", "501"),
            ("limit=-1", "invalid_parameter", ""),
            ("limit=ten", "invalid_parameter", "ten"),
            ("limit=", "invalid_parameter", ""),
            ("limit=%D9%A5", "invalid_parameter", ""),
            ("limit=5&limit=6", "repeated", ""),
            ("limt=5", "unknown_parameter", "did you mean limit?"),
            ("cursor=%21%21", "invalid_parameter", ""),
            ("cursor=zzz", "invalid_cursor", "next_cursor"),
            ("cursor=", "invalid_parameter", ""),
            ("cursor=%E2%82%AC", "invalid_parameter", ""),
            ("limit=%FF", None, "UTF-8"),
            ("&".join(["a=1"] * 60), None, ""),
        ):
            answer = await client.get(f"{path}?{query}")
            assert answer.status_code == 422, (query, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
            assert words in answer.json()["detail"], query
            if code is not None:
                assert answer.json()["errors"][0]["code"] == code, query


async def test_a_bad_filter_is_refused(client) -> None:
    for path, pointer in [
        ("/v1/jobs?open=yes", "open"),
        ("/v1/jobs?open=True", "open"),
        ("/v1/jobs?status=%00", "status"),
        ("/v1/jobs?source=", "source"),
        ("/v1/events?since=yesterday", "since"),
        ("/v1/events?until=2027-01-15T08:00:00", "until"),
        ("/v1/events?until=1e9", "until"),
        ("/v1/deliveries?state=blocked", "state"),
        ("/v1/deliveries?state=deliverd", "state"),
        ("/v1/deliveries?group_by=", "group_by"),
        ("/v1/deliveries?group_by=reason,", "group_by"),
        ("/v1/deliveries?group_by=reasons", "group_by"),
        ("/v1/deliveries?group_by=day,day,day,day", "group_by"),
        ("/v1/subscriptions?callbacks=1", "callbacks"),
        ("/v1/jobs/a?until=walking", "until"),
    ]:
        answer = await client.get(path)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == pointer
