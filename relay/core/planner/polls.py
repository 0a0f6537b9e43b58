"""Learning from one poll: records events, and time at risk without one, in the statistics of the job's class.

Only the time since the last known state counts: jobs that had ended before their first poll would make runs seem short.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from relay.clock import MAX_EPOCH_SECONDS, from_rfc3339
from relay.core.jobs.job import TERMINAL
from relay.core.planner.inspection import RETRY, RUN, SCHEDULED
from relay.core.planner.poll_queues import PARKED, RUNNING, WAITING, PlannedJob
from relay.core.planner.statistics import MAX_ATTEMPTS, ClassStatistics, PlannerStatistics


class Reading(NamedTuple):
    """The parsed fields of an item. Times are epoch seconds; None if absent or invalid."""

    known: bool
    terminal: bool = False
    running: bool = False
    cancelled: bool = False
    channel: str = ""
    action: str = ""
    scheduled_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    next_attempt_at: float | None = None
    attempt_count: int = 0
    left: float | None = None
    """Percent of a run, or places in a queue, that are left; None if the upstream does not say."""

    def shifted(self, seconds: float) -> Reading:
        """The reading with all times moved by `seconds`."""
        if seconds == 0:
            return self
        at = [None if each is None else each + seconds for each in self[6:10]]
        return self._replace(scheduled_at=at[0], started_at=at[1], finished_at=at[2], next_attempt_at=at[3])


UNKNOWN = Reading(known=False)


def read_time(value: object) -> float | None:
    """Epoch seconds of an RFC 3339 text or a number; None for other values."""
    if isinstance(value, str):
        try:
            return from_rfc3339(value)
        except (ValueError, OverflowError):
            return None
    if not isinstance(value, float | int) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value <= MAX_EPOCH_SECONDS else None


def read_item(item: object) -> Reading:
    """Parses an item; UNKNOWN if it is not a mapping. Never raises."""
    if not isinstance(item, Mapping):
        return UNKNOWN
    fields: Mapping[str, Any] = item
    status, channel, action = fields.get("status"), fields.get("channel"), fields.get("action")
    attempts, left = fields.get("attempt_count"), fields.get("left")
    known = isinstance(status, str)
    return Reading(
        known=True,
        terminal=known and status in TERMINAL,
        running=status == "running",
        cancelled=status == "cancelled",
        channel=channel if isinstance(channel, str) else "",
        action=action if isinstance(action, str) else "",
        scheduled_at=read_time(fields.get("scheduled_at")),
        started_at=read_time(fields.get("started_at")),
        finished_at=read_time(fields.get("finished_at")),
        next_attempt_at=read_time(fields.get("next_attempt_at")),
        attempt_count=min(max(attempts, 0), MAX_ATTEMPTS) if isinstance(attempts, int) else 0,
        left=left if isinstance(left, float) and 0 <= left < math.inf else None,
    )


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
