"""The outlook of a job: how likely its next change is, and what waiting for it costs."""

import math

import pytest

from relay.core.planner import Planner, PlannerConfig
from relay.core.planner.hazard import BINS
from relay.core.planner.outlook import POINTS, outlook

NOW = 1_779_271_200.0
EVEN = (1.0,) * BINS
"""One event per unit, at every age."""


def outlook_of(**changes):
    given = {
        "seen": NOW,
        "anchor": NOW,
        "due": NOW + 20.0,
        "unit": 10.0,
        "price_seconds": 3.0,
        "run_rates": EVEN,
        "start_rates": None,
    }
    return outlook(**{**given, **changes})


def test_hazard_of_a_run_is_per_second_and_its_delay_grows():
    found = outlook_of()
    assert (found.change, found.price_seconds, len(found.points)) == ("end", 3.0, POINTS)
    assert {point.hazard_per_second for point in found.points} == {0.1}
    last = found.points[-1]
    assert last.at == pytest.approx(NOW + 30.0)
    assert last.expected_delay_seconds == pytest.approx(30.0 - 10.0 * (1 - math.exp(-3.0)), rel=0.01)
    delays = [point.expected_delay_seconds for point in found.points]
    assert delays[0] == 0.0
    assert delays == sorted(delays)


def item(status, **fields):
    return {"status": status, "channel": "email", **fields}


@pytest.mark.parametrize(
    ("seen", "change"),
    [
        (item("running", started_at=NOW - 1), "end"),
        (item("scheduled", scheduled_at=NOW + 60), "start"),
        (None, None),
    ],
)
def test_the_planner_explains_what_a_poll_was_weighed_against(seen, change):
    planner = Planner(PlannerConfig())
    planner.track("job", seen, NOW)
    explanation = planner.explain("job", NOW)
    assert explanation is not None
    found = explanation.outlook
    assert (None if found is None else found.change) == change
    if found is not None:
        assert found.price_seconds > 0
        assert explanation.next_poll_at is not None
        assert found.points[0].at <= explanation.next_poll_at <= found.points[-1].at
