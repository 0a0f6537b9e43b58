"""The proxy's mechanisms of docs/design/why.md, in a whole node with a real upstream socket."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from relay.clock import wall_clock
from relay.core.access.forwarding import Header
from relay.core.jobs.job import Recipient
from relay.proxy.transport import UpstreamResponse
from relay.store.jobs.intents import IN_FLIGHT_SECONDS
from tests.support.e2e_world import KEY, World, open_e2e_world

DISPATCHES = "/api/v1/outreach/dispatches"
MESSAGE = {
    "account_id": "connect_account_xxx",
    "channel": "email",
    "action": "outreach",
    "recipient": {"address": "ada@example.com"},
    "content": {"text": "Hello"},
}
REFUSE = "CREATE TRIGGER refuse BEFORE DELETE ON intents BEGIN SELECT RAISE(ABORT, 'refused by the test'); END"


class Passed:
    """The forwarded requests, and the number of recorded intents when each was sent."""

    def __init__(self, world: World) -> None:
        self.requests: list[Sequence[Header]] = []
        """The headers of each."""
        self.intents: list[int] = []
        transport = world.node._accounts.transports["revor"]
        self._send = transport.send
        self._store = world.node.store
        transport.send = self.send  # type: ignore[method-assign]

    async def send(
        self, method: str, target: str, headers: Sequence[Header], body: Any = None, **named: Any
    ) -> UpstreamResponse:
        self.requests.append(headers)
        self.intents.append(await self.written_down())
        return await self._send(method, target, headers, body, **named)

    async def written_down(self) -> int:
        """The intents, including creates in flight, which look like interrupted ones."""
        page = await self._store.intents.page(limit=10, now=wall_clock() + IN_FLIGHT_SECONDS + 1)
        return len(page.items)

    def header(self, name: bytes) -> bytes | None:
        """The last request's value."""
        return dict(self.requests[-1]).get(name)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with asyncio.timeout(300), open_e2e_world(tmp_path) as world:
        yield world


@pytest.fixture
def passed(world: World) -> Passed:
    return Passed(world)


async def call(world: World, method: str, path: str, json: Any = None, **headers: str) -> Any:
    """A request as a program without a relay sends it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named["Authorization"] = f"Bearer {KEY}"
    return await world.api.request(method, path, json=json, headers=named)


async def read(world: World, passed: Passed, job_id: str, **headers: str) -> str:
    """The `Relay-Cache` of a read. A hit never reaches the upstream, any other read does once."""
    before = len(passed.requests)
    answer = await call(world, "GET", f"/api/v1/outreach/jobs/{job_id}", **headers)
    assert (answer.status_code, answer.json()["item"]["id"]) == (200, job_id)
    cache: str = answer.headers["relay-cache"]
    assert len(passed.requests) - before == (0 if cache == "hit" else 1)
    assert ("age" in answer.headers) is (cache == "hit")
    return cache


async def test_create_is_recorded_before_it_is_sent(world: World, passed: Passed) -> None:
    answer = await call(world, "POST", DISPATCHES, MESSAGE)
    assert answer.status_code == 202, answer.text
    assert passed.intents == [1]
    assert await passed.written_down() == 0
    assert (await world.shown(answer.json()["item"]["id"]))["open"] is True


async def test_job_and_end_of_its_intent_are_one_transaction(world: World, passed: Passed, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "relay.db", isolation_level=None)) as database:
        database.execute(REFUSE)
        answer = await call(world, "POST", DISPATCHES, MESSAGE)
        assert answer.status_code == 202, answer.text
        job_id = answer.json()["item"]["id"]
        assert (await world.api.get(f"/v1/jobs/{job_id}")).status_code == 404  # not without the end of its intent
        assert await passed.written_down() == 1
        database.execute("DROP TRIGGER refuse")
    await world.until(lambda: tracked(world, job_id))  # retried until the database accepts it
    assert await passed.written_down() == 0


async def test_what_is_kept_of_a_recipient_follows_the_settings_and_stops_no_create(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, text = world.node, {"account_id": "connect_account_xxx", "channel": "email", "action": "outreach"}

    async def kept(recipient: dict[str, str], content: str = "Hello") -> Recipient | None:
        answer = await call(world, "POST", DISPATCHES, {**text, "recipient": recipient, "content": {"text": content}})
        assert answer.status_code == 202, answer.text
        (job,) = await node.store.jobs.find(answer.json()["item"]["id"])
        return await node.store.jobs.recipient(job.uid)

    def captures(*parts: Any) -> None:
        node.reload(node.settings.replace(proxy=node.settings.proxy.replace(capture=parts)))

    kim = {"address": "kim@example.com", "phone": "+14155550100"}
    assert await kept(kim) is None, "the default"
    captures("recipient.phone", "recipient.address")
    assert await kept(kim) == Recipient(**kim)
    captures("recipient.address")
    assert await kept(kim) == Recipient(address="kim@example.com")
    assert await kept({"address": "x" * 400}) is None
    assert await kept(kim, content="x" * (1 << 20)) is None, "a large body is streamed past, unread"
    captures()
    assert await kept(kim) is None


async def test_read_is_served_from_state_only_while_a_poll_would_show_nothing(world: World, passed: Passed) -> None:
    ended, later = await world.job(), await world.job(start_delay_seconds=86_400)
    await world.until(lambda: closed(world, ended))
    await world.until(lambda: polled_at(world, later))
    world.node.scheduler.stop()  # from here on only callers poll

    seen = await read(world, passed, later)
    for other in (
        "hit",
        "miss",
        "hit",
    ):  # current for a while; then a poll is due, made by a caller; then current again
        while seen != other:
            seen = await read(world, passed, later)
    assert await read(world, passed, later, Cache_Control="no-cache") == "pass"
    for _ in range(3):
        assert await read(world, passed, ended) == "hit"
    assert await read(world, passed, ended, Cache_Control="no-cache") == "pass"


async def closed(world: World, job_id: str) -> bool:
    return not (await world.shown(job_id))["open"]


async def tracked(world: World, job_id: str) -> bool:
    return (await world.api.get(f"/v1/jobs/{job_id}")).status_code == 200


async def polled_at(world: World, job_id: str) -> bool:
    return (await world.shown(job_id))["last_polled_at"] is not None
