"""CloudEvents that the SDKs of Python and JavaScript publish, in each content mode, are equal to what the same SDK
reads from the webhooks that the relay sends, in each content mode."""

import asyncio
import contextlib
import json
import subprocess
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from relay.cli.demo.environment import listen, served, url_of
from tests.support.e2e_world import World, open_e2e_world
from tests.support.npm import npm_folder

NPM_PACKAGES = ("cloudevents@10.0.0",)
TYPE = "org.example.parcel.sent"
BATCH_TYPE = "application/cloudevents-batch+json"
MODES = ("structured", "binary", "batch")
COMMON = {
    **{"source": "/depot/7?x=1#y", "type": TYPE, "subject": 'Zoë "Z" 100 % 🎉', "partitionkey": "parcel 7"},
    **{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "dataschema": "https://example.org/s"},
}
TEXTS = ("plain, ü 🎉\n", "<parcel>ü</parcel>")
DATA: tuple[tuple[str | None, Any], ...] = (
    ("application/json", {"n": [1, -0.5, None, True], "text": 'ü 🎉 \u2028 </script> \\ "', "deep": {"a": [{}]}}),
    ("application/json", [1, 2]),
    ("application/vnd.example+json; charset=utf-8", {"a": 1}),
    ("text/plain", TEXTS[0]),
    ("application/xml", TEXTS[1]),
    ("application/octet-stream", bytes(range(256))),
    (None, None),
)
SCRIPT = """
import { readFileSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";
import { CloudEvent, HTTP } from "cloudevents";

const COMMON = JSON.parse(process.argv[3]);
const BYTES = Uint8Array.from({ length: 256 }, (_, n) => n);
const DATA = [
  ["application/json", { n: [1, -0.5, null, true], text: "ü 🎉 \\u2028 </script> \\\\ \\"", deep: { a: [{}] } }],
  ["text/plain", "plain, ü 🎉\\n"],
  ["application/xml", "<parcel>ü</parcel>"],
  ["application/octet-stream", BYTES],
  [undefined, undefined],
];
const made = (mode) => DATA.map(([datacontenttype, data], n) =>
  new CloudEvent({ ...COMMON, id: `${mode} ${n}`, time: "2026-05-20T10:00:08.123Z", datacontenttype, data }));
// Header values of other characters than ASCII are the caller's to encode (HTTP binding 3.1.3.2); the SDK does not.
const encoded = (headers) => Object.fromEntries(Object.entries(headers).map(([name, value]) =>
  [name, name.startsWith("ce-") ? encodeURIComponent(value) : value]));
const decoded = (headers) => Object.fromEntries(Object.entries(headers).map(([name, value]) =>
  [name, name.startsWith("ce-") ? decodeURIComponent(value) : value]));
// A time as text, and data as bytes, which some ways of reading give as base64.
const plain = (event) => {
  const found = JSON.parse(JSON.stringify(event.toJSON()));
  delete found.data_base64;
  if (event.data === undefined) delete found.datacontenttype;  // in binary mode the SDK names one without data
  const bytes = event.data_base64 ? Buffer.from(event.data_base64, "base64") : event.data;
  found.data = bytes instanceof Uint8Array ? [...bytes] : event.data;
  return found;
};

if (process.argv[2] === "send") {
  const post = async (headers, body) => {
    const response = await fetch(process.argv[4], { method: "POST", headers, body });
    if (response.status !== 202) throw new Error(response.status + await response.text());
    const answer = await response.json();
    if (answer.rejected.length || answer.known) throw new Error(JSON.stringify(answer));
  };
  for (const mode of ["structured", "binary"]) {
    for (const event of made(mode)) {
      const { headers, body } = HTTP[mode](event);
      await post(encoded(headers), body);
    }
  }
  const body = JSON.stringify(made("batch"));
  await post({ "content-type": "application/cloudevents-batch+json" }, body);
} else {
  const sent = new Map(["structured", "binary", "batch"].flatMap(made).map((event) => [event.id, event]));
  let count = 0;
  for (const { headers, body } of JSON.parse(readFileSync(process.argv[4], "utf8"))) {
    const bytes = Buffer.from(body, "base64");
    const isBytes = headers["content-type"] === "application/octet-stream";
    const text = bytes.length ? bytes.toString() : undefined;
    const found = HTTP.toEvent({ headers: decoded(headers), body: isBytes ? bytes : text });
    for (const event of Array.isArray(found) ? found : [found]) {
      event.validate();
      const [got, expected] = [plain(event), plain(sent.get(event.id))];
      if (!isDeepStrictEqual(got, expected)) throw new Error(JSON.stringify([headers, got, expected]));
      count += 1;
    }
  }
  console.log(count);
}
"""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with asyncio.timeout(90), open_e2e_world(tmp_path, roles=("api", "dispatcher")) as world:
        for mode in MODES:
            config: dict[str, Any] = {"content_mode": mode}
            if mode == "batch":
                config["batch"] = {"max_events": 4, "max_seconds": 0.2}
            await world.subscribe(f"/{mode}", types=[TYPE], config=config)
        yield world


