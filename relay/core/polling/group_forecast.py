"""The expected finish of a group: its open jobs' ends, drawn from the times that jobs of their classes have taken.

Pure: values in, `ExpectedFinish` or the reason why there is none out; the same values give the same result. The jobs of
a channel run one after another, others side by side. docs/guides/campaigns.md describes the limits of the estimate.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from statistics import fmean, median, pstdev
from typing import NamedTuple, TypeAlias

from relay.clock import MAX_EPOCH_SECONDS

DRAWS = 200
SPACING_SECONDS = 60.0
"""Minimum spacing of a lane if nothing is known of it. Source: the upstream's documentation."""
MAX_RUNNING_IN_LANE = 2
"""If more jobs of a channel run at once, they do not run one after another. Two: one end is not seen yet."""
WIDEST = 1.4
"""Wider gaps in a schedule, as a multiple of the usual one, had a job between that was cancelled since."""
LEAST_STARTS = 5
MOST_STARTS = 65
LEAST_ENDS = 20
LEAST_KNOWN_SHARE = 0.2
"""Jobs not seen yet are taken to be like the others only if these are at least this share."""
STALLED_GAPS = 10.0
STALLED_SECONDS = 60.0
"""More jobs are expected only while the last one came within this time, or this many times the mean gap."""
RATE_SECONDS = 3600.0

DurationsOf: TypeAlias = Callable[[str, str], Sequence[float]]
"""Sorted seconds from the first start to the end of jobs of an action and a channel."""


class OpenJob(NamedTuple):
    """An open job. `status` is None before its first poll. `seen_at`: when its state was last known."""

    status: str | None
    action: str | None
    channel: str | None
    scheduled_at: float | None
    started_at: float | None
    next_attempt_at: float | None
    spacing_seconds: float | None
    tracked_at: float
    seen_at: float

    @property
    def retries_at(self) -> float | None:
        """Start of its next attempt, if it waits for one."""
        waits = self.next_attempt_at is not None and (self.status != "running" or self.next_attempt_at > self.seen_at)
        return self.next_attempt_at if waits else None

    @property
    def has_begun(self) -> bool:
        """True if it runs or waits for a retry."""
        return self.started_at is not None or self.status == "running" or self.retries_at is not None

    @property
    def is_unseen(self) -> bool:
        """True if it was registered by its id alone, and not polled yet."""
        return self.status is None and self.channel is None

    @property
    def due_at(self) -> float:
        """Its place in its lane."""
        return self.tracked_at if self.scheduled_at is None else self.scheduled_at


class EndedJob(NamedTuple):
    """A job that has ended. `in_group`: it is one of the group's."""

    channel: str | None
    started_at: float | None
    closed_at: float
    in_group: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadJobs:
    """Open jobs of a group in one channel, by their scheduled time: all of them, or the first and the last ones.
    `is_cut`: there may be more."""

    channel: str | None
    first: tuple[OpenJob, ...]
    last: tuple[OpenJob, ...] = ()
    is_cut: bool = False

    @property
    def seen(self) -> list[OpenJob]:
        """Those whose state is known."""
        return [job for job in (*self.first, *self.last) if not job.is_unseen]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupWork:
    """The remaining work of a group.

    jobs        its open jobs that were read, by channel
    open_count  how many it has
    others      open jobs of other groups, and of none, of the same account
    ended       jobs of the account that ended last
    missing     how many more are expected to come
    first_at    when its first job came; `last_at`: its last; `came_count`: how many came
    """

    jobs: Sequence[ReadJobs]
    open_count: int
    others: Sequence[OpenJob] = ()
    ended: Sequence[EndedJob] = ()
    missing: int = 0
    first_at: float
    last_at: float
    came_count: int


class ExpectedFinish(NamedTuple):
    """Times between which the group finishes: in one of ten cases before `p10`, in one of ten after `p90`."""

    p10: float
    p50: float
    p90: float


