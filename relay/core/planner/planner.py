"""The planner: decides which job to poll next, and when, within the request budget of one upstream account.

Its parts: `open_jobs` (what each job waits for), `schedule` (when it is polled), `pacer` (when a request may be sent),
`statistics` (what polls have taught). Pure: the caller passes the time and sends the requests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from relay.core.planner import snapshot
from relay.core.planner.config import SLACK_SECONDS, PlannerConfig, Timeline
from relay.core.planner.forecast import Forecast
from relay.core.planner.open_jobs import OpenJobs
from relay.core.planner.outlook import DUE_JOBS_COUNTED, PollExplanation, Purpose, Reason, Stats
from relay.core.planner.pacer import Pacer
from relay.core.planner.poll_queues import ASKED, CHECK, LIKELY_QUEUES, PARKED, RUNNING, UNSEEN, WAITING, PlannedJob
from relay.core.planner.poll_schedule import PollSchedule
from relay.core.planner.polls import read_item, read_time
from relay.core.planner.price import Price
from relay.core.planner.statistics import PlannerStatistics

DEFAULT_SPACING_SECONDS = 60.0
NOT_FOUND = 404
TOO_MANY_REQUESTS = 429
SERVER_ERRORS = 500
PLANNED_AGAIN_AT_ONCE = 32
"""Maximum number of stale polls that one `take` plans again."""


class Planner:
    """Plans the polls of all open jobs of one account.

    Items are mappings in the relay's field names: `status`, `channel`, `scheduled_at`, `started_at`, `next_attempt_at`,
    and `left`: percent of a run that are left, or the place of a waiting job in its queue. Their times are RFC 3339
    text or epoch seconds; invalid values count as unknown. Every `now` is epoch seconds of the same clock, which may be
    set back. No method raises for anything an upstream sends.

    Use: call `next_request_at`. At that time call `take` until it returns None, poll each job taken, and pass the
    result to `observed` or `failed`. Until then the job is not offered again.
    """

    def __init__(
        self, config: PlannerConfig, statistics: PlannerStatistics | None = None, price: Price | None = None
    ) -> None:
        """`statistics`: shared by the planners of a source's accounts; None: its own. `price`: for benchmarks only."""
        self._config = config
        # Public for `snapshot`; callers use the methods.
        self.statistics = PlannerStatistics(config.unit_seconds) if statistics is None else statistics
        self.price = Price(config.unit_seconds) if price is None else price
        self.timeline = Timeline()
        self.forecast = Forecast(self.statistics, self.price)
        self.schedule = PollSchedule(config, self.statistics, self.price)
        self.open_jobs = OpenJobs(config, self.schedule, self.statistics, self.forecast)
        self.pacer = Pacer(config, self.schedule, self.price, self.forecast)
        self._purposes: dict[str, Purpose] = {}
        """Purpose of each poll in flight."""

    # --- jobs

    def track(
        self,
        job_id: str,
        item: Mapping[str, Any] | None,
        now: float,
        weight: float = 1.0,
        lane: str | None = None,
        min_interval_seconds: float | None = None,
        *,
        next_poll_at: float | None = None,
        step: int = 0,
        seen_at: float | None = None,
        shortest_seconds: float | None = None,
    ) -> None:
        """Begins to plan polls of a job. Jobs of a lane must be tracked in the order of their creation.

        item                  its last known state; None if unknown
        lane                  name of its lane; None: the lane of its channel; "": no lane
        min_interval_seconds  minimum time between its predecessor's start and its own; None: a minute (less if
                              `min_interval_seconds` of the config is below 1, for accelerated simulations)
        next_poll_at, step, seen_at  continue a stored plan; `seen_at` is when `item` was seen
        shortest_seconds      shortest time between two polls of it, if that is more than the config's

        For a tracked job only `weight` and, if given, `next_poll_at` are used: this requests an immediate poll.
        """
        t = self.timeline.at(now) if self.pacer.bucket.rate else self._refresh(now)
        if min_interval_seconds is None:
            min_interval_seconds = DEFAULT_SPACING_SECONDS * min(1.0, self._config.min_interval_seconds)
        planned = read_time(next_poll_at)
        if planned is not None:
            planned = self.timeline.inner(planned)
        seen = read_time(seen_at)
        job = self.open_jobs.jobs.get(job_id)
        if job is None:
            self.open_jobs.add(
                job_id,
                read_item(item).shifted(self.timeline.offset),
                t,
                weight=weight,
                lane=lane,
                spacing_seconds=min_interval_seconds,
                planned=planned,
                step=step,
                seen=t if seen is None else min(self.timeline.inner(seen), t),
                shortest_seconds=shortest_seconds,
            )
        else:
            self.open_jobs.set_weight(job, weight, t)
            if planned is not None and not job.in_flight:
                self.schedule.plan_at(job, planned, t, asked=True)
        self.open_jobs.unpark_some(t)

    def set_weight(self, job_id: str, weight: float, now: float) -> None:
        """Sets the weight of a second of this job's delay, 1 by default. A higher weight expedites its next poll.

        No weight starves a job: at any price its next poll is due at most MAX_PATIENCE longest intervals after the last
        one. It then waits for at most one poll of each other open job, and HEAD_START_REQUESTS for heavier ones.
        """
        job = self.open_jobs.jobs.get(job_id)
        if job is not None:
            self.open_jobs.set_weight(job, weight, self.timeline.at(now))

    def forget(self, job_id: str) -> None:
        """Plans no more polls of a job."""
        job = self.open_jobs.jobs.get(job_id)
        if job is not None:
            if job.in_flight:
                self.pacer.budget.in_flight -= 1
                self._purposes.pop(job_id, None)
            self.open_jobs.remove(job, self.timeline.last or 0.0)

    # --- polls

    def next_request_at(self, now: float) -> float | None:
        """The time of the next request, in epoch seconds; at or before `now` means now. None if there is none.

        Call it again at that time, and after each `track`, `observed`, `failed` and `set_weight`.
        """
        t = self._refresh(now)
        self.open_jobs.unpark_some(t)
        if not self.statistics.refit_step():
            self.forecast.work(t)
        first = self.schedule.queues.first(t)
        if first is None:
            return None
        opens = self.pacer.closed_until
        if opens is None:
            opens = min(self.pacer.bucket.opens_at, self.pacer.budget.changes_at())
        at = max(min(first.due, self._ahead_at()), opens)
        # If the clock is slightly behind its last reading, callers must not wait for what `take` returns now.
        return now if at <= t + SLACK_SECONDS else self.timeline.clock(at)

    def take(self, now: float) -> str | None:
        """The job to poll now; takes one request. None if no job is due, or the budget has no request."""
        t = self._refresh(now)
        self.open_jobs.unpark_some(t)
        queues = self.schedule.queues
        first = queues.first(t)
        for _ in range(PLANNED_AGAIN_AT_ONCE):
            if first is None or first.due > t + SLACK_SECONDS or not self.schedule.is_stale(first):
                break
            # Its poll was planned at a lower price: others may need this request more.
            self.schedule.replan(first, t)
            first = queues.first(t)
        if first is None:
            return None
        ahead = first.due > t + SLACK_SECONDS
        if ahead:
            if self._ahead_at() > t + SLACK_SECONDS:
                return None
            first = queues.next_expected() or first
        if not self.pacer.take(t):
            return None
        if first.queue not in LIKELY_QUEUES:
            self.price.others += 1
        self._purposes[first.id] = _purpose(first, ahead=ahead)
        queues.take_off(first)
        queues.others_turn = first.queue in LIKELY_QUEUES
        first.due = t
        return first.id

    def observed(
        self,
        job_id: str,
        item: Mapping[str, Any] | None,
        headers: Mapping[str, str],
        sent_at: float,
        now: float,
        *,
        as_of: float | None = None,
        free: bool = False,
    ) -> None:
        """A poll sent at `sent_at` succeeded and found `item` as of then, or as of `as_of` if the answer was held.
        `free`: the upstream does not count it.

        A job that has ended is forgotten. An invalid item counts as a poll that found nothing new. A Retry-After is the
        upstream's hint for this job: it is not polled before, except to find out whether the hint still holds.
        """
        job = self.open_jobs.jobs.get(job_id)
        if job is None:
            return
        t = self.timeline.at(now)
        sent = min(t, self.timeline.inner(sent_at))
        limits = self.pacer.answered(headers, ours=job.in_flight, sent_at=sent, now=t, clock=now)
        self.pacer.budget.errors = 0
        if free:
            self.pacer.bucket.refund()
        reading = read_item(item).shifted(self.timeline.offset)
        self._purposes.pop(job_id, None)
        if reading.terminal and reading.finished_at is not None and job.seen <= reading.finished_at <= t:
            self.forecast.ended(t - reading.finished_at)
        seen_at = sent if as_of is None else min(t, self.timeline.inner(as_of))
        self.open_jobs.observe(job, reading, t, seen_at, limits.retry_after_seconds)
        self.open_jobs.unpark_some(t)
        self._refresh(now)

    def failed(self, job_id: str, status_code: int | None, headers: Mapping[str, str], now: float) -> None:
        """A poll failed with `status_code`, None without a response.

        A 429 pauses all requests until Retry-After, or until the window ends. Server errors and missing responses back
        off the job, and several in a row all requests. Other codes concern only the job.
        """
        job = self.open_jobs.jobs.get(job_id)
        if job is None:
            return
        t = self.timeline.at(now)
        self._purposes.pop(job_id, None)
        budget, in_flight = self.pacer.budget, job.in_flight
        sent = job.due if in_flight else t
        reading = self.pacer.answered(headers, ours=in_flight, sent_at=sent, now=t, clock=now)
        if status_code == TOO_MANY_REQUESTS:
            self.schedule.plan_at(job, budget.rejected(reading, t), t)
        else:
            server_error = status_code is None or status_code >= SERVER_ERRORS
            budget.errors = budget.errors + 1 if server_error else 0
            wait = reading.retry_after_seconds or 0.0
            self.open_jobs.fail(job, t, missing=status_code == NOT_FOUND, not_before=t + wait)
        self._refresh(now)

    def expects_end(self, job_id: str, seconds: float, now: float) -> bool:
        """True if a job runs whose end is so probable within this time that a poll now, without news, would be followed
        by another: one request that the upstream holds takes the place of both."""
        job = self.open_jobs.jobs.get(job_id)
        return job is not None and self.schedule.next_interval(job, self.timeline.at(now)) <= seconds

    # --- requests of callers on the same key

    def borrow(self, job_id: str, now: float) -> bool:
        """Lets a caller's own request poll the job; it counts as taken. Pass its result to `observed` or `settle`.

        Returns False if the job is not tracked or is being polled.
        """
        job = self.open_jobs.jobs.get(job_id)
        if job is None or job.in_flight:
            return False
        t = self._refresh(now)
        self._purposes[job_id] = "passed"
        self.schedule.queues.take_off(job)
        job.due = t
        self.pacer.borrow(t)
        return True

    def settle(
        self, job_id: str, due: float, status_code: int | None, headers: Mapping[str, str], sent_at: float, now: float
    ) -> None:
        """Ends a borrowed poll that did not show the job. Its poll is due at `due` again, as before.

        The response (`status_code` None: none) counts for the rate limit, not for the job or the upstream's health.
        """
        job = self.open_jobs.jobs.get(job_id)
        if job is None or not job.in_flight:
            return
        t = self.timeline.at(now)
        self._purposes.pop(job_id, None)
        self._count_response(status_code, headers, ours=True, sent_at=sent_at, t=t, now=now)
        self.schedule.put(job, self.timeline.inner(due), t)
        self._refresh(now)

    def forwarded(self, status_code: int | None, headers: Mapping[str, str], sent_at: float, now: float) -> None:
        """Counts a caller's request that was sent at `sent_at`; `status_code` is None without a response.

        If the headers report the limit, they show that it was used. Otherwise the next poll waits for it.
        """
        t = self.timeline.at(now) if self.pacer.bucket.rate else self._refresh(now)
        self._count_response(status_code, headers, ours=False, sent_at=sent_at, t=t, now=now)
        if not self.pacer.budget.meters():
            self.pacer.bucket.charge(t)

    # --- other requests of the relay itself

    @property
    def requests_per_second(self) -> float:
        """The rate that the budget allowed at the last decision; 0 before the first."""
        return self.pacer.bucket.rate

    def take_other(self, now: float) -> bool:
        """Takes one request of the budget for something other than a poll. Returns False if none is allowed now.

        Pass its response to `other_answered`.
        """
        return self.pacer.take(self._refresh(now))

    def other_opens_at(self, now: float) -> float:
        """The time at which `take_other` is next allowed, in epoch seconds; at or before `now` means now."""
        t = self._refresh(now)
        opens = self.pacer.opens_at()
        return now if opens <= t + SLACK_SECONDS else self.timeline.clock(opens)

    def other_answered(self, status_code: int | None, headers: Mapping[str, str], sent_at: float, now: float) -> None:
        """The response to a request of `take_other` (`status_code` None: none). It counts for the rate limit only, not
        for the upstream's health."""
        self._count_response(status_code, headers, ours=True, sent_at=sent_at, t=self.timeline.at(now), now=now)

    def is_fresh(self, job_id: str, now: float) -> bool:
        """True if the last poll of the job is as good as one now, since the next one is planned for later."""
        job = self.open_jobs.jobs.get(job_id)
        if job is None or job.in_flight or job.failures or job.phase == UNSEEN:
            return False
        return job.due > self.timeline.at(now) + SLACK_SECONDS

    # --- views

    def tracks(self, job_id: str) -> bool:
        """True if the job is tracked, including one in flight."""
        return job_id in self.open_jobs.jobs

    def next_poll_at(self, job_id: str) -> float | None:
        """Planned time of the job's next poll, in epoch seconds. None if one is in flight, or it is not tracked."""
        job = self.open_jobs.jobs.get(job_id)
        return None if job is None or job.in_flight else self.timeline.clock(job.due)

    def step(self, job_id: str) -> int:
        """Number of polls since the job's anchor that found nothing new: `step` of `track`."""
        job = self.open_jobs.jobs.get(job_id)
        return 0 if job is None else job.step

    def purpose(self, job_id: str) -> Purpose:
        """Purpose of the job's poll in flight."""
        return self._purposes.get(job_id, "expected")

    def explain(self, job_id: str, now: float) -> PollExplanation | None:
        """The reason why the job is not polled now, and the time of its next poll. None if it is not tracked."""
        job = self.open_jobs.jobs.get(job_id)
        if job is None:
            return None
        t = self._refresh(now)
        clock = self.timeline.clock
        opens = self.pacer.opens_at()
        parked = job.phase == PARKED and job.previous is not None
        return PollExplanation(
            reason=self._reason(job, t, opens),
            anchor_at=None if job.phase in (PARKED, UNSEEN) else clock(job.anchor),
            next_poll_at=None if job.in_flight else clock(job.due),
            not_before=None if job.in_flight else clock(max(job.due, opens)),
            waiting_for_job_id=job.previous.id if parked and job.previous is not None else None,
            step=job.step,
            failures=job.failures,
            expected_delay_seconds=self.schedule.expected_delay(job),
            outlook=None if job.in_flight else self.schedule.outlook(job, self.timeline.offset),
        )

    def stats(self, now: float) -> Stats:
        """The account's budget and its jobs at `now`."""
        t = self._refresh(now)
        budget, rate, unit = self.pacer.budget, self.pacer.bucket.rate, self._config.unit_seconds
        meter = min(budget.meters(), key=lambda known: known.rate, default=None)
        stopped = budget.stopped_until(t)
        demand = self.schedule.demand / math.sqrt(self.price.value) / unit
        expected = self.forecast.expected(min(demand / rate, 1.0))
        return Stats(
            open_jobs=len(self.open_jobs.jobs),
            due_jobs=self.schedule.queues.due(t + SLACK_SECONDS, DUE_JOBS_COUNTED),
            in_flight=budget.in_flight,
            limit=None if meter is None else meter.limit,
            remaining=None if meter is None else max(meter.remaining, 0.0),
            window_seconds=budget.window_seconds(),
            requests_per_second=rate,
            others_requests_per_second=0.0 if meter is None else meter.others_rate,
            paused_until=None if stopped is None else self.timeline.clock(stopped),
            price_seconds=self.price.value * unit,
            expected_delay_seconds=expected[0],
            expected_delay_at_double_seconds=expected[1],
            expected_delay_at_half_seconds=expected[2],
        )

    # --- settings and saved state

    def configure(self, config: PlannerConfig) -> None:
        """Applies other settings. Requests in flight go on, and no poll stays planned beyond the longest interval."""
        self._config = self.open_jobs.config = config
        self.price.unit = config.unit_seconds
        self.schedule.configure(config)
        self.pacer.configure(config)
        now = self.timeline.last or 0.0
        for job in self.open_jobs.jobs.values():
            if not job.in_flight and job.due > now + config.max_interval_seconds:
                self.schedule.plan_at(job, job.due, now)

    def durable_state(self) -> dict[str, Any]:
        """The state worth keeping across restarts, without jobs, as JSON values for `resume`."""
        return snapshot.dump(self)

    def resume(self, saved: Mapping[str, Any], now: float) -> None:
        """Continues from a `durable_state`, before any job is tracked. Malformed state is ignored.

        The bucket starts empty, so nothing bursts, however old the state is.
        """
        if snapshot.load(self, saved):
            self._refresh(now)

    def _refresh(self, now: float) -> float:
        """Updates budget, bucket and price to `now`. Returns `now` in planner time."""
        t = self.timeline.at(now)
        self.pacer.refresh(t, len(self.open_jobs.jobs))
        return t

    def _ahead_at(self) -> float:
        """From when a poll may be sent ahead of its time, because a request would otherwise be lost."""
        job = self.schedule.queues.next_expected()
        if job is None or not self.price.above_floor or job.phase not in (WAITING, RUNNING) or job.failures:
            return math.inf
        schedule = self.schedule
        earliest = max(job.anchor, job.seen + schedule.shortest_interval(job), schedule.not_before(job))
        return max(self.pacer.bucket.full_at(), earliest)

    def _count_response(
        self, status_code: int | None, headers: Mapping[str, str], *, ours: bool, sent_at: float, t: float, now: float
    ) -> None:
        sent = min(t, self.timeline.inner(sent_at))
        reading = self.pacer.answered(headers, ours=ours, sent_at=sent, now=t, clock=now)
        if status_code == TOO_MANY_REQUESTS:
            self.pacer.budget.rejected(reading, t)

    def _reason(self, job: PlannedJob, now: float, opens: float) -> Reason:
        if job.in_flight:
            return "in_flight"
        if job.due <= now + SLACK_SECONDS:
            if self.pacer.budget.stopped_until(now) is not None:
                return "paused_until"
            return "due" if job is self.schedule.queues.first(now) and opens <= now + SLACK_SECONDS else "budget"
        if job.failures:
            return "backing_off"
        if job.phase == PARKED:
            return "lane_parked"
        return "before_anchor" if job.anchor > now else "between_looks"


def _purpose(job: PlannedJob, *, ahead: bool) -> Purpose:
    if job.failures:
        return "again"
    if job.rung == ASKED:
        return "asked"
    if job.phase == UNSEEN:
        return "first"
    if ahead:
        return "ahead"
    return "safety" if job.queue == CHECK else "expected"