@contextlib.asynccontextmanager
async def published_at(world: World) -> AsyncIterator[str]:
    with contextlib.closing(listen()) as at_relay:
        async with served(world.node, at_relay):
            yield f"{url_of(at_relay)}/v1/events"


def python_events(mode: str) -> list[CloudEvent]:
    return [
        CloudEvent({**COMMON, "id": f"{mode} {n}", **({"datacontenttype": type} if type else {})}, data)
        for n, (type, data) in enumerate(DATA)
    ]


async def arrived(world: World, count: int) -> list[tuple[str, Any]]:
    """Every request, with the path that it came to."""

    def complete() -> bool:
        batches = sum(len(one.event) for one in world.received.get("/batch", []))
        return batches == count and all(len(world.received.get(f"/{mode}", [])) == count for mode in MODES[:2])

    await world.until(complete)
    return [(path, one) for path, requests in world.received.items() for one in requests]


def parts(event: Any) -> tuple[dict[str, Any], Any]:
    """The attributes and the data of an event that the SDK has made or read."""
    return dict(event.get_attributes()), event.get_data()


async def test_python_sdk_reads_what_it_has_published(world: World) -> None:
    sent: dict[str, CloudEvent] = {}
    async with published_at(world) as url, aiohttp.ClientSession() as session:

        async def post(headers: dict[str, str], body: bytes) -> None:
            async with session.post(url, data=body, headers=headers, skip_auto_headers=["Content-Type"]) as response:
                answer = await response.json()
                assert (response.status, answer.get("rejected"), answer.get("known")) == (202, [], 0), answer

        for mode, write in (("structured", to_structured), ("binary", to_binary)):
            for event in python_events(mode):
                message = write(event, JSONFormat())
                await post(dict(message.headers), bytes(message.body))
                sent[event.get_id()] = event
        batch = python_events("batch")
        await post({"Content-Type": BATCH_TYPE}, b"[" + b",".join(JSONFormat().write(event) for event in batch) + b"]")
        sent |= {event.get_id(): event for event in batch}
        requests = await arrived(world, len(sent))
    read = []
    for path, request in requests:
        if path == "/batch":
            parsed = [JSONFormat().read(CloudEvent, orjson.dumps(one)) for one in request.event]
        else:
            parsed = [from_http(HTTPMessage(headers=dict(request.headers), body=request.body), JSONFormat())]
        for event in parsed:
            attributes, data = parts(event)
            expected, given = parts(sent[event.get_id()])
            if isinstance(data, bytes) and isinstance(given, str):
                data = data.decode()
            assert (attributes, data) == (expected, given), (path, request)
            read.append(event.get_id())
    assert len(read) == len(MODES) * len(sent)


async def test_javascript_sdk_reads_what_it_has_published(world: World, tmp_path: Path) -> None:
    folder = await asyncio.to_thread(npm_folder, tmp_path, NPM_PACKAGES)
    (folder / "events.mjs").write_text(SCRIPT, encoding="utf-8")

    async def run(*arguments: str) -> str:
        command = ["node", "events.mjs", arguments[0], json.dumps(COMMON), *arguments[1:]]
        ran = await asyncio.to_thread(subprocess.run, command, cwd=folder, capture_output=True, text=True, timeout=30)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    async with published_at(world) as url:
        await run("send", url)
        requests = await arrived(world, 15)
    content = [{"headers": dict(one.headers), "body": b64encode(one.body).decode()} for _, one in requests]
    (folder / "requests.json").write_text(json.dumps(content), encoding="utf-8")
    assert (await run("read", "requests.json")).strip() == "45"
