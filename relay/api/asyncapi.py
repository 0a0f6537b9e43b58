"""Builds the AsyncAPI 3 description: where events go in and come out, and what each of them is.

It is made from what the OpenAPI description is made from: the operations, their models, and the files of `schemas/`.
`schemas/asyncapi.yaml` is the description with the default settings.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from relay.api.catalogue import EXAMPLES, OPERATIONS
from relay.api.event_schemas import PUBLISHED, SIGNED, event_schemas, ref, types_by_component
from relay.api.events import CloudEvent
from relay.api.openapi import FREE, query_schema, schemas_of
from relay.api.operations import Operation
from relay.api.ports import ApiSettings
from relay.core.bus import SINK_SCHEMES
from relay.core.events import BATCH_CONTENT_TYPE, CONTENT_TYPE, Origin, source_event_types
from relay.core.filters import known_types
from relay.core.samples import published_sample, sample_event

_SAMPLE_ID = "evt_01jvpq0000000000000000000e"
_SAMPLE_TIME = 1779271208.0
_EXAMPLE_URL = "http://127.0.0.1:8080"
_FREE_TYPE = "com.acme.order.paid"
"""The type of the sample of an event that another program publishes."""
_TEXT = {"type": "string"}
_JSON = "application/json"

_DESCRIPTION = """Turns a pull-only job API into events, and takes CloudEvents of other programs into the same outbox.

