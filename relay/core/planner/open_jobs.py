"""The open jobs of an account: what each waits for, by its lane and its polls.

Times are planner time, in seconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

from relay.core.planner import hints
from relay.core.planner import polls as learning
from relay.core.planner.config import PlannerConfig
from relay.core.planner.forecast import Forecast
from relay.core.planner.inspection import HEAD, LANE, NEW, RETRY, RHYTHM, RUN, SCHEDULED
from relay.core.planner.poll_queues import EXPECTED, FIRST, PARKED, RUNNING, UNSEEN, URGENT, WAITING, PlannedJob
from relay.core.planner.poll_schedule import PollSchedule, spread
from relay.core.planner.polls import Reading
from relay.core.planner.statistics import PlannerStatistics

MAX_IDLE_LANES = 1_000
"""Number of empty lanes remembered; the longest empty one is dropped first."""
IN_ORDER_STARTS = 5
"""After a start out of order, the lane parks no new job until this many starts in order."""
MAX_PASSED = 64
"""Maximum number of later scheduled jobs that a joining job is inserted before."""
GAPS_REMEMBERED = 5
GAPS_NEEDED = 3
RHYTHM_SPREAD = 0.08
RHYTHM_UNITS = 4.0
"""Gaps between starts are regular if they differ by at most this many units, or this share."""
RHYTHM_EARLY_UNITS = 2.0


class Lane:
    """Open jobs of one lane in tracking order, and the regularity of its starts. Times are planner time, in seconds."""

    __slots__ = ("_gaps", "cursor", "disorder", "head", "last_start", "name", "tail")

    def __init__(self, name: str) -> None:
        self.name = name
        self.head: PlannedJob | None = None
        self.tail: PlannedJob | None = None
        self.cursor: PlannedJob | None = None
        """The next job to unpark while the lane is being unparked."""
        self.disorder = 0
        self.last_start: float | None = None
        self._gaps: list[float] = []

    def append(self, job: PlannedJob, scheduled_at: float | None = None) -> None:
        """Adds a job at the end, or before the last jobs if these are scheduled for later."""
        before, passed = self.tail, 0
        if scheduled_at is not None:
            while before is not None and passed < MAX_PASSED:
                if before.phase != WAITING or before.kind != SCHEDULED or before.anchor <= scheduled_at:
                    break
                before, passed = before.previous, passed + 1
        after = self.head if before is None else before.next
        job.lane, job.previous, job.next = self, before, after
        if before is None:
            self.head = job
        else:
            before.next = job
        if after is None:
            self.tail = job
        else:
            after.previous = job

    def remove(self, job: PlannedJob) -> PlannedJob | None:
        """Removes a job. Returns its parked successor if that has nothing left to wait for."""
        before, after = job.previous, job.next
        if before is None:
            self.head = after
        else:
            before.next = after
        if after is None:
            self.tail = before
        else:
            after.previous = before
        if self.cursor is job:
            self.cursor = after
        job.lane = job.previous = job.next = None
        if after is not None and after.phase == PARKED and (before is None or before.started is not None):
            return after
        return None

    def rhythm(self, unit: float) -> float | None:
        """Shortest of the last gaps between starts if these are regular; else None."""
        gaps = self._gaps
        if len(gaps) < GAPS_NEEDED:
            return None
        shortest = min(gaps)
        return shortest if max(gaps) - shortest <= max(RHYTHM_UNITS * unit, RHYTHM_SPREAD * shortest) else None

    def anchor(self, job: PlannedJob, unit: float) -> tuple[float | None, bool]:
        """Earliest start of a job that is not parked (None if unknown), and whether the lane's rhythm determines it.

        Without a rhythm it is the predecessor's start, or the lane's last, plus the job's spacing.
        """
        before = self.last_start if job.previous is None else job.previous.started
        if before is None:
            return None, False
        rhythm = self.rhythm(unit)
        if rhythm is not None and rhythm - RHYTHM_EARLY_UNITS * unit > job.spacing:
            return before + rhythm - RHYTHM_EARLY_UNITS * unit, True
        return before + job.spacing, False

    def started(self, job: PlannedJob, at: float) -> bool:
        """Records a job's first start. Returns True if it is out of order."""
        before = job.previous
        if before is None or PARKED not in (job.phase, before.phase):
            in_order = True
        else:  # if the predecessor has started and waits for a retry, this job has overtaken it
            in_order = before.started is not None and (before.phase != WAITING or at >= before.anchor)
        if self.last_start is None:
            self.last_start = at
        elif at > self.last_start:
            self._gaps = [*self._gaps[1 - GAPS_REMEMBERED :], at - self.last_start]
            self.last_start = at
        job.started = at
        if in_order and self.disorder and self.cursor is None:
            self.disorder -= 1
        return not in_order

    def unpark(self) -> None:
        """Begins to unpark the lane from its head, a few jobs at a time."""
        self.disorder = IN_ORDER_STARTS
        if self.cursor is None:  # a pass under way reaches all jobs, since none is parked meanwhile
            self.cursor = self.head

    def dump(self) -> tuple[float | None, int, list[float]]:
        """The learned state as JSON values: last start, disorder, gaps."""
        return (self.last_start, self.disorder, self._gaps)

    def load(self, last_start: float | None, disorder: int, gaps: list[float]) -> None:
        """Loads the values of `dump`."""
        self.last_start, self.disorder, self._gaps = last_start, disorder, list(gaps)


