"""SIGKILL while notes are written to a CRM: no note twice, and none lost without a word.

The CRM survives. It loses answers to what it has carried out, and fails before and after it does. Afterwards each event
has one note, or a person is told that it may or may not have one. KILL_TEST_COUNT and KILL_TEST_SEED choose how often
and when.
"""

import asyncio
import contextlib
import hashlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from relay.cli.demo.environment import listen, served, url_of
from tests.support.hubspot_account import prepare
from tests.support.kill_points import LEDGER_POINTS
from tests.support.kill_world import DATABASES, KILL_COUNT, OWED_SECONDS, SEED, Relay
from tests.support.scale import scaled
from tests.vendors import hubspot, pipedrive
from tests.vendors.endpoint import Answer

KILLS = {"pipedrive": scaled(5, max(100, KILL_COUNT // 5)), "hubspot": scaled(4, max(100, KILL_COUNT // 5))}
"""At random moments; the kills at points come on top."""
SUBSCRIPTIONS = 4
"""A subscription writes one note at a time, so several do."""
JOBS = 3
"""New ones for each life of the relay."""
LATEST_SECONDS = 0.12
"""A kill comes at most so long after the first note of a life."""
CONFIG = """\
sources:
  revor:
    polling: {min_interval_seconds: 0.05, max_interval_seconds: 0.5, max_requests_per_second: 500}
delivery:
  timeout_seconds: 1
  retry_schedule: [0.1s, 0.1s, 0.2s, 0.2s, 0.5s, 0.5s, 1s, 1s, 1s, 2s, 2s, 2s, 2s, 2s, 2s]
"""
CONSTANTS = {
    "relay.core.deliveries.ledger:SETTLE_SECONDS": 2.5,
    "relay.delivery.shared:LEASE_MARGIN_SECONDS": 0.7,
}

ACCOUNTS_PATH = "/api/v1/connect/accounts"
JOBS_PATH = "/api/v1/outreach/jobs/"


class Pipedrive:
    """A company. Each job is about a deal of its own."""

    kind, writes = "pipedrive", "/v1/notes"
    token = pipedrive.TOKEN

    def __init__(self) -> None:
        self.company = pipedrive.Pipedrive(time.monotonic)
        self.company.burst = self.company.search_burst = 1_000_000

    def metadata(self) -> dict[str, Any]:
        return {"deal_id": self.company.add_deal("Deal")["id"]}

    def answer(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        return self.company.answer(method, url, headers, body)

    def notes(self) -> list[str]:
        return [note["content"] for note in self.company.notes]


class HubSpot:
    """An account without the property for our key: the text of notes has it, and is asked for it."""

    kind, writes = "hubspot", "/notes"
    token = hubspot.TOKEN

    def __init__(self) -> None:
        self.account = hubspot.HubSpot(burst=1_000_000, clock=time.monotonic)
        prepare(self.account, keyed=False)
        self.made = 0

    def metadata(self) -> dict[str, Any]:
        self.made += 1
        return {"contact_id": self.account.add("contacts", email=f"{self.made}@example.com")}

    def answer(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        return self.account.answer(method, url, headers, body)

    def notes(self) -> list[str]:
        return [note.properties["hs_note_body"] for note in self.account.records["notes"].values()]


@dataclass(kw_only=True, eq=False)
class Crm:
    """A CRM over HTTP, and the upstream beside it, whose jobs have all ended. `calm`: every answer arrives."""

    vendor: Any
    random: random.Random
    calm: bool = False
    written: int = 0
    happened: Counter[str] = field(default_factory=Counter)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if scope["path"].startswith(JOBS_PATH):
            await _answer(send, 200, {}, ended(scope["path"].removeprefix(JOBS_PATH)))
            return
        if scope["path"] == ACCOUNTS_PATH:
            await _answer(send, 200, {}, orjson.dumps({"ok": True, "items": []}))
            return
        is_write = scope["method"] == "POST" and scope["path"].endswith(self.vendor.writes)
        fate = self._fate() if is_write else "answered"
        self.happened[fate] += is_write
        if fate == "only 503":
            await _answer(send, 503, {}, b"")
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        url = f"http://crm.test{scope['path']}?{scope['query_string'].decode()}"
        status, answer, shown = self.vendor.answer(scope["method"], url, headers, body)
        self.written += is_write
        await asyncio.sleep(self.random.uniform(0.0, 0.03) if is_write else 0.0)
        if fate == "late":
            await asyncio.sleep(1.2)
        await _answer(send, 502 if fate == "502" else status, dict(shown), answer, cut=fate == "cut")

    def _fate(self) -> str:
        if self.calm:
            return "answered"
        return self.random.choices(("answered", "cut", "502", "late", "only 503"), (20, 2, 2, 1, 1))[0]


def ended(id: str) -> bytes:
    """The upstream's answer about a job."""
    times = {"started_at": "2026-05-20T10:00:00Z", "finished_at": "2026-05-20T10:00:08Z"}
    item = {"id": id, "status": "succeeded", "channel": "linkedin", "action": "outreach.dispatch", **times}
    return orjson.dumps({"ok": True, "item": item})


async def _answer(send: Any, status: int, headers: Mapping[str, str], body: bytes, *, cut: bool = False) -> None:
    length = {"content-length": str(len(body) + (10 if cut else 0))}
    shown = [(name.lower().encode(), value.encode()) for name, value in {**headers, **length}.items()]
    await send({"type": "http.response.start", "status": status, "headers": shown})
    await send({"type": "http.response.body", "body": body})


@dataclass(kw_only=True, eq=False)
class World:
    """A relay that is killed, and a CRM that is not."""

    relay: Relay
    crm: Crm
    session: aiohttp.ClientSession
    registering: asyncio.TaskGroup
    jobs: int = 0
    subscriptions: list[str] = field(default_factory=list)

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        async with self.session.request(method, f"{self.relay.url}{path}", json=body) as response:
            answer = orjson.loads(await response.read())
            assert response.status < 300, answer
        return answer

    async def subscribe(self, sink: str) -> None:
        for _ in range(SUBSCRIPTIONS):
            body = {
                "sink": sink,
                "sinkcredential": {"credentialtype": "ACCESSTOKEN", "accesstoken": self.crm.vendor.token},
                "config": {
                    "kind": self.crm.vendor.kind,
                    "record": "note",
                    "rate_per_second": 1000,
                    "timeout_seconds": 1,
                },
            }
            self.subscriptions.append((await self.call("POST", "/v1/subscriptions?check=false", body))["id"])

    async def register(self, count: int) -> None:
        """Tells the relay of jobs until it says that it has them."""
        for _ in range(count):
            self.jobs += 1
            body = {"id": f"job-{self.jobs}", "metadata": self.crm.vendor.metadata()}
            latest = time.monotonic() + OWED_SECONDS
            while True:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    await self.call("POST", "/v1/jobs", body)
                    break
                assert time.monotonic() < latest, self.relay.log_tail()
                await asyncio.sleep(0.02)

    async def one_life(self, moment: float) -> None:
        """Starts the relay, and kills it so long after the first note of this life."""
        await self.relay.serve()
        before = self.crm.written
        self.registering.create_task(self.register(JOBS))
        await self._until(lambda: self.crm.written > before)
        await asyncio.sleep(moment)
        await self.relay.kill()

    async def stop_at(self, point: str) -> None:
        """Starts the relay, which is killed as a note passes a point."""
        await self.relay.serve(stop=(point, 1))
        self.registering.create_task(self.register(1))
        await self.relay.killed_itself(OWED_SECONDS)

    async def _until(self, true: Callable[[], bool]) -> None:
        latest = time.monotonic() + OWED_SECONDS
        while not true():
            assert time.monotonic() < latest, self.relay.log_tail()
            await asyncio.sleep(0.002)

    async def check_the_promise(self) -> Counter[str]:
        """Waits until nothing is pending: each event has one note of each subscription, or somebody was told."""
        written, latest = -1, 0.0
        while (await self.call("GET", "/v1/deliveries?state=pending"))["items"]:
            if self.crm.written > written:  # the lives were short: there may be many
                written, latest = self.crm.written, time.monotonic() + OWED_SECONDS
            assert time.monotonic() < latest, self.relay.log_tail()
            await asyncio.sleep(0.1)
        deliveries = await self._all("/v1/deliveries")
        assert len(deliveries) == self.jobs * SUBSCRIPTIONS, "an event has no delivery"
        told = {event["data"]["delivery"] for event in await self._all("/v1/events?type=relay.delivery.uncertain")}
        notes, states = self.crm.vendor.notes(), Counter[str]()
        for delivery in deliveries:
            key = f"{delivery['event_id']}-{hashlib.sha256(delivery['subscription_id'].encode()).hexdigest()[:12]}"
            count, state = sum(key in note for note in notes), delivery["state"]
            assert count <= 1, f"written twice: {delivery}"
            assert state in ("delivered", "uncertain"), f"given up: {delivery}"
            assert count == 1 or delivery["id"] in told, f"lost: {delivery}"
            states[delivery["reason"] if state == "delivered" else state] += 1
        assert sum(states.values()) - states["uncertain"] <= len(notes) <= len(deliveries)
        return states

    async def _all(self, path: str) -> list[Any]:
        items: list[Any] = []
        cursor = ""
        while True:
            page = await self.call("GET", f"{path}{'&' if '?' in path else '?'}limit=500{cursor}")
            items += page["items"]
            if page["next_cursor"] is None:
                return items
            cursor = f"&cursor={page['next_cursor']}"


@asynccontextmanager
async def open_world(folder: Path, kind: str, database: str) -> AsyncIterator[World]:
    """A CRM, and a relay with subscriptions to it that is not running. At its end everything promised is there."""
    async with contextlib.AsyncExitStack() as stack:
        connector = aiohttp.TCPConnector(force_close=True)
        timeout = aiohttp.ClientTimeout(total=10)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector, timeout=timeout))
        at_crm = stack.enter_context(contextlib.closing(listen()))
        crm = Crm(vendor=VENDORS[kind](), random=random.Random(f"crm:{SEED}:{kind}"))
        await stack.enter_async_context(served(crm, at_crm))
        chosen = DATABASES[database]
        url = await asyncio.to_thread(chosen.make, folder)
        relay = Relay(folder, database_url=url, sandbox_url=url_of(at_crm), database=chosen)
        (folder / "relay.yaml").write_text(CONFIG)
        relay.constants |= CONSTANTS
        stack.callback(relay.close)
        await relay.serve()
        await relay.ready(session)
        async with asyncio.TaskGroup() as registering:
            world = World(relay=relay, crm=crm, session=session, registering=registering)
            await world.subscribe(url_of(at_crm))
            await relay.kill()
            relay.kills.clear()
            yield world
            crm.calm = True
            await relay.serve()
            await relay.ready(session)
        states = await world.check_the_promise()
        print(f"{kind}, {database}: {len(relay.kills)} kills, {dict(crm.happened)}, {dict(states)}")
        assert await relay.ended(0) is None, relay.log_tail()


VENDORS = {vendor.kind: vendor for vendor in (Pipedrive, HubSpot)}
WORLDS = [(kind, database) for kind in VENDORS for database in scaled(["sqlite"], list(DATABASES))]


@pytest.mark.parametrize(("kind", "database"), WORLDS)
async def test_kills_write_no_note_twice_and_lose_none_in_silence(tmp_path: Path, kind: str, database: str) -> None:
    print(f"KILL_TEST_SEED={SEED}")
    moments = random.Random(f"kills:{SEED}:{kind}")
    async with open_world(tmp_path, kind, database) as world:
        for point in LEDGER_POINTS if kind == "pipedrive" else ():
            await world.stop_at(point)
        for _ in range(KILLS[kind]):
            await world.one_life(moments.uniform(0.0, LATEST_SECONDS))
