"""The tracked jobs: what is known of each, what it waits for, and when it is to be looked at.

All times are seconds of the planner's time.
"""

from __future__ import annotations

import math
from collections import deque

from relay.core.planner import backoff, learning
from relay.core.planner.config import PlannerConfig
from relay.core.planner.forecast import Forecast
from relay.core.planner.items import Reading
from relay.core.planner.jobs import EXPECTED, PARKED, RUNNING, UNSEEN, URGENT, WAITING, Job
from relay.core.planner.lanes import Lane, Lanes
from relay.core.planner.policy import HEAD, LANE, NEW, RETRY, RHYTHM, RUN, SCHEDULED
from relay.core.planner.price import Price
from relay.core.planner.schedule import PollSchedule
from relay.core.planner.statistics import PlannerStatistics

UNPARKED_AT_ONCE = 32
"""Jobs of a broken lane that one call unparks: a lane can be longer than one call may take."""
LOST_AFTER_FAILURES = 3
"""A job that was not found so often no longer holds up its lane."""
OVERDUE_POLLS = 2
"""So many looks past its time a job is believed to wait for the end of its predecessor's retries."""
MIN_WEIGHT = 1e-3
MAX_WEIGHT = 1e6
MAX_SPACING_SECONDS = 86_400.0


class OpenJobs(PollSchedule):
    """All open jobs of an account, in their lanes, with the plan of each."""

    __slots__ = ("_forecast", "jobs", "lanes", "unparking")

    def __init__(self, config: PlannerConfig, statistics: PlannerStatistics, price: Price, forecast: Forecast) -> None:
        super().__init__(config, statistics, price)
        self._forecast = forecast
        self.jobs: dict[str, Job] = {}
        self.lanes = Lanes()
        self.unparking: deque[Lane] = deque()

    def add(
        self,
        job_id: str,
        reading: Reading,
        now: float,
        *,
        weight: float,
        lane: str | None,
        spacing_seconds: float,
        planned: float | None,
        step: int,
        seen: float,
    ) -> None:
        """Takes in a job that is not in yet; `planned`, `step` and `seen` carry on a plan that was made before."""
        spacing = spacing_seconds if 0 <= spacing_seconds <= MAX_SPACING_SECONDS else 0.0
        job = self.jobs[job_id] = Job(job_id, spacing, min(seen, now))
        job.weight = _weight(weight, 1.0)
        job.joins_lane = lane is None
        if lane:
            self.lanes.open(lane).append(job, reading.scheduled_at)
        job.anchor = now
        # Also an end that was heard of is looked at: only what a look of our own brings comes to `observe`.
        known = reading.known and not reading.terminal
        if known:
            self._settle(job, reading, now, min(seen, now))
            job.step = min(max(step, 0), backoff.MAX_STEP)
        if planned is not None:
            self.fix(job, planned, now)
        elif known:
            self.plan(job, now)
        else:
            self.fix(job, now, now)

    def observe(self, job: Job, reading: Reading, now: float, seen_at: float) -> None:
        """A look at the job brought `reading`, the state as of `seen_at`."""
        job.failures = 0
        if reading.known:
            if job.statistics is None:
                job.statistics = self.statistics.of_class(reading.action, reading.channel)
            learning.learn(self.statistics, job, reading, seen_at)
        if reading.terminal:
            if reading.started_at is not None:
                self._mark_started(job, min(reading.started_at, now), now)
            self.remove(job, now)
            return
        before = (job.phase, job.anchor)
        if reading.known:
            self._settle(job, reading, now, seen_at)
            self._wait_in_lane(job, now, was_parked=before[0] == PARKED)
        job.seen = max(job.seen, seen_at)
        if before != (job.phase, job.anchor):
            job.step = 0
        elif now > job.anchor:
            job.step = min(job.step + 1, backoff.MAX_STEP)
        self.plan(job, now)

    def fail(self, job: Job, now: float, *, missing: bool, not_before: float) -> None:
        """A look at the job failed; `missing` says that the upstream does not know the job."""
        job.failures = min(job.failures + 1, backoff.MAX_STEP)
        chance = backoff.spread(self._config.seed, job.id, job.failures)
        due = backoff.after_failure(self._config, now=now, failures=job.failures, chance=chance)
        if missing:
            if job.failures >= LOST_AFTER_FAILURES:
                self._leave_lane(job, now)
        elif job.phase == PARKED or job.anchor > now:
            due = max(due, self.next_poll(job, now))
        self.fix(job, max(due, not_before), now)

    def weigh(self, job: Job, weight: float, now: float) -> None:
        """Sets the job's weight; a higher one brings its next look forward, but not before its anchor. One that is
        overdue has the head start of urgent looks."""
        before, job.weight = job.weight, _weight(weight, job.weight)
        if job.weight > before and job.failures == 0 and not job.in_flight and job.phase in (WAITING, RUNNING):
            due = self.next_poll(job, now)
            if due < job.due:
                self.plan(job, now)
            elif job.queue == EXPECTED and job.weight > 1:
                self.queues.put(job, job.due, URGENT)

    def remove(self, job: Job, now: float) -> None:
        """Lets the job go, and its successor follow."""
        del self.jobs[job.id]
        self.queues.take_off(job)
        self.ask_for(job, 0.0)
        self.expose(job, False)
        self._leave_lane(job, now)

    def unpark_some(self, now: float) -> None:
        """Goes on with the lanes whose order was broken, a few jobs at a time."""
        for _ in range(UNPARKED_AT_ONCE):
            if not self.unparking:
                return
            lane = self.unparking[0]
            job = lane.cursor
            if job is None:
                self.unparking.popleft()
                continue
            lane.cursor = job.next
            if job.phase == PARKED:
                self._release(job, now, now)

    # --- what a job waits for

    def _settle(self, job: Job, reading: Reading, now: float, seen_at: float) -> None:
        """Finds what an open job waits for: its phase, and the anchor before which nothing can happen to it."""
        if job.statistics is None or (reading.action, reading.channel) != job.statistics.key:
            job.statistics = self.statistics.of_class(reading.action, reading.channel)
        if job.joins_lane and reading.channel:
            self.lanes.open(reading.channel).append(job, reading.scheduled_at)
            job.joins_lane = False
        started, retry, scheduled = reading.started_at, reading.next_attempt_at, reading.scheduled_at
        if started is not None:
            started = min(started, now)
        elif reading.running or retry is not None:
            # It has started, but it is not said when: at the earliest when it could, at the latest when it was seen.
            started = job.anchor if job.phase in (WAITING, RUNNING) and job.anchor <= seen_at else seen_at
        if started is not None:
            self._mark_started(job, started, now)
        new = job.phase in (UNSEEN, PARKED)
        if retry is not None and (retry > now or not reading.running):
            self._wait(job, RETRY, retry)
        elif started is not None:
            job.phase, job.kind = RUNNING, RUN
            job.anchor = started if retry is None else max(started, retry)
        elif scheduled is not None:
            self._reschedule(job, scheduled)
        elif job.phase == RUNNING:
            self._wait(job, NEW, now)
        elif job.phase != WAITING:
            self._wait_or_park(job, now)
        if new and job.phase != PARKED:
            self._forecast.began(job.statistics, job.kind)

    def _wait(self, job: Job, kind: int, anchor: float) -> None:
        job.phase, job.kind, job.anchor = WAITING, kind, anchor

    def _reschedule(self, job: Job, scheduled: float) -> None:
        lane, after = job.lane, job.next
        if job.phase == WAITING and job.kind == LANE and scheduled <= job.anchor:
            return  # its time has passed: it waits for its lane
        moved = job.phase == WAITING and scheduled > job.anchor + job.spacing
        if moved and lane is not None and after is not None and after.phase == PARKED:
            # Those behind it may well overtake a job that was moved away.
            self._unpark(lane)
        self._wait(job, SCHEDULED, scheduled)

    def _wait_or_park(self, job: Job, now: float) -> None:
        lane = job.lane
        if lane is None:
            self._wait(job, NEW, min(now, max(job.seen, 0.0)))
        elif lane.must_park(job):
            job.phase = PARKED
        else:
            self._wait_for_lane(job, lane, now)

    def _wait_for_lane(self, job: Job, lane: Lane, now: float) -> None:
        """Nothing is before it in its lane but what has started."""
        anchor, by_rhythm = lane.anchor(job, self.statistics.unit)
        if anchor is None or (anchor <= now and job.previous is None):
            self._wait(job, HEAD, now)
        else:
            self._wait(job, RHYTHM if by_rhythm else LANE, anchor)

    def _wait_in_lane(self, job: Job, now: float, *, was_parked: bool) -> None:
        """A job whose time has passed without its start is late because its lane is: its predecessor tells when."""
        lane, before = job.lane, job.previous
        if lane is None or lane.disorder or job.started is not None or job.phase != WAITING or now <= job.anchor:
            return
        if before is None or before.phase == RUNNING:
            anchor, by_rhythm = lane.anchor(job, self.statistics.unit)
            if anchor is not None and anchor > now:
                self._wait(job, RHYTHM if by_rhythm else LANE, anchor)
        elif before.started is None:
            # One that can not start for long is not what this job waits for: jobs of two lanes are mixed here.
            if (was_parked or job.step >= 1) and before.anchor <= now + job.spacing:
                job.phase = PARKED
        elif was_parked or job.step >= OVERDUE_POLLS:
            job.phase = PARKED

    def _mark_started(self, job: Job, started: float, now: float) -> None:
        lane = job.lane
        if lane is None or job.started is not None:
            return
        if lane.started(job, started):
            self._unpark(lane)
        elif job.next is not None and job.next.phase == PARKED:
            self._release_next(job.next, lane, now)

    def _release_next(self, job: Job, lane: Lane, now: float) -> None:
        job.step = 0
        self._wait_for_lane(job, lane, now)
        assert job.statistics is not None, "only a job that was read is ever parked"
        self._forecast.began(job.statistics, job.kind)
        if not job.in_flight:
            self.plan(job, now)

    def _release(self, job: Job, anchor: float, now: float) -> None:
        job.step = 0
        self._wait(job, HEAD, anchor)
        if not job.in_flight:
            self.plan(job, now)

    def _unpark(self, lane: Lane) -> None:
        if lane.cursor is None and lane not in self.unparking:
            self.unparking.append(lane)
        lane.unpark()

    def _leave_lane(self, job: Job, now: float) -> None:
        lane = job.lane
        job.joins_lane = False
        if lane is None:
            return
        follower = lane.remove(job)
        if job.phase == PARKED:
            self._wait(job, HEAD, now)
        if follower is not None:
            self._release_next(follower, lane, now)
        self.lanes.close_if_empty(lane)


def _weight(weight: float, otherwise: float) -> float:
    return min(max(weight, MIN_WEIGHT), MAX_WEIGHT) if math.isfinite(weight) else otherwise
