"""Events of a node, checked by third-party verifiers, parsers and models."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import orjson
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http
from cloudevents.core.formats.json import JSONFormat
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from relay.clock import from_rfc3339
from relay.core.deliveries.bundles import message_id
from tests.support.e2e_world import Received, World, open_e2e_world
from tests.support.npm import npm_folder
from tests.support.schema_check import check_event

NPM_PACKAGES = ("standardwebhooks@1.1.1", "cloudevents@10.0.0")
METADATA = {
    "recipient_name": "Zoë “Z” O'Neil",
    "note": 'naïve — 🎉 \u2028 </script> \\ "',
    "deal": 42,
    "deep": [{"a": None}],
}
LIVES: tuple[dict[str, Any], ...] = (
    {"final": "succeeded"},
    {"final": "failed", "error_code": "insufficient_credits", "channel": "email"},
    {"final": "succeeded", "attempt_failures": 1, "retry_pause_seconds": 10, "channel": "whatsapp"},
    {"final": "cancelled", "attempt_failures": None, "start_delay_seconds": 30},
    {"final": "succeeded", "action": "outreach.linkedin.post_like", "skipped": True},
    {"final": "succeeded", "start_delay_seconds": 120},  # queued for so long that it is seen so on a busy machine too
)
SCRIPT = """
import { readFileSync } from "node:fs";
import { Webhook } from "standardwebhooks";
import { HTTP } from "cloudevents";

const { secret, requests } = JSON.parse(readFileSync(process.argv[2], "utf8"));
const webhook = new Webhook(secret);
const seen = [];
const told = ({ id, time, type, source, subject, sequence, specversion }) =>
  ({ id, time, type, source, subject, sequence, specversion });
