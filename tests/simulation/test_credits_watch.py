"""The watch of credits on a real database, with a scripted upstream and a clock that the test sets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from relay.api.system import source_view
from relay.clock import to_rfc3339
from relay.core.events.event import CREDITS_LOW
from relay.core.polling.tracking import CreditsReading
from relay.errors import StoreError
from relay.node.readiness import measured, readiness
from relay.polling.poller import Poller
from relay.polling.tracking import Tracking
from relay.store.databases.probe import WriteProbe
from relay.testing import ScriptedError, ScriptedPoll
from tests.support.job_events import origin_of
from tests.support.schema_check import check_event
from tests.support.simulation_world import World, open_world, seen
from tests.support.store_kit import rows

INTERVAL, THRESHOLD = 300.0, 500
LOW = CREDITS_LOW


def left(available: float) -> ScriptedPoll:
    return ScriptedPoll(document=available)


def watch(world: World, poller: Poller | None = None, threshold: int | None = THRESHOLD) -> None:
    """Lets a poller watch the credits, as reloaded settings do."""
    poller = poller or world.poller
    account = poller.account
    poller.configure(replace(account.settings, credits_low=threshold), account.planner_config)


@asynccontextmanager
async def watching(folder: Path, available: float) -> AsyncIterator[World]:
    """A world whose credits were read once."""
    async with open_world(folder) as world:
        world.source.credits = left(available)
        watch(world)
        await world.run(3)
        assert world.source.readings == 1
        yield world


async def run(world: World, seconds: float, poller: Poller | None = None) -> None:
    """What the scheduler does, for so long."""
    poller, ends_at = poller or world.poller, world.clock() + seconds
    while world.clock() < ends_at:
        world.clock.advance(1.0)
        at = poller.next_request_at()
        if at is not None and at <= world.clock():
            await poller.run_once()
            await poller.drain()
        await world.deliver()


def reading(world: World) -> CreditsReading:
    found = world.poller.credits
    assert found is not None
    return found


async def test_without_the_setting_nothing_is_read(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await run(world, 3 * INTERVAL)
        assert (world.source.readings, world.poller.credits, world.poller.next_request_at()) == (0, None, None)


async def test_credits_that_fall_are_told_once_and_again_only_after_they_were_enough(tmp_path: Path) -> None:
    async with watching(tmp_path, 500) as world:
        await world.subscribe(types=(LOW,))
        assert await world.types() == []
        world.source.credits = left(499.5)
        await run(world, INTERVAL + 2)
        assert (world.source.readings, await world.types()) == (2, [LOW])
        world.source.credits = left(0)
        await run(world, 3 * INTERVAL)
        assert (await world.types(), reading(world).available) == ([LOW], 0)
        world.source.credits = left(500)
        await run(world, INTERVAL + 2)
        assert (await world.types(), reading(world).low_since) == ([LOW], None)
        world.source.credits = left(120)
        await run(world, INTERVAL + 2)
        assert await world.types() == [LOW, LOW]
        first, second = (check_event(request.body) for request in world.sink.requests)
        assert first["data"]["available"] == 499.5
        assert second["data"] == {
            "source": "revor",
            "account": "default",
            "available": 120,
            "threshold": THRESHOLD,
            "since": second["time"],
        }
        assert (second["source"], second["subject"], second["account"]) == ("/relay", "revor/default", "default")


async def test_the_first_reading_counts(tmp_path: Path) -> None:
    async with watching(tmp_path, 120) as world:
        assert await world.types() == [LOW]
        at = reading(world).read_at
        assert reading(world) == CreditsReading(threshold=THRESHOLD, available=120, read_at=at, low_since=at)


async def test_a_figure_around_the_threshold_is_told_once_for_each_fall(tmp_path: Path) -> None:
    async with watching(tmp_path, 500) as world:
        for fall in range(1, 4):
            for available in (499, 500):
                world.source.credits = left(available)
                await run(world, INTERVAL)
            assert await world.types() == [LOW] * fall


@pytest.mark.parametrize("where", ["restart", "long restart", "takeover"])
async def test_low_credits_are_not_told_again_by_the_next_process(tmp_path: Path, where: str) -> None:
    async with watching(tmp_path, 120) as world:
        since = reading(world).low_since
        if where == "takeover":
            world.poller.release()
            assert world.poller.credits is None
            await world.poller.take_over(None)
        else:
            await world.restart_poller(away_seconds=86_400 if where == "long restart" else 1)
            watch(world)
        await run(world, 3)
        assert (await world.types(), reading(world).low_since, world.source.readings) == ([LOW], since, 2)


@pytest.mark.parametrize(
    ("threshold", "available", "told"),
    [
        (1000, 120, 1),  # raised while low
        (100, 120, 1),  # lowered to below the figure
        (None, 120, 1),  # removed
        (120, 120, 1),
        (121, 120, 1),
    ],
)
async def test_a_threshold_that_changes_while_credits_are_low(
    tmp_path: Path, threshold: int | None, available: float, told: int
) -> None:
    async with watching(tmp_path, available) as world:
        watch(world, threshold=threshold)
        await run(world, INTERVAL + 5)
        assert len(await world.types()) == told
        watch(world)
        await run(world, INTERVAL + 5)
        is_armed = threshold is not None and threshold <= available
        assert len(await world.types()) == told + is_armed, "a reading at or above the threshold arms it again"


async def test_a_threshold_that_is_raised_above_the_figure_tells_it(tmp_path: Path) -> None:
    async with watching(tmp_path, 700) as world:
        watch(world, threshold=1000)
        await run(world, 3)
        assert await world.types() == [LOW]


FAILURES = [
    ScriptedPoll(kind="not_found", status_code=404, detail="answered 404"),  # a plan without credits
    ScriptedPoll(kind="unauthorized", status_code=401, error=ScriptedError(code="key_revoked")),
    ScriptedPoll(kind="unavailable", status_code=None),
    ScriptedPoll(kind="malformed", detail="200 application/json: no number of credits at /available_credits"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda one: one.kind)
async def test_a_failed_reading_is_said_once_and_is_no_event(tmp_path: Path, failure: ScriptedPoll) -> None:
    async with watching(tmp_path, 600) as world:
        world.source.credits = failure
        with structlog.testing.capture_logs() as logs:
            await run(world, 4 * INTERVAL)
        assert [one["log_level"] for one in logs if one["event"] == "credits_unreadable"] == ["warning"]
        assert 5 <= world.source.readings <= 9, "a little later each time"
        assert (await world.types(), world.poller.state.state, world.poller.paused) == ([], "ok", False)
        assert (reading(world).available, reading(world).problem) == (600, failure.detail or failure.kind)
        world.source.credits = left(120)
        await run(world, INTERVAL + 2)
        assert (await world.types(), reading(world).problem) == ([LOW], None)


async def test_a_refused_key_pauses_the_readings_too(tmp_path: Path) -> None:
    async with watching(tmp_path, 600) as world:
        world.source.key_works = False
        await world.register("job", ScriptedPoll(kind="unauthorized", status_code=401))
        await run(world, 5)
        assert (world.poller.paused, world.poller.state.state) == (True, "unauthorized")
        before, world.source.credits = world.source.readings, left(120)
        await run(world, 3 * INTERVAL)
        assert (world.source.readings, await world.types()) == (before, ["relay.source.unauthorized"])


async def shown(world: World) -> tuple[Any, tuple[str, ...], list[str]]:
    """What the API, `/readyz` and the metrics say of the credits."""
    pollers = {("revor", "default"): world.poller}
    tracking = Tracking(store=world.store, pollers=pollers, definitions={}, signals=world.signals, clock=world.clock)
    (report,) = tracking.reports()
    found = await readiness(world.store, WriteProbe(world.store.database), pollers, {}, world.clock())
    measures = measured(world.metrics, world.store, pollers, world.dispatcher.slots, world.clock()).decode()
    gauges = [line for line in measures.splitlines() if line.startswith("relay_credits")]
    return source_view(report, origin_of())["credits"], found.notes, gauges


LABELS = '{account="default",source="revor"}'


async def test_credits_are_shown(tmp_path: Path) -> None:
    async with watching(tmp_path, 600) as world:
        at = to_rfc3339(reading(world).read_at or 0.0)
        enough = {"available": 600, "threshold": THRESHOLD, "low_since": None, "read_at": at, "problem": None}
        gauges = [f"relay_credits_available{LABELS} 600.0", f"relay_credits_low{LABELS} 0.0"]
        assert await shown(world) == (enough, (), gauges)
        world.source.credits = left(120)
        await run(world, INTERVAL + 2)
        since = to_rfc3339(reading(world).low_since or 0.0)
        view, notes, gauges = await shown(world)
        assert (view["available"], view["low_since"]) == (120, since)
        assert notes == (f"revor/default has 120 credits left, below 500 since {since}",)
        assert gauges == [f"relay_credits_available{LABELS} 120.0", f"relay_credits_low{LABELS} 1.0"]
        world.source.credits = FAILURES[0]
        await run(world, INTERVAL + 2)
        view, notes, _ = await shown(world)
        assert (view["available"], view["problem"]) == (120, "answered 404")
        assert notes == ("revor/default: its credits cannot be read: answered 404",)
        world.poller.release()
        assert await shown(world) == (None, (), []), "by the node that polls the account"


async def test_two_nodes_tell_it_once(tmp_path: Path) -> None:
    """Both read at once, as when a lease ends while an answer is awaited."""
    async with watching(tmp_path, 600) as world:
        other = world.another_poller()
        watch(world, other)
        await other.take_over(None)
        await run(world, 3, other)
        world.source.credits = left(120)
        for _ in range(2):
            world.clock.advance(INTERVAL)
            await asyncio.gather(world.poller.run_once(), other.run_once())
            await asyncio.gather(world.poller.drain(), other.drain())
        assert await world.types() == [LOW]
        await run(world, 3)
        await run(world, 3, other)
        assert world.poller.credits is not None
        assert other.credits is not None
        assert world.poller.credits.low_since == other.credits.low_since is not None


async def test_an_answer_that_comes_after_the_account_was_lost_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watching(tmp_path, 600) as world:
        sent, answered, ask = asyncio.Event(), asyncio.Event(), world.source.read_credits

        async def slow(api_key: str) -> ScriptedPoll:
            answer = await ask(api_key)
            sent.set()
            await answered.wait()
            return answer

        monkeypatch.setattr(world.source, "read_credits", slow)
        world.source.credits = left(120)
        world.clock.advance(INTERVAL)
        await world.poller.run_once()
        await sent.wait()
        assert world.poller.next_request_at() is None, "one reading at a time"
        world.poller.release()
        answered.set()
        await world.poller.drain()
        assert await world.types() == []
        assert world.poller.planner.stats(world.clock()).in_flight == 0


@pytest.mark.parametrize("error", [StoreError("the disk is full"), ZeroDivisionError()])
@pytest.mark.parametrize("is_written", [False, True], ids=["before the commit", "after it"])
async def test_a_reading_that_cannot_be_recorded_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, is_written: bool
) -> None:
    """Also if the commit succeeded and only its confirmation was lost."""
    async with watching(tmp_path, 600) as world:
        real, fails = world.store.accounts.mark_credits, True

        async def failing(*place: Any, **mark: Any) -> bool:
            done = await real(*place, **mark) if is_written or not fails else False
            if fails:
                raise error
            return done

        monkeypatch.setattr(world.store.accounts, "mark_credits", failing)
        world.source.credits = left(120)
        await run(world, INTERVAL + 2)
        fails = False
        await run(world, INTERVAL)
        assert (await world.types(), reading(world).available) == ([LOW], 120)
        assert len(await rows(world.store, "SELECT id FROM events")) == 1


async def test_readings_and_listings_share_the_budget_and_leave_polls_room(tmp_path: Path) -> None:
    async with watching(tmp_path, 600) as world:
        world.watch_accounts()
        await world.register("job", seen("running"))
        await run(world, 4 * INTERVAL)
        assert 4 <= world.source.readings <= 6
        assert 4 <= world.source.listings <= 6
        assert world.source.polled
