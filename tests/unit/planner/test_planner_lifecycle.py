"""A planner's life in the node: restarts, changing limits, clocks that step, items that contradict themselves."""

import json
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.planner import Planner, PlannerConfig, PlannerStatistics
from relay.core.planner.open_jobs import UNPARKED_AT_ONCE
from relay.core.planner.poll_queues import PARKED
from relay.core.planner.poll_schedule import MAX_PATIENCE
from tests.support.scale import scaled

uncovered = pytest.mark.no_cover  # which makes it twice as slow; smaller tests take the same branches

NOW = 1_779_271_200.0
QUEUED = {"status": "queued", "action": "outreach.dispatch", "channel": "email"}
RUNNING = {**QUEUED, "status": "running"}


def planner_of(statistics: PlannerStatistics | None = None, **changes: Any) -> Planner:
    return Planner(PlannerConfig(**{"max_requests_per_second": 20.0, "seed": 3, **changes}), statistics)


def reported(limit: float, remaining: float, window: float = 60.0) -> dict[str, str]:
    return {
        "X-RateLimit-Limit": str(limit),
        "X-RateLimit-Remaining": str(remaining),
        "X-RateLimit-Window-Ms": str(window * 1000),
    }


def serve(
    planner: Planner,
    now: float,
    until: float,
    items: Mapping[str, Mapping[str, Any]] | None = None,
    headers: Mapping[str, str] = {},
) -> list[tuple[float, str]]:
    """All that is taken from `now` on before `until`, at the moments that the planner names. Each poll is answered at
    once by the job's item with the moment's headers; without items none is."""
    found: list[tuple[float, str]] = []
    while True:
        at = planner.next_request_at(now)
        if at is None or at >= until:
            return found
        if at > now:
            now = max(at, now + 1e-6)
        elif (job_id := planner.take(now)) is not None:
            found.append((now, job_id))
            if items is not None:
                planner.observed(job_id, items[job_id], headers, now, now)


def explained(planner: Planner, job_id: str, now: float) -> str:
    explanation = planner.explain(job_id, now)
    return "gone" if explanation is None else explanation.reason


# --- over a restart


def lived(statistics: PlannerStatistics, config: PlannerConfig) -> tuple[Planner, float]:
    """A planner that has seen jobs run 20 s, at a price that has moved, on a limit that is known."""
    planner, now = Planner(config, statistics), NOW
    for number in range(60):
        job_id = f"j{number}"
        planner.track(job_id, {**QUEUED, "scheduled_at": now}, now, lane="")
        for age in (1, 3, 15, 23, 26):
            item: dict[str, Any] = {**QUEUED, "scheduled_at": now}
            if age >= 3:
                item |= {"status": "running", "started_at": now + 2}
            if age >= 23:
                item |= {"status": "succeeded", "finished_at": now + 22}
            planner.next_request_at(now + age)
            planner.observed(job_id, item, reported(600, 599 - age), now + age, now + age)
        now += 30
    for number in range(300):
        planner.track(f"k{number}", {**RUNNING, "started_at": now}, now, lane="")
    running = {**RUNNING, "started_at": now}
    serve(planner, now, now + 60, {f"k{number}": running for number in range(300)})
    for number in range(300):
        planner.forget(f"k{number}")
    return planner, now + 60


@cache
def plan_of_a_life(rate: float) -> tuple[str, float]:
    """What is kept of a planner that has lived, and when."""
    config = PlannerConfig(max_requests_per_second=rate, seed=3)
    planner, now = lived(PlannerStatistics(config.unit_seconds), config)
    return json.dumps(planner.durable_state()), now


