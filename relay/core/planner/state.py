"""A planner's state as plain values that JSON can hold, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relay.core.planner.budget import Budget
from relay.core.planner.jobs import Job
from relay.core.planner.lanes import Lane
from relay.core.planner.meter import Meter
from relay.core.planner.roster import Roster

VERSION = 1


def dump_roster(roster: Roster) -> dict[str, Any]:
    """The jobs, those of a lane in its order, and the lanes."""
    laned = [job for lane in roster.lanes for job in lane]
    alone = [job for job in roster.jobs.values() if job.lane is None]
    return {
        "jobs": [_dump_job(job) for job in (*laned, *alone)],
        "lanes": [_dump_lane(lane) for lane in roster.lanes],
    }


def load_roster(roster: Roster, saved: Mapping[str, Any]) -> None:
    """Fills an empty roster."""
    for row in saved.get("jobs", ()):
        job_id, spacing, lane, due, *rest = row
        job = roster.jobs[job_id] = Job(job_id, spacing)
        job.anchor, job.phase, job.step, job.failures, job.weight, job.started, job.joins = rest
        if lane is not None:
            roster.lanes.open(lane).append(job)
        roster.agenda.put(job, due)
    for name, unparking, *learned in saved.get("lanes", ()):
        lane = roster.lanes.open(name)
        lane.relearn(*learned)
        if unparking:
            lane.unpark()
            roster.unparking.append(lane)
        roster.lanes.close_if_empty(lane)


def dump_budget(budget: Budget) -> dict[str, Any]:
    """The rate limit's counts as far as they are known, and the rate found by trial."""
    return {
        "paused_until": budget.paused_until,
        "key": _dump_meter(budget.key),
        "account": _dump_meter(budget.account),
        "trial_requests_per_second": budget.trial.rate,
    }


def load_budget(budget: Budget, saved: Mapping[str, Any]) -> None:
    """Takes over what a budget knew; a lower cap than then is kept."""
    budget.paused_until = saved["paused_until"]
    for meter, values in ((budget.key, saved["key"]), (budget.account, saved["account"])):
        for name, value in values.items():
            setattr(meter, name, value)
    budget.trial.rate = min(saved["trial_requests_per_second"], budget.trial.cap)


def _dump_job(job: Job) -> list[Any]:
    lane = None if job.lane is None else job.lane.name
    kept = (job.anchor, job.phase, job.step, job.failures, job.weight, job.started, job.joins)
    return [job.id, job.spacing, lane, job.due, *kept]


def _dump_lane(lane: Lane) -> list[Any]:
    return [lane.name, lane.cursor is not None, *lane.learned()]


def _dump_meter(meter: Meter) -> dict[str, Any]:
    return {name: getattr(meter, name) for name in Meter.KEPT} if meter.known else {}
