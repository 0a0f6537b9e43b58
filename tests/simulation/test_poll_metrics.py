"""Poll metrics: purposes, wasted polls, detection delay, and the planner's expectations."""

from dataclasses import replace
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from relay.delivery.slots import Slots
from relay.node import readiness
from relay.testing import ScriptedPoll
from tests.support.simulation_world import World, open_world, seen

KEY = ("revor", "default")
NO_SLOTS = Slots(concurrency=1, per_host=1)
ENDED = {"action": "outreach.dispatch", "channel": "email", "started_at": 1.0}


def measured(world: World, name: str) -> dict[tuple[str, ...], float]:
    """The samples of a metric by their labels after source and account."""
    text = readiness.measured(world.metrics, world.store, {KEY: world.poller}, NO_SLOTS, world.clock()).decode()
    return {
        tuple(
            value for label, value in sorted(sample.labels.items()) if label not in ("source", "account")
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def foresee(world: World, **changes: Any) -> None:
    """Overrides the planner's statistics."""
    planner: Any = world.poller.planner
    stats = planner.stats
    planner.stats = lambda now: replace(stats(now), **changes)


async def test_polls_and_wasted_polls_are_counted_by_purpose(tmp_path):
    async with open_world(tmp_path) as world:
        purposes = iter(["first", "safety", "ahead", "again", "expected"])
        taken: dict[str, str] = {}
        world.poller.planner.purpose = lambda uid: taken.setdefault(f"{uid}{len(world.source.polled)}", next(purposes))
        failure = ScriptedPoll(kind="unavailable", status_code=503)
        end = seen("succeeded", finished_at=world.clock() + 200, **ENDED)
        await world.register("a", seen("queued"), seen("queued"), seen("queued", scheduled_at=5.0), failure, end)
        await world.run(1000)
        assert measured(world, "relay_polls_total") == {
            ("first", "observed"): 1,
            ("safety", "observed"): 1,
            ("ahead", "observed"): 1,
            ("again", "unavailable"): 1,
            ("expected", "observed"): 1,
        }
        assert measured(world, "relay_polls_wasted_total") == {("safety",): 1}


async def test_detection_delay_is_recorded_by_class(tmp_path):
    async with open_world(tmp_path) as world:
        at = world.clock()
        await world.register("a", seen("succeeded", finished_at=at, **ENDED))
        await world.register("b", seen("failed", finished_at=at, action="research.contacts"))
        await world.register("c", seen("failed", finished_at=at))
        begun = {**ENDED, "started_at": None}
        await world.register("d", seen("queued", **begun), seen("cancelled", finished_at=at, **begun))
        await world.run(100)
        assert measured(world, "relay_detection_delay_seconds_count") == {
            ("outreach.dispatch/email",): 2,
            ("research.contacts",): 1,
            ("other",): 1,
        }


async def test_price_and_expected_delay_are_exported_while_known(tmp_path):
    async with open_world(tmp_path) as world:
        price, delay = "relay_price_seconds", "relay_expected_detection_delay_seconds"
        foresee(world, price_seconds=0.8, expected_delay_seconds=1.2)
        assert (measured(world, price), measured(world, delay)) == ({(): 0.8}, {(): 1.2})
        foresee(world, expected_delay_seconds=None)
        assert (measured(world, price), measured(world, delay)) == ({(): 0.8}, {})
        world.poller.release()
        assert (measured(world, price), measured(world, delay)) == ({}, {})
