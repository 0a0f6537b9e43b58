"""A relay with something of everything, to look at its dashboard: `python -m tests.support.dashboard_world FOLDER`.

Sandbox, receivers and relay run in one process on loopback. It makes jobs in every state, groups, incidents, creates of
unknown fate, subscriptions of several kinds with sinks that work and fail, deliveries in every state, published events,
tokens, and a value of each kind that would break a page that does not escape it. It prints one line of JSON (`Shown`)
once all of that is there, and serves until its standard input ends.
"""

import asyncio
import contextlib
import math
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from relay import log
from relay.cli.demo.environment import listen, served, url_of
from relay.clock import Clock, to_rfc3339, wall_clock
from relay.config.keyring import new_key
from relay.config.settings import (
    LOOPBACK_NETWORKS,
    AccountSettings,
    DatabaseSettings,
    DeliverySettings,
    EncryptionSettings,
    PollingSettings,
    SecuritySettings,
    ServerSettings,
    Settings,
    SourceSettings,
    WebSettings,
)
from relay.core.figures import FIGURES, TimeSeries, rows_of
from relay.node.node import Node
from relay.node.opening import open_node
from relay.sandbox.bodies import DISPATCH_PATH
from relay.sandbox.server import Sandbox
from relay.signals import ALL_EVENTS
from tests.stories.crms import PIPEDRIVE, Account
from tests.support.dispatches import campaign_body
from tests.support.html_probes import PROBE

SPEED = 60.0
PATIENCE_SECONDS = 120.0
KEY = "sk-revor-default"
REFUSED_KEY = "sk-revor-revoked-emea"
TOKEN = "rl_of_the_dashboards_tests_0123456789"
PEOPLE = {"email-1": ("email", "Grace Hopper"), "linkedin-1": ("linkedin", "Ada Lovelace")}
PLAIN: dict[str, Any] = {"attempt_failures": 0, "start_delay_seconds": 1, "run_seconds": 4, "in_lane": False}
NEVER = 86_400
LOST_ANSWERS = 2
"""So many deliveries are in doubt: each can be settled in another way."""
JOBS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    *[("q4-launch", {"final": "succeeded"})] * 9,
    *[("webinar", {"final": "succeeded"})] * 3,
    ("q4-launch", {"final": "succeeded", "attempt_failures": 2, "retry_pause_seconds": 6}),
    *[("q4-launch", {"final": "failed", "error_code": "connect_account_reconnect_required", "who": "linkedin-1"})] * 3,
    ("q4-launch", {"final": "failed", "error_code": "insufficient_credits"}),
    ("", {"final": "cancelled", "start_delay_seconds": 20}),
    ("q4-launch", {"run_seconds": NEVER}),
    ("q4-launch", {"run_seconds": NEVER, "who": "linkedin-1"}),
    ("q4-launch", {"start_delay_seconds": NEVER}),
    ("q4-launch", {"start_delay_seconds": NEVER, "in_lane": True}),
    ("q4-launch", {"attempt_failures": 1, "retry_pause_seconds": NEVER, "waiting_status": "queued"}),
)
"""Jobs of the sandbox, with their groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Where the relay is, and what has pages of its own."""

    url: str
    token: str
    sandbox: str
    job: str
    running: str
    delivery: str
    dead: str
    uncertain: str
    subscription: str
    failing: str
    group: str
    incident: str
    intent: str
    event: str
    replay: str


