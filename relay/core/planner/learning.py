"""Learning from one poll: records events, and time at risk without one, in the statistics of the job's class.

Only the time since the last known state counts: jobs that had ended before their first poll would make runs seem short.
"""

from __future__ import annotations

from relay.core.planner.items import Reading
from relay.core.planner.jobs import PARKED, RUNNING, UNSEEN, WAITING, Job
from relay.core.planner.policy import RETRY, RUN, SCHEDULED
from relay.core.planner.statistics import PlannerStatistics


def learn(statistics: PlannerStatistics, job: Job, reading: Reading, seen_at: float) -> None:
    """Records what a poll at `seen_at` found. Call it before the job takes over `reading`. Times are planner time."""
    job_class = job.statistics
    if job_class is None or seen_at <= job.seen:
        return
    started = reading.started_at
    if started is not None and started > seen_at:
        started = seen_at
    waits_again = reading.next_attempt_at is not None and not reading.running and not reading.terminal
    if started is None and job.phase in (WAITING, PARKED):
        scheduled = reading.scheduled_at
        moved = job.kind == SCHEDULED and scheduled is not None and scheduled < job.anchor
        until = seen_at if reading.finished_at is None else min(max(reading.finished_at, job.seen), seen_at)
        # Without a known start, a job that ended after its anchor has run in between.
        ended = reading.cancelled or (reading.terminal and until < job.anchor)
        statistics.record_wait(job_class, until - job.seen, changed=ended or moved)
    if job.phase == WAITING:
        since = job.seen - job.anchor
        begun = started is not None and (job.kind != RETRY or started >= job.anchor)
        if begun and started is not None:
            statistics.record_event(job_class, job.kind, since, started - job.anchor)
            _learn_run(statistics, job, reading, started, max(job.seen, started), seen_at, waits_again=waits_again)
        elif reading.running:
            statistics.record_event_between(job_class, job.kind, since, seen_at - job.anchor)
        elif not reading.terminal and not (waits_again and reading.next_attempt_at != job.anchor):
            statistics.record_survival(job_class, job.kind, since, seen_at - job.anchor)
    elif job.phase == RUNNING:
        if started is not None and started > job.anchor + statistics.unit:
            if started > job.seen:
                # A later run than the one seen last, which ended at an unknown time in between.
                statistics.record_event_between(job_class, RUN, job.seen - job.anchor, started - job.anchor)
            _learn_run(statistics, job, reading, started, max(job.seen, started), seen_at, waits_again=waits_again)
        else:
            _learn_run(statistics, job, reading, job.anchor, job.seen, seen_at, waits_again=waits_again)
    elif job.phase == UNSEEN and started is not None:
        _learn_run(statistics, job, reading, started, max(job.seen, started), seen_at, waits_again=waits_again)


def _learn_run(
    statistics: PlannerStatistics,
    job: Job,
    reading: Reading,
    started: float,
    since: float,
    seen_at: float,
    *,
    waits_again: bool,
) -> None:
    job_class = job.statistics
    assert job_class is not None
    if reading.terminal:
        finished = reading.finished_at
        if finished is None:
            statistics.record_event_between(job_class, RUN, since - started, seen_at - started)
        elif finished >= since:
            statistics.record_event(job_class, RUN, since - started, min(finished, seen_at) - started)
    elif waits_again and reading.next_attempt_at is not None:
        statistics.record_event_between(
            job_class, RUN, since - started, max(min(reading.next_attempt_at, seen_at), since) - started
        )
    else:
        statistics.record_survival(job_class, RUN, since - started, seen_at - started)
