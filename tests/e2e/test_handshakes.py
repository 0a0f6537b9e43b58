"""A relay process whose sinks must agree: the receiver of the documentation, and a relay that is killed in between."""

import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from relay.cli.demo.environment import listen, served, url_of
from tests.support.relay_world import RelayWorld, open_relay_world

ROOT = Path(__file__).resolve().parents[2]
SIGNING_SECRET = "whsec_" + "c2VjcmV0" * 4

Handler = Callable[[Request], Awaitable[Response]]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RelayWorld]:
    async with open_relay_world(tmp_path) as opened:
        yield opened


class Sink:
    """A receiver: events go to `events`, other methods to handlers."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.handlers: dict[str, Handler] = {}
        self.url = ""

    async def take(self, request: Request) -> Response:
        self.requests.append((request.method, dict(request.headers)))
        if request.method == "POST":
            self.events.append(json.loads(await request.body()))
            return PlainTextResponse("ok")
        handler = self.handlers.get(request.method)
        return Response(status_code=405) if handler is None else await handler(request)


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    made = Sink()
    with contextlib.closing(listen()) as listener:
        app = Starlette(routes=[Route("/{path:path}", made.take, methods=["POST", "OPTIONS"])])
        made.url = f"{url_of(listener)}/hook"
        async with served(app, listener):
            yield made


def documented() -> dict[str, Handler]:
    """The receiver in docs/reference/events.md, by method."""
    section = (
        (ROOT / "docs" / "reference" / "events.md")
        .read_text(encoding="utf-8")
        .partition("## Agreeing")[2]
        .partition("\n## ")[0]
    )
    scope: dict[str, Any] = {"Response": Response}
    for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        exec(block.replace("relay.example.com", "127.0.0.1"), scope)
    return {"OPTIONS": scope["options"]}


async def subscribe(world: RelayWorld, sink: Sink, **config: Any) -> str:
    config = {"secret": SIGNING_SECRET, **config}
    made = await world.subscribe(sink=sink.url, config=config)
    return str(made["id"])


async def state_of(world: RelayWorld, id: str) -> str:
    return str((await world.get(f"/v1/subscriptions/{id}"))["state"])


async def until_state(world: RelayWorld, id: str, state: str) -> dict[str, Any]:
    async def reached() -> bool:
        return await state_of(world, id) == state

    await world.until(reached, f"it does not become {state}")
    found: dict[str, Any] = await world.get(f"/v1/subscriptions/{id}")
    return found


async def test_receiver_of_the_documentation_agrees(world: RelayWorld, sink: Sink) -> None:
    sink.handlers = documented()
    await world.serve()
    id = await subscribe(world, sink, handshake="required")
    found = await until_state(world, id, "enabled")
    assert found["consent"]["rate_per_minute"] == 600
    job = await world.job()
    await world.until(lambda: [event["subject"] for event in sink.events].count(job) == 2)
    assert all(headers["webhook-request-origin"] == "127.0.0.1" for way, headers in sink.requests if way == "POST")