@uncovered
def test_classes_price_and_windows_go_on_over_a_restart() -> None:
    config = PlannerConfig(max_requests_per_second=2.0, seed=3)
    before = PlannerStatistics(config.unit_seconds)
    planner, now = lived(before, config)
    plan = json.loads(json.dumps(planner.durable_state()))
    changed = before.unsaved_rows()
    assert before.unsaved_rows() == []
    after = PlannerStatistics(config.unit_seconds)
    for name, count, values in changed:
        assert count >= 0
        after.load_row(name, values)
    again = Planner(config, after)
    again.resume(plan, now + 5)
    was, is_now = planner.stats(now + 5), again.stats(now + 5)
    assert is_now.price_seconds == was.price_seconds != 1.0
    assert (is_now.limit, is_now.remaining, is_now.window_seconds) == (was.limit, was.remaining, was.window_seconds)
    assert was.limit == 600
    fresh = Planner(config)
    fresh.resume(plan, now + 5)
    for each in (planner, again, fresh):
        each.track("new", {**RUNNING, "started_at": now}, now + 5, lane="")
    while before.refit_step():  # the old one may not have brought its policy up to date
        pass
    assert again.next_poll_at("new") == pytest.approx(now + 20, abs=8)
    assert again.next_poll_at("new") == pytest.approx(planner.next_poll_at("new"), abs=2)
    assert abs((fresh.next_poll_at("new") or 0) - (now + 20)) > 8, "what was learned makes the difference"


@uncovered
@pytest.mark.parametrize("away", [0.0, 30.0, 4 * 3600.0, 30 * 86_400.0])
@pytest.mark.parametrize("rate", [0.5, 2.0])
def test_downtime_never_leads_to_a_burst(away: float, rate: float) -> None:
    """A thousand overdue jobs are polled in the first minute at the rate that is allowed, and no faster."""
    plan, now = plan_of_a_life(rate)
    again = Planner(PlannerConfig(max_requests_per_second=rate, seed=3))
    back = now + away
    again.resume(json.loads(plan), back)
    for number in range(1_000):
        again.track(f"j{number}", RUNNING, back, next_poll_at=now - 10.0, step=3, seen_at=now - 60.0)
    taken = serve(again, back, back + 60)
    assert len(taken) <= rate * 60 + 1
    assert len(taken) >= rate * 60 - 2


def test_a_clock_that_was_set_back_while_the_program_was_away_does_not_stall() -> None:
    plan, now = plan_of_a_life(2.0)
    again = Planner(PlannerConfig(max_requests_per_second=2.0, seed=3))
    back = now - 1e6
    again.resume(json.loads(plan), back)
    again.track("planned", {**RUNNING, "started_at": now}, back, next_poll_at=now + 50, step=3, seen_at=now)
    again.track("scheduled", {"status": "scheduled", "scheduled_at": now + 50}, back, seen_at=now)
    planned = [again.next_poll_at("planned"), again.next_poll_at("scheduled")]
    assert all(at is not None and at <= back + 900 * MAX_PATIENCE for at in planned)


def test_downtime_never_leads_to_a_burst_where_the_limit_alone_says_how_fast() -> None:
    planner = Planner(PlannerConfig(reserve=0.3))
    planner.track("a", QUEUED, NOW)
    planner.observed("a", QUEUED, reported(120, 119), NOW, NOW)
    again = Planner(PlannerConfig(reserve=0.3))
    again.resume(planner.durable_state(), NOW + 7200)
    for number in range(1_000):
        again.track(f"j{number}", RUNNING, NOW + 7200, next_poll_at=NOW)
    assert len(serve(again, NOW + 7200, NOW + 7260)) <= 0.7 * 120 + 1


PLAN = Planner(PlannerConfig()).durable_state()


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"version": 1},
        {**PLAN, "unit": 0.5},
        {**PLAN, "offset_seconds": math.inf},
        {**PLAN, "offset_seconds": "soon"},
        {**PLAN, "price": [1.0]},
        {**PLAN, "price": ["dear", 1]},
        {**PLAN, "budget": None},
        {**PLAN, "budget": {**PLAN["budget"], "trial_requests_per_second": 0.0}},
        {**PLAN, "budget": {**PLAN["budget"], "trial_requests_per_second": math.nan}},
        {**PLAN, "budget": {**PLAN["budget"], "key": {"limit": 1}}},
        {**PLAN, "lanes": [["email"]]},
        {**PLAN, "lanes": [[7, None, 0, []]]},
    ],
)
def test_a_plan_that_cannot_be_read_is_left_alone(plan: dict[str, Any]) -> None:
    planner = Planner(PlannerConfig())
    planner.resume(plan, NOW)
    planner.track("job", None, NOW)
    [(at, job_id)] = serve(planner, NOW, NOW + 2)
    assert at == pytest.approx(NOW + 0.2)
    assert job_id == "job"


