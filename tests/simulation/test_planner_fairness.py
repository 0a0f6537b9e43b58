"""Who gets a request when there are few: weights, many jobs, one job."""

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relay.core.planner import Planner, PlannerConfig
from relay.core.planner.open_jobs import UNPARKED_AT_ONCE
from relay.core.planner.pacer import BACKLOG_COUNTED
from relay.core.planner.planner import PLANNED_AGAIN_AT_ONCE
from relay.core.planner.poll_queues import PARKED, JobHeap, PlannedJob
from relay.core.planner.poll_schedule import MAX_PATIENCE
from relay.core.planner.price import FLOOR
from tests.support.scale import scaled

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from polling_workloads import World, make
from polling_world import simulate

NOW = 1_779_271_200.0
RUNNING = {"status": "running", "action": "a", "channel": "c", "started_at": NOW}
LONGEST = 300.0


def planner_of(requests_per_second: float) -> Planner:
    return Planner(PlannerConfig(max_requests_per_second=requests_per_second, max_interval_seconds=LONGEST, seed=1))


class Weighing(Planner):
    """A planner to which a job's action is its weight, and all are of one class."""

    def track(
        self,
        job_id: str,
        item: Mapping[str, Any] | None,
        now: float,
        weight: float = 1.0,
        lane: str | None = None,
        *values: Any,
        **more: Any,
    ) -> None:
        assert item is not None
        super().track(job_id, {**item, "action": "a"}, now, float(item["action"]), lane)

    def observed(
        self, job_id: str, item: Mapping[str, Any] | None, headers: Mapping[str, str], sent_at: float, now: float
    ) -> None:
        super().observed(job_id, {**(item or {}), "action": "a"}, headers, sent_at, now)


def weighted(workload: str, jobs: int, *weights: str) -> World:
    world = make(workload, 1, jobs)
    return replace(
        world,
        jobs=tuple(replace(job, action=weights[number % len(weights)]) for number, job in enumerate(world.jobs)),
    )


@pytest.mark.parametrize(("workload", "requests_per_job"), scaled([("heavy", 2.0)], [("heavy", 2.0), ("bimodal", 2.0)]))
def test_a_heavier_job_is_known_sooner_where_requests_are_scarce(workload: str, requests_per_job: float) -> None:
    world = weighted(workload, 1_000, "4", "1", "0.25", "1")
    planner = Weighing(PlannerConfig(max_requests_per_second=requests_per_job, seed=1))
    outcome = simulate(world, planner, seed=1)
    delays = outcome.action_mean_delays_seconds
    assert delays["4"] <= 0.65 * delays["1"]
    assert delays["1"] < delays["0.25"] < math.inf
    assert outcome.unfinished == 0


def polls(planner: Planner, until: float, names: list[str], coming: Iterator[tuple[float, str]]) -> dict[str, float]:
    """Polls jobs that never end; more are `coming`. Returns the longest time without a poll of each."""
    now, last, longest = NOW, dict.fromkeys(names, NOW), dict.fromkeys(names, 0.0)
    new = next(coming, None)
    while True:
        at = planner.next_request_at(now)
        then = math.inf if at is None else at
        if new is not None and new[0] <= then:
            now, name = max(now, new[0]), new[1]
            planner.track(name, {**RUNNING, "started_at": now}, now, 4.0, "")
            last[name], longest[name] = now, 0.0
            new = next(coming, None)
        elif then >= until:
            return {name: max(longest[name], until - last[name]) for name in last}
        elif then > now:
            now = max(then, now + 1e-6)
        elif (name_taken := planner.take(now)) is not None:
            longest[name_taken] = max(longest[name_taken], now - last[name_taken])
            last[name_taken] = now
            planner.observed(name_taken, RUNNING, {}, now, now)


@pytest.mark.parametrize(("rate", "per_second"), [(0.2, 0.1)])
def test_a_light_job_is_never_starved_while_requests_become_ever_dearer(rate: float, per_second: float) -> None:
    """Heavier jobs come all the while. The bound is the one that `set_weight` states."""
    planner, span = planner_of(rate), 2_000 / per_second
    light = [f"light{number}" for number in range(20)]
    for name in light:
        planner.track(name, RUNNING, NOW, 0.25, "")
    heavy = ((NOW + number / per_second, f"heavy{number}") for number in range(2_000))
    began = planner.stats(NOW).price_seconds
    found = polls(planner, NOW + span, light, heavy)
    assert planner.stats(NOW + span).price_seconds > 100 * began
    bound = MAX_PATIENCE * LONGEST + len(found) / rate
    assert max(found[name] for name in light) <= bound
    assert max(found.values()) <= bound