@dataclass(kw_only=True)
class Loader:
    """Fills the relay."""

    node: Node
    api: httpx2.AsyncClient
    sandbox: httpx2.AsyncClient
    receiver_url: str
    receivers: "Receivers"
    subscriptions: dict[str, str] = field(default_factory=dict)

    async def load(self) -> Shown:
        """All of it."""
        for id, (channel, name) in PEOPLE.items():
            await self.post(self.sandbox, "/_sandbox/accounts", {"id": id, "channel": channel, "name": name})
        await self._subscribe()
        jobs = await self._jobs()
        await self._others()
        await self._publish()
        await self._unknown_create()
        await self._tokens()
        await self._yesterday()
        await self.until_there(
            *(f"/v1/deliveries?state={state}" for state in ("delivered", "dead", "uncertain")),
            *(f"/v1/jobs?status={status}" for status in ("running", "cancelled")),
            "/v1/incidents",
            "/v1/intents",
            "/v1/groups?state=finished",
        )
        await self.take_figures()
        replay = {"since": to_rfc3339(time.time() - 3600), "only": "all"}
        made = await self.post(self.api, f"/v1/subscriptions/{self.subscriptions['Jobs to the CRM']}/replay", replay)
        return await self._shown(jobs, made["replay_id"])

    async def post(self, client: httpx2.AsyncClient, path: str, body: Any, **headers: str) -> Any:
        """What a POST answers."""
        answer = await client.post(path, json=body, headers=headers)
        assert answer.status_code < 300, f"POST {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    async def first(self, path: str) -> dict[str, Any]:
        """The first item of a list."""
        items = (await self.api.get(path)).json()["items"]
        assert items, f"{path} has nothing"
        found: dict[str, Any] = items[0]
        return found

    async def until_there(self, *paths: str, count: int = 1) -> None:
        """Waits until each of these lists has so many items."""
        for path in paths:
            await self.until(path, lambda items: len(items) >= count)

    async def until(self, path: str, holds: Callable[[list[Any]], bool]) -> None:
        """Waits until this holds for the items of a list."""
        with self.node.signals.watch(ALL_EVENTS) as watch:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while not holds((await self.api.get(path)).json().get("items", [])):
                        await watch.wait(0.2)
            except TimeoutError:
                raise AssertionError(f"this does not come at {path}") from None

    async def _subscribe(self) -> None:
        secret = {"credentialtype": "ACCESSTOKEN", "accesstoken": PIPEDRIVE.token}
        for name, path, more in (
            ("Jobs to the CRM", "/ok", {}),
            ("Data warehouse", "/down", {}),
            ("Old importer", "/refuses", {"types": ["ai.revor.job.succeeded"]}),
            ("Switched off by its sink", "/gone", {"types": ["ai.revor.job.failed"]}),
            ("On holiday", "/ok", {}),
            ("#campaigns", "/services/T0/B0/x", {"config": {"kind": "slack"}}),
            ("Sales team", "/teams", {"config": {"kind": "teams"}}),
            ("Deals", "", {"config": {"kind": "pipedrive"}, "sinkcredential": secret}),
            ("Orders only", "/ok", {"types": ["com.shop.*"], "filters": [{"exact": {"type": "com.shop.order.paid"}}]}),
            (PROBE, f"/ok?{quote(PROBE)}&'<b>x</b>", {"types": ["ai.revor.job.failed"]}),
        ):
            body = {"sink": self.receiver_url + path, "description": name, **more}
            self.subscriptions[name] = (await self.post(self.api, "/v1/subscriptions", body))["id"]
        await self.post(self.api, f"/v1/subscriptions/{self.subscriptions['On holiday']}/pause", {})

    async def _jobs(self) -> list[str]:
        found = []
        for index, (group, script) in enumerate(JOBS):
            account = script.get("who", "email-1")
            body = {
                **PLAIN,
                **{name: value for name, value in script.items() if name != "who"},
                "account": "default",
                "channel": PEOPLE[account][0],
                "connect_account_id": account,
            }
            (item,) = (await self.post(self.sandbox, "/_sandbox/jobs", body))["items"]
            made = await self.post(
                self.api,
                "/v1/jobs",
                {"id": item["id"], "metadata": _metadata(index), **({"group": group} if group else {})},
            )
            found.append(made["uid"])
        await self.post(self.api, "/v1/groups/webinar/close", {"expected": 3})
        return found

    async def _others(self) -> None:
        """Jobs that the upstream does not know, that are late, or are not followed any more."""
        hostile = {"group": PROBE.replace("/", ""), "metadata": {PROBE: PROBE}}
        await self.post(self.api, "/v1/jobs", {"id": "job_that_never_was", **hostile})
        late = {**PLAIN, "account": "default", "run_seconds": NEVER, "connect_account_id": "email-1"}
        items = (await self.post(self.sandbox, "/_sandbox/jobs", {**late, "count": 2}))["items"]
        await self.post(self.api, "/v1/jobs", {"id": items[0]["id"], "deadline_seconds": 1, "group": "q4-launch"})
        left = await self.post(self.api, "/v1/jobs", {"id": items[1]["id"]})
        await self.api.delete(f"/v1/jobs/{left['uid']}")
        await self.post(self.api, "/v1/jobs", {"id": "of_a_refused_key", "account": "emea"})
        for id, fields in (
            ("linkedin-1", {"status": "credentials"}),
            ("linkedin-2", {"channel": "linkedin", "name": PROBE}),
        ):
            await self.post(self.sandbox, "/_sandbox/accounts", {"id": id, **fields})

    async def _publish(self) -> None:
        for index, kind in enumerate(("placed", "paid", "shipped")):
            event = {
                "specversion": "1.0",
                "id": f"order-{index}",
                "source": "https://shop.example/orders",
                "type": f"com.shop.order.{kind}",
                "subject": f"order-1 {PROBE}" if kind == "paid" else "order-1",
                "data": {"total": 120, "note": PROBE},
            }
            await self.post(self.api, "/v1/events", event, **{"content-type": "application/cloudevents+json"})

    async def _unknown_create(self) -> None:
        """A create whose answer is lost."""
        fault = {"kind": "timeout", "method": "POST", "path_prefix": DISPATCH_PATH, "count": 1, "hold_seconds": 0.1}
        await self.post(self.sandbox, "/_sandbox/faults", fault)
        headers = {"authorization": f"Bearer {KEY}", "relay-metadata": orjson.dumps(_metadata(99)).decode()}
        body = campaign_body(0, {"email": "email-1"})
        await self.api.post(DISPATCH_PATH, json=body, headers=headers)

    async def _tokens(self) -> None:
        for name, more in (
            ("warehouse", {"scopes": ["read"]}),
            ("crm-sync", {"scopes": ["jobs:write", "read"], "requests_per_minute": 600}),
            ("team-emea", {"scopes": ["read"], "source": "revor", "account": "emea"}),
        ):
            await self.post(self.api, "/v1/tokens", {"name": name, **more})

    async def _yesterday(self) -> None:
        """The figures of the hours before, for the charts."""
        labels = ["revor/default", self.subscriptions["Jobs to the CRM"], self.subscriptions["Data warehouse"]]
        tally = _tally_before(labels, time.time())
        while cells := tally.take(500):
            await self.node.store.figures.add(rows_of(cells))

    async def take_figures(self) -> None:
        """Does now what the timetable does every minute."""
        for name in ("figures", "statistics"):
            for work in self.node._upkeep():
                if work.name == name:
                    await work.run()

    async def _shown(self, jobs: list[str], replay: str) -> Shown:
        return Shown(
            url=str(self.api.base_url).rstrip("/"),
            token=TOKEN,
            sandbox=str(self.sandbox.base_url).rstrip("/"),
            job=jobs[0],
            running=(await self.first("/v1/jobs?status=running"))["uid"],
            delivery=(await self.first("/v1/deliveries?state=delivered"))["id"],
            dead=(await self.first("/v1/deliveries?state=dead"))["id"],
            uncertain=(await self.first("/v1/deliveries?state=uncertain"))["id"],
            subscription=self.subscriptions["Jobs to the CRM"],
            failing=self.subscriptions["Data warehouse"],
            group="q4-launch",
            incident=(await self.first("/v1/incidents"))["id"],
            intent=(await self.first("/v1/intents"))["id"],
            event=(await self.first("/v1/events"))["id"],
            replay=replay,
        )


