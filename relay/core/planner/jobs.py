"""One tracked job, and the heap that keeps all of them in the order of their next looks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relay.core.planner.lanes import Lane
    from relay.core.planner.statistics import ClassStatistics

UNSEEN = 0
"""Nothing is known of the job: the next look is its first."""
WAITING = 1
"""Its anchor is known: nothing can happen before it."""
PARKED = 2
"""It waits for its predecessor in the lane to start."""
RUNNING = 3
"""It was seen running."""

EXPECTED, FIRST, CHECK, URGENT = range(4)
"""What a look is for: something has probably happened; nothing is known yet; it only makes sure that nothing has;
something has probably happened to a job that weighs more than usual."""

FIXED = 1_000
"""The rung of a plan that was not made at a price, and so is not made again when the price rises."""
ASKED = 1_001
"""The rung of a look that somebody asked for."""


class Job:
    """What is kept of a job. Times are seconds of the planner's time. There may be a million: every field counts."""

    __slots__ = (
        *(
            "anchor",
            "at_risk",
            "demand",
            "due",
            "failures",
            "id",
            "joins_lane",
            "kind",
            "lane",
            "statistics",
            "next",
            "phase",
        ),
        *("pos", "previous", "queue", "rung", "seen", "spacing", "started", "step", "weight"),
    )

    def __init__(self, job_id: str, spacing: float, seen: float) -> None:
        self.id = job_id
        self.seen = seen
        """Until when its state is known: the last look, or when it was registered."""
        self.due = 0.0
        """When it is to be looked at next; while a request for it is out, when that was sent."""
        self.pos = -1
        self.anchor = 0.0
        self.phase = UNSEEN
        self.kind = 0
        """What its anchor is, of the kinds in `classes`."""
        self.statistics: ClassStatistics | None = None
        """What was learned of its class."""
        self.queue = FIRST
        """What its next look is for."""
        self.rung = FIXED
        """The rung of the price at which its next look was planned."""
        self.demand = 0.0
        """Root of the price over the time to its next look, when that was planned: its share of what is asked for."""
        self.at_risk = False
        """Whether its anchor had passed when its next look was planned: something can happen to it at any moment."""
        self.step = 0
        self.failures = 0
        self.weight = 1.0
        self.spacing = spacing
        self.started: float | None = None
        self.joins_lane = False
        """Whether it is to join its channel's lane as soon as its channel is known."""
        self.lane: Lane | None = None
        self.previous: Job | None = None
        self.next: Job | None = None

    @property
    def in_flight(self) -> bool:
        """Whether a request for it is out: it is on no heap then."""
        return self.pos < 0

    def before(self, other: Job) -> bool:
        """Whether this job's look comes first; equal times are settled by the id: every run decides the same."""
        return self.due < other.due or (self.due == other.due and self.id < other.id)


class JobHeap:
    """A binary heap of jobs that knows each one's place: moving one is O(log n), and no stale entry is ever left."""

    __slots__ = ("_heap",)

    def __init__(self) -> None:
        self._heap: list[Job] = []

    def __len__(self) -> int:
        return len(self._heap)

    def first(self) -> Job | None:
        """The job whose look comes first."""
        return self._heap[0] if self._heap else None

    def put(self, job: Job, due: float) -> None:
        """Plans the job's look for `due`, wherever it stood before."""
        job.due = due
        if job.pos < 0:
            job.pos = len(self._heap)
            self._heap.append(job)
            self._up(job)
        else:
            self._down(job)
            self._up(job)

    def remove(self, job: Job) -> None:
        """Takes the job off; one that is not on it stays so."""
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
        """How many looks are due, counted up to `at_most`."""
        found = 0
        for _ in self._walk(now):
            found += 1
            if found == at_most:
                break
        return found

    def _walk(self, now: float) -> Iterator[Job]:
        places = [0]
        while places:
            pos = places.pop()
            if pos < len(self._heap) and self._heap[pos].due <= now:
                yield self._heap[pos]
                places += (2 * pos + 1, 2 * pos + 2)

    def _up(self, job: Job) -> None:
        heap, pos = self._heap, job.pos
        while pos > 0:
            above = heap[(pos - 1) >> 1]
            if not job.before(above):
                break
            heap[pos] = above
            above.pos, pos = pos, (pos - 1) >> 1
        heap[pos] = job
        job.pos = pos

    def _down(self, job: Job) -> None:
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