Every event is a CloudEvent 1.0. It reaches each subscription that matches it at least once, always with the same `id`,
and in order within a job or a `partitionkey`. A subscription chooses one way out: requests to its URL, a broker, or
pulling. Chats and CRMs get messages and records in the form of their vendor, which are not described here. The HTTP API
is described at `/openapi.json`."""


def asyncapi_document(settings: ApiSettings) -> dict[str, Any]:
    """The description as JSON: every event type that there is with these settings."""
    prefixes = list(dict.fromkeys(origin.type_prefix for origin in settings.origins.values()))
    known = known_types(prefixes)
    schemas = {component: dict(schema) for component, schema in event_schemas().items()}
    models, definitions = schemas_of([model for operation in _operations() for model in _models(operation)])
    components = types_by_component(known)
    definitions["PulledDelivery"]["properties"]["event"] = _any_of(components)
    del definitions[CloudEvent.__name__]
    traits = dict(_traits(known, prefixes, components))
    schemas |= {type: _typed(component, type) for component, of in components.items() for type in of}
    return {
        "asyncapi": "3.0.0",
        "id": "urn:revor-relay",
        "info": _info(settings.version),
        "defaultContentType": CONTENT_TYPE,
        "servers": dict(_servers(settings)),
        "channels": {name: _channel(name, known, components, models) for name in _CHANNELS},
        "operations": _sending() | _answering(),
        "components": {
            "schemas": dict(sorted((schemas | definitions).items())),
            "messageTraits": traits,
            "securitySchemes": _SECURITY,
        },
    }


def _info(version: str) -> dict[str, Any]:
    home = "https://github.com/revor-relay/revor-relay"
    return {
        "title": "revor-relay",
        "version": version,
        "description": _DESCRIPTION,
        # Readers of such descriptions want an address; this one says by its form that it takes no mail.
        "contact": {"name": "revor-relay", "url": f"{home}/issues", "email": "noreply@revor-relay.invalid"},
        "license": {"name": "Apache-2.0", "url": f"{home}/blob/main/LICENSE"},
        "externalDocs": {"url": f"{home}/blob/main/docs/bus.md", "description": "The event bus"},
        "tags": [{"name": "events"}, {"name": "jobs"}],
    }


# --- servers


def _servers(settings: ApiSettings) -> Iterator[tuple[str, dict[str, Any]]]:
    scheme, _, host = (settings.public_url or _EXAMPLE_URL).rstrip("/").partition("://")
    host, slash, path = host.partition("/")
    relay = {**_server(scheme, "The relay.", host, "relay"), "security": _secured("token")}
    yield "relay", {**relay, **({"pathname": f"/{path}"} if slash else {})}
    receiver = "The receiver that a subscription's `sink` names. Requests are signed; a `sinkcredential` is sent too."
    credentials = ("receiverPassword", "receiverToken", "receiverHeader", "receiverClient")
    yield (
        "receiver",
        {**_server("https", receiver, "receiver.example", "receiver"), "security": _secured(*credentials)},
    )
    for name, (protocol, port, secure) in SINK_SCHEMES.items():
        how = "with TLS" if secure else "without TLS: only inside `security.allow_networks`"
        server = _server(_PROTOCOLS[name], f"The broker of a sink `{name}://…`, {how}.", f"broker.example:{port}", name)
        yield name, {**server, "security": _secured(*_BROKER_SECURITY[protocol])}


def _server(protocol: str, description: str, host: str, variable: str) -> dict[str, Any]:
    return {
        "host": f"{{{variable}}}",
        "protocol": protocol,
        "description": description,
        "variables": {variable: {"default": host, "description": "Host and port."}},
    }


def _secured(*names: str) -> list[dict[str, str]]:
    return [{"$ref": f"#/components/securitySchemes/{name}"} for name in names]


_PROTOCOLS = {
    **{"kafka": "kafka", "kafkas": "kafka-secure", "nats": "nats", "tls": "nats", "amqp": "amqp", "amqps": "amqps"}
}
"""The names that AsyncAPI has for what the schemes of sinks stand for."""
_BROKER_SECURITY = {
    "KAFKA": ("saslPlain", "saslScram256", "saslScram512", "oauthBearer"),
    "NATS": ("brokerPassword", "natsToken", "natsKey"),
    "AMQP": ("brokerPassword",),
}
_SECURITY: dict[str, dict[str, Any]] = {
    "token": {"type": "http", "scheme": "bearer", "description": "A token of the relay."},
    "receiverPassword": {"type": "http", "scheme": "basic", "description": "Credential type `PLAIN`."},
    "receiverToken": {"type": "http", "scheme": "bearer", "description": "`ACCESSTOKEN` and `REFRESHTOKEN`."},
    "receiverHeader": {
        "type": "httpApiKey",
        "in": "header",
        "name": "X-Api-Key",
        "description": "Credential type `HEADER`. The subscription names the header.",
    },
    "receiverClient": {
        "type": "oauth2",
        "description": "Credential type `CLIENTCREDENTIALS`. The subscription names the token's URL and scopes.",
        "flows": {"clientCredentials": {"tokenUrl": "https://issuer.example/token", "availableScopes": {}}},
    },
    "saslPlain": {"type": "plain", "description": "Credential type `PLAIN`, over TLS only."},
    "saslScram256": {"type": "scramSha256", "description": "`PLAIN` with `saslmechanism: SCRAM-SHA-256`."},
    "saslScram512": {"type": "scramSha512", "description": "`PLAIN` with `saslmechanism: SCRAM-SHA-512`."},
    "oauthBearer": {"type": "http", "scheme": "bearer", "description": "SASL OAUTHBEARER: `ACCESSTOKEN`."},
    "brokerPassword": {"type": "userPassword", "description": "Credential type `PLAIN`."},
    "natsToken": {"type": "apiKey", "in": "password", "description": "A token: `ACCESSTOKEN`."},
    "natsKey": {"type": "asymmetricEncryption", "description": "Credential type `NKEY`."},
}


# --- channels

_NAMED_BY = "`protocolsettings.{name}` of the subscription, which may be a template."


def _named_by(name: str) -> dict[str, str]:
    return {"description": _NAMED_BY.format(name=name)}


_CHANNELS: dict[str, Mapping[str, Any]] = {
    "publish": {
        "title": "Published events",
        "description": "Other programs publish here. An event that the relay has already goes out once.",
        "address": "/v1/events",
        "servers": ("relay",),
    },
    "webhook": {
        "title": "Webhooks",
        "description": "The `sink` of a subscription with `protocol: HTTP`, or a job's `callback_url`.",
        "address": None,
        "servers": ("receiver",),
    },
    "kafka": {
        "title": "Topics of Kafka",
        "description": "Of a subscription with `protocol: KAFKA`.",
        "address": "{topicname}",
        "servers": ("kafka", "kafkas"),
        "parameters": {"topicname": _named_by("topicname")},
    },
    "nats": {
        "title": "Subjects of NATS JetStream",
        "description": "Of a subscription with `protocol: NATS`. A stream must have the subject.",
        "address": "{subject}",
        "servers": ("nats", "tls"),
        "parameters": {"subject": _named_by("subject")},
    },
    "rabbitmqExchange": {
        "title": "Exchanges of RabbitMQ",
        "description": "Of a subscription with `protocol: AMQP` and the address `/exchanges/NAME/ROUTING-KEY`.",
        "address": "{routingkey}",
        "servers": ("amqp", "amqps"),
        "parameters": {"routingkey": {"description": "The last part of `protocolsettings.address`."}},
        "bindings": {"amqp": {"is": "routingKey", "exchange": {"durable": True}, "bindingVersion": "0.3.0"}},
    },
    "rabbitmqQueue": {
        "title": "Queues of RabbitMQ",
        "description": "Of a subscription with `protocol: AMQP` and the address `/queues/NAME`.",
        "address": "{queue}",
        "servers": ("amqp", "amqps"),
        "parameters": {"queue": {"description": "The last part of `protocolsettings.address`."}},
        "bindings": {"amqp": {"is": "queue", "queue": {"durable": True}, "bindingVersion": "0.3.0"}},
    },
    "stream": {
        "title": "Stream of all events",
        "description": "Server-sent events: `id` is the relay's id of the event, `event` its type, `data` the event.",
        "address": "/v1/events/stream",
        "servers": ("relay",),
    },
    "jobStream": {
        "title": "Stream of a job's events",
        "description": "As the stream of all events. It ends after the last event of the job.",
        "address": "/v1/jobs/{id}/events",
        "servers": ("relay",),
        "parameters": {"id": {"description": "The job's uid or upstream id."}},
    },
}
_CHANNELS |= {
    name: {
        "title": title,
        "description": description,
        "address": f"/v1/subscriptions/{{id}}/{name}",
        "servers": ("relay",),
        "parameters": {"id": {"description": "The id of a subscription with `protocol: PULL`."}},
    }
    for name, title, description in (
        ("pull", "Pulled events", "A program asks for its events, and has them under a lease."),
        ("ack", "Acknowledgements of pulled events", "What it has processed."),
        ("nack", "Returns of pulled events", "What it has not processed, and is handed out again."),
    )
}
_HTTP_ANSWERS = "Any 2xx accepts. 410 ends the subscription; 429 and 503 with `Retry-After` pause it."
_SENDS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "webhook": ("sendRequest", _HTTP_ANSWERS, {"http": {"method": "POST", "bindingVersion": "0.3.0"}}),
    "kafka": (
        "publishToKafka",
        "Delivered once all in-sync replicas have the record (`acks=all`, idempotent).",
        {
            "kafka": {
                "clientId": {"type": "string", "description": "`clientid` of the subscription, else `revor-relay`."},
                "bindingVersion": "0.5.0",
            }
        },
    ),
    "nats": (
        "publishToNats",
        "Delivered once JetStream has acknowledged the message. A repetition of a delivery has the same `Nats-Msg-Id`.",
        {"nats": {"bindingVersion": "0.1.0"}},
    ),
    "rabbitmqExchange": (
        "publishToExchange",
        "Delivered once the broker has confirmed the message. A message that no queue takes is tried again.",
        {"amqp": {"deliveryMode": 2, "mandatory": True, "bindingVersion": "0.3.0"}},
    ),
    "rabbitmqQueue": (
        "publishToQueue",
        "Delivered once the broker has confirmed the message.",
        {"amqp": {"deliveryMode": 2, "mandatory": True, "bindingVersion": "0.3.0"}},
    ),
}
_STREAMS = {"stream": "streamEvents", "jobStream": "listJobEvents"}
"""Channels that are streams, and their operation of the HTTP API."""
_ANSWERED = {
    **{"publish": "publishEvents", "pull": "pullDeliveries", "ack": "ackDeliveries", "nack": "nackDeliveries"},
}
"""Channels that answer, and their operation of the HTTP API."""
_AMQP_PREFIX = "cloudEvents_"
_BINARY_PREFIXES = {
    **{"webhook": "ce-", "kafka": "ce_", "nats": "ce-"},
    **{"rabbitmqExchange": _AMQP_PREFIX, "rabbitmqQueue": _AMQP_PREFIX},
}
"""What the names of attributes begin with in binary mode, in channels that have it."""
_STRUCTURED_TRAITS = {
    **{"webhook": "webhook", "kafka": "kafka", "nats": "nats", "rabbitmqExchange": "amqp", "rabbitmqQueue": "amqp"},
    **{"stream": "serverSentEvent", "jobStream": "serverSentEvent"},
}


def _operation(id: str) -> Operation:
    found: dict[str, Operation] = {operation.id: operation for operation in OPERATIONS}
    return found[id]


def _operations() -> list[Operation]:
    return [_operation(id) for id in _ANSWERED.values()]


def _models(operation: Operation) -> list[type]:
    found = (operation.body, *operation.also_bodies, *(answer.model for answer in operation.answers.values()))
    return [model for model in found if model is not None]


def _channel(
    name: str, known: Sequence[str], components: Mapping[str, Sequence[str]], models: Mapping[type, Mapping[str, Any]]
) -> dict[str, Any]:
    given = _CHANNELS[name]
    document = {key: value for key, value in given.items() if key != "servers"}
    document["servers"] = [{"$ref": f"#/servers/{server}"} for server in given["servers"]]
    if name in _ANSWERED:
        document["messages"] = _requests(_operation(_ANSWERED[name]), models)
        return document
    trait, prefix = _STRUCTURED_TRAITS[name], _BINARY_PREFIXES.get(name)
    types = [type for type in known if name != "jobStream" or type in components.get("JobStatusEvent", ())]
    messages = {type: _message(ref(type), trait, type) for type in types}
    if name != "jobStream":
        messages["published"] = _message(ref(PUBLISHED), trait, "published")
    if prefix is not None:
        for component in (*components, PUBLISHED):
            data = ref(component, "properties", "data")
            messages[f"{component}.binary"] = _message(data, f"{trait}Binary", f"{prefix}{component}")
    if name == "webhook":
        payload = {"type": "array", "minItems": 1, "items": _any_of(components)}
        messages["batch"] = _message(payload, "webhookBatch")
    document["messages"] = messages
    return document


def _message(payload: Mapping[str, Any], *traits: str) -> dict[str, Any]:
    return {"payload": payload, "traits": [{"$ref": f"#/components/messageTraits/{trait}"} for trait in traits]}


def _any_of(components: Iterable[str]) -> dict[str, Any]:
    """An event of any type."""
    return {"anyOf": [ref(component) for component in (*components, PUBLISHED)]}


def _typed(component: str, type: str) -> dict[str, Any]:
    return {"allOf": [ref(component), {"properties": {"type": {"const": type}}}]}


def _requests(operation: Operation, models: Mapping[type, Mapping[str, Any]]) -> dict[str, Any]:
    """What an operation of the HTTP API takes and answers."""
    messages: dict[str, Any] = {}
    bodies = [model for model in (operation.body, *operation.also_bodies) if model is not None]
    media_types = operation.media_types or (_JSON,)
    for model, media_type in zip(bodies, media_types, strict=True):
        messages[model.__name__] = _of_model(model, models, media_type)
    if operation.id == "publishEvents":
        messages[f"{PUBLISHED}.binary"] = _message(
            ref(PUBLISHED, "properties", "data"), "httpBinary", f"ce-{PUBLISHED}"
        )
    for status, answer in operation.answers.items():
        if answer.model is not None:
            binding = {"http": {"statusCode": status, "bindingVersion": "0.3.0"}}
            messages[answer.model.__name__] = {**_of_model(answer.model, models, _JSON), "bindings": binding}
    return messages


def _of_model(model: type, models: Mapping[type, Mapping[str, Any]], content_type: str) -> dict[str, Any]:
    name = model.__name__
    example = {"name": name, "payload": EXAMPLES[name]}
    return {
        "name": name,
        "title": name,
        "contentType": content_type,
        "payload": models[model],
        # A payload of an example is an object: AsyncAPI 3.0, Message Example Object.
        **({"examples": [example]} if isinstance(EXAMPLES[name], dict) else {}),
    }


# --- what is common to messages


def _traits(
    known: Sequence[str], prefixes: Sequence[str], components: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Per way out what it adds, per event type its example, per schema its binary mode."""
    yield from _WAYS.items()
    titles = {type: event_schemas()[component]["title"] for component, of in components.items() for type in of}
    for type in known:
        prefix = next((prefix for prefix in prefixes if type in source_event_types(prefix)), "")
        sample = _sample(type, prefix)
        yield type, {"name": type, "title": f"{titles[type]}: {type}", "examples": [{"name": type, "payload": sample}]}
    sample = published_sample(_FREE_TYPE, _SAMPLE_ID, _SAMPLE_TIME, {}).document()
    summary = "An event that another program has published: its attributes, `id` included, and its data."
    example = {"name": "published", "payload": sample}
    yield "published", {"name": "published", "title": "Published event", "summary": summary, "examples": [example]}
    for component, prefix in (
        (component, prefix) for component in (*components, PUBLISHED) for prefix in ("ce-", "ce_", _AMQP_PREFIX)
    ):
        yield f"{prefix}{component}", _binary(component, components.get(component), prefix)