@pytest.mark.parametrize("jobs", [1, 30, 1_000])
def test_every_job_is_polled_however_many_there_are(jobs: int) -> None:
    planner, names = planner_of(1.0), [f"j{number}" for number in range(jobs)]
    for name in names:
        planner.track(name, RUNNING, NOW, 1.0, "")
    bound = MAX_PATIENCE * LONGEST + jobs + 1
    found = polls(planner, NOW + 2 * bound, names, iter(()))
    assert max(found.values()) <= bound


class Counted:
    """Counts the moves on the heap, the comparisons that these take, and the jobs that counting passes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.moves = self.comparisons = self.passed = 0
        put, before, due = JobHeap.put, PlannedJob.before, JobHeap.due

        def counted_put(heap: JobHeap, job: PlannedJob, due: float) -> None:
            self.moves += 1
            put(heap, job, due)

        def counted_before(job: PlannedJob, other: PlannedJob) -> bool:
            self.comparisons += 1
            return before(job, other)

        def counted_due(heap: JobHeap, now: float, at_most: int) -> int:
            found = due(heap, now, at_most)
            self.passed += found
            return found

        monkeypatch.setattr(JobHeap, "put", counted_put)
        monkeypatch.setattr(PlannedJob, "before", counted_before)
        monkeypatch.setattr(JobHeap, "due", counted_due)

    def none(self) -> None:
        self.moves = self.comparisons = self.passed = 0


@pytest.mark.parametrize("lane", ["", "email"])
def test_very_many_jobs_take_no_more_work_a_call(monkeypatch: pytest.MonkeyPatch, lane: str) -> None:
    """One request a second; also while the lane of them all turns out to run in another order."""
    planner, jobs = planner_of(1.0), scaled(16_000, 100_000)
    queued = {**RUNNING, "status": "queued", "started_at": None}
    for number in range(jobs):
        planner.track(f"j{number}", queued, NOW, 1.0, lane)
    counted, now, polled = Counted(monkeypatch), NOW + 100, 0
    planner.observed(f"j{jobs - 1}", {**RUNNING, "started_at": now}, {}, now, now)  # out of order, if there is one
    moves = PLANNED_AGAIN_AT_ONCE + UNPARKED_AT_ONCE + 2
    for _ in range(400):
        now += 1.0
        counted.none()
        planner.next_request_at(now)
        assert counted.moves <= moves
        assert counted.passed <= 2 * BACKLOG_COUNTED
        counted.none()
        job_id = planner.take(now)
        assert counted.moves <= moves
        assert counted.comparisons <= (moves + 1) * 3 * math.log2(jobs)
        counted.none()
        if job_id is not None:
            polled += 1
            planner.observed(job_id, {**RUNNING, "started_at": now - 1}, {}, now, now)
        assert counted.moves <= moves
        assert counted.passed <= 2 * BACKLOG_COUNTED
    assert polled >= 390
    if lane:
        assert sum(job.phase == PARKED for job in planner.open_jobs.jobs.values()) <= jobs - 400 * UNPARKED_AT_ONCE


def test_an_account_with_one_job_knows_its_end_at_once() -> None:
    planner = Planner(PlannerConfig(seed=1))
    planner.track("job", None, NOW)
    now, ended, ends = NOW, None, NOW + 100
    while ended is None:
        at = planner.next_request_at(now)
        assert at is not None
        now = max(at, now + 1e-6)
        if planner.take(now) == "job":
            item = {"status": "succeeded", "finished_at": ends} if now >= ends else {}
            planner.observed("job", {**RUNNING, **item}, {}, now, now)
            ended = now if item else None
    assert ended - ends <= 5
    assert planner.next_request_at(now) is None
    assert planner.stats(now).price_seconds == FLOOR
    assert planner.stats(now).open_jobs == 0