def expected_finish(work: GroupWork, durations_of: DurationsOf, now: float) -> ExpectedFinish | str:
    """The expected end of a group's last job, those still missing included. Else a sentence that says why it is
    unknown."""
    arrives_at = now
    if work.missing:
        gap = (work.last_at - work.first_at) / max(work.came_count - 1, 1)
        if work.came_count < 2 or now - work.last_at > max(STALLED_SECONDS, STALLED_GAPS * gap):
            return (
                f"{work.missing} of {work.missing + work.came_count} jobs were never created, and no new ones are "
                "arriving."
            )
        arrives_at = work.last_at + gap * work.missing
    cuts = _cuts(work)
    unseen = sum(job.is_unseen for read in work.jobs for job in (*read.first, *read.last))
    if any(job.is_unseen for read in work.jobs if read.channel is None for job in read.first):
        unseen += cuts.pop(None, 0)
    known, more = work.came_count - unseen, unseen + work.missing
    if more and known < LEAST_KNOWN_SHARE * (known + more):
        return f"The status of {more} of {known + more} jobs is not known yet, or they have not come."
    shares = _shares(work)
    sides: list[_Lane | _SideBySide] = []
    for read in work.jobs:
        if not (own := read.seen):
            continue
        count, cut = round(more * shares[read.channel]), cuts.get(read.channel, 0)
        others = [job for job in work.others if job.channel == read.channel]
        running = sum(job.has_begun and job.retries_at is None for job in (*own, *others))
        if read.channel is None or running > MAX_RUNNING_IN_LANE:
            sides.append(_SideBySide(work, own, cut + count, durations_of, now))
            continue
        starts = {job.started_at for job in work.ended if job.channel == read.channel}
        lane = _Lane(read, cut, count, others, {*starts, *(job.started_at for job in (*own, *others))}, durations_of)
        if not lane.gaps:
            return f"Jobs of the channel {read.channel} have no scheduled times, and too few have started."
        sides.append(lane)
    if not sides:
        return "The status of its open jobs is not known yet." if unseen else "None of its known jobs is open."
    rng = Random(0)  # noqa: S311  (reproducible, not a secret)
    found = sorted(max(now, arrives_at, *(side.draw(rng, arrives_at) for side in sides)) for _ in range(DRAWS))
    p10, p50, p90 = (min(found[int(DRAWS * share)], MAX_EPOCH_SECONDS) for share in (0.1, 0.5, 0.9))
    return ExpectedFinish(p10, p50, p90)


def rate_per_hour(ended: Sequence[EndedJob], first_at: float, now: float, *, most: int) -> float | None:
    """The rate at which a group's jobs end, per hour: of those that ended within the last hour, or of the last
    `most`."""
    closed = sorted((job.closed_at for job in ended if job.in_group), reverse=True)[:most]
    since = max(first_at, now - RATE_SECONDS)
    if len(closed) == most:
        since = max(since, closed[-1])
    return sum(at >= since for at in closed) * RATE_SECONDS / (now - since) if now > since else None


class _End:
    """The end of a job that has begun, or that begins at `starts_at`."""

    def __init__(self, job: OpenJob, durations: Sequence[float], starts_at: float = 0.0) -> None:
        self._age = 0.0
        if not job.has_begun:
            self._starts_at = starts_at
        elif (retries_at := job.retries_at) is not None:
            self._starts_at = max(retries_at, job.seen_at)
        else:
            self._starts_at = job.seen_at if job.started_at is None else job.started_at
            self._age = max(job.seen_at - self._starts_at, 0.0)
        self._durations = durations[bisect_right(durations, self._age) :]

    def draw(self, rng: Random) -> float:
        if not self._durations:  # none took as long: as likely to take as long again
            return self._starts_at + self._age / (1.0 - rng.random())
        return self._starts_at + rng.choice(self._durations)