@uncovered
def test_price_rises_slowly_if_only_safety_polls_are_late() -> None:
    """A higher price puts off checks only when they come up again. With 600 waiting jobs and a request each five
    seconds it would rise to double of what the few jobs at risk need, and these be seen two or three times as late."""
    planner = Planner(PlannerConfig(max_requests_per_second=0.2, seed=1))
    now, starts_at, number, ends, late = NOW, NOW + 50, 0, {}, []
    waiting = {**QUEUED, "scheduled_at": NOW + 60_000}
    for nth in range(600):
        planner.track(f"w{nth}", waiting, now, lane="")
    while now < NOW + scaled(8_000, 15_000):
        at = planner.next_request_at(now)
        assert at is not None
        if starts_at <= at:
            now, starts_at, number = max(now, starts_at), starts_at + 50, number + 1
            ends[f"r{number}"] = now + 200
            planner.track(f"r{number}", {**RUNNING, "started_at": now}, now, lane="")
            continue
        now = max(now, at + 1e-6)
        job_id = planner.take(now)
        if job_id is None:
            now += 1e-3
        elif job_id not in ends:
            planner.observed(job_id, waiting, {}, now, now)
        elif ends[job_id] > now:
            planner.observed(job_id, {**RUNNING, "started_at": ends[job_id] - 200}, {}, now, now)
        else:
            late.append(now - ends.pop(job_id))
            planner.observed(job_id, {**QUEUED, "status": "succeeded"}, {}, now, now)
    assert sum(late[80:]) / len(late[80:]) < 10
    assert planner.stats(now).price_seconds < 15


# --- the limit


def test_what_was_learned_of_lanes_goes_on_over_a_restart() -> None:
    planner = planner_of()
    planner.track("a", QUEUED, NOW)
    planner.track("b", {**QUEUED, "channel": "linkedin"}, NOW)
    for job_id, channel in (("a", "email"), ("b", "linkedin")):
        item = {**QUEUED, "channel": channel, "status": "succeeded", "started_at": NOW + 5}
        planner.observed(job_id, item, {}, NOW + 9, NOW + 9)
    again = planner_of()
    again.track("c", {**RUNNING, "started_at": NOW + 8}, NOW + 10)
    again.resume(planner.durable_state(), NOW + 10)
    again.track("d", {**QUEUED, "channel": "linkedin"}, NOW + 10)
    again.track("e", QUEUED, NOW + 10)
    anchors = [again.explain(job_id, NOW + 10) for job_id in ("d", "e")]
    assert [each and each.anchor_at for each in anchors] == [NOW + 65, NOW + 68], "what was seen since counts more"


def test_a_limit_that_vanishes_from_the_headers_leaves_its_rate() -> None:
    planner = Planner(PlannerConfig(reserve=0.0, seed=3))
    items = {f"j{number}": RUNNING for number in range(500)}
    for job_id in items:
        planner.track(job_id, None, NOW, lane="")
    planner.observed("j0", RUNNING, reported(60, 59), NOW, NOW)
    serve(planner, NOW, NOW + 119, items)
    assert planner.stats(NOW + 119).limit == 60
    serve(planner, NOW + 119, NOW + 125, items)
    assert planner.stats(NOW + 125).limit is None
    assert planner.stats(NOW + 125).requests_per_second == pytest.approx(1.0)
    assert 20 <= len(serve(planner, NOW + 125, NOW + 145, items)) <= 60, "from there it climbs a step every ten seconds"


# --- the clock


