"""Spans: what is exported of them, and what happens when OpenTelemetry cannot be used."""

import asyncio
import sys
import threading
import time
from typing import Any

import pytest
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.semconv._incubating.attributes import cloudevents_attributes, messaging_attributes
from opentelemetry.semconv.attributes import error_attributes, http_attributes

from relay import tracing
from relay.core.events.event import Event
from relay.core.subscriptions.subscription import Subscription
from relay.core.trace_context import TraceContext
from relay.errors import InvalidRequest, SettingsError
from relay.tracing import Tracing, start_tracing

TRACE, SPAN = "12345678901234567890123456789012", "1234567890123456"
PARENT = TraceContext(f"00-{TRACE}-{SPAN}-01", "foo=1")
SUBSCRIPTION = Subscription(id="sub_1", sink="https://crm.example/hooks?token=secret")


class Kept(SpanProcessor):
    """Keeps what ends."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def on_end(self, span: Any) -> None:
        self.spans.append(span)


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def spans(kept: Kept) -> Tracing:
    return Tracing(kept)


def event(id: str, **attributes: str) -> Event:
    fields = "".join(f',"{name}":"{value}"' for name, value in attributes.items())
    body = f'{{"specversion":"1.0","id":"{id}"{fields},"data":{{}}}}'.encode()
    return Event(id=id, source="/shop", type="com.acme.paid", subject="Kim", time=0.0, recorded_at=0.0, body=body)


def test_span_continues_the_trace_of_its_parent(spans: Tracing, kept: Kept) -> None:
    span = spans.begin("create", "server", PARENT)
    assert span.context is not None
    assert (span.context.trace_id, span.context.tracestate, span.context.flags) == (TRACE, "foo=1", 1)
    assert span.context.span_id != SPAN
    span.end()
    (ended,) = kept.spans
    assert (f"{ended.context.span_id:016x}", f"{ended.parent.span_id:016x}") == (span.context.span_id, SPAN)
    assert ended.context.trace_state.to_header() == "foo=1"


@pytest.mark.parametrize("flags", ["00", "02"])
def test_unsampled_trace_is_continued_unsampled_and_not_exported(spans: Tracing, kept: Kept, flags: str) -> None:
    span = spans.begin("create", "server", TraceContext(f"00-{TRACE}-{SPAN}-{flags}"))
    span.end()
    assert span.context is not None
    assert (span.context.trace_id, f"{span.context.flags:02x}", kept.spans) == (TRACE, flags, [])


def test_span_that_is_not_ended_is_not_exported(spans: Tracing, kept: Kept) -> None:
    spans.begin("record", "producer", None)
    assert kept.spans == []


def test_failed_operation_shows_a_word_and_no_text(spans: Tracing, kept: Kept) -> None:
    for error, word in (
        (InvalidRequest("Kim is no job", code="invalid_id"), "invalid_id"),
        (KeyError("Kim"), "KeyError"),
    ):
        with pytest.raises(type(error)), spans.span("create", "server", None):
            raise error
        ended = kept.spans[-1]
        assert (dict(ended.attributes), ended.status.is_ok) == ({"error.type": word}, False)
        assert (ended.status.description, ended.events) == (None, ())


def test_attempt_has_the_attributes_of_the_conventions_and_no_others(spans: Tracing, kept: Kept) -> None:
    modules = (messaging_attributes, cloudevents_attributes, error_attributes, http_attributes)
    known = {value for one in modules for value in vars(one).values() if isinstance(value, str)}
    one = spans.sending(SUBSCRIPTION, "webhook", [event("evt_1", traceparent=PARENT.traceparent)], ["dlv_1"])
    several = spans.sending(SUBSCRIPTION, "webhook", [event("evt_1"), event("evt_2")], ["dlv_1", "dlv_2"])
    for span in (one, several):
        span.set("http.response.status_code", 503)
        span.failed("503")
        span.end()
    first, second = kept.spans
    assert set(first.attributes) | set(second.attributes) <= known | {"relay.delivery.id"}
    assert (first.name, first.attributes["messaging.message.id"]) == ("send sub_1", "evt_1")
    assert second.attributes["messaging.batch.message_count"] == 2
    assert not any(text in repr([span.to_json() for span in kept.spans]) for text in ("secret", "crm.example", "Kim"))


def test_request_with_several_events_links_a_hundred_at_most(spans: Tracing, kept: Kept) -> None:
    events = [event(f"evt_{n}", traceparent=PARENT.traceparent) for n in range(tracing.MAX_LINKS + 20)]
    spans.sending(SUBSCRIPTION, "webhook", events, [None] * len(events)).end()
    assert (len(kept.spans[0].links), kept.spans[0].parent) == (tracing.MAX_LINKS, None)


def test_sampler_that_fails_costs_the_span_only(spans: Tracing, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(spans._tracer, "start_span", broken)
    span = spans.begin("create", "server", PARENT)
    span.set("relay.source", "revor")
    span.failed("x")
    span.end()
    assert (span.context, kept.spans) == (PARENT, [])


async def test_processor_that_hangs_delays_the_end_by_its_time_only() -> None:
    released = threading.Event()

    class Hangs(Kept):
        def shutdown(self) -> None:
            released.wait()

    began = time.monotonic()
    await asyncio.wait_for(Tracing(Hangs()).close(0.01), 60)
    assert time.monotonic() - began < 60
    released.set()


async def test_end_exports_what_waits(kept: Kept) -> None:
    ended = threading.Event()

    class Waits(Kept):
        def shutdown(self) -> None:
            ended.set()

    await Tracing(Waits()).close(600.0)
    assert ended.is_set()


def test_without_the_extra_the_error_names_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SettingsError, match=r"^tracing\.enabled needs the extra otel: .* install .*\[otel\]"):
        start_tracing()


def test_wrong_variable_of_the_sdk_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "-1")
    with pytest.raises(SettingsError) as raised:
        start_tracing()
    wrong = "the variables of OpenTelemetry are wrong (OTEL_BSP_MAX_EXPORT_BATCH_SIZE)"
    assert str(raised.value).startswith(f"tracing.enabled: {wrong}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"])
@pytest.mark.parametrize("wrong", ["x-team: s3cret", "s3cret", "x team=s3cret", "a=1,s3cret"])
async def test_header_that_the_sdk_cannot_read_is_not_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, variable: str, wrong: str
) -> None:
    monkeypatch.setenv(variable, wrong)
    await start_tracing().close(60.0)
    assert "a header is ignored. Write name=value" in caplog.text
    assert "s3cret" not in caplog.text