class Lanes:
    """All lanes of an account by name. A limited number of empty lanes is remembered."""

    __slots__ = ("_idle", "_lanes")

    def __init__(self) -> None:
        self._lanes: dict[str, Lane] = {}
        self._idle: dict[str, Lane] = {}

    def __iter__(self) -> Iterator[Lane]:
        yield from self._idle.values()
        yield from self._lanes.values()

    def open(self, name: str) -> Lane:
        """The lane of this name, created if necessary."""
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = self._idle.pop(name) if name in self._idle else Lane(name)
        return lane

    def close_if_empty(self, lane: Lane) -> None:
        """Moves an empty lane to the remembered ones, and forgets its disorder."""
        if lane.head is None:
            lane.disorder = 0
            lane.cursor = None
            del self._lanes[lane.name]
            self._idle[lane.name] = lane
            if len(self._idle) > MAX_IDLE_LANES:
                del self._idle[next(iter(self._idle))]


FAILURE_GROWTH = 2.0
MAX_STEP = 60
SPREAD = 0.05
UNPARKED_AT_ONCE = 32
"""Jobs unparked per call: a lane can be too long to unpark in one."""
LOST_AFTER_FAILURES = 3
"""After this many 404s a job leaves its lane."""
OVERDUE_POLLS = 2
"""After this many polls past its time a job is assumed to wait for its predecessor's retries."""
MIN_WEIGHT = 1e-3
MAX_WEIGHT = 1e6
MAX_SPACING_SECONDS = 86_400.0


