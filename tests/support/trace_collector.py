"""A collector of OTLP over HTTP on loopback. It keeps its spans, refuses them, or never answers."""

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.cli.demo.environment import listen, served, url_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """A span as the collector got it. Ids are hexadecimal digits; `links`: the ids of the linked spans."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    tracestate: str
    links: tuple[str, ...]
    attributes: dict[str, Any]
    failed: bool
    began_at: float
    ended_at: float
    schema_url: str
    resource: dict[str, Any]


@dataclass(kw_only=True)
class Collector:
    """`behaviour`: takes spans, refuses them with 503, or hangs."""

    url: str
    behaviour: Literal["takes", "refuses", "hangs"] = "takes"
    spans: list[Collected] = field(default_factory=list)
    requests: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """Set with each export."""

    def named(self, name: str) -> list[Collected]:
        """The spans whose name begins with a word."""
        return [span for span in self.spans if span.name.split(" ")[0] == name]

    async def take(self, request: Request) -> Response:
        """Answers an export."""
        self.requests += 1
        if self.behaviour == "hangs":
            await asyncio.Event().wait()
        if self.behaviour == "refuses":
            return Response(status_code=503)
        body = await request.body()
        exported = ExportTraceServiceRequest()
        exported.ParseFromString(gzip.decompress(body) if "content-encoding" in request.headers else body)
        for of_resource in exported.resource_spans:
            for of_scope in of_resource.scope_spans:
                resource = _values(of_resource.resource.attributes)
                self.spans += [_collected(span, of_scope.schema_url, resource) for span in of_scope.spans]
        self.arrived.set()
        return Response(b"", media_type="application/x-protobuf")


def _collected(span: Span, schema_url: str, resource: dict[str, Any]) -> Collected:
    return Collected(
        name=span.name,
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        tracestate=span.trace_state,
        links=tuple(link.span_id.hex() for link in span.links),
        attributes=_values(span.attributes),
        failed=span.status.code == Status.STATUS_CODE_ERROR,
        began_at=span.start_time_unix_nano / 1e9,
        ended_at=span.end_time_unix_nano / 1e9,
        schema_url=schema_url,
        resource=resource,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@contextlib.asynccontextmanager
async def open_collector() -> AsyncIterator[Collector]:
    """A collector that listens."""
    with contextlib.closing(listen()) as socket:
        collector = Collector(url=url_of(socket))
        app = Starlette(routes=[Route("/v1/traces", collector.take, methods=["POST"])])
        async with served(app, socket):
            yield collector
