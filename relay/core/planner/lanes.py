"""Lanes: jobs that the upstream starts one after another, at a minimum spacing.

A job without a scheduled time cannot start before its predecessor. It is parked until that start is seen; its anchor
is then the start plus the spacing. A job whose scheduled time has passed is parked too: its lane is delayed. If jobs
start in another order, the whole lane is unparked.
"""

from __future__ import annotations

from collections.abc import Iterator

from relay.core.planner.learning.inspection import SCHEDULED
from relay.core.planner.planned_job import PARKED, WAITING, PlannedJob

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


def _comes_after(job: PlannedJob, scheduled_at: float) -> bool:
    return job.phase == WAITING and job.kind == SCHEDULED and job.anchor > scheduled_at


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

    def __iter__(self) -> Iterator[PlannedJob]:
        job = self.head
        while job is not None:
            yield job
            job = job.next

    def append(self, job: PlannedJob, scheduled_at: float | None = None) -> None:
        """Adds a job at the end, or before the last jobs if these are scheduled for later."""
        before, passed = self.tail, 0
        if scheduled_at is not None:
            while before is not None and passed < MAX_PASSED and _comes_after(before, scheduled_at):
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

    def must_park(self, job: PlannedJob) -> bool:
        """True if a job without a scheduled time waits for a predecessor that has not started."""
        return self.disorder == 0 and job.previous is not None and job.previous.started is None

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
        self._learn(at)
        job.started = at
        if in_order and self.disorder and self.cursor is None:
            self.disorder -= 1
        return not in_order

    def _learn(self, at: float) -> None:
        last = self.last_start
        if last is None:
            self.last_start = at
        elif at > last:
            self.last_start = at
            self._gaps = [*self._gaps[1 - GAPS_REMEMBERED :], at - last]

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
