"""Hints of the upstream: a pause it asks for on a good answer, a documented shortest interval, a documented limit."""

from typing import Any

import pytest

from relay.core.planner import Planner, PlannerConfig
from relay.core.planner.config import RateLimitHeaders
from relay.core.planner.poll_queues import CHECK, EXPECTED

NOW = 1_779_271_200.0
LONGEST = 900.0
RUNNING = {"status": "running", "action": "a", "channel": "c", "started_at": NOW}
LIMITS = {"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "50", "X-RateLimit-Window-Ms": "60000"}


def planner_of(**changes: Any) -> Planner:
    return Planner(PlannerConfig(**{"max_requests_per_second": 20.0, "max_interval_seconds": LONGEST, **changes}))


def polled(planner: Planner, headers: dict[str, str], at: float = NOW, item: Any = RUNNING) -> float:
    """Polls the job, which is due; the answer has these headers. Returns how many seconds later the next poll is."""
    planner.track("job", None, at, lane="", next_poll_at=at)
    assert planner.take(at + 1) == "job"
    planner.observed("job", item, headers, at + 1, at + 1)
    return due(planner) - at - 1


def due(planner: Planner, job_id: str = "job") -> float:
    planned = planner.next_poll_at(job_id)
    assert planned is not None
    return planned


def test_job_is_not_polled_before_the_time_that_a_good_answer_asks_for() -> None:
    without = polled(planner_of(), {})
    assert without < 30
    assert polled(planner_of(), {"Retry-After": "30"}) == pytest.approx(30)
    assert polled(planner_of(), {"Retry-After": "0"}) == without
    assert polled(planner_of(), {"Retry-After": "soon"}) == without
    milliseconds = planner_of(headers=RateLimitHeaders(retry_after_ms="retry-after-ms"))
    assert polled(milliseconds, {"Retry-After-Ms": "30000"}) == pytest.approx(30)


def test_shorter_pause_than_the_planned_interval_changes_nothing() -> None:
    assert polled(planner_of(min_interval_seconds=20.0), {"Retry-After": "5"}) == polled(
        planner_of(min_interval_seconds=20.0), {}
    )


@pytest.mark.parametrize("pause", ["86400", "1e300", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_long_pause_is_checked_within_the_longest_interval(pause: str) -> None:
    planner = planner_of()
    assert polled(planner, {"Retry-After": pause}) <= LONGEST
    job = planner.open_jobs.jobs["job"]
    assert job.queue == CHECK
    assert planner.take(due(planner)) == "job"
    assert planner.purpose("job") == "safety"


def test_next_answer_without_a_pause_ends_the_hint() -> None:
    planner = planner_of()
    polled(planner, {"Retry-After": "60"})
    assert planner.take(due(planner)) == "job"
    planner.observed("job", RUNNING, {}, NOW + 61, NOW + 61)
    assert due(planner) < NOW + 120
    assert planner.schedule.asked_until == {}
    assert planner.open_jobs.jobs["job"].queue == EXPECTED


def test_spare_requests_and_a_higher_weight_do_not_shorten_the_pause() -> None:
    planner = planner_of()
    polled(planner, {"Retry-After": "300"})
    planned = due(planner)
    planner.price.load(1e4, 1_000)
    planner.set_weight("job", 100.0, NOW + 2)
    assert due(planner) == planned
    assert planner.take(NOW + 200) is None


def test_ended_and_forgotten_jobs_leave_no_hint() -> None:
    planner = planner_of()
    polled(planner, {"Retry-After": "60"})
    planner.forget("job")
    planner.track("other", None, NOW, lane="", shortest_seconds=5.0)
    assert planner.take(NOW + 2) == "other"
    planner.observed("other", {"status": "succeeded"}, {"Retry-After": "60"}, NOW + 2, NOW + 2)
    assert (planner.schedule.asked_until, planner.schedule.shortest) == ({}, {})


def test_job_with_a_documented_shortest_interval_is_not_polled_more_often() -> None:
    planner = planner_of()
    planner.track("slow", RUNNING, NOW, lane="", shortest_seconds=40.0)
    planner.track("fast", RUNNING, NOW, lane="")
    assert due(planner, "fast") < NOW + 40 == pytest.approx(due(planner, "slow"))
    planner.track("slow", None, NOW + 1, lane="", next_poll_at=NOW + 1)
    assert planner.take(NOW + 1) == "slow", "a poll that someone asks for is made at once"
    planner.failed("slow", 404, {}, NOW + 1)
    assert due(planner, "slow") >= NOW + 41, "nor after a failure"


def test_parked_job_keeps_its_shortest_interval_too() -> None:
    planner = planner_of()
    queued = {"status": "queued", "action": "a", "channel": "c"}
    for name in ("first", "second"):
        planner.track(name, None, NOW, lane="lane", shortest_seconds=2 * LONGEST)
        planner.track(name, None, NOW, next_poll_at=NOW)
        assert planner.take(NOW + 1) == name
        planner.observed(name, queued, {}, NOW + 1, NOW + 1)
    assert due(planner, "second") == NOW + 1 + LONGEST, "at most the longest interval"


def test_documented_limit_caps_the_rate_until_a_header_tells_another() -> None:
    planner = planner_of(max_requests_per_second=None, static_limit=(100, 1.0), reserve=0.3)
    planner.track("job", None, NOW, lane="")
    planner.next_request_at(NOW)
    assert planner.requests_per_second == pytest.approx(70)
    polled(planner, LIMITS)
    assert planner.requests_per_second < 1


def test_setting_that_allows_less_than_the_documented_limit_counts() -> None:
    planner = planner_of(max_requests_per_second=2.0, static_limit=(100, 1.0))
    planner.next_request_at(NOW)
    assert planner.requests_per_second == 2
    planner.configure(PlannerConfig(static_limit=(1, 4.0)))
    planner.next_request_at(NOW)
    assert planner.requests_per_second == pytest.approx(0.25), "one request a window is always allowed"


@pytest.mark.parametrize("reserve", [0.0, 0.3, 0.6])
def test_burst_after_a_rest_stays_within_the_documented_limit(reserve: float) -> None:
    planner = planner_of(max_requests_per_second=None, static_limit=(10, 5.0), reserve=reserve)
    for number in range(200):
        planner.track(f"j{number}", None, NOW, lane="")
    planner.next_request_at(NOW)
    sent: list[float] = []
    for step in range(600):
        now = NOW + 60 + step / 20
        while (job_id := planner.take(now)) is not None:
            sent.append(now)
            planner.observed(job_id, {"status": "succeeded"}, {}, now, now)
    assert all(sum(at <= other < at + 5.0 for other in sent) <= 10 + 1 for at in sent)
    assert len(sent) > 30 * (1 - reserve)


@pytest.mark.parametrize("limit", [(0, 1.0), (1, 0.0), (float("inf"), 1.0), (-1, 1.0)])
def test_documented_limit_is_a_positive_number(limit: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="static_limit"):
        PlannerConfig(static_limit=limit)


def test_end_is_expected_of_a_running_job_only() -> None:
    planner = planner_of()
    queued = {"status": "queued", "action": "a", "channel": "c"}
    for name, item in (("runs", RUNNING), ("waits", queued), ("unseen", None)):
        planner.track(name, item, NOW, lane="")
    found = {name: planner.expects_end(name, 60.0, NOW + 1) for name in ("runs", "waits", "unseen", "gone")}
    assert found == {"runs": True, "waits": False, "unseen": False, "gone": False}
    assert not planner.expects_end("runs", 0.001, NOW + 1), "a plain poll comes sooner"
    other = planner_of()
    other.track("runs", RUNNING, NOW, lane="")
    other.track("runs", None, NOW + 1, next_poll_at=NOW + 1)
    assert other.take(NOW + 1) == "runs"
    other.failed("runs", 500, {}, NOW + 1)
    assert not other.expects_end("runs", 60.0, NOW + 1), "nothing is known after a failure"


def test_held_answer_shows_the_job_as_of_its_end() -> None:
    planner = planner_of()
    planner.track("job", None, NOW, lane="", next_poll_at=NOW)
    assert planner.take(NOW + 1) == "job"
    planner.observed("job", RUNNING, {}, NOW + 1, NOW + 61, as_of=NOW + 61)
    assert planner.open_jobs.jobs["job"].seen == NOW + 61
    planner.observed("job", RUNNING, {}, NOW + 62, NOW + 63, as_of=NOW + 1_000)
    assert planner.open_jobs.jobs["job"].seen == NOW + 63, "not of the future"


def test_free_answer_gives_its_request_back() -> None:
    planner = planner_of(max_requests_per_second=1.0)
    planner.track("job", RUNNING, NOW, lane="")
    planner.next_request_at(NOW)
    opens = []
    for free in (True, False):
        planner.track("job", None, NOW + 10, lane="", next_poll_at=NOW + 10)
        assert planner.take(NOW + 10) == "job"
        planner.observed("job", RUNNING, {}, NOW + 10, NOW + 10, free=free)
        opens.append(planner.pacer.bucket.opens_at)
    assert opens[1] - opens[0] == pytest.approx(1.0)


def test_free_answer_to_a_request_that_nothing_paid_for_is_ignored() -> None:
    planner = planner_of()
    planner.pacer.bucket.refund()
    assert planner.requests_per_second == 0
