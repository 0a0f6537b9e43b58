"""A relay process whose sinks must agree: the receiver of the documentation, one written by others (the Go SDK of
CloudEvents), and a relay that is killed in between."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from relay.cli.demo.environment import listen, served, url_of
from tests.support.relay_world import SETTINGS, RelayWorld, open_relay_world

ROOT = Path(__file__).resolve().parents[2]
SIGNING_SECRET = "whsec_" + "c2VjcmV0" * 4
REQUIRED = SETTINGS.replace("security: {", "security: {handshake: required, ")
GO_SECONDS = 400
GO_BUILD = ["build", "-mod=mod", "-gcflags=all=-N -l", "-ldflags=-w", "-o", "receiver", "."]
"""Without optimization or debug information, and with CGO_ENABLED=0: a third less work for the same receiver."""
GO_MOD = "module receiver\n\ngo 1.23.0\n\nrequire github.com/cloudevents/sdk-go/v2 v2.16.2\n"
GO_MAIN = """
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	cloudevents "github.com/cloudevents/sdk-go/v2"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
)

func main() {
	port, _ := strconv.Atoi(os.Args[1])
	protocol, err := cloudevents.NewHTTP(
		cloudevents.WithPort(port),
		cehttp.WithDefaultOptionsHandlerFunc([]string{"POST"}, 600, []string{"127.0.0.1"}, false),
	)
	if err != nil {
		panic(err)
	}
	client, err := cloudevents.NewClient(protocol)
	if err != nil {
		panic(err)
	}
	if err := client.StartReceiver(context.Background(), func(event cloudevents.Event) {
		raw, _ := json.Marshal(event)
		fmt.Println(string(raw))
	}); err != nil {
		panic(err)
	}
}
"""

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
    """The receiver in docs/events.md, by method."""
    section = (
        (ROOT / "docs" / "events.md").read_text(encoding="utf-8").partition("## Agreeing")[2].partition("\n## ")[0]
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


async def test_setting_holds_for_callbacks_and_what_was_enabled_before(world: RelayWorld, sink: Sink) -> None:
    await world.serve()
    id = await subscribe(world, sink)
    assert await world.end() == 0
    world.settings(REQUIRED)
    await world.serve()
    upstream = await world.upstream_job()
    status, _ = await world.call("POST", "/v1/jobs", {"id": upstream, "callback_url": f"{sink.url}/callback"})
    assert status == 201
    await until_state(world, id, "pending")

    async def both_pending() -> bool:
        found = (await world.get("/v1/subscriptions?callbacks=true"))["items"]
        return [one["state"] for one in found] == ["pending", "pending"]

    await world.until(both_pending)
    assert sink.events == []
    sink.handlers["OPTIONS"] = documented()["OPTIONS"]
    for one in (await world.get("/v1/subscriptions?callbacks=true"))["items"]:
        status, _ = await world.call("POST", f"/v1/subscriptions/{one['id']}/resume")
        assert status == 200
    await world.until(lambda: len(sink.events) == 4)


@pytest.mark.parametrize("moment", ["before the answer", "after the answer"])
async def test_relay_that_is_killed_during_a_handshake_asks_again_and_loses_nothing(
    world: RelayWorld, sink: Sink, moment: str
) -> None:
    kills: list[bool] = []
    agree = documented()["OPTIONS"]

    async def options(request: Request) -> Response:
        if not kills:
            kills.append(True)
            if moment == "before the answer":
                world.send(signal.SIGKILL)
            else:
                asyncio.get_running_loop().call_later(0.0, world.send, signal.SIGKILL)
        return await agree(request)

    sink.handlers["OPTIONS"] = options
    await world.serve()
    id = await _subscribed(world, sink)
    await until_state(world, id, "enabled")
    job = await world.job()
    await world.until(lambda: [event["subject"] for event in sink.events].count(job) == 2)
    assert len({event["id"] for event in sink.events}) == len(sink.events)


async def _subscribed(world: RelayWorld, sink: Sink) -> str:
    """The id of a subscription whose relay may die before it answers."""
    with contextlib.suppress(aiohttp.ClientError):
        await subscribe(world, sink, handshake="required", timeout_seconds=1.0)
    await world.ended()
    await world.serve()
    (one,) = (await world.get("/v1/subscriptions"))["items"]
    return str(one["id"])


# --- a receiver that others wrote


@pytest.fixture(scope="module")
def go_receiver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The receiver of the Go SDK. Skips the tests if it cannot be built."""
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if go is None:
        pytest.skip("NOT VERIFIED WITH GO: there is no go")
    folder = tmp_path_factory.mktemp("go")
    (folder / "go.mod").write_text(GO_MOD)
    (folder / "main.go").write_text(GO_MAIN)
    try:
        environ = {**os.environ, "CGO_ENABLED": "0"}
        ran = subprocess.run(
            [go, *GO_BUILD], cwd=folder, env=environ, capture_output=True, text=True, timeout=GO_SECONDS
        )
        if ran.returncode != 0:
            pytest.skip(f"NOT VERIFIED WITH GO: go build failed: {ran.stderr.strip()[:500]}")
    except subprocess.TimeoutExpired:
        pytest.skip(f"NOT VERIFIED WITH GO: it took longer than {GO_SECONDS} s")
    return folder / "receiver"


async def test_receiver_of_the_go_sdk_agrees_and_reads_the_events(world: RelayWorld, go_receiver: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    receiver = await asyncio.create_subprocess_exec(
        str(go_receiver), str(port), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await world.serve()

        async def listening() -> bool:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return True
            return False

        await world.until(listening)
        made = await world.subscribe(sink=f"http://127.0.0.1:{port}/", config={"handshake": "required"})
        found = await until_state(world, made["id"], "enabled")
        assert found["consent"]["rate_per_minute"] == 600
        job = await world.job()
        assert receiver.stdout is not None
        async with asyncio.timeout(300):
            events = [json.loads(await receiver.stdout.readline()) for _ in range(2)]
        assert [event["subject"] for event in events] == [job, job]
        assert [event["type"].rpartition(".")[2] for event in events] == ["running", "succeeded"]
    finally:
        receiver.kill()
        await receiver.wait()
