"""The poll schedule: when each job is polled next at the current price, and what all plans together demand.

Times are planner time, in seconds.
"""

from __future__ import annotations

import math
import zlib

from relay.core.planner.config import PlannerConfig
from relay.core.planner.hints import Hint
from relay.core.planner.inspection import RUN
from relay.core.planner.outlook import Outlook, outlook
from relay.core.planner.poll_queues import (
    ASKED,
    CHECK,
    EXPECTED,
    FIRST,
    FIXED,
    LIKELY_QUEUES,
    PARKED,
    RUNNING,
    UNSEEN,
    URGENT,
    WAITING,
    PlannedJob,
    PollQueues,
)
from relay.core.planner.price import Price, price_of
from relay.core.planner.statistics import ClassStatistics, PlannerStatistics


def spread(seed: int, job_id: str, step: int) -> float:
    """A pseudo-random number in [0, 1) for this job and step, the same on every machine and in every run."""
    return zlib.crc32(f"{seed}:{job_id}:{step}".encode("utf-8", "surrogatepass")) / 2**32


SAFETY_SPREAD = 0.3
CHECK_BEFORE = 1.5
"""A safety poll before the next poll is worthwhile if that is further away than this many safety intervals."""
MAX_PATIENCE = 5.0
"""Maximum time between safety polls, in longest intervals."""
PATIENT = 1.05
SKIP_CHECK = 0.2
"""No safety poll is made within this share of the longest interval before an expected poll."""
CHECK_TURN = 0.02
"""A safety poll overdue by this share of the longest interval gets a turn among expected polls."""
MOST_SKIPPED = 8
"""Maximum number of planned polls that progress skips."""
MANY_DEMANDS = 256
DEMANDS = tuple(2 ** (n / 8) for n in range(-MANY_DEMANDS, MANY_DEMANDS + 1))


