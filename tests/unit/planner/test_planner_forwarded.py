"""Requests of others that pass through the relay: they spend the same limit, and what they show counts as a poll."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.planner import Planner, PlannerConfig
from relay.core.planner.config import SLACK_SECONDS
from relay.core.planner.pacer import Bucket
from tests.support.scale import scaled
from tests.unit.planner.test_planner_interface import HEADERS, NOW, QUEUED, explain, next_take, planner_of

RUNNING = {"status": "running", "channel": "email", "started_at": NOW}


def seen(planner: Planner, job_id: str, now: float, item: dict[str, Any] = RUNNING) -> None:
    """A first poll that found the job so."""
    planner.track(job_id, None, now)
    job, at = next_take(planner, now)
    assert job == job_id
    planner.observed(job_id, item, {}, at, at + 0.1)


# --- a read that is borrowed


def test_a_borrowed_poll_is_not_offered_and_its_answer_plans_the_next() -> None:
    planner = planner_of()
    seen(planner, "job", NOW)
    now = NOW + 2
    assert planner.borrow("job", now)
    assert planner.purpose("job") == "passed"
    assert explain(planner, "job", now).reason == "in_flight"
    assert planner.take(now + 600) is None
    planner.observed("job", RUNNING, HEADERS, now, now + 0.1)
    assert next_take(planner, now + 0.1)[0] == "job"


@pytest.mark.parametrize("status_code", [None, 401, 404, 500])
@pytest.mark.parametrize("headers", [{}, HEADERS])
def test_a_borrowed_poll_that_showed_nothing_is_due_as_before(status_code: int | None, headers: dict[str, str]) -> None:
    planner = planner_of()
    seen(planner, "job", NOW)
    due = planner.next_poll_at("job")
    assert due is not None
    for number in range(20):
        at = NOW + 0.2 + number / 100
        assert planner.borrow("job", at)
        planner.settle("job", due, status_code, headers, at, at + 0.01)
        assert planner.next_poll_at("job") == pytest.approx(due)
        assert planner.purpose("job") != "passed"
    assert planner.is_fresh("job", NOW + 0.5) == (due > NOW + 0.5 + SLACK_SECONDS)
    assert next_take(planner, due)[0] == "job"


def test_job_that_is_not_borrowed_is_not_settled() -> None:
    planner = planner_of()
    planner.settle("job", NOW, 200, {}, NOW, NOW)
    seen(planner, "job", NOW)
    due = planner.next_poll_at("job")
    planner.settle("job", NOW + 1, 200, {}, NOW, NOW + 1)
    assert planner.next_poll_at("job") == due


def test_job_in_flight_or_unknown_is_not_borrowed() -> None:
    planner = planner_of()
    planner.track("job", None, NOW)
    assert not planner.borrow("another", NOW)
    job, at = next_take(planner, NOW)
    assert not planner.borrow(job, at)
    planner.observed(job, RUNNING, {}, at, at + 0.1)
    assert planner.borrow(job, at + 0.2)
    assert not planner.borrow(job, at + 0.3)


def test_a_borrowed_poll_spends_a_request_of_ours() -> None:
    planner = planner_of(max_requests_per_second=1)
    seen(planner, "job", NOW)
    planner.track("other", QUEUED, NOW + 10)
    at = planner.next_request_at(NOW + 60)
    assert at is not None
    for number in range(100):
        assert planner.borrow("job", NOW + 60 + number / 1000)
        planner.observed("job", RUNNING, {}, NOW + 60, NOW + 60 + number / 1000)
    later = planner.next_request_at(NOW + 61)
    assert later is not None
    assert later > NOW + 61  # what was saved up is spent, and those after it wait


# --- freshness


def test_what_could_not_be_confirmed_is_not_fresh() -> None:
    planner = planner_of()
    seen(planner, "job", NOW)
    job, at = next_take(planner, NOW + 1)
    planner.failed(job, 500, {}, at)
    assert not planner.is_fresh("job", at + 0.01)


# --- anything else that passes


def test_headers_of_forwarded_responses_report_the_limit() -> None:
    planner = planner_of(max_requests_per_second=None)
    planner.forwarded(202, HEADERS, NOW, NOW + 0.1)
    stats = planner.stats(NOW + 1)
    assert (stats.limit, stats.remaining, stats.window_seconds) == (100, 90, 60)


def test_without_headers_polls_wait_for_forwarded_requests() -> None:
    def first_request(passed: int) -> float:
        planner = planner_of(max_requests_per_second=1)
        planner.track("job", None, NOW)
        for _ in range(passed):
            planner.forwarded(200, {}, NOW, NOW)
        at = planner.next_request_at(NOW)
        assert at is not None
        return at

    assert first_request(0) <= NOW + 1
    assert first_request(10) == pytest.approx(NOW + 11, abs=0.1)


def test_forwarded_requests_never_starve_polling() -> None:
    planner = Planner(PlannerConfig(max_requests_per_second=1))
    planner.track("job", None, NOW)
    for _ in range(2_000):
        planner.forwarded(None, {}, NOW, NOW)
    at = planner.next_request_at(NOW)
    assert at is not None
    assert at <= NOW + 31  # half a window


@settings(max_examples=scaled(15, 40))
@given(rate=st.floats(0.05, 50), bank=st.floats(0, 60), owed=st.integers(0, 200), later=st.floats(0, 100))
def test_charges_delay_requests_by_at_most_the_bank(rate: float, bank: float, owed: int, later: float) -> None:
    bucket = Bucket()
    bucket.set_rate(rate, bank, NOW)
    opens = bucket.opens_at
    for _ in range(owed):
        before = bucket.opens_at
        bucket.charge(NOW)
        assert bucket.opens_at >= before
    opens_now = bucket.opens_at
    assert opens_now <= max(opens, NOW + bank) + 1e-3
    assert opens_now <= opens + owed / rate + 1e-3
    if abs(opens_now - (NOW + later)) > 2 * SLACK_SECONDS:
        assert bucket.take(NOW + later) == (opens_now <= NOW + later)