@uncovered
@pytest.mark.parametrize("steps", [[-7200.0], [7200.0], [-7200.0, 7200.0], [3600.0, -3600.0], [-4.0, 4.0] * 5])
def test_a_clock_that_steps_stalls_nothing_and_bursts_nothing(steps: list[float]) -> None:
    planner = planner_of(max_requests_per_second=1.0, max_interval_seconds=60.0)
    items = {f"j{number}": RUNNING for number in range(20)}
    for job_id in items:
        planner.track(job_id, RUNNING, NOW, lane="")
    now = NOW
    for step in [0.0, *steps, 0.0]:
        now += step
        found = serve(planner, now, now + MAX_PATIENCE * 60 + 20, items)
        assert {job_id for _, job_id in found} == set(items)
        times = [at for at, _ in found]
        for first, start in enumerate(times):
            # Half a window may be saved up, also while the clock jumps; never more.
            assert sum(start <= at <= start + 10 for at in times[first:]) <= 10 + 30 + 2
        now += MAX_PATIENCE * 60 + 20
        assert 0 < planner.stats(now).price_seconds < math.inf


# --- items that contradict themselves

contradictions: list[list[dict[str, Any]]] = [
    [{"status": "running", "started_at": NOW + 9, "finished_at": NOW - 50}],
    [{"status": "succeeded", "started_at": NOW + 9, "finished_at": NOW - 50}],
    [{"status": "running", "started_at": NOW + 1e6}],
    [{"status": "succeeded", "started_at": NOW + 1e6, "finished_at": NOW + 2e6}],
    [{"status": "running", "started_at": 0.0}, {"status": "failed", "started_at": 0.0, "finished_at": None}],
    [{"status": "queued", "next_attempt_at": NOW - 1e6}, {"status": "running", "next_attempt_at": NOW - 1e6}],
    [{"status": "running", "started_at": NOW}, {"status": "queued"}, {"status": "scheduled", "scheduled_at": NOW + 90}],
    [{"status": "queued", "scheduled_at": NOW + at} for at in (100, 5, 1e6, 0, -1e6, 300)],
    [{"status": "running", "started_at": NOW + at} for at in (5, 50, 1, 70)],
    [{"status": "queued", "started_at": NOW - 1e6, "next_attempt_at": NOW + 1e8}, {"status": "queued"}],
]


def finite(statistics: PlannerStatistics) -> bool:
    return all(
        math.isfinite(rate) and rate > 0
        for each in (statistics.root, *statistics)
        for rates in (each.fitted_rates(), [each.policy.rates(kind) for kind in range(7)])
        for hazard in rates
        for rate in hazard
    )


@pytest.mark.parametrize("story", contradictions)
def test_a_job_that_contradicts_itself_is_still_polled(story: list[dict[str, Any]]) -> None:
    planner = planner_of(max_interval_seconds=300.0)
    planner.track("other", QUEUED, NOW)
    planner.track("job", QUEUED, NOW)
    now = NOW
    for item_part in story * 3:
        now += 7
        planner.observed("job", {**QUEUED, **item_part}, {}, now - 0.2, now)
        if item_part["status"] in ("succeeded", "failed"):
            assert explained(planner, "job", now) == "gone"
            planner.track("job", QUEUED, now)
        planned = planner.next_poll_at("job")
        assert planned is not None
        assert now <= planned <= now + MAX_PATIENCE * 300
    assert finite(planner.statistics)
    assert "job" in {job_id for _, job_id in serve(planner, now, now + MAX_PATIENCE * 300 + 1)}


odd_times = st.one_of(st.none(), st.floats(NOW - 2000, NOW + 2000), st.sampled_from([0.0, 1.0, NOW, 4e9, 1e11]))
odd_items = st.fixed_dictionaries(
    {
        "status": st.sampled_from(["queued", "scheduled", "running", "retrying", "succeeded", "failed", "paused"]),
        "action": st.sampled_from(["a", "b"]),
        "channel": st.sampled_from(["email", "linkedin"]),
    },
    optional=dict.fromkeys(("scheduled_at", "started_at", "finished_at", "next_attempt_at"), odd_times),
)


