"""Learning from one poll: records events, and time at risk without one, in the statistics of the job's class.

Only the time since the last known state counts: jobs that had ended before their first poll would make runs seem short.
"""

from __future__ import annotations

from relay.core.planner.learning.inspection import RETRY, RUN, SCHEDULED
from relay.core.planner.learning.item_fields import Reading
from relay.core.planner.learning.statistics import ClassStatistics, PlannerStatistics
from relay.core.planner.planned_job import PARKED, RUNNING, WAITING, PlannedJob

EXACT_ENOUGH = 1.5
"""A pause is recorded if it is known to within this factor."""


def learn(statistics: PlannerStatistics, job: PlannedJob, reading: Reading, seen_at: float) -> None:
    """Records what a poll at `seen_at` found. Call it before the job takes over `reading`. Times are planner time."""
    job_class = job.statistics
    if job_class is None or seen_at <= job.seen:
        return
    started = reading.started_at
    if started is not None and started > seen_at:
        started = seen_at
    waits_again = reading.next_attempt_at is not None and not reading.running and not reading.terminal
    if reading.terminal:
        if reading.attempt_count and not reading.cancelled:
            statistics.record_attempts(job_class, reading.attempt_count)
    elif waits_again:
        _learn_pause(statistics, job_class, job, reading, seen_at)
    if started is None and job.phase in (WAITING, PARKED):
        scheduled = reading.scheduled_at
        moved = job.kind == SCHEDULED and scheduled is not None and scheduled < job.anchor
        until = seen_at if reading.finished_at is None else min(max(reading.finished_at, job.seen), seen_at)
        # Without a known start, a job that ended after its anchor has run in between.
        ended = reading.cancelled or (reading.terminal and until < job.anchor)
        statistics.record_wait(job_class, until - job.seen, changed=ended or moved)
    since = job.seen if started is None else max(job.seen, started)
    if job.phase == WAITING:
        waited = job.seen - job.anchor
        if started is None or (job.kind == RETRY and started < job.anchor):
            if reading.running:
                statistics.record_event_between(job_class, job.kind, waited, seen_at - job.anchor)
            elif not reading.terminal and not (waits_again and reading.next_attempt_at != job.anchor):
                statistics.record_survival(job_class, job.kind, waited, seen_at - job.anchor)
            return
        statistics.record_event(job_class, job.kind, waited, started - job.anchor)
    elif job.phase == RUNNING:
        if started is None or started <= job.anchor + statistics.unit:
            started, since = job.anchor, job.seen
        elif started > job.seen:
            # A later run than the one seen last, which ended at an unknown time in between.
            statistics.record_event_between(job_class, RUN, job.seen - job.anchor, started - job.anchor)
    elif job.phase == PARKED or started is None:
        return
    _learn_run(statistics, job_class, reading, started, since, seen_at)


def _learn_pause(
    statistics: PlannerStatistics, job_class: ClassStatistics, job: PlannedJob, reading: Reading, seen: float
) -> None:
    """Records the pause before a retry when it is first seen, if two polls tell well enough how long it is."""
    retry = reading.next_attempt_at
    if retry is None or retry <= seen or (job.kind == RETRY and job.anchor == retry):
        return
    shortest, longest = retry - seen, retry - min(max(job.seen, job.anchor, reading.started_at or 0.0), seen)
    if longest <= EXACT_ENOUGH * shortest:
        statistics.record_pause(job_class, reading.attempt_count, (shortest + longest) / 2)


def _learn_run(
    statistics: PlannerStatistics,
    job_class: ClassStatistics,
    reading: Reading,
    started: float,
    since: float,
    seen: float,
) -> None:
    finished, retry = reading.finished_at, reading.next_attempt_at
    if reading.terminal and finished is not None:
        if finished >= since:
            statistics.record_event(job_class, RUN, since - started, min(finished, seen) - started)
    elif reading.terminal:
        statistics.record_event_between(job_class, RUN, since - started, seen - started)
    elif retry is not None and not reading.running:
        statistics.record_event_between(job_class, RUN, since - started, max(min(retry, seen), since) - started)
    else:
        statistics.record_survival(job_class, RUN, since - started, seen - started)
