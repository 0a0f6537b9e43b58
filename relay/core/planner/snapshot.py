"""Saves and restores the state of a planner as JSON values.

`dump` returns everything including the jobs, for a planner that takes over from another one. `dump_durable` returns
what is stored across restarts, when the jobs are loaded from the database.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from relay.core.planner.budget.limit_meter import Meter
from relay.core.planner.budget.request_budget import Budget
from relay.core.planner.lanes import GAPS_REMEMBERED, Lanes
from relay.core.planner.learning.inspection import ClassPolicy
from relay.core.planner.learning.statistics import ClassStatistics, PlannerStatistics
from relay.core.planner.planned_job import PlannedJob

if TYPE_CHECKING:
    from relay.core.planner.planner import Planner

VERSION = 2
MAX_LANES_KEPT = 100


def dump(planner: Planner) -> dict[str, Any]:
    """Everything `load` needs."""
    open_jobs, budget = planner.open_jobs, planner.pacer.budget
    in_lanes = [job for lane in open_jobs.lanes for job in lane]
    others = [job for job in open_jobs.jobs.values() if job.lane is None]
    return {
        "version": VERSION,
        "offset_seconds": planner.timeline.offset,
        "budget": _dump_budget(budget),
        "moment": [budget.errors, budget.aimd.since, budget.aimd.sent],
        "price": planner.price.dump(),
        "priced": planner.price.dump_moment(),
        "forecast": planner.forecast.dump(),
        "classes": _dump_statistics(planner.statistics) if planner.own_statistics else [],
        "jobs": [_dump_job(job) for job in (*in_lanes, *others)],
        "lanes": [[lane.name, lane.cursor is not None, *lane.dump()] for lane in open_jobs.lanes],
        "others_turn": planner.schedule.queues.others_turn,
    }


def load(planner: Planner, saved: Mapping[str, Any]) -> None:
    """Loads the values of `dump` into a new planner. Raises ValueError for another version."""
    if saved.get("version") != VERSION:
        raise ValueError(f"a snapshot of version {VERSION} is needed, not {saved.get('version')!r}")
    open_jobs, budget = planner.open_jobs, planner.pacer.budget
    planner.timeline.offset = saved["offset_seconds"]
    _load_budget(budget, saved["budget"])
    budget.errors, budget.aimd.since, budget.aimd.sent = saved["moment"]
    planner.price.load(*saved["price"])
    planner.price.load_moment(*saved["priced"])
    if planner.own_statistics:
        _load_statistics(planner.statistics, saved["classes"])
    planner.forecast.load(*saved["forecast"])
    planner.schedule.queues.others_turn = bool(saved.get("others_turn"))
    for row in saved.get("jobs", ()):
        _load_job(planner, row)
    for name, unparking, *learned in saved.get("lanes", ()):
        lane = open_jobs.lanes.open(name)
        lane.load(*learned)
        if unparking:
            lane.unpark()
            open_jobs.unparking.append(lane)
        open_jobs.lanes.close_if_empty(lane)


def dump_durable(planner: Planner) -> dict[str, Any]:
    """The state worth keeping across restarts, without jobs."""
    return {
        "version": VERSION,
        "unit": planner.price.unit,
        "price": planner.price.dump(),
        "offset_seconds": planner.timeline.offset,
        "budget": _dump_budget(planner.pacer.budget),
        "lanes": [[lane.name, *lane.dump()] for lane in planner.open_jobs.lanes][-MAX_LANES_KEPT:],
    }


def load_durable(planner: Planner, saved: Mapping[str, Any]) -> bool:
    """Loads the values of `dump_durable` into a new planner. Returns False if they are malformed or of another version;
    a part may be loaded then."""
    try:
        if saved["version"] != VERSION or saved["unit"] != planner.price.unit:
            return False
        offset = _finite(saved["offset_seconds"])
        planner.price.load(*saved["price"])
        _load_budget(planner.pacer.budget, saved["budget"])
        _load_lanes(planner.open_jobs.lanes, saved["lanes"])
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return False
    planner.timeline.offset = offset
    return True


def _dump_job(job: PlannedJob) -> list[Any]:
    lane = None if job.lane is None else job.lane.name
    class_key = None if job.statistics is None else list(job.statistics.key)
    plan = (job.anchor, job.phase, job.kind, job.rung, job.step, job.failures)
    rest = (job.weight, job.started, job.joins_lane, job.queue, job.at_risk)
    return [job.id, job.seen, job.spacing, lane, job.due, class_key, job.demand, *plan, *rest]


def _load_job(planner: Planner, row: list[Any]) -> None:
    job_id, seen, spacing, lane, due, class_key, demand, *rest = row
    job = planner.open_jobs.jobs[job_id] = PlannedJob(job_id, spacing, seen)
    job.anchor, job.phase, job.kind, job.rung, job.step, job.failures, *rest = rest
    job.weight, job.started, job.joins_lane, job.queue, *rest = rest
    planner.schedule.set_at_risk(job, bool(rest and rest[0]))
    job.statistics = None if class_key is None else planner.statistics.of_class(*class_key)
    job.demand = demand
    planner.schedule.demand += demand
    if lane is not None:
        planner.open_jobs.lanes.open(lane).append(job)
    planner.schedule.queues.put(job, due, job.queue)


def _load_lanes(lanes: Lanes, saved: Any) -> None:
    for name, last_start, _, gaps in saved:
        if not isinstance(name, str):
            raise ValueError("a lane's name is text")
        found = [_finite(gap) for gap in gaps][:GAPS_REMEMBERED]
        lane = lanes.open(name)
        if lane.last_start is None:
            lane.load(None if last_start is None else _finite(last_start), 0, found)
        lanes.close_if_empty(lane)


def _dump_statistics(statistics: PlannerStatistics) -> list[Any]:
    """Per class: its statistics, and the policy in use, or the next one if that is being built."""
    return [_dump_class(each) for each in (statistics.root, *statistics)]


def _dump_class(job_class: ClassStatistics) -> list[Any]:
    policy = job_class.policy if job_class.next_policy is None else job_class.next_policy[0]
    rates = [list(policy.rates(kind)) for kind in range(len(job_class.hazards))]
    tables = sorted({*policy.tables, *policy.once})
    # The number of used tables determines after how many steps the next policy is complete.
    kept = [[list(each) for each in some] for some in (tables, sorted(policy.used))]
    return [job_class.name, job_class.dump(), rates, *kept, list(policy.exploration)]


def _load_statistics(statistics: PlannerStatistics, saved: Any) -> None:
    for name, learned, rates, tables, *more in saved:
        job_class = statistics.named(name)
        job_class.load(learned)
        used, exploration = more or ((), ())
        job_class.policy = ClassPolicy([tuple(each) for each in rates], tuple(exploration))
        job_class.policy.once = {(kind, rung) for kind, rung in tables}
        job_class.policy.used = {(kind, rung) for kind, rung in used}
        statistics.queue_refit_if_due(job_class)


def _dump_budget(budget: Budget) -> dict[str, Any]:
    return {
        "paused_until": budget.paused_until,
        "key": _dump_meter(budget.key),
        "account": _dump_meter(budget.account),
        "trial_requests_per_second": budget.aimd.rate,
    }


def _dump_meter(meter: Meter) -> dict[str, Any]:
    return {name: getattr(meter, name) for name in Meter.KEPT} if meter.known else {}


def _load_budget(budget: Budget, saved: Mapping[str, Any]) -> None:
    """A lower cap than the saved one is kept. Raises ValueError, TypeError or KeyError for malformed values."""
    paused_until, rate = saved["paused_until"], _finite(saved["trial_requests_per_second"])
    meters = [
        {name: type(getattr(meter, name))(_finite(saved[key][name])) for name in Meter.KEPT} if saved[key] else {}
        for key, meter in (("key", budget.key), ("account", budget.account))
    ]
    if rate <= 0 or any(each and min(each["limit"], each["window_seconds"], each["rate"]) <= 0 for each in meters):
        raise ValueError("rates and windows must be above 0")
    budget.paused_until = None if paused_until is None else _finite(paused_until)
    for meter, values in zip((budget.key, budget.account), meters, strict=True):
        for name, value in values.items():
            setattr(meter, name, value)
    budget.aimd.rate = min(rate, budget.aimd.cap)


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"not a finite number: {value!r}")
    return number
