"""Progress that an upstream reports: evidence of a job's end that loses its weight where it is wrong."""

import math
from typing import Any

import pytest

from relay.core.planner import Planner, PlannerConfig
from relay.core.planner.hints import LEAST_SHARE, USELESS_ERROR, Hint, first
from relay.core.planner.poll_schedule import MOST_SKIPPED

NOW = 1_779_271_200.0
LONGEST = 900.0
LATE = 1e9
RUNNING = {"status": "running", "action": "a", "channel": "c", "started_at": NOW}
QUEUED = {"status": "queued", "action": "a", "channel": "c"}


def hint(**changes: Any) -> Hint:
    """A quarter is left after 300 s, so the end is expected after 400 s."""
    return Hint(**{"left": 25.0, "at": 300.0, "ends_at": 400.0, "error": 0.1, "running": True, **changes})


# --- estimates


@pytest.mark.parametrize(
    ("left", "at", "ends_at"),
    [
        (75.0, 100.0, 400.0),
        (100.0, 100.0, math.inf),
        (0.0, 100.0, 100.0),
        (50.0, 0.0, math.inf),
        (120.0, 9.0, math.inf),
    ],
)
def test_first_reading_of_a_run_is_compared_with_its_start(left: float, at: float, ends_at: float) -> None:
    assert first(left, at, 0.0, 0.3, running=True) == Hint(left, at, ends_at, 0.3, running=True)


def test_place_in_a_queue_tells_a_pace_from_the_second_reading_on() -> None:
    before = first(10.0, 100.0, 0.0, 0.3, running=False)
    assert before.ends_at == math.inf
    assert before.read(6.0, 140.0, 1.0) == (Hint(6.0, 140.0, 200.0, 0.3, running=False), None)


@pytest.mark.parametrize(
    ("left", "at", "ends_at", "error"),
    [
        pytest.param(12.5, 350.0, 400.0, 0.0, id="as expected"),
        pytest.param(0.0, 350.0, 350.0, 0.98, id="twice as fast"),
        pytest.param(18.75, 350.0, 500.0, 0.48, id="half as fast"),
        pytest.param(25.0, 350.0, math.inf, 0.98, id="stands still"),
        pytest.param(60.0, 350.0, math.inf, 1.0, id="goes back"),
        pytest.param(5.0, 500.0, 550.0, 0.195, id="long after the estimated end"),
    ],
)
def test_later_reading_gives_a_new_pace_and_shows_how_wrong_the_last_was(
    left: float, at: float, ends_at: float, error: float
) -> None:
    found, measured = hint().read(left, at, 1.0)
    assert measured == pytest.approx(error)
    assert found._replace(error=error) == Hint(left, at, ends_at, error, running=True)
    assert found.error == pytest.approx((0.1 + error) / 2)


@pytest.mark.parametrize("passed", [-5.0, 0.0, LEAST_SHARE * 100 - 1])
def test_reading_too_soon_after_another_changes_nothing(passed: float) -> None:
    assert hint().read(24.9, 300.0 + passed, 1.0) == (hint(), None)


def test_error_within_a_second_is_none() -> None:
    short = hint(at=398.0)
    assert short.read(12.5, 398.9, 1.0)[1] == 0
    assert short.error_of_end(401.0, 1.0) == 0
    assert short.error_of_end(403.0, 1.0) == 1


def test_job_that_stays_at_100_percent_refutes_its_progress() -> None:
    assert hint(left=0.0, ends_at=300.0).read(0.0, 301.0, 1.0)[1] == 1


@pytest.mark.parametrize(("ended_at", "error"), [(400.0, 0.0), (351.0, 0.48), (900.0, 1.0)])
def test_end_shows_how_wrong_the_estimate_was(ended_at: float, error: float) -> None:
    assert hint().error_of_end(ended_at, 1.0) == pytest.approx(error)


def test_end_shows_nothing_where_there_was_no_estimate() -> None:
    assert hint(ends_at=math.inf).error_of_end(400.0, 1.0) is None
    assert hint(ends_at=300.0).error_of_end(400.0, 1.0) is None


# --- the next poll


