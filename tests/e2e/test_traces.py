"""Traces, end to end: the context of a request goes out with each event that it leads to, with spans and without."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay.core.trace_context import of_values
from tests.support.dropin_requests import DISPATCH, DISPATCHES
from tests.support.e2e_world import AT_ONCE, KEY, World, open_e2e_world
from tests.support.store_databases import emptied_postgres
from tests.support.trace_collector import Collected, Collector, open_collector

TRACE, SPAN = "12345678901234567890123456789012", "1234567890123456"
PARENT = f"00-{TRACE}-{SPAN}-01"
HEADERS = {"traceparent": PARENT, "tracestate": "foo=1,bar=2"}


BOTH_DATABASES = pytest.mark.parametrize("world", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    on_postgres = getattr(request, "param", "sqlite") == "postgresql"
    url = await asyncio.to_thread(emptied_postgres) if on_postgres else None
    async with asyncio.timeout(300), open_e2e_world(tmp_path, database_url=url) as world:
        yield world


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    async with open_collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        yield collector


async def job_with(world: World, headers: dict[str, str], **body: Any) -> str:
    """Makes a job at the upstream, and registers it with these headers."""
    script = {"account": "test", "final": "succeeded", **AT_ONCE}
    (item,) = (await world.sandbox.post("/_sandbox/jobs", json=script)).json()["items"]
    answer = await world.api.post("/v1/jobs", json={"id": item["id"], **body}, headers=headers)
    assert answer.status_code == 201, answer.text
    return str(item["id"])


def sent_of(world: World, subject: str, path: str = "/events") -> list[tuple[dict[str, str], dict[str, str]]]:
    """The trace fields of each delivery of a job: among its headers, and among its event's attributes."""
    return [
        (traced(request.headers), traced(request.event))
        for request in world.received.get(path, [])
        if request.event["subject"] == subject
    ]


def traced(fields: Any) -> dict[str, str]:
    return {name: fields[name] for name in ("traceparent", "tracestate") if name in fields}


# --- without spans


@BOTH_DATABASES
async def test_context_of_a_registration_goes_out_unchanged_with_each_event_of_the_job(world: World) -> None:
    await world.subscribe()
    id = await job_with(world, HEADERS)
    await world.until(lambda: "succeeded" in world.kinds(id))
    assert len(sent_of(world, id)) >= 1
    assert sent_of(world, id) == [(HEADERS, HEADERS)] * len(sent_of(world, id))


@pytest.mark.parametrize(
    "headers", [{}, {"traceparent": f"00-{'A' * 32}-{SPAN}-01"}, {"traceparent": "00-1-1-00"}, {"tracestate": "foo=1"}]
)
async def test_registration_without_a_valid_context_adds_nothing(world: World, headers: dict[str, str]) -> None:
    await world.subscribe()
    id = await job_with(world, headers)
    await world.until(lambda: "succeeded" in world.kinds(id))
    assert {str(fields) for fields in sent_of(world, id)} == {"({}, {})"}


@BOTH_DATABASES
async def test_context_of_a_batch_belongs_to_each_of_its_jobs(world: World) -> None:
    script = {"account": "test", "count": 2, **AT_ONCE, "run_seconds": 80_000}
    items = (await world.sandbox.post("/_sandbox/jobs", json=script)).json()["items"]
    ids = [item["id"] for item in items]
    answer = await world.api.post("/v1/jobs/batch", json={"jobs": [{"id": id} for id in ids]}, headers=HEADERS)
    assert answer.json()["created"] == len(ids)
    stored = [await world.node.store.jobs.find(id) for id in ids]
    assert [job.trace for (job,) in stored] == [f"{PARENT} foo=1,bar=2"] * len(ids)


