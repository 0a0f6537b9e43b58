"""Lanes: who waits for whom, what a start releases, and what happens when the order was another."""

from collections.abc import Iterator
from typing import Any

import pytest

from relay.core.planner import Planner, PlannerConfig
from relay.core.planner.open_jobs import (
    GAPS_NEEDED,
    IN_ORDER_STARTS,
    MAX_IDLE_LANES,
    OVERDUE_POLLS,
    UNPARKED_AT_ONCE,
    Lanes,
)
from relay.core.planner.poll_schedule import MAX_PATIENCE

NOW = 1_779_271_200.0
QUEUED = {"status": "queued", "channel": "email"}


@pytest.fixture
def planner() -> Planner:
    return Planner(PlannerConfig(max_requests_per_second=1000, seed=1))


def queue(planner: Planner, *job_ids: str, now: float = NOW, **item: Any) -> None:
    for job_id in job_ids:
        planner.track(job_id, {**QUEUED, **item}, now)


def see(planner: Planner, job_id: str, now: float, **item: Any) -> None:
    """An item as the answer to a request of ours."""
    planner.track(job_id, None, now, next_poll_at=0.0)
    assert planner.take(now + 1) == job_id
    planner.observed(job_id, {**QUEUED, **item}, {}, now + 1, now + 1)


def reasons(planner: Planner, now: float, *job_ids: str) -> Iterator[str]:
    for job_id in job_ids:
        explanation = planner.explain(job_id, now)
        yield "gone" if explanation is None else explanation.reason


def anchor(planner: Planner, job_id: str, now: float) -> float | None:
    explanation = planner.explain(job_id, now)
    assert explanation is not None
    return explanation.anchor_at


def test_a_job_without_a_time_waits_for_its_predecessor(planner: Planner) -> None:
    queue(planner, "a", "b", "c")
    assert list(reasons(planner, NOW, "a", "b", "c")) == ["between_looks", "lane_parked", "lane_parked"]
    explanation = planner.explain("c", NOW)
    assert explanation is not None
    assert explanation.waiting_for_job_id == "b"
    assert explanation.anchor_at is None
    assert explanation.next_poll_at is not None
    assert NOW + 0.7 * 900 <= explanation.next_poll_at <= NOW + 900 * MAX_PATIENCE


def test_a_start_gives_the_successor_its_anchor(planner: Planner) -> None:
    queue(planner, "a", "b", "c")
    see(planner, "a", NOW + 10, status="running", started_at=NOW + 5)
    assert anchor(planner, "b", NOW + 11) == NOW + 65
    assert list(reasons(planner, NOW + 20, "b", "c")) == ["before_anchor", "lane_parked"]
    queue(planner, "d", now=NOW + 20)
    assert list(reasons(planner, NOW + 20, "d")) == ["lane_parked"]


@pytest.mark.parametrize("item", [{"status": "running"}, {"status": "queued", "next_attempt_at": NOW + 600}])
def test_a_start_of_unknown_time_counts_from_when_it_could_have_been(planner: Planner, item: dict[str, Any]) -> None:
    queue(planner, "a", scheduled_at=NOW + 100)
    queue(planner, "b")
    see(planner, "a", NOW + 110, **item)
    assert anchor(planner, "b", NOW + 111) == NOW + 160


def test_a_job_that_ends_without_a_start_makes_way(planner: Planner) -> None:
    queue(planner, "a", "b", "c")
    see(planner, "a", NOW + 10, status="cancelled")
    assert anchor(planner, "b", NOW + 11) == NOW + 11
    assert list(reasons(planner, NOW + 11, "b", "c")) == ["between_looks", "lane_parked"]
    planner.forget("b")
    assert list(reasons(planner, NOW + 11, "b", "c")) == ["gone", "between_looks"]


def test_a_parked_job_that_is_forgotten_leaves_the_next_one_parked(planner: Planner) -> None:
    queue(planner, "a", "b", "c")
    planner.forget("b")
    explanation = planner.explain("c", NOW)
    assert explanation is not None
    assert (explanation.reason, explanation.waiting_for_job_id) == ("lane_parked", "a")
    planner.forget("c")
    queue(planner, "d")
    assert list(reasons(planner, NOW, "d")) == ["lane_parked"]


def test_a_start_out_of_order_unparks_the_whole_lane(planner: Planner) -> None:
    queue(planner, "a", "b", "c", "d")
    see(planner, "c", NOW + 10, status="running", started_at=NOW + 5)
    assert "lane_parked" not in list(reasons(planner, NOW + 11, "a", "b", "c", "d"))
    queue(planner, "e", now=NOW + 20)
    assert list(reasons(planner, NOW + 20, "e")) == ["between_looks"]


