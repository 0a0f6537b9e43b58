"""What a planner is made of, how it keeps pace with the budget, and what of it outlives the process."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

from relay.core.planner import state
from relay.core.planner.bucket import Bucket
from relay.core.planner.budget import Budget
from relay.core.planner.config import PlannerConfig
from relay.core.planner.forecast import Forecast
from relay.core.planner.headers import HeaderReader
from relay.core.planner.jobs import UNSEEN
from relay.core.planner.open_jobs import OpenJobs
from relay.core.planner.price import Price
from relay.core.planner.schedule import MAX_PATIENCE
from relay.core.planner.statistics import PlannerStatistics
from relay.core.planner.timeline import SLACK_SECONDS, Timeline
from relay.core.planner.views import Purpose

TOO_MANY_REQUESTS = 429
BANKED_WINDOWS = 0.5
BACKLOG_COUNTED = 1_000
HEAD_START_REQUESTS = 8.0
"""A look at a job that weighs more than usual goes before those that came due so many requests' time sooner."""
SAVED_SHARE = 0.65
"""The share of what the bucket holds that is kept for bursts; what is saved beyond it makes requests cheaper."""
SPENT_SHARE = 0.3
"""Where less than this share of it is left the price may rise as fast as that can show."""


class Pacing:
    """The parts of a planner: jobs, budget, bucket, price and what was learned."""

    def __init__(
        self, config: PlannerConfig, statistics: PlannerStatistics | None = None, price: Price | None = None
    ) -> None:
        """`statistics`: what is learned of the source's jobs, shared by its accounts' planners; None: one of its own.
        `price`: another one than that which keeps the budget, for measuring."""
        self._config = config
        self._unit = unit_of(config)
        self._own_statistics = statistics is None
        self._statistics = PlannerStatistics(self._unit) if statistics is None else statistics
        self._price = Price(self._unit) if price is None else price
        self._headers = HeaderReader(config.headers)
        self._timeline = Timeline()
        self._forecast = Forecast(self._statistics, self._price)
        self._open_jobs = OpenJobs(config, self._statistics, self._price, self._forecast)
        self._budget = Budget(config)
        self._bucket = Bucket()
        self._closed_until: float | None = None
        self._purposes: dict[str, Purpose] = {}

    def borrow(self, job_id: str, now: float) -> bool:
        """A request that somebody else sends on this key looks at the job: it counts as taken, whatever is due.

        False where the job is not tracked or a look at it is under way. Tell the outcome by `observed` or `settle`.
        """
        job = self._open_jobs.jobs.get(job_id)
        if job is None or job.in_flight:
            return False
        t = self._refresh(now)
        self._bucket.charge(t)
        self._purposes[job_id] = "passed"
        self._open_jobs.queues.take_off(job)
        job.due = t
        self._budget.sent()
        return True

    def settle(
        self, job_id: str, due: float, status_code: int | None, headers: Mapping[str, str], sent_at: float, now: float
    ) -> None:
        """A request that was lent did not show the job: its poll is due at `due` again, as before it was lent.

        Its answer (None: there was none) says nothing about the job or the upstream's health, only about the limit.
        """
        job = self._open_jobs.jobs.get(job_id)
        if job is None or not job.in_flight:
            return
        t = self._timeline.at(now)
        self._purposes.pop(job_id, None)
        told = self._headers.read(headers, now)
        sent = min(t, self._timeline.inner(sent_at))
        self._budget.answered(told, ours=True, sent_at=sent, now=t)
        if status_code == TOO_MANY_REQUESTS:
            self._budget.rejected(told, t)
        self._open_jobs.put_back(job, self._timeline.inner(due), t)
        self._refresh(now)

    def is_fresh(self, job_id: str, now: float) -> bool:
        """Whether what the last look at the job showed is as good as a look now: the next one is planned for later."""
        job = self._open_jobs.jobs.get(job_id)
        if job is None or job.in_flight or job.failures or job.phase == UNSEEN:
            return False
        return job.due > self._timeline.at(now) + SLACK_SECONDS

    def forwarded(self, status_code: int | None, headers: Mapping[str, str], sent_at: float, now: float) -> None:
        """Somebody else's request on this key, sent at `sent_at`, was answered so; None where it was not.

        Where the headers tell the limit they show that it was spent; elsewhere ours wait for it.
        """
        t = self._timeline.at(now) if self._bucket.rate else self._refresh(now)
        told = self._headers.read(headers, now)
        sent = min(t, self._timeline.inner(sent_at))
        self._budget.answered(told, ours=False, sent_at=sent, now=t)
        if status_code == TOO_MANY_REQUESTS:
            self._budget.rejected(told, t)
        if not self._budget.meters():
            self._bucket.charge(t)

    def snapshot(self) -> dict[str, Any]:
        """Everything that `restore` needs, as plain values that JSON can hold."""
        return {
            "version": state.VERSION,
            "offset_seconds": self._timeline.offset,
            "budget": state.dump_budget(self._budget),
            "moment": state.dump_moment(self._budget),
            "price": self._price.dump(),
            "priced": self._price.dump_moment(),
            "forecast": self._forecast.dump(),
            "classes": state.dump_statistics(self._statistics) if self._own_statistics else [],
            **state.dump_open_jobs(self._open_jobs),
        }

    def durable_state(self) -> dict[str, Any]:
        """What is worth keeping over a restart besides the jobs, as plain values that JSON can hold."""
        return {
            "version": state.VERSION,
            "unit": self._unit,
            "price": self._price.dump(),
            "offset_seconds": self._timeline.offset,
            "budget": state.dump_budget(self._budget),
            "lanes": state.dump_lanes(self._open_jobs),
        }

    def resume(self, plan: Mapping[str, Any], now: float) -> None:
        """Goes on with what `plan` gave, before any job is tracked; what can not be read is ignored.

        The bucket starts empty, so that nothing bursts, however long ago the plan was made.
        """
        try:
            if plan["version"] != state.VERSION or plan["unit"] != self._unit:
                return
            offset = float(plan["offset_seconds"])
            if not math.isfinite(offset):
                return
            self._price.load(*plan["price"])
            state.load_budget(self._budget, plan["budget"])
            state.load_lanes(self._open_jobs, plan["lanes"])
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            return
        self._timeline.offset = offset
        self._refresh(now)

    @classmethod
    def restore(
        cls, config: PlannerConfig, snapshot: Mapping[str, Any], statistics: PlannerStatistics | None = None
    ) -> Self:
        """A planner that decides as the one did that gave the snapshot; requests that were out count as not sent.

        Its bucket starts empty, so that nothing bursts. A snapshot whose `jobs` were left out restores the budget and
        what was learned of the lanes, for a caller that tracks the jobs again itself. Raises ValueError for a snapshot
        of another version.
        """
        if snapshot.get("version") != state.VERSION:
            raise ValueError(f"a snapshot of version {state.VERSION} is needed, not {snapshot.get('version')!r}")
        planner = cls(config, statistics)
        planner._timeline.offset = snapshot["offset_seconds"]
        state.load_budget(planner._budget, snapshot["budget"])
        state.load_moment(planner._budget, snapshot["moment"])
        planner._price.load(*snapshot["price"])
        planner._price.load_moment(*snapshot["priced"])
        if planner._own_statistics:
            state.load_statistics(planner._statistics, snapshot["classes"])
        planner._forecast.load(*snapshot["forecast"])
        state.load_open_jobs(planner._open_jobs, snapshot)
        return planner

    def reconfigured(self, config: PlannerConfig) -> Self:
        """A planner with other settings that goes on where this one is: requests that are out stay out."""
        planner = self.restore(config, self.snapshot(), None if self._own_statistics else self._statistics)
        for job_id, purpose in self._purposes.items():
            planner._open_jobs.queues.take_off(planner._open_jobs.jobs[job_id])
            planner._purposes[job_id] = purpose
        planner._budget.in_flight = self._budget.in_flight
        return planner

    def _refresh(self, now: float) -> float:
        """Brings budget and bucket up to `now`, which it returns in the planner's time."""
        t = self._timeline.at(now)
        first = self._open_jobs.queues.first(t)
        furthest = self._config.max_interval_seconds * MAX_PATIENCE
        if first is not None and first.due > t + furthest + SLACK_SECONDS:
            # No look is planned so far ahead: the clock was set back while the program was away.
            t = self._timeline.skip(first.due - t - furthest)
        self._bucket.set_rate(self._budget.rate(t), BANKED_WINDOWS * self._budget.window_seconds(), t)
        self._open_jobs.queues.head_start_seconds = HEAD_START_REQUESTS / self._bucket.rate
        closed = self._budget.closed_until(t)
        if closed is None and self._closed_until is not None:
            self._bucket.drain(t)
        self._closed_until = closed
        if self._price.due(t):
            overdue = self._open_jobs.queues.overdue(t - self._unit, BACKLOG_COUNTED)
            overdue_checks = self._open_jobs.queues.overdue_checks(t - self._unit, BACKLOG_COUNTED)
            saved, most = self._bucket.saved(t), self._bucket.capacity()
            self._price.step(
                t,
                demand=self._open_jobs.demand,
                backlog=overdue + overdue_checks - max(saved - SAVED_SHARE * most, 0.0),
                open_jobs=len(self._open_jobs.jobs),
                # Late checks are of jobs that nothing is expected of: a dearer request puts these off only later.
                at_risk=self._open_jobs.at_risk if saved < SPENT_SHARE * most and not overdue_checks else None,
                rate=self._bucket.rate * self._unit,
                polls=self._forecast.polls(),
            )
        return t


def unit_of(config: PlannerConfig) -> float:
    """The shortest time that counts, in seconds: a second, or the shortest interval in a world that runs faster."""
    return min(1.0, config.min_interval_seconds)


def statistics_for(config: PlannerConfig) -> PlannerStatistics:
    """An empty statistics for the planners of a source with these settings."""
    return PlannerStatistics(unit_of(config))
