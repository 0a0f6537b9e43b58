"""When a group finishes: lanes, jobs side by side, jobs not seen yet, and why there is no answer."""

import math
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from relay.core.planner.inspection import RETRY, RUN
from relay.core.planner.job_times import durations
from relay.core.planner.statistics import PlannerStatistics
from relay.core.polling.group_forecast import (
    EndedJob,
    ExpectedFinish,
    GroupWork,
    OpenJob,
    ReadJobs,
    expected_finish,
    rate_per_hour,
)

NOW = 1_779_271_200.0
GAP = 60.0


def times(seconds: float = 7.0, retried: int = 0, spread: float = 0.1) -> tuple[float, ...]:
    statistics = PlannerStatistics(1.0)
    job_class = statistics.of_class("send", "email")
    rng = Random(1)
    for number in range(200):
        statistics.record_event(job_class, RUN, 0.0, rng.lognormvariate(math.log(seconds), spread))
        statistics.record_event(job_class, RETRY, 0.0, 1.0)
        statistics.record_attempts(job_class, 2 if number % 100 < retried else 1)
        statistics.record_pause(job_class, 1, 600.0)
    return durations(job_class, 1.0)


QUICK, RETRIED, SLOW = times(), times(retried=50), times(90.0)


def job(at: float | None = 0.0, **values: Any) -> OpenJob:
    """A job scheduled `at` seconds from now; other times count from now too."""
    given = {"status": "scheduled", "action": "send", "channel": "email", "started_at": None, "next_attempt_at": None}
    given |= {"spacing_seconds": None, "tracked_at": -3600.0, "seen_at": -1.0, **values}
    given["scheduled_at"] = at
    for name in ("scheduled_at", "started_at", "next_attempt_at", "tracked_at", "seen_at"):
        given[name] = None if given[name] is None else NOW + given[name]
    return OpenJob(**given)


def lane(count: int, first: float = GAP, **values: Any) -> list[OpenJob]:
    return [job(first + number * GAP, **values) for number in range(count)]


def ended(at: float, channel: str | None = "email", in_group: bool = True) -> EndedJob:
    return EndedJob(channel, NOW + at - 7, NOW + at, in_group)


def work(*jobs: OpenJob, **values: Any) -> GroupWork:
    channels = {each.channel: [one for one in jobs if one.channel == each.channel] for each in jobs}
    given: dict[str, Any] = {
        "jobs": [ReadJobs(channel=channel, first=tuple(some)) for channel, some in channels.items()],
        "open_count": len(jobs),
        "first_at": NOW - 3600,
        "last_at": NOW - 3600,
        "came_count": len(jobs),
        **values,
    }
    return GroupWork(**given)


def finish(given: GroupWork, known: tuple[float, ...] = QUICK) -> list[float]:
    """Seconds from now."""
    found = expected_finish(given, lambda action, channel: known, NOW)
    assert isinstance(found, ExpectedFinish), found
    assert found.p10 <= found.p50 <= found.p90
    return [at - NOW for at in found]


def why(given: GroupWork) -> str:
    found = expected_finish(given, lambda action, channel: QUICK, NOW)
    assert isinstance(found, str)
    return found


# --- lanes


def test_retries_delay_the_jobs_behind_them() -> None:
    p10, p50, p90 = finish(work(*lane(20)), RETRIED)
    assert p10 > 20 * GAP + 1800
    assert p50 == pytest.approx(20 * GAP + 10 * 560, rel=0.3)
    assert p90 - p10 > 1500


def test_a_running_job_holds_its_lane() -> None:
    running = job(-100.0, status="running", started_at=-50.0, seen_at=-1.0)
    assert finish(work(running, *lane(1, first=-40.0)))[0] > 2 * 5
    assert finish(work(running))[2] > 0
    assert finish(work(*lane(1, first=-40.0), others=[running]))[0] > 2 * 5


