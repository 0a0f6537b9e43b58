"""The watch of connect accounts on a real database, with a scripted upstream and a clock that the test sets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from relay.core.jobs.connect_accounts import ListedAccount, Listing
from relay.core.jobs.job import Problem
from relay.errors import StoreError
from relay.polling.poller import Poller
from relay.testing import ScriptedError, ScriptedPoll
from tests.support.schema_check import check_event
from tests.support.simulation_world import World, open_world, seen
from tests.support.store_kit import rows

INTERVAL, CONFIRM = 300.0, 30.0


def listing(**states: str | None) -> ScriptedPoll:
    accounts = (
        ListedAccount(id=id, channel="email", name=f"{id} Example", state=state) for id, state in states.items()
    )
    return ScriptedPoll(listing=Listing(accounts={one.id: one for one in accounts}))


@asynccontextmanager
async def watching(folder: Path, **states: str) -> AsyncIterator[World]:
    """A world whose first listing was made."""
    async with open_world(folder) as world:
        world.watch_accounts()
        world.source.listing = listing(**states)
        await world.run(2)
        assert world.source.listings == 1
        yield world


async def step(world: World, poller: Poller | None = None, seconds: float = 1.0) -> None:
    """What the scheduler does: waits until the poller says, or so long, and runs it."""
    poller = poller or world.poller
    world.clock.advance(seconds)
    at = poller.next_request_at()
    if at is not None and at <= world.clock():
        await poller.run_once()
        await poller.drain()
    await world.deliver()


async def run(world: World, seconds: float, poller: Poller | None = None) -> None:
    ends_at = world.clock() + seconds
    while world.clock() < ends_at:
        await step(world, poller)


async def test_a_broken_account_is_told_once_confirmed_and_so_is_its_recovery(tmp_path: Path) -> None:
    async with watching(tmp_path, a="ok", b="ok") as world:
        await world.subscribe(types=("test.account.needs_reconnect", "test.account.recovered"))
        assert await world.types() == []
        await world.register("job", seen("running", connect_account_id="a"))
        world.source.listing = listing(a="needs_reconnect", b="ok")
        await run(world, INTERVAL - 5)
        assert (world.source.listings, await world.types()) == (1, ["running"])
        await run(world, 10)
        assert (world.source.listings, await world.types()) == (2, ["running"])
        await run(world, CONFIRM + 2)
        assert (world.source.listings, await world.types()) == (3, ["running", "account.needs_reconnect"])
        world.source.listing = listing(a="ok", b="ok")
        await run(world, 2 * INTERVAL)
        assert await world.types() == ["running", "account.needs_reconnect", "account.recovered"]
        broken, recovered = (check_event(request.body) for request in world.sink.requests)
        assert broken["data"] == {
            "account_id": "a",
            "channel": "email",
            "name": "a Example",
            "status": None,
            "state": "needs_reconnect",
            "since": broken["data"]["since"],
            "open_jobs": 1,
            "source": "revor",
            "account": "default",
        }
        assert (recovered["data"]["state"], recovered["subject"]) == ("ok", "a")
        assert world.poller.state.state == "ok"


async def test_accounts_are_added_and_removed_and_an_empty_answer_alone_removes_none(tmp_path: Path) -> None:
    async with watching(tmp_path, a="ok") as world:
        world.source.listing = listing(a="ok", b="cannot_send")
        await run(world, INTERVAL + CONFIRM + 2)
        assert await world.types() == ["account.added", "account.cannot_send"]
        world.source.listing = listing()
        await run(world, INTERVAL - CONFIRM)
        world.source.listing = listing(a="ok", b="cannot_send")
        await run(world, INTERVAL)
        assert len(await world.types()) == 2
        world.source.listing = listing()
        await run(world, INTERVAL + CONFIRM + 2)
        assert (await world.types())[2:] == ["account.removed", "account.removed"]
        assert world.poller.account.watch is not None
        assert world.poller.account.watch.states == {"removed": 2}


UNAVAILABLE = ScriptedPoll(kind="unavailable", status_code=503)


@pytest.mark.parametrize(
    "failure",
    [
        UNAVAILABLE,
        ScriptedPoll(kind="unauthorized", status_code=401, error=ScriptedError(code="key_revoked")),
        ScriptedPoll(kind="malformed", status_code=200),
        ScriptedPoll(kind="unavailable", status_code=None),
    ],
)
async def test_a_failed_listing_says_nothing_about_the_source_or_the_accounts(
    tmp_path: Path, failure: ScriptedPoll
) -> None:
    async with watching(tmp_path, a="ok") as world:
        world.source.listing = failure
        await run(world, 4 * INTERVAL)
        assert 5 <= world.source.listings <= 9, "a little later each time"
        assert (await world.types(), world.poller.state.state, world.poller.paused) == ([], "ok", False)
        assert world.poller.planner.stats(world.clock()).in_flight == 0
        world.source.listing = listing(a="cannot_send")
        await run(world, INTERVAL + CONFIRM + 2)
        assert await world.types() == ["account.cannot_send"]


@pytest.mark.parametrize("status", ["failed", "queued"])
async def test_a_failure_that_points_at_its_account_brings_the_next_listing_forward(
    tmp_path: Path, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So does an attempt that failed and is retried; other failures do not, and many failures ask only now and then."""
    async with watching(tmp_path, a="ok") as world:
        await run(world, 60)
        await world.register("other", seen("failed", problem=Problem(code="other", message="")))
        await run(world, 30)
        assert world.source.listings == 1
        world.source.listing = listing(a="needs_reconnect")
        began, retried = world.clock(), {"attempt_count": 1, "next_attempt_at": world.clock() + 9e3}
        for number in range(20):
            fields: dict[str, Any] = {} if status == "failed" else retried
            points_at_account = Problem(code="reconnect", message="")
            await world.register(f"job {number}", seen(status, problem=points_at_account, **fields))
            await run(world, 1)
        assert 2 <= world.source.listings <= 4
        await run(world, CONFIRM)
        assert "account.needs_reconnect" in await world.types()
        (told,) = await rows(world.store, "SELECT recorded_at FROM events WHERE type LIKE '%needs_reconnect'")
        assert told["recorded_at"] - began <= CONFIRM + 15