class OpenJobs:
    """All open jobs of an account, in their lanes. Keeps the poll schedule up to date."""

    __slots__ = ("_forecast", "_schedule", "_statistics", "config", "jobs", "lanes", "unparking")

    def __init__(
        self, config: PlannerConfig, schedule: PollSchedule, statistics: PlannerStatistics, forecast: Forecast
    ) -> None:
        self.config = config
        self._schedule = schedule
        self._statistics = statistics
        self._forecast = forecast
        self.jobs: dict[str, PlannedJob] = {}
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
        shortest_seconds: float | None,
    ) -> None:
        """Adds a new job. `planned`, `step` and `seen` continue an earlier plan."""
        if shortest_seconds is not None:
            self._schedule.shortest[job_id] = shortest_seconds
        spacing = spacing_seconds if 0 <= spacing_seconds <= MAX_SPACING_SECONDS else 0.0
        job = self.jobs[job_id] = PlannedJob(job_id, spacing, min(seen, now))
        job.weight = _bounded_weight(weight, 1.0)
        job.joins_lane = lane is None
        if lane:
            self.lanes.open(lane).append(job, reading.scheduled_at)
        job.anchor = now
        # A reported end is polled too: only the relay's own poll calls `observe`.
        known = reading.known and not reading.terminal
        if known:
            self._update_anchor(job, reading, now, min(seen, now))
            job.step = min(max(step, 0), MAX_STEP)
        if planned is not None:
            self._schedule.plan_at(job, planned, now)
        elif known:
            self._schedule.plan(job, now)
        else:
            self._schedule.queues.put(job, max(now, 0.0), FIRST)

    def observe(
        self, job: PlannedJob, reading: Reading, now: float, seen_at: float, pause_seconds: float | None = None
    ) -> None:
        """A poll found the state `reading` as of `seen_at`. `pause_seconds`: the pause that the upstream
        asks for."""
        job.failures = 0
        if pause_seconds:
            self._schedule.asked_until[job.id] = now + pause_seconds
        elif self._schedule.asked_until:
            self._schedule.asked_until.pop(job.id, None)
        if reading.known:
            if job.statistics is None:
                job.statistics = self._statistics.of_class(reading.action, reading.channel)
            learning.learn(self._statistics, job, reading, seen_at)
        if reading.terminal:
            if reading.started_at is not None:
                self._mark_started(job, min(reading.started_at, now), now)
            if self._schedule.hints:
                self._end_hint(job, reading, seen_at)
            self.remove(job, now)
            return
        before = (job.phase, job.anchor)
        if reading.known:
            self._update_anchor(job, reading, now, seen_at)
            self._wait_for_delayed_lane(job, now, was_parked=before[0] == PARKED)
            if reading.left is not None or self._schedule.hints:
                self._read_hint(job, reading.left, seen_at)
        job.seen = max(job.seen, seen_at)
        if before != (job.phase, job.anchor):
            job.step = 0
        elif now > job.anchor:
            job.step = min(job.step + 1, MAX_STEP)
        self._schedule.plan(job, now)

    def _read_hint(self, job: PlannedJob, left: float | None, seen_at: float) -> None:
        """Takes over the progress that an open job's item tells."""
        found = self._schedule.hints
        before, statistics, running = found.pop(job.id, None), job.statistics, job.phase == RUNNING
        if left is None or statistics is None:
            return
        if before is None or before.running != running:
            found[job.id] = hints.first(left, seen_at, job.anchor, statistics.hint_error, running=running)
        else:
            found[job.id], error = before.read(left, seen_at, self._statistics.unit)
            statistics.record_hint(error)

    def _end_hint(self, job: PlannedJob, reading: Reading, seen_at: float) -> None:
        """Learns from a job that has ended how good its progress was."""
        hint = self._schedule.hints.get(job.id)
        if hint is not None and hint.running and job.statistics is not None:
            ended_at = hint.ends_at if reading.finished_at is None else reading.finished_at
            ended_at = min(max(ended_at, job.seen), seen_at)
            job.statistics.record_hint(hint.error_of_end(ended_at, self._statistics.unit))

    def fail(self, job: PlannedJob, now: float, *, missing: bool, not_before: float) -> None:
        """A poll failed. `missing`: the upstream does not know the job."""
        job.failures = min(job.failures + 1, MAX_STEP)
        chance = spread(self.config.seed, job.id, job.failures)
        wait = self._schedule.shortest_interval(job) * math.pow(FAILURE_GROWTH, min(job.failures - 1, MAX_STEP))
        due = now + min(wait * (1 + SPREAD * chance), self.config.max_interval_seconds)
        if missing:
            if job.failures >= LOST_AFTER_FAILURES:
                self._leave_lane(job, now)
        elif job.phase == PARKED or job.anchor > now:
            due = max(due, self._schedule.next_poll_at(job, now))
        self._schedule.plan_at(job, max(due, not_before), now)

    def set_weight(self, job: PlannedJob, weight: float, now: float) -> None:
        """Sets the weight. A higher one expedites the next poll, but not before the anchor; an overdue poll becomes
        urgent."""
        before, job.weight = job.weight, _bounded_weight(weight, job.weight)
        if job.weight > before and job.failures == 0 and not job.in_flight and job.phase in (WAITING, RUNNING):
            due = self._schedule.next_poll_at(job, now)
            if due < job.due:
                self._schedule.plan(job, now)
            elif job.queue == EXPECTED and job.weight > 1:
                self._schedule.queues.put(job, job.due, URGENT)

    def remove(self, job: PlannedJob, now: float) -> None:
        """Removes a job, and unparks its successor."""
        del self.jobs[job.id]
        self._schedule.remove(job)
        self._leave_lane(job, now)

    def unpark_some(self, now: float) -> None:
        """Unparks a few more jobs of lanes with a broken order."""
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
                job.step = 0
                self._wait(job, HEAD, now)
                if not job.in_flight:
                    self._schedule.plan(job, now)

    # --- what a job waits for

    def _update_anchor(self, job: PlannedJob, reading: Reading, now: float, seen_at: float) -> None:
        """Determines the phase of an open job, and the anchor before which nothing can happen to it."""
        if job.statistics is None or (reading.action, reading.channel) != job.statistics.key:
            job.statistics = self._statistics.of_class(reading.action, reading.channel)
        if job.joins_lane and reading.channel:
            self.lanes.open(reading.channel).append(job, reading.scheduled_at)
            job.joins_lane = False
        started, retry, scheduled = reading.started_at, reading.next_attempt_at, reading.scheduled_at
        if started is not None:
            started = min(started, now)
        elif reading.running or retry is not None:
            # It has started at an unknown time: at the earliest at its anchor, at the latest when seen.
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
            self._wait_for_schedule(job, scheduled)
        elif job.phase == RUNNING:
            self._wait(job, NEW, now)
        elif job.phase != WAITING:
            lane, before = job.lane, job.previous
            if lane is None:
                self._wait(job, NEW, min(now, max(job.seen, 0.0)))
            elif lane.disorder == 0 and before is not None and before.started is None:
                job.phase = PARKED
            else:
                self._wait_for_lane(job, lane, now)
        if new and job.phase != PARKED:
            self._forecast.began(job.statistics, job.kind)

    def _wait(self, job: PlannedJob, kind: int, anchor: float) -> None:
        job.phase, job.kind, job.anchor = WAITING, kind, anchor

    def _wait_for_schedule(self, job: PlannedJob, scheduled: float) -> None:
        lane, after = job.lane, job.next
        if job.phase == WAITING and job.kind == LANE and scheduled <= job.anchor:
            return  # its time has passed: it waits for its lane
        postponed = job.phase == WAITING and scheduled > job.anchor + job.spacing
        if postponed and lane is not None and after is not None and after.phase == PARKED:
            # Its successors may overtake a postponed job.
            self._unpark(lane)
        self._wait(job, SCHEDULED, scheduled)

    def _wait_for_lane(self, job: PlannedJob, lane: Lane, now: float) -> None:
        """All jobs before it in its lane have started."""
        anchor, by_rhythm = lane.anchor(job, self._statistics.unit)
        if anchor is None or (anchor <= now and job.previous is None):
            self._wait(job, HEAD, now)
        else:
            self._wait(job, RHYTHM if by_rhythm else LANE, anchor)

    def _wait_for_delayed_lane(self, job: PlannedJob, now: float, *, was_parked: bool) -> None:
        """A job that has not started at its anchor is delayed by its lane: it waits for its predecessor."""
        lane, before = job.lane, job.previous
        if lane is None or lane.disorder or job.started is not None or job.phase != WAITING or now <= job.anchor:
            return
        if before is None or before.phase == RUNNING:
            anchor, by_rhythm = lane.anchor(job, self._statistics.unit)
            if anchor is not None and anchor > now:
                self._wait(job, RHYTHM if by_rhythm else LANE, anchor)
        elif before.started is None:
            # A predecessor that starts much later cannot be what delays this job: jobs of two lanes are mixed here.
            if (was_parked or job.step >= 1) and before.anchor <= now + job.spacing:
                job.phase = PARKED
        elif was_parked or job.step >= OVERDUE_POLLS:
            job.phase = PARKED

    def _mark_started(self, job: PlannedJob, started: float, now: float) -> None:
        lane = job.lane
        if lane is None or job.started is not None:
            return
        if lane.started(job, started):
            self._unpark(lane)
        elif job.next is not None and job.next.phase == PARKED:
            self._unpark_next(job.next, lane, now)

    def _unpark_next(self, job: PlannedJob, lane: Lane, now: float) -> None:
        job.step = 0
        self._wait_for_lane(job, lane, now)
        assert job.statistics is not None, "only a job with a known item is parked"
        self._forecast.began(job.statistics, job.kind)
        if not job.in_flight:
            self._schedule.plan(job, now)

    def _unpark(self, lane: Lane) -> None:
        if lane.cursor is None and lane not in self.unparking:
            self.unparking.append(lane)
        lane.unpark()

    def _leave_lane(self, job: PlannedJob, now: float) -> None:
        lane = job.lane
        job.joins_lane = False
        if lane is None:
            return
        follower = lane.remove(job)
        if job.phase == PARKED:
            self._wait(job, HEAD, now)
        if follower is not None:
            self._unpark_next(follower, lane, now)
        self.lanes.close_if_empty(lane)


def _bounded_weight(weight: float, otherwise: float) -> float:
    return min(max(weight, MIN_WEIGHT), MAX_WEIGHT) if math.isfinite(weight) else otherwise