class _Lane:
    """The jobs of a channel, which run one after another: a job starts when its scheduled time has come, the job before
    it has ended, and the spacing since that one's start has passed."""

    def __init__(
        self,
        read: ReadJobs,
        cut: int,
        more: int,
        others: Sequence[OpenJob],
        starts: set[float | None],
        durations_of: DurationsOf,
    ) -> None:
        """`cut`: number of jobs between those read; `more`: of jobs like these that follow. `gaps` is empty if nothing
        is known of the spacing."""

        def durations(job: OpenJob) -> Sequence[float]:
            return durations_of(job.action or "", job.channel or "")

        own = [(job, True) for job in read.seen]
        ends_at = max((job.due_at for job, _ in own if not job.has_begun), default=-math.inf)
        jobs = [*own, *((job, False) for job in others if job.has_begun or job.due_at <= ends_at)]
        waiting = sorted((each for each in jobs if not each[0].has_begun), key=lambda each: each[0].due_at)
        seen = sorted(at for at in starts if at is not None)[-MOST_STARTS:]
        self._begun = [(_End(job, durations(job)), is_own) for job, is_own in jobs if job.has_begun]
        self._last_start = seen[-1] if seen else -math.inf
        self._seen_at = waiting[0][0].seen_at if waiting else -math.inf
        self._is_scheduled = all(job.scheduled_at is not None for job, _ in waiting)
        self._cut_at, self._cut = len(waiting), cut
        if self._is_scheduled and cut and read.last:
            places = (place for place, (job, _) in enumerate(waiting) if job is read.last[0])
            self._cut_at = next(places, len(waiting))
        self.gaps = self._gaps([job for job, _ in waiting], seen)
        self._spacings = self._lane_spacings([job for job, _ in waiting])
        self._jobs = [(job.scheduled_at or -math.inf, durations(job), is_own) for job, is_own in waiting]
        self._more = more
        self._usual = durations(own[-1][0])
        rng = Random(0)  # noqa: S311
        steps = [max(each, rng.choice(self.gaps or (0.0,))) for each in self._usual]
        self._step, self._step_spread = fmean(steps), pstdev(steps)

    def _gaps(self, waiting: Sequence[OpenJob], seen: Sequence[float]) -> list[float]:
        """Gaps between starts: scheduled ones, or those seen last without those behind jobs that took long."""
        if self._is_scheduled:
            pairs = enumerate(pairwise(job.due_at for job in waiting), 1)
            gaps = [after - before for place, (before, after) in pairs if place != self._cut_at]
            return [gap for gap in gaps if gap > 0] or [SPACING_SECONDS]
        gaps = [after - before for before, after in pairwise(seen)]
        return [gap for gap in gaps if gap <= 2 * median(gaps)] if len(seen) >= LEAST_STARTS else []

    def _lane_spacings(self, waiting: Sequence[OpenJob]) -> list[float | None]:
        """The spacing before each job; None: like the others."""
        found = [job.spacing_seconds for job in waiting]
        if self._is_scheduled:
            usual = WIDEST * median(self.gaps)
            for place, (before, after) in enumerate(pairwise(waiting), 1):
                if after.due_at > after.tracked_at:  # the lane placed it there
                    spacing = usual if after.spacing_seconds is None else after.spacing_seconds
                    found[place] = min(after.due_at - before.due_at, spacing)
        return found

    def draw(self, rng: Random, arrives_at: float) -> float:
        """A possible time of the last end. The last one of the jobs that follow starts not before `arrives_at`."""
        start, busy, latest = self._last_start, -math.inf, -math.inf
        for end, is_own in self._begun:
            ends_at = end.draw(rng)
            busy = max(busy, ends_at)
            latest = max(latest, ends_at) if is_own else latest
        least, gaps = self._seen_at, rng.choices(self.gaps, k=len(self.gaps))  # few are known: so is their mean
        for place, (due_at, durations, is_own) in enumerate(self._jobs):
            if place == self._cut_at:
                start = self._passed(self._cut, start, rng)
            spacing = self._spacings[place]
            start = max(start + (rng.choice(gaps) if spacing is None else spacing), busy, due_at, least)
            least, busy = -math.inf, start + rng.choice(durations)
            latest = max(latest, busy) if is_own else latest
        after = self._more + (self._cut if self._cut_at == len(self._jobs) else 0)
        if after:
            start = max(self._passed(after, max(start, busy), rng), arrives_at)
            latest = max(latest, start + rng.choice(self._usual))
        return latest

    def _passed(self, count: int, start: float, rng: Random) -> float:
        """The start of the last of the next `count` jobs."""
        return start + max(count * self._step + math.sqrt(count) * self._step_spread * rng.gauss(0.0, 1.0), 0.0)


