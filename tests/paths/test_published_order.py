"""Published events at HTTP sinks that fail, are paused and get everything again: each key in its order; and what
filters and templates see of them."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.cli.demo.environment import listen, served, url_of
from tests.support.e2e_world import World, open_e2e_world

TYPE = "org.example.parcel.moved"
KEYS = 4
COUNT = 48
BATCH = {"Content-Type": "application/cloudevents-batch+json"}


class Unreliable:
    """A sink that refuses a third of the requests, whose bodies it has read. `took`: the numbers of the
    events that it has taken, in their order."""

    def __init__(self, world: World) -> None:
        self._random = random.Random(7)
        self._world = world
        self.took: list[int] = []
        self.refused = 0

    async def take(self, request: Request) -> Response:
        body = await request.body()
        refused = self._random.random() < 0.33
        self.refused += refused
        if not refused:
            found = orjson.loads(body)
            self.took += [int(one["id"]) for one in (found if isinstance(found, list) else [found])]
        self._world.node.signals.event_recorded()
        return Response(status_code=500 if refused else 204)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with asyncio.timeout(300), open_e2e_world(tmp_path, roles=("api", "dispatcher")) as world:
        yield world


def event(number: int) -> dict[str, Any]:
    return {
        **{"specversion": "1.0", "id": str(number), "source": "/depot", "type": TYPE, "shop": f"s{number % 2}"},
        **{"partitionkey": f"parcel {number % KEYS}", "data": {"n": number, "metadata": {"name": f"parcel {number}"}}},
    }


async def publish(world: World, numbers: range) -> list[str]:
    answer = await world.api.post("/v1/events", json=[event(n) for n in numbers], headers=BATCH)
    assert (answer.status_code, answer.json()["rejected"]) == (202, [])
    return [one["id"] for one in answer.json()["items"]]


async def post(world: World, path: str, status: int = 200, **body: Any) -> None:
    answer = await world.api.post(path, json=body or None)
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize("mode", ["structured", "batch"])
async def test_each_key_arrives_in_order_at_a_sink_that_fails_and_is_paused(world: World, mode: str) -> None:
    sink = Unreliable(world)
    config: dict[str, Any] = {"retry_schedule": [0.01] * 50, "content_mode": mode}
    if mode == "batch":
        config["batch"] = {"max_events": 5, "max_seconds": 0.05}
    in_order = [list(range(key, COUNT, KEYS)) for key in range(KEYS)]
    receiver = Starlette(routes=[Route("/hook", sink.take, methods=["POST"])])
    with contextlib.closing(listen()) as at_sink:
        async with served(receiver, at_sink):
            answer = await world.api.post(
                "/v1/subscriptions", json={"sink": f"{url_of(at_sink)}/hook", "types": [TYPE], "config": config}
            )
            subscription = f"/v1/subscriptions/{answer.json()['id']}"
            await publish(world, range(COUNT // 3))
            await post(world, f"{subscription}/pause")
            await publish(world, range(COUNT // 3, 2 * COUNT // 3))
            await post(world, f"{subscription}/resume")
            await publish(world, range(2 * COUNT // 3, COUNT))
            await world.until(lambda: len(sink.took) >= COUNT)
            assert [[one for one in sink.took if one % KEYS == key] for key in range(KEYS)] == in_order
            sink.took.clear()
            await post(world, f"{subscription}/replay", 202, since="2020-01-01T00:00:00Z", only="all")
            (replays,) = (work for work in world.node._upkeep() if work.name == "replays")
            await replays.run()
            await world.until(lambda: len(sink.took) >= COUNT)
    assert [[one for one in sink.took if one % KEYS == key] for key in range(KEYS)] == in_order
    assert sink.refused > 3


async def test_filters_and_templates_see_what_was_published(world: World) -> None:
    template = {"template": {"text": "{{ data.metadata.name }} in {{ event.shop }}"}}
    wanted = {
        "range": ({"filters": [{"range": {"/data/n": {"gte": 6}}}, {"exact": {"shop": "s1"}}]}, ["7", "9"]),
        "exact": (
            {"filters": [{"exact": {"shop": "s0"}}, {"not": {"prefix": {"partitionkey": "parcel 2"}}}]},
            list("048"),
        ),
        "source": ({"source": "/other"}, []),
        "template": ({"config": template}, [{"text": f"parcel {n} in s{n % 2}"} for n in range(10)]),
    }
    for path, (settings, _) in wanted.items():
        await world.subscribe(f"/{path}", types=[TYPE], **settings)
    await world.subscribe("/jobs")
    ids = await publish(world, range(10))

    def got(path: str) -> list[Any]:
        requests = [one.event for one in world.received.get(f"/{path}", [])]
        return requests if path == "template" else [one["id"] for one in requests]

    await world.until(lambda: all(len(got(path)) == len(expected) for path, (_, expected) in wanted.items()))
    for path, (_, expected) in wanted.items():
        assert sorted(got(path), key=str) == sorted(expected, key=str), path
    assert {one.headers["webhook-id"] for one in world.received["/template"]} == set(ids)
    assert "/jobs" not in world.received
