"""The looks that are planned, in three queues by what they are for, and which of them goes first.

What is expected goes first, since something has probably happened. Every second turn belongs to first looks at jobs of
which nothing is known and to checks that have waited for long, in the order of their times: a thousand jobs registered
at once hold up nobody, and nobody waits for ever. Other checks take the turns that are left.
"""

from __future__ import annotations

from relay.core.planner.jobs import CHECK, EXPECTED, FIRST, Agenda, Job
from relay.core.planner.timeline import SLACK_SECONDS


class Queues:
    """All planned looks. `late_seconds`: what a check waits at most for its turn among others."""

    __slots__ = ("_agendas", "_late_seconds", "others_turn")

    def __init__(self, late_seconds: float) -> None:
        self._agendas = (Agenda(), Agenda(), Agenda())
        self._late_seconds = late_seconds
        self.others_turn = False
        """Whether the next turn is that of first looks and late checks."""

    def put(self, job: Job, due: float, queue: int) -> None:
        """Plans the job's look for `due`, wherever it stood before."""
        if queue != job.queue:
            self.take_off(job)
            job.queue = queue
        self._agendas[queue].put(job, due)

    def take_off(self, job: Job) -> None:
        """The job is in no queue any more."""
        self._agendas[job.queue].remove(job)

    def taken(self, job: Job) -> None:
        """The job's look goes out."""
        self.take_off(job)
        self.others_turn = job.queue == EXPECTED

    def next_expected(self) -> Job | None:
        """The job whose expected look comes first."""
        return self._agendas[EXPECTED].first()

    def first(self, now: float) -> Job | None:
        """The job whose look goes next: of those that are due the one whose turn it is, else the one due first."""
        jobs = [job for agenda in self._agendas if (job := agenda.first()) is not None]
        if len(jobs) < 2:
            return jobs[0] if jobs else None
        due = {job.queue: job for job in jobs if job.due <= now + SLACK_SECONDS}
        if not due:
            return min(jobs, key=_order)
        if self.others_turn or EXPECTED not in due:
            check = due.get(CHECK)
            late = check if check is not None and check.due + self._late_seconds <= now else None
            waiting = [job for job in (due.get(FIRST), late) if job is not None]
            if waiting:
                return min(waiting, key=_order)
        return due[EXPECTED] if EXPECTED in due else due[CHECK]

    def due(self, now: float, at_most: int) -> int:
        """How many looks are due, counted up to `at_most` of each kind."""
        return sum(agenda.due(now, at_most) for agenda in self._agendas)

    def overdue(self, now: float, at_most: int) -> int:
        """How many expected looks are due, and checks that have waited for long; each counted up to `at_most`."""
        late = self._agendas[CHECK].due(now - self._late_seconds, at_most)
        return self._agendas[EXPECTED].due(now, at_most) + late


def _order(job: Job) -> tuple[float, str]:
    return job.due, job.id