class _SideBySide:
    """Jobs in no lane. If many of them wait to start, they end at the rate at which the last ones did."""

    def __init__(
        self, work: GroupWork, jobs: Sequence[OpenJob], more: int, durations_of: DurationsOf, now: float
    ) -> None:
        self._now = now
        self._queued, self._rate, self._ends_seen = more + sum(not job.has_begun for job in jobs), 0.0, 0
        self._usual, self._more = durations_of(jobs[-1].action or "", jobs[-1].channel or ""), more
        ends = [job.closed_at for job in work.ended if job.in_group]
        if min(self._queued, len(ends)) >= LEAST_ENDS and now > min(ends):
            self._rate, self._ends_seen = len(ends) / (now - min(ends)), len(ends)
            jobs = [job for job in jobs if job.has_begun]
        self._ends = [
            _End(job, durations_of(job.action or "", job.channel or ""), max(job.scheduled_at or 0.0, job.seen_at))
            for job in jobs
        ]

    def draw(self, rng: Random, arrives_at: float) -> float:
        """A possible time of the last end."""
        latest = max((end.draw(rng) for end in self._ends), default=-math.inf)
        if self._rate:
            rate = self._rate * math.exp(rng.gauss(0.0, 1.0) / math.sqrt(self._ends_seen))
            count = self._queued + math.sqrt(self._queued) * rng.gauss(0.0, 1.0)
            latest = max(latest, self._now + max(count, 0.0) / rate)
        return max(latest, arrives_at + rng.choice(self._usual)) if self._more else latest


def _cuts(work: GroupWork) -> dict[str | None, int]:
    """Number of open jobs that were not read, per channel. Between scheduled ones: as many as fit, at their usual
    gap."""
    unread = max(work.open_count - sum(len(read.first) + len(read.last) for read in work.jobs), 0)
    fitting: dict[str | None, float] = {}
    others: list[str | None] = []
    for read in work.jobs:
        first, last = (sorted(job.scheduled_at or 0.0 for job in part) for part in (read.first, read.last))
        if not read.is_cut:
            continue
        if last and first[0] > 0 and first[-1] > first[0]:
            gap = (first[-1] - first[0]) / (len(first) - 1)
            fitting[read.channel] = max((last[0] - first[-1]) / gap - 1, 0.0)
        else:
            others.append(read.channel)
    total = sum(fitting.values())
    scale = min(unread / total, 1.0) if others and total else unread / total if total else 0.0
    found = {channel: round(count * scale) for channel, count in fitting.items()}
    left = max(unread - sum(found.values()), 0)
    return {**found, **{channel: left // len(others) for channel in others}}


def _shares(work: GroupWork) -> Mapping[str | None, float]:
    """The share of each channel in the jobs that are known."""
    counts: dict[str | None, int] = {read.channel: len(read.seen) for read in work.jobs}
    for job in work.ended:
        if job.in_group:
            counts[job.channel] = counts.get(job.channel, 0) + 1
    total = max(sum(counts.values()), 1)
    return {channel: count / total for channel, count in counts.items()}
