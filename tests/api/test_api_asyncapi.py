"""The AsyncAPI description: it names every event and every way out, and what is sent is as it says."""

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft7Validator, Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT7, DRAFT202012

from relay import __version__
from relay.api.app import asyncapi_json
from relay.core.deliveries.broker import Message
from relay.core.deliveries.delivery import OutboundRequest
from relay.core.events.event import Event, source_event_types
from relay.core.samples import sample_event
from relay.core.subscriptions.filters import known_types
from relay.core.subscriptions.subscription import Subscription
from relay.sources.definition import load_definition
from subscribers import registry
from subscribers.base import RenderContext
from subscribers.common.brokers import ToBroker
from subscribers.kafka import Kafka
from subscribers.nats import Nats
from subscribers.rabbitmq import RabbitMq
from tests.support.api_world import ORIGIN, SETTINGS
from tests.support.npm import npm_folder
from tests.support.scale import soak_only

REVOR = load_definition("revor").event_origins("https://revor.ai", ORIGIN.dataschema)
DEFAULT = replace(
    SETTINGS, version=__version__, dev=False, origins={("revor", key): origin for key, origin in REVOR.items()}
)
DOCUMENT: dict[str, Any] = orjson.loads(asyncapi_json(DEFAULT))
TYPES = known_types(REVOR.values())
PUBLISHED = "com.acme.order.paid"
NPM_PACKAGES = ("@asyncapi/parser@3.4.0",)
SCRIPT = """
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";
const told = [];
for (const file of process.argv.slice(2)) {
  const { document, diagnostics } = await new Parser().parse(readFileSync(file, "utf8"));
  const complaints = diagnostics.filter(({ code }) => code !== "asyncapi-latest-version");
  told.push({
    complaints: complaints.map(({ severity, code, path, message }) => [severity, code, path.join("/"), message]),
    channels: document?.channels().all().map((channel) => channel.id()),
    messages: document?.channels().get("nats")?.messages().all().map((message) => message.name()),
  });
}
console.log(JSON.stringify(told));
"""


@soak_only
@pytest.mark.verify
def test_parser_of_asyncapi_accepts_it_without_a_warning(tmp_path: Path) -> None:
    folder = npm_folder(tmp_path, NPM_PACKAGES)
    broken = {key: DOCUMENT[key] for key in ("asyncapi", "info")} | {"channels": {"nats": {"messages": {"a": 1}}}}
    (folder / "broken.json").write_bytes(orjson.dumps(broken))
    (folder / "look.mjs").write_text(SCRIPT, encoding="utf-8")
    (folder / "asyncapi.json").write_bytes(orjson.dumps(DOCUMENT))
    command = ["node", "look.mjs", "asyncapi.json", "broken.json"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    told, of_broken = json.loads(ran.stdout)
    assert told["complaints"] == []
    assert told["channels"] == list(DOCUMENT["channels"])
    assert set(TYPES) | {"published"} <= set(told["messages"])
    assert of_broken["complaints"]


# --- it is complete


def test_every_documented_event_type_is_described_and_no_other() -> None:
    documented = (Path(__file__).parents[2] / "docs" / "reference" / "events.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `((?:relay|ai\.revor)\.[a-z_.]+)`", documented, flags=re.MULTILINE)
    described = {name for name in DOCUMENT["channels"]["webhook"]["messages"] if name in TYPES}
    as_of_jobs = {name.replace(".job.", ".webset.") for name in rows}  # "the other types of a webset are those above"
    assert set(rows) | (described & as_of_jobs) == described


# --- it is true


def _registry(specification: Any) -> Registry[Any]:
    return Registry().with_resource("urn:asyncapi", specification.create_resource(DOCUMENT))


REGISTRY, REGISTRY_7 = _registry(DRAFT202012), _registry(DRAFT7)


def _absolute(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: f"urn:asyncapi{v}" if k == "$ref" else _absolute(v) for k, v in value.items()}
    return [_absolute(part) for part in value] if isinstance(value, list) else value


def faults(schema: Any, value: Any) -> list[str]:
    """What is wrong with a value, for a reader of JSON Schema draft 7 and for one of 2020-12: both say the same."""
    schema = _absolute(schema)
    found = [error.message for error in Draft202012Validator(schema, registry=REGISTRY).iter_errors(value)]
    old = [error.message for error in Draft7Validator(schema, registry=REGISTRY_7).iter_errors(value)]
    assert bool(found) == bool(old)
    return found


MESSAGES: dict[str, dict[str, Any]] = DOCUMENT["components"]["messages"]


KINDS: dict[str, tuple[ToBroker, dict[str, str]]] = {
    "kafka": (Kafka(), {"topicname": "jobs"}),
    "nats": (Nats(), {"subject": "jobs"}),
    "rabbitmq": (RabbitMq(), {"address": "/exchanges/jobs/all"}),
}


def _event(type: str) -> Event:
    origin = next((one for one in REVOR.values() if type in source_event_types(one)), ORIGIN)
    return sample_event(
        type, event_id="evt_01jvpq0000000000000000000e", now=1779271208.0, origin=origin, dataschema_base="http://x"
    )


def _described(channel: str, name: str, content_type: str | None, body: bytes) -> None:
    assert DOCUMENT["channels"][channel]["messages"][name] == {"$ref": f"#/components/messages/{name}"}
    assert not faults(MESSAGES[name]["payload"], orjson.loads(body)), (channel, name)
    assert content_type == MESSAGES[name]["contentType"]


@pytest.mark.parametrize("channel", KINDS)
def test_messages_of_brokers_are_as_described(channel: str) -> None:
    kind, settings = KINDS[channel]
    sink = f"{kind.schemes[0]}://broker.example"
    subscription = Subscription(id="sub_1", sink=sink, kind=kind.name, options={"protocolsettings": settings})
    for type in (*TYPES, PUBLISHED):
        message: Message = kind.message(_event(type), subscription, RenderContext())
        _described(channel, "published" if type == PUBLISHED else type, message.content_type, message.body)


@pytest.mark.parametrize("mode", ["structured", "batch"])
def test_requests_to_webhooks_are_as_described(mode: str) -> None:
    kind = registry.kind_named("webhook")
    subscription = Subscription(id="sub_1", sink="https://x.example", kind="webhook", options={"content_mode": mode})
    for type in (*TYPES, PUBLISHED):
        request: OutboundRequest = kind.render(_event(type), subscription, RenderContext())
        name = "batch" if mode == "batch" else "published" if type == PUBLISHED else type
        content_type = {key.lower(): value for key, value in request.headers}["content-type"]
        _described("webhook", name, content_type, request.body)


# --- it is served


async def test_description_is_served_to_everyone_and_tells_no_names(client: Any) -> None:
    answer = await client.get("/asyncapi.json", headers={"Authorization": ""})
    assert answer.status_code == 200
    assert answer.json() == orjson.loads(asyncapi_json(replace(SETTINGS, host="10.0.0.7", port=8081)))
    for secret in ('"emea"', ORIGIN.source, "127.0.0.1:8081"):
        assert secret not in answer.text