class PollSchedule:
    """The planned polls of an account, and their total demand."""

    __slots__ = ("_config", "_price", "_statistics", "asked_until", "at_risk", "demand", "hints", "queues", "shortest")

    def __init__(self, config: PlannerConfig, statistics: PlannerStatistics, price: Price) -> None:
        self._config = config
        self._statistics = statistics
        self._price = price
        self.queues = PollQueues(CHECK_TURN * config.max_interval_seconds)
        self.demand = 0.0
        """Sum of the jobs' demands."""
        self.at_risk = 0
        """Number of jobs that were at risk when last planned."""
        self.asked_until: dict[str, float] = {}
        """Until when the upstream asked not to be polled for a job: a hint, which a safety poll may precede."""
        self.hints: dict[str, Hint] = {}
        """Progress of jobs whose upstream reports it."""
        self.shortest: dict[str, float] = {}
        """Shortest interval, in seconds, of jobs that have one of their own."""

    def configure(self, config: PlannerConfig) -> None:
        """Applies other settings to what is planned from now on."""
        self._config = config
        self.queues.late_seconds = CHECK_TURN * config.max_interval_seconds

    def plan(self, job: PlannedJob, now: float) -> None:
        """Plans the next poll at the current price."""
        due = self.next_poll_at(job, now)
        job.rung = self._price.rung(job.weight)
        self.put(job, due, now)

    def plan_at(self, job: PlannedJob, due: float, now: float, *, asked: bool = False) -> None:
        """Plans a poll for a time that no price decides, at most one longest interval ahead. `asked`: on request."""
        job.rung = ASKED if asked else FIXED
        self.put(job, min(max(due, 0.0), now + self._config.max_interval_seconds), now)

    def replan(self, job: PlannedJob, now: float) -> None:
        """Plans a stale poll again at the current price: never earlier, and never beyond the limit of any price.

        An overdue poll keeps its time, and so its place before polls due later: with a new time at each price it could
        be postponed forever.
        """
        due = self.next_poll_at(job, job.due)
        job.rung = self._price.rung(job.weight) if due > now else FIXED
        self.put(job, due, now)

    def is_stale(self, job: PlannedJob) -> bool:
        """True if the poll was planned at a lower price, or is a safety poll while requests are scarce."""
        if job.queue == CHECK and job.rung < FIXED and self._patience(job) > PATIENT:
            return True
        return job.rung < self._price.rung(job.weight)

    def put(self, job: PlannedJob, due: float, now: float) -> None:
        """Puts a poll in its queue, and counts its demand."""
        queue = URGENT if job.weight > 1 else EXPECTED
        if job.rung != ASKED:
            if job.phase == UNSEEN:
                queue = FIRST
            elif job.phase == PARKED or (job.phase == WAITING and due < job.anchor) or due < self.not_before(job):
                queue = CHECK
        interval = max(due - now, self._config.min_interval_seconds) / self._statistics.unit
        # Most safety polls are replaced before they are sent, so they count when sent. Due polls count as overdue.
        counts = queue in LIKELY_QUEUES and due > now
        demand = math.sqrt(self._price.value) / interval if counts else 0.0
        self._count(job, demand, at_risk=queue in LIKELY_QUEUES and job.anchor <= now)
        self.queues.put(job, due, queue)

    def remove(self, job: PlannedJob) -> None:
        """Plans no more polls of a job."""
        self.queues.take_off(job)
        self.asked_until.pop(job.id, None)
        self.hints.pop(job.id, None)
        self.shortest.pop(job.id, None)
        self._count(job, 0.0, at_risk=False)

    def not_before(self, job: PlannedJob) -> float:
        """Until when the upstream asked not to be polled for the job; 0 if it did not."""
        return self.asked_until.get(job.id, 0.0) if self.asked_until else 0.0

    def shortest_interval(self, job: PlannedJob) -> float:
        """Shortest time in seconds between two polls of the job."""
        own = self.shortest.get(job.id, 0.0) if self.shortest else 0.0
        return max(min(own, self._config.max_interval_seconds), self._config.min_interval_seconds)

    def next_poll_at(self, job: PlannedJob, now: float) -> float:
        """Time of the next poll at the current price, at most one longest interval after the last poll.

        If that has passed, and a safety poll is not worth a request, up to MAX_PATIENCE longest intervals.
        """
        config, shortest = self._config, self.shortest_interval(job)
        # Until the next safety poll, which finds out whether a waiting job was rescheduled or cancelled.
        chance = spread(config.seed, job.id, job.step)
        wait = max(config.max_interval_seconds * (1 - SAFETY_SPREAD * chance), shortest)
        if job.seen + wait <= now:
            wait *= self._patience(job)
        statistics, unit = job.statistics, self._statistics.unit
        if statistics is None:
            return max(job.seen + wait, now)
        if job.phase == PARKED:
            return max(job.seen + max(min(wait, self._safety_interval(job, statistics)), shortest), now)
        table = statistics.policy.table(job.kind, self._price.rung(job.weight))
        due = job.anchor + table.next_poll(max(job.seen - job.anchor, 0.0) / unit) * unit
        if self.hints and (hint := self.hints.get(job.id)) is not None:
            due = self._hinted(job, statistics, hint, due, shortest)
        earliest, asked_until = max(job.seen + shortest, now), self.not_before(job)
        due = max(due, earliest, asked_until)
        if job.anchor > job.seen or asked_until > job.seen:
            check = self._safety_interval(job, statistics)
            if due - job.seen > check * CHECK_BEFORE:
                wait = min(wait, check)
            # A late safety poll would only delay the expected poll soon after it.
            if due <= job.seen + wait + SKIP_CHECK * config.max_interval_seconds:
                return due
        return min(due, max(job.seen + wait, earliest))

    def next_interval(self, job: PlannedJob, now: float) -> float:
        """Seconds from a poll now, without news, to the next one for the job's end; infinite if it does not run."""
        if job.phase != RUNNING or job.statistics is None or job.failures:
            return math.inf
        table, unit = job.statistics.policy.table(job.kind, self._price.rung(job.weight)), self._statistics.unit
        age = max(now - job.anchor, 0.0) / unit
        return (table.next_poll(age) - age) * unit

    def expected_delay(self, job: PlannedJob) -> float | None:
        """Mean seconds from the job's end to its detection at the current price; None if unknown.

        Unknown for a waiting job until such waits have been learned.
        """
        if job.phase not in (WAITING, RUNNING) or job.statistics is None:
            return None
        if job.phase == WAITING and not job.statistics.is_learned(job.kind):
            return None
        unit = self._statistics.unit
        table = job.statistics.policy.table(job.kind, self._price.rung(job.weight))
        return table.at(table.delay, max(job.seen - job.anchor, 0.0) / unit) * unit

    def outlook(self, job: PlannedJob, offset: float) -> Outlook | None:
        """The moments that the job's next poll was weighed against; None if the price does not decide it. `offset`:
        planner time minus epoch seconds."""
        if job.phase not in (WAITING, RUNNING) or job.statistics is None or job.failures:
            return None
        policy, unit, rung = job.statistics.policy, self._statistics.unit, self._price.rung(job.weight)
        return outlook(
            seen=job.seen - offset,
            anchor=job.anchor - offset,
            due=job.due - offset,
            unit=unit,
            price_seconds=self._price.value / job.weight * unit,
            run_rates=policy.run_rates(price_of(rung)),
            start_rates=policy.rates(job.kind) if job.phase == WAITING else None,
        )

    def _hinted(self, job: PlannedJob, statistics: ClassStatistics, hint: Hint, due: float, shortest: float) -> float:
        """Time of the next poll of a job with progress; `due` without it. An estimated start is followed by a run."""
        policy, rung, unit = statistics.policy, self._price.rung(job.weight), self._statistics.unit
        table, age = policy.table(job.kind, rung), (due - job.anchor) / unit
        for _ in range(MOST_SKIPPED):
            age = table.next_poll(age)
        run = 0.0 if hint.running else policy.table(RUN, rung).next_poll(0.0) * unit
        price = max(self._price.value / job.weight * unit, shortest)
        return hint.next_poll(due - run, job.anchor + age * unit - run, job.seen, price) + run

    def _patience(self, job: PlannedJob) -> float:
        """Longest intervals between safety polls: more than 1 if requests are scarce and changes of such jobs rare."""
        if not self._price.above_floor:
            return 1.0
        worth = self._safety_interval(job, job.statistics or self._statistics.root)
        return min(max(worth / self._config.max_interval_seconds, 1.0), MAX_PATIENCE)

    def _safety_interval(self, job: PlannedJob, statistics: ClassStatistics) -> float:
        """Seconds after which a safety poll is worth a request."""
        unit = self._statistics.unit
        return max(math.sqrt(2 * self._price.value / job.weight / statistics.change_rate), 1.0) * unit

    def _count(self, job: PlannedJob, demand: float, *, at_risk: bool) -> None:
        """Counts a job's demand, and whether an event can happen to it at any time."""
        self.at_risk += at_risk - job.at_risk
        job.at_risk = at_risk
        if demand > 0:  # rounded to a twelfth, so that a million jobs share few float objects
            demand = DEMANDS[min(max(round(8 * math.log2(demand)) + MANY_DEMANDS, 0), 2 * MANY_DEMANDS)]
        self.demand = max(self.demand + demand - job.demand, 0.0)
        job.demand = demand
