"""The planner: which job to look at next and when, within the request budget of one upstream account."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from relay.core.planner.items import read_item, read_time
from relay.core.planner.jobs import ASKED, CHECK, PARKED, RUNNING, UNSEEN, WAITING, Job
from relay.core.planner.pacing import TOO_MANY_REQUESTS, Pacing
from relay.core.planner.queues import LIKELY_QUEUES
from relay.core.planner.timeline import SLACK_SECONDS
from relay.core.planner.views import DUE_JOBS_COUNTED, Explanation, Purpose, Reason, Stats

DEFAULT_SPACING_SECONDS = 60.0
NOT_FOUND = 404
SERVER_ERRORS = 500
PLANNED_AGAIN_AT_ONCE = 32
"""Looks that one `take` plans again because requests have become dearer."""


class Planner(Pacing):
    """Plans the looks at all open jobs of one account. Pure: the caller brings the time and does the looking.

    Items are mappings in the relay's own field names: `status`, `channel`, `scheduled_at`, `started_at`,
    `next_attempt_at`; times in them are RFC 3339 text or epoch seconds, and what can not be read counts as unknown.
    Every `now` is epoch seconds of the same clock; it may be set back. No method raises for what an upstream sent.

    Use: ask `next_request_at`; when that moment has come, `take` until it returns None, look at each job taken, and
    tell the outcome by `observed` or `failed`. A job taken is not offered again before that.
    """

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
    ) -> None:
        """Begins to plan looks at a job; `item` is what is known of it, None for nothing.

        `lane` is the lane it runs in, None for its channel's, "" for none; `min_interval_seconds` the least time from
        its predecessor's start to its own: a minute by default, and less by as much as our shortest interval is below a
        second, which only a world that runs faster has use for. Jobs of a lane are to be tracked in the order in which
        they were created.
        `next_poll_at`, `step` and `seen_at` (when the item was seen) carry on a plan that was kept elsewhere. For a job
        that is tracked already only `weight` and, where given, `next_poll_at` are taken over: that is how a look is
        asked for at once.
        """
        t = self._timeline.at(now) if self._bucket.rate else self._refresh(now)
        if min_interval_seconds is None:
            min_interval_seconds = DEFAULT_SPACING_SECONDS * min(1.0, self._config.min_interval_seconds)
        planned = read_time(next_poll_at)
        if planned is not None:
            planned = self._timeline.inner(planned)
        seen = read_time(seen_at)
        job = self._open_jobs.jobs.get(job_id)
        if job is None:
            self._open_jobs.add(
                job_id,
                read_item(item).shifted(self._timeline.offset),
                t,
                weight=weight,
                lane=lane,
                spacing_seconds=min_interval_seconds,
                planned=planned,
                step=step,
                seen=t if seen is None else min(self._timeline.inner(seen), t),
            )
        else:
            self._open_jobs.weigh(job, weight, t)
            if planned is not None and not job.in_flight:
                self._open_jobs.fix(job, planned, t, asked=True)
        self._open_jobs.unpark_some(t)

    def next_request_at(self, now: float) -> float | None:
        """When to send the next request, epoch seconds; not after `now` means now, None that there is none to send.

        Ask again at that moment, and after each `track`, `observed`, `failed` and `set_weight`: it may have changed.
        """
        t = self._refresh(now)
        self._open_jobs.unpark_some(t)
        if not self._statistics.refit_step():
            self._forecast.work(t)
        first = self._open_jobs.queues.first(t)
        if first is None:
            return None
        opens = self._closed_until
        if opens is None:
            opens = min(self._bucket.opens_at(), self._budget.changes_at())
        at = max(min(first.due, self._ahead_at()), opens)
        # A clock that runs a little behind what it showed before must not make callers wait for what `take` gives now.
        return now if at <= t + SLACK_SECONDS else self._timeline.clock(at)

    def take(self, now: float) -> str | None:
        """The job to look at now; takes one request. None where none is due, or the budget has no request for it."""
        t = self._refresh(now)
        self._open_jobs.unpark_some(t)
        first = self._open_jobs.queues.first(t)
        for _ in range(PLANNED_AGAIN_AT_ONCE):
            if first is None or first.due > t + SLACK_SECONDS or not self._open_jobs.stale(first):
                break
            # Its look was planned when requests were cheaper: others may need this one more.
            self._open_jobs.plan_again(first, t)
            first = self._open_jobs.queues.first(t)
        if first is None or self._closed_until is not None:
            return None
        ahead = first.due > t + SLACK_SECONDS
        if ahead:
            if self._ahead_at() > t + SLACK_SECONDS:
                return None
            first = self._open_jobs.queues.next_expected() or first
        if not self._bucket.take(t):
            return None
        if first.queue not in LIKELY_QUEUES:
            self._price.other_poll()
        self._purposes[first.id] = _purpose(first, t, ahead=ahead)
        self._open_jobs.queues.taken(first)
        first.due = t
        self._budget.sent()
        return first.id

    def _ahead_at(self) -> float:
        """From when on a look may come before its time, because a request would be lost otherwise."""
        job = self._open_jobs.queues.next_expected()
        if job is None or not self._price.above_floor or job.phase not in (WAITING, RUNNING) or job.failures:
            return math.inf
        return max(self._bucket.full_at(), job.anchor, job.seen + self._config.min_interval_seconds)

    def observed(
        self, job_id: str, item: Mapping[str, Any] | None, headers: Mapping[str, str], sent_at: float, now: float
    ) -> None:
        """A look succeeded: `item` is the job as the upstream answered it to the request sent at `sent_at`.

        A job that has ended is forgotten. An item that can not be read counts as a look that found nothing new.
        """
        job = self._open_jobs.jobs.get(job_id)
        if job is None:
            return
        t = self._timeline.at(now)
        sent = min(t, self._timeline.inner(sent_at))
        self._budget.answered(self._headers.read(headers, now), ours=job.in_flight, sent_at=sent, now=t)
        self._budget.succeeded()
        reading = read_item(item).shifted(self._timeline.offset)
        self._purposes.pop(job_id, None)
        if reading.terminal and reading.finished_at is not None and job.seen <= reading.finished_at <= t:
            self._forecast.ended(t - reading.finished_at)
        self._open_jobs.observe(job, reading, t, sent)
        self._open_jobs.unpark_some(t)
        self._refresh(now)

    def failed(self, job_id: str, status_code: int | None, headers: Mapping[str, str], now: float) -> None:
        """A look failed: `status_code` is the response's, None where there was none.

        429 stops all requests until Retry-After, or else until the window ends. Server errors and missing responses
        make the job wait longer each time, and several of them in a row all requests. Other codes concern the job.
        """
        job = self._open_jobs.jobs.get(job_id)
        if job is None:
            return
        t = self._timeline.at(now)
        self._purposes.pop(job_id, None)
        told = self._headers.read(headers, now)
        self._budget.answered(told, ours=job.in_flight, sent_at=job.due if job.in_flight else t, now=t)
        if status_code == TOO_MANY_REQUESTS:
            self._open_jobs.fix(job, self._budget.rejected(told, t), t)
        else:
            if status_code is None or status_code >= SERVER_ERRORS:
                self._budget.erred()
            else:
                self._budget.succeeded()
            wait = told.retry_after_seconds or 0.0
            self._open_jobs.fail(job, t, missing=status_code == NOT_FOUND, not_before=t + wait)
        self._refresh(now)

    def set_weight(self, job_id: str, weight: float, now: float) -> None:
        """How much a second of this job's delay counts, 1 being usual; a higher one brings its next look forward.

        None starves a job: however low its weight and however dear requests become, its next look is due MAX_PATIENCE
        longest intervals after the last one, and then waits for no more than one look at each other open job, and for
        HEAD_START_REQUESTS at heavier ones.
        """
        job = self._open_jobs.jobs.get(job_id)
        if job is not None:
            self._open_jobs.weigh(job, weight, self._timeline.at(now))

    def forget(self, job_id: str) -> None:
        """Plans no more looks at a job."""
        job = self._open_jobs.jobs.get(job_id)
        if job is not None:
            if job.in_flight:
                self._budget.dropped()
                self._purposes.pop(job_id, None)
            self._open_jobs.remove(job, self._timeline.last or 0.0)

    def tracks(self, job_id: str) -> bool:
        """Whether the job's polls are planned here; one that is under way counts."""
        return job_id in self._open_jobs.jobs

    def next_poll_at(self, job_id: str) -> float | None:
        """When the job's next look is planned, epoch seconds; None while one is under way, or it is not tracked."""
        job = self._open_jobs.jobs.get(job_id)
        return None if job is None or job.in_flight else self._timeline.clock(job.due)

    def step(self, job_id: str) -> int:
        """How many looks at the job have found nothing new since its anchor: what `track` takes as `step`."""
        job = self._open_jobs.jobs.get(job_id)
        return 0 if job is None else job.step

    def purpose(self, job_id: str) -> Purpose:
        """What the look at the job that is under way is for."""
        return self._purposes.get(job_id, "expected")

    def explain(self, job_id: str, now: float) -> Explanation | None:
        """Why the job is not looked at right now, and when it will be; None where it is not tracked."""
        job = self._open_jobs.jobs.get(job_id)
        if job is None:
            return None
        t = self._refresh(now)
        clock = self._timeline.clock
        opens = self._bucket.opens_at() if self._closed_until is None else self._closed_until
        parked = job.phase == PARKED and job.previous is not None
        return Explanation(
            reason=self._reason(job, t, opens),
            anchor_at=None if job.phase in (PARKED, UNSEEN) else clock(job.anchor),
            next_poll_at=None if job.in_flight else clock(job.due),
            not_before=None if job.in_flight else clock(max(job.due, opens)),
            waiting_for_job_id=job.previous.id if parked and job.previous is not None else None,
            step=job.step,
            failures=job.failures,
            expected_delay_seconds=self._open_jobs.expected_delay(job),
        )

    def stats(self, now: float) -> Stats:
        """The account's budget and its jobs right now."""
        t = self._refresh(now)
        meter = min(self._budget.meters(), key=lambda known: known.rate, default=None)
        stopped = self._budget.stopped_until(t)
        demand = self._open_jobs.demand / math.sqrt(self._price.value) / self._unit
        expected = self._forecast.expected(min(demand / self._bucket.rate, 1.0))
        return Stats(
            open_jobs=len(self._open_jobs.jobs),
            due_jobs=self._open_jobs.queues.due(t + SLACK_SECONDS, DUE_JOBS_COUNTED),
            in_flight=self._budget.in_flight,
            limit=None if meter is None else meter.limit,
            remaining=None if meter is None else max(meter.remaining, 0.0),
            window_seconds=self._budget.window_seconds(),
            requests_per_second=self._bucket.rate,
            others_requests_per_second=0.0 if meter is None else meter.others_rate,
            paused_until=None if stopped is None else self._timeline.clock(stopped),
            price_seconds=self._price.value * self._unit,
            expected_delay_seconds=expected[0],
            expected_delay_at_double_seconds=expected[1],
            expected_delay_at_half_seconds=expected[2],
        )

    def _reason(self, job: Job, now: float, opens: float) -> Reason:
        if job.in_flight:
            return "in_flight"
        if job.due <= now + SLACK_SECONDS:
            if self._budget.stopped_until(now) is not None:
                return "paused_until"
            return "due" if job is self._open_jobs.queues.first(now) and opens <= now + SLACK_SECONDS else "budget"
        if job.failures:
            return "backing_off"
        if job.phase == PARKED:
            return "lane_parked"
        return "before_anchor" if job.anchor > now else "between_looks"


def _purpose(job: Job, now: float, *, ahead: bool) -> Purpose:
    if job.failures:
        return "again"
    if job.rung == ASKED:
        return "asked"
    if job.phase == UNSEEN:
        return "first"
    if ahead:
        return "ahead"
    return "safety" if job.queue == CHECK else "expected"
