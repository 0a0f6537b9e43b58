"""Builds the AsyncAPI 3 description from the files of `schemas/`: each event type, and where events go in and out.

The requests of the HTTP API are described in full at `/openapi.json` only.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from relay.api.events.publishing import PublishedCloudEvent
from relay.api.http.dependencies import ApiSettings
from relay.api.openapi import EXAMPLES, PUBLISHED, component_of, event_schemas, ref, schemas_of
from relay.core.deliveries.broker import SINK_SCHEMES
from relay.core.events.event import BATCH_CONTENT_TYPE, CONTENT_TYPE, source_event_types
from relay.core.events.meanings import meaning_of
from relay.core.relay_events import SCHEMA_NAMES, schema_name_for
from relay.core.samples import sample_event
from relay.core.subscriptions.filters import known_types
from subscribers.registry import kind_named

_HOME = "https://github.com/revor-relay/revor-relay"
_EXAMPLE_URL = "http://127.0.0.1:8080"
_DESCRIPTION = """Turns a pull-only job API into events, and takes CloudEvents of other programs into the same outbox.

Every event is a CloudEvent 1.0. It reaches each subscription that matches it at least once, always with the same `id`,
and in order within a job or a `partitionkey`. Messages are in structured mode here; in binary mode the attributes are
headers, and the body is the data. Chats and CRMs get messages and records in the form of their vendor, which are not
described here. The HTTP API is described at `/openapi.json`."""


class Channel(NamedTuple):
    """A way in or out. `method`: of a request; `operation`: the name of the operation."""

    title: str
    operation: str
    servers: Sequence[str]
    description: str
    method: str | None = None
    address: str | None = None


def _broker(name: str, protocol: str, description: str) -> Channel:
    settings = kind_named(name).settings
    needed = "" if settings is None else settings.needed()
    title = f"Sinks of `protocol: {protocol}`; `{needed}` is in `protocolsettings`"
    schemes = [scheme for scheme, (of, _, _) in SINK_SCHEMES.items() if of == protocol]
    return Channel(title, f"publish_{name}", schemes, description, address=f"{{{needed}}}")


_ANY = "Signed by Standard Webhooks. Any 2xx accepts; 410 ends the subscription; 429 and 503 pause it."
_KAFKA = "Delivered once all in-sync replicas have the record (`acks=all`, idempotent)."
_NATS = "Delivered once JetStream has acknowledged. A repetition has the same `Nats-Msg-Id`."
_AMQP = "Delivered once the broker has confirmed the message. One that no queue takes is tried again."
_PULL = "Answers with a list of events under a lease. `/ack` acknowledges them, `/nack` returns them."
_STREAM = "Server-sent events. `Last-Event-ID` resumes."
_TAKEN = "An event with a known `source` and `id` is not sent again."
_CHANNELS: Mapping[str, Channel] = {
    "webhook": Channel("Sinks of `protocol: HTTP`, and callbacks", "send", ("receiver",), _ANY, "POST"),
    "kafka": _broker("kafka", "KAFKA", _KAFKA),
    "nats": _broker("nats", "NATS", _NATS),
    "rabbitmq": _broker("rabbitmq", "AMQP", _AMQP),
    "pull": Channel("Sinks of `protocol: PULL`", "pull", ("relay",), _PULL, "POST", "/v1/subscriptions/{id}/pull"),
    "stream": Channel("Stream of all events", "stream", ("relay",), _STREAM, "GET", "/v1/events/stream"),
    "publish": Channel("Events of other programs", "publish", ("relay",), _TAKEN, "POST", "/v1/events"),
}
_PROTOCOLS = {**{scheme: scheme for scheme in SINK_SCHEMES}, "kafkas": "kafka-secure", "tls": "nats"}
"""AsyncAPI's names for the schemes of sinks."""


