"""A tracked job, and the heap that orders jobs by their next poll."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relay.core.planner.lanes import Lane
    from relay.core.planner.learning.statistics import ClassStatistics

UNSEEN = 0
"""Nothing is known of the job; the next poll is its first."""
WAITING = 1
"""It waits for its start, which cannot come before its anchor."""
PARKED = 2
"""It waits for the start of its predecessor in the lane."""
RUNNING = 3
"""It was seen running."""

EXPECTED, FIRST, CHECK, URGENT = range(4)
"""Queue of a poll: a change is expected; the job is unknown; a safety poll; a change is expected of a job with a weight
above 1."""

FIXED = 1_000
"""Rung of a poll that no price decided, so a rise of the price does not reschedule it."""
ASKED = 1_001
"""Rung of a poll made on request."""


class PlannedJob:
    """State of a tracked job. Times are planner time, in seconds. There may be a million jobs: keep it small."""

    __slots__ = (
        *("anchor", "at_risk", "demand", "due", "failures", "id", "joins_lane", "kind", "lane", "next", "phase", "pos"),
        *("previous", "queue", "rung", "seen", "spacing", "started", "statistics", "step", "weight"),
    )

    def __init__(self, job_id: str, spacing: float, seen: float) -> None:
        self.id = job_id
        self.seen = seen
        """When its state was last known: the last poll, or the registration."""
        self.due = 0.0
        """Time of its next poll; while a request is in flight, when that was sent."""
        self.pos = -1
        self.anchor = 0.0
        self.phase = UNSEEN
        self.kind = 0
        """Kind of its anchor: one of `inspection.KINDS`."""
        self.statistics: ClassStatistics | None = None
        """Statistics of its class; None before the first poll."""
        self.queue = FIRST
        """Queue of its next poll."""
        self.rung = FIXED
        """Price rung at which its next poll was planned."""
        self.demand = 0.0
        """sqrt(price) / time to the next poll, at planning: its share of the total demand."""
        self.at_risk = False
        """True if its anchor had passed when its next poll was planned: an event can happen at any time."""
        self.step = 0
        self.failures = 0
        self.weight = 1.0
        self.spacing = spacing
        self.started: float | None = None
        self.joins_lane = False
        """True if it joins the lane of its channel once the channel is known."""
        self.lane: Lane | None = None
        self.previous: PlannedJob | None = None
        self.next: PlannedJob | None = None

    @property
    def in_flight(self) -> bool:
        """True if a request for it is in flight; it is in no heap then."""
        return self.pos < 0

    def before(self, other: PlannedJob) -> bool:
        """True if this job is polled first. Ties are broken by id, so that every run decides the same."""
        return self.due < other.due or (self.due == other.due and self.id < other.id)


class JobHeap:
    """Binary heap of jobs by due time. Jobs know their position: a move is O(log n), and no stale entries remain."""

    __slots__ = ("_heap",)

    def __init__(self) -> None:
        self._heap: list[PlannedJob] = []

    def __len__(self) -> int:
        return len(self._heap)

    def first(self) -> PlannedJob | None:
        """The job polled first."""
        return self._heap[0] if self._heap else None

    def put(self, job: PlannedJob, due: float) -> None:
        """Inserts the job at `due`, or moves it there."""
        job.due = due
        if job.pos < 0:
            job.pos = len(self._heap)
            self._heap.append(job)
            self._up(job)
        else:
            self._down(job)
            self._up(job)

    def remove(self, job: PlannedJob) -> None:
        """Removes the job if it is in the heap."""
        pos = job.pos
        if pos < 0:
            return
        job.pos = -1
        last = self._heap.pop()
        if last is not job:
            last.pos = pos
            self._heap[pos] = last
            self._down(last)
            self._up(last)

    def due(self, now: float, at_most: int) -> int:
        """Number of due polls, counted up to `at_most`."""
        found = 0
        for _ in self._walk(now):
            found += 1
            if found == at_most:
                break
        return found

    def _walk(self, now: float) -> Iterator[PlannedJob]:
        places = [0]
        while places:
            pos = places.pop()
            if pos < len(self._heap) and self._heap[pos].due <= now:
                yield self._heap[pos]
                places += (2 * pos + 1, 2 * pos + 2)

    def _up(self, job: PlannedJob) -> None:
        heap, pos = self._heap, job.pos
        while pos > 0:
            above = heap[(pos - 1) >> 1]
            if not job.before(above):
                break
            heap[pos] = above
            above.pos, pos = pos, (pos - 1) >> 1
        heap[pos] = job
        job.pos = pos

    def _down(self, job: PlannedJob) -> None:
        heap, pos, size = self._heap, job.pos, len(self._heap)
        while (child := 2 * pos + 1) < size:
            below = heap[child]
            if child + 1 < size and heap[child + 1].before(below):
                child += 1
                below = heap[child]
            if not below.before(job):
                break
            heap[pos] = below
            below.pos, pos = pos, child
        heap[pos] = job
        job.pos = pos