def test_a_long_lane_is_unparked_a_few_jobs_at_a_time_until_all_are(planner: Planner) -> None:
    names = [f"j{number:03}" for number in range(4 * UNPARKED_AT_ONCE)]
    queue(planner, *names)
    see(planner, names[-1], NOW + 10, status="running", started_at=NOW + 5)
    parked = list(reasons(planner, NOW + 11, *names)).count("lane_parked")
    assert 0 < parked < len(names) - 1
    planner.forget(names[2 * UNPARKED_AT_ONCE])
    see(planner, names[-2], NOW + 11, status="running", started_at=NOW + 6)
    for _ in range(4):
        planner.next_request_at(NOW + 12)
    assert "lane_parked" not in list(reasons(planner, NOW + 12, *names))


def test_a_job_that_is_unparked_while_its_poll_is_out_is_planned_when_that_is_answered(planner: Planner) -> None:
    queue(planner, "a", "b", "c")
    planner.track("b", None, NOW, next_poll_at=0.0)
    assert planner.take(NOW + 1) == "b"
    planner.observed("c", {**QUEUED, "status": "running", "started_at": NOW}, {}, NOW + 1, NOW + 1)
    planner.next_request_at(NOW + 1)
    assert list(reasons(planner, NOW + 1, "b")) == ["in_flight"]
    planner.observed("b", QUEUED, {}, NOW + 1, NOW + 2)
    assert list(reasons(planner, NOW + 2, "b")) == ["between_looks"]


def test_the_next_job_to_be_unparked_may_go_before_it_is(planner: Planner) -> None:
    names = [f"j{number:03}" for number in range(3 * UNPARKED_AT_ONCE)]
    queue(planner, *names)
    planner.observed(names[-1], {**QUEUED, "status": "running"}, {}, NOW, NOW)
    gone = list(reasons(planner, NOW, *names)).index("lane_parked")
    assert gone == UNPARKED_AT_ONCE
    planner.forget(names[gone])
    for _ in range(3):
        planner.next_request_at(NOW)
    assert "lane_parked" not in list(reasons(planner, NOW, *names))


def test_job_in_flight_keeps_an_anchor_set_meanwhile(planner: Planner) -> None:
    queue(planner, "a", "b")
    planner.track("b", None, NOW, next_poll_at=0.0)
    assert planner.take(NOW + 1) == "b"
    planner.observed("a", {**QUEUED, "status": "running", "started_at": NOW}, {}, NOW + 1, NOW + 1)
    assert list(reasons(planner, NOW + 1, "b")) == ["in_flight"]
    planner.observed("b", QUEUED, {}, NOW + 1, NOW + 2)
    assert anchor(planner, "b", NOW + 2) == NOW + 60
    assert list(reasons(planner, NOW + 2, "b")) == ["before_anchor"]


def test_a_job_moved_to_later_lets_the_others_pass(planner: Planner) -> None:
    queue(planner, "a", scheduled_at=NOW + 5)
    queue(planner, "b")
    see(planner, "a", NOW + 10, scheduled_at=NOW + 30)
    assert list(reasons(planner, NOW + 11, "b")) == ["lane_parked"]
    see(planner, "a", NOW + 12, scheduled_at=NOW + 3600)
    assert list(reasons(planner, NOW + 13, "a", "b")) == ["before_anchor", "between_looks"]


def test_starts_in_order_make_up_for_one_out_of_order(planner: Planner) -> None:
    queue(planner, "a", "b")
    see(planner, "b", NOW + 10, status="running", started_at=NOW + 5)
    started = NOW + 100
    for number in range(IN_ORDER_STARTS + 1):
        see(planner, "ab"[number] if number < 1 else f"x{number - 1}", started, status="running", started_at=started)
        queue(planner, f"x{number}", now=started)
        started += 60
    queue(planner, "y", now=started)
    assert anchor(planner, f"x{IN_ORDER_STARTS}", started) == started
    assert list(reasons(planner, started, "y")) == ["lane_parked"]


def test_job_not_found_three_times_no_longer_blocks_its_lane(planner: Planner) -> None:
    queue(planner, "a", "b")
    for second in (10, 20, 30):
        assert list(reasons(planner, NOW + second, "b")) == ["lane_parked"]
        planner.failed("a", 404, {}, NOW + second)
    assert list(reasons(planner, NOW + 31, "b")) == ["between_looks"]
    planner.failed("a", 404, {}, NOW + 40)
    queue(planner, "c", now=NOW + 41)
    assert list(reasons(planner, NOW + 41, "c")) == ["lane_parked"]