def _sample(type: str, prefix: str) -> dict[str, Any]:
    """A sample of one of the relay's types. Its source is none of the relay's: who may read this may not know those."""
    origin = Origin(
        source="https://upstream.example/api/jobs",
        account_source="https://upstream.example/api/accounts",
        type_prefix=prefix,
        dataschema=f"{_EXAMPLE_URL}/schemas/job-status.v1.json",
    )
    event = sample_event(type, event_id=_SAMPLE_ID, now=_SAMPLE_TIME, origin=origin, dataschema_base=_EXAMPLE_URL)
    return event.document()


def _binary(component: str, types: Sequence[str] | None, prefix: str) -> dict[str, Any]:
    """An event in binary mode: its attributes as headers."""
    if types is None:
        needed: Sequence[str] = ("specversion", "id", "source", "type")
        names: Sequence[str] = (*needed, "subject", "time", "dataschema", "partitionkey")
    else:
        schema = event_schemas()[component]
        names, needed = list(schema["properties"]), schema["required"]
    left_out = ("data", "data_base64", "datacontenttype")
    headers: dict[str, Any] = {f"{prefix}{name}": _TEXT for name in names if name not in left_out}
    headers[f"{prefix}specversion"] = {"const": "1.0"}
    headers[f"{prefix}type"] = FREE if types is None else {"enum": list(types)}
    required = [f"{prefix}{name}" for name in needed if name not in left_out]
    return {
        "name": f"{component}.binary",
        "title": f"{component} in binary mode",
        "summary": "The data; each attribute of the event is a header; `datacontenttype` is the content type.",
        "contentType": _JSON,
        "headers": {"type": "object", "properties": headers, "required": required},
    }