def _tally_before(labels: Sequence[str], now: float) -> TimeSeries:
    """The figures of the 23 hours before this one: more of everything in the afternoon."""
    tally = TimeSeries()
    for name, figure in FIGURES.items():
        kind = "revor/" if figure.label == "account" else "sub_"
        own = [one for one in labels if figure.label and one.startswith(kind)] or [""]
        for back in range(23, 0, -1):
            at = (now // 3_600 - back) * 3_600 + 3_540
            busy = 20 + int(15 * math.sin(math.pi * (23 - back) / 12)) + back * 7 % 5
            for label in (*own, "") if figure.kind == "gauge" else own:
                if figure.kind == "values":
                    usual = 3.0 if name == "detection_delay_seconds" else 0.015
                    for seconds, count in ((usual / 2, busy), (usual, 2 * busy), (2 * usual, busy // 4)):
                        for _ in range(count):
                            tally.add(name, label, at, seconds)
                elif figure.kind == "gauge":
                    tally.add(name, label, at, busy if name.startswith(("jobs", "deliveries")) else busy / 10)
                else:
                    tally.add(name, label, at, count=busy // 12 if name.endswith(("_failed", "_dead")) else busy)
    return tally


def _metadata(index: int) -> dict[str, Any]:
    return {"deal": 100 + index, "deal_id": index + 1, "owner": "ada", "company": f"Company {index % 5}", "note": PROBE}


class Receivers:
    """The sinks: one that takes all, one that is down, one that refuses, one that is gone, and a CRM that loses some
    answers and does not know their deals any more."""

    def __init__(self) -> None:
        self.crm = Account(crm=PIPEDRIVE, jobs=100)
        self.lost = 0
        self.broken = {"/down": 503, "/refuses": 400, "/gone": 410}

    def app(self) -> Starlette:
        """The application."""
        crm = [Route(path, self._crm, methods=["GET", "POST", "PATCH"]) for path in PIPEDRIVE.paths]
        return Starlette(routes=[*crm, Route("/{path:path}", self._take, methods=["POST"])])

    async def _crm(self, request: Request) -> Response:
        if self.lost and request.method == "GET" and request.url.path == "/v1/notes":
            return Response(b'{"success":false,"error":"Deal not found"}', 404, media_type="application/json")
        self.crm.lost = int(self.lost >= LOST_ANSWERS)
        answer = await self.crm.receive(request)
        self.lost += answer.status_code == 502
        return answer

    async def _take(self, request: Request) -> Response:
        await request.body()
        status = self.broken.get(request.url.path, 200)
        text = f"The importer is down for maintenance. {PROBE}" if status != 200 else "ok"
        return PlainTextResponse(text, status)


@contextlib.asynccontextmanager
async def open_world(
    folder: Path,
    *,
    keys: Mapping[str, str],
    search_keys: tuple[str, ...] = ("deal", "company"),
    clock: Clock = wall_clock,
) -> AsyncIterator[Loader]:
    """Runs a sandbox, the receivers and an empty relay while inside. `keys`: the upstream's key of each account."""
    async with contextlib.AsyncExitStack() as stack:
        at_sandbox, at_receiver, at_relay = (stack.enter_context(contextlib.closing(listen())) for _ in range(3))
        upstream = Sandbox(seed=1, speed=SPEED, rate_limit=None).app(clock=clock)
        await stack.enter_async_context(served(upstream, at_sandbox))
        receivers = Receivers()
        await stack.enter_async_context(served(receivers.app(), at_receiver))
        polling = PollingSettings(
            min_interval_seconds=0.05,
            max_interval_seconds=1.0,
            max_requests_per_second=200.0,
            connect_accounts_interval_seconds=0.3,
        )
        accounts = {name: AccountSettings(name=name, api_key=key) for name, key in keys.items()}
        source = SourceSettings(base_url=url_of(at_sandbox), accounts=accounts, polling=polling)
        settings = Settings(
            server=ServerSettings(port=at_relay.getsockname()[1], shutdown_seconds=2.0),
            database=DatabaseSettings(url=f"sqlite:///{folder / 'relay.db'}"),
            delivery=DeliverySettings(retry_schedule=(0.2, 0.4), jitter=0.0),
            encryption=EncryptionSettings(keys=(new_key(),)),
            sources={source.name: source},
            security=SecuritySettings(allow_http=True, allow_networks=LOOPBACK_NETWORKS),
            web=WebSettings(search_keys=search_keys),
            dev=True,
        )
        node = await stack.enter_async_context(
            open_node(settings, base_url=url_of(at_relay), clock=clock, state_dir=folder, auto_migrate=True)
        )
        await stack.enter_async_context(served(node, at_relay, dates=False))
        api, sandbox = [
            await stack.enter_async_context(httpx2.AsyncClient(base_url=url_of(at), timeout=120))
            for at in (at_relay, at_sandbox)
        ]
        yield Loader(node=node, api=api, sandbox=sandbox, receiver_url=url_of(at_receiver), receivers=receivers)


@contextlib.asynccontextmanager
async def open_dashboard(folder: Path) -> AsyncIterator[Shown]:
    """Runs everything while inside."""
    async with open_world(folder, keys={"default": KEY, "emea": REFUSED_KEY}) as loader:
        yield await loader.load()


async def _main(folder: Path) -> None:
    async with open_dashboard(folder) as shown:
        print(orjson.dumps(asdict(shown)).decode(), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    log.configure(dev=False, level="error")
    if len(sys.argv) > 1:
        asyncio.run(_main(Path(sys.argv[1])))
    else:
        with tempfile.TemporaryDirectory() as made:
            asyncio.run(_main(Path(made)))
