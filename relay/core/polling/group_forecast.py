"""When a group finishes: its open jobs' ends, drawn many times from what the planner has learned.

Pure: values in, `ExpectedFinish` or the reason why there is none out; the same values give the same result. The jobs of
a channel run one after another (`lane_forecast.py`); others run side by side. The group finishes with the last of them.
docs/campaigns.md says what the estimate can and cannot know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from relay.clock import MAX_EPOCH_SECONDS
from relay.core.polling.lane_forecast import Lane, OpenJob, Side, SideBySide, Starts, TimesOf, Unpredictable, is_lane

DRAWS = 250
LEAST_KNOWN_SHARE = 0.2
"""Jobs not seen yet are taken to be like the others only if these are at least this share."""
STALLED_GAPS = 10.0
STALLED_SECONDS = 60.0
"""More jobs are expected only while the last one came within this time, or this many times the mean gap."""
RATE_SECONDS = 3600.0


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


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupWork:
    """What is left to do of a group.

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


def expected_finish(work: GroupWork, times_of: TimesOf, now: float) -> ExpectedFinish | str:
    """When a group's last known job ends, and those still missing. Else a sentence that says why it is unknown."""
    arrives_at = now
    if work.missing:
        gap = (work.last_at - work.first_at) / max(work.came_count - 1, 1)
        if work.came_count < 2 or now - work.last_at > max(STALLED_SECONDS, STALLED_GAPS * gap):
            return (
                f"{work.missing} of {work.missing + work.came_count} expected jobs have not come, and none comes now."
            )
        arrives_at = work.last_at + gap * work.missing
    cuts = _cuts(work)
    unseen = sum(_is_unseen(job) for read in work.jobs for job in (*read.first, *read.last))
    if any(_is_unseen(job) for read in work.jobs if read.channel is None for job in read.first):
        unseen += cuts.pop(None, 0)
    known, more = work.came_count - unseen, unseen + work.missing
    if more and known < LEAST_KNOWN_SHARE * (known + more):
        return f"The status of {more} of {known + more} jobs is not known yet, or they have not come."
    try:
        sides = _sides(work, cuts, times_of, now)
    except Unpredictable as reason:
        return str(reason)
    if not sides:
        return "The status of its open jobs is not known yet." if unseen else "None of its known jobs is open."
    rng = Random(0)  # noqa: S311  (reproducible, not a secret)
    return _drawn(sides, _shares(work), more, arrives_at, now, rng)


def rate_per_hour(ended: Sequence[EndedJob], first_at: float, now: float, *, most: int) -> float | None:
    """How many of a group's jobs end per hour: of those that ended within the last hour, or of the last `most`."""
    closed = sorted((job.closed_at for job in ended if job.in_group), reverse=True)[:most]
    since = max(first_at, now - RATE_SECONDS)
    if len(closed) == most:
        since = max(since, closed[-1])
    return sum(at >= since for at in closed) * RATE_SECONDS / (now - since) if now > since else None


def _is_unseen(job: OpenJob) -> bool:
    """True if it was registered by its id alone, and not polled yet."""
    return job.status is None and job.channel is None


def _sides(work: GroupWork, cuts: Mapping[str | None, int], times_of: TimesOf, now: float) -> dict[str | None, Side]:
    """What can go on side by side: one lane for each channel, and all jobs that are in none."""
    sides: dict[str | None, Side] = {}
    beside: list[OpenJob] = []
    for read in work.jobs:
        own = [job for job in (*read.first, *read.last) if not _is_unseen(job)]
        if not own:
            continue
        others = [job for job in work.others if job.channel == read.channel]
        ended = [job for job in work.ended if job.channel == read.channel]
        if read.channel is None or not is_lane((*own, *others)):
            beside += own
            continue
        starts = [job.started_at for job in ended if job.started_at is not None]
        cut = cuts.get(read.channel, 0)
        if all(job.scheduled_at is not None or job.has_begun for job in own):
            sides[read.channel] = Lane(read.first, read.last, cut, others, starts, times_of, now)
        else:
            sides[read.channel] = Starts(own, cut, others, starts, times_of)
    if beside:
        ends = sorted(job.closed_at for job in work.ended if job.in_group and job.channel not in sides)
        uncounted = cuts.get(None, 0)
        sides[None] = SideBySide(beside, uncounted, ends, times_of, now)
    return sides


def _cuts(work: GroupWork) -> dict[str | None, int]:
    """How many open jobs were not read, per channel. Between scheduled ones: as many as fit, at their usual gap."""
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


def _shares(work: GroupWork) -> dict[str | None, float]:
    """The share of each channel in the jobs that are known."""
    counts: dict[str | None, float] = {}
    for read in work.jobs:
        known = sum(not _is_unseen(job) for job in (*read.first, *read.last))
        counts[read.channel] = counts.get(read.channel, 0.0) + known
    for job in work.ended:
        if job.in_group:
            counts[job.channel] = counts.get(job.channel, 0.0) + 1
    total = sum(counts.values())
    return {channel: count / total for channel, count in counts.items() if count}


def _drawn(
    sides: Mapping[str | None, Side],
    shares: Mapping[str | None, float],
    more: int,
    arrives_at: float,
    now: float,
    rng: Random,
) -> ExpectedFinish:
    found = []
    for _ in range(DRAWS):
        latest, luck = max(now, arrives_at), rng.gauss(0.0, 1.0)
        for channel, side in sides.items():
            share = shares.get(channel, 0.0)
            count = 0 if not more else max(round(rng.gauss(more * share, (more * share * (1 - share)) ** 0.5)), 0)
            latest = max(latest, side.draw(rng, luck, count, arrives_at))
        found.append(latest)
    found.sort()
    p10, p50, p90 = (min(found[int(DRAWS * share)], MAX_EPOCH_SECONDS) for share in (0.1, 0.5, 0.9))
    return ExpectedFinish(p10, p50, p90)
