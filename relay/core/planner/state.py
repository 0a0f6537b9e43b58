"""A planner's state as plain values that JSON can hold, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from relay.core.planner.budget import Budget
from relay.core.planner.classes import Book, JobClass, dump_class, key_of, load_class, name_of
from relay.core.planner.edition import Edition
from relay.core.planner.jobs import Job
from relay.core.planner.lanes import GAPS_REMEMBERED, Lane
from relay.core.planner.meter import Meter
from relay.core.planner.roster import Roster

VERSION = 2
MAX_LANES_KEPT = 100


def dump_roster(roster: Roster) -> dict[str, Any]:
    """The jobs, those of a lane in its order, and the lanes."""
    laned = [job for lane in roster.lanes for job in lane]
    alone = [job for job in roster.jobs.values() if job.lane is None]
    return {
        "jobs": [_dump_job(job) for job in (*laned, *alone)],
        "lanes": [_dump_lane(lane) for lane in roster.lanes],
        "others_turn": roster.queues.others_turn,
    }


def load_roster(roster: Roster, saved: Mapping[str, Any]) -> None:
    """Fills an empty roster."""
    roster.queues.others_turn = bool(saved.get("others_turn"))
    for row in saved.get("jobs", ()):
        job_id, seen, spacing, lane, due, learned, demand, *rest = row
        job = roster.jobs[job_id] = Job(job_id, spacing, seen)
        job.anchor, job.phase, job.kind, job.rung, job.step, job.failures, *rest = rest
        job.weight, job.started, job.joins, job.queue, *rest = rest
        roster.expose(job, bool(rest and rest[0]))
        job.learned = None if learned is None else roster.book.of(*learned)
        job.demand = demand
        roster.demand += demand
        if lane is not None:
            roster.lanes.open(lane).append(job)
        roster.queues.put(job, due, job.queue)
    for name, unparking, *learned in saved.get("lanes", ()):
        lane = roster.lanes.open(name)
        lane.relearn(*learned)
        if unparking:
            lane.unpark()
            roster.unparking.append(lane)
        roster.lanes.close_if_empty(lane)


def dump_book(book: Book) -> list[Any]:
    """What was learned of each class, and the edition that plans are made from, or will be as soon as it is ready."""
    return [_dump_class(each, root=each is book.root) for each in (book.root, *book)]


def load_book(book: Book, saved: Any) -> None:
    """Fills an empty book."""
    for name, learned, rates, tables, *more in saved:
        key = key_of(name)
        of = book.root if key is None else book.of(*key)
        load_class(of, learned)
        used, exploration = more or ((), ())
        of.edition = Edition([tuple(each) for each in rates], tuple(exploration))
        of.edition.once = {(kind, rung) for kind, rung in tables}
        of.edition.used = {(kind, rung) for kind, rung in used}
        book.poll_at(of)


def dump_budget(budget: Budget) -> dict[str, Any]:
    """The rate limit's counts as far as they are known, and the rate found by trial."""
    return {
        "paused_until": budget.paused_until,
        "key": _dump_meter(budget.key),
        "account": _dump_meter(budget.account),
        "trial_requests_per_second": budget.trial.rate,
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
    budget.trial.rate = min(rate, budget.trial.cap)


def dump_moment(budget: Budget) -> list[Any]:
    """What only matters to a planner that goes on at once: errors in a row, and how far the trial's step is."""
    return [budget.errors, budget.trial.since, budget.trial.sent]


def load_moment(budget: Budget, saved: Any) -> None:
    """Takes over what `dump_moment` gave."""
    budget.errors, budget.trial.since, budget.trial.sent = saved


def dump_lanes(roster: Roster) -> list[Any]:
    """What was learned of the lanes, the last used last, within a limit."""
    return [[lane.name, *lane.learned()] for lane in roster.lanes][-MAX_LANES_KEPT:]


def load_lanes(roster: Roster, saved: Any) -> None:
    """Takes back what `dump_lanes` gave. Raises ValueError and the like for anything else."""
    for name, last_start, _, gaps in saved:
        if not isinstance(name, str):
            raise ValueError("a lane is named by text")
        found = [_finite(gap) for gap in gaps][:GAPS_REMEMBERED]
        lane = roster.lanes.open(name)
        if lane.last_start is None:
            lane.relearn(None if last_start is None else _finite(last_start), 0, found)
        roster.lanes.close_if_empty(lane)


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"not a finite number: {value!r}")
    return number


def _dump_job(job: Job) -> list[Any]:
    lane = None if job.lane is None else job.lane.name
    learned = None if job.learned is None else list(job.learned.key)
    plan = (job.anchor, job.phase, job.kind, job.rung, job.step, job.failures)
    rest = (job.weight, job.started, job.joins, job.queue, job.at_risk)
    return [job.id, job.seen, job.spacing, lane, job.due, learned, job.demand, *plan, *rest]


def _dump_lane(lane: Lane) -> list[Any]:
    return [lane.name, lane.cursor is not None, *lane.learned()]


def _dump_class(of: JobClass, *, root: bool) -> list[Any]:
    edition = of.edition if of.draft is None else of.draft[0]
    rates = [list(edition.rates(kind)) for kind in range(len(of.hazards))]
    tables = sorted({*edition.tables, *edition.once})
    # How many tables the next edition is made of decides after how many calls it is there.
    kept = [[list(each) for each in some] for some in (tables, sorted(edition.used))]
    return [name_of(of.key, root=root), dump_class(of), rates, *kept, list(edition.exploration)]


def _dump_meter(meter: Meter) -> dict[str, Any]:
    return {name: getattr(meter, name) for name in Meter.KEPT} if meter.known else {}
