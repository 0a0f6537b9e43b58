"""When a job is looked at: its next look at the price of now, and the queue in which that waits.

All times are seconds of the planner's time.
"""

from __future__ import annotations

import math

from relay.core.planner import backoff
from relay.core.planner.config import PlannerConfig
from relay.core.planner.jobs import ASKED, CHECK, EXPECTED, FIRST, FIXED, PARKED, RUNNING, UNSEEN, URGENT, WAITING, Job
from relay.core.planner.price import Price
from relay.core.planner.queues import LIKELY_QUEUES, PollQueues
from relay.core.planner.statistics import ClassStatistics, PlannerStatistics

CHECK_BEFORE = 1.5
"""A look in between is worth it where the next one is further away than so many times the time after which it is."""
MAX_PATIENCE = 5.0
"""A look of which nothing is expected comes after so many longest intervals at the latest."""
PATIENT = 1.05
SKIP_CHECK = 0.2
"""No check is made where a look is expected within this share of the longest interval after it."""
CHECK_TURN = 0.02
"""A check may be late by this share of the longest interval before it takes its turn among others."""
MANY_DEMANDS = 256
DEMANDS = tuple(2 ** (n / 8) for n in range(-MANY_DEMANDS, MANY_DEMANDS + 1))


class PollSchedule:
    """The planned looks, and what all of them together ask for."""

    __slots__ = ("_config", "at_risk", "demand", "price", "queues", "statistics")

    def __init__(self, config: PlannerConfig, statistics: PlannerStatistics, price: Price) -> None:
        self._config = config
        self.statistics = statistics
        self.price = price
        self.queues = PollQueues(CHECK_TURN * config.max_interval_seconds)
        self.demand = 0.0
        """The sum of the jobs' demands."""
        self.at_risk = 0
        """How many jobs were at risk when they were planned last."""

    def stale(self, job: Job) -> bool:
        """Whether its look was planned when requests were cheaper, or is only a check and they are scarce."""
        if job.queue == CHECK and job.rung < FIXED and self._patience(job) > PATIENT:
            return True
        return job.rung < self.price.rung(job.weight)

    def plan_again(self, job: Job, now: float) -> None:
        """Plans its look at the price of now: not sooner than it was, and not later than it may be at any price.

        Where that moment has passed it stays so, before the looks that were due later: whoever went to the end of the
        queue at each price could wait for ever.
        """
        due = self.next_poll(job, job.due)
        job.rung = self.price.rung(job.weight) if due > now else FIXED
        self._put(job, due, now)

    def expected_delay(self, job: Job) -> float | None:
        """Seconds from the job's end until it is known, on average as things stand; None where that can not be said: of
        one that waits, before anything was learned of such waits."""
        if job.phase not in (WAITING, RUNNING) or job.statistics is None:
            return None
        if job.phase == WAITING and not job.statistics.is_learned(job.kind):
            return None
        table = job.statistics.policy.table(job.kind, self.price.rung(job.weight))
        return table.at(table.delay, max(job.seen - job.anchor, 0.0) / self.statistics.unit) * self.statistics.unit

    def next_poll(self, job: Job, now: float) -> float:
        """When to look at it next, at the price of now: at most a longest interval after its last look.

        Once that is over, where nothing is expected of it, and a look is not worth a request, up to MAX_PATIENCE.
        """
        config = self._config
        chance = backoff.spread(config.seed, job.id, job.step)
        wait = backoff.safety_wait(config, chance=chance)
        if job.seen + wait <= now:
            wait *= self._patience(job)
        learned, unit = job.statistics, self.statistics.unit
        if learned is None:
            return max(job.seen + wait, now)
        if job.phase == PARKED:
            return max(job.seen + min(wait, self._worth_a_check(job, learned)), now)
        table = learned.policy.table(job.kind, self.price.rung(job.weight))
        due = job.anchor + table.next_poll(max(job.seen - job.anchor, 0.0) / unit) * unit
        due = max(due, job.seen + config.min_interval_seconds, now)
        if job.anchor > job.seen:
            check = self._worth_a_check(job, learned)
            if due - job.seen > check * CHECK_BEFORE:
                wait = min(wait, check)
            # A check that came late would only hold up the look that is expected soon after it.
            if due <= job.seen + wait + SKIP_CHECK * config.max_interval_seconds:
                return due
        return min(due, max(job.seen + wait, now))

    def _patience(self, job: Job) -> float:
        """How many longest intervals it may wait for a look of which nothing is expected: more than one where requests
        are scarce, and jobs like it are so seldom cancelled or moved that the look is not worth one."""
        if not self.price.above_floor:
            return 1.0
        worth = self._worth_a_check(job, job.statistics or self.statistics.root)
        return min(max(worth / self._config.max_interval_seconds, 1.0), MAX_PATIENCE)

    def _worth_a_check(self, job: Job, learned: ClassStatistics) -> float:
        """Seconds after which it is worth a request to see whether a job of which nothing is expected was cancelled."""
        unit = self.statistics.unit
        return max(math.sqrt(2 * self.price.value / job.weight / learned.change_rate), 1.0) * unit

    def plan(self, job: Job, now: float) -> None:
        """Plans its next look at the price of now."""
        due = self.next_poll(job, now)
        job.rung = self.price.rung(job.weight)
        self._put(job, due, now)

    def fix(self, job: Job, due: float, now: float, *, asked: bool = False) -> None:
        """Plans a poll for a time that no price decides, at most one longest interval ahead. `asked`: on request."""
        job.rung = ASKED if asked else FIXED
        self._put(job, min(max(due, 0.0), now + self._config.max_interval_seconds), now)

    def put_back(self, job: Job, due: float, now: float) -> None:
        """Plans the look again that was planned for `due` and was not made."""
        self._put(job, due, now)

    def _put(self, job: Job, due: float, now: float) -> None:
        """Puts the look where it belongs, and counts what it asks for."""
        queue = URGENT if job.weight > 1 else EXPECTED
        if job.rung != ASKED:
            if job.phase == UNSEEN:
                queue = FIRST
            elif job.phase == PARKED or (job.phase == WAITING and due < job.anchor):
                queue = CHECK
        interval = max(due - now, self._config.min_interval_seconds) / self.statistics.unit
        # Most checks are never made, for something happens before: those that are made are counted as they go out. What
        # is due already is counted as overdue.
        counts = queue in LIKELY_QUEUES and due > now
        self.ask_for(job, math.sqrt(self.price.value) / interval if counts else 0.0)
        self.expose(job, queue in LIKELY_QUEUES and job.anchor <= now)
        self.queues.put(job, due, queue)

    def expose(self, job: Job, at_risk: bool) -> None:
        """Counts it among the jobs at risk, or not."""
        self.at_risk += at_risk - job.at_risk
        job.at_risk = at_risk

    def ask_for(self, job: Job, demand: float) -> None:
        """Counts what its plan asks for."""
        if demand > 0:  # to a twelfth, so that a million jobs share a few numbers
            demand = DEMANDS[min(max(round(8 * math.log2(demand)) + MANY_DEMANDS, 0), 2 * MANY_DEMANDS)]
        self.demand = max(self.demand + demand - job.demand, 0.0)
        job.demand = demand
