"""A planner's state as plain values that JSON can hold, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from relay.core.planner.budget import Budget
from relay.core.planner.jobs import Job
from relay.core.planner.lanes import GAPS_REMEMBERED, Lane
from relay.core.planner.meter import Meter
from relay.core.planner.open_jobs import OpenJobs
from relay.core.planner.policy import ClassPolicy
from relay.core.planner.statistics import ClassStatistics, PlannerStatistics, dump_class, key_of, load_class, name_of

VERSION = 2
MAX_LANES_KEPT = 100


def dump_open_jobs(open_jobs: OpenJobs) -> dict[str, Any]:
    """The jobs, those of a lane in its order, and the lanes."""
    laned = [job for lane in open_jobs.lanes for job in lane]
    alone = [job for job in open_jobs.jobs.values() if job.lane is None]
    return {
        "jobs": [_dump_job(job) for job in (*laned, *alone)],
        "lanes": [_dump_lane(lane) for lane in open_jobs.lanes],
        "others_turn": open_jobs.queues.others_turn,
    }


def load_open_jobs(open_jobs: OpenJobs, saved: Mapping[str, Any]) -> None:
    """Fills an empty open_jobs."""
    open_jobs.queues.others_turn = bool(saved.get("others_turn"))
    for row in saved.get("jobs", ()):
        job_id, seen, spacing, lane, due, learned, demand, *rest = row
        job = open_jobs.jobs[job_id] = Job(job_id, spacing, seen)
        job.anchor, job.phase, job.kind, job.rung, job.step, job.failures, *rest = rest
        job.weight, job.started, job.joins_lane, job.queue, *rest = rest
        open_jobs.expose(job, bool(rest and rest[0]))
        job.statistics = None if learned is None else open_jobs.statistics.of_class(*learned)
        job.demand = demand
        open_jobs.demand += demand
        if lane is not None:
            open_jobs.lanes.open(lane).append(job)
        open_jobs.queues.put(job, due, job.queue)
    for name, unparking, *learned in saved.get("lanes", ()):
        lane = open_jobs.lanes.open(name)
        lane.load(*learned)
        if unparking:
            lane.unpark()
            open_jobs.unparking.append(lane)
        open_jobs.lanes.close_if_empty(lane)


def dump_statistics(statistics: PlannerStatistics) -> list[Any]:
    """What was learned of each class, and the policy that plans are made from, or will be as soon as it is ready."""
    return [_dump_class(each, root=each is statistics.root) for each in (statistics.root, *statistics)]


def load_statistics(statistics: PlannerStatistics, saved: Any) -> None:
    """Fills an empty statistics."""
    for name, learned, rates, tables, *more in saved:
        key = key_of(name)
        job_class = statistics.root if key is None else statistics.of_class(*key)
        load_class(job_class, learned)
        used, exploration = more or ((), ())
        job_class.policy = ClassPolicy([tuple(each) for each in rates], tuple(exploration))
        job_class.policy.once = {(kind, rung) for kind, rung in tables}
        job_class.policy.used = {(kind, rung) for kind, rung in used}
        statistics.queue_refit_if_due(job_class)


def dump_budget(budget: Budget) -> dict[str, Any]:
    """The rate limit's counts as far as they are known, and the rate found by trial."""
    return {
        "paused_until": budget.paused_until,
        "key": _dump_meter(budget.key),
        "account": _dump_meter(budget.account),
        "trial_requests_per_second": budget.aimd.rate,
    }


def load_budget(budget: Budget, saved: Mapping[str, Any]) -> None:
    """Takes over what a budget knew; a lower cap than then is kept. Raises ValueError and such for anything else."""
    paused_until, rate = saved["paused_until"], _finite(saved["trial_requests_per_second"])
    meters = [
        {name: type(getattr(meter, name))(_finite(saved[key][name])) for name in Meter.KEPT} if saved[key] else {}
        for key, meter in (("key", budget.key), ("account", budget.account))
    ]
    if rate <= 0 or any(each and min(each["limit"], each["window_seconds"], each["rate"]) <= 0 for each in meters):
        raise ValueError("rates and windows are above 0")
    budget.paused_until = None if paused_until is None else _finite(paused_until)
    for meter, values in zip((budget.key, budget.account), meters, strict=True):
        for name, value in values.items():
            setattr(meter, name, value)
    budget.aimd.rate = min(rate, budget.aimd.cap)


def dump_moment(budget: Budget) -> list[Any]:
    """What only matters to a planner that goes on at once: errors in a row, and how far the trial's step is."""
    return [budget.errors, budget.aimd.since, budget.aimd.sent]


def load_moment(budget: Budget, saved: Any) -> None:
    """Takes over what `dump_moment` gave."""
    budget.errors, budget.aimd.since, budget.aimd.sent = saved


def dump_lanes(open_jobs: OpenJobs) -> list[Any]:
    """What was learned of the lanes, the last used last, within a limit."""
    return [[lane.name, *lane.dump()] for lane in open_jobs.lanes][-MAX_LANES_KEPT:]


def load_lanes(open_jobs: OpenJobs, saved: Any) -> None:
    """Takes back what `dump_lanes` gave. Raises ValueError and the like for anything else."""
    for name, last_start, _, gaps in saved:
        if not isinstance(name, str):
            raise ValueError("a lane is named by text")
        found = [_finite(gap) for gap in gaps][:GAPS_REMEMBERED]
        lane = open_jobs.lanes.open(name)
        if lane.last_start is None:
            lane.load(None if last_start is None else _finite(last_start), 0, found)
        open_jobs.lanes.close_if_empty(lane)


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"not a finite number: {value!r}")
    return number


def _dump_job(job: Job) -> list[Any]:
    lane = None if job.lane is None else job.lane.name
    learned = None if job.statistics is None else list(job.statistics.key)
    plan = (job.anchor, job.phase, job.kind, job.rung, job.step, job.failures)
    rest = (job.weight, job.started, job.joins_lane, job.queue, job.at_risk)
    return [job.id, job.seen, job.spacing, lane, job.due, learned, job.demand, *plan, *rest]


def _dump_lane(lane: Lane) -> list[Any]:
    return [lane.name, lane.cursor is not None, *lane.dump()]


def _dump_class(job_class: ClassStatistics, *, root: bool) -> list[Any]:
    policy = job_class.policy if job_class.next_policy is None else job_class.next_policy[0]
    rates = [list(policy.rates(kind)) for kind in range(len(job_class.hazards))]
    tables = sorted({*policy.tables, *policy.once})
    # How many tables the next policy is made of decides after how many calls it is there.
    kept = [[list(each) for each in some] for some in (tables, sorted(policy.used))]
    return [name_of(job_class.key, root=root), dump_class(job_class), rates, *kept, list(policy.exploration)]


def _dump_meter(meter: Meter) -> dict[str, Any]:
    return {name: getattr(meter, name) for name in Meter.KEPT} if meter.known else {}
