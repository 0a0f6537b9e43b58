"""Groups of jobs: a campaign, an import, a customer. Pure.

A group lives in rounds. A round begins with the first job that joins after the last round has finished, and counts the
jobs that joined in it, each in one state. `fold()` applies what one transaction changes: its jobs first, then whether
the round has finished. Stored by `relay/store/jobs/groups.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import NamedTuple

from relay.core.jobs.job import Job
from relay.core.values import value_class

OPEN_STATES = ("queued", "scheduled", "running", "retrying")
ENDED_STATES = ("succeeded", "failed", "cancelled", "not_found", "untracked")
STATES = (*OPEN_STATES, *ENDED_STATES)
"""A job is in one of these: its outcome once it is closed, its phase before."""
MAX_CODES = 100
"""Distinct error codes counted of a round. Failures with further codes count as OTHER."""
OTHER = "other"
GAPS = 3.0
"""A round without a stated size is over after this many times the longest gap between two arrivals."""
MAX_EXPECTED = 1_000_000_000
SPANS = 24
"""Spans of time in a chart of a round's ends."""
_MINUTE, _HOUR, _DAY = 60.0, 3_600.0, 86_400.0
_SPAN_SECONDS = (
    *(10.0, 20.0, 30.0),
    *(count * _MINUTE for count in (1, 2, 3, 5, 10, 15, 20, 30)),
    *(count * _HOUR for count in (1, 1.5, 2, 3, 4, 6, 8, 12)),
    *(count * _DAY for count in (1, 2, 3, 7, 14, 30)),
)


class Place(NamedTuple):
    """The state that a group counts a job in. `code`: of a failed job, None if it has none."""

    state: str
    skipped: bool = False
    code: str | None = None

    @property
    def open(self) -> bool:
        """True while the job has not ended."""
        return self.state in OPEN_STATES


class JobChange(NamedTuple):
    """One job before and after a write.

    before  None: it was not in the group
    after   None: it is erased
    round   the round that counts it before; None with `before` None
    """

    job_uid: str
    at: float
    before: Place | None
    after: Place | None
    round: int | None = None

    @property
    def arrives(self) -> bool:
        """True if the job joins, or is tracked again."""
        return self.after is not None and (self.before is None or (self.after.open and not self.before.open))


class Closing(NamedTuple):
    """A statement that no more jobs come. `expected`: how many the round then has; None: those that are there."""

    at: float
    expected: int | None = None


@value_class(frozen=True, slots=True, kw_only=True)
class JobGroup:
    """A group in its current round. Times are epoch seconds.

    counts           jobs by state, without zeros
    skipped          succeeded jobs that the upstream skipped; part of `counts`
    failures         failed jobs by error code, at most MAX_CODES of them and OTHER
    expected         stated number of jobs
    closed_at        since when no more jobs come; None: more may come
    first_at         when its first job joined, `last_at`: its latest
    max_gap_seconds  longest time between two arrivals
    finished_at      when the round finished
    due_at           when it finishes unless a job changes; None: not before one does
    """

    id: str
    source: str
    account: str
    name: str
    round: int = 1
    counts: Mapping[str, int] = field(default_factory=dict)
    skipped: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    expected: int | None = None
    closed_at: float | None = None
    first_at: float
    last_at: float
    max_gap_seconds: float = 0.0
    finished_at: float | None = None
    due_at: float | None = None

    @property
    def arrived(self) -> int:
        """Jobs of the round."""
        return sum(self.counts.values())

    @property
    def open_jobs(self) -> int:
        """Jobs of the round that have not ended."""
        return sum(self.counts.get(state, 0) for state in OPEN_STATES)

    @property
    def missing(self) -> int:
        """Jobs that were expected and had not come when the round finished."""
        return 0 if self.finished_at is None or self.expected is None else max(0, self.expected - self.arrived)

    @property
    def all_counts(self) -> dict[str, int]:
        """Jobs by state, zeros included."""
        return {state: self.counts.get(state, 0) for state in STATES}

    @property
    def most_failures(self) -> list[tuple[str, int]]:
        """Error codes with the number of failed jobs, the largest number first."""
        found = [(code, count) for code, count in self.failures.items() if count]
        return sorted(found, key=lambda one: (-one[1], one[0]))


class Folded(NamedTuple):
    """A group after a transaction.

    joined    the round that counts each job that arrived
    finished  True if this transaction finishes the round
    """

    group: JobGroup
    joined: Mapping[str, int]
    finished: bool


