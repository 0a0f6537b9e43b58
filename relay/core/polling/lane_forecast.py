"""When the open jobs of one channel end: one after another in a lane, or side by side.

A lane starts a job when its scheduled time has come, the job before it has ended, and the minimum spacing since that
one's start has passed. Most jobs end within the spacing. A draw therefore jumps from one job that takes longer to the
next, which costs as much for a thousand jobs as for those few. Times are in seconds.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from operator import sub
from random import Random
from statistics import fmean, median, pstdev, variance
from typing import NamedTuple, Protocol

from relay.core.planner.learning.job_times import JobTimes

SPACING_SECONDS = 60.0
"""Minimum spacing of a lane if nothing is known of it. Source: the upstream's documentation."""
MAX_BEGUN_IN_LANE = 2
"""If more jobs of a channel run at once, they do not run one after another. Two: one end is not seen yet."""
FEW_HITS = 48
"""Up to this number of long jobs in a lane, each is drawn. More are drawn in blocks."""
BLOCKS = 16
WIDE = 1.4
RARE = 0.1
MANY_HITS = 8
"""Above this number of long jobs their sum is drawn from a normal distribution."""
LEAST_GAPS = 4
MOST_GAPS = 64
TIMES = 64
"""Points in time at which the distribution of the last end of many jobs is computed."""
NEAREST_SECONDS = 0.01
STOOD_FOR = 64
LEAST_ENDS = 20

TimesOf = Callable[[str, str], JobTimes]
"""The times of an action and a channel."""


class OpenJob(NamedTuple):
    """An open job. `status` is None before its first poll. `seen_at`: when its state was last known."""

    status: str | None
    action: str | None
    channel: str | None
    scheduled_at: float | None
    started_at: float | None
    next_attempt_at: float | None
    retry_count: int
    spacing_seconds: float | None
    tracked_at: float
    seen_at: float

    @property
    def retries_at(self) -> float | None:
        """When its next attempt begins, if it waits for one."""
        waits = self.next_attempt_at is not None and (self.status != "running" or self.next_attempt_at > self.seen_at)
        return self.next_attempt_at if waits else None

    @property
    def has_begun(self) -> bool:
        """True if it runs or waits for a retry."""
        return self.started_at is not None or self.status == "running" or self.retries_at is not None

    def times(self, times_of: TimesOf) -> JobTimes:
        """The times of its class."""
        return times_of(self.action or "", self.channel or "")

    def drawn_end(self, times: JobTimes, rng: Random) -> float:
        """When it ends, of a job that has begun."""
        retries_at = self.retries_at
        if retries_at is not None:
            start = retries_at + times.wait(max(self.seen_at - retries_at, 0.0), rng)
            return start + times.end(max(self.retry_count, 1) + 1, 0.0, rng)
        started = self.seen_at if self.started_at is None else self.started_at
        return started + times.end(self.retry_count + 1, max(self.seen_at - started, 0.0), rng)


class Unpredictable(Exception):
    """Nothing is known that would say when these jobs end. The message is a sentence for users."""


class Side(Protocol):
    """Jobs whose ends depend on each other."""

    def draw(self, rng: Random, luck: float, more: int, arrives_at: float) -> float:
        """A possible time of the last end. `more` jobs like these follow, the last one not before `arrives_at`.
        `luck`: by how many standard deviations what has been learned is wrong, for all sides alike."""


def is_lane(jobs: Iterable[OpenJob]) -> bool:
    """True unless so many jobs of a channel run at once that it is no lane."""
    return sum(job.has_begun and job.retries_at is None for job in jobs) <= MAX_BEGUN_IN_LANE