async def test_a_restart_lists_no_sooner_and_forgets_no_unconfirmed_change(tmp_path: Path) -> None:
    async with watching(tmp_path, a="ok") as world:
        await run(world, 60)
        await world.restart_poller()
        world.watch_accounts()
        await run(world, 120)
        assert world.source.listings == 1
        world.source.listing = listing(a="cannot_send")
        await run(world, 140)
        assert (world.source.listings, await world.types()) == (2, [])
        await world.restart_poller(away_seconds=1)
        world.watch_accounts()
        await run(world, CONFIRM + 5)
        assert (world.source.listings, await world.types()) == (3, ["account.cannot_send"])
        await world.restart_poller(away_seconds=86_400)
        world.watch_accounts()
        await run(world, 5)
        assert (world.source.listings, await world.types()) == (4, ["account.cannot_send"])


async def test_another_node_lists_only_once_it_polls_and_tells_nothing_twice(tmp_path: Path) -> None:
    async with watching(tmp_path, a="ok") as world:
        other = world.another_poller()
        world.watch_accounts(other)
        await run(world, 2 * INTERVAL, other)
        assert world.source.listings == 1
        world.source.listing = listing(a="cannot_send")
        await run(world, 1)
        assert (world.source.listings, await world.types()) == (2, [])
        world.poller.release()
        assert world.poller.account.watch is not None
        assert (world.poller.account.watch.listed_at, world.poller.account.watch.states) == (None, {})
        await other.take_over(None)
        for _ in range(2):
            await run(world, INTERVAL, other)
            await run(world, INTERVAL)
        assert await world.types() == ["account.cannot_send"]
        other.release()
        await world.poller.take_over(None)
        await run(world, 2 * INTERVAL)
        assert await world.types() == ["account.cannot_send"]


async def test_an_answer_that_comes_after_the_account_was_lost_is_dropped(tmp_path: Path) -> None:
    async with watching(tmp_path, a="ok") as world:
        answered, asked = asyncio.Event(), world.source.list_accounts

        async def slow(api_key: str) -> ScriptedPoll:
            answer = await asked(api_key)
            await answered.wait()
            return answer

        world.source.list_accounts = slow
        world.source.listing = listing(a="cannot_send")
        world.clock.advance(INTERVAL)
        assert not await world.poller.run_once()
        await asyncio.sleep(0.01)
        assert world.poller.next_request_at() is None, "one listing at a time"
        world.poller.release()
        answered.set()
        await world.poller.drain()
        assert (await rows(world.store, "SELECT unconfirmed FROM connect_accounts")) == [{"unconfirmed": None}]
        assert world.poller.planner.stats(world.clock()).in_flight == 0


@pytest.mark.parametrize("error", [StoreError("the disk is full"), ZeroDivisionError()])
async def test_a_listing_that_cannot_be_recorded_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async with watching(tmp_path, a="ok") as world:
        real, fails = world.store.connect_accounts.record, True

        async def failing(record: Any) -> bool:
            if fails:
                raise error
            return await real(record)

        monkeypatch.setattr(world.store.connect_accounts, "record", failing)
        world.source.listing = listing(a="cannot_send")
        await run(world, INTERVAL + 2 * CONFIRM)
        assert 2 <= world.source.listings <= 4
        fails = False
        await run(world, INTERVAL + CONFIRM + 2)
        assert await world.types() == ["account.cannot_send"]