def _headers(**named: str) -> dict[str, Any]:
    found = {name.replace("_", "-"): {"type": "string", "description": text} for name, text in named.items()}
    return {"type": "object", "properties": found, "required": list(found)}


_HTTP_BINDING = {"http": {"headers": SIGNED, "bindingVersion": "0.3.0"}}
_KAFKA_BINDING = {
    "kafka": {
        "key": {
            "type": "string",
            "description": "`partitionkeyextractor` of the subscription, else the event's `partitionkey`, if any.",
        },
        "bindingVersion": "0.5.0",
    }
}
_AMQP_BINDING = {"amqp": {"contentEncoding": "utf-8", "bindingVersion": "0.3.0"}}
_KAFKA_HEADERS = _headers(webhook_id="The relay's id of the event. A record that is there twice has it twice.")
_NATS_HEADERS = _headers(
    webhook_id="The relay's id of the event.",
    Nats_Msg_Id="The id of the delivery, after a replay or a retry by hand with its number. JetStream drops a "
    "repetition by it.",
)
_NATS_BINARY_HEADERS = {
    **_NATS_HEADERS,
    "properties": {
        **_NATS_HEADERS["properties"],
        "ce-datacontenttype": {"type": "string", "description": "Here `datacontenttype` is a header as the others."},
    },
}
_WAYS: dict[str, dict[str, Any]] = {
    "webhook": {"contentType": CONTENT_TYPE, "headers": SIGNED, "bindings": _HTTP_BINDING},
    "webhookBatch": {
        "name": "batch",
        "title": "Batch of events",
        "summary": "Of a subscription with `content_mode: batch`. One answer is for all events in it.",
        "contentType": BATCH_CONTENT_TYPE,
        "headers": SIGNED,
        "bindings": _HTTP_BINDING,
    },
    "webhookBinary": {"headers": SIGNED, "bindings": _HTTP_BINDING},
    "httpBinary": {},
    "kafka": {"contentType": CONTENT_TYPE, "headers": _KAFKA_HEADERS, "bindings": _KAFKA_BINDING},
    "kafkaBinary": {"headers": _KAFKA_HEADERS, "bindings": _KAFKA_BINDING},
    "nats": {"contentType": CONTENT_TYPE, "headers": _NATS_HEADERS, "bindings": {"nats": {"bindingVersion": "0.1.0"}}},
    "natsBinary": {"headers": _NATS_BINARY_HEADERS},
    "amqp": {"contentType": CONTENT_TYPE, "bindings": _AMQP_BINDING},
    "amqpBinary": {"bindings": _AMQP_BINDING},
    "serverSentEvent": {"contentType": CONTENT_TYPE},
}


