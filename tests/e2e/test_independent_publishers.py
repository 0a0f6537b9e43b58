"""CloudEvents that the SDK publishes in each content mode are equal to what it reads from the webhooks of the relay."""

import asyncio
import contextlib
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


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with asyncio.timeout(300), open_e2e_world(tmp_path, roles=("api", "dispatcher")) as world:
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