def test_a_job_that_waits_for_a_retry_holds_its_lane() -> None:
    retrying = job(-100.0, status="queued", next_attempt_at=500.0)
    assert finish(work(retrying, *lane(3)))[0] > 500 + 2 * GAP
    overdue = job(-100.0, status="queued", next_attempt_at=-2.0)
    assert finish(work(overdue))[2] < 100


def test_jobs_of_others_in_the_lane_count_as_far_as_they_come_first() -> None:
    alone = finish(work(*lane(5, first=1000.0)), RETRIED)
    ahead, behind = lane(15), lane(15, first=2000.0)
    assert finish(work(*lane(5, first=1000.0), others=ahead), RETRIED)[1] > alone[1] + 1000
    assert finish(work(*lane(5, first=1000.0), others=behind), RETRIED) == alone
    other_lane = [each._replace(channel="linkedin") for each in ahead]
    assert finish(work(*lane(5, first=1000.0), others=other_lane), RETRIED) == alone


def test_jobs_that_are_due_already_come_a_minute_apart() -> None:
    p10, _, p90 = finish(work(*(job(-5.0, tracked_at=-1.0) for _ in range(4))))
    assert 2 * GAP < p10 <= p90 < 4 * GAP


def test_jobs_of_two_classes_share_a_lane() -> None:
    likes = [each._replace(action="like") for each in lane(100)[::2]]
    found = expected_finish(
        work(*lane(100)[1::2], *likes), lambda action, channel: SLOW if action == "like" else QUICK, NOW
    )
    assert isinstance(found, ExpectedFinish)
    assert found.p50 - NOW == pytest.approx(100 * GAP + 50 * 31, rel=0.05)


# --- jobs that run side by side


def test_jobs_side_by_side_may_wait_for_a_retry_or_a_time() -> None:
    retrying = job(None, status="queued", next_attempt_at=900.0, channel=None)
    scheduled = job(1200.0, channel=None)
    waiting = job(None, status="queued", channel=None, seen_at=-0.5)
    assert finish(work(waiting))[1] < 60
    assert finish(work(waiting, retrying))[0] > 900
    assert finish(work(waiting, retrying, scheduled))[0] > 1200


def test_a_straggler_in_no_lane_is_likely_to_run_on() -> None:
    p10, _, p90 = finish(work(job(None, status="running", started_at=-90_000.0, channel=None)))
    assert 0 < p10 < p90
    assert p90 > 90_000


# --- lanes without scheduled times


def test_a_lane_without_times_goes_on_as_before() -> None:
    waiting = [job(None, tracked_at=-100.0 + number) for number in range(20)]
    before = [ended(-300.0 * number) for number in range(10, 0, -1)]
    p10, p50, p90 = finish(work(*waiting, ended=before))
    assert p50 == pytest.approx(20 * 300 - 300, rel=0.1)
    late = [each._replace(seen_at=NOW + 40.0) for each in waiting]
    assert finish(work(*late, ended=before))[1] >= p50
    early = [each._replace(seen_at=NOW - 60.0) for each in waiting]
    assert finish(work(*early, ended=before))[1] == pytest.approx(p50, rel=0.05)
    assert p10 < p90
    others = [job(None, tracked_at=-3600.0 + number) for number in range(10)]
    assert finish(work(*waiting, ended=before, others=others))[1] > p50 + 2000


def test_a_lane_without_times_or_starts_is_unknown() -> None:
    assert "no scheduled times" in why(work(*(job(None) for _ in range(20))))


# --- large groups


def large(count: int, edge: int = 50, gap: float = GAP) -> GroupWork:
    all_jobs = lane(count) if count < 10_000 else [*lane(edge), *lane(edge, first=(count - edge + 1) * gap)]
    read = ReadJobs(channel="email", first=tuple(all_jobs[:edge]), last=tuple(all_jobs[-edge:]), is_cut=True)
    return replace(work(*all_jobs[:1], jobs=[read]), open_count=count, came_count=count)


