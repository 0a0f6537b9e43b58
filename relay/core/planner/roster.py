"""The tracked jobs: what is known of each, what it waits for, and when it is to be looked at.

All times are seconds of the planner's time.
"""

from __future__ import annotations

import math
from collections import deque

from relay.core.planner import backoff
from relay.core.planner.config import PlannerConfig
from relay.core.planner.items import Reading
from relay.core.planner.jobs import PARKED, RUNNING, WAITING, Agenda, Job
from relay.core.planner.lanes import Lane, Lanes

UNPARKED_AT_ONCE = 32
"""Jobs of a broken lane that one call unparks: a lane can be longer than one call may take."""
LOST_AFTER_FAILURES = 3
"""A job that was not found so often no longer holds up its lane."""
LATE_LOOKS = 2
"""So many looks past its time a job is believed to wait for the end of its predecessor's retries."""
MIN_WEIGHT = 1e-3
MAX_WEIGHT = 1e6
MAX_SPACING_SECONDS = 86_400.0


class Roster:
    """All open jobs of an account, in their lanes and on the agenda. A job in flight is on no agenda."""

    __slots__ = ("_config", "agenda", "jobs", "lanes", "unparking")

    def __init__(self, config: PlannerConfig) -> None:
        self._config = config
        self.jobs: dict[str, Job] = {}
        self.agenda = Agenda()
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
    ) -> None:
        """Takes in a job that is not in yet; `planned` and `step` carry on a plan that was made before."""
        spacing = spacing_seconds if 0 <= spacing_seconds <= MAX_SPACING_SECONDS else 0.0
        job = self.jobs[job_id] = Job(job_id, spacing)
        job.weight = _weight(weight, 1.0)
        job.joins = lane is None
        if lane:
            self.lanes.open(lane).append(job)
        job.anchor = due = now
        # Also an end that was heard of is looked at: only what a look of our own brings comes to `observe`.
        if reading.known and not reading.terminal:
            self._settle(job, reading, now, now)
            job.step = min(max(step, 0), backoff.MAX_STEP)
            due = self._next_look(job, now)
        self.agenda.put(job, due if planned is None else self._bounded(planned, now))

    def observe(self, job: Job, reading: Reading, now: float, seen_at: float) -> None:
        """A look at the job brought `reading`, the state as of `seen_at`."""
        job.failures = 0
        if reading.terminal:
            if reading.started_at is not None:
                self._mark_started(job, min(reading.started_at, now), now)
            self.remove(job, now)
            return
        before = (job.phase, job.anchor)
        if reading.known:
            self._settle(job, reading, now, seen_at)
            self._wait_in_lane(job, now, was_parked=before[0] == PARKED)
        if before != (job.phase, job.anchor):
            job.step = 0
        elif now > job.anchor:
            job.step = min(job.step + 1, backoff.MAX_STEP)
        self.agenda.put(job, self._next_look(job, now))

    def fail(self, job: Job, now: float, *, missing: bool, not_before: float) -> None:
        """A look at the job failed; `missing` says that the upstream does not know the job."""
        job.failures = min(job.failures + 1, backoff.MAX_STEP)
        chance = backoff.spread(self._config.seed, job.id, job.failures)
        due = backoff.after_failure(self._config, now=now, failures=job.failures, chance=chance)
        if missing:
            if job.failures >= LOST_AFTER_FAILURES:
                self._leave_lane(job, now)
        elif job.phase == PARKED or job.anchor > now:
            due = max(due, self._next_look(job, now))
        self.postpone(job, max(due, not_before), now)

    def postpone(self, job: Job, due: float, now: float) -> None:
        """Plans the job's look for `due`, or for as far ahead as any look may be."""
        self.agenda.put(job, self._bounded(due, now))

    def weigh(self, job: Job, weight: float, now: float) -> None:
        """Sets the job's weight; a higher one brings its next look forward, but not before its anchor."""
        before, job.weight = job.weight, _weight(weight, job.weight)
        if job.weight > before and job.failures == 0 and not job.in_flight and job.phase in (WAITING, RUNNING):
            due = self._next_look(job, now)
            if due < job.due:
                self.agenda.put(job, due)

    def remove(self, job: Job, now: float) -> None:
        """Lets the job go, and its successor follow."""
        del self.jobs[job.id]
        self.agenda.remove(job)
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

    def _settle(self, job: Job, reading: Reading, now: float, seen_at: float) -> None:
        """Finds what an open job waits for: its phase, and the anchor before which nothing can happen to it."""
        if job.joins and reading.channel:
            self.lanes.open(reading.channel).append(job)
            job.joins = False
        started, retry, scheduled = reading.started_at, reading.next_attempt_at, reading.scheduled_at
        if started is not None:
            started = min(started, now)
        elif reading.running or retry is not None:
            # It has started, but it is not said when: at the earliest when it could, at the latest when it was seen.
            started = job.anchor if job.phase in (WAITING, RUNNING) and job.anchor <= seen_at else seen_at
        if started is not None:
            self._mark_started(job, started, now)
        if retry is not None and (retry > now or not reading.running):
            job.phase, job.anchor = WAITING, retry
        elif started is not None:
            job.phase, job.anchor = RUNNING, started if retry is None else max(started, retry)
        elif scheduled is not None:
            self._reschedule(job, scheduled)
        elif job.phase == RUNNING:
            job.phase, job.anchor = WAITING, now
        elif job.phase != WAITING:
            self._wait_or_park(job, now)

    def _reschedule(self, job: Job, scheduled: float) -> None:
        lane, after = job.lane, job.next
        moved = job.phase == WAITING and scheduled > job.anchor + job.spacing
        if moved and lane is not None and after is not None and after.phase == PARKED:
            # Those behind it may well overtake a job that was moved away.
            self._unpark(lane)
        job.phase, job.anchor = WAITING, scheduled

    def _wait_or_park(self, job: Job, now: float) -> None:
        lane = job.lane
        if lane is not None and lane.must_park(job):
            job.phase = PARKED
            return
        anchor = None if lane is None else lane.anchor(job)
        job.phase, job.anchor = WAITING, now if anchor is None else anchor

    def _wait_in_lane(self, job: Job, now: float, *, was_parked: bool) -> None:
        """A job whose time has passed without its start is late because its lane is: its predecessor tells when."""
        lane, before = job.lane, job.previous
        if lane is None or lane.disorder or job.started is not None or job.phase != WAITING or now <= job.anchor:
            return
        if before is None or before.phase == RUNNING:
            job.anchor = max(job.anchor, lane.anchor(job) or 0.0)
        elif before.started is None:
            # One that can not start for long is not what this job waits for: jobs of two lanes are mixed here.
            if before.anchor <= now + job.spacing:
                job.phase = PARKED
        elif was_parked or job.step >= LATE_LOOKS:
            job.phase = PARKED

    def _mark_started(self, job: Job, started: float, now: float) -> None:
        lane = job.lane
        if lane is None or job.started is not None:
            return
        if lane.started(job, started):
            self._unpark(lane)
        elif job.next is not None and job.next.phase == PARKED:
            self._release(job.next, lane.anchor(job.next), now)

    def _release(self, job: Job, anchor: float | None, now: float) -> None:
        job.phase, job.step = WAITING, 0
        job.anchor = now if anchor is None else anchor
        if not job.in_flight:
            self.agenda.put(job, self._next_look(job, now))

    def _unpark(self, lane: Lane) -> None:
        if lane.cursor is None and lane not in self.unparking:
            self.unparking.append(lane)
        lane.unpark()

    def _leave_lane(self, job: Job, now: float) -> None:
        lane = job.lane
        job.joins = False
        if lane is None:
            return
        follower = lane.remove(job)
        if job.phase == PARKED:
            job.phase, job.anchor = WAITING, now
        if follower is not None:
            self._release(follower, lane.anchor(follower), now)
        self.lanes.close_if_empty(lane)

    def _next_look(self, job: Job, now: float) -> float:
        chance = backoff.spread(self._config.seed, job.id, job.step)
        if job.phase == PARKED:
            return backoff.safety_look(self._config, now=now, chance=chance)
        return backoff.next_look(
            self._config, anchor=job.anchor, now=now, step=job.step, weight=job.weight, chance=chance
        )

    def _bounded(self, due: float, now: float) -> float:
        return min(max(due, 0.0), now + self._config.max_interval_seconds)


def _weight(weight: float, otherwise: float) -> float:
    return min(max(weight, MIN_WEIGHT), MAX_WEIGHT) if math.isfinite(weight) else otherwise