for (const { headers, body } of requests) {
  if (headers["content-type"] === "application/json") {  // binary mode
    webhook.verify(body, headers);
    if (!headers["ce-id"] || !headers["ce-time"]) throw new Error("no id or no time: " + JSON.stringify(headers));
    const event = HTTP.toEvent({ headers, body });
    event.validate();
    if (JSON.stringify(event.data) !== body) throw new Error("other data: " + body);
    seen.push(told(event));
    continue;
  }
  const raw = JSON.parse(body);  // the parser fills in an id and a time where there is none
  if (Array.isArray(raw)) {
    webhook.verify(body, headers);
    const events = HTTP.toEvent({ headers, body });
    if (!Array.isArray(events) || events.length !== raw.length) throw new Error("no batch: " + body);
    for (const [nth, event] of events.entries()) {
      if (typeof raw[nth].id !== "string" || typeof raw[nth].time !== "string") throw new Error("no id: " + body);
      event.validate();
      if (JSON.stringify(event.data) !== JSON.stringify(raw[nth].data)) throw new Error("other data: " + body);
      seen.push(told(event));
    }
    continue;
  }
  if (typeof raw.id !== "string" || typeof raw.time !== "string") throw new Error("no id or no time: " + body);
  const verified = webhook.verify(body, headers);
  let forged = true;
  try { webhook.verify(body + " ", headers); } catch { forged = false; }
  if (forged) throw new Error("a changed body verifies");
  const event = HTTP.toEvent({ headers, body });
  event.validate();
  if (JSON.stringify(event.data) !== JSON.stringify(raw.data)) throw new Error("other data: " + body);
  if (JSON.stringify(verified) !== JSON.stringify(raw)) throw new Error("other event: " + body);
  seen.push(told(event));
}
console.log(JSON.stringify(seen));
"""


@pytest.fixture(autouse=True)
async def _bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(300):
        yield


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_e2e_world(tmp_path) as world:
        yield world


async def captured(world: World) -> tuple[str, dict[str, list[Received]]]:
    """The secret, and every request, by content mode, for the complete lifecycles of a few jobs and for the events
    about the relay."""
    job_types = [f"ai.revor.job.{kind}" for kind in ("queued", "scheduled", "running", "retrying")]
    ends = ("succeeded", "failed", "cancelled")
    types = [*job_types, *(f"ai.revor.job.{kind}" for kind in ends), "relay.source.unauthorized"]
    types.append("relay.source.recovered")
    made = await world.subscribe(types=types)
    for mode, batch in (("binary", None), ("batch", {"max_events": 20, "max_seconds": 0.3})):
        config = {"content_mode": mode, "batch": batch, "secret": made["config"]["secret"]}
        await world.subscribe(f"/{mode}", types=types, config=config)
    job_ids = [await world.job(metadata=METADATA, **life) for life in LIVES]
    await world.until(lambda: all(world.kinds(job_id)[-1:] and world.kinds(job_id)[-1] in ends for job_id in job_ids))
    await world.fault("revoked_key")
    last = await world.job()
    await world.until(lambda: "relay.source.unauthorized" in world.kinds())
    await world.heal()
    await world.probe()
    await world.until(lambda: len(world.kinds()) == 2 and "succeeded" in world.kinds(last))
    tested = await world.api.post(f"/v1/subscriptions/{made['id']}/test")
    assert tested.status_code == 200, tested.text
    assert tested.json()["attempt"]["response_headers"]["Content-Length"] == "2"
    requests = world.received["/events"]
    sample = requests[-1].event["id"]
    ids = {request.event["id"] for request in requests} - {sample}
    await world.until(lambda: {request.headers["ce-id"] for request in world.received["/binary"]} == ids)
    batches = world.received["/batch"]
    await world.until(lambda: {event["id"] for request in batches for event in request.event} == ids)
    kinds = {request.event["type"].rpartition(".")[2] for request in requests}
    assert kinds >= {"queued", "running", "retrying", "succeeded", "failed", "cancelled", "unauthorized", "recovered"}
    return made["config"]["secret"], {"structured": requests, "binary": world.received["/binary"], "batch": batches}


async def test_python_libraries_accept_the_events(world: World) -> None:
    secret, by_mode = await captured(world)
    requests = by_mode["structured"]
    webhook, other = Webhook(secret), Webhook("whsec_" + "b3RoZXIh" * 4)
    for request in requests:
        assert webhook.verify(request.body, dict(request.headers)) == request.event
        assert request.headers["webhook-id"] == request.event["id"]
        with pytest.raises(WebhookVerificationError):
            webhook.verify(request.body + b" ", dict(request.headers))
        with pytest.raises(WebhookVerificationError):
            other.verify(request.body, dict(request.headers))

        document = check_event(request.body)
        assert request.headers["content-type"].partition(";")[0] == "application/cloudevents+json"
        parsed = from_http(HTTPMessage(headers=dict(request.headers), body=request.body), JSONFormat())
        attributes = parsed.get_attributes()
        assert (attributes["id"], attributes["type"]) == (document["id"], document["type"])
        assert attributes["time"].timestamp() == from_rfc3339(document["time"])
        assert parsed.get_data() == document["data"]
    assert len({request.headers["webhook-id"] for request in requests}) == len(requests)
    reported = [request.event["data"]["metadata"] for request in requests if ".job." in request.event["type"]]
    assert METADATA in reported

    stored = {request.event["id"]: request.body for request in requests}
    for request in by_mode["binary"]:
        attributes = {name[3:]: unquote(value) for name, value in request.headers.items() if name.startswith("ce-")}
        document = orjson.loads(stored[attributes["id"]])
        assert {**attributes, "datacontenttype": request.headers["content-type"]} == {
            name: value for name, value in document.items() if name != "data"
        }
        assert stored[attributes["id"]].endswith(b'"data":' + request.body + b"}")
        webhook.verify(request.body, dict(request.headers))
        parsed = from_http(HTTPMessage(headers=dict(request.headers), body=request.body), JSONFormat())
        assert {**parsed.get_attributes(), "time": None} == {
            **{name: value for name, value in document.items() if name != "data"},
            "time": None,
        }
        assert parsed.get_data() == document["data"]
    for request in by_mode["batch"]:
        assert request.headers["content-type"] == "application/cloudevents-batch+json"
        assert request.body == b"[" + b",".join(stored[event["id"]] for event in request.event) + b"]"
        webhook.verify(request.body, dict(request.headers))
        assert request.headers["webhook-id"] == message_id([event["id"] for event in request.event])
    assert len(by_mode["batch"]) < len(by_mode["binary"]) == len(requests) - 1


async def test_javascript_libraries_accept_the_events(world: World, tmp_path: Path) -> None:
    folder = await asyncio.to_thread(npm_folder, tmp_path, NPM_PACKAGES)
    secret, by_mode = await captured(world)
    requests = by_mode["structured"]
    for request in requests:
        raw = orjson.loads(request.body)
        assert raw["id"]
        assert raw["time"]
    everything = [*requests, *by_mode["binary"], *by_mode["batch"]]
    content = [{"headers": dict(request.headers), "body": request.body.decode()} for request in everything]
    (folder / "requests.json").write_text(json.dumps({"secret": secret, "requests": content}), encoding="utf-8")
    (folder / "look.mjs").write_text(SCRIPT, encoding="utf-8")
    ran = await asyncio.to_thread(
        subprocess.run, ["node", "look.mjs", "requests.json"], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout)
    documents = {request.event["id"]: request.event for request in requests}
    sent = [*documents, *(request.headers["ce-id"] for request in by_mode["binary"])]
    sent += [event["id"] for request in by_mode["batch"] for event in request.event]
    assert [event["id"] for event in seen] == sent
    for event in seen:
        raw = documents[event["id"]]
        assert {name: event.get(name) for name in ("id", "type", "source", "subject", "sequence", "specversion")} == {
            name: raw.get(name) for name in ("id", "type", "source", "subject", "sequence", "specversion")
        }
        assert abs(from_rfc3339(event["time"]) - from_rfc3339(raw["time"])) < 0.001  # theirs has milliseconds