def place_of(outcome: str | None, phase: str | None, result_status: str | None, error_code: str | None) -> Place:
    """The place of a job. A job that was not polled yet, or has an unknown status, is queued."""
    if outcome is None:
        return Place(phase if phase in OPEN_STATES else "queued")
    skipped = outcome == "succeeded" and result_status == "skipped"
    return Place(outcome, skipped, error_code if outcome == "failed" else None)


def place_of_job(job: Job) -> Place:
    """The place of a stored job."""
    return place_of(job.outcome, job.progress.phase, job.result_status, job.error_code)


def fold(
    group: JobGroup,
    changes: Sequence[JobChange],
    closings: Sequence[Closing] = (),
    *,
    now: float,
    settle_seconds: float,
) -> Folded:
    """Applies the changes of jobs in order, then the closings, then decides whether the round has finished."""
    joined: dict[str, int] = {}
    for change in changes:
        counted = joined.get(change.job_uid, change.round)
        if change.arrives:
            group = _with_arrival(group, change.at)
            joined[change.job_uid] = group.round
        group = _moved(group, change, counted)
    for closing in closings:
        if group.finished_at is None:
            expected = group.expected if closing.expected is None else closing.expected
            closed_at = closing.at if group.closed_at is None else group.closed_at
            group = replace(group, expected=expected, closed_at=closed_at)
    if group.finished_at is not None:
        return Folded(group, joined, False)
    due_at = _due_at(group, now, settle_seconds)
    if due_at is None or due_at > now:
        return Folded(replace(group, due_at=due_at), joined, False)
    return Folded(replace(group, due_at=None, finished_at=now), joined, True)


def _with_arrival(group: JobGroup, at: float) -> JobGroup:
    """The group after a job has joined, in its next round if the last one has finished."""
    if group.finished_at is not None:
        return JobGroup(
            id=group.id,
            source=group.source,
            account=group.account,
            name=group.name,
            round=group.round + 1,
            first_at=at,
            last_at=at,
        )
    gap = max(group.max_gap_seconds, at - group.last_at)
    return replace(group, last_at=max(group.last_at, at), max_gap_seconds=gap)


def _moved(group: JobGroup, change: JobChange, counted: int | None) -> JobGroup:
    """The group with one job counted again. `counted`: the round that counts it before the change."""
    counts, failures, skipped = dict(group.counts), dict(group.failures), group.skipped
    expected = group.expected
    before = change.before if counted == group.round else None
    if before is not None:
        counts[before.state] = counts.get(before.state, 0) - 1
        skipped -= before.skipped
        if before.code is not None:
            code = _counted_as(before.code, failures)
            failures[code] = failures.get(code, 0) - 1
        if change.after is None and expected:
            expected -= 1  # an erased job is not missing; more may have come than were expected
    after = change.after if change.arrives or counted == group.round else None
    if after is not None:
        counts[after.state] = counts.get(after.state, 0) + 1
        skipped += after.skipped
        if after.code is not None:
            code = _counted_as(after.code, failures)
            failures[code] = failures.get(code, 0) + 1
    counts = {state: count for state, count in counts.items() if count}
    return replace(group, counts=counts, failures=failures, skipped=skipped, expected=expected)


def _counted_as(code: str, failures: Mapping[str, int]) -> str:
    """The key that counts an error code. A key stays for the whole round, so that a code never changes its key."""
    return code if code in failures or len(failures) < MAX_CODES else OTHER


def _due_at(group: JobGroup, now: float, settle_seconds: float) -> float | None:
    """The time at which the round finishes unless a job changes; None while a job is open."""
    if group.open_jobs:
        return None
    if group.closed_at is not None and (group.expected is None or group.arrived >= group.expected):
        return now
    quiet_seconds = max(settle_seconds, GAPS * group.max_gap_seconds)
    return max(group.last_at, group.closed_at or 0.0) + quiet_seconds


def spans_until(until: float, since: float) -> list[tuple[float, float]]:
    """Equal spans of time, each by its beginning and its end: the last one has `until`. They reach back to `since`,
    unless that is two years before, and may begin earlier. Epoch seconds."""
    seconds = next((one for one in _SPAN_SECONDS if until - since <= one * (SPANS - 1)), _SPAN_SECONDS[-1])
    last = until // seconds
    return [(number * seconds, (number + 1) * seconds) for number in (last - back for back in reversed(range(SPANS)))]