def test_estimate_that_was_right_decides_the_next_poll() -> None:
    assert hint(error=0.0).next_poll(320.0, LATE, 300.0, 1.0) == pytest.approx(400)
    assert hint(error=0.0).next_poll(900.0, LATE, 300.0, 1.0) == pytest.approx(400)


def test_poll_comes_before_the_estimated_end_if_the_doubt_is_worth_it() -> None:
    cheap, dear = (hint(error=0.01).next_poll(395.0, LATE, 300.0, price) for price in (0.5, 2.0))
    assert cheap < 400 < dear


def test_estimate_counts_the_less_the_more_it_erred() -> None:
    found = [hint(error=error).next_poll(320.0, LATE, 300.0, 1e9) for error in (0.0, 0.1, 0.3, 0.45)]
    assert sorted(found, reverse=True) == found
    assert found[-1] > 320


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"error": USELESS_ERROR}, id="as wrong as chance"),
        pytest.param({"error": 1.0}, id="refuted"),
        pytest.param({"ends_at": math.inf}, id="no pace"),
        pytest.param({"ends_at": math.inf, "error": 0.0}, id="no pace and never wrong"),
        pytest.param({"ends_at": 299.0}, id="end has passed"),
        pytest.param({"left": 0.0, "ends_at": 300.0}, id="100 %"),
    ],
)
def test_useless_estimate_leaves_the_learned_time(changes: Any) -> None:
    assert hint(**changes).next_poll(320.0, LATE, 300.0, 1.0) == 320


def test_poll_that_is_due_stays_due() -> None:
    assert hint(error=0.0).next_poll(290.0, LATE, 300.0, 1.0) == 290


def test_no_estimate_postpones_a_poll_beyond_the_latest_time() -> None:
    assert hint(error=0.0, ends_at=1e6).next_poll(302.0, 330.0, 300.0, 1.0) == pytest.approx(330)


# --- in the planner


def planner_of(**changes: Any) -> Planner:
    return Planner(PlannerConfig(**{"max_requests_per_second": 20.0, "max_interval_seconds": LONGEST, **changes}))


def seen(planner: Planner, at: float, item: Any = RUNNING, job_id: str = "job", **fields: Any) -> float:
    """A poll finds this. Returns how many seconds later the next one is."""
    planner.observed(job_id, {**item, **fields}, {}, at, at)
    planned = planner.next_poll_at(job_id)
    return math.inf if planned is None else planned - at


def proven(planner: Planner) -> None:
    """The class's progress was right so far."""
    planner.statistics.of_class("a", "c").hint_error = 0.0


def test_job_is_polled_when_its_progress_expects_the_end() -> None:
    planner = planner_of()
    proven(planner)
    planner.track("job", RUNNING, NOW, lane="")
    without = seen(planner, NOW + 100)
    planner.track("other", RUNNING, NOW, lane="")
    assert without < 20
    assert seen(planner, NOW + 100, left=20.0) == pytest.approx(25)
    assert seen(planner, NOW + 120, left=4.0) == pytest.approx(5)


def test_jobs_without_progress_are_planned_as_ever() -> None:
    plain, mixed = planner_of(), planner_of()
    for planner in (plain, mixed):
        planner.track("job", RUNNING, NOW, lane="")
        planner.track("progress", {**RUNNING, "action": "b"}, NOW, lane="")
        seen(planner, NOW + 10, action="b", job_id="progress", **({"left": 70.0} if planner is mixed else {}))
    for at in (10, 20, 40, 80):
        assert seen(plain, NOW + at) == seen(mixed, NOW + at)
    assert plain.schedule.hints == {}
    assert list(mixed.schedule.hints) == ["progress"]


@pytest.mark.parametrize("left", [None, "20", True, -1.0, math.nan, math.inf, 20, [], {}])
def test_progress_that_is_no_number_counts_as_none(left: Any) -> None:
    plain, other = planner_of(), planner_of()
    for planner in (plain, other):
        planner.track("job", RUNNING, NOW, lane="")
    assert seen(plain, NOW + 100) == seen(other, NOW + 100, left=left)
    assert other.schedule.hints == {}


