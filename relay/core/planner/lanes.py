"""Lanes: jobs that the upstream runs one after another, a least interval apart.

A job without a time of its own can not start before its predecessor did, so it is parked until that start is seen; then
it has an anchor, the start plus the interval. So is a job whose time has passed, which is late because its lane is. A
lane that turns out to run in another order is unparked as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator

from relay.core.planner.jobs import PARKED, WAITING, Job
from relay.core.planner.policy import SCHEDULED

MAX_IDLE_LANES = 1_000
"""Empty lanes whose last start and spacing are remembered; the longest empty one goes first."""
IN_ORDER_STARTS = 5
"""So many starts in order make up for one out of order: until then a lane parks no new job."""
MAX_PASSED = 64
"""So many jobs of a lane one that joins_lane late may pass."""
GAPS_REMEMBERED = 5
GAPS_NEEDED = 3
RHYTHM_SPREAD = 0.08
RHYTHM_UNITS = 4.0
"""Gaps between starts that differ by no more than this many units, or this share, are a rhythm."""
RHYTHM_EARLY_UNITS = 2.0


def _comes_after(job: Job, scheduled_at: float) -> bool:
    return job.phase == WAITING and job.kind == SCHEDULED and job.anchor > scheduled_at


class Lane:
    """The open jobs of one lane in the order in which they were tracked, and what its starts have taught."""

    __slots__ = ("_gaps", "cursor", "disorder", "head", "last_start", "name", "tail")

    def __init__(self, name: str) -> None:
        self.name = name
        self.head: Job | None = None
        self.tail: Job | None = None
        self.cursor: Job | None = None
        """The next job to be unparked, while the lane is."""
        self.disorder = 0
        self.last_start: float | None = None
        self._gaps: list[float] = []

    def __iter__(self) -> Iterator[Job]:
        job = self.head
        while job is not None:
            yield job
            job = job.next

    def append(self, job: Job, scheduled_at: float | None = None) -> None:
        """The job joins_lane at the end, or before those there that are scheduled for later."""
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

    def remove(self, job: Job) -> Job | None:
        """The job leaves; returns the parked successor that has nothing to wait for now, if there is one."""
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
        """The shortest of the lane's last gaps between starts, where these are alike; else None."""
        gaps = self._gaps
        if len(gaps) < GAPS_NEEDED:
            return None
        shortest = min(gaps)
        return shortest if max(gaps) - shortest <= max(RHYTHM_UNITS * unit, RHYTHM_SPREAD * shortest) else None

    def must_park(self, job: Job) -> bool:
        """Whether the job, of which no time is known, waits for a predecessor that has not started."""
        return self.disorder == 0 and job.previous is not None and job.previous.started is None

    def anchor(self, job: Job, unit: float) -> tuple[float | None, bool]:
        """The earliest start of a job that need not park, after its predecessor's or the lane's last; None: unknown.

        And whether the lane's rhythm tells it, or only the job's own least interval.
        """
        before = self.last_start if job.previous is None else job.previous.started
        if before is None:
            return None, False
        rhythm = self.rhythm(unit)
        if rhythm is not None and rhythm - RHYTHM_EARLY_UNITS * unit > job.spacing:
            return before + rhythm - RHYTHM_EARLY_UNITS * unit, True
        return before + job.spacing, False

    def started(self, job: Job, at: float) -> bool:
        """A job of this lane was seen to have started, for the first time; returns whether that broke the order."""
        before = job.previous
        if before is None or PARKED not in (job.phase, before.phase):
            in_order = True
        else:  # the one before it may have started, and wait for its retry: then this job passed it
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
        """From now on the lane's order is not believed: its jobs are unparked from the head on, a few at a time."""
        self.disorder = IN_ORDER_STARTS
        if self.cursor is None:  # one that goes through the lane already finds all: meanwhile nobody parks
            self.cursor = self.head

    def dump(self) -> tuple[float | None, int, list[float]]:
        """What `relearn` needs, as plain values."""
        return (self.last_start, self.disorder, self._gaps)

    def load(self, last_start: float | None, disorder: int, gaps: list[float]) -> None:
        """Takes back what `learned` gave."""
        self.last_start, self.disorder, self._gaps = last_start, disorder, list(gaps)


class Lanes:
    """All lanes of an account, by name; the empty ones are remembered within a limit."""

    __slots__ = ("_idle", "_lanes")

    def __init__(self) -> None:
        self._lanes: dict[str, Lane] = {}
        self._idle: dict[str, Lane] = {}

    def __iter__(self) -> Iterator[Lane]:
        yield from self._idle.values()
        yield from self._lanes.values()

    def open(self, name: str) -> Lane:
        """The lane of this name, made or woken where there is none with jobs."""
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = self._idle.pop(name) if name in self._idle else Lane(name)
        return lane

    def close_if_empty(self, lane: Lane) -> None:
        """Sets an empty lane aside. With its last job any disorder has ended."""
        if lane.head is None:
            lane.disorder = 0
            lane.cursor = None
            del self._lanes[lane.name]
            self._idle[lane.name] = lane
            if len(self._idle) > MAX_IDLE_LANES:
                del self._idle[next(iter(self._idle))]