class _Begun:
    """Jobs of a lane that run or wait for a retry, and when the latest start was."""

    def __init__(
        self, own: Sequence[OpenJob], others: Sequence[OpenJob], starts: Sequence[float], times_of: TimesOf
    ) -> None:
        jobs = [*((job, True) for job in own), *((job, False) for job in others)]
        self._begun = [(job, job.times(times_of), is_own) for job, is_own in jobs if job.has_begun]
        started = [job.started_at for job, _, _ in self._begun if job.started_at is not None]
        self.last_start = max([*started, *starts], default=-math.inf)

    def draw(self, rng: Random) -> tuple[float, float]:
        """When all of them have ended, and those of the group."""
        last = own = -math.inf
        for job, times, is_own in self._begun:
            end = job.drawn_end(times, rng)
            last = max(last, end)
            if is_own:
                own = max(own, end)
        return last, own


class Lane:
    """A channel whose jobs have scheduled times. `cut`: number of the group's jobs between `first` and `last`, which
    were not read."""

    def __init__(
        self,
        first: Sequence[OpenJob],
        last: Sequence[OpenJob],
        cut: int,
        others: Sequence[OpenJob],
        starts: Sequence[float],
        times_of: TimesOf,
        now: float,
    ) -> None:
        own = (*first, *last)
        self._now = now
        self._begun = _Begun(own, others, starts, times_of)
        self._usual_times = own[-1].times(times_of)
        due = [(now if job.scheduled_at is None else job.scheduled_at, job) for job in own if not job.has_begun]
        ends_at = max((at for at, _ in due), default=-math.inf)
        before = [(job.scheduled_at or now, job) for job in others if not job.has_begun]
        placed = [*((at, True, job) for at, job in due), *((at, False, job) for at, job in before if at <= ends_at)]
        placed.sort(key=lambda each: each[0])
        self._jobs = [job for _, _, job in placed]
        self._times = [job.times(times_of) for job in self._jobs]
        self._due = [at for at, _, _ in placed]
        self._own = [place for place, (_, is_own, _) in enumerate(placed) if is_own]
        self._place_jobs(first, cut)
        self._durations = _mixed(self._times or [self._usual_times])
        job_count = fmean(times.job_count for times in self._times or [self._usual_times])
        self._overrun = _Overrun(self._durations, self._spacing, job_count)
        self._long = bisect_left(self._durations, self._shortest)
        if self._cut_at is not None:
            self._cut_overrun = _Overrun(self._durations, self._spacings[self._cut_at], job_count)

    def _place_jobs(self, first: Sequence[OpenJob], cut: int) -> None:
        """The spacing before each job, the sum of these, and how late the lane is at least by their scheduled times."""
        gaps = [after - before for before, after in pairwise(self._due)]
        own_gaps = [self._due[after] - self._due[before] for before, after in pairwise(self._own)]
        self._cut_at: int | None = None
        self._cut = 0
        widest = 0.0
        if cut and gaps:
            read_to = max(job.scheduled_at or 0.0 for job in first)
            self._cut_at = min(max(bisect_right(self._due, read_to), 1), len(gaps))
            widest = gaps[self._cut_at - 1]
            own_gaps.remove(max(own_gaps))
        usual = [gap for place, gap in enumerate(gaps) if gap > 0 and place + 1 != self._cut_at]
        self._gap = fmean(usual) if usual else SPACING_SECONDS
        self._own_gap = fmean(own_gaps) if own_gaps else self._gap
        self._own_spread = pstdev(own_gaps) if own_gaps else self._gap / 2
        default = min([SPACING_SECONDS, *usual])
        self._spacings = [default if job.spacing_seconds is None else job.spacing_seconds for job in self._jobs]
        widest_usual = WIDE * median(usual) if usual else default  # wider ones had a job between, since cancelled
        for place, gap in enumerate(gaps, 1):
            job = self._jobs[place]
            if self._due[place] > job.tracked_at:  # the lane placed it there
                spacing = job.spacing_seconds
                self._spacings[place] = min(gap, widest_usual if spacing is None else spacing)
        if self._cut_at is not None:  # jobs of others may come between
            self._cut = max(cut, round(widest / self._gap) - 1)
            self._spacings[self._cut_at] = min(fmean(self._spacings[: self._cut_at]), widest / (self._cut + 1))
        self._spacing = fmean(self._spacings) if self._spacings else default
        self._shortest = min(self._spacings, default=default)
        waits = max(self._due[-1] - self._now, 0.0) / 2 if self._due else 0.0
        self._cancelled = fmean(times.cancelled(waits) for times in self._times or [self._usual_times])
        steps = list(self._spacings)
        if self._cut_at is not None:
            steps[self._cut_at] *= self._cut + 1
        self._offsets = list(accumulate(steps))
        self._floors: list[float] = list(accumulate(map(sub, self._due, self._offsets), max))

    def draw(self, rng: Random, luck: float, more: int, arrives_at: float) -> float:
        ended, own_ended = self._begun.draw(rng)
        doubt = self._overrun.doubt(luck)
        last = self._last_own(rng)
        if last is None:
            return max(
                self._follow(rng, max(ended, self._now), more, arrives_at, doubt) if more else self._now, own_ended
            )
        start = self._drawn_start(rng, last, ended, doubt)
        if more:
            return self._follow(rng, start, more, arrives_at, doubt)
        return max(start + self._times[last].end(1, 0.0, rng), own_ended)

    def _last_own(self, rng: Random) -> int | None:
        """The group's last job that is not cancelled while it waits."""
        for place in reversed(self._own):
            waits = max(self._due[place] - self._now, 0.0)
            if rng.random() >= self._times[place].cancelled(waits):
                return place
        return None

    def _drawn_start(self, rng: Random, last: int, ended: float, doubt: float) -> float:
        """When a job starts. The lane is `late` by the time that it adds to the sum of the spacings."""
        offset, times, head = self._offsets[0], self._times[0], self._jobs[0]
        start = max(self._begun.last_start + offset, ended, self._due[0] + times.wait(0.0, rng))
        if start < head.seen_at:
            start = max(self._begun.last_start + offset, ended, self._due[0])
            start += times.wait(head.seen_at - start, rng)
        if last == 0:
            return start
        late, place = start - offset, 0
        if self._cut_at is not None and self._cut_at <= last:
            late = self._passed(rng, late, 0, self._cut_at - 1, doubt)
            late += self._cut_overrun.draw(self._cut + 1, doubt, rng)
            late -= self._cancelled * self._cut * self._spacings[self._cut_at]
            place = self._cut_at
        late = self._passed(rng, late, place, last, doubt)
        return max(late + self._offsets[last], self._due[last] + self._times[last].wait(0.0, rng))

    def _passed(self, rng: Random, late: float, place: int, last: int, doubt: float) -> float:
        """How late the lane is at the start of job `last`, if it was `late` at the start of job `place`."""
        durations, long, floors, gone = self._durations, self._long, self._floors, self._cancelled
        long_count = len(durations) - long
        share = min(long_count / len(durations) * doubt + gone, 1.0)
        if share * (last - place) > FEW_HITS:
            step = -(-(last - place) // BLOCKS)
            for first in range(place, last, step):
                count = min(step, last - first)
                late = max(late, floors[first]) + self._overrun.draw(count, doubt, rng)
                late -= gone * count * self._spacing
        elif share > 0:
            log_other = math.log1p(-share) if share < 1 else -math.inf
            while (place := place + int(math.log(1.0 - rng.random()) / log_other)) < last:
                if rng.random() * share < gone:  # it is cancelled, and leaves its place to the next one
                    late = max(late - self._spacings[place], floors[place])
                else:
                    overrun = durations[long + int(rng.random() * long_count)] - self._spacings[place + 1]
                    late = max(late, floors[place]) + max(overrun, 0.0)
                place += 1
        return max(late, self._floors[last])

    def _follow(self, rng: Random, start: float, more: int, arrives_at: float, doubt: float) -> float:
        """The end of the last one of `more` jobs that follow one that starts then."""
        passed = max(more * self._own_gap + math.sqrt(more) * self._own_spread * rng.gauss(0.0, 1.0), 0.0)
        start += passed + self._overrun.draw(round(passed / self._gap), doubt, rng)
        return max(start, arrives_at) + self._usual_times.end(1, 0.0, rng)


def _mixed(jobs: Sequence[JobTimes]) -> Sequence[float]:
    """Durations of jobs of several classes, in proportion to their numbers."""
    counts = Counter(jobs)
    if len(counts) == 1:
        return jobs[0].durations
    found: list[float] = []
    for times, count in counts.items():
        step = len(jobs) / count
        found += [times.durations[int(place * step)] for place in range(int(len(times.durations) / step))]
    return sorted(found)


class _Overrun:
    """By how much jobs together exceed their spacing, of those that do."""

    def __init__(self, durations: Sequence[float], spacing: float, job_count: float) -> None:
        """`job_count`: number of jobs that the durations are known from."""
        over = [duration - spacing for duration in durations if duration > spacing]
        self._over = over
        self._share = len(over) / len(durations)
        self._mean = fmean(over) if over else 0.0
        self._square = fmean(each * each for each in over) if over else 0.0
        self._spread = (1 - self._share) / math.sqrt(max(self._share * job_count, 1.0))

    def doubt(self, luck: float) -> float:
        """A factor of the share of jobs that exceed their spacing: it is known from few."""
        return math.exp(self._spread * (luck - self._spread / 2))

    def draw(self, count: int, doubt: float, rng: Random) -> float:
        """The sum over so many jobs: from a normal distribution if many of them take longer than their spacing.
        `doubt`: factor of the share that does."""
        share = min(self._share * doubt, 1.0)
        hits = share * count
        if hits > MANY_HITS:
            variance = max(self._square - share * self._mean * self._mean, 0.0) * hits
            return max(self._mean * hits + math.sqrt(variance) * rng.gauss(0.0, 1.0), 0.0)
        found = 0
        if share > RARE:
            found = sum(rng.random() < share for _ in range(count))
        else:
            while (hits := hits - rng.expovariate(1.0)) > 0:  # a Poisson distribution
                found += 1
        return sum(rng.choices(self._over, k=found)) if found else 0.0


class Starts:
    """A lane without scheduled times: its jobs start as far apart as its last ones did."""

    def __init__(
        self,
        own: Sequence[OpenJob],
        cut: int,
        others: Sequence[OpenJob],
        starts: Sequence[float],
        times_of: TimesOf,
    ) -> None:
        """Raises Unpredictable if too few starts have been seen."""
        self._begun = _Begun(own, others, starts, times_of)
        self._times = own[-1].times(times_of)
        seen = sorted({*starts, *(job.started_at for job in (*own, *others) if job.started_at is not None)})
        gaps = [after - before for before, after in pairwise(seen[-MOST_GAPS - 1 :])]
        if len(gaps) < LEAST_GAPS:
            raise Unpredictable(
                f"Jobs of the channel {own[0].channel} have no scheduled times, and only {len(seen)} have started."
            )
        usual = 2 * median(gaps)
        self._gaps = [gap for gap in gaps if gap <= usual]  # longer ones are those behind jobs that took long
        self._overrun = _Overrun(self._times.durations, fmean(self._gaps), self._times.job_count)
        waiting = [job for job in own if not job.has_begun]
        last = max(job.tracked_at for job in waiting)
        self._ahead = len(waiting) + cut + sum(not job.has_begun and job.tracked_at <= last for job in others)
        self._seen_at = min(waiting, key=lambda job: job.tracked_at).seen_at

    def draw(self, rng: Random, luck: float, more: int, arrives_at: float) -> float:
        ended, own_ended = self._begun.draw(rng)
        count = self._ahead + more - 1
        start = max(ended, self._begun.last_start + rng.choice(self._gaps))
        if start < self._seen_at:
            start += self._times.wait(self._seen_at - start, rng)
        # Drawn anew from the few gaps that were seen, so that the spread includes how little is known of the mean.
        gaps = rng.choices(self._gaps, k=len(self._gaps))
        spread = math.sqrt(variance(gaps) * count) * rng.gauss(0.0, 1.0)
        start += max(count * fmean(gaps) + spread, 0.0) + self._overrun.draw(count, self._overrun.doubt(luck), rng)
        return max(start, arrives_at, own_ended) + self._times.end(1, 0.0, rng)


class SideBySide:
    """Jobs in no lane. If many of them wait to start, they end at the rate at which the last ones did."""

    def __init__(self, jobs: Sequence[OpenJob], cut: int, ends: Sequence[float], times_of: TimesOf, now: float) -> None:
        self._now = now
        self._times = jobs[-1].times(times_of)
        waiting = [job for job in jobs if not job.has_begun]
        self._queued, self._rate = len(waiting) + cut, 0.0
        if self._queued >= LEAST_ENDS and len(ends) >= LEAST_ENDS and now > ends[0]:
            self._rate = len(ends) / (now - ends[0])
            self._rate_spread = 1 / math.sqrt(len(ends))
            jobs = [job for job in jobs if job.has_begun]
        self._times_left, self._shares = _last_of([(job, job.times(times_of)) for job in jobs], now)

    def draw(self, rng: Random, luck: float, more: int, arrives_at: float) -> float:
        place = bisect_left(self._shares, rng.random())
        latest = self._now + (self._times_left[min(place, TIMES - 1)] if self._shares else 0.0)
        if self._rate:
            rate = self._rate * math.exp(self._rate_spread * rng.gauss(0.0, 1.0))
            count = self._queued + more
            needed = count + math.sqrt(count) * rng.gauss(0.0, 1.0)
            latest = max(latest, self._now + max(needed, 0.0) / rate)
        if more:
            latest = max(latest, arrives_at + self._times.end(1, 0.0, rng))
        return latest


def _last_of(jobs: Sequence[tuple[OpenJob, JobTimes]], now: float) -> tuple[list[float], list[float]]:
    """Times from now, and the probability that all jobs have ended by then. Of many jobs, every so many stands for as
    many like it."""
    if not jobs:
        return [], []
    ends = sorted((_EndOf(job, times, now) for job, times in jobs), key=lambda end: end.starts_at)
    step = -(-len(ends) // STOOD_FOR)
    weight = len(ends) / len(ends[::step])
    ends = ends[::step]
    farthest = max(end.farthest() for end in ends)
    ratio = (farthest / NEAREST_SECONDS) ** (1 / (TIMES - 1))
    points = [NEAREST_SECONDS * ratio**number for number in range(TIMES)]
    return points, [math.prod(end.share(now + after) for end in ends) ** weight for after in points]


class _EndOf:
    """The distribution of a job's end, in no lane."""

    def __init__(self, job: OpenJob, times: JobTimes, now: float) -> None:
        self._durations = times.durations
        retries_at = job.retries_at
        if retries_at is not None:
            self.starts_at = max(retries_at, job.seen_at)
            self._age = 0.0
        elif job.has_begun:
            self.starts_at = job.seen_at if job.started_at is None else job.started_at
            self._age = max(job.seen_at - self.starts_at, 0.0)
        else:
            self.starts_at = max(job.scheduled_at or job.seen_at, job.seen_at)
            self._age = 0.0
        self._passed = bisect_right(self._durations, self._age)

    def farthest(self) -> float:
        """Time after which it has almost certainly ended."""
        return max(self._durations[-1], self._age, 1.0) * 1e4

    def share(self, at: float) -> float:
        """Probability that it has ended by then."""
        age = at - self.starts_at
        left = len(self._durations) - self._passed
        if age <= self._age:
            return 0.0
        longest = self._durations[-1]
        if left == 0:  # none took as long: as likely to take as long again
            return 1 - max(self._age, 1e-9) / age
        ended = bisect_right(self._durations, age) - self._passed
        tail = min(longest / age, 1.0) / (len(self._durations) + 1)
        return min((ended + 0.5) / (left + 0.5), 1 - tail) if ended < left else 1 - tail