@pytest.mark.parametrize(
    "later",
    [
        pytest.param([50.0, 50.0, 50.0], id="stands still"),
        pytest.param([60.0, 75.0, 90.0], id="goes back"),
        pytest.param([0.0, 0.0, 0.0], id="100 % for long"),
        pytest.param([5.0, 80.0, 40.0], id="random"),
    ],
)
def test_wrong_progress_loses_its_weight_for_the_job_and_then_for_its_class(later: list[float]) -> None:
    plain, planner = planner_of(), planner_of()
    for each in (plain, planner):
        each.track("job", RUNNING, NOW, lane="")
        seen(each, NOW + 100)
    seen(planner, NOW + 100, left=50.0)
    for number, left in enumerate(later, 1):
        without, found = seen(plain, NOW + 100 + 100 * number), seen(planner, NOW + 100 + 100 * number, left=left)
    assert found == without
    assert planner.statistics.of_class("a", "c").hint_error > USELESS_ERROR


def test_job_that_ends_long_before_its_estimated_end_makes_its_class_cautious() -> None:
    planner = planner_of()
    for number in range(5):
        planner.track(f"job{number}", RUNNING, NOW, lane="")
        seen(planner, NOW + 100, job_id=f"job{number}", left=90.0)
        seen(
            planner, NOW + 120, job_id=f"job{number}", status="succeeded", finished_at=NOW + 110 if number % 2 else None
        )
    assert planner.statistics.of_class("a", "c").hint_error > USELESS_ERROR
    assert planner.schedule.hints == {}


def test_end_that_is_seen_after_the_estimated_one_is_taken_to_be_that() -> None:
    planner = planner_of()
    planner.track("job", RUNNING, NOW, lane="")
    seen(planner, NOW + 100, left=50.0)
    seen(planner, NOW + 205, status="succeeded")
    assert planner.statistics.of_class("a", "c").hint_error < USELESS_ERROR


def test_progress_skips_at_most_so_many_planned_polls() -> None:
    planner = planner_of()
    proven(planner)
    planner.track("job", RUNNING, NOW, lane="")
    found = seen(planner, NOW + 10, left=99.0)
    job = planner.open_jobs.jobs["job"]
    table, age, polls = planner.statistics.of_class("a", "c").policy.table(job.kind, job.rung), 10.0, 0
    while age < 10 + found - 1e-6:
        age, polls = table.next_poll(age), polls + 1
    assert polls == 1 + MOST_SKIPPED


def test_lying_progress_delays_no_poll_beyond_the_longest_interval() -> None:
    planner = planner_of(min_interval_seconds=100.0)
    proven(planner)
    planner.track("job", RUNNING, NOW, lane="")
    assert seen(planner, NOW + 1000, left=99.99) <= LONGEST


def test_forgotten_job_and_item_without_progress_leave_no_hint() -> None:
    planner = planner_of()
    for job_id in ("job", "other"):
        planner.track(job_id, RUNNING, NOW, lane="")
        seen(planner, NOW + 100, job_id=job_id, left=50.0)
    seen(planner, NOW + 110, job_id="job")
    planner.forget("other")
    assert planner.schedule.hints == {}


def test_place_in_a_queue_postpones_the_poll_until_the_start_and_a_run() -> None:
    plain, planner = planner_of(), planner_of()
    proven(planner)
    for each in (plain, planner):
        each.track("job", QUEUED, NOW, lane="")
    seen(planner, NOW + 100, QUEUED, left=12.0)
    found = seen(planner, NOW + 110, QUEUED, left=11.0)
    assert found > 2 * seen(plain, NOW + 110, QUEUED)
    assert seen(planner, NOW + 300, left=50.0, started_at=NOW + 250) < 100, "percent of a run is another count"
    assert planner.statistics.of_class("a", "c").hint_error == 0


def test_end_of_a_job_whose_run_showed_no_progress_teaches_nothing_of_it() -> None:
    planner = planner_of()
    for job_id in ("waits", "none"):
        planner.track(job_id, QUEUED, NOW, lane="")
    seen(planner, NOW + 100, QUEUED, "waits", left=12.0)
    for job_id in ("waits", "none"):
        seen(planner, NOW + 110, QUEUED, job_id, status="cancelled")
    assert planner.statistics.of_class("a", "c").hint_error == USELESS_ERROR