# --- operations


def _sending() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for channel, (id, description, bindings) in _SENDS.items():
        found[id] = _does("send", channel, f"Send events: {_CHANNELS[channel]['title'].lower()}", description, bindings)
    for channel, id in _STREAMS.items():
        operation = _operation(id)
        description = f"{operation.description} Resumes after `Last-Event-ID`.".strip()
        found[f"{channel}Events" if channel != "stream" else id] = _does(
            "send", channel, operation.summary, description, {"http": _http_binding(operation)}
        )
    return found


def _answering() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for channel, id in _ANSWERED.items():
        operation = _operation(id)
        bindings = {"http": _http_binding(operation)}
        document = _does("receive", channel, operation.summary, operation.description, bindings)
        answers = [answer.model.__name__ for answer in operation.answers.values() if answer.model is not None]
        taken = [model.__name__ for model in (operation.body, *operation.also_bodies) if model is not None]
        binary = [f"{PUBLISHED}.binary"] if id == "publishEvents" else []
        place = f"#/channels/{channel}"
        document["messages"] = [{"$ref": f"{place}/messages/{name}"} for name in (*taken, *binary)]
        document["reply"] = {
            "channel": {"$ref": place},
            "messages": [{"$ref": f"{place}/messages/{name}"} for name in answers],
        }
        found[id] = document
    return found


def _does(action: str, channel: str, summary: str, description: str, bindings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        **({"description": description} if description else {}),
        "bindings": bindings,
    }


def _http_binding(operation: Operation) -> dict[str, Any]:
    binding: dict[str, Any] = {"method": operation.method, "bindingVersion": "0.3.0"}
    if operation.query:
        binding["query"] = query_schema(operation)
    return binding