@uncovered
@settings(max_examples=scaled(12, 30))
@given(st.lists(st.tuples(st.integers(0, 5), odd_items, st.floats(0, 400), st.floats(0, 30)), max_size=25))
def test_no_observation_makes_statistics_invalid(story: list[tuple[int, dict[str, Any], float, float]]) -> None:
    planner, now = planner_of(max_interval_seconds=300.0), NOW
    for number, item, step, took in story:
        now += step
        planner.track(f"j{number}", None, now)
        planner.observed(f"j{number}", item, {}, now - took, now)
        planner.next_request_at(now)
    while planner.statistics.refit_step():
        pass
    assert finite(planner.statistics)
    assert math.isfinite(planner.schedule.demand)
    for job in planner.open_jobs.jobs.values():
        assert now - 1e-6 <= job.due <= now + MAX_PATIENCE * 300 or job.due <= now
    again = PlannerStatistics(1.0)
    for name, _, values in planner.statistics.unsaved_rows():
        again.load_row(name, values)
    assert finite(again)


# --- lanes whose order is broken


lane_moves = st.one_of(
    st.tuples(st.just("track"), st.one_of(st.none(), st.floats(-60, 300))),
    st.tuples(st.just("see"), st.integers(0, 9), odd_items),
    st.tuples(st.just("start"), st.integers(0, 9)),
    st.tuples(st.just("end"), st.integers(0, 9), st.booleans()),
    st.tuples(st.just("lose"), st.integers(0, 9)),
    st.tuples(st.just("forget"), st.integers(0, 9)),
    st.tuples(st.just("retry"), st.integers(0, 9), st.floats(-60, 600)),
)


@uncovered
@settings(max_examples=scaled(30, 100))
@given(st.lists(st.tuples(st.floats(0, 100), lane_moves), max_size=60))
def test_no_job_stays_parked_without_a_predecessor_to_wait_for(run: list[tuple[float, Any]]) -> None:
    """Whatever is observed, in whatever order."""
    planner, now, names = planner_of(), NOW, [f"first{number}" for number in range(3)]
    for name in names:
        planner.track(name, QUEUED, now)
    for step, (move, *given_to) in run:
        now += step
        name = names[given_to[0] % len(names)] if move != "track" else f"j{len(names)}"
        match move:
            case "track":
                names.append(name)
                planner.track(name, {**QUEUED, "scheduled_at": None if given_to[0] is None else now + given_to[0]}, now)
            case "see":
                planner.observed(name, {**given_to[1], "channel": "email"}, {}, now, now)
            case "start":
                planner.observed(name, {**RUNNING, "started_at": now - 1}, {}, now, now)
            case "end":
                started = now - 5 if given_to[1] else None
                planner.observed(name, {**QUEUED, "status": "succeeded", "started_at": started}, {}, now, now)
            case "lose":
                planner.failed(name, 404, {}, now)
            case "forget":
                planner.forget(name)
            case "retry":
                planner.observed(name, {**QUEUED, "next_attempt_at": now + given_to[1]}, {}, now, now)
        for _ in range(1 + len(names) // UNPARKED_AT_ONCE):
            planner.next_request_at(now)
        for job in planner.open_jobs.jobs.values():
            if job.phase == PARKED:
                before = job.previous
                assert before is not None, "it waits for no other job"
                assert before.started is None or before.phase == 1, "what it waits for has started"
    while planner.open_jobs.jobs:  # the lane's head goes, again and again
        lane = planner.open_jobs.lanes._lanes.get("email")
        head = None if lane is None else lane.head
        name = head.id if head is not None else next(iter(planner.open_jobs.jobs))
        planner.observed(name, {**QUEUED, "status": "cancelled"}, {}, now, now)
        lane = planner.open_jobs.lanes._lanes.get("email")
        assert lane is None or lane.head is None or lane.head.phase != PARKED
