"""Planned polls in four queues, and the order in which they are sent.

Expected polls go first, by planned time; jobs with a weight above 1 get a head start. Every second turn belongs to
first polls and overdue safety polls, by time: a thousand jobs registered at once delay neither the others nor
themselves without bound. Other safety polls take the remaining turns.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import TYPE_CHECKING

from relay.core.planner.config import SLACK_SECONDS

if TYPE_CHECKING:
    from relay.core.planner.open_jobs import Lane
    from relay.core.planner.statistics import ClassStatistics

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
        """The time at which its state was last known: the last poll, or the registration."""
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
        found, places = 0, [0]
        while places and found < at_most:
            pos = places.pop()
            if pos < len(self._heap) and self._heap[pos].due <= now:
                found += 1
                places += (2 * pos + 1, 2 * pos + 2)
        return found

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


LIKELY_QUEUES = (EXPECTED, URGENT)
_order = attrgetter("due", "id")


class PollQueues:
    """All planned polls.

    late_seconds        a safety poll overdue by this gets a turn among expected polls
    head_start_seconds  head start of an urgent poll over an expected one
    """

    __slots__ = ("_heaps", "head_start_seconds", "late_seconds", "others_turn")

    def __init__(self, late_seconds: float, head_start_seconds: float = 0.0) -> None:
        self._heaps = (JobHeap(), JobHeap(), JobHeap(), JobHeap())
        self.late_seconds = late_seconds
        self.head_start_seconds = head_start_seconds
        self.others_turn = False
        """True if the next turn belongs to first and overdue safety polls."""

    def put(self, job: PlannedJob, due: float, queue: int) -> None:
        """Plans the job's next poll, and replaces an earlier plan."""
        if queue != job.queue:
            self.take_off(job)
            job.queue = queue
        self._heaps[queue].put(job, due)

    def take_off(self, job: PlannedJob) -> None:
        """Removes the job from its queue."""
        self._heaps[job.queue].remove(job)

    def next_expected(self) -> PlannedJob | None:
        """The job whose expected poll is due first, urgent or not."""
        return min(
            (job for queue in LIKELY_QUEUES if (job := self._heaps[queue].first()) is not None),
            key=_order,
            default=None,
        )

    def first(self, now: float) -> PlannedJob | None:
        """The job polled next: among due jobs by turn, else the job due first."""
        jobs = [job for heap in self._heaps if (job := heap.first()) is not None]
        if len(jobs) < 2:
            return jobs[0] if jobs else None
        due = {job.queue: job for job in jobs if job.due <= now + SLACK_SECONDS}
        if not due:
            return min(jobs, key=_order)
        expected, urgent = due.get(EXPECTED), due.get(URGENT)
        if expected is None or (urgent is not None and urgent.due - self.head_start_seconds <= expected.due):
            expected = urgent or expected
        if self.others_turn or expected is None:
            check = due.get(CHECK)
            late = check if check is not None and check.due + self.late_seconds <= now else None
            waiting = [job for job in (due.get(FIRST), late) if job is not None]
            if waiting:
                return min(waiting, key=_order)
        return due[CHECK] if expected is None else expected

    def due(self, now: float, at_most: int, queues: Iterable[int] = range(4)) -> int:
        """Number of due polls in some queues, counted up to `at_most` per queue."""
        return sum(self._heaps[queue].due(now, at_most) for queue in queues)
