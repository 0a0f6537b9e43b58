"""A whole node in this process: the sandbox and a receiver on real sockets, the relay's API as an application."""

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx2
import orjson
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from relay.cli.demo.environment import listen, served, url_of
from relay.clock import Clock, wall_clock
from relay.config.keyring import new_key
from relay.config.settings import (
    LOOPBACK_NETWORKS,
    AccountSettings,
    AuthSettings,
    DatabaseSettings,
    EncryptionSettings,
    PollingSettings,
    ProxySettings,
    SecuritySettings,
    ServerSettings,
    Settings,
    SourceSettings,
    TokenSettings,
    TracingSettings,
    WebSettings,
)
from relay.delivery import dispatcher, handshakes
from relay.node.node import ROLES, Node
from relay.node.opening import open_node
from relay.polling.poller import Poller
from relay.sandbox.server import Sandbox
from relay.signals import ALL_EVENTS

KEY = "sk-revor-test"
RELAY_URL = "http://127.0.0.1:8080"
SPEED = 200.0
MAX_INTERVAL_SECONDS = 0.5
PATIENCE_SECONDS = 120.0
RARELY_SECONDS = 600.0
"""Between two looks of an idle loop: what only such a look would find is late."""
POLLING = PollingSettings(
    min_interval_seconds=0.01, max_interval_seconds=MAX_INTERVAL_SECONDS, max_requests_per_second=200.0
)
AT_ONCE = {"attempt_failures": 0, "start_delay_seconds": 0, "run_seconds": 0, "in_lane": False}
"""A sandbox job that ends as soon as it is made."""


@dataclass(frozen=True, slots=True)
class Received:
    """One request received by a sink; header names in lower case. `at`: seconds of a steady clock."""

    headers: Mapping[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = orjson.loads(self.body)
        return event


@dataclass(kw_only=True)
class World:
    """A running node, and what a test can do with it."""

    node: Node
    api: httpx2.AsyncClient
    sandbox: httpx2.AsyncClient
    receiver_url: str
    settings: Settings
    upstream: Any
    received: dict[str, list[Received]] = field(default_factory=dict)

    @property
    def poller(self) -> Poller:
        """The only account's."""
        (poller,) = self.node.pollers.values()
        return poller

    async def fault(self, kind: str, **body: Any) -> None:
        """Makes upstream requests fail until `heal`, or as the body says."""
        answer = await self.sandbox.post("/_sandbox/faults", json={"kind": kind, "share": 1, **body})
        assert answer.status_code == 201, answer.text

    async def heal(self) -> None:
        assert (await self.sandbox.delete("/_sandbox/faults")).status_code == 200

    async def job(self, *, metadata: Mapping[str, Any] | None = None, **script: Any) -> str:
        """Makes a job at the upstream and registers it. Returns its id."""
        body = {"account": "test", "final": "succeeded", **AT_ONCE, **script}
        (item,) = (await self.sandbox.post("/_sandbox/jobs", json=body)).json()["items"]
        answer = await self.api.post("/v1/jobs", json={"id": item["id"], "metadata": metadata or {}})
        assert answer.status_code == 201, answer.text
        return str(item["id"])

    async def shown(self, job_id: str) -> dict[str, Any]:
        """The job in the API."""
        job: dict[str, Any] = (await self.api.get(f"/v1/jobs/{job_id}")).json()
        return job

    async def subscribe(self, path: str = "/events", **body: Any) -> dict[str, Any]:
        answer = await self.api.post("/v1/subscriptions", json={"sink": self.receiver_url + path, **body})
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def kinds(self, subject: str | None = None) -> list[str]:
        """The last words of received event types, in order: of a job, else of the relay's own events."""
        events = (request.event for request in self.received.get("/events", []))
        if subject is None:
            return [event["type"] for event in events if event["type"].startswith("relay.")]
        return [event["type"].rpartition(".")[2] for event in events if event["subject"] == subject]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.node.metrics().decode())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def polls(self, result: str) -> float:
        return self.metric("relay_polls_total", result=result)

    async def notes(self) -> list[str]:
        """The notes of /readyz, which must be 200."""
        answer = await self.api.get("/readyz")
        assert answer.status_code == 200, answer.text
        notes: list[str] = answer.json()["notes"]
        return notes

    async def until(self, true: Callable[[], bool | Awaitable[bool]]) -> None:
        """Checks again after each recorded event, poll or request."""
        with self.node.signals.watch(ALL_EVENTS) as watch:
            while True:
                answer = true()
                if answer if isinstance(answer, bool) else await answer:
                    return
                assert await watch.wait(PATIENCE_SECONDS), "nothing happens any more"

    async def probe(self) -> None:
        """Runs the upkeep that retries refused keys."""
        (upkeep,) = (work for work in self.node._upkeep() if work.name == "probes")
        await upkeep.run()


