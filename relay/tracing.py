"""Spans of OpenTelemetry: create, poll, record and send. None is made unless `tracing.enabled` is set.

Ended spans wait in a bounded queue, and a thread of the SDK exports them: an exporter that hangs or refuses loses
spans, but delays nothing else. The SDK's own environment variables set the endpoint, the sampling and the interval.
OpenTelemetry is imported by `start_tracing` only.
"""

import asyncio
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal

import structlog

from relay import __version__
from relay.core.events.event import Event
from relay.core.subscriptions.subscription import Subscription
from relay.core.trace_context import Header, TraceContext, of_event, of_headers, span_context
from relay.errors import RequestError, SettingsError
from relay.installation import install_command

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanContext

Kind = Literal["server", "client", "producer"]
Attributes = Mapping[str, str | int | float | bool]

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
"""The version of the semantic conventions that the names of attributes follow."""
FLUSH_SECONDS = 5.0
"""Maximum wait for the queued spans at a stop."""
MAX_LINKS = 100
"""Maximum events that the span of one request links."""
_NONE: Attributes = {}
_READS_HEADERS = "opentelemetry.util.re"
"""The SDK's logger of headers that it cannot read and ignores."""
_HEADERS_WRONG = "OTEL_EXPORTER_OTLP_HEADERS: a header is ignored. Write name=value, separated by commas"

log = structlog.get_logger("relay.tracing")


class Span:
    """A started span. It is exported once it ends."""

    __slots__ = ("_span", "context")

    def __init__(self, span: Any, context: TraceContext | None) -> None:
        """`span`: the SDK's; None if it could not make one. `context`: passed on; None: nothing is."""
        self._span = span
        self.context = context

    def set(self, name: str, value: str | int) -> None:
        """Sets an attribute."""
        if self._span is not None:
            self._span.set_attribute(name, value)

    def failed(self, error_type: str) -> None:
        """Marks the operation as failed. `error_type`: a short word, never text from outside."""
        if self._span is not None:
            from opentelemetry.trace import StatusCode

            self._span.set_attribute("error.type", error_type)
            self._span.set_status(StatusCode.ERROR)

    def end(self, at: float | None = None) -> None:
        """Ends it, now or at a time in epoch seconds."""
        if self._span is not None:
            self._span.end(None if at is None else int(at * 1e9))


class Tracing:
    """Makes spans. No call raises or waits."""

    def __init__(self, processor: Any) -> None:
        """`processor`: a SpanProcessor of the SDK, which gets the ended spans."""
        from opentelemetry import trace
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider

        own = {"service.name": "revor-relay", "service.version": __version__}
        resource = Resource.create({**own, **OTELResourceDetector().detect().attributes})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("relay", __version__, schema_url=SCHEMA_URL)
        self._trace = trace
        self._kinds = {kind: trace.SpanKind[kind.upper()] for kind in ("server", "client", "producer")}

    def begin(
        self,
        name: str,
        kind: Kind,
        parent: TraceContext | None,
        attributes: Attributes = _NONE,
        *,
        links: Sequence[TraceContext] = (),
        at: float | None = None,
    ) -> Span:
        """A span that begins now, or at a time in epoch seconds. Without a parent it begins a trace."""
        try:
            span = self._tracer.start_span(
                name,
                context=self._parent(parent),
                kind=self._kinds[kind],
                attributes=attributes,
                links=[self._trace.Link(self._remote(link)) for link in links],
                start_time=None if at is None else int(at * 1e9),
            )
            made = span.get_span_context()
        except Exception as error:  # from a sampler that the operator chose
            log.warning("span_failed", error=type(error).__name__)
            return Span(None, parent)
        if not made.is_valid:  # OTEL_SDK_DISABLED
            return Span(None, parent)
        state = "" if parent is None else parent.tracestate
        ids = f"{made.trace_id:032x}", f"{made.span_id:016x}"
        return Span(span, span_context(*ids, int(made.trace_flags), state))

    @contextmanager
    def span(
        self, name: str, kind: Kind, parent: TraceContext | None, attributes: Attributes = _NONE
    ) -> Iterator[Span]:
        """A span around a block. It is marked as failed if the block raises."""
        span = self.begin(name, kind, parent, attributes)
        try:
            yield span
        except BaseException as error:
            span.failed(error.code if isinstance(error, RequestError) else type(error).__name__)
            raise
        finally:
            span.end()

    def sending(
        self, subscription: Subscription, kind: str, events: Sequence[Event], deliveries: Sequence[str | None]
    ) -> Span:
        """The span of an attempt. It continues the trace of its only event; those of several are linked."""
        found = [context for event in events[:MAX_LINKS] if (context := of_event(event.body)) is not None]
        attributes: dict[str, Any] = {
            "messaging.system": kind,
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": subscription.id,
        }
        if len(events) == 1:
            attributes["messaging.message.id"] = events[0].id
            attributes["cloudevents.event_type"] = events[0].type
            if deliveries[0] is not None:
                attributes["relay.delivery.id"] = deliveries[0]
        else:
            attributes["messaging.batch.message_count"] = len(events)
        parent = found[0] if found and len(events) == 1 else None
        return self.begin(f"send {subscription.id}", "client", parent, attributes, links=found)

    async def close(self, timeout_seconds: float) -> None:
        """Exports the queued spans within the time. An exporter that hangs is left to its thread."""
        loop, closed = asyncio.get_running_loop(), asyncio.Event()

        def close() -> None:
            with suppress(Exception):
                self._provider.shutdown()
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(closed.set)

        Thread(target=close, name="tracing-close", daemon=True).start()
        with suppress(TimeoutError):
            await asyncio.wait_for(closed.wait(), min(timeout_seconds, FLUSH_SECONDS))

    def _parent(self, parent: TraceContext | None) -> "Context":
        from opentelemetry.context import Context

        if parent is None:
            return Context()
        return self._trace.set_span_in_context(self._trace.NonRecordingSpan(self._remote(parent)), Context())

    def _remote(self, context: TraceContext) -> "SpanContext":
        return self._trace.SpanContext(
            int(context.trace_id, 16),
            int(context.span_id, 16),
            is_remote=True,
            trace_flags=self._trace.TraceFlags(context.flags),
            trace_state=self._trace.TraceState.from_header([context.tracestate]) if context.tracestate else None,
        )


def request_span(
    tracing: Tracing | None, name: str, kind: Kind, headers: Sequence[Header]
) -> AbstractContextManager[Span]:
    """The span of a request with these headers. Without spans nothing is exported, and its context is the caller's."""
    trace = of_headers(headers)
    return nullcontext(Span(None, trace)) if tracing is None else tracing.span(name, kind, trace)


def start_tracing() -> Tracing:
    """Spans that are exported by OTLP over HTTP. Raises SettingsError without the extra `otel`, and for a variable that
    the SDK cannot read."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise SettingsError(f"tracing.enabled needs the extra otel: {install_command('otel')}") from None
    logging.getLogger(_READS_HEADERS).addFilter(_without_header)
    try:
        return Tracing(BatchSpanProcessor(OTLPSpanExporter()))
    except Exception as error:
        names = ", ".join(sorted(name for name in os.environ if name.startswith("OTEL_"))) or "none is set"
        raise SettingsError(f"tracing.enabled: the variables of OpenTelemetry are wrong ({names}): {error}") from None


def _without_header(record: logging.LogRecord) -> bool:
    """Removes the header, which may be a secret, from a log line."""
    record.msg, record.args = _HEADERS_WRONG, None
    return True