@pytest.mark.parametrize("known", [QUICK, RETRIED, SLOW])
def test_reading_the_ends_of_a_lane_tells_as_much_as_reading_it_whole(known: tuple[float, ...]) -> None:
    whole, parts = finish(work(*lane(1000)), known), finish(large(1000), known)
    assert parts[1] == pytest.approx(whole[1], rel=0.03)
    assert parts[2] - parts[0] == pytest.approx(whole[2] - whole[0], rel=0.35, abs=15)


def test_a_million_jobs_are_forecast_from_a_few() -> None:
    assert finish(large(1_000_000))[1] == pytest.approx(60e6, rel=0.01)


def test_unread_jobs_are_shared_by_the_channels_that_were_cut() -> None:
    scheduled = large(2000).jobs[0]
    unscheduled = ReadJobs(
        channel=None, first=tuple(job(None, channel=None, status="queued") for _ in range(100)), is_cut=True
    )
    before = [ended(-100.0 + number, channel=None) for number in range(100)]
    both = work(jobs=[scheduled, unscheduled], open_count=202_000, ended=before)
    assert finish(both)[1] == pytest.approx(200_000, rel=0.15)
    assert finish(replace(both, open_count=2100))[1] == pytest.approx(2000 * GAP, rel=0.05)


# --- jobs that were not seen yet, and jobs still to come


def test_nothing_is_said_while_the_status_of_few_jobs_is_known() -> None:
    bare = [job(None, status=None, action=None, channel=None) for _ in range(20)]
    assert "of 20 of 20 jobs is not known yet" in why(work(*bare))  # they may have been polled, in vain
    assert "is not known yet" in why(work(*bare, job()))
    assert "of its open jobs is not known yet" in why(work(*bare, ended=[ended(-1.0)] * 20, came_count=40))
    cut = [ReadJobs(channel="email", first=tuple(lane(9))), ReadJobs(channel=None, first=tuple(bare), is_cut=True)]
    assert "991 of 1000 jobs" in why(work(jobs=cut, open_count=1000, came_count=1000))


def test_jobs_that_are_expected_follow_at_the_rate_of_the_others() -> None:
    coming = {"missing": 60, "came_count": 30, "first_at": NOW - 3000, "last_at": NOW - 100}
    p10, p50, _ = finish(work(*lane(3), **coming))
    assert p10 > 6000 - 100
    assert p50 < 6000 + 200
    running = job(-10.0, status="running", started_at=-5.0)
    elsewhere = [ended(-9.0, in_group=False)]
    assert finish(work(running, ended=elsewhere, **coming))[0] > 5800
    assert finish(work(running, **{**coming, "missing": 3}), SLOW)[0] > 200
    assert finish(work(*lane(3), **coming), times(retried=5))[2] > p50 + 100
    side_by_side = [job(None, status="running", started_at=-1.0, channel=None) for _ in range(9)]
    assert finish(work(*side_by_side, **coming))[0] > 5800


def test_jobs_that_do_not_come_are_not_waited_for() -> None:
    stalled = {"missing": 60, "came_count": 30, "first_at": NOW - 4000, "last_at": NOW - 1100}
    assert "60 of 90 jobs were never created, and no new ones are arriving." in why(work(*lane(3), **stalled))
    assert "were never created" in why(work(job(), **{**stalled, "came_count": 1}))


# --- the rate


@pytest.mark.parametrize(
    ("title", "ends", "first", "most", "rate"),
    [
        ("of the last hour", [-7000, -1800, -900, -1], -9000, 99, 3),
        ("since it began", [-900, -1], -1800, 99, 4),
        ("of the last ones", [-3000, -36, -24, -12], -9000, 3, 300),
        ("none ended", [], -600, 99, 0),
        ("it begins now", [], 0, 99, None),
    ],
)
def test_the_rate_is_that_of_the_recent_ends(
    title: str, ends: list[float], first: float, most: int, rate: float | None
) -> None:
    found = [*(ended(at) for at in ends), ended(-2.0, in_group=False)]
    assert rate_per_hour(found, NOW + first, NOW, most=most) == (None if rate is None else pytest.approx(rate)), title
