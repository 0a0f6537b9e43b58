"""Checks: polls of jobs of which nothing is expected, in case they were cancelled or moved."""

from typing import Any

import pytest

from relay.core.planner import Planner, PlannerConfig
from relay.core.planner.poll_queues import CHECK, EXPECTED
from relay.core.planner.poll_schedule import MAX_PATIENCE

NOW = 1_779_271_200.0
LONGEST = 900.0
SHORTEST_CHECK = 0.7 * LONGEST
LATER = {"status": "scheduled", "action": "a", "channel": "c", "scheduled_at": NOW + 50_000}


def planner_of(price: float = 1.0, **changes: Any) -> Planner:
    planner = Planner(PlannerConfig(**{"max_requests_per_second": 20.0, "seed": 3, **changes}))
    planner.price.load(price, 1_000)
    return planner


def due(planner: Planner, job_id: str = "job") -> float:
    planned = planner.next_poll_at(job_id)
    assert planned is not None
    return planned


def cancellations_seen(planner: Planner, jobs: int, waited: float) -> None:
    """So many jobs of the class were cancelled after they had waited for so long."""
    job_class = planner.statistics.of_class("a", "c")
    for _ in range(jobs):
        planner.statistics.record_wait(job_class, waited, changed=True)


def test_checks_of_many_jobs_do_not_fall_together() -> None:
    planner = planner_of()
    for number in range(500):
        planner.track(f"j{number}", LATER, NOW, lane="")
    found = [due(planner, f"j{number}") - NOW for number in range(500)]
    assert len(set(found)) == 500
    assert min(found) < 0.75 * LONGEST
    assert max(found) > 0.95 * LONGEST


def test_a_check_that_is_due_is_put_off_where_requests_are_scarce() -> None:
    planner = planner_of(max_requests_per_second=1.0)
    planner.track("job", LATER, NOW, lane="")
    first = due(planner)
    planner.price.load(1e4, 1_000)
    job, t = planner.open_jobs.jobs["job"], first + 1
    assert planner.schedule.is_stale(job)
    planner.schedule.replan(job, t)
    assert due(planner) == pytest.approx(NOW + MAX_PATIENCE * (first - NOW))
    assert job.queue == CHECK
    planner.schedule.replan(job, due(planner))
    assert due(planner) <= NOW + MAX_PATIENCE * LONGEST, "it is put off no further"


def test_a_check_comes_sooner_where_waiting_jobs_were_cancelled() -> None:
    seldom, often = planner_of(), planner_of()
    cancellations_seen(seldom, 2, 1e6)
    cancellations_seen(often, 500, 1_000.0)
    for planner in (seldom, often):
        planner.track("job", LATER, NOW, lane="")
    assert due(seldom) - NOW >= SHORTEST_CHECK
    job_class = often.statistics.of_class("a", "c")
    assert due(often) - NOW == pytest.approx((2 * 1.0 / job_class.change_rate) ** 0.5)
    assert due(often) - NOW < 100


@pytest.mark.parametrize(
    ("ahead", "queue"), [(0.5 * LONGEST, EXPECTED), (0.8 * LONGEST, EXPECTED), (2 * LONGEST, CHECK)]
)
def test_no_check_comes_just_before_a_poll_that_is_expected(ahead: float, queue: int) -> None:
    planner = planner_of()
    planner.track("job", {**LATER, "scheduled_at": NOW + ahead}, NOW, lane="")
    assert planner.open_jobs.jobs["job"].queue == queue
    assert (due(planner) >= NOW + ahead) == (queue == EXPECTED)
