"""What is said of a key and an upstream before a job is tracked, by the first request of a node for an account."""

import asyncio
from pathlib import Path

import pytest

from relay.core.planner import PlannerConfig
from relay.node.readiness import readiness
from relay.store.databases.probe import WriteProbe
from relay.testing import ScriptedError, ScriptedPoll
from tests.simulation.test_account_watch import INTERVAL, listing, run
from tests.support.simulation_world import World, open_world
from tests.support.store_kit import rows

REFUSED = ScriptedPoll(kind="unauthorized", status_code=401, error=ScriptedError(code="api_key_invalid"))
SILENT = ScriptedPoll(kind="unavailable", status_code=None)
SECONDS = 5
"""Within so long after the start it is said."""


async def started(world: World, answer: ScriptedPoll) -> None:
    """An account that has just been loaded, with nothing to poll."""
    world.watch_accounts()
    world.source.listing = answer
    await world.poller.load()
    await run(world, SECONDS)


async def notes(world: World) -> tuple[str, ...]:
    pollers = {("revor", "default"): world.poller}
    found = await readiness(world.store, WriteProbe(world.store.database), pollers, {}, world.clock())
    assert found.problems == ()
    return found.notes


async def test_wrong_key_is_said_as_after_a_poll(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await started(world, REFUSED)
        assert world.poller.state.state == "unauthorized"
        assert await world.types() == ["relay.source.unauthorized"]
        (note,) = await notes(world)
        assert note.startswith("revor/default is unauthorized since ")
        await run(world, 2 * INTERVAL)
        assert await world.types() == ["relay.source.unauthorized"], "once a key"


async def test_upstream_that_does_not_answer_is_shown_at_once_and_recorded_as_by_polls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_world(tmp_path) as world:
        await started(world, SILENT)
        assert (world.poller.state.state, world.poller.paused) == ("down", False)
        (note,) = await notes(world)
        assert note.startswith("revor/default is down since ")
        assert await world.types() == [], "five failures in a row over a minute"
        await run(world, 3 * INTERVAL)
        assert await world.types() == ["relay.source.down"]
        world.source.listing = listing()
        await run(world, INTERVAL + 1)
        assert world.poller.state.state == "ok"
        assert await world.types() == ["relay.source.down", "relay.source.recovered"]
        assert await notes(world) == ()
    assert capsys.readouterr().out.count("upstream_does_not_answer") <= 1


async def test_answer_ends_it_without_a_word(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await started(world, SILENT)
        world.source.listing = listing()
        await run(world, 40)
        assert (world.poller.state.state, await world.types(), await notes(world)) == ("ok", [], ())
        world.source.listing = SILENT
        await run(world, 4 * INTERVAL)
        assert (world.poller.state.state, await world.types()) == ("ok", []), "later, polls find out"


@pytest.mark.parametrize("kind", ["forbidden", "not_found", "rate_limited", "malformed"])
async def test_any_other_answer_says_nothing_of_the_account(tmp_path: Path, kind: str) -> None:
    async with open_world(tmp_path) as world:
        await started(world, ScriptedPoll(kind=kind, status_code=400))
        assert (world.poller.state.state, await world.types(), await notes(world)) == ("ok", [], ())


async def test_nothing_is_asked_of_an_account_that_another_node_polls(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        world.poller.account.holds = False
        await started(world, REFUSED)
        assert world.source.listings == 0
        await world.poller.take_over(None)
        await run(world, SECONDS)
        assert world.poller.state.state == "unauthorized"


async def test_new_key_is_tried_after_a_reload(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await started(world, listing(a="ok"))
        before = world.source.listings
        world.poller.configure(world.poller.account.settings, PlannerConfig())
        await run(world, SECONDS)
        assert world.source.listings == before
        world.key = "another"
        world.source.listing = REFUSED
        world.poller.configure(world.poller.account.settings, PlannerConfig())
        await run(world, SECONDS)
        assert (world.source.listings, world.poller.state.state) == (before + 1, "unauthorized")


async def test_accounts_of_a_node_are_tried_a_few_at_a_time(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        limiter = asyncio.Semaphore(1)
        world.watch_accounts(limiter=limiter)
        world.source.listing = REFUSED
        async with limiter:
            await world.poller.load()
            world.clock.advance(1.0)
            await world.poller.run_once()
            await world.poller.drain()
            world.clock.advance(1.0)
            await world.poller.run_once()
            await asyncio.sleep(0)
            assert world.source.listings == 0
        await world.poller.drain()
        assert (world.source.listings, world.poller.state.state) == (1, "unauthorized")
        assert [one["state"] for one in await rows(world.store, "SELECT state FROM accounts")] == ["unauthorized"]