def asyncapi_document(settings: ApiSettings) -> dict[str, Any]:
    """The description as JSON: every event type that there is with these settings."""
    models, definitions = schemas_of([PublishedCloudEvent])
    messages = dict(_messages(settings))
    messages["published"] = _message("published", models[PublishedCloudEvent], EXAMPLES[PUBLISHED])
    event = {"anyOf": [*(ref(component_of(name)) for name in SCHEMA_NAMES), ref(PUBLISHED)]}
    messages["batch"] = {**_message("batch", {"type": "array", "items": event}), "contentType": BATCH_CONTENT_TYPE}
    return {
        "asyncapi": "3.0.0",
        "id": "urn:revor-relay",
        "info": {
            "title": "revor-relay",
            "version": settings.version,
            "description": _DESCRIPTION,
            # Readers of such descriptions want an address; this one says by its form that it takes no mail.
            "contact": {"name": "revor-relay", "url": f"{_HOME}/issues", "email": "noreply@revor-relay.invalid"},
            "license": {"name": "Apache-2.0", "url": f"{_HOME}/blob/main/LICENSE"},
            "tags": [{"name": "events"}],
        },
        "defaultContentType": CONTENT_TYPE,
        "servers": dict(_servers(settings.public_url or _EXAMPLE_URL)),
        "channels": {name: _channel(name, list(messages)) for name in _CHANNELS},
        "operations": {channel.operation: _operation(name) for name, channel in _CHANNELS.items()},
        "components": {
            "schemas": {**event_schemas(), **definitions},
            "messages": messages,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "A token of the relay."}},
        },
    }


def _messages(settings: ApiSettings) -> Iterator[tuple[str, dict[str, Any]]]:
    # An invented source: readers of this document may not know the relay's own.
    origins = [
        replace(
            origin,
            source="https://upstream.example/api/jobs",
            account_source=origin.account_source and "https://upstream.example/api/accounts",
            dataschema=f"{_EXAMPLE_URL}/schemas/job-status.v1.json",
        )
        for origin in settings.origins.values()
    ]
    for type in known_types(origins):
        origin = next((one for one in origins if type in source_event_types(one)), origins[0])
        id = "evt_01jvpq0000000000000000000e"
        sample = sample_event(type, event_id=id, now=1779271208.0, origin=origin, dataschema_base=_EXAMPLE_URL)
        schema = {"allOf": [ref(component_of(schema_name_for(type))), {"properties": {"type": {"const": type}}}]}
        yield type, {**_message(type, schema, sample.document()), "description": meaning_of(type)}


def _message(name: str, payload: Mapping[str, Any], example: Mapping[str, Any] | None = None) -> dict[str, Any]:
    examples = {} if example is None else {"examples": [{"name": name, "payload": example}]}
    return {"name": name, "title": name, "contentType": CONTENT_TYPE, "payload": payload, **examples}


def _servers(url: str) -> Iterator[tuple[str, dict[str, Any]]]:
    scheme, _, place = url.rstrip("/").partition("://")
    host, slash, path = place.partition("/")
    token = [{"$ref": "#/components/securitySchemes/token"}]
    yield "relay", {"host": host, "protocol": scheme, "security": token, **({"pathname": f"/{path}"} if slash else {})}
    yield "receiver", {"host": "receiver.example", "protocol": "https", "description": "The `sink` of a subscription."}
    for name, (_, port, _) in SINK_SCHEMES.items():
        how = f"The broker of a sink `{name}://…`. It may ask for the `sinkcredential` of the subscription."
        yield name, {"host": f"broker.example:{port}", "protocol": _PROTOCOLS[name], "description": how}


def _channel(name: str, messages: list[str]) -> dict[str, Any]:
    channel = _CHANNELS[name]
    if name == "publish":
        messages = ["published", "batch"]
    elif name != "webhook":
        messages = [message for message in messages if message != "batch"]
    return {
        "title": channel.title,
        "address": channel.address,
        "servers": [{"$ref": f"#/servers/{server}"} for server in channel.servers],
        "messages": {message: {"$ref": f"#/components/messages/{message}"} for message in messages},
        "parameters": {name: {} for name in re.findall(r"{(\w+)}", channel.address or "")},
    }


def _operation(name: str) -> dict[str, Any]:
    channel = _CHANNELS[name]
    return {
        "action": "receive" if name == "publish" else "send",
        "channel": {"$ref": f"#/channels/{name}"},
        "summary": channel.title,
        "description": channel.description,
        "bindings": {"http": {"method": channel.method, "bindingVersion": "0.3.0"}} if channel.method else {},
    }
