"""Planned polls in four queues, and the order in which they are sent.

Expected polls go first, by planned time; jobs with a weight above 1 get a head start. Every second turn belongs to
first polls and overdue safety polls, by time: a thousand jobs registered at once delay neither the others nor
themselves without bound. Other safety polls take the remaining turns.
"""

from __future__ import annotations

from relay.core.planner.planned_job import CHECK, EXPECTED, FIRST, URGENT, JobHeap, PlannedJob
from relay.core.planner.timeline import SLACK_SECONDS

LIKELY_QUEUES = (EXPECTED, URGENT)


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

    def taken(self, job: PlannedJob) -> None:
        """Removes the job because its poll is being sent."""
        self.take_off(job)
        self.others_turn = job.queue in LIKELY_QUEUES

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
        expected = self._likely(due)
        if self.others_turn or expected is None:
            check = due.get(CHECK)
            late = check if check is not None and check.due + self.late_seconds <= now else None
            waiting = [job for job in (due.get(FIRST), late) if job is not None]
            if waiting:
                return min(waiting, key=_order)
        return due[CHECK] if expected is None else expected

    def _likely(self, due: dict[int, PlannedJob]) -> PlannedJob | None:
        """The first expected poll among the heads of the queues that are due."""
        usual, urgent = due.get(EXPECTED), due.get(URGENT)
        if usual is None or urgent is None:
            return usual or urgent
        return urgent if urgent.due - self.head_start_seconds <= usual.due else usual

    def due(self, now: float, at_most: int) -> int:
        """Number of due polls, counted up to `at_most` per queue."""
        return sum(heap.due(now, at_most) for heap in self._heaps)

    def overdue(self, now: float, at_most: int) -> int:
        """Number of due expected polls, counted up to `at_most` per queue."""
        return sum(self._heaps[queue].due(now, at_most) for queue in LIKELY_QUEUES)

    def overdue_checks(self, now: float, at_most: int) -> int:
        """Number of overdue safety polls, counted up to `at_most`."""
        return self._heaps[CHECK].due(now - self.late_seconds, at_most)


def _order(job: PlannedJob) -> tuple[float, str]:
    return job.due, job.id