async def test_failed_attempt_is_logged_with_its_trace(world: World) -> None:
    body = {"sink": "http://127.0.0.1:1/", "types": ["com.acme.paid"]}
    assert (await world.api.post("/v1/subscriptions", json=body)).status_code == 201
    content = {"Content-Type": "application/cloudevents+json"}
    with capture_logs() as lines:
        assert (await world.api.post("/v1/events", json=EVENT, headers={**content, **HEADERS})).status_code == 202
        while not (attempts := [line for line in lines if line["event"] == "attempt"]):
            await world.api.get("/v1/deliveries")
    assert attempts[0]["trace_id"] == TRACE


@BOTH_DATABASES
async def test_dropin_create_passes_the_callers_headers_on_unchanged_and_keeps_its_context(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwarded = headers_of_creates(world, monkeypatch)
    await world.subscribe()
    future = {"traceparent": f"cc-{TRACE}-{SPAN}-01-later", "tracestate": "foo=1,,bar=2"}
    for key, headers in (("one", future), ("two", {"traceparent": "no", "tracestate": "a=1"})):
        sent = {"Authorization": f"Bearer {KEY}", "Idempotency-Key": key, **headers}
        answer = await world.api.post(DISPATCHES, json=DISPATCH, headers=sent)
        id = answer.json()["item"]["id"]
        assert traced(forwarded[-1]) == headers
        await world.until(lambda id=id: "succeeded" in world.kinds(id))
        expected = HEADERS if key == "one" else {}
        assert sent_of(world, id) == [(expected, expected)] * len(sent_of(world, id))


def headers_of_creates(world: World, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Notes the headers of each request that is forwarded."""
    (transport,) = world.node._accounts.transports.values()
    send, noted = transport.send, list[dict[str, str]]()

    def noting(method: str, target: str, headers: Any, body: Any, **given: Any) -> Any:
        noted.append({name.decode(): value.decode() for name, value in headers})
        return send(method, target, headers, body, **given)

    monkeypatch.setattr(transport, "send", noting)
    return noted


EVENT = {"specversion": "1.0", "id": "a-1", "source": "/shop", "type": "com.acme.paid", "subject": "A-17", "data": []}
OWN = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-00"}


@pytest.mark.parametrize(
    ("event", "headers", "sent"),
    [({}, {}, ({}, {})), ({}, HEADERS, (HEADERS, HEADERS)), (OWN, HEADERS, (OWN, OWN)), (OWN, {}, (OWN, OWN))],
)
async def test_published_event_goes_out_with_its_own_context_else_with_that_of_its_request(
    world: World, event: dict[str, str], headers: dict[str, str], sent: Any
) -> None:
    await world.subscribe(types=["com.acme.paid"])
    content = {"Content-Type": "application/cloudevents+json"}
    answer = await world.api.post("/v1/events", json={**EVENT, **event}, headers={**content, **headers})
    assert answer.status_code == 202, answer.text
    await world.until(lambda: bool(world.received.get("/events")))
    assert sent_of(world, "A-17") == [sent]


async def test_context_is_a_header_in_binary_mode_and_an_attribute_of_each_event_of_a_bundle(world: World) -> None:
    await world.subscribe("/binary", config={"content_mode": "binary"}, types=["com.acme.paid"])
    await world.subscribe("/batch", config={"content_mode": "batch"}, types=["com.acme.paid"])
    content = {"Content-Type": "application/cloudevents-batch+json"}
    batch = [{**EVENT, "id": f"a-{number}"} for number in range(2)]
    assert (await world.api.post("/v1/events", json=batch, headers={**content, **HEADERS})).status_code == 202
    await world.until(lambda: len(world.received.get("/binary", [])) == 2 and bool(world.received.get("/batch")))
    for request in world.received["/binary"]:
        assert (request.headers["ce-traceparent"], request.headers["ce-tracestate"]) == tuple(HEADERS.values())
        assert traced(request.headers) == HEADERS
    assert {traced(one)["traceparent"] for request in world.received["/batch"] for one in request.event} == {PARENT}


# --- with spans


@pytest.fixture
async def spans(tmp_path: Path, collector: Collector) -> AsyncIterator[World]:
    async with asyncio.timeout(300), open_e2e_world(tmp_path, traces=True) as world:
        yield world


async def collected(world: World, collector: Collector, name: str, count: int = 1) -> list[Collected]:
    """The spans of a name, as soon as there are so many."""
    while len(collector.named(name)) < count:
        collector.arrived.clear()
        await collector.arrived.wait()
    return collector.named(name)


async def test_spans_lead_from_the_create_to_each_delivery(
    spans: World, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwarded = headers_of_creates(spans, monkeypatch)
    subscription = await spans.subscribe()
    sent = {"Authorization": f"Bearer {KEY}", "Idempotency-Key": "one", **HEADERS}
    answer = await spans.api.post(DISPATCHES, json=DISPATCH, headers=sent)
    id = answer.json()["item"]["id"]
    await spans.until(lambda: "succeeded" in spans.kinds(id))
    deliveries = sent_of(spans, id)
    sends = {span.span_id: span for span in await collected(spans, collector, "send", len(deliveries))}
    (create,) = await collected(spans, collector, "create")
    records = {span.span_id: span for span in collector.named("record")}
    polls = {span.span_id: span for span in collector.named("poll")}

    assert {span.trace_id for span in collector.spans} == {TRACE}
    assert (create.parent_id, create.kind) == (SPAN, "server")
    assert traced(forwarded[0]) == {**HEADERS, "traceparent": f"00-{TRACE}-{create.span_id}-01"}
    for of_headers, of_attributes in deliveries:
        assert of_headers["tracestate"] == of_attributes["tracestate"] == HEADERS["tracestate"]
        header, attribute = (of_values([one["traceparent"]], []) for one in (of_headers, of_attributes))
        assert header is not None
        assert attribute is not None
        send = sends[header.span_id]
        assert (send.parent_id, send.links) == (attribute.span_id, (attribute.span_id,))
        assert (send.name, send.kind) == (f"send {subscription['id']}", "client")
        assert send.attributes["http.response.status_code"] == 200
        if attribute.span_id == create.span_id:  # what the answer to the create has shown
            continue
        record = records[attribute.span_id]
        poll = polls[record.parent_id]
        assert (poll.parent_id, poll.kind, record.kind) == (create.span_id, "client", "producer")
        assert poll.began_at <= poll.ended_at <= record.ended_at
    assert len(records) == len(polls) >= 1
    assert {span.schema_url for span in collector.spans} == {"https://opentelemetry.io/schemas/1.44.0"}
    assert {span.resource["service.name"] for span in collector.spans} == {"revor-relay"}


async def test_spans_hold_no_secret_no_text_and_no_url(spans: World, collector: Collector) -> None:
    await spans.subscribe("/events?token=hidden-in-query", protocolsettings={"headers": {"X-Key": "hidden-in-header"}})
    sent = {"Authorization": f"Bearer {KEY}", "Idempotency-Key": "hidden-key", "Relay-Metadata": '{"a": "hidden-data"}'}
    answer = await spans.api.post(f"{DISPATCHES}?q=hidden", json=DISPATCH, headers=sent)
    id = answer.json()["item"]["id"]
    await spans.until(lambda: "succeeded" in spans.kinds(id))
    await collected(spans, collector, "send", len(sent_of(spans, id)))
    shown = repr([(span.name, span.attributes, span.resource) for span in collector.spans])
    for hidden in ("hidden", KEY, "http://", "127.0.0.1", id, *DISPATCH.values()):
        assert str(hidden) not in shown


async def test_job_without_a_context_begins_a_trace_of_its_own(spans: World, collector: Collector) -> None:
    await spans.subscribe()
    id = await job_with(spans, {"traceparent": "00-1-1-00", "tracestate": "foo=1"})
    await spans.until(lambda: "succeeded" in spans.kinds(id))
    await collected(spans, collector, "send", len(sent_of(spans, id)))
    (create,) = await collected(spans, collector, "create")
    assert (create.parent_id, create.tracestate) == ("", "")
    assert {span.trace_id for span in collector.spans} == {create.trace_id}
    assert all("tracestate" not in fields for fields, _ in sent_of(spans, id))


async def test_requests_with_several_events_begin_a_trace_that_is_linked_to_them(
    spans: World, collector: Collector
) -> None:
    await spans.subscribe("/batch", config={"content_mode": "batch"}, types=["com.acme.paid"])
    content = {"Content-Type": "application/cloudevents-batch+json"}
    batch = [{**EVENT, "id": f"a-{n}", "traceparent": f"00-{TRACE}-{n:016x}-01"} for n in range(1, 31)]
    assert (await spans.api.post("/v1/events", json=batch, headers=content)).status_code == 202
    sizes = spans.received.get("/batch", [])
    await spans.until(lambda: sum(len(one.event) for one in spans.received.get("/batch", [])) == len(batch))
    sends = await collected(spans, collector, "send", len(sizes or spans.received["/batch"]))
    for send in sends:
        count = send.attributes.get("messaging.batch.message_count", 1)
        assert len(send.links) == count
        assert (send.trace_id == TRACE) is (count == 1)
    assert sorted(int(link, 16) for send in sends for link in send.links) == list(range(1, 31))


async def test_polls_without_news_make_no_span(spans: World, collector: Collector) -> None:
    script = {"account": "test", **AT_ONCE, "run_seconds": 80_000}
    (item,) = (await spans.sandbox.post("/_sandbox/jobs", json=script)).json()["items"]
    await spans.api.post("/v1/jobs", json={"id": item["id"]})
    await spans.until(lambda: spans.polls("observed") >= 10)
    job = await spans.shown(item["id"])
    records = await collected(spans, collector, "record")
    assert (len(records), len(collector.named("poll"))) == (1, 1)
    assert job["poll_count"] > 1


async def test_failed_attempt_is_a_span_with_its_error(spans: World, collector: Collector) -> None:
    made = await spans.subscribe("/events")
    await spans.api.put(f"/v1/subscriptions/{made['id']}", json={"sink": "http://127.0.0.1:1/", "types": ["failed"]})
    tested = await spans.api.post(f"/v1/subscriptions/{made['id']}/test", json={})
    assert tested.status_code == 200, tested.text
    (send,) = await collected(spans, collector, "send")
    assert (send.failed, send.attributes["error.type"]) == (True, "connect")


@pytest.mark.parametrize("behaviour", ["refuses", "hangs"])
async def test_collector_that_fails_delays_nothing_not_even_the_end(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch, behaviour: Any
) -> None:
    collector.behaviour = behaviour
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")
    async with asyncio.timeout(300):
        async with open_e2e_world(tmp_path, traces=True) as world:
            await world.subscribe()
            while not collector.requests:  # it has the exporter's thread by now
                id = await job_with(world, HEADERS)
                await world.until(lambda id=id: "succeeded" in world.kinds(id))
            ids = [await job_with(world, HEADERS) for _ in range(10)]
            for id in ids:
                await world.until(lambda id=id: "succeeded" in world.kinds(id))
                assert all(len(fields) == 2 for one in sent_of(world, id) for fields in one)
            began = time.monotonic()
        assert time.monotonic() - began < 60  # of 600 that the exporter would wait
        assert collector.spans == []


async def test_switched_off_by_the_sdk_the_callers_context_goes_out_unchanged(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    async with asyncio.timeout(300), open_e2e_world(tmp_path, traces=True) as world:
        await world.subscribe()
        traced_id, plain_id = await job_with(world, HEADERS), await job_with(world, {})
        for id, fields in ((traced_id, HEADERS), (plain_id, {})):
            await world.until(lambda id=id: "succeeded" in world.kinds(id))
            assert sent_of(world, id) == [(fields, fields)] * len(sent_of(world, id))
    assert collector.requests == 0
