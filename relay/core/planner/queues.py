"""The looks that are planned, in four queues by what they are for, and which of them goes first.

What is expected goes first, since something has probably happened: in the order of the moments planned, with a head
start for jobs that weigh more than usual. Every second turn belongs to first looks at jobs of which nothing is known
and to checks that have waited for long, in the order of their times: a thousand jobs registered at once hold up nobody,
and nobody waits for ever. Other checks take the turns that are left.
"""

from __future__ import annotations

from relay.core.planner.jobs import CHECK, EXPECTED, FIRST, URGENT, Job, JobHeap
from relay.core.planner.timeline import SLACK_SECONDS

LIKELY_QUEUES = (EXPECTED, URGENT)


class PollQueues:
    """All planned looks. `late_seconds`: what a check waits at most for its turn among others; `head_start_seconds`: so
    much earlier than an urgent look another has to come due to go before it."""

    __slots__ = ("_heaps", "_late_seconds", "head_start_seconds", "others_turn")

    def __init__(self, late_seconds: float, head_start_seconds: float = 0.0) -> None:
        self._heaps = (JobHeap(), JobHeap(), JobHeap(), JobHeap())
        self._late_seconds = late_seconds
        self.head_start_seconds = head_start_seconds
        self.others_turn = False
        """Whether the next turn is that of first looks and late checks."""

    def put(self, job: Job, due: float, queue: int) -> None:
        """Plans the job's look for `due`, wherever it stood before."""
        if queue != job.queue:
            self.take_off(job)
            job.queue = queue
        self._heaps[queue].put(job, due)

    def take_off(self, job: Job) -> None:
        """The job is in no queue any more."""
        self._heaps[job.queue].remove(job)

    def taken(self, job: Job) -> None:
        """The job's look goes out."""
        self.take_off(job)
        self.others_turn = job.queue in LIKELY_QUEUES

    def next_expected(self) -> Job | None:
        """The job whose expected look comes first, urgent or not."""
        return min(
            (job for queue in LIKELY_QUEUES if (job := self._heaps[queue].first()) is not None),
            key=_order,
            default=None,
        )

    def first(self, now: float) -> Job | None:
        """The job whose look goes next: of those that are due the one whose turn it is, else the one due first."""
        jobs = [job for heap in self._heaps if (job := heap.first()) is not None]
        if len(jobs) < 2:
            return jobs[0] if jobs else None
        due = {job.queue: job for job in jobs if job.due <= now + SLACK_SECONDS}
        if not due:
            return min(jobs, key=_order)
        expected = self._likely(due)
        if self.others_turn or expected is None:
            check = due.get(CHECK)
            late = check if check is not None and check.due + self._late_seconds <= now else None
            waiting = [job for job in (due.get(FIRST), late) if job is not None]
            if waiting:
                return min(waiting, key=_order)
        return due[CHECK] if expected is None else expected

    def _likely(self, due: dict[int, Job]) -> Job | None:
        """Of the first of each queue that is due, the one that goes before the others of what is expected."""
        usual, urgent = due.get(EXPECTED), due.get(URGENT)
        if usual is None or urgent is None:
            return usual or urgent
        return urgent if urgent.due - self.head_start_seconds <= usual.due else usual

    def due(self, now: float, at_most: int) -> int:
        """How many looks are due, counted up to `at_most` of each kind."""
        return sum(heap.due(now, at_most) for heap in self._heaps)

    def overdue(self, now: float, at_most: int) -> int:
        """How many expected looks are due, counted up to `at_most` of each kind."""
        return sum(self._heaps[queue].due(now, at_most) for queue in LIKELY_QUEUES)

    def overdue_checks(self, now: float, at_most: int) -> int:
        """How many checks have waited for long, counted up to `at_most`."""
        return self._heaps[CHECK].due(now - self._late_seconds, at_most)


def _order(job: Job) -> tuple[float, str]:
    return job.due, job.id