@contextlib.asynccontextmanager
async def open_beside(world: World) -> AsyncIterator[World]:
    """A second node on the same database, upstream and receiver."""
    async with open_node(world.settings, base_url=RELAY_URL) as node, client_of(node) as api:
        await node.loaded()
        for poller in node.pollers.values():
            poller.account.reschedule = _both(poller.account.reschedule, node.signals.event_recorded)
        yield replace(world, node=node, api=api)


def client_of(app: Any) -> httpx2.AsyncClient:
    """A client of an application in this process."""
    transport = httpx2.ASGITransport(app=app, client=("127.0.0.1", 5000))
    return httpx2.AsyncClient(transport=transport, base_url=RELAY_URL)


@contextlib.asynccontextmanager
async def open_e2e_world(
    folder: Path,
    *,
    api_key: str | None = KEY,
    api_key_file: Path | None = None,
    timeout_seconds: float = 5.0,
    database_url: str | None = None,
    upstream_clock: Clock = wall_clock,
    encryption_key: str | None = None,
    base_url: str | None = None,
    accounts: Mapping[str, str | None] | None = None,
    tokens: Sequence[TokenSettings] = (),
    polling: PollingSettings = POLLING,
    clock: Clock = wall_clock,
    roles: tuple[str, ...] = ROLES,
    speed: float = SPEED,
    adopts_keys: bool = False,
    search_keys: tuple[str, ...] = (),
    preset: str = "revor",
    more_sources: Sequence[SourceSettings] = (),
    traces: bool = False,
) -> AsyncIterator[World]:
    """`base_url`: an upstream other than the sandbox, of this `preset`. `accounts`: API keys by name, in place of
    `api_key`. `more_sources`: beside the first one.

    Without `tokens` the node runs with `--dev`. Without the role `scheduler` it only polls on request. `clock` is the
    node's.
    """
    received: dict[str, list[Received]] = {}
    async with contextlib.AsyncExitStack() as stack:
        for module, name in ((dispatcher, "IDLE_SCAN_SECONDS"), (handshakes, "IDLE_SECONDS")):
            stack.enter_context(patch.object(module, name, RARELY_SECONDS))
        at_sandbox, at_receiver = (stack.enter_context(contextlib.closing(listen())) for _ in range(2))
        upstream = Sandbox(seed=1, speed=speed, rate_limit=None).app(clock=upstream_clock)
        await stack.enter_async_context(served(upstream, at_sandbox))
        account = AccountSettings(api_key=api_key, api_key_file=None if api_key_file is None else str(api_key_file))
        of_keys = {name: AccountSettings(name=name, api_key=key) for name, key in (accounts or {}).items()}
        source = SourceSettings(
            name=preset,
            preset=preset,
            base_url=base_url or url_of(at_sandbox),
            accounts=of_keys or {"default": account},
            polling=polling,
        )
        settings = Settings(
            server=ServerSettings(shutdown_seconds=5.0),
            database=DatabaseSettings(url=database_url or f"sqlite:///{folder / 'relay.db'}", pool_size=4),
            auth=AuthSettings(tokens=tuple(tokens)),
            encryption=EncryptionSettings(keys=(encryption_key or new_key(),)),
            sources={one.name: one for one in (source, *more_sources)},
            security=SecuritySettings(allow_http=True, allow_networks=LOOPBACK_NETWORKS),
            proxy=ProxySettings(adopt_unknown_keys=adopts_keys),
            web=WebSettings(search_keys=search_keys),
            tracing=TracingSettings(enabled=traces),
            dev=not tokens,
        )
        node = await stack.enter_async_context(
            open_node(settings, base_url=RELAY_URL, state_dir=folder, clock=clock, roles=roles)
        )
        await node.loaded()
        for client in node._accounts.clients.values():
            client._timeout_seconds = timeout_seconds
        for poller in node.pollers.values():
            poller.account.reschedule = _both(poller.account.reschedule, node.signals.event_recorded)

        async def take(request: Request) -> Response:
            body = await request.body()
            received.setdefault(request.url.path, []).append(Received(dict(request.headers), body))
            node.signals.event_recorded()
            return PlainTextResponse("ok")

        receiver = Starlette(routes=[Route("/{path:path}", take, methods=["POST"])])
        await stack.enter_async_context(served(receiver, at_receiver))
        api, sandbox = [await stack.enter_async_context(client_of(app)) for app in (node, upstream)]
        yield World(
            node=node,
            api=api,
            sandbox=sandbox,
            receiver_url=url_of(at_receiver),
            settings=settings,
            upstream=upstream,
            received=received,
        )


def _both(first: Callable[[], Any], second: Callable[[], Any]) -> Callable[[], None]:
    def call() -> None:
        first()
        second()

    return call