def test_a_lane_is_joined_as_soon_as_the_channel_is_known(planner: Planner) -> None:
    planner.track("a", None, NOW)
    planner.track("b", None, NOW)
    planner.track("none", None, NOW, lane="")
    planner.track("own", None, NOW, lane="mine")
    for _ in range(4):
        job_id = planner.take(NOW + 1)
        assert job_id is not None
        planner.observed(job_id, QUEUED, {}, NOW, NOW + 1)
    assert list(reasons(planner, NOW + 2, "a", "b", "none", "own")) == ["between_looks", "lane_parked"] + 2 * [
        "between_looks"
    ]


def test_the_spacing_of_a_lane_is_learned(planner: Planner) -> None:
    started = NOW
    for number in range(20):
        queue(planner, f"j{number}", f"k{number}", now=started)
        see(planner, f"j{number}", started + 1, status="succeeded", started_at=started)
        planner.forget(f"k{number}")
        started += 200 + number
    queue(planner, "next", now=started)
    last_start = started - 219
    assert anchor(planner, "next", started) == pytest.approx(last_start + 0.95 * 208)
    assert GAPS_NEEDED < 20


def test_number_of_remembered_empty_lanes_is_bounded() -> None:
    lanes = Lanes()
    for number in range(MAX_IDLE_LANES + 10):
        lanes.close_if_empty(lanes.open(str(number)))
    names = [lane.name for lane in lanes]
    assert len(names) == MAX_IDLE_LANES
    assert "9" not in names
    assert "10" in names


def test_a_job_past_its_time_waits_for_a_predecessor_that_has_not_started(planner: Planner) -> None:
    queue(planner, "a", scheduled_at=NOW + 1)
    queue(planner, "b", scheduled_at=NOW + 61)
    see(planner, "b", NOW + 67, scheduled_at=NOW + 61)
    assert list(reasons(planner, NOW + 68, "b")) == ["between_looks"], "it may start at any moment: one more poll"
    see(planner, "b", NOW + 69, scheduled_at=NOW + 61)
    assert list(reasons(planner, NOW + 70, "b")) == ["lane_parked"]
    see(planner, "b", NOW + 71, scheduled_at=NOW + 61)
    assert list(reasons(planner, NOW + 72, "b")) == ["lane_parked"], "it was parked before that poll"
    see(planner, "a", NOW + 73, status="running", started_at=NOW + 72, scheduled_at=NOW + 1)
    assert anchor(planner, "b", NOW + 75) == NOW + 132


def held_by_a_retry(planner: Planner) -> None:
    """`b` is parked behind `a`, which waits for its retry until NOW + 600."""
    queue(planner, "a", scheduled_at=NOW + 1)
    see(planner, "a", NOW + 4, status="running", started_at=NOW + 2, scheduled_at=NOW + 1)
    see(planner, "a", NOW + 9, scheduled_at=NOW + 1, next_attempt_at=NOW + 600)
    queue(planner, "b", now=NOW + 10, scheduled_at=NOW + 11)
    for poll in range(OVERDUE_POLLS + 1):
        assert list(reasons(planner, NOW + 20 + 2 * poll, "b")) != ["lane_parked"]
        see(planner, "b", NOW + 20 + 2 * poll, scheduled_at=NOW + 11)
    assert list(reasons(planner, NOW + 30, "b")) == ["lane_parked"]


def test_a_job_past_its_time_waits_for_the_end_of_its_predecessors_retries(planner: Planner) -> None:
    held_by_a_retry(planner)
    see(planner, "b", NOW + 40, scheduled_at=NOW + 11)
    assert list(reasons(planner, NOW + 42, "b")) == ["lane_parked"]
    see(planner, "a", NOW + 610, status="succeeded", started_at=NOW + 601, scheduled_at=NOW + 1)
    assert list(reasons(planner, NOW + 612, "b")) == ["between_looks"]


def test_a_job_past_its_time_goes_on_waiting_for_its_lane(planner: Planner) -> None:
    queue(planner, "a", scheduled_at=NOW + 1)
    see(planner, "a", NOW + 10, status="running", started_at=NOW + 9, scheduled_at=NOW + 1)
    queue(planner, "b", now=NOW + 11, scheduled_at=NOW + 12)
    for poll in (20, 30):
        see(planner, "b", NOW + poll, scheduled_at=NOW + 12)
        assert anchor(planner, "b", NOW + poll + 2) == NOW + 69
