"""What the API is told of an account's polling and of a job's next look."""

from dataclasses import replace
from typing import Any

from relay.api.ports import SourceReport
from relay.tracking import Tracking
from tests.simulation_world import World, open_world, seen

KEY = ("revor", "default")


def tracking_of(world: World) -> Tracking:
    return Tracking(
        store=world.store,
        pollers={KEY: world.poller},
        definitions={},
        dispatcher=world.dispatcher,
        signals=world.signals,
        clock=world.clock,
    )


def foresee(world: World, **changes: Any) -> None:
    """Has the planner say these of itself."""
    planner: Any = world.poller.planner
    stats = planner.stats
    planner.stats = lambda now: replace(stats(now), **changes)


async def test_an_account_s_report_has_what_another_budget_would_bring(tmp_path):
    async with open_world(tmp_path) as world:

        def report() -> SourceReport:
            (found,) = tracking_of(world).reports()
            return found

        foresee(
            world,
            price_seconds=0.8,
            expected_delay_seconds=1.2,
            expected_delay_at_double_seconds=0.6,
            expected_delay_at_half_seconds=2.9,
        )
        assert (report().state, report().price_seconds, report().expected_detection_delay_seconds) == ("ok", 0.8, 1.2)
        assert report().expected_detection_delay_at_double_budget_seconds == 0.6
        assert report().expected_detection_delay_at_half_budget_seconds == 2.9
        world.poller.let_go()
        assert (report().state, report().price_seconds) == ("elsewhere", None)
        assert report().expected_detection_delay_seconds is None
        world.poller.health.state = replace(world.poller.health.state, state="down")
        assert report().state == "down"


async def test_an_account_without_a_key_says_so(tmp_path):
    async with open_world(tmp_path, key=None) as world:
        (report,) = tracking_of(world).reports()
        assert report.state == "no_key"


async def test_an_explanation_has_the_expected_delay_in_fields_and_words(tmp_path):
    async with open_world(tmp_path) as world:
        uid = await world.register("a", seen("queued", scheduled_at=world.clock() + 600))
        await world.run(3)
        planner: Any = world.poller.planner
        explain = planner.explain
        planner.explain = lambda job_id, now: replace(explain(job_id, now), expected_delay_seconds=1.2)
        explanation = tracking_of(world).explain(await world.store.jobs.get(uid))
        assert (explanation.reason, explanation.expected_delay_seconds) == ("before_anchor", 1.2)
        assert explanation.sentence.startswith("Nothing can happen to it before 08:10:00 UTC")
        assert explanation.sentence.endswith("Its end is known about 1.2 s after it happens.")
        await world.store.jobs.untrack(uid, world.clock())
        closed = tracking_of(world).explain(await world.store.jobs.get(uid))
        assert (closed.reason, closed.expected_delay_seconds) == ("closed", None)
